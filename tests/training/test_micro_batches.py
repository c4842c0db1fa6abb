"""Batches in parts have the gradients of whole batches (about 2 s)."""

import copy

import pytest
import torch
from training_examples import denoiser, folder_trainer

from pd_ddpm.models.factory import build_model
from pd_ddpm.runtime.memory import MemoryShortageError
from pd_ddpm.training.micro_batches import DividedForward, divide_batches
from pd_ddpm.training.objectives.denoising import Denoising
from pd_ddpm.training.objectives.segmentation import DiceFocal
from pd_ddpm.training.objectives.strategies import Recycling


def imgx():
    torch.manual_seed(0)
    settings = {"architecture": "imgx_unet", "spatial_dims": 2, "channels": [4, 8], "residual_blocks": 1, "heads": 2}
    settings |= {"first_downsampling": None, "dropout": 0.0, "activation_checkpointing": True}
    return build_model(settings, 2)


@pytest.mark.parametrize(
    ("make", "objective"),
    [
        (lambda: denoiser("mask"), Denoising(1000, "cross_entropy_dice", strategy=Recycling(0.5, "soft", "last"))),
        (lambda: denoiser("noise"), Denoising(1000, "squared_error")),
        (imgx, DiceFocal(1.0)),
    ],
    ids=["Dice of the batch, recycled", "noise", "imgx, activation checkpointing"],
)
def test_gradients_of_a_divided_batch_are_those_of_the_whole_one(make, objective):
    """Also for losses that are no mean over patches, with all random numbers, and if the last part is smaller."""
    rows = []
    for part in (None, 2):
        torch.manual_seed(0)
        trainer = folder_trainer(make(), objective, batch=5, micro_batch=part)
        for parameter in trainer.model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        if part is not None:
            forward = trainer.model.network.forward if hasattr(trainer.model, "network") else trainer.model.forward
            whole, seen = forward.forward, []
            forward.forward = lambda *inputs, whole=whole, seen=seen: seen.append(len(inputs[0])) or whole(*inputs)
        values = trainer.run_step(1)
        rows.append([values["loss"], *(parameter.grad for parameter in trainer.model.parameters())])
    scale = max(gradient.abs().max() for gradient in rows[0][1:])
    torch.testing.assert_close(rows[1], rows[0], rtol=1e-3, atol=1e-5 * scale.item())
    assert max(seen) == 2
    assert not isinstance(trainer.average.forward, DividedForward)


def test_dropout_is_the_same_when_activations_are_computed_again():
    """Otherwise gradients would be those of other activations than the loss saw."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Conv2d(1, 1, 1, bias=False))
    divided = copy.deepcopy(network)
    divide_batches(divided, 2)
    image = torch.randn(5, 1, 8, 8)
    output = divided(image)
    output.sum().backward()
    weight = divided[1].weight
    assert (output.sum() / weight).item() == pytest.approx(weight.grad.item(), rel=1e-4)


def test_shortage_of_memory_names_the_part(tmp_path):
    class Full(DiceFocal):
        def loss(self, model, batch, rng):
            raise MemoryError("out of memory")

    with pytest.raises(MemoryShortageError, match=r"Reduce `micro_batch` \(2\) or `crop`"):
        folder_trainer(imgx(), Full(1.0), batch=5, micro_batch=2).fit(tmp_path)
