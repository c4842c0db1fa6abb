"""A trained method as one folder that segments new scans, so that nothing needs to be typed again.

    bundle.json             how scans are prepared, the methods in their order, what was trained on, and the scores
    README.md               the same for a reader: the model card
    networks/{name}.safetensors, {name}.json    weights, and what is needed to rebuild the network
    checksums.txt           SHA-256 of all of these, as `sha256sum --check` reads them

Weights are safetensors and everything else is text: nothing of a bundle is ever executed.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pd_ddpm.config.methods import chain_steps
from pd_ddpm.runtime.files import atomic_write, file_sha256

FORMAT = 1
DESCRIPTION, CARD, CHECKSUMS, NETWORKS = "bundle.json", "README.md", "checksums.txt", "networks"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@=+-]*")
_KEYS = {"format", "name", "preparation", "orientation", "stages", "training", "scores"}


class BundleError(ValueError):
    """A folder that is no bundle, or one that cannot be trusted; the message names the file and the remedy."""


@dataclass(frozen=True)
class Stage:
    """One method of a bundle; its network's files have the name `network`.

    settings: those of the method, as in the configuration; seed: of its noise. presegmentation: the method, an earlier stage,
    whose members it starts from; None where it needs none, or starts from no lesion.
    """

    method: str
    settings: dict[str, Any]
    network: str
    seed: int
    presegmentation: str | None


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. `about` is the content of bundle.json; `stages` come in the order in which they are drawn."""

    folder: Path
    about: dict[str, Any]
    stages: tuple[Stage, ...]

    @property
    def channels(self) -> list[str]:
        """The images that a scan must have; the first defines the grid."""
        return self.about["preparation"]["channels"]

    def network_files(self, stage: Stage) -> tuple[Path, Path]:
        """Weights and card of a stage's network."""
        return network_files(self.folder, stage.network)

    def network_settings(self, stage: Stage) -> dict[str, Any]:
        """The settings of a stage's network, as in the configuration."""
        return json.loads(self.network_files(stage)[1].read_text(encoding="utf-8"))["settings"]

    def version(self) -> str:
        """A hash of everything in the bundle."""
        return file_sha256(self.folder / CHECKSUMS)


def vary(bundle: Bundle, members: int | None = None, t_start: int | None = None, steps: int | None = None) -> list[Stage]:
    """The stages with another number of members, T' or number of steps of the last one's chain; None leaves what it is.

    A chain of fewer steps than the bundle's takes the small variance, since the large one is meant for single steps.
    Raises BundleError where the method has no use for it, or for a value that it cannot have.
    """
    *before, last = bundle.stages
    settings = dict(last.settings)
    if members is not None:
        if "samples" not in settings:
            raise BundleError(f"--members: {last.method} draws one mask, and further ones would equal it; leave it out.")
        settings |= {"samples": members, "pool": members}
        if settings.get("presegmentation_members") == "each":
            before = [
                replace(stage, settings=stage.settings | {"samples": members, "pool": members})
                if "samples" in stage.settings
                else stage
                for stage in before
            ]
    if t_start is not None or steps is not None:
        settings |= _chain(bundle, last, t_start, steps)
    return [*before, replace(last, settings=settings)]


def _chain(bundle: Bundle, stage: Stage, t_start: int | None, steps: int | None) -> dict[str, Any]:
    """What a stage's settings become by another T' or number of steps."""
    settings, trained = stage.settings, bundle.network_settings(stage)
    if settings["segmenter"] != "diffusion":
        raise BundleError(f"--t-start, --steps: {stage.method} has no reverse chain; leave them out.")
    changed: dict[str, Any] = {}
    if t_start is not None:
        if settings["start"] != "presegmentation":
            raise BundleError(f"--t-start: {stage.method} starts at T' = {settings['t_start']} only; leave it out.")
        if not 1 <= t_start <= trained["t_max"]:
            raise BundleError(f"--t-start: {t_start} is not from 1 to {trained['t_max']}, up to which the network was trained.")
        changed["t_start"] = t_start
    start = changed.get("t_start", settings["t_start"])
    if steps is not None:
        if not 1 <= steps <= start:
            raise BundleError(f"--steps: {steps} is not from 1 to T' = {start}.")
        changed["reverse_steps"] = round(steps * trained["T"] / start)
        if steps < chain_steps(settings["reverse_steps"], start, trained["T"]):
            changed["variance"] = "small"
    return changed


