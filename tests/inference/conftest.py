"""A stand-in for the code generation of torch.compile."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture
def without_code_generation(monkeypatch: pytest.MonkeyPatch) -> set[tuple[int, ...]]:
    """Let torch.compile trace functions without generating code, which takes seconds; holds the image sizes of all calls."""
    sizes: set[tuple[int, ...]] = set()
    compile_function = torch.compile

    def trace(function: Callable[..., Tensor], *, mode: str, **options: Any) -> Callable[..., Tensor]:
        traced = compile_function(function, backend="eager", **options)

        def call(x: Tensor, *further: Tensor) -> Tensor:
            sizes.add(tuple(x.shape[2:]))
            return traced(x, *further)

        return call

    monkeypatch.setattr(torch, "compile", trace)
    return sizes
