"""Section `networks` and the settings that all networks share, section `training`."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from pd_ddpm.config.sections.base import WHOLE, Contradiction, Count, NonNegative, Positive, Section, Share
from pd_ddpm.config.sections.preparation import Grid

Precision = Annotated[
    Literal["auto", "float32", "tf32", "bfloat16", "float16"],
    Field(
        description=(
            "Precision of the networks' arithmetic. auto: in training bfloat16 if the device supports it, else float32; in "
            "sampling the fastest of float16, bfloat16, tf32 and float32, in this order, that the device supports and the "
            "network passed sampling.gate in. float32: all bits. tf32: GPUs from compute capability 8.0, multiplies with ten "
            "bits of each factor. float16: GPUs only. In training the weights stay float32. Any precision but float32 is "
            "sampled in only if the network passed; otherwise the next fastest that it passed in is used."
        )
    ),
]
FirstDownsampling = Annotated[
    Annotated[list[Literal[1, 2, 4]], Field(min_length=2, max_length=3)] | None,
    Field(
        description=(
            "Factor of the first down-sampling along each axis, in the U-Net of Fu et al. 2024 only. All others are 2. null: 2 "
            "along every axis."
        )
    ),
]
ActivationCheckpointing = Annotated[
    bool,
    Field(
        description=(
            "true: the backward pass computes the activations of each residual block again, which takes about a third more "
            "time and a fraction of the memory. Gradients are the same."
        )
    ),
]
MicroBatch = Annotated[
    Count | None,
    Field(
        description=(
            "Patches that the network processes at once in training, if a batch does not fit into memory. The loss sees the "
            "whole batch, so the gradients are the same. Each step takes one forward pass more. null: the whole batch."
        )
    ),
]
Level = Annotated[float, Field(gt=0, lt=1)]
Axis = Annotated[int, Field(ge=0, le=2), WHOLE]
InnerFold = Annotated[str, Field(pattern="^[1-9][0-9]*-of-[1-9][0-9]*$", examples=["1-of-3"])]
Widths = Annotated[list[Count], Field(min_length=2)]


class Affine(Section):
    """Largest affine transformations of slices or volumes, before patches are cut from them."""

    rotation_degrees: NonNegative = Field(description="Largest rotation in the plane of each pair of axes.")
    scale: Annotated[float, Field(ge=0, lt=1)] = Field(description="Largest change of the scale of each axis, from 1.")
    shear_degrees: Annotated[float, Field(ge=0, lt=90)] = Field(
        description="Largest angle by which each axis leans towards each other one."
    )
    shift: Share | Annotated[list[Share], Field(min_length=2, max_length=3)] = Field(
        description="Largest shift along each axis, as a share of the slice's length: one number, or one for each axis."
    )
    probability: Share = Field(description="Probability of each rotation, scaling, shear and shift along each axis.")
    unit: Literal["mm", "pixels"] = Field(
        description="mm: pixels have their true proportions; pixels: they count as squares or cubes when they are rotated."
    )


class TrainingSettings(Section):
    """How a network is trained."""

    steps: Count = Field(description="Optimiser steps.")
    batch: Count = Field(description="Patches in a step.")
    crop: Annotated[list[Count], Field(min_length=2, max_length=3)] = Field(
        description=(
            "Size of a training patch along X and Y of the scan, and along Z for networks of volumes, in pixels of the working "
            "grid."
        )
    )
    crop_position: Literal["uniform", "centre_weighted"] = Field(
        description=(
            "Where in a slice patches come from. uniform: every position equally often; centre_weighted: positions in the "
            "middle more often, as PatchDDM does. There the first pixel is the sum of two uniform numbers, up to 1/4 and up to "
            "3/4 of the largest one."
        )
    )
    coordinates: bool = Field(
        description=(
            "true: one further image channel per axis holds the position in the working grid, from -1 at the first pixel to 1 "
            "at the last, as in PatchDDM. Patches hold the values of their place."
        )
    )
    optimiser: Literal["adam", "adamw"] = Field(
        description=(
            "adam: the weight decay is part of the gradient; adamw: it shrinks the weights apart from it (Loshchilov & Hutter "
            "2019). Without weight decay both are the same."
        )
    )
    learning_rate: Positive = Field(description="Step size of the optimiser.")
    learning_rate_decay: Literal["none", "cosine"] = Field(
        description="cosine: falls to last_learning_rate from the end of the warm-up to the last step."
    )
    learning_rate_warm_up: Annotated[int, Field(ge=0), WHOLE] = Field(
        description="Steps in which the step size rises linearly from first_learning_rate; 0: no warm-up."
    )
    first_learning_rate: NonNegative = Field(description="Step size of the first step, if there is a warm-up.")
    last_learning_rate: NonNegative = Field(description="Step size that learning_rate_decay cosine ends with.")
    weight_decay: NonNegative = Field(
        description="L2 penalty of adam; with adamw, the share of a weight, times the step size, that each step takes away."
    )
    gradient_clip: Positive | None = Field(description="Largest norm of the gradient; null does not clip.")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="Decay of the exponential moving average of the weights, per step."
    )
    weights: Literal["raw", "ema"] = Field(
        description=(
            "Which weights are validated and by default sampled from. Checkpoints keep both; `weights` of a method selects the "
            "others."
        )
    )
    select: Literal["best", "last"] = Field(
        description="best: the weights with the best validation Dice, after any warm-up; last: those of the last step."
    )
    validate_every: Count = Field(description="Steps between validations.")
    validation_slices: Count = Field(
        description="Slices that are validated on, over all validation cases; a volume is validated as a whole."
    )
    patience: Count | None = Field(
        description=(
            "Validations without a new best Dice after which a training ends. The learning rate is that of all steps. Those "
            "before the end of a warm-up do not count. null: all steps, as without validation cases."
        )
    )
    lesion_share: Share | None = Field(
        description=(
            "Share of patches from slices or volumes with lesion; the others come from all slices with brain or all volumes. "
            "null: all alike."
        )
    )
    flip: list[Axis] = Field(
        description="Axes (0 is X, 1 is Y, and 2 is Z for networks of volumes) that are mirrored with probability 0.5."
    )
    intensity_jitter: NonNegative = Field(description="Standard deviation of a random gain and offset of each channel.")
    affine: Affine | None = Field(
        description=(
            "Random rotation, scaling, shear and shift of the slice or volume of each patch. Images are interpolated linearly, "
            "and masks have the nearest pixel. null: none."
        )
    )
    log_gamma: NonNegative = Field(
        description=(
            "Intensities are raised to a power with probability 0.5; its logarithm is uniform between minus this and this. It "
            "needs intensities of 0 or more (normalisation unit_range). 0: never."
        )
    )
    patch_normalisation: Literal["none", "unit_range"] = Field(
        description=(
            "unit_range: each channel of a training patch is scaled to 0 to 1 after its augmentation, as in the code of Fu et "
            "al. 2024. Whole slices and volumes, which are sampled, stay as `preparation.normalisation` makes them."
        )
    )
    raters: Literal["first", "random"] = Field(
        description=(
            "Whose masks are learnt if a case has several raters. first: the ground truth; random: those of a random rater for "
            "each patch. Validation and scores use the ground truth."
        )
    )
    inner_fold: InnerFold | None = Field(
        description=(
            "Part of the split's training cases that is left out, such as 1-of-3; null: none. presegmented_by makes such "
            "networks as variations."
        )
    )
    precision: Precision
    early_levels: list[Level] = Field(
        description=(
            "Early checkpoints, kept in addition to the selected weights as weaker pre-segmentations. For each level, the "
            "weights whose validation Dice came nearest to this share of the best one."
        )
    )
    initialise_from: str | None = Field(
        description="A network of the same architecture and size whose trained weights are loaded first; null: random weights."
    )

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield an inner fold that does not exist or is all of the training cases, and a warm-up without an end."""
        if self.inner_fold is not None:
            index, count = map(int, self.inner_fold.split("-of-"))
            if count < 2 or index > count:
                yield Contradiction("inner_fold", f"{self.inner_fold} is no part of several", "Set a part such as 1-of-3")
        if self.learning_rate_warm_up >= self.steps:
            finding = f"{self.learning_rate_warm_up} leaves no step of {self.steps} after it"
            yield Contradiction("learning_rate_warm_up", finding, "Lower it, or raise `steps`")


