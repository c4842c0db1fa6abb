"""Find the cases of a raw dataset of nnU-Net (github.com/MIC-DKFZ/nnUNet, documentation/dataset_format.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pd_ddpm.data.cases.table import WEIGHTED, CohortError, complete_table, name_problems, raise_problems
from pd_ddpm.data.cases.text import TextError, read_text
from pd_ddpm.runtime.missing_file import missing_file_problem, missing_folder_text
from pd_ddpm.runtime.problem import Problem

DESCRIPTION = "dataset.json"
_ENDINGS = (".nii.gz", ".nii")

# Words in the names of labels. "White matter hyperintensities" are a lesion, and "white matter" is anatomy.
_LESION = re.compile(r"lesion|wm[hl]|hyper|plaque|patholog|abnormal|tumou?r|stroke|infarct|o?edema", re.I)
_ANATOMY = re.compile(
    r"(?<!peri)ventric|brain|csf|fluid|gr[ae]y|white|matter|tissue|skull|head|cortex|cortical|cerebell|thalam|stem|^[gw]m$",
    re.I,
)
_IGNORED = re.compile(r"ignor|other|exclu|uncertain|unknown|unclear|void|don.?t.?care|non.?(wm|lesion)|not", re.I)


def find_nnunet_cases(
    folder: str | Path, channels: Sequence[str], key: str = "dataset", classes: Mapping[int, str] | None = None
) -> pd.DataFrame:
    """Find the training cases of an nnU-Net raw dataset, such as Dataset001_WMH.

    `dataset.json` defines the number of each channel (`channel_names`, or `modality` in nnU-Net v1), the labels, and the
    ending of files. Channel names match regardless of case, and T1 matches T1w. The images of a case are
    `imagesTr/{case}_0000.nii.gz` and so on. Its mask is `labelsTr/{case}.nii.gz`: 0 is background, 1 is lesion, and 2, called
    ignore for instance, is neither. imagesTs are not used, since they have no labels. All sites are "unknown".

    Args:
        folder: folder of the raw dataset.
        channels: names of the channels.
        key: config key of the dataset, for messages.
        classes: label -> name of each class, if the dataset names classes. dataset.json must have these labels.

    Returns:
        The case table.

    Raises:
        CohortError: dataset.json is missing or does not fit, or images or labels are missing. It lists all of them.
    """
    folder = Path(folder)
    location = f"{key}.folder: {folder}"
    description = _description(folder, key)
    if classes:
        _check_classes(folder / DESCRIPTION, description["labels"], classes, key)
    else:
        _check_labels(folder / DESCRIPTION, description["labels"])
    numbers = {channel: _number(folder / DESCRIPTION, description["channels"], channel) for channel in channels}
    ending = description["ending"]
    labels = (folder / "labelsTr").glob(f"[!.]*{ending}")
    images = (folder / "imagesTr").glob(f"[!.]*_[0-9][0-9][0-9][0-9]{ending}")
    with_images = {path.name.removesuffix(ending).rpartition("_")[0] for path in images}
    with_labels = {path.name.removesuffix(ending) for path in labels}
    # A label with the number of a channel would count as a case without images.
    misnamed = {name for name in with_labels - with_images if re.sub(r"_\d{4}$", "", name) in with_images - with_labels}
    names = (with_images | with_labels) - misnamed - {name[:-5] for name in misnamed}
    if not names and not misnamed:
        problem = f"there is no *{ending} in its imagesTr and labelsTr"
        raise CohortError(Problem(location, problem, "Put the training cases there"))

    problems = [
        Problem(folder / f"labelsTr/{name}{ending}", "a label has no number of a channel", f"Rename it to {name[:-5]}{ending}")
        for name in sorted(misnamed)
    ]
    rows = []
    for name in sorted(names):
        files = {channel: folder / "imagesTr" / f"{name}_{number:04d}{ending}" for channel, number in numbers.items()}
        files["mask"] = folder / "labelsTr" / f"{name}{ending}"
        problems += name_problems(name)
        problems += [missing_file_problem(path, "Add it") for path in files.values() if not path.is_file()]
        paths = {column: str(path) if path.is_file() else "" for column, path in files.items()}
        rows.append({"case": name, "site": "unknown"} | paths)
    table = complete_table(pd.DataFrame(rows, columns=["case", "site", *channels, "mask"]), channels)
    raise_problems(location, problems, table)
    return table


def nnunet_channels(folder: str | Path) -> list[str]:
    """Return the names of all channels in their order, without characters that are not allowed in a channel's name."""
    return [re.sub(r"[^A-Za-z0-9]", "", name) for _, name in sorted(_description(Path(folder), "dataset")["channels"].items())]


