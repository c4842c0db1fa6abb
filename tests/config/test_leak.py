"""Rows of the leak table, and the methods, networks and files that they need (below 1 s)."""

from typing import Any

import pytest
import yaml
from workflow_runs import ROOT

from pd_ddpm.config import exhibits, leak, load, methods
from pd_ddpm.config.errors import ConfigError
from pd_ddpm.config.inputs import cost_inputs, leak_inputs, leak_probe_inputs
from pd_ddpm.config.resolve import Config, network, overlay
from pd_ddpm.config.validate import validate

FILE = ROOT / "config" / "leak.yaml"


def configured(**changes: Any) -> Config:
    return validate(load.read(FILE, changes))


@pytest.fixture(scope="module")
def config() -> Config:
    return configured()


def leak_section(**changes: Any) -> dict[str, Any]:
    return {"exhibits": {"leak": changes}}


def test_shipped_configuration_has_five_shares_with_and_without_skip_on_thirty_cases(config: Config) -> None:
    denoisers = [network(config, name) for name in config["exhibits"]["leak"]["denoisers"]]
    presegmented = [settings for settings in denoisers if settings["presegmented_share"]]
    shares = {(leak.recycled_share(settings), settings["presegmented_share"]) for settings in presegmented}
    assert shares == {(0.0, 0.5), (0.0, 1.0), (0.5, 0.5)}
    random = [settings for settings in denoisers if settings["raters"] == "random"]
    assert [(leak.recycled_share(settings), settings["likelihood_skip"]) for settings in random] == [(0.0, True), (0.75, True)]
    denoisers = [settings for settings in denoisers if settings not in (*presegmented, *random)]
    pairs = {(leak.recycled_share(settings), settings["likelihood_skip"]) for settings in denoisers}
    assert pairs == {(share, skip) for share in (0.0, 0.5, 0.75, 0.9, 1.0) for skip in (True, False)}
    varied = {"strategy", "strategy_share", "likelihood_skip"}
    assert len({repr({key: settings[key] for key in settings.keys() - varied}) for settings in denoisers}) == 1
    dataset = config["datasets"][config["dataset"]]
    assert dataset["folder"] != config["datasets"]["phantom"]["folder"]
    assert dataset["simulate"]["seed"] != config["datasets"]["phantom"]["simulate"]["seed"]
    assert 3 * dataset["simulate"]["cases_per_site"] >= 30
    assert (config["scale"], config["splits"], config["seeds"]) == ("demo", list(range(config["folds"]["count"])), [0, 1, 2])
    demo = load.read(None, {"scale": "demo"})
    assert config["training"] == validate(demo)["training"]  # config/demo.yaml lies below


def test_shipped_strategies_differ_from_share_0_in_their_strategy_only(config: Config) -> None:
    names = config["exhibits"]["leak"]["strategies"]
    settings = {name: network(config, name) for name in names}
    kinds = {(part["strategy"], part["strategy_share"], part["likelihood_skip"]) for part in settings.values()}
    shares = {"self_conditioning_same": 0.5, "self_conditioning_next": 0.5, "recycling_next": 1.0, "recycling_last": 1.0}
    assert kinds == {(strategy, share, skip) for strategy, share in shares.items() for skip in (True, False)}
    assert len(kinds) == len(names)
    for part in settings.values():
        plain = network(config, "denoiser-0-skip" if part["likelihood_skip"] else "denoiser-0-no-skip")
        differing = {key for key in part if part[key] != plain[key]}
        is_recycled = part["strategy"].startswith("recycling")
        assert differing == {"strategy", "recycled_estimate" if is_recycled else "strategy_share"}
        assert part["recycled_estimate"] == ("soft" if is_recycled else plain["recycled_estimate"])


