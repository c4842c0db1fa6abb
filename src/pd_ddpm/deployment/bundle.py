"""Bundles: a trained method as one folder that holds everything needed to segment new scans.

    bundle.json             preprocessing, the stages in their order, training data and scores
    README.md               model card: the same content for a reader
    networks/{name}.safetensors, {name}.json    weights and metadata of each network
    checksums.txt           SHA-256 of all other files, in the format of `sha256sum --check`

Weights are safetensors and all other files are text, so nothing in a bundle is ever executed.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pd_ddpm.config.chain_length import chain_steps
from pd_ddpm.config.resolve import ARCHITECTURES
from pd_ddpm.config.sections.base import Section
from pd_ddpm.deployment.bundle_schema import MAX_BYTES, Description, NetworkMetadata, misfits
from pd_ddpm.runtime.files import atomic_write, file_sha256, format_bytes
from pd_ddpm.runtime.problem import Problem, ProblemError

FORMAT = 1
DESCRIPTION = "bundle.json"
MODEL_CARD = "README.md"
CHECKSUMS = "checksums.txt"
NETWORKS = "networks"
_CHECKSUM_LINE = re.compile(r"([0-9a-f]{64})  ((?:networks/)?[^/\\]+)")
_COPY_AGAIN = "Copy the bundle again"
_EXPORT_AGAIN = "Make the bundle again with `pd-ddpm export`"


class BundleError(ProblemError):
    """Raised for a folder that is not an intact bundle, or for an option that the bundle's method does not have."""


@dataclass(frozen=True)
class Stage:
    """One method of a bundle.

    Attributes:
        method: name of the method.
        settings: its settings, as in the configuration.
        network: name of its network's files.
        seed: seed of its noise.
        presegmentation: the earlier stage that provides its pre-segmentations, or the method whose masks are given as a
            file; None if it needs none, or starts from an empty mask.
    """

    method: str
    settings: dict[str, Any]
    network: str
    seed: int
    presegmentation: str | None


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    Attributes:
        folder: the folder.
        description: content of bundle.json.
        stages: the stages, in the order in which they are sampled.
    """

    folder: Path
    description: dict[str, Any]
    stages: tuple[Stage, ...]

    @property
    def channels(self) -> list[str]:
        """The images that a scan must have; the first defines the grid."""
        return self.description["preparation"]["channels"]

    @property
    def presegmentation_from_file(self) -> str | None:
        """The method whose masks must be given as a file, since another program makes them; None if there is none."""
        return self.description.get("presegmentation_from_file")

    @property
    def classes(self) -> dict[int, str]:
        """Label -> name of each class of the label maps; empty if masks hold lesions."""
        return {entry["label"]: entry["name"] for entry in self.description.get("classes", [])}

    def network_files(self, stage: Stage) -> tuple[Path, Path]:
        """Return the paths of the weights and the metadata of a stage's network."""
        return network_files(self.folder, stage.network)

    def network_settings(self, stage: Stage) -> dict[str, Any]:
        """Read the settings of a stage's network, as in the configuration."""
        _, metadata_file = self.network_files(stage)
        return json.loads(metadata_file.read_text(encoding="utf-8"))["settings"]

    def version(self) -> str:
        """Return a hash of all files of the bundle."""
        return file_sha256(self.folder / CHECKSUMS)


def override_sampling(
    bundle: Bundle, num_members: int | None = None, t_start: int | None = None, num_steps: int | None = None
) -> list[Stage]:
    """Return the bundle's stages with other settings of sampling; None keeps the bundle's setting.

    A reverse chain with fewer steps than the bundle's uses the small variance, because the large one is meant for chains
    without skipped timesteps.

    Args:
        bundle: the bundle.
        num_members: number of ensemble members of the last stage, and of earlier stages that provide one start per member.
        t_start: start timestep T' of the last stage.
        num_steps: number of reverse steps of the last stage.

    Returns:
        The stages in their order.

    Raises:
        BundleError: the method does not have the setting, or the value is out of range.
    """
    *earlier, last = bundle.stages
    settings = dict(last.settings)
    if num_members is not None:
        if "samples" not in settings:
            raise BundleError(
                Problem("--members", f"{last.method} is deterministic and has one member only", "Omit the option")
            )
        settings |= {"samples": num_members, "pool": num_members}
        if settings.get("presegmentation_members") == "each":
            earlier = [
                replace(stage, settings=stage.settings | {"samples": num_members, "pool": num_members})
                if "samples" in stage.settings
                else stage
                for stage in earlier
            ]
    if t_start is not None or num_steps is not None:
        settings |= _override_chain(bundle, last, t_start, num_steps)
    return [*earlier, replace(last, settings=settings)]


