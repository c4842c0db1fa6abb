"""Training on a GPU: it computes what the CPU computes, up to rounding; recorded, resumed and compiled steps included."""

import copy
import logging

import numpy as np
import pytest
import torch
from training_examples import (
    CASES,
    INPUTS,
    SETTINGS,
    ActionAt,
    FolderTrainer,
    denoiser,
    send_sigterm,
)

from pd_ddpm.diffusion.noise import stream
from pd_ddpm.runtime.backend import Backend
from pd_ddpm.runtime.memory import MemoryShortageError
from pd_ddpm.runtime.precision import choose_precision
from pd_ddpm.training.affine import AffineSettings
from pd_ddpm.training.batches import DeviceBatches, HostBatches
from pd_ddpm.training.device_slices import DeviceSlices
from pd_ddpm.training.interruption import Interrupted
from pd_ddpm.training.objectives.denoising import Denoising
from pd_ddpm.training.patches import PatchSettings, TrainingSlices
from pd_ddpm.training.settings import TrainingSettings
from pd_ddpm.training.step_random import DeviceRandom

# The import of inductor warns of its own use of torch.jit, and a warning in a test is an error.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

CPU = torch.device("cpu")
SLICES = TrainingSlices(CASES)


def trainer(device, *, dropout=0.0, precision="float32", compile_key=False, objective=None, **changes):
    """A trainer of a small denoiser on the device, without validation."""
    settings = TrainingSettings(**SETTINGS | {"steps": 8} | changes)
    backend = Backend(device, choose_precision(precision, device), compile_key)
    objective = objective or Denoising(1000, "squared_error")
    made = FolderTrainer(denoiser("noise", dropout=dropout), objective, SLICES, settings, 0, backend)
    made.fingerprint_inputs, made.options = INPUTS, {"save_every_seconds": 1e-9}
    return made


def unrecorded(made):
    """The trainer, whose steps are launched kernel by kernel."""
    made.captured = None
    return made


def losses(made, steps):
    return [made.train_step(step)["loss"].item() for step in range(1, steps + 1)]


def assert_close(result, expected, *, atol=5e-4):
    for name, tensor in expected.checkpoint.items():
        torch.testing.assert_close(result.checkpoint[name], tensor, rtol=1e-2, atol=atol, msg=name)


