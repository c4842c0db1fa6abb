"""Measure the paper's denoiser on a GPU: `make bench-gpu`.

    python -m benchmarks.gpu [--seconds 60] [--batch 60] [--output benchmarks/gpu.json]

For each precision that the device supports, the network of config/config.yaml (113.67 million parameters) is trained for
`--seconds` on artificial slices of 128 x 192 pixels in batches of twelve, with the step of a training job. Then the segmenter
of a sampling job samples ensemble members in batches of `--batch` for the same time. The JSON file holds images and
member-steps per second, the peak memory, and the fraction of the card's peak: FLOPs counted by PyTorch, divided by the dense
peak in the data sheet of the card. Cards without an entry in PEAK_TFLOPS have no fraction. Without a GPU the command exits with
an error.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.table import commit, machine
from benchmarks.training import artificial_slices
from pd_ddpm.config import resolve
from pd_ddpm.diffusion.noise import MemberNoise
from pd_ddpm.inference.factory import build_segmenter
from pd_ddpm.models.factory import build_model
from pd_ddpm.runtime.backend import Backend
from pd_ddpm.runtime.files import write_json
from pd_ddpm.runtime.precision import choose_device, choose_precision, prepare_for_inference
from pd_ddpm.training.factory import build_objective, build_training_settings
from pd_ddpm.training.patches import TrainingSlices
from pd_ddpm.training.trainer import Trainer

ROOT = Path(__file__).parents[1]
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
CHANNELS = 2  # FLAIR and T1
REVERSE_STEPS = 10  # per chain
WARM_UP = 3

# Dense peaks from the data sheets: float32 without tensor cores, TF32, and half precision with float32 accumulation.
PEAK_TFLOPS = {
    "V100": {"float32": 15.7, "float16": 125.0},
    "A100": {"float32": 19.5, "tf32": 156.0, "bfloat16": 312.0, "float16": 312.0},
    "H100 PCIe": {"float32": 51.0, "tf32": 378.0, "bfloat16": 756.0, "float16": 756.0},
    "H100": {"float32": 67.0, "tf32": 494.0, "bfloat16": 989.0, "float16": 989.0},
    "H200": {"float32": 67.0, "tf32": 494.0, "bfloat16": 989.0, "float16": 989.0},
    "RTX 4090": {"float32": 82.6, "tf32": 82.6, "bfloat16": 165.2, "float16": 165.2},
}

Settings = dict[str, Any]


def peak_tflops(card: str, precision: str) -> float | None:
    """Return the peak of a card in this precision, by the first entry whose words all occur in the name of the card."""
    words = set(card.replace("-", " ").split())
    peaks = [peak for name, peak in PEAK_TFLOPS.items() if words.issuperset(name.split())]
    return peaks[0].get(precision) if peaks else None


def forward_flops(network: Settings) -> int:
    """Return the FLOPs of a forward pass of one image, counted without computing. A training step takes three times as many."""
    with torch.device("meta"):
        module = build_model(network, CHANNELS).network
        x, t = torch.empty(1, CHANNELS + 1, *network["crop"]), torch.zeros(1)
        with FlopCounterMode(display=False) as flops, torch.no_grad():
            module(x, t)
    return flops.get_total_flops()


def time_calls(call: Callable[[], object], device: torch.device, seconds: float) -> tuple[int, float, float | None]:
    """Repeat a call for about the given seconds, after a warm-up.

    Args:
        call: the function to time.
        device: the device on which it computes.
        seconds: minimum duration.

    Returns:
        Number of calls, their seconds, and the peak GPU memory in GB (None on a CPU).
    """

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(WARM_UP):
        call()
    wait()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    calls, start = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - start < seconds:
        call()
        wait()
        calls += 1
    elapsed = time.perf_counter() - start
    return calls, elapsed, torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None


def measure_precision(
    precision: str, network: Settings, method: Settings, device: torch.device, batch: int, seconds: float
) -> dict[str, Any]:
    """Measure training and sampling in one precision.

    Args:
        precision: name of the precision.
        network: settings of the denoiser.
        method: settings of the method that samples.
        device: the device that computes.
        batch: ensemble members that are sampled together.
        seconds: duration of training, and again of sampling.

    Returns:
        A row of the JSON file.

    Raises:
        ValueError: the device does not support the precision.
    """
    chosen = choose_precision(precision, device)
    torch.manual_seed(0)
    untrained = build_model(network, CHANNELS)
    slices = TrainingSlices(artificial_slices(4, 12, network["crop"]))
    optimisation = build_training_settings(network)
    trainer = Trainer(untrained, build_objective(network), slices, optimisation, seed=0, backend=Backend(device, chosen))
    steps = iter(range(1, network["steps"] + 1))
    step_calls, step_seconds, training_gb = time_calls(lambda: trainer.train_step(next(steps)), device, seconds)
    chain_calls, chain_seconds, sampling_gb = time_calls(
        _sample_chains(trainer.eval_model, network, method, device, chosen, batch), device, seconds
    )
    images = step_calls * optimisation.batch / step_seconds
    member_steps = chain_calls * batch * REVERSE_STEPS / chain_seconds
    flops = forward_flops(network)
    rates = {"training": 3 * flops * images / 1e12, "sampling": flops * member_steps / 1e12}
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    peak = peak_tflops(card, precision)
    return {
        "precision": precision,
        "training_images_per_second": images,
        "training_steps": step_calls,
        "training_peak_memory_gb": training_gb,
        "member_steps_per_second": member_steps,
        "sampling_batch": batch,
        "sampling_peak_memory_gb": sampling_gb,
        "tflops": rates,
        "fraction_of_peak": peak and {name: rate / peak for name, rate in rates.items()},
    }


def _sample_chains(
    trained: nn.Module, network: Settings, method: Settings, device: torch.device, precision: Any, batch: int
) -> Callable[[], object]:
    """Return a function that samples one reverse chain of a batch of members, as a sampling job does."""
    prepared = prepare_for_inference(trained, device, precision)
    segmenter = build_segmenter(method | {"pool": batch, "reverse_steps": REVERSE_STEPS}, prepared)
    image = torch.zeros(batch, CHANNELS, *network["crop"], device=device)
    names = [("benchmark", member) for member in range(batch)]

    def chain() -> None:
        with torch.inference_mode():
            segmenter(image, None, MemberNoise(names))

    return chain


def measure_precisions(
    network: Settings, method: Settings, device: torch.device, batch: int, seconds: float, precisions: Sequence[str]
) -> list[dict]:
    """Return a row per precision: the measurement, or the reason why the device does not support it.

    Args:
        network: settings of the denoiser.
        method: settings of the method that samples.
        device: the device that computes.
        batch: ensemble members that are sampled together.
        seconds: duration of training, and again of sampling, in each precision.
        precisions: names of the precisions.
    """
    rows = []
    for precision in precisions:
        try:
            rows.append(measure_precision(precision, network, method, device, batch, seconds))
        except ValueError as reason:
            rows.append({"precision": precision, "missing": str(reason)})
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def main(arguments: Sequence[str]) -> int:
    """Measure on the first GPU and write the JSON file; return the exit code."""
    parser = argparse.ArgumentParser(description="Measure the paper's denoiser on a GPU in each precision.")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="duration of training, and again of sampling, in each precision"
    )
    parser.add_argument("--batch", type=int, default=60, help="ensemble members that are sampled together")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "gpu.json")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("error: PyTorch sees no CUDA device here; run `make bench-gpu` on a machine that has one.", file=sys.stderr)
        return 1
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    device = choose_device("auto")
    network, method = resolve.network(config, "denoiser"), resolve.method(config, "ddpm")
    rows = measure_precisions(network, method, device, options.batch, options.seconds, PRECISIONS)
    card = torch.cuda.get_device_name(device)
    write_json(options.output, {"card": card, "commit": commit(), "machine": machine(), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
