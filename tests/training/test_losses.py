"""Losses against closed forms, PyTorch and MONAI (about 4 s, for the import of MONAI)."""

import math

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss
from torch.nn import functional

from pd_ddpm.training.objectives.losses import cross_entropy, masked_mean, soft_dice_loss, squared_error


def example(size=(6, 7), seed=0):
    random = np.random.default_rng(seed)
    logits = torch.from_numpy(random.standard_normal((3, 1, *size)))
    mask = torch.from_numpy((random.random((3, 1, *size)) < 0.3).astype(float))
    loss_mask = torch.from_numpy((random.random((3, 1, *size)) < 0.8).astype(float))
    return logits, mask, loss_mask


@pytest.mark.parametrize("size", [(6, 7), (3, 6, 7)])
def test_losses_equal_libraries_outside_ignored_pixels(size):
    logits, mask, loss_mask = example(size)
    kept = loss_mask > 0
    expected = functional.binary_cross_entropy_with_logits(logits[kept], mask[kept])
    torch.testing.assert_close(cross_entropy(logits, mask, loss_mask), expected)
    torch.testing.assert_close(squared_error(logits, mask, loss_mask), functional.mse_loss(logits[kept], mask[kept]))
    # MONAI's smooth terms of 1 for the ratio of the whole batch are ours.
    dice = DiceLoss(batch=True, smooth_nr=1, smooth_dr=1)
    flat = [part[kept].reshape(1, 1, -1) for part in (logits.sigmoid(), mask)]
    torch.testing.assert_close(soft_dice_loss(logits.sigmoid(), mask, loss_mask), dice(*flat))


def test_losses_equal_closed_forms():
    half = torch.full((2, 1, 4, 4), 0.5)
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, 0, :2] = 1  # 8 of 32
    everywhere = torch.ones(2, 1, 4, 4)
    assert cross_entropy(torch.zeros(2, 1, 4, 4), mask, everywhere).item() == pytest.approx(math.log(2))
    assert squared_error(half, mask, everywhere).item() == pytest.approx(0.25)
    # Overlap 8 / 2, volumes 16 and 8: 1 - (2 * 4 + 1) / (24 + 1).
    assert soft_dice_loss(half, mask, everywhere).item() == pytest.approx(1 - 9 / 25)
    assert soft_dice_loss(mask, mask, everywhere).item() == 0
    assert soft_dice_loss(1 - mask, mask, everywhere).item() == pytest.approx(1 - 1 / 33)
    assert masked_mean(mask, everywhere).item() == pytest.approx(0.25)
    assert masked_mean(mask, mask).item() == 1


@pytest.mark.parametrize(
    "loss", [cross_entropy, squared_error, lambda x, mask, loss_mask: soft_dice_loss(x.sigmoid(), mask, loss_mask)]
)
def test_losses_do_not_depend_on_ignored_pixels(loss):
    """Neither mask nor prediction there changes the loss, and the gradient there is exactly zero."""
    logits, mask, loss_mask = example()
    logits.requires_grad_()
    value = loss(logits, mask, loss_mask)
    value.backward()
    assert (logits.grad[loss_mask == 0] == 0).all()
    assert (logits.grad[loss_mask == 1] != 0).all()
    changed = torch.where(loss_mask > 0, logits, 7.0), torch.where(loss_mask > 0, mask, 1 - mask)
    assert loss(*changed, loss_mask).item() == value.item()


def test_soft_dice_loss_is_defined_for_empty_batches():
    logits, mask, loss_mask = example()
    for loss in (cross_entropy, squared_error):
        assert loss(logits, mask, torch.zeros_like(loss_mask)).item() == 0
    assert soft_dice_loss(logits.sigmoid(), mask, torch.zeros_like(loss_mask)).item() == 0
    empty = soft_dice_loss(torch.zeros_like(mask), torch.zeros_like(mask), loss_mask)
    assert empty.item() == 0
    false_alarm = soft_dice_loss(torch.full_like(mask, 0.1), torch.zeros_like(mask), torch.ones_like(mask)).item()
    assert false_alarm == pytest.approx(1 - 1 / (1 + 0.1 * mask.numel()))


def test_loss_gradients_agree_with_finite_differences():
    logits, mask, loss_mask = example()
    logits.requires_grad_()
    for loss in (cross_entropy, squared_error, lambda x, m, c: soft_dice_loss(x.sigmoid(), m, c)):
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, mask, loss_mask), logits)
