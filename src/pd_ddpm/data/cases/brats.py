"""Find the training cases of the brain tumour segmentation challenge (BraTS) of 2020 or 2021."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from pd_ddpm.data.cases.links import glob_through_links
from pd_ddpm.data.cases.table import CohortError, complete_table, duplicate_problems, name_problems, raise_problems
from pd_ddpm.data.label_maps import CLASSES_COLUMN, parse_classes
from pd_ddpm.data.nifti.read import LABELS
from pd_ddpm.runtime.missing_file import missing_file_problem, missing_folder_text
from pd_ddpm.runtime.problem import Problem

# Name of a channel -> the end of its files' names.
SUFFIXES = {"FLAIR": "flair", "T1": "t1", "T1ce": "t1ce", "T2": "t2"}

# Enhancing tumour is 4 in the challenges up to 2021 and 3 since then. Necrotic core is 1 and oedema 2 in all.
WHOLE_TUMOUR = (1, 2, 3, 4)

_SEGMENTATION = "seg"
_ENDINGS = (".nii.gz", ".nii")
_MISNAMED_SEGMENTATIONS = {"BraTS20_Training_355": "W39_1998.09.19_Segm"}
_NUMBER_IN_2020 = re.compile(r"BraTS20_Training_(\d{3})")
_NUM_CASES_IN_2020 = 369
_TRAINING_CASES, _VALIDATION_CASES = 295, 37  # in PatchDDM; the other 37 are tested
_NAME_IN_2021 = re.compile(r"BraTS2021_\d{5}")
_PARTS_OF_IMGX = {"train": 938, "validation": 31, "test": 282}  # of the 1251 cases of 2021, in the order of their names

Roles = Literal["folds", "patch_ddm", "imgx"]

_HOW_TO_GET_BRATS = (
    "Get the training data of BraTS 2020 (www.med.upenn.edu/cbica/brats2020, 369 cases) or of BraTS 2021 (synapse.org, "
    "syn25829067, or kaggle.com/datasets/dschettler8845/brats-2021-task1, 1251 cases), each of which needs an account and the "
    "consent to its terms, and unpack them below that folder"
)


def brats_files(folder: str | Path) -> list[str]:
    """Return the images and segmentations of all training cases, at any depth."""
    return sorted(str(path) for path in glob_through_links(folder, "**/*.nii*") if _case_part(path) is not None)


def is_brats(folder: str | Path) -> bool:
    """Return whether a folder holds a segmented training case."""
    return any(_case_part(Path(path)) == _SEGMENTATION for path in brats_files(folder))


def find_brats_cases(
    folder: str | Path,
    channels: Sequence[str],
    lesion_labels: Sequence[int] = WHOLE_TUMOUR,
    roles: Roles = "folds",
    key: str = "dataset",
) -> pd.DataFrame:
    """Find the training cases of BraTS 2020 or 2021.

    A case is a folder that holds files such as `{case}_flair.nii.gz` or `{case}_flair.nii`, at any depth. Its segmentation is
    `{case}_seg`; that of BraTS20_Training_355 was published as W39_1998.09.19_Segm. The challenge's validation cases of 2020
    have no segmentation, and are not used. All sites are "unknown".

    Args:
        folder: folder of the unpacked data.
        channels: names of the channels, of FLAIR, T1, T1ce and T2.
        lesion_labels: labels of the segmentation that are lesion, see `label_recoding`.
        roles: "folds": roles are assigned later. "patch_ddm": as in PatchDDM; needs the 369 training cases of 2020.
            "imgx": as in ImgX-DiffSeg; needs the 1251 cases of 2021, of which the first 938 train, the last 282 are tested, and
            the 31 between them validate.
        key: config key of the dataset, for messages.

    Returns:
        The case table, with the further column `lesion_labels`.

    Raises:
        CohortError: there are no cases, files are missing, or the cases do not have the chosen roles. It lists all of
            these problems.

    Reference: Menze et al. 2015, Bakas et al. 2017 (2020), Baid et al. 2021.
    """
    folder = Path(folder)
    location = f"{key}.folder: {folder}"
    if unknown := [channel for channel in channels if channel not in SUFFIXES]:
        problem = f"BraTS has the channels {', '.join(SUFFIXES)}, not {', '.join(unknown)}"
        raise CohortError(Problem(f"{key}.channels", problem, "Correct `channels`"))
    files = map(Path, brats_files(folder))
    sources = sorted({path.parent for path in files if _case_part(path) in SUFFIXES.values()}, key=lambda path: path.name)
    if not sources:
        problem = "no case such as BraTS20_Training_001/BraTS20_Training_001_flair.nii.gz lies below it"
        raise CohortError(Problem(location, problem if folder.is_dir() else missing_folder_text(folder), _HOW_TO_GET_BRATS))

    problems, rows = [], []
    for source in sources:
        files = {channel: _file(source, f"{source.name}_{SUFFIXES[channel]}") for channel in channels}
        files["mask"] = _segmentation(source)
        problems += name_problems(source.name)
        problems += [missing_file_problem(path, "Unpack it again") for path in files.values() if not path.is_file()]
        paths = {column: str(path) if path.is_file() else "" for column, path in files.items()}
        rows.append({"case": source.name, "site": "unknown"} | paths)
    names = [row["case"] for row in rows]
    problems += duplicate_problems(names, list(map(str, sources)))
    table = complete_table(pd.DataFrame(rows), channels).assign(lesion_labels=" ".join(map(str, sorted(lesion_labels))))
    if roles == "patch_ddm":
        problems += _role_problems(names, key)
        assigned = patch_ddm_roles()
        table["role"] = [assigned.get(_number(name), "") for name in names]
    elif roles == "imgx":
        problems += _imgx_role_problems(names, key)
        table["role"] = table["case"].map(dict(zip(sorted(names), _imgx_roles(), strict=False))).fillna("")
    raise_problems(location, problems, table)
    return table


def patch_ddm_roles() -> dict[int, str]:
    """Return the role of each number of the training cases of BraTS 2020: 295 train, 37 validate, 37 are tested.

    Reference: the released code of Bieder et al. 2023 (PatchDDM), which shuffles the numbers 1 to 369 with numpy's
    legacy generator of seed 0.
    """
    numbers = np.arange(1, _NUM_CASES_IN_2020 + 1)
    np.random.RandomState(0).shuffle(numbers)
    parts = np.split(numbers, [_TRAINING_CASES, _TRAINING_CASES + _VALIDATION_CASES])
    named = zip(("train", "validation", "test"), parts, strict=True)
    return {int(number): role for role, part in named for number in part}


def published_roles(roles: Literal["folds", "patch_ddm", "imgx"]) -> list[str]:
    """Return the role of each published training case: of BraTS 2021 for "imgx", else of 2020; empty if folds assign it."""
    if roles == "imgx":
        return _imgx_roles()
    assigned = patch_ddm_roles()
    return [assigned[number] if roles == "patch_ddm" else "" for number in sorted(assigned)]


def label_recoding(case: Mapping[str, Any]) -> dict[int, int]:
    """Return the label (0 background, 1 lesion, 2 other pathology, or a class) that each label in a case's masks stands for.

    Labels that the column `classes` names stand for themselves. In BraTS, the labels in the column `lesion_labels` of the case
    table are lesion and all others are background. All other layouts have the labels of this pipeline.
    """
    if classes := parse_classes(case.get(CLASSES_COLUMN, "")):
        return {label: label for label in (0, *classes)}
    lesion_labels = {int(label) for label in case.get("lesion_labels", "").split()}
    return {label: int(label in lesion_labels) for label in (0, *WHOLE_TUMOUR)} if lesion_labels else LABELS


def _role_problems(names: Sequence[str], key: str) -> list[Problem]:
    """Return a problem if the cases are not those that PatchDDM assigns roles to."""
    numbers = [_number(name) for name in names]
    expected = range(1, _NUM_CASES_IN_2020 + 1)
    if sorted(filter(None, numbers)) == list(expected) and None not in numbers:
        return []
    missing, others = sorted(set(expected) - set(numbers)), [name for name in names if _number(name) not in expected]
    parts = [f"{len(missing)} of them are missing, the first is {missing[0]:03d}"] if missing else []
    parts += [f"{len(others)} others are there, such as {others[0]}"] if others else []
    problem = f"PatchDDM assigns roles to the {_NUM_CASES_IN_2020} training cases of BraTS 2020, but {' and '.join(parts)}"
    return [Problem(f"{key}.roles", problem, "Complete the cases, or set `roles: folds`")]


def _imgx_roles() -> list[str]:
    return [role for role, count in _PARTS_OF_IMGX.items() for _ in range(count)]


def _imgx_role_problems(names: Sequence[str], key: str) -> list[Problem]:
    """Return a problem if the cases are not those that ImgX-DiffSeg assigns roles to."""
    expected = sum(_PARTS_OF_IMGX.values())
    others = [name for name in names if not _NAME_IN_2021.fullmatch(name)]
    if len(names) == expected and not others:
        return []
    problem = f"ImgX-DiffSeg assigns roles to the {expected} cases of BraTS 2021, but there are {len(names) - len(others)}"
    problem += f", and {len(others)} others such as {others[0]}" if others else ""
    return [Problem(f"{key}.roles", problem, "Complete the cases, or set `roles: folds`")]


def _number(name: str) -> int | None:
    """Return the number of a training case of BraTS 2020, or None for any other case."""
    match = _NUMBER_IN_2020.fullmatch(name)
    return int(match[1]) if match else None


def _case_part(path: Path) -> str | None:
    """Return which part of the training case that its folder is named after a file holds, such as flair or seg, if any."""
    case, stem = path.parent.name, path.name.removesuffix(".gz").removesuffix(".nii")
    if "_Validation_" in case:
        return None
    if stem == _MISNAMED_SEGMENTATIONS.get(case):
        return _SEGMENTATION
    part = stem.removeprefix(f"{case}_")
    return part if part != stem and part in (*SUFFIXES.values(), _SEGMENTATION) else None


def _segmentation(source: Path) -> Path:
    """Return the path of a case's segmentation, which may not exist."""
    path = _file(source, f"{source.name}_{_SEGMENTATION}")
    misnamed = _MISNAMED_SEGMENTATIONS.get(source.name)
    return path if misnamed is None or path.is_file() else _file(source, misnamed)


def _file(source: Path, stem: str) -> Path:
    """Return the path of a compressed or uncompressed image; the compressed one if there is neither."""
    paths = [source / f"{stem}{ending}" for ending in _ENDINGS]
    return next((path for path in paths if path.is_file() or path.is_symlink()), paths[0])
