"""Compiled functions: when they compile, and the way back if compiling fails (about 1 s)."""

import logging
import os

import pytest
import torch

from pd_ddpm.runtime import compilation
from pd_ddpm.runtime.compilation import CompiledFunction, is_compiled

# The import of inductor warns of its own use of torch.jit, and a warning in a test is an error.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that the variable is restored afterwards
    del os.environ["TORCHINDUCTOR_CACHE_DIR"]


@pytest.mark.parametrize(
    ("setting", "device", "expected"),
    [
        ("auto", "cpu", False),
        ("auto", "cuda", True),
        (True, "cpu", True),
        (True, "cuda", True),
        (False, "cuda", False),
    ],
)
def test_is_compiled_never_on_a_cpu_unless_requested(setting, device, expected):
    assert is_compiled(setting, torch.device(device)) is expected


def test_compiled_function_falls_back_with_one_warning_if_compiling_fails(caplog):
    def of_printed_value(x):
        return x + float(str(x.sum().item()))  # text of a value breaks the graph

    with caplog.at_level(logging.WARNING):
        compiled = CompiledFunction(of_printed_value, "the denoiser")
        values = [compiled(torch.ones(length)) for length in (2, 3)]
    assert [value.tolist() for value in values] == [[3.0, 3.0], [4.0, 4.0, 4.0]]
    (warning,) = [record.getMessage() for record in caplog.records if record.name == compilation.log.name]
    assert warning.startswith("the denoiser: torch.compile failed (")
    assert warning.endswith("). It runs uncompiled, which is slower.")


def test_compiled_function_does_not_hide_a_lack_of_memory(monkeypatch):
    def compile_without_memory(function, **_):
        def call(*_):
            raise torch.OutOfMemoryError("CUDA out of memory.")

        return call

    monkeypatch.setattr(torch, "compile", compile_without_memory)
    with pytest.raises(torch.OutOfMemoryError):
        CompiledFunction(torch.square, "square")(torch.ones(2))
