"""Training on a GPU: it computes what the CPU computes, up to rounding."""

import copy

import pytest
import torch
from training_examples import denoiser

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("predicts", ["noise", "mask"])
def test_forward_on_gpu_equals_cpu(cuda, predicts):
    model = denoiser(predicts)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    image, x_t, t = torch.randn(4, 2, 16, 24), torch.randn(4, 1, 16, 24), torch.tensor([1, 10, 500, 1000])
    expected = model.output(x_t, image, t)
    output = copy.deepcopy(model).to(cuda).output(x_t.to(cuda), image.to(cuda), t.to(cuda))
    torch.testing.assert_close(output.cpu(), expected, rtol=1e-3, atol=1e-4)
