"""What the files of a bundle may hold. Bundles are passed on, so every value is bounded before memory is requested for it."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from pd_ddpm.config.sections.base import WHOLE, Contradiction, Index, NonNegative, Section
from pd_ddpm.config.sections.network import Precision
from pd_ddpm.config.translation import problems_from

MAX_BYTES = 10_000_000  # of a JSON file
MAX_DEPTH = 20  # of nested lists and objects
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.@=+-]*$"

Content = TypeVar("Content", bound=Section)


def _valid_orientation(codes: str) -> str:
    if len({"RLAPSI".index(code) // 2 for code in codes}) != 3:
        context = {"problem": f"{codes!r} is not valid", "remedy": "Use three letters such as LPS or RAS"}
        raise PydanticCustomError("contradiction", "{problem}. {remedy}.", context)
    return codes


Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=100, examples=["pd-ddpm"])]
Text = Annotated[str, Field(max_length=10_000)]
Steps = Annotated[int, Field(ge=1, le=100_000), WHOLE]
Members = Annotated[int, Field(ge=1, le=1000), WHOLE]
Width = Annotated[int, Field(ge=1, le=4096), WHOLE]
Few = Annotated[int, Field(ge=1, le=64), WHOLE]
PaddedLength = Annotated[int, Field(ge=1, le=4096), WHOLE]
ClassLabels = Annotated[list[Annotated[int, Field(ge=1, le=255), WHOLE]], Field(min_length=1, max_length=255)]
Interval = Annotated[list[float], Field(min_length=2, max_length=2)]
Score = float | None


class _Open(Section):
    """A section whose further keys are kept as they are: they belong to other versions, or nothing depends on them."""

    model_config = ConfigDict(extra="allow")


class StageSettings(_Open):
    """Settings of a method."""

    segmenter: Literal["deterministic", "dropout", "latent", "diffusion"]
    precision: Precision
    grid_members: Literal["auto", "binary", "soft"]
    samples: Members = 1
    pool: Members = 1
    start: Literal["noise", "presegmentation", "learned_prior"] = None
    presegmentation_members: Literal["mean", "each"] = None
    harden: bool = None
    start_from_same_grid: bool = True
    t_start: Steps = None
    reverse_steps: Steps = None
    sampler: Literal["ancestral", "ddim"] = None
    variance: Literal["large", "small"] = None
    step_spacing: Literal["trailing", "linspace"] = "trailing"
    stop_after: Steps | None = None
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield the keys that a chain of reverse steps lacks."""
        needed = ["start", "t_start", "reverse_steps", "sampler"] if self.segmenter == "diffusion" else []
        needed += ["presegmentation_members", "harden"] if self.start == "presegmentation" else []
        needed += ["variance"] if self.sampler == "ancestral" else []
        for key in needed:
            if getattr(self, key) is None:
                yield Contradiction(key, "it is missing", "Add it")


class StageContent(Section):
    """A stage."""

    method: Name
    settings: StageSettings
    network: Name
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    presegmentation: Name | None


_PAIR, _TRIPLE = Field(min_length=2, max_length=2), Field(min_length=3, max_length=3)


class PreparationContent(_Open):
    """Preprocessing of the scans."""

    channels: Annotated[
        list[Annotated[str, Field(pattern="^[A-Za-z0-9]+$", max_length=100)]], Field(min_length=1, max_length=16)
    ]
    normalisation: Literal["zscore_brain", "percentile", "unit_range", "none"]
    interpolator: Literal["linear", "bspline"]
    bias_correction: Literal["none", "n4"] = "none"
    region: Literal["brain", "scan"] = "brain"
    clip: dict[Literal["values", "percentiles"], Annotated[list[float], _PAIR]] | None = None
    margins_voxels: Annotated[list[Annotated[list[Index], _PAIR]], _TRIPLE] | None = None
    spacing_mm: Annotated[list[Annotated[float, Field(gt=0, le=100)]], _TRIPLE] | None = None
    size: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], _TRIPLE] | None = None
    images: dict[str, dict[str, Any] | list[Text]] = Field({}, max_length=16)


