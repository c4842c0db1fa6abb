"""The paper's denoiser on a GPU: `make bench-gpu`.

    python -m benchmarks.gpu [--seconds 60] [--batch 60] [--output benchmarks/gpu.json]

In each number format that the device has, the network of config/config.yaml (113.67 million parameters) is trained on made-up
slices of 128 x 192 in batches of twelve for so many seconds, by the step of a training job; then members are drawn in
batches of `--batch` by the segmenter of a sampling job, for as long. It writes images and member-steps per second, the peak
memory, and the fraction of the card's peak: FLOPs counted by PyTorch over the peak of the card's data sheet (dense). A card
without an entry in PEAK_TFLOPS gets no fraction. Without a GPU it ends with a sentence.
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
REVERSE_STEPS = 10  # of one chain; as many chains as there is time for
WARM_UP = 3

# Dense, by the vendor's data sheets: float32 outside the tensor cores, TF32, and half precision with float32 accumulation.
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
    """The card's peak in this format; the first entry whose words are all in the card's name counts."""
    found = [peak for name, peak in PEAK_TFLOPS.items() if all(word in card.replace("-", " ").split() for word in name.split())]
    return found[0].get(precision) if found else None


def forward_flops(network: Settings) -> int:
    """FLOPs of one forward pass of one image, counted on shapes alone; a training step takes three times as many."""
    with torch.device("meta"):
        counted = build_model(network, CHANNELS).network
        x, t = torch.empty(1, CHANNELS + 1, *network["crop"]), torch.zeros(1)
        with FlopCounterMode(display=False) as flops, torch.no_grad():
            counted(x, t)
    return flops.get_total_flops()


def repeated(call: Callable[[], object], device: torch.device, seconds: float) -> tuple[int, float, float | None]:
    """How often a call was made in about so many seconds, after some that warm up; seconds, and peak GPU memory in GB."""

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
    taken = time.perf_counter() - start
    return calls, taken, torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None


def measured(precision: str, network: Settings, method: Settings, device: torch.device, batch: int, seconds: float) -> dict:
    """Training and sampling in one format. Raises ValueError where the device lacks it."""
    chosen = choose_precision(precision, device)
    torch.manual_seed(0)
    untrained = build_model(network, CHANNELS)
    slices = TrainingSlices(artificial_slices(4, 12, network["crop"]))
    optimisation = build_training_settings(network)
    trainer = Trainer(untrained, build_objective(network), slices, optimisation, seed=0, backend=Backend(device, chosen))
    steps = iter(range(1, network["steps"] + 1))
    step_calls, step_seconds, training_gb = repeated(lambda: trainer.run_step(next(steps)), device, seconds)
    chain_calls, chain_seconds, sampling_gb = repeated(
        _chain(trainer.eval_model, network, method, device, chosen, batch), device, seconds
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


def _chain(
    trained: nn.Module, network: Settings, method: Settings, device: torch.device, precision: Any, batch: int
) -> Callable[[], object]:
    """Reverse chains of a batch of members as a sampling job draws them, one a call."""
    placed = prepare_for_inference(trained, device, precision)
    draw = build_segmenter(method | {"pool": batch, "reverse_steps": REVERSE_STEPS}, placed)
    image = torch.zeros(batch, CHANNELS, *network["crop"], device=device)
    names = [("benchmark", member) for member in range(batch)]

    def chain() -> None:
        with torch.inference_mode():
            draw(image, None, MemberNoise(names))

    return chain


def all_formats(
    network: Settings, method: Settings, device: torch.device, batch: int, seconds: float, precisions: Sequence[str]
) -> list[dict]:
    """A row for each number format: what was measured, or the reason why the device lacks it."""
    rows = []
    for precision in precisions:
        try:
            rows.append(measured(precision, network, method, device, batch, seconds))
        except ValueError as reason:
            rows.append({"precision": precision, "missing": str(reason)})
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def main(arguments: Sequence[str]) -> int:
    """Measure on the first GPU and write the file; returns the exit code."""
    parser = argparse.ArgumentParser(description="The paper's denoiser on a GPU, in each number format.")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, and again of sampling, in each format")
    parser.add_argument("--batch", type=int, default=60, help="members of slices that are drawn together")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "gpu.json")
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("error: PyTorch sees no CUDA device here; run `make bench-gpu` on a machine that has one.", file=sys.stderr)
        return 1
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    device = choose_device("auto")
    work = (resolve.network(config, "denoiser"), resolve.method(config, "ddpm"), device, chosen.batch, chosen.seconds)
    rows = all_formats(*work, PRECISIONS)
    card = torch.cuda.get_device_name(device)
    write_json(chosen.output, {"card": card, "commit": commit(), "machine": machine(), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
