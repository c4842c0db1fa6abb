"""FLOPs against closed forms and against published numbers of the paper's denoiser (about 15 s)."""

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from pd_ddpm.config import load, methods, resolve
from pd_ddpm.config.validate import validate
from pd_ddpm.inference.factory import build_segmenter
from pd_ddpm.models.factory import build_model
from pd_ddpm.planning import flops, jobs
from pd_ddpm.planning.flop_counts import count, local_device
from pd_ddpm.planning.planned_flops import local_rate, padded, read_rates
from pd_ddpm.training.factory import build_objective
from pd_ddpm.training.objectives.segmentation import CrossEntropy

ROOT = Path(__file__).parents[2]
HEIGHT, WIDTH = 12, 20


@pytest.fixture(scope="module")
def paper() -> resolve.Config:
    return load.read(None, {"scale": "paper"})


@pytest.fixture(scope="module")
def demo() -> resolve.Config:
    return load.read(None, {"scale": "demo"})


class TwoConvolutions(nn.Sequential):
    """2 -> 5 -> 1 channels, 3 x 3."""

    divisor = 1

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 1, 3, padding=1))


FIRST, SECOND = (2 * 9 * channels * HEIGHT * WIDTH for channels in (2 * 5, 5 * 1))


def test_flops_of_two_convolutions_match_the_closed_form() -> None:
    with torch.device("meta"):
        network = TwoConvolutions()
    assert flops.evaluation(network, 2, (HEIGHT, WIDTH)) == (0, FIRST + SECOND)
    assert flops.validation(network, CrossEntropy(1.0), 2, (HEIGHT, WIDTH)) == FIRST + SECOND
    ((phase, step),) = flops.training_phases(network, CrossEntropy(1.0), 2, 3, (HEIGHT, WIDTH))
    # Backward takes as much again for the weights, and for the input of every layer but the first.
    assert step == 3 * (2 * FIRST + 3 * SECOND)
    assert phase.name == "training"


def test_flops_of_the_papers_denoiser_match_known_numbers(paper: resolve.Config) -> None:
    chosen = resolve.network(paper, "denoiser") | {"steps": 10, "batch": 1}
    assert count(chosen, 2, "parameters", ()) == [113_670_913]
    assert count(chosen, 2, "divisor", ()) == [32]
    (shared, each) = count(chosen, 2, "evaluation", (128, 192))
    assert (shared, round(each / 1e9, 1)) == (0, 186.1)
    assert count(chosen, 2, "steps", ())[0] / 10 == pytest.approx(558.2e9, rel=1e-3)
    assert count(chosen, 2, "evaluation", (256, 256))[1] / each == pytest.approx(256 * 256 / (128 * 192), rel=2e-3)


def test_flops_of_validation_are_those_of_its_chains_and_noise_levels(demo: resolve.Config) -> None:
    """Ten steps from noise, three from T' = 300 if there is a pre-segmenter, and five noise levels of the ground truth."""
    chosen = resolve.network(demo, "denoiser") | {"channels": 8, "multipliers": [1], "attention_at": [], "crop": [16, 16]}
    chosen |= {"validation_chain_steps": 10, "validation_t_start": 300, "validation_presegmenter": "attunet"}
    (_, each) = count(chosen, 2, "evaluation", (16, 16))
    assert count(chosen, 2, "validation", ()) == [(10 + 3 + 5) * each]
    assert count(chosen | {"validation_presegmenter": None}, 2, "validation", ()) == [(10 + 5) * each]


def test_flops_of_a_network_of_volumes_match_the_closed_form(demo: resolve.Config) -> None:
    """One level: three by three by three convolutions of five residual blocks, the first and the last one."""
    width, size = 6, (8, 5, 4)
    changes = {"spatial_dims": 3, "channels": width, "multipliers": [1], "residual_blocks": 1, "attention_at": []}
    chosen = resolve.network(demo, "denoiser") | changes | {"middle_attention": False, "skip": "concatenate"}
    convolutions = 27 * (3 * width + (2 + 4 + 2 * 3) * width**2 + width) + 2 * 2 * width**2
    linear = (4 + 16 + 5 * 4) * width**2
    assert count(chosen, 2, "evaluation", size) == [0, 2 * (8 * 5 * 4 * convolutions + linear)]


@pytest.mark.workflow  # counts a network of volumes twice
def test_coordinates_add_two_inputs_to_the_first_convolution(demo: resolve.Config) -> None:
    chosen = resolve.network(demo, "denoiser") | {"steps": 10}
    with_coordinates = chosen | {"coordinates": True}
    added = 2 * 9 * 2 * chosen["channels"] * HEIGHT * 4 * WIDTH * 4
    plain, further = (count(settings, 2, "evaluation", (4 * HEIGHT, 4 * WIDTH)) for settings in (chosen, with_coordinates))
    assert further[1] - plain[1] == added
    for quantity in ("steps", "validation"):
        assert count(with_coordinates, 2, quantity, ()) > count(chosen, 2, quantity, ())


@pytest.mark.parametrize(("share", "source"), [(0.3, "noise"), (0.75, "next"), (1.0, "last")])
def test_recycling_adds_forward_pass_of_expected_share(demo: resolve.Config, share: float, source: str) -> None:
    chosen = resolve.network(demo, "denoiser") | {"steps": 10, "batch": 3}
    (_, each) = count(chosen, 2, "evaluation", chosen["crop"])
    (plain,) = count(chosen, 2, "steps", ())
    (recycled,) = count(chosen | {"strategy": f"recycling_{source}", "strategy_share": share}, 2, "steps", ())
    assert recycled - plain == round(share * 10 * 3 * each)


