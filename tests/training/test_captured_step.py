"""Steps that are recorded and replayed equal those that are launched kernel by kernel (about 4 s).

A CUDA graph needs a GPU. Here, a recorded step is called again in its place: it must read all that changes from the tensors
that a graph would read.
"""

import logging
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from training_examples import CASES, SETTINGS, Scale, denoiser, folder_trainer

from pd_ddpm.models.networks.probabilistic_unet import ProbabilisticUNet
from pd_ddpm.runtime.backend import Backend
from pd_ddpm.runtime.precision import PRECISIONS
from pd_ddpm.training.batches import DeviceBatches, HostBatches, make_batches
from pd_ddpm.training.captured_step import CapturedStep, make_captured_step
from pd_ddpm.training.device_slices import DeviceSlices
from pd_ddpm.training.objectives.base import Phase
from pd_ddpm.training.objectives.denoising import Denoising
from pd_ddpm.training.objectives.elbo import EvidenceLowerBound
from pd_ddpm.training.objectives.segmentation import CrossEntropy
from pd_ddpm.training.objectives.strategies import Recycling
from pd_ddpm.training.patches import Batch, PatchSettings, TrainingSlices
from pd_ddpm.training.settings import TrainingSettings
from pd_ddpm.training.step_random import ReplayedRandom
from pd_ddpm.training.trainer import Trainer

CPU = torch.device("cpu")
SLICES = TrainingSlices(CASES)
PATCHES = PatchSettings((8, 16), 0.5, (0,), 0.1)


class RepeatedCall:
    """Calls the recorded function for each replay."""

    def __init__(self):
        self.replays = 0

    def warm_up(self, function):
        function()

    def record(self, function):
        self.function = function

    def replay(self):
        self.replays += 1
        self.function()


def probabilistic_unet():
    torch.manual_seed(0)
    return ProbabilisticUNet(spatial_dims=2, in_channels=2, channels=(8, 8, 16), latent=3)


def checkpointed_denoiser():
    model = denoiser("noise")
    model.network.activation_checkpointing = True
    return model


def as_on_gpu(trainer, *, recorded):
    """Let a trainer make batches as on a GPU, and record its steps."""
    trainer.batches = DeviceBatches(SLICES, DeviceSlices(SLICES, CPU), trainer.settings, 0, CPU)
    if recorded:
        trainer.captured = CapturedStep(trainer._static_step, RepeatedCall(), CPU)
    return trainer


@pytest.mark.parametrize(
    ("make", "objective"),
    [
        (lambda: denoiser("noise", dropout=0.2), Denoising(1000, "squared_error")),
        (lambda: denoiser("mask"), Denoising(1000, "cross_entropy_dice")),
        (Scale, CrossEntropy(1.0)),
        (probabilistic_unet, EvidenceLowerBound(1.0, free_bits=0.1)),
    ],
    ids=["noise, dropout", "mask", "segmentation", "probabilistic_unet"],
)
def test_recorded_training_equals_one_launched_kernel_by_kernel(tmp_path, make, objective):
    """Learning rate, moving average, clipping, dropout and running statistics included."""
    results = []
    for recorded in (False, True):
        folder = tmp_path / str(recorded)
        trainer = as_on_gpu(folder_trainer(make(), objective, validation=[], patches=PATCHES, steps=8), recorded=recorded)
        results.append(trainer.fit(folder))
    assert trainer.captured.graph.replays == 5
    expected, result = results
    for name, tensor in expected.checkpoint.items():
        torch.testing.assert_close(result.checkpoint[name], tensor, rtol=1e-3, atol=2e-5, msg=name)
    for ours, theirs in zip(result.history, expected.history, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert all(
        isinstance(group["lr"], float) and not group["capturable"] for group in trainer.optimisers["training"].param_groups
    )


def test_device_batches_have_patches_and_timesteps_of_the_cpu():
    settings = TrainingSettings(**SETTINGS | {"patches": PATCHES})
    host = HostBatches(SLICES, settings, 3, CPU)
    for held in (None, DeviceSlices(SLICES, CPU)):
        ahead, late = (DeviceBatches(SLICES, held, settings, 3, CPU) for _ in range(2))
        for step in (1, 2, 5):
            expected = host.take(step)
            ahead.prepare(step)
            for inputs in (ahead.take(step), late.take(step)):
                assert all(torch.equal(*pair) for pair in zip(inputs.batch[:3], expected.batch[:3], strict=True))
                assert inputs.torch_seed == expected.torch_seed
                timesteps = inputs.rng.integers(1, 1001, 4)
                noise = inputs.rng.standard_normal((4, 1, 8, 8))
            assert (timesteps == expected.rng.integers(1, 1001, 4)).all()
            assert torch.equal(noise, torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(expected.torch_seed)))
    assert isinstance(make_batches(SLICES, settings, 0, CPU), HostBatches)