def nnunet_files(folder: str | Path) -> list[str]:
    """Return all files of the training cases."""
    return sorted(str(path) for part in ("imagesTr", "labelsTr") for path in (Path(folder) / part).glob("*.nii*"))


def _description(folder: Path, key: str) -> dict[str, Any]:
    """Read dataset.json: channels (number -> name), labels (name -> number) and the ending of files."""
    path = folder / DESCRIPTION
    if not path.is_file():
        if path.is_symlink():
            raise CohortError(missing_file_problem(path))
        problem = f"there is no {DESCRIPTION} in it" if folder.is_dir() else missing_folder_text(folder)
        remedy = "Set it to a raw dataset of nnU-Net, such as Dataset001_WMH"
        raise CohortError(Problem(f"{key}.folder: {folder}", problem, remedy))
    try:
        content = json.loads(read_text(path))
        names = content.get("channel_names") or content["modality"]
        channels = {int(number): str(name) for number, name in names.items()}
        labels = content["labels"]
        # v1 maps numbers to names.
        labels = {name: int(number) for number, name in labels.items()} if _is_v1(labels) else dict(labels)
    except TextError as error:
        raise CohortError(*error.problems) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CohortError(
            Problem(
                path,
                f"cannot be read as nnU-Net's description ({type(error).__name__}: {error})",
                'Write channel_names such as {"0": "FLAIR", "1": "T1"} and labels such as {"background": 0, "lesion": 1}',
            )
        ) from error
    ending = content.get("file_ending", ".nii.gz")
    if str(ending).lower() not in _ENDINGS:
        raise CohortError(Problem(path, f"file_ending is {ending!r}", "Convert the images to NIfTI, .nii.gz or .nii"))
    return {"channels": channels, "labels": labels, "ending": ending}


def _is_v1(labels: dict[str, Any]) -> bool:
    return all(str(name).isdigit() for name in labels)


def _check_labels(path: Path, labels: dict[str, Any]) -> None:
    """Check that 0 is background, 1 the only lesion label, and 2, if used, neither of them, by numbers and names.

    Raises:
        CohortError: the labels are others.
    """
    numbers = sorted(number for number in labels.values() if isinstance(number, int))
    names = {number: str(name) for name, number in labels.items() if isinstance(number, int)}
    if len(numbers) != len(labels) or numbers not in ([0, 1], [0, 1, 2]) or names[0].lower() != "background":
        problem = "but 0 must be background, 1 the lesion and 2, if used, neither of them, such as ignore"
    elif (_ANATOMY.search(names[1]) or _IGNORED.search(names[1])) and not _LESION.search(names[1]):
        problem = f"but label 1 must be the lesion, and '{names[1]}' is not a lesion"
    elif 2 in names and not _IGNORED.search(names[2]):
        problem = f"but label 2 is left out of training and scores, and '{names[2]}' does not name what is left out"
    else:
        return
    raise CohortError(
        Problem(
            path,
            f"the labels are {json.dumps(labels)}, {problem}",
            "Recode the files of labelsTr (every kind of lesion to 1, other pathology to 2) and write "
            '"labels": {"background": 0, "lesion": 1, "ignore": 2}, or name all labels in `classes` of the dataset',
        )
    )


def _check_classes(path: Path, labels: dict[str, Any], classes: Mapping[int, str], key: str) -> None:
    """Check that nnU-Net's labels are background and those of the configuration, whose names may differ.

    Raises:
        CohortError: the labels are others.
    """
    numbers = [number for number in labels.values() if isinstance(number, int)]
    if len(numbers) != len(labels) or sorted(numbers) != [0, *sorted(classes)]:
        problem = f"its labels are {json.dumps(labels)}, but `{key}.classes` names {', '.join(map(str, classes))}"
        raise CohortError(Problem(path, problem, "Name every label but 0 in `classes`, and no other"))


def _number(path: Path, names: dict[int, str], channel: str) -> int:
    """Return the number of a channel.

    Raises:
        CohortError: no channel, or more than one, has this name.
    """
    matches = [number for number, name in names.items() if _plain(name) == _plain(channel)]
    if len(matches) != 1:
        count = f"{len(matches)} channels are" if matches else "no channel is"
        problem = f"{count} called {channel}; the channels are {', '.join(names.values())}"
        raise CohortError(Problem(path, problem, "Enter one of them in `channels`"))
    return matches[0]


def _plain(name: str) -> str:
    name = re.sub(r"[^a-z0-9]", "", name.lower())
    return {short.lower(): long.lower() for short, long in WEIGHTED.items()}.get(name, name)