def test_presegmentations_add_no_evaluation_to_a_training(demo: resolve.Config) -> None:
    chosen = resolve.network(demo, "denoiser") | {"steps": 10, "batch": 3}
    assert count(chosen | {"presegmented_share": 0.5}, 2, "steps", ()) == count(chosen, 2, "steps", ())


def test_timesteps_by_importance_add_no_evaluation_to_a_training(demo: resolve.Config) -> None:
    chosen = resolve.network(demo, "denoiser") | {"steps": 10, "mask_loss": "dice_focal"}
    assert count(chosen | {"time_sampling": "importance"}, 2, "steps", ()) == count(chosen, 2, "steps", ())


def test_divided_batches_add_a_forward_pass_to_each_step(demo: resolve.Config) -> None:
    small = {"crop": [16, 16], "multipliers": [1, 2], "residual_blocks": 1, "attention_at": [], "middle_attention": False}
    chosen = resolve.network(demo, "denoiser") | {"steps": 10, "batch": 3} | small
    (_, each) = count(chosen, 2, "evaluation", (16, 16))
    whole, divided = (count(chosen | {"micro_batch": part}, 2, "steps", ())[0] for part in (None, 2))
    assert divided - whole == pytest.approx(10 * 3 * each, rel=0.01)  # without the last layer, which nothing needs again


def test_each_phase_of_tdpm_counts_as_often_as_it_is_due(demo: resolve.Config) -> None:
    chosen = resolve.network(demo, "truncated-denoiser") | {"steps": 32, "penalty_every": 16, "warm_up": 0.25, "batch": 2}
    with torch.device("meta"):
        network = build_model(chosen, 2)
    phases = flops.training_phases(network, build_objective(chosen), 2, 2, tuple(chosen["crop"]))
    each = {phase.name: number for phase, number in phases}
    assert count(chosen, 2, "steps", ()) == [
        32 * each["denoising"] + 24 * each["generator"] + 24 * each["discriminator"] + 2 * each["penalty"]
    ]
    # The generator's step also evaluates the discriminator. The penalty samples four masks, with two evaluations each.
    one = flops.evaluation(network, 2, tuple(chosen["crop"]))[1]
    assert each["denoising"] < each["generator"] < 1.5 * each["denoising"]
    assert each["penalty"] > 2 * 4 * one


@pytest.mark.parametrize("scale", ["paper", "demo"])
def test_planned_evaluations_match_those_of_the_segmenters(request: pytest.FixtureRequest, scale: str) -> None:
    config = request.getfixturevalue(scale)
    names = [*config["exhibits"]["table1"], "pd-ddpm@t_start=50", "ddpm@reverse_steps=3@sampler=ddim"]
    for name in names:
        chosen = resolve.method(config, name) | {"pool": methods.pool(config, name)}
        with torch.device("meta"):
            drawn = build_segmenter(chosen, build_model(resolve.network(config, chosen["network"]), 2))
        assert jobs.evaluations_per_slice(config, name) == (drawn.evaluations_shared, drawn.evaluations_per_member), name


def test_probabilistic_unet_encodes_a_slice_once(demo: resolve.Config) -> None:
    chosen = resolve.network(demo, "probabilistic-unet")
    shared, each = count(chosen, 2, "evaluation", (64, 80))
    width, latent = chosen["channels"][0], chosen["latent"]
    assert each == 2 * 64 * 80 * ((width + latent) * width + 2 * width * width + width)
    assert shared > 20 * each


def test_sizes_are_padded_to_the_divisor() -> None:
    assert padded((232, 256), 32) == (256, 256)
    assert padded((132, 256), 16) == (144, 256)
    assert padded([128, 192], 32) == (128, 192)


def test_local_device_is_measured_once(tmp_path: Path, demo: resolve.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pd_ddpm.planning.flop_counts.MEASURING_SECONDS", 0.05)
    config = validate(demo | {"device": "cpu"})
    rate = local_rate(config, "denoiser", 1, tmp_path / "rates.json")
    assert (rate.device, rate.measured) == ("CPU", True)
    assert 1e8 < rate.training < 1e13
    assert 1e8 < rate.sampling < 1e13
    assert local_rate(config, "denoiser", 1, tmp_path / "rates.json") == rate
    assert read_rates(tmp_path / "rates.json") == [rate]
    with pytest.raises(ValueError, match="cuda:7"):
        local_rate(config | {"device": "cuda:7"}, "denoiser", 1, tmp_path / "rates.json")


@pytest.mark.parametrize(("sampling", "expected"), [("auto", "float16"), ("tf32", "tf32")])
def test_local_device_samples_in_the_fastest_precision(monkeypatch: pytest.MonkeyPatch, sampling: str, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    _, title, precisions = local_device("cuda", "auto", sampling)
    assert (title, *map(str, precisions)) == ("NVIDIA H200", "bfloat16", expected)


def test_measured_rate_is_operations_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(flops.time, "perf_counter", lambda: float(next(clock)))
    batches = []
    rate = flops.measured_rate(batches.append, 30, 8, torch.device("cpu"), min_seconds=20.0)
    # Every run takes one second of this clock: the batch may take four, so it is four, and 20 of them are timed.
    assert batches == [1, 1, 4, *[4] * 20]
    assert rate == 120


def test_networks_of_a_users_configuration_are_counted() -> None:
    small = load.read(ROOT / "tests" / "small.yaml", {"scale": "demo"})
    assert yaml.safe_dump(small["networks"])
    assert count(resolve.network(small, "unet"), 2, "steps", ())[0] > 0