class TrainingContent(_Open):
    """Training data."""

    dataset: Text
    simulated: bool
    cases: Index
    sites: dict[str, Index]
    split: Index
    seed: Index
    in_plane_mm: Interval
    slice_distance_mm: Interval
    lesion_ml: Interval = None
    foreground_ml: Interval = None
    brain_ml: Interval
    skull_stripped: Index | None = None  # earlier versions did not write it

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield a missing volume of the masks."""
        if self.lesion_ml is None and self.foreground_ml is None:
            yield Contradiction("lesion_ml", "it is missing", "Add it, or foreground_ml of classes")


class MetricContent(_Open):
    """Statistics of one metric."""

    mean: Score
    sd: Score
    low: Score
    high: Score
    cases: Index


class SiteContent(_Open):
    """Scores of one site."""

    cases: Index
    dice: Score


class CaseContent(_Open):
    """Scores of one case."""

    site: Text | float | None
    dice: Score
    lesion_f1: Score
    reference_volume_ml: Score
    predicted_volume_ml: Score


class ScoresContent(_Open):
    """Scores of the test cases."""

    cases: Index
    metrics: dict[str, MetricContent]
    sites: dict[str, SiteContent]
    worst: list[CaseContent]


class ProvenanceContent(_Open):
    """Provenance of the scored predictions."""

    git_commit: Text | None
    git_changed: bool | None
    seed: int
    device: Text
    precision: Text
    seconds: NonNegative
    code: Text
    config: Text
    versions: dict[str, Text]


class SummaryContent(_Open):
    """Summary of the runs behind the scored predictions."""

    runs: Index
    git_commit: list[Text]
    git_changed: bool
    seed: list[int]
    device: list[Text]
    precision: list[Text]
    seconds: NonNegative


class UpstreamContent(_Open):
    """The runs behind the scored predictions."""

    summary: SummaryContent


class RecordContent(Section):
    """Run record of the scored predictions."""

    provenance: ProvenanceContent
    made_from: UpstreamContent


class ClassContent(Section):
    """A class of the label maps that the bundle makes."""

    label: Annotated[int, Field(ge=1, le=255), WHOLE]
    name: Annotated[str, Field(min_length=1, max_length=100)]


class Description(_Open):
    """bundle.json."""

    format: Index
    name: Name
    made_by: Text
    intended_use: Text = ""
    licence: Text
    preparation: PreparationContent
    orientation: Annotated[str, Field(pattern="^[LRAPIS]{3}$", examples=["LPS"]), AfterValidator(_valid_orientation)]
    stages: Annotated[list[StageContent], Field(min_length=1, max_length=16)]
    presegmentation_from_file: Name | None = None
    classes: list[ClassContent] = Field([], max_length=255)
    training: TrainingContent
    scores: ScoresContent
    # Without a run record, earlier versions wrote an empty one.
    record: Annotated[RecordContent | None, BeforeValidator(lambda record: record or None)] = None


class NetworkSettings(_Open):
    """Settings of a network that determine how much memory it needs."""

    architecture: Literal[
        *("unet", "attention_unet", "unet_plus_plus", "imgx_unet", "probabilistic_unet"),
        *("denoising_unet", "truncated_denoising_unet"),
    ]
    spatial_dims: Annotated[Literal[2, 3], WHOLE]
    coordinates: bool = False
    channels: Width | Annotated[list[Width], Field(min_length=1, max_length=12)]
    latent: Width = None
    multipliers: Annotated[list[Few], Field(min_length=1, max_length=12)] = None
    residual_blocks: Few = None
    attention_at: Annotated[list[Width], Field(max_length=12)] = None
    middle_attention: bool = True
    heads: Few = None
    backbone: Literal["guided", "imgx"] = "guided"
    first_downsampling: Annotated[list[Literal[1, 2, 4]], Field(min_length=2, max_length=3)] | None = None
    groups: Width | None = None
    time_injection: Literal["fixed", "as_released"] = "fixed"
    discriminator_channels: Width = None
    dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    labels: ClassLabels = None
    T: Steps = None
    t_max: Steps = None

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield the keys that a denoiser lacks."""
        for key in ("T", "t_max") if self.architecture.endswith("denoising_unet") else ():
            if getattr(self, key) is None:
                yield Contradiction(key, "it is missing", "Add it")


class GridContent(Section):
    """Working grid of a network."""

    spacing_mm: Annotated[float, Field(ge=0.1, le=100)] | None
    region: Literal["slice", "brain_box"]
    margin_mm: Annotated[float, Field(ge=0, le=1000)]
    minimum_brain_cm2: NonNegative
    padded_size: Annotated[list[PaddedLength], Field(min_length=2, max_length=3)] | None = None
    labels: Literal["fractions", "binary"] = "fractions"


class NetworkMetadata(_Open):
    """Metadata file of a network."""

    settings: NetworkSettings
    image_channels: Few
    grid: GridContent
    sha256: dict[str, str]


def misfits(content: Any, expected: type[Content]) -> list[str]:
    """Return what is wrong with the content of a JSON file, as phrases; none if it is valid.

    Args:
        content: the parsed file.
        expected: `Description` or `NetworkMetadata`.
    """
    if _depth(content) > MAX_DEPTH:
        return [f"it is nested more than {MAX_DEPTH} levels deep"]
    try:
        expected.model_validate(content)
    except ValidationError as error:
        problems = problems_from(error, expected)
        return [f"{problem.location} {problem.problem}" if problem.path else problem.problem for problem in problems]
    return []


def _depth(content: Any) -> int:
    """Return how many lists and objects are nested, without recursion."""
    depth, level = 0, [content]
    while level:
        depth += 1
        values = [value.values() if isinstance(value, dict) else value for value in level if isinstance(value, dict | list)]
        level = [inner for value in values for inner in value]
    return depth
