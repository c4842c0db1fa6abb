"""Section `methods` and the settings that methods share, section `sampling`."""

import string
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError

from pd_ddpm.config.sections.base import UNIQUE, Contradiction, Count, NonNegative, Section, Share, UserPath
from pd_ddpm.config.sections.network import Precision
from pd_ddpm.runtime.formula import is_formula

Members = Annotated[Count, Field(description="Members K of the ensemble.")]
Checkpoint = Annotated[
    str,
    Field(
        pattern="^(selected|early-[1-9][0-9]*)$",
        examples=["selected", "early-1"],
        description="Which weights of the network: the selected ones, or one of its early_levels, counted from early-1.",
    ),
]
WeightsOfCheckpoint = Annotated[
    Literal["selected", "raw", "ema"],
    Field(
        description=(
            "Which of the weights in the checkpoint. selected: those that the network's `weights` names; raw: those of the "
            "step; ema: their moving average. Every checkpoint has both, so that a change needs no training."
        )
    ),
]
Variance = Literal["large", "small"]


def _harmless_label(label: str) -> str:
    if is_formula(label):
        context = {"problem": f"spreadsheets would execute {label!r}", "remedy": "Begin it with a letter or digit"}
        raise PydanticCustomError("contradiction", "{problem}. {remedy}.", context)
    return label


Label = Annotated[str, AfterValidator(_harmless_label), Field(description="Name in tables and figures.")]


def _count_or_auto(value: Any, validate: Any) -> Any:
    """Return a count or "auto", and raise one error instead of one for each."""
    try:
        return validate(value)
    except ValidationError:
        context = {"problem": f"{value!r} is not a whole number", "remedy": "Set a whole number of at least 1, or `auto`"}
        raise PydanticCustomError("contradiction", "{problem}. {remedy}.", context) from None


class _Chain(Section):
    """How a chain of reverse steps is sampled."""

    samples: Members
    reverse_steps: Count = Field(
        description="Network evaluations of a chain from T; a chain from T' takes the share T'/T of them, at least one."
    )
    sampler: Literal["ancestral", "ddim"] = Field(description="Sampler of the reverse steps.")
    variance: Variance = Field(
        description=(
            "Variance of an ancestral step: that of the forward step (large) or of the posterior (small). A chain that skips "
            "timesteps takes small."
        )
    )
    large_variance_over_jumps: bool = Field(
        description=(
            "Whether an ancestral chain that skips timesteps may take the large variance. It puts more noise into x_t than the "
            "network was trained on: up to 1.8 times its standard deviation. Changes no result by itself."
        )
    )
    step_spacing: Literal["trailing", "linspace"] = Field(
        description=(
            "Timesteps of a chain that skips some. trailing: all reverse steps are equally long. linspace: the last one leads "
            "from timestep 1 to 0 and the others are equally long, as in PatchDDM."
        )
    )
    stop_after: Count | None = Field(
        description=(
            "Number of reverse steps after which a chain ends early, with the estimate of the mask of that step. null: it "
            "takes all. method@stop_after=2 has the states and the noise of the whole chain up to its second step."
        )
    )
    eta: Share = Field(description="Randomness of ddim: 0 is deterministic, 1 is as random as ancestral with variance small.")
    checkpoint: Checkpoint
    weights: WeightsOfCheckpoint
    precision: Precision


class ForwardError(Section):
    """Largest error of the network's output for each precision."""

    tf32: NonNegative = Field(description="Largest error in tf32.")
    bfloat16: NonNegative = Field(description="Largest error in bfloat16.")
    float16: NonNegative = Field(description="Largest error in float16.")


class Gate(Section):
    """How each trained network is tested in precisions other than float32."""

    cases: Count = Field(description="Validation cases, or training cases in a split that has no validation cases.")
    slices: Count = Field(description="Slices of each case, evenly spaced.")
    members: Count = Field(description="Ensemble members of each slice.")
    reverse_steps: Count = Field(description="Reverse steps of a denoiser's chain.")
    forward_error: ForwardError = Field(
        description="Largest relative L2 error of the network's output against float32, over all passes of the chains."
    )
    flipped_share: Share = Field(
        description=(
            "Voxels in which the members' masks may differ from those of float32 with the same noise, as a share of those in "
            "which two seeds differ. A deterministic network has no such limit."
        )
    )


class SamplingSettings(_Chain):
    """How methods are sampled."""

    batch: Annotated[Count | Literal["auto"], WrapValidator(_count_or_auto)] = Field(
        description=(
            "Members of slices that go through the network together, with any method. Changes speed, memory, and the last bit "
            "of float32 only. auto: as many as fit into the free memory, up to 20 on a CPU and 128 on a GPU."
        )
    )
    shards: Count = Field(
        description=(
            "Jobs over which the test cases of each method, split and seed are distributed. Changes no result and re-runs "
            "nothing."
        )
    )
    gate: Gate = Field(
        description="How each trained network is tested in other precisions than float32. Sampling uses none that failed."
    )


class _Method(Section):
    """What every method has."""

    label: Label
    network: str = Field(description="One of networks, or a variation such as denoiser@t_max=300.")
    checkpoint: Checkpoint
    weights: WeightsOfCheckpoint
    precision: Precision


class DeterministicMethod(_Method):
    """One mask per scan."""

    segmenter: Literal["deterministic"]