def test_step_whose_random_numbers_vary_is_launched_kernel_by_kernel(tmp_path, caplog):
    """Recycled rows differ in number between steps. The result is the same, and the log says why, once."""
    objective = Denoising(1000, "cross_entropy_dice", strategy=Recycling(0.5))
    results = []
    with caplog.at_level(logging.INFO):
        for recorded in (False, True):
            trainer = folder_trainer(denoiser("mask"), objective, validation=[], patches=PATCHES, steps=4)
            results.append(as_on_gpu(trainer, recorded=recorded).fit(tmp_path / str(recorded)))
    expected, result = results
    assert all(torch.equal(result.checkpoint[name], tensor) for name, tensor in expected.checkpoint.items())
    messages = [record.getMessage() for record in caplog.records if "CUDA graph" in record.getMessage()]
    assert messages == [
        "the training step is not recorded as a CUDA graph: its loss draws `random`, which may differ between steps. "
        "Its kernels are launched one by one."
    ]


class WithoutHostTensors(TorchDispatchMode):
    """Fails if an operation reads or makes a tensor outside of the device, which a CUDA graph could not replay."""

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for value in tree_leaves((arguments, keywords, result)):
            assert not isinstance(value, torch.Tensor) or value.device.type == "meta", function
        return result


@pytest.mark.parametrize(
    ("make", "objective"),
    [
        (lambda: denoiser("noise", dropout=0.2), Denoising(1000, "squared_error")),
        (lambda: denoiser("mask"), Denoising(1000, "cross_entropy_dice")),
        (checkpointed_denoiser, Denoising(1000, "squared_error")),
        (Scale, CrossEntropy(1.0)),
        (probabilistic_unet, EvidenceLowerBound(1.0, free_bits=0.1)),
    ],
    ids=["noise, dropout", "mask", "checkpointing", "segmentation", "probabilistic_unet"],
)
def test_step_needs_no_value_and_no_tensor_of_the_host(monkeypatch, make, objective):
    """Tensors on the device meta have no values, so that any request for one fails."""
    meta = torch.device("meta")
    settings = TrainingSettings(**SETTINGS)
    trainer = Trainer(make(), objective, SLICES, settings, 0, Backend(meta, PRECISIONS["float32"]))
    trainer.optimisers["training"].step = lambda: None  # fused Adam refuses the device
    random = ReplayedRandom()
    random.renew(
        SimpleNamespace(
            device=meta,
            integers=lambda low, high, size: torch.zeros(size, dtype=torch.int64, device=meta),
            standard_normal=lambda size: torch.zeros(size, device=meta),
        )
    )
    batch = Batch(torch.zeros(2, 2, 8, 16, device=meta), *torch.zeros(2, 2, 1, 8, 16, device=meta))
    numbers = torch.zeros(2, device=meta)
    trainer._static_step(batch, random, *numbers)
    random.rewind()
    monkeypatch.setattr(torch, "get_rng_state", pytest.fail)  # forbidden while a graph is recorded
    with WithoutHostTensors():
        trainer._static_step(batch, random, *numbers)


def loss_with(*shapes):
    """A loss that draws noise of these shapes, one after another."""
    remaining = iter(shapes)

    def loss(model, batch, rng):
        return {"loss": model.factor * sum(rng.standard_normal(shape).sum() for shape in next(remaining))}

    return loss


@pytest.mark.parametrize("second", [[(3,)], [(2,), (2,)], []])
def test_step_that_draws_other_numbers_than_before_is_not_recorded(caplog, second):
    trainer = as_on_gpu(folder_trainer(Scale(), CrossEntropy(1.0)), recorded=True)
    loss = loss_with([(2,)], second, second)
    trainer.phases = [Phase("training", loss, [trainer.model.factor])]
    with caplog.at_level(logging.INFO):
        for step in (1, 2):
            trainer.train_step(step)
    assert trainer.captured is None
    assert "draws" in caplog.text


def test_error_of_a_graph_is_a_warning_and_one_of_memory_stops(caplog):
    class Failing(RepeatedCall):
        error = RuntimeError("operation not permitted when stream is capturing")

        def record(self, function):
            raise self.error

    for error in (Failing.error, torch.OutOfMemoryError("CUDA out of memory.")):
        trainer = as_on_gpu(folder_trainer(Scale(), CrossEntropy(1.0), patches=PATCHES), recorded=True)
        trainer.captured.graph = Failing()
        trainer.captured.graph.error = error
        for step in (1, 2, 3):
            trainer.train_step(step)
        if isinstance(error, torch.OutOfMemoryError):
            with pytest.raises(torch.OutOfMemoryError):
                trainer.train_step(4)
        else:
            before = trainer.model.factor.item()
            trainer.train_step(4)
            assert trainer.captured is None
            assert trainer.model.factor.item() != before
            assert "operation not permitted when stream is capturing" in caplog.text


@pytest.mark.parametrize(
    ("phases", "precision", "is_divided", "reason"),
    [
        ([Phase("a", None, []), Phase("b", None, [])], "float32", False, "several optimisers"),
        ([Phase("a", None, [], needs_progress=True)], "float32", False, "changes with the number of the step"),
        ([Phase("a", None, [])], "float16", False, "the scale of float16 gradients"),
        ([Phase("a", None, [])], "float32", True, "its batch is divided"),
    ],
)
def test_make_captured_step_logs_why_a_step_is_not_recorded(caplog, phases, precision, is_divided, reason):
    backend = Backend(torch.device("cuda"), PRECISIONS[precision])
    with caplog.at_level(logging.INFO):
        assert make_captured_step(None, phases, backend, is_divided) is None
    assert reason in caplog.text
    assert make_captured_step(None, phases, Backend(CPU, PRECISIONS["float32"])) is None