def test_strategies_start_from_noise_and_few_masks_and_are_compared_with_share_0(config: Config) -> None:
    rows = [row for row in leak.leak_rows(config) if row["network"] == "denoiser-sc-next-no-skip"]
    assert {(row["start"], row["t_start"]): (row["method"], row["reference"]) for row in rows} == {
        ("pre-segmentation", 300): ("pd-ddpm@network=denoiser-sc-next-no-skip", "pd-ddpm@network=denoiser-0-no-skip"),
        ("pre-segmentation", 500): (
            "pd-ddpm@network=denoiser-sc-next-no-skip@t_start=500",
            "pd-ddpm@network=denoiser-0-no-skip@t_start=500",
        ),
        ("noise", 1000): ("ddpm@network=denoiser-sc-next-no-skip", "ddpm@network=denoiser-0-no-skip"),
    }
    assert {(row["denoiser"], row["share"], row["strategy"]) for row in rows} == {
        ("self-conditioned on x_t+1 in 0.5", 0.0, "self_conditioning_next")
    }
    labels = leak.network_labels(config)
    assert labels["denoiser-rec-next-skip"] == "recycled from x_t+1, skip"
    assert labels["denoiser-rec-last-no-skip"] == "recycled from x_T, no skip"


def test_strategy_at_a_start_that_share_0_lacks_has_no_reference() -> None:
    config = configured(**leak_section(t_start=[300]))
    references = {
        row["t_start"]: row["reference"] for row in leak.leak_rows(config) if row["network"] == "denoiser-rec-last-skip"
    }
    assert references == {300: "pd-ddpm@network=denoiser-0-skip", 500: None, 1000: "ddpm@network=denoiser-0-skip"}


def test_rows_are_the_presegmenter_and_each_denoiser_from_each_start(config: Config) -> None:
    rows = leak.leak_rows(config)
    first = rows[0]
    assert (first["method"], first["denoiser"], first["share"], first["reference"]) == ("attunet", "AttUNet", None, None)
    assert len(rows) == 1 + 15 * (4 + 1 + 1 + 2) + 10 * 4 + 5 * 2 + 8 * 3  # the reliability needs the skip
    assert len({row["method"] for row in rows}) == len(rows)
    of_one = {(row["start"], row["t_start"]): row for row in rows if row["network"] == "denoiser-75-skip"}
    assert {key: row["method"] for key, row in of_one.items()} == {
        ("pre-segmentation", 100): "pd-ddpm@network=denoiser-75-skip@t_start=100",
        ("pre-segmentation", 300): "pd-ddpm@network=denoiser-75-skip",
        ("pre-segmentation", 500): "pd-ddpm@network=denoiser-75-skip@t_start=500",
        ("pre-segmentation", 700): "pd-ddpm@network=denoiser-75-skip@t_start=700",
        ("empty mask", 300): "pd-ddpm@network=denoiser-75-skip@presegmentation=zero",
        ("noise", 1000): "ddpm@network=denoiser-75-skip",
        ("probabilities", 300): "pd-ddpm-soft@network=denoiser-75-skip",
        ("probabilities", 500): "pd-ddpm-soft@network=denoiser-75-skip@t_start=500",
        ("mask with its reliability", 300): "pd-ddpm-reliable@network=denoiser-75-skip",
        ("mask with its reliability", 500): "pd-ddpm-reliable@network=denoiser-75-skip@t_start=500",
        ("mean of vanilla DDPM and AttUNet", None): "mean-with-vanilla@denoiser=denoiser-75-skip",
        ("mean of PD-DDPM at T' = 500 and AttUNet", None): "mean-with-pd@denoiser=denoiser-75-skip",
    }
    assert {(row["denoiser"], row["share"], row["likelihood_skip"]) for row in of_one.values()} == {("share 0.75", 0.75, True)}


def test_reference_has_share_0_and_the_same_skip_and_start(config: Config) -> None:
    rows = {row["method"]: row for row in leak.leak_rows(config)}
    reference = rows["pd-ddpm@network=denoiser-90-no-skip@t_start=700"]["reference"]
    assert reference == "pd-ddpm@network=denoiser-0-no-skip@t_start=700"
    assert rows[reference]["reference"] is None
    mean = rows["mean-with-pd@denoiser=denoiser-50-skip"]["reference"]
    assert mean == "mean-with-pd@denoiser=denoiser-0-skip"
    alone = configured(**leak_section(denoisers=["denoiser-50-skip", "denoiser-0-no-skip"], strategies=[]))
    assert all(row["reference"] is None for row in leak.leak_rows(alone))


