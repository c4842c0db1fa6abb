"""The whole configuration."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from pd_ddpm.config.sections.base import UNIQUE, Contradiction, Index, Positive, Section
from pd_ddpm.config.sections.dataset import Dataset
from pd_ddpm.config.sections.exhibits import Evaluation, Exhibits
from pd_ddpm.config.sections.method import Method, SamplingSettings
from pd_ddpm.config.sections.network import Network, TrainingSettings
from pd_ddpm.config.sections.preparation import Folds, Grid, Preparation
from pd_ddpm.config.sections.resources import Resources
from pd_ddpm.config.study_names import FIRST, FURTHER

# Names become parts of paths, of patterns and of cells. Pydantic would turn a positive pattern of keys into another keyword.
_UNSAFE_NAME = "^$|^[^A-Za-z0-9]|[^A-Za-z0-9_.-]"

_RESULTS = f"^results[A-Za-z0-9_.-]*(/({'|'.join(FURTHER)}))?$"


def _safe_name(name: str) -> str:
    if re.search(_UNSAFE_NAME, name):
        problem = "the name is not safe in paths and tables"
        remedy = "Use letters, digits, _ . and -, and begin with a letter or digit"
        raise PydanticCustomError("contradiction", "{problem}. {remedy}.", {"problem": problem, "remedy": remedy})
    return name


def _free_name(name: str) -> str:
    if name == "zero":
        context = {"problem": "the name stands for a mask without lesion", "remedy": "Rename the method"}
        raise PydanticCustomError("contradiction", "{problem}. {remedy}.", context)
    return name


_SAFE = {"type": "string", "not": {"pattern": _UNSAFE_NAME}}
Name = Annotated[str, AfterValidator(_safe_name), WithJsonSchema(_SAFE)]
MethodName = Annotated[
    str,
    AfterValidator(_safe_name),
    AfterValidator(_free_name),
    WithJsonSchema({"type": "string", "not": {"anyOf": [{"const": "zero"}, {"pattern": _UNSAFE_NAME}]}}),
]


class Configuration(Section):
    """A configuration whose networks, methods and datasets are resolved: `like` and common settings are written out."""

    scale: Literal["demo", "gpu", "paper"] = Field(
        description="demo and gpu lay config/demo.yaml or config/gpu.yaml over config/config.yaml; paper does not."
    )
    study: Literal[FIRST, *FURTHER] = Field(
        description="The paper whose experiments these are. The workflow sets it; keys of another study stand below its name."
    )
    results: Annotated[str, Field(pattern=_RESULTS, examples=["results", "results-t25"])] = Field(
        description=(
            "Folder of tables and figures; another study has a folder of its name in it. Another folder keeps those of an "
            "earlier experiment. All experiments share cases, networks, predictions and scores, so a method with other "
            "settings needs another name."
        )
    )
    dataset: str = Field(description="The dataset whose exhibits lie at the top of the results folder.")
    datasets: Annotated[dict[Name, Dataset], Field(min_length=1)] = Field(
        description=(
            "Datasets by name: letters, digits, _ . and -. `like: x` inherits every key of dataset x that is not overridden."
        )
    )
    preparation: Preparation
    grid: Grid
    folds: Folds
    splits: Annotated[list[Index], Field(min_length=1), *UNIQUE] = Field(
        description="Splits that are trained and tested; split i has fold i as its test fold."
    )
    seeds: Annotated[list[Index], Field(min_length=1), *UNIQUE] = Field(
        description="Seeds of training and sampling; every one listed is run. Tables average the seeds of a split."
    )
    device: Annotated[str, Field(pattern="^(auto|cpu|cuda(:[0-9]+)?)$", examples=["auto", "cpu", "cuda", "cuda:0"])] = Field(
        description="auto: the GPU if there is one. Otherwise cpu, cuda or cuda:N."
    )
    compile: Literal["auto", True, False] = Field(
        description=(
            "Whether torch.compile compiles networks. auto: on a GPU, where a job evaluates a network so often that this pays; "
            "never on a CPU. Where compiling fails, networks run uncompiled. Rounding differs; re-runs nothing."
        )
    )
    training: TrainingSettings = Field(description="Settings of every network that does not override them.")
    networks: Annotated[dict[Name, Network], Field(min_length=1)] = Field(
        description="Networks by name, as for datasets. `like: x` inherits every key of network x that is not overridden."
    )
    sampling: SamplingSettings = Field(description="Settings of every method that does not override them.")
    methods: Annotated[dict[MethodName, Method], Field(min_length=1)] = Field(
        description="Methods by name, as for datasets. `like: x` inherits every key of method x that is not overridden."
    )
    evaluation: Evaluation
    exhibits: Exhibits
    resources: Resources
    evaluate_held_out: bool = Field(
        description=(
            "false: nothing is computed for datasets whose part is held_out. true, once all choices are made: their scores are "
            "part of the exhibits, as held_out.csv."
        )
    )
    save_every_seconds: Positive = Field(description="Time between saved states of a training, in seconds.")
    changed_training: Literal["stop", "restart"] = Field(
        description=(
            "What happens if an unfinished training of other settings, data or code has left its state in work/. stop: the job "
            "ends and names what differs; restart: the training starts again in a folder of its own. The state stays untouched "
            "either way, and is resumed when its settings are back. Changes no result and re-runs nothing."
        )
    )
    retries: Index = Field(description="Further attempts after a failed one.")

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield splits without a fold."""
        too_high = [split for split in self.splits if split >= self.folds.count]
        if too_high:
            last = self.folds.count - 1
            yield Contradiction("splits", f"{too_high} have no fold", f"Use 0 to {last}, or raise `folds.count`")