class _Network(TrainingSettings):
    """What every network has."""

    spatial_dims: Annotated[Literal[2, 3], WHOLE] = Field(
        description=(
            "2: slices. 3: volumes. A network of volumes is trained on patches. It samples and validates each volume as a "
            "whole, padded to a multiple of its down-sampling factor."
        )
    )
    grid: Grid | None = Field(
        None,
        description=(
            "Keys of the section `grid` that this network overrides: it is trained and sampled on a grid of its own. Its "
            "members return to the scan's grid, as those of all networks do. Unset: the section as it is."
        ),
    )

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield those of all trainings, and a crop or axes that do not have the dimensions of the network."""
        yield from super().contradictions()
        if len(self.crop) != self.spatial_dims:
            finding = f"it has {len(self.crop)} sizes, but the network has {self.spatial_dims} spatial dimensions"
            yield Contradiction("crop", finding, "Set one size per dimension")
        if beyond := [axis for axis in self.flip if axis >= self.spatial_dims]:
            finding = f"axis {', '.join(map(str, beyond))} is beyond the {self.spatial_dims} spatial dimensions of the network"
            yield Contradiction("flip", finding, "Remove it, or set `spatial_dims: 3`")
        shift = self.affine.shift if self.affine is not None else 0.0
        if isinstance(shift, list) and len(shift) != self.spatial_dims:
            finding = f"it has {len(shift)} numbers, but the network has {self.spatial_dims} spatial dimensions"
            yield Contradiction("affine.shift", finding, "Set one number, or one per dimension")


class _SupervisedNetwork(_Network):
    """What every deterministic network has."""

    channels: Widths = Field(description="Width of each level, finest first.")
    dice_weight: NonNegative = Field(description="Weight of the soft Dice loss; that of the cross-entropy is 1.")
    mask_loss: Literal["cross_entropy_dice", "dice_focal"] = Field(
        "cross_entropy_dice",
        description=(
            "cross_entropy_dice: cross-entropy plus dice_weight times the Dice loss of the whole batch. dice_focal: as for "
            "denoisers; dice_weight is then unused."
        ),
    )
    focal_weight: NonNegative = Field(1.0, description="Weight of the focal loss in dice_focal; that of the Dice loss is 1.")


class UNet(_SupervisedNetwork):
    """U-Net, with dropout if `dropout` is above 0."""

    architecture: Literal["unet"]
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="Dropout probability at eight sites: after pooling and after concatenation."
    )


class SegmentationNetwork(_SupervisedNetwork):
    """Attention U-Net or U-Net++."""

    architecture: Literal["attention_unet", "unet_plus_plus"] = Field(description="Attention U-Net or U-Net++.")


class ImgXUNet(_SupervisedNetwork):
    """U-Net of Fu et al. 2024 (recycling) without a timestep, for a fair comparison with their denoisers."""

    architecture: Literal["imgx_unet"]
    residual_blocks: Count = Field(description="Residual blocks per level of the encoder; the decoder has one more.")
    heads: Count = Field(description="Attention heads of the transformer layer.")
    first_downsampling: FirstDownsampling
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(description="Dropout probability in residual blocks.")
    activation_checkpointing: ActivationCheckpointing
    micro_batch: MicroBatch = None

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield those of all networks, and a down-sampling that does not have their dimensions."""
        yield from super().contradictions()
        yield from _downsampling_problems(self.first_downsampling, self.spatial_dims)


