"""Resolved networks and methods: the paper's numbers, `like`, variations and their canonical names."""

from pd_ddpm.config import methods, resolve
from pd_ddpm.config.resolve import overlay
from pd_ddpm.config.validate import validate


def test_paper_configuration_holds_the_numbers_of_the_paper(paper: dict) -> None:
    denoiser = resolve.network(paper, "denoiser")
    assert (denoiser["T"], denoiser["schedule"], denoiser["channels"], denoiser["heads"]) == (1000, "cosine", 128, 1)
    assert denoiser["attention_at"] == [16]
    for name in paper["networks"]:
        network = resolve.network(paper, name)
        assert (network["learning_rate"], network["weight_decay"], network["batch"]) == (1e-4, 1e-5, 12)
        assert network["crop"] == [128, 192]
    pd_ddpm = resolve.method(paper, "pd-ddpm")
    assert (pd_ddpm["t_start"], pd_ddpm["samples"], pd_ddpm["presegmentation"]) == (300, 5, "attunet")
    assert pd_ddpm["reverse_steps"] == 1000
    assert paper["exhibits"]["fig3_tprime"]["t_start"] == [50, 100, 200, 300, 400, 500, 600, 700, 800, 1000]
    assert paper["folds"]["count"] == 5


def test_demo_configuration_changes_scale_and_dataset_only(paper: dict, demo: dict) -> None:
    assert demo["methods"] == paper["methods"]
    assert demo["folds"] | {"count": 5} == paper["folds"]
    assert demo["evaluation"] == paper["evaluation"]
    assert set(demo["networks"]) == set(paper["networks"])
    assert demo["sampling"]["samples"] == paper["sampling"]["samples"]
    for exhibit in ("table1", "compared_with", "table2", "fig2_uncertainty", "claims"):
        assert demo["exhibits"][exhibit] == paper["exhibits"][exhibit]
    assert set(demo["exhibits"]["fig3_tprime"]["t_start"]) <= set(paper["exhibits"]["fig3_tprime"]["t_start"])
    assert demo["exhibits"]["fig4_ensemble"]["method"] == paper["exhibits"]["fig4_ensemble"]["method"]


def test_paper_configuration_has_nine_methods_that_share_denoisers(paper: dict) -> None:
    rows = paper["exhibits"]["table1"]
    printed = [
        "U-Net",
        "AttUNet",
        "U-Net++",
        "Bayesian U-Net",
        "Probabilistic U-Net",
        "Vanilla DDPM",
        "TDPM",
        "ES-DDPM",
        "PD-DDPM",
    ]
    assert [resolve.method(paper, name)["label"] for name in rows] == printed
    assert {resolve.method(paper, name)["network"] for name in ("ddpm", "es-ddpm", "pd-ddpm")} == {"denoiser"}
    truncated, whole = resolve.network(paper, "truncated-denoiser"), resolve.network(paper, "denoiser")
    assert {key for key in whole if truncated[key] != whole[key]} == {*("architecture", "t_max", "validation_presegmenter")}
    assert whole["strategy"] == "diffusion"  # the paper diffuses the ground truth
    assert resolve.method(paper, "es-ddpm")["t_start"] == resolve.method(paper, "pd-ddpm")["t_start"]


def test_like_inherits_every_key_that_is_not_overridden(paper: dict) -> None:
    more = {"methods": {"pd-ddpm-unet": {"like": "pd-ddpm", "label": "PD-DDPM (U-Net)", "presegmentation": "unet"}}}
    config = overlay(paper, more)
    validate(config)
    own = resolve.method(config, "pd-ddpm-unet")
    assert own == resolve.method(paper, "pd-ddpm") | {"label": "PD-DDPM (U-Net)", "presegmentation": "unet"}
    assert resolve.network(config, "bayesian-unet") == resolve.network(config, "unet") | {"dropout": 0.5}


def test_variation_differs_in_its_key_only(paper: dict) -> None:
    assert resolve.method(paper, "pd-ddpm@t_start=50") == resolve.method(paper, "pd-ddpm") | {"t_start": 50}
    assert resolve.network(paper, "denoiser@t_max=300")["t_max"] == 300


def test_canonical_leaves_out_keys_that_equal_those_of_the_method(paper: dict) -> None:
    assert resolve.canonical(paper, "pd-ddpm@t_start=300") == "pd-ddpm"
    assert resolve.canonical(paper, "pd-ddpm@t_start=50@samples=5") == "pd-ddpm@t_start=50"
    assert "pd-ddpm" in methods.figure3_methods(paper)


def test_canonical_gives_numbers_of_a_variation_the_type_of_their_key(paper: dict) -> None:
    assert resolve.canonical(paper, "pd-ddpm@t_start=50.0") == "pd-ddpm@t_start=50"
    assert resolve.canonical(paper, "pd-ddpm@t_start=300.0@eta=0") == "pd-ddpm"
