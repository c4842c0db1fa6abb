"""Validation during a training."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pd_ddpm.data.working_grid import pad_to_multiple
from pd_ddpm.diffusion.mask_coding import foreground_masks, harden
from pd_ddpm.diffusion.noise import stream
from pd_ddpm.models.coordinates import add_coordinates, has_coordinates
from pd_ddpm.runtime.backend import Backend
from pd_ddpm.training.objectives.base import Estimate, Objective
from pd_ddpm.training.patches import Batch, CaseSlices, as_batch

SCORE = "validation_dice"  # the history column by which weights are selected

_PRESEGMENTED_AT_ONCE = 8  # slices, so that the paper's network needs less memory than its training


class Validator:
    """Validation Dice of a model on evenly spaced slices of some cases.

    Args:
        objective: gives the estimates that are compared with the ground truth.
        cases: the validation cases; at least one. Those with a pre-segmentation need no presegmenter.
        num_slices: slices per validation, over all cases; at least one slice per case is taken.
        seed: seed of the training.
        backend: device and precision.
        presegmenter: trained deterministic network; its masks are computed here once. None: there are no pre-segmentations.
    """

    def __init__(
        self,
        objective: Objective,
        cases: Sequence[CaseSlices],
        num_slices: int,
        seed: int,
        backend: Backend,
        presegmenter: nn.Module | None = None,
    ):
        self.objective = objective
        self.seed = seed
        self.backend = backend
        self.cases = [_evenly_spaced(case, max(1, num_slices // len(cases))) for case in cases]
        if presegmenter is not None:
            self.cases = [
                case._replace(presegmentation=presegment(presegmenter, case.image, backend.device)) for case in self.cases
            ]

    @torch.inference_mode()
    def scores(self, model: nn.Module) -> dict[str, float]:
        """Return mean Dice scores over the cases, at a threshold of 0.5. Every call uses the same noise.

        Returns:
            "validation_dice", the mean over all estimates that count in the selection, and "validation_dice_{name}" for
            each named estimate, also over those of equal names.
        """
        model.eval()
        scores: dict[str, list[float]] = {SCORE: []}
        for case in self.cases:
            for estimate, dice in self._case_dice(model, case):
                if estimate.selects:
                    scores[SCORE].append(dice)
                if estimate.name:
                    scores.setdefault(f"{SCORE}_{estimate.name}", []).append(dice)
        return {column: float(np.mean(values)) for column, values in scores.items()}

    def _case_dice(self, model: nn.Module, case: CaseSlices) -> Iterator[tuple[Estimate, float]]:
        """Yield each estimate of one case with its Dice, for classes the mean over those that occur in truth or estimate."""
        batch = self._batch(case, model)
        with self.backend.autocast():
            estimates = self.objective.estimates(model, batch, stream("validate", self.seed, case.case))
        truth = foreground_masks(batch.mask) & (batch.loss_mask > 0)
        counts = []
        for estimate in estimates:
            predicted = foreground_masks(estimate.probability) & (batch.loss_mask > 0)
            both, total = (_num_pixels(predicted & truth), _num_pixels(predicted) + _num_pixels(truth))
            counts.append(torch.stack([both, total], dim=1))
        for estimate, classes in zip(estimates, torch.stack(counts).tolist(), strict=True):
            dice = [2 * both / total for both, total in classes if total]
            yield estimate, sum(dice) / len(dice) if dice else 1.0

    def _batch(self, case: CaseSlices, model: nn.Module) -> Batch:
        image = add_coordinates(case.image) if has_coordinates(model) else case.image
        image, fractions = (pad_to_multiple(part, model.divisor) for part in (image, case.label_fractions))
        masks = case.presegmentation
        presegmentation = None if masks is None else pad_to_multiple(masks, model.divisor)
        batch = as_batch(image, fractions, case.has_classes)
        return batch._replace(presegmentation=presegmentation).to(self.backend.device)


@torch.inference_mode()
def presegment(network: nn.Module, image: Tensor, device: torch.device) -> Tensor:
    """Return the masks of a deterministic segmentation network, thresholded at 0.5, or the most probable classes.

    Args:
        network: (B, M, *S), or with further coordinate channels -> logits (B, C, *S); it is moved to the device, in evaluation
            mode.
        image: (Z, M, *S), z-scored.
        device: where the network computes.

    Returns:
        (Z, C, *S) float32 on the CPU, 0 or 1.
    """
    inside = tuple(map(slice, image.shape[2:]))
    image = add_coordinates(image) if has_coordinates(network) else image
    network.to(device).eval()
    parts = pad_to_multiple(image, network.divisor).split(_PRESEGMENTED_AT_ONCE)
    mask = torch.cat([_hard_mask(network(part.to(device))).cpu() for part in parts])
    return mask[:, :, *inside].float()


def _hard_mask(logits: Tensor) -> Tensor:
    """Return the masks of logits (B, C, *S): those of 0 or more for one channel, one-hot at the largest of several."""
    return logits >= 0 if logits.shape[1] == 1 else harden(logits)


def _num_pixels(masks: Tensor) -> Tensor:
    """Return the number of true pixels of each channel of masks (B, C, *S)."""
    return masks.transpose(0, 1).flatten(1).sum(dim=1)


def _evenly_spaced(case: CaseSlices, count: int) -> CaseSlices:
    """Return the slices in the middle of `count` equal parts of a case, or all of them if there are fewer."""
    total = len(case.image)
    chosen = np.unique(((np.arange(count) + 0.5) / count * total).astype(int))
    numbers = [case.slice_numbers[n] for n in chosen]
    presegmentation = None if case.presegmentation is None else case.presegmentation[chosen]
    parts = {"image": case.image[chosen], "label_fractions": case.label_fractions[chosen]}
    return case._replace(**parts, slice_numbers=numbers, further_fractions=(), presegmentation=presegmentation)
