"""Methods whose masks another program has made: keys, names, captions (below 1 s)."""

from typing import Any

import pytest
from configurations import paper_configuration

from pd_ddpm.config import exhibits, methods, resolve
from pd_ddpm.config.errors import ConfigError
from pd_ddpm.config.inputs import mask_tables, sampling_inputs, training_inputs
from pd_ddpm.config.run import Run

NNUNET = {"label": "nnU-Net", "segmenter": "files", "folder": "nnunet/split-{split}", "pattern": "{case}.nii.gz"}


def configured(**changes: Any) -> dict[str, Any]:
    """Return the paper's configuration with a row nnU-Net in Table 1; keys set to None are removed."""
    entry = {key: value for key, value in (NNUNET | changes).items() if value is not None}
    rows = ["unet", "attunet", "nnunet", "ddpm", "tdpm", "es-ddpm", "pd-ddpm"]
    return paper_configuration(methods={"nnunet": entry}, exhibits={"table1": rows})


def test_method_from_files_has_no_settings_of_sampling() -> None:
    config = configured()
    assert resolve.method(config, "nnunet") == NNUNET
    assert methods.pool(config, "nnunet") == 1
    assert methods.file_settings(config, "nnunet") == {key: NNUNET[key] for key in ("folder", "pattern")}
    labelled = configured(lesion_label=3, unseen=True)
    assert methods.sampling_settings(labelled, "nnunet") == {"segmenter": "files"}
    assert methods.file_settings(labelled, "nnunet")["lesion_label"] == 3


def test_chain_starts_from_files_by_its_name() -> None:
    config = configured()
    name = resolve.canonical(config, "pd-ddpm@presegmentation=nnunet")
    files = sampling_inputs(config, Run("wmh", name, 2, 0), "results")
    assert files["presegmentation"] == "results/wmh/predictions/nnunet/split-2_seed-0/predictions.csv"
    assert methods.methods_before(config, name) == ["nnunet"]
    assert "nnunet" in exhibits.planned_methods(config)
    assert exhibits.network_users(config, ["nnunet", "unet"]) == {"unet": "U-Net"}
    assert methods.sampled_methods(config, "nnunet") == []


def test_chains_from_each_member_are_refused_with_the_remedy_that_fits() -> None:
    with pytest.raises(ConfigError, match=r"which has 1\. Set `presegmentation_members: mean`"):
        sampling_inputs(configured(), Run("wmh", "es-ddpm@presegmentation=nnunet", 0, 0), "results")
    name = "es-ddpm@presegmentation=nnunet@presegmentation_members=mean"
    assert "presegmentation" in sampling_inputs(configured(), Run("wmh", name, 0, 0), "results")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"pattern": None}, r"`methods.nnunet.pattern`: it is missing. Set `folder` and `pattern`, or `table`"),
        ({"pattern": "mask.nii.gz"}, r"'mask.nii.gz' is the same file for all cases. Write \{case\}"),
        ({"pattern": "{cas}.nii.gz"}, r"names \{cas\}. Use only \{case\}, \{dataset\}, \{split\}, \{seed\}"),
        ({"pattern": "{case.nii.gz"}, r"has unpaired braces"),
        ({"folder": "{case}"}, r"`methods.nnunet.folder`: '\{case\}' names \{case\}"),
        ({"table": "masks.csv"}, r"`methods.nnunet.table`: it cannot be combined with `folder` or `pattern`"),
        ({"network": "unet"}, r"`methods.nnunet.network`: unknown key"),
        ({"lesion_label": 0}, r"`methods.nnunet.lesion_label`: 0 is out of range"),
    ],
)
def test_invalid_keys_are_named_with_a_remedy(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        configured(**changes)


def test_paths_begin_with_the_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/jane")
    config = configured(folder="~/nnunet")
    assert methods.file_settings(config, "nnunet")["folder"] == "/home/jane/nnunet"
    config = configured(folder=None, pattern=None, table="~/masks-{dataset}-{split}.csv")
    assert mask_tables(config, Run("wmh", "nnunet", 3, 0)) == ["/home/jane/masks-wmh-3.csv"]


def test_captions_say_that_another_program_may_have_seen_the_test_cases() -> None:
    seen = "nnU-Net: its files are the same for all splits, so their program may have been trained on test cases."
    unsplit = configured(folder="nnunet")
    assert methods.seen_doubt(unsplit, "nnunet") == seen
    assert seen in exhibits.caption_note(unsplit, "wmh")
    for config in (configured(), configured(folder="nnunet", unseen=True)):
        assert methods.seen_doubt(config, "nnunet") is None
        assert "may have been trained" not in exhibits.caption_note(config, "wmh")
    cost = "The masks of nnU-Net are files, whose cost is not known: that of methods that start from them is without it."
    assert cost in exhibits.caption_note(configured(), "wmh")
    assert "not known" not in exhibits.caption_note(paper_configuration(), "wmh")


def test_denoiser_is_validated_from_files_without_a_network() -> None:
    changes = {"methods": {"nnunet": NNUNET}, "networks": {"denoiser": {"validation_presegmenter": "nnunet"}}}
    config = paper_configuration(**changes)
    files = training_inputs(config, Run("wmh", "denoiser", 1, 0), "results")
    assert files == {
        "validation_masks": [f"results/wmh/masks/nnunet/split-1_seed-0_validation.{end}" for end in ("csv", "json")]
    }
    assert methods.networks_before(config, "denoiser") == []
    changes["networks"]["denoiser"]["validation_presegmenter"] = "nnunett"
    with pytest.raises(ConfigError, match=r"'nnunett' is not one of networks. Did you mean 'nnunet'\?"):
        paper_configuration(**changes)


def test_leak_table_needs_a_presegmenter_with_a_network() -> None:
    leak = {
        "denoisers": ["denoiser"],
        "strategies": [],
        "strategies_t_start": [300],
        "presegmenter": "nnunet",
        "from_presegmentation": "pd-ddpm",
        "t_start": [300],
        "empty_t_start": 300,
        "from_noise": "ddpm",
        "means": [],
        "further": [],
    }
    with pytest.raises(ConfigError, match="'nnunet' has no network whose training could be compared"):
        paper_configuration(methods={"nnunet": NNUNET}, exhibits={"leak": leak})
