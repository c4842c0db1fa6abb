"""Build the objective and the training settings from a network's settings."""

from typing import Any

from pd_ddpm.diffusion.samplers import StepSpacing
from pd_ddpm.training.affine import AffineSettings
from pd_ddpm.training.objectives.base import Objective
from pd_ddpm.training.objectives.chains import ValidationChains
from pd_ddpm.training.objectives.denoising import Denoising
from pd_ddpm.training.objectives.elbo import EvidenceLowerBound
from pd_ddpm.training.objectives.segmentation import CrossEntropy, DiceFocal
from pd_ddpm.training.objectives.strategies import PlainDiffusion, Recycling, SelfConditioning, Strategy
from pd_ddpm.training.objectives.tdpm import TruncatedDiffusion
from pd_ddpm.training.objectives.times import ImportanceTimes, SpreadTimes, SpreadTimesteps, TimeSampler, UniformTimes
from pd_ddpm.training.patches import PatchSettings
from pd_ddpm.training.settings import TrainingSettings


def build_objective(settings: dict[str, Any]) -> Objective:
    """Build the objective of these network settings (one entry of `networks` in the configuration)."""
    if settings["architecture"] == "denoising_unet":
        timesteps = _timesteps(settings)
        chains = _chains(settings, "trailing" if timesteps is None else "linspace")
        strategy = build_strategy(settings)
        times = _time_sampler(settings, timesteps, strategy)
        arguments = settings["t_max"], settings["mask_loss"], chains, strategy
        return Denoising(*arguments, times, settings["focal_weight"], timesteps)
    if settings["architecture"] == "truncated_denoising_unet":
        return TruncatedDiffusion(
            settings["t_max"],
            settings["mask_loss"],
            generator_factor=settings["generator_learning_rate"] / settings["learning_rate"],
            discriminator_factor=settings["discriminator_learning_rate"] / settings["learning_rate"],
            gradient_penalty=settings["gradient_penalty"],
            penalty_every=settings["penalty_every"],
            warm_up=settings["warm_up"],
            chains=_chains(settings),
            strategy=build_strategy(settings),
            focal_weight=settings["focal_weight"],
        )
    if settings["architecture"] == "probabilistic_unet":
        return EvidenceLowerBound(settings["kl_weight"], settings["free_bits"], settings["kl_warm_up"])
    if settings.get("mask_loss") == "dice_focal":
        return DiceFocal(settings.get("focal_weight", 1.0))
    return CrossEntropy(settings["dice_weight"])


def _timesteps(settings: dict[str, Any]) -> SpreadTimesteps | None:
    """Return the timesteps that are trained; None: all."""
    count = settings["training_timesteps"]
    return None if count is None else SpreadTimesteps(settings["t_max"], count)


def _time_sampler(settings: dict[str, Any], timesteps: SpreadTimesteps | None, strategy: Strategy) -> TimeSampler:
    """Return the sampler of timesteps, without the last one if the strategy computes no loss there."""
    count = strategy.last_timestep(settings["t_max"] if timesteps is None else timesteps.count)
    is_uniform = settings["time_sampling"] == "uniform"
    times = UniformTimes(count) if is_uniform else ImportanceTimes(count, settings["importance_weights"])
    return times if timesteps is None else SpreadTimes(timesteps, times)


def _chains(settings: dict[str, Any], spacing: StepSpacing = "trailing") -> ValidationChains:
    return ValidationChains(settings["validation_chain_steps"], settings["validation_t_start"], spacing)


def build_strategy(settings: dict[str, Any]) -> Strategy:
    """Build the training strategy of these network settings (one entry of `networks` in the configuration)."""
    kind, _, source = settings["strategy"].rpartition("_")
    share, presegmented_share = settings["strategy_share"], settings["presegmented_share"]
    if kind == "recycling":
        return Recycling(share, settings["recycled_estimate"], source, presegmented_share)
    if kind == "self_conditioning":
        return SelfConditioning(share, source, settings["self_conditioned_state"], presegmented_share)
    return PlainDiffusion(presegmented_share)


def build_training_settings(settings: dict[str, Any]) -> TrainingSettings:
    """Build the training settings from these network settings (one entry of `networks` in the configuration)."""
    patches = PatchSettings(
        crop=tuple(settings["crop"]),
        lesion_share=settings["lesion_share"],
        flip=tuple(settings["flip"]),
        intensity_jitter=settings["intensity_jitter"],
        crop_position=settings["crop_position"],
        coordinates=settings["coordinates"],
        affine=settings["affine"] and AffineSettings(**settings["affine"]),
        log_gamma=settings["log_gamma"],
        unit_range=settings["patch_normalisation"] == "unit_range",
    )
    names = TrainingSettings.__dataclass_fields__.keys() & settings.keys()
    return TrainingSettings(**{name: settings[name] for name in names}, patches=patches)
