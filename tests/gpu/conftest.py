"""The GPU of the tests in this folder. They are skipped without one."""

import pytest
import torch


@pytest.fixture
def cuda() -> torch.device:
    """The first GPU; skips the test without a GPU."""
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device here")
    return torch.device("cuda:0")
