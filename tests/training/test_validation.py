"""Validation by short chains: oracles, starts, noise, and columns of the history (about 3 s)."""

import math

import pytest
import torch
from torch import nn
from training_examples import VALIDATION, Scale, case, denoiser, folder_trainer

from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.mask_coding import CODINGS
from pd_ddpm.diffusion.noise import stream
from pd_ddpm.diffusion.schedule import Schedule
from pd_ddpm.runtime.backend import Backend
from pd_ddpm.runtime.precision import PRECISIONS
from pd_ddpm.training.objectives.base import Estimate
from pd_ddpm.training.objectives.denoising import Denoising
from pd_ddpm.training.objectives.segmentation import CrossEntropy
from pd_ddpm.training.patches import as_batch
from pd_ddpm.training.validator import Validator, presegment

SCHEDULE = Schedule.cosine()
BACKEND = Backend(torch.device("cpu"), PRECISIONS["float32"])
OBJECTIVE = Denoising(1000, "squared_error")


class MaskOracle(nn.Module):
    """A network that returns the logits of the true mask, which is the first image channel. `times` lists its timesteps."""

    divisor = 16

    def __init__(self):
        super().__init__()
        self.times = []

    def forward(self, x, t):
        self.times.append(t[0].item())
        return 40 * x[:, :1] - 20


class Copy(nn.Module):
    """A network that returns the logits of its own x_t, whatever the image; the coding is that of 0 and 1."""

    divisor = 16

    def forward(self, x, t):
        return x[:, -1:].clamp(1e-6, 1 - 1e-6).logit()


class Threshold(nn.Module):
    """A deterministic segmentation network: lesion where the first channel is above a threshold."""

    divisor = 32

    def __init__(self, threshold):
        super().__init__()
        self.threshold = threshold

    def forward(self, image):
        return image[:, :1] - self.threshold


def with_truth_as_image(name):
    """A case without other pathology whose first image channel is the true mask."""
    slices = case(name)
    fractions = slices.label_fractions * torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    return slices._replace(image=torch.cat([fractions[:, :1], slices.image[:, 1:]], dim=1), label_fractions=fractions)


CASES = [with_truth_as_image("v"), with_truth_as_image("w")]


def scores(network, presegmenter=None, cases=CASES, objective=OBJECTIVE):
    model = Denoiser(network, SCHEDULE, CODINGS["binary"], "mask")
    return Validator(objective, cases, 8, 0, BACKEND, presegmenter).scores(model)


@pytest.mark.parametrize("coding", CODINGS)
def test_oracle_denoiser_has_dice_1_by_chains(coding):
    model = Denoiser(MaskOracle(), SCHEDULE, CODINGS[coding], "mask")
    columns = Validator(OBJECTIVE, CASES, 8, 0, BACKEND, Threshold(10.0)).scores(model)
    assert columns == {
        "validation_dice": 1.0,
        "validation_dice_noise": 1.0,
        "validation_dice_presegmentation": 1.0,
        "validation_dice_diffused_truth": 1.0,
    }


def test_denoiser_that_copies_x_t_scores_high_from_diffused_truth_and_near_chance_from_noise():
    """Selection must not see the figure in which the input holds the answer."""
    columns = scores(Copy())
    lesion = torch.cat([one.label_fractions[:, :1] for one in CASES]).mean().item()
    chance = 2 * lesion * 0.5 / (lesion + 0.5)  # a mask of independent fair coins
    assert columns["validation_dice_diffused_truth"] > 3 * chance
    assert columns["validation_dice_noise"] < 1.3 * chance < 0.16
    assert columns["validation_dice"] == columns["validation_dice_noise"]


def test_denoiser_that_copies_x_t_keeps_its_presegmentation():
    """From the true mask at T' = 20 the copy is the mask again. The selection averages both chains."""
    objective = Denoising(20, "squared_error")
    assert scores(Copy(), Threshold(0.5), objective=objective)["validation_dice_presegmentation"] > 0.99
    columns = scores(Copy(), Threshold(0.5))
    expected = (columns["validation_dice_noise"] + columns["validation_dice_presegmentation"]) / 2
    assert columns["validation_dice"] == pytest.approx(expected, rel=1e-12)


def test_masks_from_files_validate_as_those_of_a_network():
    masks = [presegment(Threshold(0.5), case.image, BACKEND.device) for case in CASES]
    given = [case._replace(presegmentation=mask) for case, mask in zip(CASES, masks, strict=True)]
    assert scores(Copy(), cases=given) == scores(Copy(), Threshold(0.5))
    # Cases without a file are validated from noise only.
    some = scores(Copy(), cases=[given[0], CASES[1]])
    assert some["validation_dice_noise"] == scores(Copy())["validation_dice_noise"]
    assert "validation_dice_presegmentation" in some


