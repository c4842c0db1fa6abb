"""Configurations of further studies: what lies over what, and messages that name the user's keys."""

import pytest
import yaml
from workflow_runs import ROOT

from pd_ddpm.config import load
from pd_ddpm.config.errors import ConfigError
from pd_ddpm.config.exhibits import caption_note
from pd_ddpm.config.studies import StudyFiles, by_study, check_studies, split_rule_name, study_config
from pd_ddpm.config.study_names import FURTHER
from pd_ddpm.config.validate import validate
from pd_ddpm.planning.jobs import Job

FILES = StudyFiles(
    defaults={
        "study": "pd_ddpm",
        "scale": "demo",
        "results": "results",
        "device": "auto",
        "dataset": "wmh",
        "datasets": {"wmh": {"folder": "a"}},
        "training": {"steps": 1, "batch": 1, "crop": [1, 1]},
    },
    study={"dataset": "brats", "datasets": {"brats": {"folder": "b"}}, "training": {"steps": 2, "batch": 2}},
    demo={"dataset": "volumes", "datasets": {"volumes": {"folder": "c"}}, "training": {"steps": 3}, "device": "cpu"},
)


@pytest.mark.parametrize("study", FURTHER)
@pytest.mark.parametrize("scale", ["demo", "paper"])
def test_shipped_studies_are_valid_and_replace_the_datasets(study: str, scale: str) -> None:
    config = validate(load.read_study(study, {"scale": scale}))
    first = validate(load.read(None, {"scale": scale}))
    assert (config["study"], config["scale"], config["results"]) == (study, scale, f"results/{study}")
    assert not config["datasets"].keys() & first["datasets"].keys()
    check_studies({"pd_ddpm": first, study: config})


def test_captions_name_tdpm_only_where_it_is_shown() -> None:
    first, study = validate(load.read(None, {})), validate(load.read_study("patchddm", {}))
    assert caption_note(first, "phantom").startswith("Demo scale: small networks and few steps, too few for TDPM")
    assert caption_note(study, "volumes").startswith("Demo scale: small networks and few steps. The scans are simulated")


def test_study_lies_over_the_defaults_and_its_demo_over_the_study_at_demo_scale() -> None:
    demo, paper = (study_config("patchddm", FILES, {"scale": scale}) for scale in ("demo", "paper"))
    assert demo["training"] == {"steps": 3, "batch": 2, "crop": [1, 1]}
    assert paper["training"] == {"steps": 2, "batch": 2, "crop": [1, 1]}
    assert demo["datasets"] == {"brats": {"folder": "b"}, "volumes": {"folder": "c"}}
    assert paper["datasets"] == {"brats": {"folder": "b"}}
    assert (demo["device"], paper["device"]) == ("cpu", "auto")


def test_users_keys_about_the_machine_reach_a_study_and_others_only_below_its_name() -> None:
    user = {"device": "cuda", "dataset": "own", "datasets": {"own": {}}, "training": {"steps": 8}, "results": "results-2"}
    config = study_config("patchddm", FILES, user)
    assert (config["device"], config["dataset"], config["results"]) == ("cuda", "volumes", "results-2/patchddm")
    assert config["training"]["steps"] == 3
    assert "own" not in config["datasets"]
    below = study_config("patchddm", FILES, user | {"patchddm": {"training": {"steps": 9}, "device": "cpu"}})
    assert (below["device"], below["training"]) == ("cpu", {"steps": 9, "batch": 2, "crop": [1, 1]})


def test_first_study_has_no_keys_of_another() -> None:
    assert load.read(None, {"patchddm": {"trainin": 3}}) == load.read(None, {})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (3, "`patchddm`: 3 is not a section with keys. Set keys of the study below it."),
        ({"results": "results-2"}, "`patchddm.results`: it follows from `results`. Remove it."),
        ({"study": "pd_ddpm"}, "`patchddm.study`: it follows from the name of the study. Remove it."),
    ],
)
def test_study_config_rejects_keys_that_are_no_settings(keys: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        study_config("patchddm", FILES, {"patchddm": keys})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"training": {"stepz": 3}}, "`patchddm.training.stepz`: unknown key. Did you mean 'steps'?"),
        ({"networks": {"patchddm": {"T": "x"}}}, "`patchddm.networks.patchddm.T`: 'x' is not a whole number"),
        ({"dataset": "wmh"}, "`patchddm.dataset`: 'wmh' is not one of datasets"),
    ],
)
def test_validate_names_the_key_below_the_study(keys: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        validate(load.read_study("patchddm", {"patchddm": keys}))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (["brats"], ["brats"], "`datasets.brats`: the study patchddm has a dataset of this name"),
        (["patchddm"], ["brats"], "`datasets.patchddm`: the name is taken, and both would write the same folder of results"),
        (["wmh"], ["logs"], "`patchddm.datasets.logs`: the name is taken"),
    ],
)
def test_check_studies_rejects_studies_that_share_a_folder(first: list[str], second: list[str], message: str) -> None:
    configs = {
        "pd_ddpm": {"study": "pd_ddpm", "datasets": dict.fromkeys(first)},
        "patchddm": {"study": "patchddm", "datasets": dict.fromkeys(second)},
    }
    with pytest.raises(ConfigError) as error:
        check_studies(configs)
    assert message in str(error.value)


def test_check_studies_rejects_another_name_of_the_first_study() -> None:
    with pytest.raises(ConfigError, match="`study`: the workflow sets it"):
        check_studies({"pd_ddpm": {"study": "patchddm", "datasets": {}}})


def test_rules_of_a_study_have_its_name_before_theirs() -> None:
    assert split_rule_name("patchddm_sample_shard") == ("patchddm", "sample_shard")
    assert split_rule_name("sample_shard") == ("pd_ddpm", "sample_shard")
    jobs = [Job("train", {"network": "a"}, []), Job("patchddm_train", {"network": "b"}, ["x"]), Job("all", {}, [])]
    expected = {"pd_ddpm": [jobs[0], jobs[2]], "patchddm": [Job("train", {"network": "b"}, ["x"])]}
    assert by_study(jobs) == expected


def test_cluster_profile_has_the_rules_with_gpus_of_every_study() -> None:
    profile = yaml.safe_load((ROOT / "slurm" / "config.yaml").read_text(encoding="utf-8"))["set-resources"]
    first = {rule for rule in profile if split_rule_name(rule)[0] == "pd_ddpm"}
    assert {"train", "sample", "sample_shard"} < first
    assert profile.keys() == first | {f"{study}_{rule}" for study in FURTHER for rule in first}
    assert all(value == profile["train"] for value in profile.values())