class ProbabilisticUNet(_Network):
    """Probabilistic U-Net."""

    architecture: Literal["probabilistic_unet"]
    channels: Widths = Field(description="Width of each level, finest first.")
    latent: Count = Field(description="Dimensions of the latent variable.")
    kl_weight: NonNegative = Field(
        description=(
            "Weight (beta) of the divergence between posterior and prior; the cross-entropy is summed over an image and has "
            "weight 1."
        )
    )
    free_bits: NonNegative = Field(
        description=(
            "Divergence of each latent dimension, mean over the batch, that is not penalised, in nats. Above 0 it keeps the "
            "posterior from collapsing onto the prior, after which all samples are equal."
        )
    )
    kl_warm_up: Share = Field(
        description="Share of the steps in which the divergence's weight rises linearly from 0; 0: no warm-up."
    )


def _downsampling_problems(factors: list[int] | None, spatial_dims: int) -> Iterator[Contradiction]:
    if factors is not None and len(factors) != spatial_dims:
        finding = f"it has {len(factors)} factors, but the network has {spatial_dims} spatial dimensions"
        yield Contradiction("first_downsampling", finding, "Set one factor per dimension, or null")


class _Denoiser(_Network):
    """What every denoising network has."""

    backbone: Literal["guided", "imgx"] = Field(
        description=(
            "The network behind the denoiser. guided: the U-Net of guided diffusion. imgx: that of Fu et al. 2024, with added "
            "skips, instance normalisation and a transformer layer at the bottom. imgx has no use for attention_at, "
            "middle_attention, skip, groups and scale_shift."
        )
    )
    first_downsampling: FirstDownsampling
    channels: Count = Field(description="Width at full resolution.")
    multipliers: Annotated[list[Count], Field(min_length=1)] = Field(
        description="Width of each level as a multiple of channels, finest first."
    )
    residual_blocks: Count = Field(description="Residual blocks per level of the encoder.")
    attention_at: list[Count] = Field(description="Down-sampling factors at which attention follows each residual block.")
    middle_attention: bool = Field(description="Whether attention lies between the two residual blocks of the coarsest level.")
    heads: Count = Field(description="Attention heads.")
    skip: Literal["concatenate", "average"] = Field(
        description="How the decoder uses the encoder's features: concatenate, or average as PatchDDM does."
    )
    groups: Count | None = Field(
        description=(
            "Groups of every group normalisation, which must divide the width of every level. null: at most 32, each of at "
            "least four channels."
        )
    )
    scale_shift: bool = Field(description="true: the timestep embedding scales and shifts the features; false: it is added.")
    time_injection: Literal["fixed", "as_released"] = Field(
        description=(
            "Where an added timestep embedding enters a residual block if the groups of its second normalisation have one "
            "channel, as all of the backbone imgx do. as_released: before this normalisation, which removes it again, as in "
            "the code of PatchDDM and of Fu et al. 2024; fixed: after it. Unused with scale_shift."
        )
    )
    dropout: Share = Field(description="Dropout probability in residual blocks.")
    activation_checkpointing: ActivationCheckpointing
    micro_batch: MicroBatch
    schedule: Literal["cosine", "linear", "linear_unscaled"] = Field(
        description=(
            "Noise schedule. linear: the variances of single steps rise from 1e-4 to 0.02, times 1000 / T; linear_unscaled: "
            "without this factor, for every T."
        )
    )
    T: Count = Field(description="Steps of the whole diffusion process.")
    t_max: Count = Field(description="Largest timestep that is trained; with T the network serves every T'.")
    training_timesteps: Annotated[int, Field(ge=2), WHOLE] | None = Field(
        description=(
            "Number of timesteps that are trained, from 1 to t_max, evenly spaced: those of chains of as many steps with "
            "step_spacing linspace. null: all. Strategies with an estimate from next or last then never train the last one, "
            "as the code of Fu et al. 2024; next is the next of these timesteps."
        )
    )
    mask_coding: Literal["signed", "binary"] = Field(description="signed: masks are diffused as -1 and 1; binary: as 0 and 1.")
    predicts: Literal["noise", "mask"] = Field(description="What the network's output is.")
    likelihood_skip: bool = Field(
        description=(
            "true: the log-likelihood ratio of lesion against background of each pixel's own noisy value is added to the "
            "network's logit (Bayes' rule), so that the network learns only what image and neighbours add."
        )
    )
    clip_input: bool = Field(
        description=(
            "true: the network sees x_t clipped to the two values of the mask coding, as in the code of Fu et al. 2024. The "
            "chain's own state is not clipped."
        )
    )
    mask_loss: Literal["squared_error", "cross_entropy_dice", "dice_focal"] = Field(
        description=(
            "Loss of a network that predicts the mask; unused if it predicts the noise. dice_focal: Dice of each patch, "
            "without smoothing and over the classes that it contains, plus focal_weight times the focal loss."
        )
    )
    focal_weight: NonNegative = Field(description="Weight of the focal loss in dice_focal; that of the Dice loss is 1.")
    time_sampling: Literal["uniform", "importance"] = Field(
        description=(
            "Timesteps of training. uniform: all equally often; importance: with a probability proportional to the root of "
            "their mean squared loss, so that the loss varies less between steps. importance needs one loss per patch, which "
            "cross_entropy_dice is not."
        )
    )
    importance_weights: Literal["fixed", "as_released"] = Field(
        description=(
            "Weight of a loss with time_sampling importance, at a timestep of probability p. fixed: 1 / (t_max p), with which "
            "the expected loss is that of uniform timesteps; as_released: t_max p, as in the code of Fu et al. 2024."
        )
    )
    strategy: Literal[
        "diffusion",
        "self_conditioning_same",
        "self_conditioning_next",
        "recycling_next",
        "recycling_last",
        "recycling_noise",
    ] = Field(
        description=(
            "What the network sees of the mask in training. diffusion: x_t of the ground truth. self_conditioning: in addition "
            "its own estimate, which it gets in chains from the step before. recycling: x_t of its own estimate. The estimate "
            "comes from a pass without gradient: same: from x_t; next: from x at t + 1; last: from x at t_max; noise: from "
            "pure noise at T, with which a chain begins. With next and last, t is below t_max. The target is always the ground "
            "truth. All but diffusion need predicts: mask."
        )
    )
    strategy_share: Annotated[float, Field(gt=0, le=1)] = Field(
        description=(
            "Probability of each patch of a batch that the strategy uses the network's own estimate. In all other patches x_t "
            "is made from the ground truth, without an estimate. Unused by diffusion."
        )
    )
    recycled_estimate: Literal["hard", "soft", "sampled"] = Field(
        description=(
            "How recycling uses the estimate. hard: thresholded at one half; soft: its probabilities are diffused; sampled: "
            "each pixel is drawn with its probability."
        )
    )
    self_conditioned_state: Literal["fixed", "as_released"] = Field(
        description=(
            "What x_t is in the second pass of self_conditioning_next. fixed: the mean of the reverse step from t + 1, as in a "
            "chain; as_released: x at t + 1, although the timestep is t, as in the code of Fu et al. 2024."
        )
    )
    presegmented_share: Share = Field(
        description=(
            "Probability of each patch of a batch that its x_t is made from a pre-segmentation instead of the ground truth, "
            "which stays the target. 0: none; needs predicts: mask. With strategy_share at most 1."
        )
    )
    presegmented_by: str = Field(
        description=(
            "Deterministic network whose masks serve as pre-segmentations in training. One is trained for each inner fold of "
            "the split's training cases, without that fold, and segments these cases. Unused if presegmented_share is 0."
        )
    )
    inner_folds: Annotated[int, Field(ge=2), WHOLE] = Field(description="Inner folds of presegmented_by.")
    validation_chain_steps: Count = Field(
        description=(
            "Reverse steps of a chain from T in validation, ancestral with variance small; a chain from T' takes the share "
            "T'/T of them, at least one."
        )
    )
    validation_presegmenter: str | None = Field(
        description=(
            "Deterministic network whose masks of the validation slices are the start of further chains in validation. It is "
            "trained before. Or a method with segmenter files, for the validation cases that have files. null: there are no "
            "such chains."
        )
    )
    validation_t_start: Count = Field(
        description="Start timestep T' of the chains from the masks of validation_presegmenter; t_max if that is lower."
    )

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield a `t_max` or a chain that is longer than T, and what needs mask logits or timestep T without having it."""
        yield from super().contradictions()
        if self.t_max > self.T:
            yield Contradiction("t_max", f"{self.t_max} is above T = {self.T}", "Lower `t_max` or raise `T`")
        if self.validation_chain_steps > self.T:
            problem = f"{self.validation_chain_steps} is more than the T = {self.T} steps"
            yield Contradiction("validation_chain_steps", problem, f"Set {self.T} or fewer")
        if self.training_timesteps is not None and not self.validation_chain_steps == self.training_timesteps <= self.t_max:
            finding = f"chains of {self.validation_chain_steps} steps meet timesteps that are not trained"
            remedy = "Set it to `validation_chain_steps` and at most `t_max`, or to null"
            yield Contradiction("training_timesteps", finding, remedy)
        widths = sorted({self.channels, *(self.channels * multiplier for multiplier in self.multipliers)})
        if indivisible := [width for width in widths if width % (self.groups or 1)]:
            finding = f"{self.groups} does not divide a width of {', '.join(map(str, indivisible))}"
            yield Contradiction("groups", finding, "Set a divisor of `channels`, or null")
        if self.backbone == "imgx":
            yield from _downsampling_problems(self.first_downsampling, self.spatial_dims)
            if len(self.multipliers) < 2 or self.channels * self.multipliers[-1] % 4:
                finding = "the backbone imgx needs two levels, and a multiple of 4 as the width of the coarsest one"
                yield Contradiction("multipliers", finding, "Change `channels` or `multipliers`")
        elif self.first_downsampling is not None:
            finding = f"{self.first_downsampling} has no effect with the backbone guided"
            yield Contradiction("first_downsampling", finding, "Set it to null, or `backbone: imgx`")
        if self.likelihood_skip and self.predicts != "mask":
            finding = "it adds to the logits of a mask, but the network predicts the noise"
            yield Contradiction("likelihood_skip", finding, "Set `predicts: mask` or `likelihood_skip: false`")
        share = 0.0 if self.strategy == "diffusion" else self.strategy_share
        for key, value, off in (("strategy", share, "diffusion"), ("presegmented_share", self.presegmented_share, "0")):
            if value and self.predicts != "mask":
                finding = "the target must be the ground truth, but a network that predicts the noise learns the noise in x_t"
                yield Contradiction(key, finding, f"Set `predicts: mask` or `{key}: {off}`")
        if share + self.presegmented_share > 1 + 1e-9:
            finding = f"{self.presegmented_share:g} and strategy_share {share:g} are more than all patches"
            yield Contradiction("presegmented_share", finding, f"Set {1 - share:g} or less")
        if self.strategy == "recycling_noise" and self.t_max < self.T:
            finding = f"an estimate from noise needs t = T = {self.T}, but t_max = {self.t_max} is the last that is trained"
            yield Contradiction("strategy", finding, "Set `strategy: recycling_next` or raise `t_max`")
        if self.strategy.endswith(("next", "last")) and self.t_max < 2:
            finding = f"its estimates come from a later timestep than t, but t_max = {self.t_max} is the only one"
            yield Contradiction("strategy", finding, "Raise `t_max`, or set `strategy: diffusion`")
        if self.time_sampling == "importance" and (self.predicts, self.mask_loss) == ("mask", "cross_entropy_dice"):
            finding = "it needs one loss per patch, but the Dice loss of cross_entropy_dice is that of a whole batch"
            yield Contradiction("time_sampling", finding, "Set `mask_loss: dice_focal`, or `time_sampling: uniform`")


class DenoisingUNet(_Denoiser):
    """The denoiser of DDPM, ES-DDPM and PD-DDPM."""

    architecture: Literal["denoising_unet"]

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield those of all denoisers, and a denoiser that no chain can validate."""
        yield from super().contradictions()
        if self.t_max < self.T and self.validation_presegmenter is None:
            finding = f"no chain can validate the network, since one from noise needs t_max = T = {self.T}, not {self.t_max}"
            yield Contradiction("validation_presegmenter", finding, "Name a deterministic network, or raise `t_max`")