@pytest.mark.parametrize("predicts", ["noise", "mask"])
def test_forward_on_gpu_equals_cpu(cuda, predicts):
    choose_precision("float32", cuda)
    model = denoiser(predicts)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    image, x_t, t = torch.randn(4, 2, 16, 24), torch.randn(4, 1, 16, 24), torch.tensor([1, 10, 500, 1000])
    expected = model.output(x_t, image, t)
    output = copy.deepcopy(model).to(cuda).output(x_t.to(cuda), image.to(cuda), t.to(cuda))
    torch.testing.assert_close(output.cpu(), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


@pytest.mark.parametrize("crop", [(16, 24), (30, 40)])
def test_patches_cut_on_gpu_equal_those_of_the_cpu(cuda, crop):
    """From slices in the memory of the GPU or of the machine; made ahead or late."""
    settings = TrainingSettings(**SETTINGS | {"batch": 12, "patches": PatchSettings(crop, 0.5, (0, 1), 0.1, coordinates=True)})
    host = HostBatches(SLICES, settings, 0, CPU)
    for held in (DeviceSlices(SLICES, cuda), None):
        source = DeviceBatches(SLICES, held, settings, 0, cuda)
        for step in range(1, 6):
            expected, inputs = host.take(step), source.take(step)
            source.prepare(step + 1)
            for ours, theirs in zip(inputs.batch[:3], expected.batch[:3], strict=True):
                assert torch.equal(ours.cpu(), theirs)
            assert (inputs.rng.integers(1, 1001, 12) == expected.rng.integers(1, 1001, 12)).all()


def test_transformed_patches_on_gpu_equal_those_of_the_cpu(cuda):
    """Up to the rounding of positions. From slices in the memory of the GPU or of the machine."""
    affine = AffineSettings(rotation_degrees=30, scale=0.2, shear_degrees=20, shift=0.3, probability=0.7, unit="mm")
    patches = PatchSettings((16, 24), 0.5, (0, 1), 0.1, affine=affine)
    settings = TrainingSettings(**SETTINGS | {"batch": 12, "patches": patches})
    expected = HostBatches(SLICES, settings, 0, CPU).take(1).batch
    for held in (DeviceSlices(SLICES, cuda), None):
        batch = DeviceBatches(SLICES, held, settings, 0, cuda).take(1).batch
        torch.testing.assert_close(batch.image.cpu(), expected.image, rtol=1e-4, atol=1e-4)
        assert (batch.mask.cpu() == expected.mask).float().mean() > 0.999


def test_steps_on_gpu_equal_those_of_the_cpu(cuda, monkeypatch):
    """With the CPU's noise in place of the device's. The last five of the eight steps are replays."""
    monkeypatch.setattr(
        DeviceRandom,
        "standard_normal",
        lambda self, size, dtype=np.float32: torch.from_numpy(np.random.Generator.standard_normal(self, size, dtype)).to(cuda),
    )
    expected, made = losses(trainer(CPU), 8), trainer(cuda)
    assert losses(made, 8) == pytest.approx(expected, rel=2e-3)
    assert made.captured.is_recorded


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_recorded_training_equals_one_launched_kernel_by_kernel(cuda, tmp_path, dropout, precision):
    """Dropout takes other numbers in each replay, and the same as without a record."""
    options = {"dropout": dropout, "precision": precision}
    made = trainer(cuda, **options)
    result = made.fit(tmp_path / "recorded")
    assert made.captured.is_recorded
    expected = unrecorded(trainer(cuda, **options)).fit(tmp_path / "launched")
    assert result.history[-1]["loss"] == pytest.approx(expected.history[-1]["loss"], rel=1e-2)
    assert_close(result, expected, atol=5e-4 if precision == "float32" else 5e-3)


def test_noise_differs_between_replays(cuda):
    made = trainer(cuda, dropout=0.2, batch=4)
    losses(made, 5)
    inputs = made.batches.take(6)
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        rng = DeviceRandom(stream("x", seed), seed, cuda)
        made.captured.run(inputs._replace(rng=rng), 0.0, 0.0)  # a learning rate of 0 leaves the weights as they are
        values.append(made.captured.random.draws[1].values.clone())
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def test_killed_training_resumes_on_gpu(cuda, tmp_path):
    """Equal up to rounding: batches, timesteps, noise and dropout are the same, sums on a GPU may be rounded differently."""
    whole = trainer(cuda, steps=20, dropout=0.2).fit(tmp_path / "whole")
    objective = ActionAt(Denoising(1000, "squared_error"), 3, send_sigterm)  # in the third step, whose loss is still called
    with pytest.raises(Interrupted, match="Step 7 of 20"):
        trainer(cuda, steps=20, dropout=0.2, objective=objective).fit(tmp_path / "parts")
    resumed = trainer(cuda, steps=20, dropout=0.2)
    assert_close(resumed.fit(tmp_path / "parts"), whole, atol=2e-3)
    assert resumed.progress.step == 20


@pytest.mark.filterwarnings("ignore")  # PyTorch recommends TF32
def test_compiled_training_equals_uncompiled_one(cuda, tmp_path, monkeypatch, caplog):
    """Compiled kernels round differently. Adam turns tiny differences of small gradients into steps of its learning rate."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    made = trainer(cuda, compile_key=True)
    result = made.fit(tmp_path / "compiled")
    assert made.captured.is_recorded
    assert "torch.compile failed" not in caplog.text
    expected = trainer(cuda).fit(tmp_path / "uncompiled")
    assert result.history[-1]["loss"] == pytest.approx(expected.history[-1]["loss"], rel=1e-2)
    assert_close(result, expected, atol=5e-3)


def test_out_of_memory_names_settings_to_reduce(cuda, tmp_path):
    torch.cuda.set_per_process_memory_fraction(0.005, cuda)
    try:
        with pytest.raises(
            MemoryShortageError, match=r"step 1 of 8: out of memory \(.*\)\. Reduce `batch` \(20000\) or `crop`"
        ):
            trainer(cuda, batch=20000).fit(tmp_path)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, cuda)
        torch.cuda.empty_cache()


def test_slices_that_do_not_fit_are_cut_on_the_cpu(cuda, monkeypatch, caplog):
    expected = losses(trainer(cuda), 5)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 1000))
    with caplog.at_level(logging.INFO):
        made = trainer(cuda)
    assert made.batches.held is None
    assert "stay in main memory" in caplog.text
    assert losses(made, 5) == pytest.approx(expected, rel=1e-3)
