"""Validation during a training."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from pd_ddpm.data.working_grid import pad_to_multiple
from pd_ddpm.diffusion.noise import stream
from pd_ddpm.runtime.backend import Backend
from pd_ddpm.training.objectives.base import Objective
from pd_ddpm.training.patches import CaseSlices, as_batch


class Validator:
    """Validation Dice of a model on evenly spaced slices of some cases.

    Args:
        objective: gives the estimates that are compared with the ground truth.
        cases: the validation cases; at least one.
        num_slices: slices per validation, over all cases; at least one slice per case is taken.
        seed: seed of the training.
        backend: device and precision.
    """

    def __init__(self, objective: Objective, cases: Sequence[CaseSlices], num_slices: int, seed: int, backend: Backend):
        self.objective = objective
        self.cases = cases
        self.num_slices = num_slices
        self.seed = seed
        self.backend = backend

    @torch.inference_mode()
    def dice(self, model: nn.Module) -> float:
        """Return the mean Dice over cases and estimates, at a threshold of 0.5. Every call uses the same noise."""
        model.eval()
        return float(np.mean([score for case in self.cases for score in self._case_dice(model, case)]))

    def _case_dice(self, model: nn.Module, case: CaseSlices) -> list[float]:
        """Return the Dice of each estimate of one case."""
        per_case = max(1, self.num_slices // len(self.cases))
        chosen = np.unique(np.linspace(0, len(case.image) - 1, per_case).round().astype(int))
        image, fractions = (pad_to_multiple(part[chosen], model.divisor) for part in (case.image, case.label_fractions))
        batch = as_batch(image, fractions).to(self.backend.device)
        with self.backend.autocast():
            estimates = self.objective.estimates(model, batch, stream("validate", self.seed, case.case))
        truth = (batch.mask >= 0.5) & (batch.loss_mask > 0)
        counts = []
        for estimate in estimates:
            predicted = (estimate >= 0.5) & (batch.loss_mask > 0)
            counts.append(torch.stack([(predicted & truth).sum(), predicted.sum() + truth.sum()]))
        return [2 * both / total if total else 1.0 for both, total in torch.stack(counts).tolist()]