class StochasticMethod(_Method):
    """An ensemble from a network that is itself random."""

    segmenter: Literal["dropout", "latent"] = Field(
        description="dropout: the network's dropout stays on; latent: the latent variable is sampled from its prior."
    )
    samples: Members


class DiffusionMethod(_Method, _Chain):
    """An ensemble from a denoiser's chain of reverse steps."""

    segmenter: Literal["diffusion"]
    start: Literal["noise", "presegmentation", "learned_prior"] = Field(
        description=(
            "Where the chain starts. noise: pure noise at T; presegmentation: another method's mask, diffused to t_start; "
            "learned_prior: one step of the network itself from noise to t_start."
        )
    )
    presegmentation: str = Field(None, description="Method that gives the pre-segmentation; zero: a mask without lesion.")
    presegmentation_members: Literal["mean", "each"] = Field(
        None, description="mean: all members start from the ensemble mean of the pre-segmentation; each: one from each member."
    )
    harden: bool = Field(
        None,
        description="true: the pre-segmentation is thresholded at 0.5 on the scan's grid; false: probabilities are diffused.",
    )
    start_reliability: Literal["none", "validation"] = Field(
        None,
        description=(
            "What the likelihood skip reads in x_T'. none: the diffused ground truth; validation: the diffused "
            "pre-segmentation, whose sensitivity and specificity are measured on validation cases. The first reverse step then "
            "samples a mask from the posterior, and the next state is diffused from that mask."
        ),
    )
    t_start: Count = Field(description="Start timestep T' of the paper; T if the chain starts from noise.")

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield the keys that a start from a pre-segmentation lacks."""
        if self.start == "presegmentation":
            for key in ("presegmentation", "presegmentation_members", "harden", "start_reliability"):
                if getattr(self, key) is None:
                    yield Contradiction(key, "it must be set, since the chain starts from a pre-segmentation", f"Set `{key}`")


class MeanMethod(Section):
    """The mean of the ensembles of other methods. It has no network of its own."""

    label: Label
    segmenter: Literal["mean"]
    mean_of: Annotated[list[str], Field(min_length=2), *UNIQUE] = Field(
        description=(
            "Methods whose stored probabilities are averaged with equal weights. Member k is the mean of their members k; a "
            "method with fewer members takes part with the mean of its own."
        )
    )
    denoiser: str | None = Field(
        description="Network of the diffusion methods in `mean_of`, as in mean@denoiser=other; null: that of each method."
    )


RUN_FIELDS = ("dataset", "split", "seed")  # stand in braces for those of a run, in the paths of files


class FilesMethod(Section):
    """One mask or probability map per scan from files that another program has made. It has no network."""

    label: Label
    segmenter: Literal["files"]
    folder: UserPath = Field(
        None,
        examples=["nnunet/split-{split}"],
        description="Folder of the files. {dataset}, {split} and {seed} stand for those of a run.",
    )
    pattern: str = Field(
        None,
        examples=["{case}.nii.gz"],
        description=(
            "File of a case below `folder`, with {case} for its name; also a glob, such as **/{case}_*_probseg.nii.gz, that "
            "matches exactly one file. {dataset}, {split} and {seed} as in `folder`."
        ),
    )
    table: UserPath = Field(
        None,
        examples=["masks.csv"],
        description=(
            "Instead of `folder` and `pattern`, a csv with the columns case and file. Relative paths in it start from its "
            "folder. {dataset}, {split} and {seed} as in `folder`."
        ),
    )
    lesion_label: Count = Field(
        None,
        description="Label of lesions in files with several labels; all others are background. Without it, files hold 0 and 1, "
        "or probabilities from 0 to 1.",
    )
    unseen: bool = Field(
        None,
        description=(
            "true: the other program was trained on none of the cases that it segments here. Otherwise, and if no path names "
            "{split}, tables say that it may have been."
        ),
    )

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield missing and superfluous paths, and fields in braces that they cannot have."""
        if self.table is None:
            for key in ("folder", "pattern"):
                if getattr(self, key) is None:
                    yield Contradiction(key, "it is missing", "Set `folder` and `pattern`, or `table`")
        elif self.folder is not None or self.pattern is not None:
            yield Contradiction("table", "it cannot be combined with `folder` or `pattern`", "Remove it, or the other two")
        for key in ("folder", "pattern", "table"):
            if (path := getattr(self, key)) is not None:
                yield from _field_problems(key, path)


def _field_problems(key: str, path: str) -> Iterator[Contradiction]:
    """Yield what is wrong with the fields in braces of a path."""
    valid = ("case", *RUN_FIELDS) if key == "pattern" else RUN_FIELDS
    listed = ", ".join(f"{{{name}}}" for name in valid)
    try:
        fields = {part[1] for part in string.Formatter().parse(path) if part[1] is not None}
    except ValueError as error:
        yield Contradiction(key, f"{path!r} has unpaired braces ({error})", f"Use only {listed}")
        return
    if unknown := sorted(fields - set(valid)):
        yield Contradiction(key, f"{path!r} names {{{unknown[0]}}}", f"Use only {listed}")
    elif key == "pattern" and "case" not in fields:
        yield Contradiction(key, f"{path!r} is the same file for all cases", "Write {case} in place of the name of a case")


Method = Annotated[
    DeterministicMethod | StochasticMethod | DiffusionMethod | MeanMethod | FilesMethod, Field(discriminator="segmenter")
]
