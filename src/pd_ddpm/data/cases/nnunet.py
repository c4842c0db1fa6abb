"""Cases of a raw data set of nnU-Net (github.com/MIC-DKFZ/nnUNet, documentation/dataset_format.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pd_ddpm.data.cases.table import WEIGHTED, as_table, name_problems, raise_all

DESCRIPTION = "dataset.json"
_ENDINGS = (".nii.gz", ".nii")


def find_nnunet_cases(folder: str | Path, channels: Sequence[str], key: str = "dataset") -> pd.DataFrame:
    """Find the training cases of an nnU-Net raw data set, such as Dataset001_WMH; returns a case table.

    `dataset.json` says which channel has which number (`channel_names`, or `modality` as nnU-Net v1 called it), what the
    labels mean, and how files end. A channel is found by its name whatever its case, and T1 is T1w. The images of a case
    are `imagesTr/{case}_0000.nii.gz` and so on, its mask is `labelsTr/{case}.nii.gz`: 0 is background, 1 the lesion, and 2,
    called ignore for instance, neither. imagesTs are left alone: they have no labels. Sites are "unknown".

    Raises ValueError, naming the config key (those of `key`), if dataset.json is not there or does not fit, and CohortError
    with every image and label that is missing.
    """
    folder = Path(folder)
    described = _description(folder, key)
    _check_labels(folder / DESCRIPTION, described["labels"])
    numbers = {channel: _number(folder / DESCRIPTION, described["channels"], channel) for channel in channels}
    ending = described["ending"]
    labels = (folder / "labelsTr").glob(f"[!.]*{ending}")
    images = (folder / "imagesTr").glob(f"[!.]*_[0-9][0-9][0-9][0-9]{ending}")
    names = {path.name.removesuffix(ending) for path in labels}
    names |= {path.name.removesuffix(ending).rpartition("_")[0] for path in images}
    if not names:
        raise ValueError(
            f"{key}.folder: {folder}: no *{ending} lies in its imagesTr and labelsTr; put the training cases there."
        )

    problems, rows = [], []
    for name in sorted(names):
        files = {channel: folder / "imagesTr" / f"{name}_{number:04d}{ending}" for channel, number in numbers.items()}
        files["mask"] = folder / "labelsTr" / f"{name}{ending}"
        problems += name_problems(name)
        problems += [f"{path}: there is no such file; add it." for path in files.values() if not path.is_file()]
        rows.append({"case": name, "site": "unknown"} | {what: str(path) * path.is_file() for what, path in files.items()})
    table = as_table(pd.DataFrame(rows), channels)
    raise_all(f"{key}.folder: {folder}", problems, table)
    return table


def nnunet_channels(folder: str | Path) -> list[str]:
    """The names of all channels, in their order, without what cannot be part of a channel's name here."""
    return [re.sub(r"[^A-Za-z0-9]", "", name) for _, name in sorted(_description(Path(folder), "dataset")["channels"].items())]


def nnunet_files(folder: str | Path) -> list[str]:
    """All files of the training cases."""
    return sorted(str(path) for part in ("imagesTr", "labelsTr") for path in (Path(folder) / part).glob("*.nii*"))


def _description(folder: Path, key: str) -> dict[str, Any]:
    """What dataset.json says: channels (number -> name), labels (name -> number) and the ending of files."""
    path = folder / DESCRIPTION
    if not path.is_file():
        finding = f"there is no {DESCRIPTION} in it" if folder.is_dir() else "there is no such folder"
        raise ValueError(f"{key}.folder: {folder}: {finding}; name a raw data set of nnU-Net, such as Dataset001_WMH.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = content.get("channel_names") or content["modality"]
        channels = {int(number): str(name) for number, name in names.items()}
        labels = content["labels"]
        # v1 goes from numbers to names.
        labels = {name: int(number) for number, name in labels.items()} if _is_v1(labels) else dict(labels)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: cannot be read as nnU-Net's description ({type(error).__name__}: {error}); it needs channel_names "
            'such as {"0": "FLAIR", "1": "T1"} and labels such as {"background": 0, "lesion": 1}.'
        ) from error
    ending = content.get("file_ending", ".nii.gz")
    if ending not in _ENDINGS:
        raise ValueError(f"{path}: file_ending is {ending!r}; convert the images to NIfTI, .nii.gz or .nii.")
    return {"channels": channels, "labels": labels, "ending": ending}


def _is_v1(labels: dict[str, Any]) -> bool:
    return all(str(name).isdigit() for name in labels)


def _check_labels(path: Path, labels: dict[str, Any]) -> None:
    """Raise ValueError unless 0 is background, 1 the one lesion label, and 2 at most what is neither."""
    numbers = sorted(number for number in labels.values() if isinstance(number, int))
    background = [str(name) for name, number in labels.items() if number == 0]
    if len(numbers) == len(labels) and numbers in ([0, 1], [0, 1, 2]) and background[0].lower() == "background":
        return
    raise ValueError(
        f"{path}: the labels are {json.dumps(labels)}, but 0 must be background, 1 the lesion and 2, if there is one, what is "
        "neither, such as ignore; recode the files of labelsTr so (every kind of lesion to 1, what is not to be judged to 2) "
        'and write "labels": {"background": 0, "lesion": 1, "ignore": 2}.'
    )


def _number(path: Path, names: dict[int, str], channel: str) -> int:
    """The number of a channel; raises ValueError unless exactly one has its name."""
    found = [number for number, name in names.items() if _plain(name) == _plain(channel)]
    if len(found) != 1:
        finding = f"{len(found)} channels are called {channel}" if found else f"no channel is called {channel}"
        raise ValueError(f"{path}: {finding}, there are {', '.join(names.values())}; enter one of them under channels.")
    return found[0]


def _plain(name: str) -> str:
    name = re.sub(r"[^a-z0-9]", "", name.lower())
    return {short.lower(): long.lower() for short, long in WEIGHTED.items()}.get(name, name)
