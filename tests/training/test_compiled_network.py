"""Trainings with a compiled network: equal results, uncompiled validation, and few steps uncompiled (about 3 s)."""

import logging

import pytest
import torch
from training_examples import Scale, folder_trainer

from pd_ddpm.runtime.backend import Backend
from pd_ddpm.runtime.precision import PRECISIONS
from pd_ddpm.training.compiled_network import compile_network
from pd_ddpm.training.objectives.segmentation import CrossEntropy
from pd_ddpm.training.step_random import ChangingStepError

# The import of inductor warns of its own use of torch.jit, and a warning in a test is an error.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def calls(monkeypatch):
    """Lets torch.compile trace networks without generating code, which takes minutes; lists the batch of each traced call."""
    batches, compile_function = [], torch.compile

    def trace(function, *, mode, **options):
        def counted(graph, inputs):
            def call(*arguments):
                batches.append(len(arguments))
                return graph(*arguments)

            return call

        return compile_function(function, backend=counted, **options)

    monkeypatch.setattr(torch, "compile", trace)
    return batches


def trainer(setting):
    made = folder_trainer(Scale(), CrossEntropy(1.0), steps=4, validate_every=2, weights="raw")
    made.backend = Backend(torch.device("cpu"), PRECISIONS["float32"], setting)
    return made


def test_training_with_compiled_network_equals_one_without(tmp_path, calls):
    """Only the four training steps call the compiled network; validation, of raw weights here, does not."""
    expected = trainer(False).fit(tmp_path / "without")
    assert not calls
    result = trainer(True).fit(tmp_path / "with")
    assert len(calls) == 4
    for name, tensor in expected.checkpoint.items():
        torch.testing.assert_close(result.checkpoint[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("setting", "device", "steps", "expected"),
    [
        ("auto", "cuda", 4999, False),
        ("auto", "cuda", 5000, True),
        ("auto", "cpu", 5000, False),
        (True, "cuda", 1, True),
        (False, "cuda", 5000, False),
    ],
)
def test_compile_network_compiles_if_steps_pay_for_it(calls, caplog, setting, device, steps, expected):
    with caplog.at_level(logging.INFO):
        compiled = compile_network(Scale(), setting, torch.device(device), steps)
    assert (compiled is not None) is expected
    assert ("too few" in caplog.text) is (steps == 4999)


def test_step_that_varies_runs_uncompiled(calls, caplog):
    class Varying:
        def run(self, *arguments):
            raise ChangingStepError("its loss draws `random`, which may differ between steps")

    made = trainer(True)
    made.compile(4)
    made.captured = Varying()
    with caplog.at_level(logging.INFO):
        made.train_step(1)
    assert made.captured is None
    assert not calls
    assert "is not recorded as a CUDA graph" in caplog.text
    assert "not compiled either" in caplog.text