def start_from_file(stages: Sequence[Stage]) -> list[Stage]:
    """Return the stages of a prediction whose pre-segmentation is given as a file: the last one only.

    Raises:
        BundleError: the method starts from no pre-segmentation.
    """
    last = stages[-1]
    if last.settings.get("start") != "presegmentation":
        problem = f"{last.method} starts from no pre-segmentation"
        raise BundleError(Problem("--presegmentation", problem, "Omit the option, or use another bundle"))
    return [replace(last, presegmentation=last.presegmentation or "presegmentation")]


def _override_chain(bundle: Bundle, stage: Stage, t_start: int | None, num_steps: int | None) -> dict[str, Any]:
    """Return the settings of a stage that change with another T' or number of reverse steps."""
    settings, network_settings = stage.settings, bundle.network_settings(stage)
    if settings["segmenter"] != "diffusion":
        raise BundleError(Problem("--t-start, --steps", f"{stage.method} has no reverse chain", "Omit these options"))
    changes: dict[str, Any] = {}
    if t_start is not None:
        if settings["start"] != "presegmentation":
            raise BundleError(
                Problem("--t-start", f"{stage.method} can only start at T' = {settings['t_start']}", "Omit the option")
            )
        if not 1 <= t_start <= network_settings["t_max"]:
            problem = f"{t_start} is not between 1 and {network_settings['t_max']}, the largest timestep in training"
            raise BundleError(Problem("--t-start", problem, "Choose a timestep in this range"))
        changes["t_start"] = t_start
    start = changes.get("t_start", settings["t_start"])
    if num_steps is not None:
        if not 1 <= num_steps <= start:
            raise BundleError(
                Problem("--steps", f"{num_steps} is not between 1 and T' = {start}", "Choose a number in this range")
            )
        changes["reverse_steps"] = round(num_steps * network_settings["T"] / start)
        if num_steps < chain_steps(settings["reverse_steps"], start, network_settings["T"]):
            changes["variance"] = "small"
    return changes


def network_files(folder: Path, name: str) -> tuple[Path, Path]:
    """Return the paths of a network's weights and metadata in the folder of a bundle."""
    return folder / NETWORKS / f"{name}.safetensors", folder / NETWORKS / f"{name}.json"


def make_description(name: str, stages: Iterable[Stage], **sections: Any) -> dict[str, Any]:
    """Return the content of bundle.json.

    Args:
        name: name of the bundle.
        stages: its stages, in their order.
        sections: preparation, orientation, training, scores and further keys.
    """
    return {"format": FORMAT, "name": name, "stages": [asdict(stage) for stage in stages], **sections}


