"""Identity of a result: the network or method, dataset, split and seed of a run, and its shard of the cases."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

SLUG = "split-{split}_seed-{seed}"  # name of a run's folder or file; also a pattern of Snakemake

_SLUG = r"split-(?P<split>\d+)_seed-(?P<seed>\d+)"
_PATH = re.compile(rf"(?P<dataset>[^/]+)/[^/]+/(?P<name>[^/]+)/{_SLUG}(?=[./]|$)")

Case = TypeVar("Case")


@dataclass(frozen=True)
class Run:
    """A network or a method (`name`) on one dataset, with one split and one seed."""

    dataset: str
    name: str
    split: int
    seed: int

    @property
    def slug(self) -> str:
        """Return the name of the run's folders and files, such as "split-0_seed-0"."""
        return SLUG.format(split=self.split, seed=self.seed)

    def folder(self, root: Path | str, kind: str) -> Path:
        """Return the folder of this run's results.

        Args:
            root: folder that holds the folders of all datasets.
            kind: "networks" or "predictions"; "scores" and "ensembles" have one csv of this path instead of a folder.
        """
        return Path(root) / self.dataset / kind / self.name / self.slug

    @classmethod
    def from_wildcards(cls, wildcards: Mapping[str, str], name: str) -> "Run":
        """Return the run of a Snakemake job.

        Args:
            wildcards: values of `dataset`, `split`, `seed` and of the wildcard `name`.
            name: "network" or "method".
        """
        return cls(wildcards["dataset"], wildcards[name], int(wildcards["split"]), int(wildcards["seed"]))

    @classmethod
    def parse(cls, path: Path | str) -> "Run":
        """Return the run that a path belongs to: its folder, a file in its folder, or its file of scores.

        Raises:
            ValueError: no part of the path is `{dataset}/{kind}/{name}/split-{i}_seed-{j}`.
        """
        match = _PATH.search(Path(path).as_posix())
        if match is None:
            raise ValueError(f"{path}: is not in the folder of a run. Give a path with {{name}}/split-{{i}}_seed-{{j}}.")
        return cls(match["dataset"], match["name"], int(match["split"]), int(match["seed"]))


def parse_slug(name: str) -> tuple[int, int] | None:
    """Return split and seed of a name such as "split-0_seed-0", or None if it has another form."""
    match = re.fullmatch(_SLUG, name)
    return match and (int(match["split"]), int(match["seed"]))


@dataclass(frozen=True)
class Shard:
    """Every `count`-th case, beginning with case number `index` (1-based); `Shard(1, 1)` has all cases."""

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise ValueError(f"shard {self.index} of {self.count}: the first number must be from 1 to the second.")

    def select(self, cases: Sequence[Case]) -> Sequence[Case]:
        """Return the cases of this shard, in their order."""
        return cases[self.index - 1 :: self.count]