def test_reference_of_pre_segmentations_and_random_raters_is_the_denoiser_without_them() -> None:
    more = {"networks": {"random": {"like": "denoiser-0-skip", "raters": "random"}}}
    more |= leak_section(denoisers=["random", "denoiser-masks-50", "denoiser-50-masks-50", "denoiser-0-skip"])
    rows = {row["method"]: row for row in leak.leak_rows(validate(overlay(load.read(FILE, {}), more)))}
    for name in ("random", "denoiser-masks-50", "denoiser-50-masks-50"):
        assert rows[f"pd-ddpm@network={name}"]["reference"] == "pd-ddpm@network=denoiser-0-skip"
    assert rows["pd-ddpm@network=denoiser-0-skip"]["reference"] is None
    row = rows["pd-ddpm@network=denoiser-50-masks-50"]
    assert (row["denoiser"], row["presegmented_share"], row["raters"]) == ("share 0.5, pre-segmentations 0.5", 0.5, "first")
    assert rows["pd-ddpm@network=random"]["denoiser"] == "share 0, random raters"


def test_networks_of_inner_folds_are_those_of_the_denoisers_with_pre_segmentations(config: Config) -> None:
    inner = leak.inner_networks(config)
    folds = [f"attunet@inner_fold={index}-of-3" for index in (1, 2, 3)]
    assert {name for name, parts in inner.items() if parts} == {
        "denoiser-masks-50",
        "denoiser-masks-100",
        "denoiser-50-masks-50",
    }
    assert all(parts in ([], folds) for parts in inner.values())
    histories = leak_inputs(config, "leak", "out")["histories"]
    assert len(histories) == len(set(histories)) == 15 * (1 + 15 + 8 + 3)


def test_labels_name_the_recycling_in_which_denoisers_differ(config: Config) -> None:
    names = ["denoiser-0-skip", "denoiser-50-skip"]
    assert leak.denoiser_labels(config, names) == {"denoiser-0-skip": "share 0", "denoiser-50-skip": "share 0.5"}
    more = {"networks": {"drawn": {"like": "denoiser-50-skip", "recycled_estimate": "sampled"}}}
    config = validate(overlay(load.read(FILE, {}), more))
    assert leak.denoiser_labels(config, [*names, "drawn"]) == {
        "denoiser-0-skip": "share 0",
        "denoiser-50-skip": "share 0.5, hard estimate",
        "drawn": "share 0.5, sampled estimate",
    }
    assert leak.network_labels(config)["denoiser-50-skip"] == "share 0.5, skip"
    assert leak.noise_labels(config)["ddpm@network=denoiser-100-no-skip"] == "share 1, no skip, from noise"


def test_leak_table_is_a_default_exhibit_only_where_it_is_configured(config: Config) -> None:
    demo = validate(load.read(None, {"scale": "demo"}))
    names = {"leak", "leak_probe"}
    assert names <= exhibits.default_exhibits(config).keys()
    assert names <= exhibits.available_exhibits(demo).keys()
    assert not names & exhibits.default_exhibits(demo).keys()
    assert leak.leak_rows(demo) == []
    for inputs in (leak_inputs, leak_probe_inputs):
        with pytest.raises(ConfigError, match=r"`exhibits\.leak`: it is null.* Add `--configfile config/leak\.yaml`"):
            inputs(demo, "phantom", "out")
    assert leak.leak_denoisers(demo) == []
    assert not [path for path in cost_inputs(demo, "phantom", "out")["exhibits"] if "leak" in path]


