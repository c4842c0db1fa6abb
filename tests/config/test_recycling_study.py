"""The study recycling: its data sets and the files of releases are valid, and set what they name (about 5 s)."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from pd_ddpm.config import load, methods
from pd_ddpm.config.resolve import network, overlay
from pd_ddpm.config.validate import validate

CONFIG = Path(__file__).parents[2] / "config"
STRATEGIES = ("diff", "diff-sc-same", "diff-sc-next", "diff-rec-next", "diff-rec-last")


@cache
def study(*files: str, scale: str = "paper") -> dict[str, Any]:
    user: dict[str, Any] = {"scale": scale}
    for name in files:
        user = overlay(user, yaml.safe_load((CONFIG / name).read_text(encoding="utf-8")))
    return validate(load.read_study("recycling", user))


@pytest.mark.parametrize(
    ("files", "dataset", "dims", "updates"),
    [
        ((), "muscle", 2, 512_000 / 64),
        (("recycling_amos.yaml",), "amos", 3, 100_000 / 8),
        (("recycling_pelvic.yaml",), "male-pelvic", 3, 100_000 / 8),
        (("recycling_brain.yaml",), "brats-2021", 3, 100_000 / 8),
    ],
)
def test_data_sets_of_the_study_are_valid(files: tuple[str, ...], dataset: str, dims: int, updates: float) -> None:
    config = study(*files)
    assert config["dataset"] == dataset
    assert methods.preparation(config, dataset)["region"] == "scan"
    assert methods.preparation(config, dataset)["crop_around"] == "centre"
    for name in ("no-diffusion", *STRATEGIES):
        settings = network(config, name)
        assert (settings["spatial_dims"], settings["steps"], len(settings["crop"])) == (dims, updates, dims)
    assert len(config["datasets"]["amos"]["classes"]) == 15
    assert len(config["datasets"]["male-pelvic"]["classes"]) == 8


def test_five_strategies_are_sampled_with_two_samplers() -> None:
    config = study()
    assert [network(config, name)["strategy"] for name in STRATEGIES] == [
        "diffusion",
        "self_conditioning_same",
        "self_conditioning_next",
        "recycling_next",
        "recycling_last",
    ]
    for name in STRATEGIES:
        assert methods.method(config, name)["sampler"] == "ancestral"
        ddim = methods.method(config, f"{name}-ddim")
        assert (ddim["network"], ddim["sampler"], ddim["reverse_steps"]) == (name, "ddim", 5)
        assert {name, f"{name}-ddim"} <= set(config["exhibits"]["table1"])


@pytest.mark.parametrize(
    ("preset", "focal_weight", "dropout"),
    [(None, 20, 0), ("imgx_v020.yaml", 20, 0), ("imgx_v031.yaml", 20, 0), ("imgx_v032.yaml", 1, 0.1)],
)
def test_releases_set_their_loss_and_faults(preset: str | None, focal_weight: float, dropout: float) -> None:
    config = study("recycling_amos.yaml", *([preset] if preset else []))
    expected = "as_released" if preset else "fixed"
    for name in STRATEGIES:
        settings = network(config, name)
        for key in ("time_injection", "importance_weights", "self_conditioned_state"):
            assert settings[key] == expected
        assert (settings["focal_weight"], settings["dropout"]) == (focal_weight, dropout)
        assert settings["training_timesteps"] == (5 if preset == "imgx_v020.yaml" else None)
        assert settings["patch_normalisation"] == ("unit_range" if preset else "none")
        assert settings["patience"] == {"imgx_v020.yaml": None, "imgx_v032.yaml": 10}.get(preset, 5)
    assert network(config, "no-diffusion")["focal_weight"] == focal_weight
    preparation = methods.preparation(config, "amos")
    assert (preparation["crop_around"], preparation["size"]) == (("label", [192, 128, 128]) if preset else ("centre", None))


@pytest.mark.parametrize(
    ("files", "size", "pixels"),
    [
        ((), (512, 480), (10, 10)),
        (("recycling_amos.yaml", "imgx_v031.yaml"), (192, 128, 128), (10, 10, 10)),
        (("recycling_pelvic.yaml",), (256, 256, 48), (20, 20, 4)),
        (("recycling_brain.yaml", "imgx_v020.yaml"), (179, 219, 155), (20, 20, 4)),
    ],
)
def test_images_are_shifted_by_the_pixels_of_the_released_code(
    files: tuple[str, ...], size: tuple[int, ...], pixels: tuple[int, ...]
) -> None:
    config = study(*files)
    for name in ("no-diffusion", *STRATEGIES):
        affine = network(config, name)["affine"]
        assert [share * length for share, length in zip(affine["shift"], size, strict=True)] == pytest.approx(pixels, abs=0.005)
        assert affine["unit"] == ("pixels" if len(files) == 2 else "mm")
        assert math.radians(affine["rotation_degrees"]) == pytest.approx(0.088, abs=1e-4)


def test_last_release_transforms_each_data_set_alike() -> None:
    settings = network(study("recycling_amos.yaml", "imgx_v032.yaml"), "diff")
    assert settings["affine"] == {
        "rotation_degrees": 30,
        "scale": 0.2,
        "shear_degrees": 30,
        "shift": 0.3,
        "probability": 0.5,
        "unit": "mm",
    }
    assert settings["log_gamma"] == 0.3


def test_demo_segments_the_tissues_of_the_phantom() -> None:
    config = study(scale="demo")
    dataset = config["datasets"][config["dataset"]]
    assert dataset["simulate"]["labels"] == "tissues"
    assert list(dataset["classes"]) == [1, 2, 3, 4]
