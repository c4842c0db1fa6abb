"""Short reverse chains, by which denoisers are validated: as they are sampled, without a look at the ground truth."""

from collections.abc import Sequence
from dataclasses import dataclass

from pd_ddpm.config.chain_length import chain_steps
from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.noise import MemberNoise
from pd_ddpm.diffusion.samplers import StepSpacing, ancestral, reverse_times
from pd_ddpm.diffusion.starts import PresegmentationStart, Start
from pd_ddpm.training.objectives.base import Estimate
from pd_ddpm.training.patches import Batch


@dataclass(frozen=True)
class ValidationChains:
    """Ancestral chains with few steps and the small variance, which suits steps over several timesteps.

    Attributes:
        steps: reverse steps of a chain from T. A chain from T' takes the share T'/T of them, at least one.
        t_start: T' of chains from a pre-segmentation; `t_max` of the network if that is lower.
        spacing: spacing of the steps.
    """

    steps: int = 10
    t_start: int = 300
    spacing: StepSpacing = "trailing"

    def estimates(self, model: Denoiser, batch: Batch, starts: dict[str, Start], seeds: Sequence[int]) -> list[Estimate]:
        """Run one chain from each start on every slice.

        Args:
            model: the denoiser in evaluation mode.
            batch: B slices.
            starts: starts by name.
            seeds: (B,) one number per slice. A chain's noise is named by its start and this number.

        Returns:
            One estimate per start, which has its name and counts in the selection.
        """
        estimates = []
        for name, start in starts.items():
            noise = MemberNoise([("validation", name, seed) for seed in seeds])
            x = start(batch.image, batch.presegmentation, noise).to(batch.image.device)
            times = reverse_times(start.t_start, chain_steps(self.steps, start.t_start, model.schedule.T), self.spacing)
            x0 = ancestral(model.chain(batch.image), x, times, model.schedule, noise, "small")
            estimates.append(Estimate(model.coding.probabilities(x0), name))
        return estimates

    def presegmentation_starts(self, model: Denoiser, batch: Batch, t_max: int) -> dict[str, Start]:
        """Return the start from the batch's pre-segmentation by its name; empty if the batch has none.

        Args:
            model: gives the schedule and the mask coding.
            batch: slices with or without a pre-segmentation.
            t_max: largest timestep that is trained.
        """
        if batch.presegmentation is None:
            return {}
        return {"presegmentation": PresegmentationStart(min(self.t_start, t_max), model.schedule, model.coding)}