def network_files(folder: Path, name: str) -> tuple[Path, Path]:
    """Where a bundle keeps the weights and the card of a network."""
    return folder / NETWORKS / f"{name}.safetensors", folder / NETWORKS / f"{name}.json"


def describe(name: str, stages: Iterable[Stage], **parts: Any) -> dict[str, Any]:
    """The content of bundle.json; parts: preparation, orientation, training, scores and what else is to be known."""
    return {"format": FORMAT, "name": name, "stages": [asdict(stage) for stage in stages], **parts}


def write_checksums(folder: Path) -> None:
    """Write the checksums of all files of a bundle; the last step of writing one."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    with atomic_write(folder / CHECKSUMS) as temporary:
        lines = [f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
        temporary.write_text("".join(lines), encoding="utf-8")


def read_bundle(folder: str | Path) -> Bundle:
    """Read a bundle and verify every file of it by its checksum.

    Raises BundleError if it is none, is not whole, was altered, or was made by a later version of this package.
    """
    folder = Path(folder)
    _verify(folder)
    try:
        about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        later = about["format"] > FORMAT
        stages = tuple(Stage(**stage) for stage in about["stages"])
        missing = sorted(_KEYS - about.keys())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"{folder / DESCRIPTION}: is no description of a bundle ({type(error).__name__}: {error}); make the bundle again "
            "with `pd-ddpm export`."
        ) from error
    if later:
        raise BundleError(
            f"{folder / DESCRIPTION}: has the format {about['format']}, and this version of pd-ddpm reads up to {FORMAT}; "
            "install a newer one."
        )
    if missing or not stages:
        raise BundleError(f"{folder / DESCRIPTION}: lacks {', '.join(missing) or 'stages'}; make the bundle again.")
    drawn = set()
    for stage in stages:
        names = [stage.method, stage.network, *([stage.presegmentation] if stage.presegmentation else [])]
        if wrong := [name for name in names if not _NAME.fullmatch(name)]:
            raise BundleError(f"{folder / DESCRIPTION}: {wrong[0]!r} is not a name; make the bundle again.")
        if stage.presegmentation and stage.presegmentation not in drawn:
            raise BundleError(
                f"{folder / DESCRIPTION}: {stage.method} starts from {stage.presegmentation}, which no earlier stage draws; "
                "make the bundle again."
            )
        if absent := [path for path in network_files(folder, stage.network) if not path.is_file()]:
            raise BundleError(f"{absent[0]}: there is no such file, which {stage.method} needs; make the bundle again.")
        drawn.add(stage.method)
    return Bundle(folder, about, stages)


def _verify(folder: Path) -> None:
    """Compare all files with their checksums; the listed paths stay within the folder."""
    listing = folder / CHECKSUMS
    if not folder.is_dir():
        raise BundleError(f"{folder}: there is no such folder; name one that `pd-ddpm export` has made.")
    if not listing.is_file():
        raise BundleError(f"{folder}: is no bundle, since it has no {CHECKSUMS}; name one that `pd-ddpm export` has made.")
    lines = [line for line in listing.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    expected = {}
    for line in lines:
        found = re.fullmatch(r"([0-9a-f]{64})  ((?:networks/)?[^/\\]+)", line)
        if not found:
            raise BundleError(f"{listing}: the line {line[:80]!r} is no checksum of a file of a bundle; copy the bundle again.")
        expected[found[2]] = found[1]
    for name in [DESCRIPTION, *expected]:
        if name not in expected:
            raise BundleError(f"{listing}: does not list {name}; copy the bundle again.")
        path = folder / name
        if not path.is_file():
            raise BundleError(f"{path}: there is no such file, though {CHECKSUMS} lists it; copy the bundle again.")
        if file_sha256(path) != expected[name]:
            raise BundleError(
                f"{path}: is not the file that was exported (its SHA-256 differs): it was changed or damaged; copy the bundle "
                "again, or export it again if you changed it yourself."
            )
    unlisted = sorted(
        path.relative_to(folder).as_posix()
        for path in (folder / NETWORKS).glob("*")
        if path.relative_to(folder).as_posix() not in expected
    )
    if unlisted:
        raise BundleError(f"{folder / unlisted[0]}: is not listed in {CHECKSUMS}; remove it, or copy the bundle again.")
