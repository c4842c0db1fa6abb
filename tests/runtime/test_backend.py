"""From the plain values of a job to PyTorch's threads, device and precision."""

import pytest
import torch

from pd_ddpm.runtime.backend import Backend
from pd_ddpm.runtime.compute import Compute


def test_from_compute_sets_threads_and_chooses_device_and_precision() -> None:
    backend = Backend.from_compute(Compute("cpu", "float32", threads=2, batch="auto"))
    assert torch.get_num_threads() == 2
    assert (backend.device, str(backend.precision)) == (torch.device("cpu"), "float32")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(("device", "precision", "key"), [("cuda", "float32", "device"), ("cpu", "float16", "precision")])
def test_from_compute_names_the_key_that_this_machine_does_not_support(device: str, precision: str, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        Backend.from_compute(Compute(device, precision, threads=1, batch=1))


def test_autocast_computes_in_the_precision() -> None:
    layer, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
    with Backend.from_compute(Compute("cpu", "float32", threads=1, batch=1)).autocast():
        assert layer(x).dtype == torch.float32
