"""Files that trainings, samplings and the cost table read from other jobs, and the shards of finished samplings."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from configurations import paper_configuration

from pd_ddpm.config import exhibits, methods
from pd_ddpm.config.errors import ConfigError
from pd_ddpm.config.inputs import (
    cost_inputs,
    existing_shards,
    grid_dice_inputs,
    probe_inputs,
    sampling_inputs,
    training_histories,
    training_inputs,
)
from pd_ddpm.config.resolve import Config, network
from pd_ddpm.config.run import Run


@pytest.fixture(scope="module")
def paper() -> Config:
    return paper_configuration()


def test_training_reads_the_presegmenter_of_its_validation(paper: Config) -> None:
    assert training_inputs(paper, Run("wmh", "denoiser", 1, 2), "out") == {
        "presegmenter_weights": "out/wmh/networks/attunet/split-1_seed-2/model.safetensors",
        "presegmenter_metadata": "out/wmh/networks/attunet/split-1_seed-2/model.json",
    }
    assert training_inputs(paper, Run("wmh", "truncated-denoiser", 1, 2), "out") == {}


def test_training_on_presegmentations_reads_one_network_for_each_inner_fold_of_its_split_and_seed() -> None:
    shares = {"predicts": "mask", "presegmented_share": 0.5, "inner_folds": 2}
    config = paper_configuration(networks={"denoiser": shares})
    files = training_inputs(config, Run("wmh", "denoiser", 1, 2), "out")
    folders = [f"out/wmh/networks/attunet@inner_fold={index}-of-2/split-1_seed-2" for index in (1, 2)]
    assert files["inner_weights"] == [f"{folder}/model.safetensors" for folder in folders]
    assert files["inner_metadata"] == [f"{folder}/model.json" for folder in folders]
    assert "inner_weights" not in training_inputs(config, Run("wmh", "truncated-denoiser", 1, 2), "out")
    inner = "attunet@inner_fold=2-of-2"
    assert training_inputs(config, Run("wmh", inner, 1, 2), "out") == {}
    assert network(config, inner) == network(config, "attunet") | {"inner_fold": "2-of-2"}
    planned = exhibits.planned_networks(config)
    assert [name for name in planned if "inner" in name] == ["attunet@inner_fold=1-of-2", inner]
    assert len(cost_inputs(config, "wmh", "out")["network_metadata"]) == 5 * len(planned) == 45
    assert inner not in exhibits.planned_networks(paper_configuration())


def test_planned_networks_include_those_that_only_trainings_read() -> None:
    shown = {"table1": ["ddpm", "unet"], "compared_with": "unet", "pareto": {"methods": ["ddpm"]}}
    shown |= {"claims": {"pd_ddpm": "ddpm", "vanilla": "ddpm", "tdpm": None, "es_ddpm": None}}
    shown |= {"table2": {"method": "pd-ddpm", "presegmentations": [{"method": "zero", "printed": None}]}}
    shown |= {name: {"method": "pd-ddpm@presegmentation=zero"} for name in ("fig3_tprime", "fig4_ensemble")}
    config = paper_configuration(exhibits=shown)
    assert exhibits.planned_networks(config) == ["denoiser", "unet", "attunet"]


def test_training_reads_the_network_that_it_is_initialised_from() -> None:
    config = paper_configuration(networks={"truncated-denoiser": {"initialise_from": "denoiser"}})
    assert training_inputs(config, Run("wmh", "truncated-denoiser", 1, 2), "out") == {
        "first_weights": "out/wmh/networks/denoiser/split-1_seed-2/model.safetensors",
        "first_metadata": "out/wmh/networks/denoiser/split-1_seed-2/model.json",
    }
    assert training_inputs(config, Run("wmh", "attunet", 1, 2), "out") == {}


def test_training_on_a_dataset_that_is_only_tested_is_refused(paper: Config) -> None:
    with pytest.raises(
        ConfigError, match=r"  out/wmh-held-out/networks: nothing is trained on wmh-held-out.*Request files in out/wmh/networks"
    ):
        training_inputs(paper, Run("wmh-held-out", "unet", 0, 0), "out")


def test_sampling_reads_network_gate_and_presegmentation_of_its_own_split_and_seed(paper: Config) -> None:
    network = "out/wmh/networks/denoiser/split-1_seed-2"
    assert sampling_inputs(paper, Run("wmh", "pd-ddpm", 1, 2), "out") == {
        "weights": f"{network}/model.safetensors",
        "metadata": f"{network}/model.json",
        "gate": f"{network}/precision-ema.json",
        "presegmentation": "out/wmh/predictions/attunet/split-1_seed-2/predictions.csv",
    }
    zero = sampling_inputs(paper, Run("wmh", "pd-ddpm@presegmentation=zero@precision=float32", 1, 2), "out")
    assert set(zero) == {"weights", "metadata"}
    raw = sampling_inputs(paper, Run("wmh", "pd-ddpm@weights=raw", 1, 2), "out")
    assert (raw["weights"], raw["gate"]) == (f"{network}/model.safetensors", f"{network}/precision-raw.json")
    early = sampling_inputs(paper, Run("wmh", "attunet-early-2", 0, 0), "out")
    assert early["weights"] == "out/wmh/networks/attunet/split-0_seed-0/early.safetensors"


def test_sampling_with_reliability_reads_that_of_the_weights_which_make_the_pre_segmentation() -> None:
    skip = {"denoiser": {"predicts": "mask", "likelihood_skip": True}}
    config = paper_configuration(networks=skip)
    files = sampling_inputs(config, Run("wmh-held-out", "pd-ddpm@start_reliability=validation", 1, 2), "out")
    assert files["reliability"] == "out/wmh/networks/attunet/split-1_seed-2/reliability-raw.json"
    averaged = paper_configuration(networks=skip, methods={"attunet": {"weights": "ema"}})
    files = sampling_inputs(averaged, Run("wmh", "pd-ddpm@start_reliability=validation", 1, 2), "out")
    assert files["reliability"] == "out/wmh/networks/attunet/split-1_seed-2/reliability-ema.json"
    assert "reliability" not in sampling_inputs(config, Run("wmh", "pd-ddpm", 1, 2), "out")


def test_held_out_cases_are_sampled_from_the_networks_of_the_training_cases(paper: Config) -> None:
    files = sampling_inputs(paper, Run("wmh-held-out", "pd-ddpm", 0, 0), "out")
    assert files["weights"].startswith("out/wmh/networks/denoiser/")
    assert files["presegmentation"].startswith("out/wmh-held-out/predictions/attunet/")


def test_sampling_of_an_invalid_variation_is_refused(paper: Config) -> None:
    with pytest.raises(ConfigError, match="T' = 2000 is above T = 1000"):
        sampling_inputs(paper, Run("wmh", "pd-ddpm@t_start=2000", 0, 0), "out")


def test_cost_reads_every_planned_run_and_all_other_exhibits(paper: Config) -> None:
    files = cost_inputs(paper, "wmh", "out")
    assert len(files["network_metadata"]) == 5 * len(exhibits.planned_networks(paper)) == 35
    assert [path.replace("training.csv", "model.json") for path in files["histories"]] == files["network_metadata"]
    assert len(files["prediction_metadata"]) == 5 * len(exhibits.planned_methods(paper))
    assert "out/wmh/predictions/pd-ddpm/split-4_seed-0/method.json" in files["prediction_metadata"]
    configured = exhibits.EXHIBITS.keys() - {"leak", "leak_probe", "fig4", "fig5", "memory", "fig3", "table4"}
    assert len(files["exhibits"]) == len(configured - {"cost"})
    assert "results/wmh/exhibits/cost.html" not in files["exhibits"]
    assert "results-2/wmh/exhibits/pareto.png" in cost_inputs(paper | {"results": "results-2"}, "wmh", "out")["exhibits"]
    assert cost_inputs(paper, "wmh-held-out", "out")["network_metadata"] == []


def test_probe_figure_reads_the_probes_of_the_networks_that_segment_the_dataset(paper: Config) -> None:
    files = probe_inputs(paper, "wmh", "out")
    names = ("denoiser", "truncated-denoiser")
    assert files == [f"out/wmh/networks/{name}/split-{split}_seed-0/probe.csv" for name in names for split in range(5)]
    assert probe_inputs(paper, "wmh-held-out", "out") == files


def test_training_histories_include_those_of_presegmentations() -> None:
    config = paper_configuration(splits=[1, 4])
    files = [
        f"out/wmh/networks/{name}/split-{split}_seed-0/training.csv" for name in ("denoiser", "attunet") for split in (1, 4)
    ]
    assert training_histories(config, "wmh", ["ddpm", "pd-ddpm"], "out") == files
    assert training_histories(config, "wmh-held-out", ["ddpm", "pd-ddpm"], "out") == files


def test_scores_read_the_dice_through_the_grid_only_if_there_is_a_grid(paper: Config) -> None:
    assert grid_dice_inputs(paper, "wmh", "unet", "out") == {}
    coarse = paper | {"grid": paper["grid"] | {"spacing_mm": 2.0}}
    assert grid_dice_inputs(coarse, "wmh-held-out", "unet", "out") == {"grid_dice": "out/wmh-held-out/grid_dice.csv"}


def test_scores_read_the_dice_through_the_grid_of_their_own_network() -> None:
    """Networks with the same grid share a table. A mean over networks of two grids has the one of the section `grid`."""
    mean = {"label": "Mean", "segmenter": "mean", "mean_of": ["unet", "bayesian-unet"], "denoiser": None}
    mixed = mean | {"label": "Mixed", "mean_of": ["unet", "attunet"]}
    config = paper_configuration(networks={"unet": {"grid": {"spacing_mm": 2.0}}}, methods={"mean": mean, "mixed": mixed})
    for name in ("unet", "bayesian-unet", "mean"):
        assert grid_dice_inputs(config, "wmh", name, "out") == {"grid_dice": "out/wmh/grid_dice_unet.csv"}
    for name in ("attunet", "mixed", "pd-ddpm"):
        assert grid_dice_inputs(config, "wmh", name, "out") == {}


def write_sampling(folder: Path, settings: dict[str, Any], shards: int) -> list[str]:
    """Write a finished sampling and a file that it was computed from; returns the path of the latter."""
    source = folder / "model.safetensors"
    source.touch()
    metadata = {"settings": settings, "provenance": {"code": "hash"}, "shards": shards}
    (folder / "method.json").write_text(json.dumps(metadata), encoding="utf-8")
    (folder / "predictions.csv").touch()
    os.utime(source, (1000, 1000))
    return [str(source)]


def test_finished_sampling_keeps_its_number_of_shards(tmp_path: Path, paper: Config) -> None:
    settings = methods.sampling_settings(paper, "pd-ddpm")
    inputs = write_sampling(tmp_path, settings, 3)
    assert existing_shards(tmp_path, settings, "hash", inputs) == 3


def test_outdated_or_unfinished_sampling_has_no_number_of_shards(tmp_path: Path, paper: Config) -> None:
    settings = methods.sampling_settings(paper, "pd-ddpm")
    inputs = write_sampling(tmp_path, settings, 3)
    assert existing_shards(tmp_path, settings | {"samples": 9}, "hash", inputs) is None
    assert existing_shards(tmp_path, settings, "other", inputs) is None
    assert existing_shards(tmp_path, settings, "hash", [*inputs, str(tmp_path / "missing")]) is None
    os.utime(inputs[0], (4e9, 4e9))
    assert existing_shards(tmp_path, settings, "hash", inputs) is None
    os.utime(inputs[0], (1000, 1000))
    (tmp_path / "method.json").write_text("{}", encoding="utf-8")
    assert existing_shards(tmp_path, settings, "hash", inputs) is None
    (tmp_path / "predictions.csv").unlink()
    assert existing_shards(tmp_path, settings, "hash", inputs) is None


def test_label_does_not_affect_samples(paper: Config) -> None:
    renamed = paper_configuration(methods={"pd-ddpm": {"label": "Ours"}})
    settings = methods.sampling_settings(renamed, "pd-ddpm")
    assert settings == methods.sampling_settings(paper, "pd-ddpm")
    assert (settings["samples"], settings["pool"]) == (5, 10)
    assert exhibits.labels(renamed, ["pd-ddpm"]) == {"pd-ddpm": "Ours"}