class TruncatedDenoisingUNet(_Denoiser):
    """The denoiser of TDPM, which also samples x at T' from noise in one step."""

    architecture: Literal["truncated_denoising_unet"]
    head: Literal["direct", "mean_plus_noise"] = Field(
        description=(
            "How the network samples x at T' from noise in one step. direct: its output is x (TDPM); mean_plus_noise: its "
            "output is the logit of a mask, which is then diffused to T'."
        )
    )
    generator_learning_rate: Positive = Field(description="Step size of Adam for sampling x at T'.")
    discriminator_learning_rate: Positive = Field(description="Step size of Adam for the discriminator.")
    discriminator_channels: Count = Field(description="Width of the discriminator's first level.")
    gradient_penalty: NonNegative = Field(description="Weight gamma of the discriminator's R1 penalty, gamma/2 |grad D|^2.")
    penalty_every: Count = Field(description="Steps between R1 penalties; each is weighted by this number.")
    warm_up: Share = Field(description="Share of the steps that train the denoising only.")

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield those of all denoisers, and what only the denoiser without a learned prior can do."""
        yield from super().contradictions()
        if self.strategy.startswith("self_conditioning"):
            finding = f"{self.strategy} is not available for a network that also generates x at T'"
            yield Contradiction("strategy", finding, "Set `strategy: diffusion` or `recycling_next`")
        if self.time_sampling != "uniform":
            finding = "a network that also generates x at T' is trained at uniform timesteps"
            yield Contradiction("time_sampling", finding, "Set `time_sampling: uniform`")
        if self.training_timesteps is not None:
            finding = "a network that also generates x at T' is trained at all timesteps"
            yield Contradiction("training_timesteps", finding, "Set it to null")
        if self.micro_batch is not None:
            finding = "the discriminator of a network that also generates x at T' sees whole batches only"
            yield Contradiction("micro_batch", finding, "Set it to null, or reduce `batch`")


Network = Annotated[
    UNet | SegmentationNetwork | ImgXUNet | ProbabilisticUNet | DenoisingUNet | TruncatedDenoisingUNet,
    Field(discriminator="architecture"),
]