def test_denoiser_and_presegmenter_see_coordinates_only_if_they_have_them():
    class Recording(MaskOracle):
        def forward(self, x, t):
            self.num_inputs = x.shape[1]
            return super().forward(x, t)

    class Half(Threshold):
        """Lesion in the lower half of the slice."""

        def forward(self, image):
            self.num_inputs = image.shape[1]
            return image[:, -2:-1]

    for of_denoiser, of_presegmenter in [(False, True), (True, False), (True, True)]:
        network, presegmenter = Recording(), Half(0.5)
        model = Denoiser(network, SCHEDULE, CODINGS["binary"], "mask")
        model.coordinates, presegmenter.coordinates = of_denoiser, of_presegmenter
        validator = Validator(OBJECTIVE, CASES, 8, 0, BACKEND, presegmenter)
        assert validator.scores(model)["validation_dice"] == 1.0
        assert (network.num_inputs, presegmenter.num_inputs) == (3 + 2 * of_denoiser, 2 + 2 * of_presegmenter)
        if of_presegmenter:
            masks = validator.cases[0].presegmentation
            assert torch.equal(
                masks, (torch.arange(masks.shape[2])[:, None] * 2 >= masks.shape[2] - 1).expand_as(masks).float()
            )


def test_chains_take_their_share_of_the_steps_down_from_their_starts():
    network = MaskOracle()
    scores(network, Threshold(0.5), CASES[:1])
    from_truth = [100, 300, 500, 700, 900]
    assert network.times == [*range(1000, 0, -100), 300, 200, 100, *from_truth]
    network.times.clear()
    scores(network, Threshold(0.5), CASES[:1], Denoising(150, "squared_error"))
    assert network.times == [150, 75, 15, 45, 75, 105, 135]  # no noise at T, and 10 * 150 / 1000 steps


def test_denoiser_below_T_without_presegmentation_is_refused():
    batch = as_batch(*(part[:1] for part in VALIDATION[0][1:3]))
    model = Denoiser(MaskOracle(), SCHEDULE, CODINGS["signed"], "mask")
    with pytest.raises(ValueError, match=r"`t_max` \(300\) below T \(1000\).*Name a `validation_presegmenter`"):
        Denoising(300, "squared_error").estimates(model, batch, stream("test"))


def test_chain_noise_is_the_same_in_every_validation_and_with_a_presegmenter():
    model = denoiser("noise", coding="binary")
    alone = Validator(OBJECTIVE, VALIDATION, 8, 0, BACKEND)
    first = alone.scores(model)
    assert alone.scores(model) == first
    both = Validator(OBJECTIVE, VALIDATION, 8, 0, BACKEND, Threshold(1.0)).scores(model)
    assert both["validation_dice_noise"] == first["validation_dice_noise"]
    batch = as_batch(torch.zeros(2, 2, 16, 16), torch.zeros(2, 2, 16, 16))
    estimates = OBJECTIVE.estimates(Denoiser(Copy(), SCHEDULE, CODINGS["binary"], "mask"), batch, stream("test"))
    assert not torch.equal(estimates[0].probability[0], estimates[0].probability[1])  # each slice has its own noise


def test_presegment_thresholds_and_keeps_the_size():
    image = VALIDATION[0].image[:, :, :, :21]
    masks = presegment(Threshold(0.7), image, BACKEND.device)
    assert masks.shape == (4, 1, 24, 21)
    assert torch.equal(masks, (image[:, :1] >= 0.7).float())


def test_validator_takes_slices_in_the_middle_of_equal_parts():
    slices = [case("v", slices=10)]
    assert Validator(CrossEntropy(0.0), slices, 4, 0, BACKEND).cases[0].slice_numbers == [11, 13, 16, 18]
    assert Validator(CrossEntropy(0.0), slices, 99, 0, BACKEND).cases[0].slice_numbers == list(range(10, 20))


class Named(CrossEntropy):
    """An objective with two named estimates. The second does not select."""

    def estimates(self, model, batch, rng):
        empty = torch.zeros_like(batch.mask)
        return [Estimate(batch.mask, "good"), Estimate(empty, "bad", selects=False), Estimate(batch.mask)]


def test_history_has_a_column_for_each_named_estimate(tmp_path):
    result = folder_trainer(Scale(), Named(0.0), steps=2, validate_every=1).fit(tmp_path)
    for row in result.history:
        assert [key for key in row if key.startswith("validation")] == [
            *("validation_dice", "validation_dice_good", "validation_dice_bad")
        ]
        assert (row["validation_dice"], row["validation_dice_good"], row["validation_dice_bad"]) == (1, 1, 0)
    assert not math.isnan(result.history[0]["loss"])
