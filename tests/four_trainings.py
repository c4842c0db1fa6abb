"""A job for `ranks`: short trainings of four kinds of network, whose outcomes every process writes down."""

import os
import signal
from pathlib import Path

import torch
from test_training import Training, denoiser, training

from pd_ddpm import distributed
from pd_ddpm.build.network import model as build
from pd_ddpm.build.objective import objective as build_objective
from pd_ddpm.networks.supervised import unet
from pd_ddpm.objectives import CrossEntropy, Denoising
from pd_ddpm.training_data import PatchSettings

KINDS = ("unet", "bayesian", "noise", "probabilistic", "truncated")


def make(kind: str, settings: dict) -> Training:
    """A fresh training of this kind; batches of 5 are no multiple of two processes."""
    torch.manual_seed(0)
    changes = {"batch": 5, "steps": 4, "validate_every": 2, "weights": "raw", "select": "last"}
    changes["patches"] = PatchSettings((16, 32), 0.5, (0,), 0.1)
    if kind in ("unet", "bayesian"):
        dropout = 0.3 if kind == "bayesian" else 0.0
        network = unet(spatial_dims=2, in_channels=2, channels=(8, 8, 8, 8, 8), dropout=dropout)
        for name, parameter in network.named_parameters():
            # In front of a batch normalisation it has no effect, and no gradient but rounding, of which Adam makes whole steps.
            parameter.requires_grad_(not name.endswith("conv.bias"))
        return training(network, CrossEntropy(1.0), **changes)
    if kind == "noise":
        return training(denoiser("noise", dropout=0.2), Denoising(1000, "squared_error"), **changes)
    return training(build(settings[kind], 2), build_objective(settings[kind]), **changes)


def main(folder: str, device: str, threads: int, settings: dict, fault: str) -> None:
    torch.set_num_threads(threads)
    if fault:
        interrupted(Path(folder), fault)
        return
    for kind in KINDS:
        job = make(kind, settings)
        fitted = job.fit(Path(folder) / kind)
        outcome = {"history": fitted.history, "model": job.model.state_dict(), "average": job.average.state_dict()}
        torch.save(outcome, Path(folder) / f"{kind}-{distributed.rank()}.pt")


def interrupted(folder: Path, fault: str) -> None:
    """A training of 60 steps; "dies": process 1 is killed in step 3; "short": it lacks memory there."""
    every = 1e-9 if distributed.size() > 1 else 60.0
    job = training(denoiser("noise"), Denoising(1000, "squared_error"), steps=60, validate_every=60, save_every_seconds=every)
    step = job._step

    def disturbed(number):
        if number == 3 and distributed.rank() == 1 and fault == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 3 and distributed.rank() == 1 and fault == "short":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return step(number)

    job._step = disturbed
    job.fit(folder / "work", "denoiser, split 0, seed 0")
    if distributed.rank() == 0:
        torch.save(job.model.state_dict(), folder / "weights.pt")
