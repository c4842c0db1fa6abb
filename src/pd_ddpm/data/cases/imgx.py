"""Find the cases of three data sets of ImgX-DiffSeg, with its split: muscle ultrasound, abdominal CT and male pelvic MR."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from pd_ddpm.data.cases.links import glob_through_links
from pd_ddpm.data.cases.table import CohortError, complete_table, duplicate_problems, name_problems, raise_problems
from pd_ddpm.data.cases.text import TextError, read_text
from pd_ddpm.runtime.missing_file import missing_file_problem, missing_folder_text
from pd_ddpm.runtime.problem import Problem

Roles = Literal["folds", "imgx"]

# Role -> name of its folder in the muscle ultrasound data; its masks lie in {name}annot.
_MUSCLE_FOLDERS = {"train": "train", "validation": "val", "test": "test"}
# Such as BB_anon_1789_3: muscle, subject and number of the image.
_MUSCLE_NAME = re.compile(r"[A-Z]+_(?P<subject>anon_\d+)_\d+")

AMOS_DESCRIPTION = "dataset.json"
_AMOS_NAME = re.compile(r"amos_(\d{4})\.nii\.gz")
_LAST_CT = 500  # scans with larger numbers are MR
_AMOS_VALIDATION_SHARE = 0.1

INSTITUTIONS = "institution.txt"
_PELVIC_TRAINING_SHARE, _PELVIC_VALIDATION_CASES = 0.75, 2
# With fewer cases, the split would test a case that it validates on.
_FEWEST_PELVIC_CASES = 6


def muscle_files(folder: str | Path) -> list[str]:
    """Return the images and masks of the muscle ultrasound data, at any depth."""
    names = {name for part in _MUSCLE_FOLDERS.values() for name in (part, f"{part}annot")}
    return sorted(str(path) for path in glob_through_links(folder, "**/*.png") if path.parent.name in names)


def amos_files(folder: str | Path) -> list[str]:
    """Return the labelled images of AMOS and their label maps."""
    root = _amos_root(Path(folder))
    parts = ("imagesTr", "labelsTr", "imagesVa", "labelsVa")
    return sorted(str(path) for part in parts for path in (root / part).glob("*") if _AMOS_NAME.fullmatch(path.name))


def pelvic_files(folder: str | Path) -> list[str]:
    """Return the images and label maps of the male pelvic data."""
    return sorted(str(path) for ending in ("img", "mask") for path in (Path(folder) / "data").glob(f"[!.]*_{ending}.nii"))


def tables_of_amos(folder: str | Path) -> list[str]:
    """Return the file that lists the cases of AMOS, if it exists."""
    return [str(path) for path in [_amos_root(Path(folder)) / AMOS_DESCRIPTION] if path.is_file()]


def find_muscle_cases(
    folder: str | Path, channels: Sequence[str], roles: Roles = "folds", key: str = "dataset"
) -> pd.DataFrame:
    """Find the images of transverse muscle ultrasound: PNG images in train, val and test, with masks in trainannot and so on.

    An image without a mask is not used, and neither is a mask without an image. All sites are "unknown".

    Args:
        folder: folder of the unpacked data.
        channels: name of the only channel.
        roles: "imgx": those of the folders; "folds": assigned later. Then all images of a subject belong together, as far as
            names such as BB_anon_1789_3 show it.
        key: config key of the dataset, for messages.

    Returns:
        The case table.

    Raises:
        CohortError: there are no cases, or names occur twice. It lists all of these problems.

    Reference: Marzola et al. 2021; roles: ImgX-DiffSeg, 2531 images train, 666 validate and 713 are tested.
    """
    _check_channels(channels, "one image", key)
    files = [Path(file) for file in muscle_files(folder)]
    rows, places = [], []
    for role, name in _MUSCLE_FOLDERS.items():
        masks = {(path.parent.parent, path.name): path for path in files if path.parent.name == f"{name}annot"}
        for path in files:
            mask = masks.get((path.parent.parent, path.name)) if path.parent.name == name else None
            if mask is None:
                continue
            subject = _MUSCLE_NAME.fullmatch(path.stem)
            group = {"role": role} if roles == "imgx" else {"patient": subject["subject"] if subject else ""}
            rows.append({"case": path.stem, "site": "unknown", **group, channels[0]: str(path), "mask": str(mask)})
            places.append(str(path))
    layout = "no image such as train/BB_anon_1789_3.png with a mask trainannot/BB_anon_1789_3.png lies below it"
    _check_any(rows, Path(folder), layout, key)
    return _checked_table(rows, places, channels, f"{key}.folder: {folder}")


def find_amos_cases(folder: str | Path, channels: Sequence[str], roles: Roles = "folds", key: str = "dataset") -> pd.DataFrame:
    """Find the labelled CT scans of AMOS, which `dataset.json` lists as training and validation. All sites are "unknown".

    Args:
        folder: folder of the unpacked data, or its folder amos22.
        channels: name of the only channel.
        roles: "imgx": scans listed as training train, the first tenth of those listed as validation validates, and the others
            are tested; "folds": assigned later.
        key: config key of the dataset, for messages.

    Returns:
        The case table.

    Raises:
        CohortError: dataset.json or a listed file is missing. It lists all of these problems.

    Reference: Ji et al. 2022; roles: ImgX-DiffSeg, 200, 10 and 90 scans. The challenge's test cases have no public labels.
    """
    _check_channels(channels, "CT", key)
    root = _amos_root(Path(folder))
    path = root / AMOS_DESCRIPTION
    if not path.is_file():
        _check_any([], Path(folder), f"there is no amos22/{AMOS_DESCRIPTION} in it", key)
    try:
        listed = json.loads(read_text(path))
        training, validation = ([_amos_pair(pair) for pair in listed[name]] for name in ("training", "validation"))
    except TextError as error:
        raise CohortError(*error.problems) from error
    except (ValueError, KeyError, TypeError) as error:
        problem = f"does not list AMOS's images and labels ({type(error).__name__}: {error})"
        raise CohortError(Problem(path, problem, "Fetch it again")) from error
    training, validation = ([pair for pair in pairs if pair[0] <= _LAST_CT] for pairs in (training, validation))
    num_validation = int(len(validation) * _AMOS_VALIDATION_SHARE)
    parts = {"train": training, "validation": validation[:num_validation], "test": validation[num_validation:]}
    rows = [
        {
            "case": f"amos_{number:04d}",
            "site": "unknown",
            "role": role if roles == "imgx" else "",
            channels[0]: str(root / image),
            "mask": str(root / label),
        }
        for role, pairs in parts.items()
        for number, image, label in pairs
    ]
    _check_any(rows, Path(folder), f"{AMOS_DESCRIPTION} lists no CT scan", key)
    return _checked_table(rows, [row[channels[0]] for row in rows], channels, f"{key}.folder: {folder}")


def find_pelvic_cases(
    folder: str | Path, channels: Sequence[str], roles: Roles = "folds", key: str = "dataset"
) -> pd.DataFrame:
    """Find the T2-weighted scans of the male pelvis: data/{number}_img.nii, {number}_mask.nii and institution.txt.

    The site of a case is its institution.

    Args:
        folder: folder of the unpacked data.
        channels: name of the only channel.
        roles: "imgx": see `pelvic_roles`; "folds": assigned later.
        key: config key of the dataset, for messages.

    Returns:
        The case table.

    Raises:
        CohortError: institution.txt or a listed file is missing, or an institution has too few cases. It lists all of these.

    Reference: Li et al. 2022 (589 scans of seven institutions); roles: ImgX-DiffSeg.
    """
    _check_channels(channels, "T2", key)
    folder = Path(folder)
    path = folder / INSTITUTIONS
    if not path.is_file():
        _check_any([], folder, f"there is no {INSTITUTIONS} in it", key)
    try:
        lines = [line.split() for line in read_text(path).splitlines() if line.strip()]
    except TextError as error:
        raise CohortError(*error.problems) from error
    if wrong := next((number for number, words in enumerate(lines, 1) if len(words) != 2), None):
        raise CohortError(Problem(path, f"line {wrong} is no case and its institution", "Fetch the file again"))
    problems, assigned = [], {}
    if roles == "imgx":
        problems = [problem.within(str(path)) for problem in _institution_problems(lines, key)]
        assigned = {} if problems else pelvic_roles(lines)
    rows = [
        {
            "case": case,
            "site": site,
            "role": assigned.get(case, ""),
            channels[0]: str(folder / "data" / f"{case}_img.nii"),
            "mask": str(folder / "data" / f"{case}_mask.nii"),
        }
        for case, site in lines
    ]
    _check_any(rows, folder, f"{INSTITUTIONS} lists no case", key)
    return _checked_table(rows, [f"line {number}" for number in range(1, len(rows) + 1)], channels, str(path), problems)


def pelvic_roles(lines: Iterable[Sequence[str]]) -> dict[str, str]:
    """Return the role of each case: of an institution's n cases, in their order, the first two validate.

    The following ones train, up to number 0.75 n - 2, rounded down. The rest is tested.

    Args:
        lines: case and institution of each line of institution.txt.

    Reference: released code of ImgX-DiffSeg. It starts to test two cases before three quarters of an institution.
    """
    cases_of = defaultdict(list)
    for case, institution in lines:
        cases_of[institution].append(case)
    roles = {}
    for cases in cases_of.values():
        first_test = int(len(cases) * _PELVIC_TRAINING_SHARE) - _PELVIC_VALIDATION_CASES
        for position, case in enumerate(cases):
            is_validation = position < _PELVIC_VALIDATION_CASES
            roles[case] = "validation" if is_validation else "train" if position < first_test else "test"
    return roles


def _institution_problems(lines: Sequence[Sequence[str]], key: str) -> list[Problem]:
    """Return a problem for each institution that has too few cases for the split of ImgX-DiffSeg."""
    counts = pd.Series([institution for _, institution in lines]).value_counts()
    remedy = f"Complete the cases, or set `{key}.roles` to folds"
    return [
        Problem(f"institution {name}", f"has {count} cases, but the roles need {_FEWEST_PELVIC_CASES} or more", remedy)
        for name, count in counts.items()
        if count < _FEWEST_PELVIC_CASES
    ]


def _amos_root(folder: Path) -> Path:
    inner = folder / "amos22"
    return inner if inner.is_dir() else folder


def _amos_pair(pair: Mapping[str, str]) -> tuple[int, str, str]:
    """Return number, image and label map of an entry of dataset.json; raise ValueError for another image."""
    match = _AMOS_NAME.fullmatch(Path(pair["image"]).name)
    if match is None:
        raise ValueError(f"{pair['image']} is not named as amos_0001.nii.gz")
    return int(match[1]), pair["image"], pair["label"]


def _check_channels(channels: Sequence[str], example: str, key: str) -> None:
    if len(channels) != 1:
        problem = f"it names {', '.join(channels)}, but this data set has one channel"
        raise CohortError(Problem(f"{key}.channels", problem, f"Name one channel for {example}"))


def _check_any(rows: Sequence[Mapping[str, Any]], folder: Path, problem: str, key: str) -> None:
    """Raise if there are no cases."""
    if not rows:
        problem = problem if folder.is_dir() else missing_folder_text(folder)
        remedy = f"Let the workflow download the data (`{key}.download`), or unpack them there"
        raise CohortError(Problem(f"{key}.folder: {folder}", problem, remedy))


def _checked_table(
    rows: list[dict[str, str]], places: list[str], channels: Sequence[str], location: str, problems: Sequence[Problem] = ()
) -> pd.DataFrame:
    """Return the case table of these rows, and raise if names or files of cases cannot be used."""
    problems = [*problems, *(problem for row in rows for problem in name_problems(row["case"]))]
    for row in rows:
        for column in (*channels, "mask"):
            if not Path(row[column]).is_file():
                problems.append(missing_file_problem(row[column], "Unpack it again").within(f"case {row['case']}"))
                row[column] = ""
    problems += duplicate_problems([row["case"] for row in rows], places)
    table = complete_table(pd.DataFrame(rows), channels)
    raise_problems(location, problems, table)
    return table