def write_checksums(folder: Path) -> None:
    """Write the checksums of all files of a bundle. Call it after all other files are written."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    with atomic_write(folder / CHECKSUMS) as temporary:
        lines = [f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
        temporary.write_text("".join(lines), encoding="utf-8")


def read_bundle(folder: str | Path) -> Bundle:
    """Read a bundle and verify the checksums of all its files.

    Raises:
        BundleError: the folder is not a bundle, is incomplete, was changed, or was made by a later version of this package.
    """
    folder = Path(folder)
    _verify_checksums(folder)
    file = folder / DESCRIPTION
    description = _read_json(file)
    later_format = description.get("format") if isinstance(description, dict) else None
    if isinstance(later_format, int) and later_format > FORMAT:
        problem = f"it has format {later_format}, but this version of pd-ddpm reads formats up to {FORMAT}"
        raise BundleError(Problem(file, problem, "Install a newer version"))
    _check_content(file, description, Description)
    stages = tuple(Stage(**stage) for stage in description["stages"])
    if error := next(_stage_errors(folder, stages, description.get("presegmentation_from_file")), None):
        raise error
    for stage in stages:
        metadata_file = network_files(folder, stage.network)[1]
        metadata = _read_json(metadata_file)
        _check_content(metadata_file, metadata, NetworkMetadata)
        labels = [entry["label"] for entry in description.get("classes", [])]
        if problem := _stage_problem(stage, metadata, description["preparation"]["channels"], labels):
            raise BundleError(Problem(metadata_file, problem, _EXPORT_AGAIN))
    return Bundle(folder, description, stages)


def _read_json(file: Path) -> Any:
    """Read a JSON file of a bundle.

    Raises:
        BundleError: the file is too large or no JSON.
    """
    if file.stat().st_size > MAX_BYTES:
        raise BundleError(Problem(file, f"it is larger than {format_bytes(MAX_BYTES)}", _EXPORT_AGAIN))
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(Problem(file, f"it is not JSON ({type(error).__name__}: {error})", _EXPORT_AGAIN)) from error


def _check_content(file: Path, content: Any, expected: type[Section]) -> None:
    """Raise BundleError, with every invalid value, if a file does not have the expected content."""
    if problems := misfits(content, expected):
        raise BundleError(*(Problem(file, problem, _EXPORT_AGAIN) for problem in problems))


def _stage_problem(stage: Stage, metadata: Mapping[str, Any], channels: Sequence[str], labels: Sequence[int]) -> str | None:
    """Return why the network of a stage cannot serve its method, or None if it can.

    Args:
        stage: the stage.
        metadata: content of its network's metadata file.
        channels: channels of the scans.
        labels: labels of the classes; empty if masks hold lesions.
    """
    network, settings = metadata["settings"], stage.settings
    if network.get("labels", []) != labels:
        return f"`labels` is {network.get('labels', [])}, but the bundle names the classes {labels}"
    if metadata["image_channels"] != len(channels):
        return f"`image_channels` is {metadata['image_channels']}, but the bundle has the channels {', '.join(channels)}"
    if network["architecture"] not in ARCHITECTURES[settings["segmenter"]]:
        return f"{stage.method} is {settings['segmenter']} and cannot use the architecture {network['architecture']}"
    if settings["segmenter"] != "diffusion":
        return None
    if settings["start"] == "learned_prior" and network["architecture"] != "truncated_denoising_unet":
        return f"{stage.method} starts from a learned prior, which the architecture {network['architecture']} does not have"
    if not settings["t_start"] <= network["t_max"] <= network["T"]:
        times = f"{settings['t_start']}, {network['t_max']} and {network['T']}"
        return f"T' of {stage.method}, `t_max` and `T` must not decrease, but are {times}"
    return None


def _stage_errors(folder: Path, stages: Iterable[Stage], from_file: str | None) -> Iterator[BundleError]:
    """Yield an error for each missing pre-segmentation and each missing file of the stages.

    Args:
        folder: the bundle.
        stages: its stages.
        from_file: method whose masks are given as a file.
    """
    earlier = {from_file}
    for stage in stages:
        if stage.presegmentation and stage.presegmentation not in earlier:
            problem = f"{stage.method} starts from {stage.presegmentation}, which is not an earlier stage"
            yield BundleError(Problem(folder / DESCRIPTION, problem, _EXPORT_AGAIN))
        for path in network_files(folder, stage.network):
            if not path.is_file():
                yield BundleError(Problem(path, f"the file, which {stage.method} needs, does not exist", _EXPORT_AGAIN))
        earlier.add(stage.method)


def _verify_checksums(folder: Path) -> None:
    """Compare all files with their checksums. Listed paths cannot leave the folder."""
    listing = folder / CHECKSUMS
    export_folder = "Give a folder that `pd-ddpm export` has made"
    if not folder.is_dir():
        raise BundleError(Problem(folder, "the folder does not exist", export_folder))
    if not listing.is_file():
        raise BundleError(Problem(folder, f"it is not a bundle, because it has no {CHECKSUMS}", export_folder))
    if not listing.resolve().is_relative_to(folder.resolve()):
        raise BundleError(Problem(listing, "it is a symbolic link that leaves the bundle", _COPY_AGAIN))
    lines = [line for line in listing.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    checksums = {}
    for line in lines:
        match = _CHECKSUM_LINE.fullmatch(line)
        if not match:
            raise BundleError(Problem(listing, f"the line {line[:80]!r} is not a checksum of a bundle's file", _COPY_AGAIN))
        checksums[match[2]] = match[1]
    for name in [DESCRIPTION, *checksums]:
        if name not in checksums:
            raise BundleError(Problem(listing, f"{name} is not listed", _COPY_AGAIN))
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            problem = f"it is a symbolic link to {path.resolve()}, outside of the bundle"
            raise BundleError(Problem(path, problem, "Copy the bundle again with the files themselves, as `cp -rL` does"))
        if not path.is_file():
            raise BundleError(Problem(path, f"the file does not exist, but {CHECKSUMS} lists it", _COPY_AGAIN))
        if file_sha256(path) != checksums[name]:
            problem = "it was changed or damaged after the export: its SHA-256 differs"
            raise BundleError(Problem(path, problem, f"{_COPY_AGAIN}, or export it again if you have changed it yourself"))
    names = (path.relative_to(folder).as_posix() for path in (folder / NETWORKS).glob("*"))
    if unlisted := sorted(set(names) - checksums.keys()):
        problem = f"the file is not listed in {CHECKSUMS}"
        raise BundleError(Problem(folder / unlisted[0], problem, "Remove it, or copy the bundle again"))
