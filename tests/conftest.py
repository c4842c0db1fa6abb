"""One thread for PyTorch: results are then equal bit for bit, and tests that run side by side do not slow each other down."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