def test_leak_probe_reads_the_probe_of_every_denoiser_and_its_training(config: Config) -> None:
    files = leak_probe_inputs(config, "leak", "out")
    assert len(files) == len(set(files)) == 15 * (15 + 8)
    assert files[0] == "out/leak/networks/denoiser-0-skip/split-0_seed-0/probe.csv"
    fields = {row["network"]: row for row in leak.leak_denoisers(config)}
    assert list(fields) == [*config["exhibits"]["leak"]["denoisers"], *config["exhibits"]["leak"]["strategies"]]
    assert fields["denoiser-75-raters"] == {
        "network": "denoiser-75-raters",
        "denoiser": "share 0.75, random raters",
        "share": 0.75,
        "likelihood_skip": True,
        "presegmented_share": 0.0,
        "raters": "random",
        "strategy": "recycling_noise",
    }


def test_leak_inputs_are_the_scores_and_trainings_of_all_rows(config: Config) -> None:
    files = leak_inputs(config, "leak", "out")
    runs = len(config["splits"]) * len(config["seeds"])
    assert len(files["scores"]) == runs * len(leak.leak_methods(config))
    assert len(files["histories"]) == runs * (1 + 15 + 8 + 3)
    assert "out/leak/networks/attunet/split-4_seed-2/training.csv" in files["histories"]
    assert (files["cases"], files["splits"]) == ("out/leak/cases/prepared.csv", "out/leak/splits.csv")
    assert set(leak.leak_methods(config)) <= set(exhibits.planned_methods(config))
    assert set(config["exhibits"]["leak"]["denoisers"]) <= set(exhibits.planned_networks(config))
    assert methods.pool(config, "mean-with-pd@denoiser=denoiser-50-skip") == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"denoisers": ["denoiser-0-skp"]}, ["`exhibits.leak.denoisers`", "Did you mean 'denoiser-0-skip'"]),
        (
            {"denoisers": ["attunet"]},
            ["`exhibits.leak.denoisers`: 'attunet' has the architecture attention_unet", "denoising_unet"],
        ),
        (
            {"denoisers": ["denoiser", "denoiser-0-skip"]},
            ["share 0, likelihood_skip true stands for two denoisers", "differ in strategy, pre-segmentations or raters"],
        ),
        ({"strategies": ["denoiser-sc-same-skp"]}, ["`exhibits.leak.strategies`", "Did you mean 'denoiser-sc-same-skip'"]),
        (
            {"strategies": ["denoiser-0-skip"]},
            ["`exhibits.leak.strategies`: denoiser-0-skip also stands in `exhibits.leak.denoisers`", "Remove it from one"],
        ),
        ({"presegmenter": "atunet"}, ["`exhibits.leak.presegmenter`", "Did you mean 'attunet'"]),
        ({"from_noise": "pd-ddpm"}, ["`exhibits.leak.from_noise`: 'pd-ddpm' does not start from noise"]),
        ({"from_presegmentation": "unet"}, ["'unet' does not start from a pre-segmentation", "`start: presegmentation`"]),
        ({"means": ["ddpm"]}, ["`exhibits.leak.means`: 'ddpm' is no mean with a diffusion method"]),
        ({"further": ["unet"]}, ["`exhibits.leak.further`: 'unet' has the segmenter deterministic", "`segmenter: diffusion`"]),
        ({"further": ["pd-ddpm-sft"]}, ["`exhibits.leak.further`", "Did you mean 'pd-ddpm-soft'"]),
        ({"t_start": [100, 2000]}, ["T' = 2000 is above T = 1000"]),
        ({"t_stat": [100]}, ["`exhibits.leak.t_stat`: unknown key"]),
    ],
)
def test_leak_table_names_key_and_remedy_of_each_fault(changes: dict, words: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        validate(overlay(load.read(FILE, {}), leak_section(**changes)))
    for word in words:
        assert word in str(raised.value)


def test_file_states_only_what_differs_from_the_demo() -> None:
    own = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    assert own["datasets"].keys() == {"leak"}
    assert "training" not in own
