"""From a folder of scans to a table of cases: one row per case, with the paths of its files."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

ROLES = ("train", "validation", "test")

# The columns of further raters' masks, and who they are among the observers of the WMH challenge.
OBSERVERS = {"observer_2": "o3", "observer_3": "o4"}

# The parts of the WMH challenge, and the folders in which they are published.
PARTS = {"training": "training", "held_out": "test"}

# What a channel of this name is called in the file names of BIDS; the first name is a channel's as well.
WEIGHTED = {"T1": "T1w", "T2": "T2w", "PD": "PDw"}

_HOW_TO_GET_WMH = (
    "The data of the WMH segmentation challenge are at DataverseNL, doi:10.34894/AECRSD (licence CC BY-NC 4.0): `snakemake` "
    "fetches them where the config key datasets.wmh.download accepts the licence, or unpack `{part}/` (and "
    "`additional_annotations/`, for further observers) below that folder."
)


class CohortError(ValueError):
    """All that is wrong with the cases of a data set; `table` holds what could be read, without paths that lead nowhere."""

    def __init__(self, source: str, problems: Sequence[str], table: pd.DataFrame | None = None):
        super().__init__(f"{source}: {len(problems)} problem(s):\n" + "\n".join(f"  {text}" for text in problems))
        self.source, self.problems, self.table = source, list(problems), table


def table_columns(channels: Sequence[str]) -> list[str]:
    """The columns of a case table, in order: per channel an image and a transform, empty where there is none."""
    return [
        *("case", "patient", "site", "role", "fold"),
        *channels,
        "mask",
        *(f"{channel}_transform" for channel in channels),
        *OBSERVERS,
    ]


def find_cases(dataset: str, settings: Mapping[str, Any]) -> pd.DataFrame:
    """The cases of an entry of the configuration's `datasets`, by its layout; raises CohortError or ValueError."""
    # Imported here, because this module is what they make their tables by.
    from pd_ddpm.bids import find_bids_cases
    from pd_ddpm.nnunet import find_nnunet_cases

    key, folder, channels = f"datasets.{dataset}", settings["folder"], settings["channels"]
    if settings["layout"] == "wmh_challenge":
        return find_wmh_cases(folder, channels, f"{key}.folder", settings.get("part", "training"))
    if settings["layout"] == "bids":
        return find_bids_cases(folder, channels, settings.get("masks"), settings.get("images"), key)
    if settings["layout"] == "nnunet":
        return find_nnunet_cases(folder, channels, key)
    return read_case_table(settings["table"], channels, folder)


def layout_of(folder: str | Path) -> str:
    """The layout of a folder, by what lies in it; raises ValueError if that is none of those that are known."""
    folder = Path(folder)
    if (folder / "dataset.json").is_file():
        return "nnunet"
    if (folder / "dataset_description.json").is_file() or any(path.is_dir() for path in folder.glob("sub-*")):
        return "bids"
    if (folder / "training").is_dir():
        return "wmh_challenge"
    raise ValueError(
        f"{folder}: is neither a raw data set of nnU-Net (dataset.json) nor a BIDS data set (dataset_description.json or "
        "sub-*/) nor the WMH challenge (training/); correct the path, or list the cases in a csv."
    )


def case_files(settings: Mapping[str, Any]) -> list[str]:
    """The files of a searched folder by which its cases are found: others among them are other cases. None of a csv."""
    from pd_ddpm.bids import bids_files
    from pd_ddpm.nnunet import nnunet_files

    folder = Path(settings["folder"])
    if settings["layout"] == "wmh_challenge":
        return sorted(map(str, wmh_masks(folder, settings.get("part", "training"))))
    if settings["layout"] == "bids":
        return bids_files(folder, settings.get("masks"))
    return nnunet_files(folder) if settings["layout"] == "nnunet" else []


def tables_of_cases(settings: Mapping[str, Any]) -> list[str]:
    """The files that say something of the cases beside the names of the scans: a csv, or what a layout has of its own."""
    if settings["layout"] == "table":
        return [settings["table"]]
    name = {"bids": "participants.tsv", "nnunet": "dataset.json"}.get(settings["layout"])
    return [str(path) for path in Path(settings["folder"]).glob(name)] if name else []


def channels_of_table(csv_path: str | Path) -> list[str]:
    """The columns of a user's table that name NIfTI images, other than those of masks, in their order."""
    cells = _read_cells(Path(csv_path))
    images = [name for name in cells.columns if cells[name].str.endswith((".nii", ".nii.gz")).any()]
    return [name for name in images if name != "mask" and not name.startswith("observer")]


def wmh_masks(folder: str | Path, part: str = "training") -> Iterator[Path]:
    """The reference masks of one part of the WMH challenge, by which its cases are recognised, at any depth."""
    return Path(folder).glob(f"{PARTS[part]}/**/wmh.nii.gz")


def find_wmh_cases(
    folder: str | Path, channels: Sequence[str] = ("FLAIR", "T1"), key: str = "dataset.folder", part: str = "training"
) -> pd.DataFrame:
    """Find the cases of one part of the WMH segmentation challenge (doi:10.34894/AECRSD) below `folder`.

    part: "training", or "held_out", the challenge's `test/`. Only this part's folder is searched. Sites lie at different
    depths, so cases are recognised by their wmh.nii.gz. T1 is the defaced 3D scan on its own grid with the challenge's
    elastix transform, or, where either is missing, the T1 that the challenge has resampled. The further observers are O3
    and O4, where `additional_annotations/` has them.

    Raises ValueError, naming the config key that held the folder, if there are no cases, and CohortError with all missing
    files.
    """
    folder = Path(folder)
    masks = sorted(wmh_masks(folder, part), key=lambda path: _natural_order(path.parent))
    if not masks:
        finding = "there is no such folder" if not folder.is_dir() else f"no wmh.nii.gz lies below its {PARTS[part]}/"
        raise ValueError(f"{key}: {folder}: {finding}. {_HOW_TO_GET_WMH.format(part=PARTS[part])}")
    if unknown := [channel for channel in channels if channel not in ("FLAIR", "T1")]:
        raise ValueError(f"{key}: {folder}: the WMH challenge has the channels FLAIR and T1, not {', '.join(unknown)}.")

    problems = []
    rows = []
    for mask in masks:
        source = mask.parent
        site = clean_name(source.parent.name)
        row = {"case": f"{site}-{clean_name(source.name)}", "site": site, "mask": str(mask)}
        for channel in channels:
            row[channel], row[f"{channel}_transform"] = _wmh_channel(source, channel)
            if not Path(row[channel]).is_file():
                problems.append(f"{row[channel]}: there is no such file; unpack it from the challenge's archive.")
                row[channel] = ""
        for column, observer in OBSERVERS.items():
            drawn = folder / f"additional_annotations/observer_{observer}" / source.relative_to(folder) / "result.nii.gz"
            row[column] = str(drawn) if drawn.is_file() else ""
        rows.append(row)
    problems += duplicates([row["case"] for row in rows], [row["mask"] for row in rows])
    table = as_table(pd.DataFrame(rows), channels)
    raise_all(f"{key}: {folder}", problems, table)
    return table


def read_case_table(csv_path: str | Path, channels: Sequence[str], folder: str | Path | None = None) -> pd.DataFrame:
    """Read a user's table of cases and check all of it before anything is computed.

    Columns: case, site, one per channel, mask; optionally patient, role, fold, `<channel>_transform`, observer_2 and
    observer_3; others are ignored. Relative paths start from `folder`, by default the folder of the table. A case without
    a site gets "unknown"; one without a patient is the only case of its patient.

    Raises CohortError with every problem found, each with its line.
    """
    csv_path = Path(csv_path)
    base = csv_path.parent if folder is None else Path(folder)
    cells = _read_cells(csv_path)
    required = ["case", "site", *channels, "mask"]
    known = table_columns(channels)
    optional = [name for name in known if name not in required]
    problems = _column_problems(list(cells.columns), required, optional)
    raise_all(str(csv_path), problems)
    if cells.empty:
        raise ValueError(f"{csv_path}: the table has no cases; add one line per case.")

    lines = [f"line {number + 2}" for number in cells.index]
    for name in known:
        if name not in cells:
            cells[name] = ""
    paths = [*channels, "mask", *(f"{channel}_transform" for channel in channels), *OBSERVERS]
    for line, (index, row) in zip(lines, cells.iterrows(), strict=True):
        problems += [f"{line}: {text}" for text in _row_problems(row, channels)]
        for name in paths:
            if not row[name]:
                continue
            path = base / Path(row[name]).expanduser()
            cells.loc[index, name] = str(path)
            if not path.is_file():
                problems.append(f"{line}: case {row['case']}: {name}: there is no file {path}; correct the path.")
                cells.loc[index, name] = ""
    problems += duplicates(cells["case"].tolist(), lines)
    for name in ("role", "fold"):
        given = int((cells[name] != "").sum())
        if 0 < given < len(cells):
            problems.append(f"column {name}: given for {given} of {len(cells)} cases; give it for all or for none.")
    cells["site"] = cells["site"].replace("", "unknown")
    cells["fold"] = cells["fold"].where(cells["fold"].str.fullmatch(r"\d+"), "")
    table = as_table(cells, channels)
    raise_all(str(csv_path), problems, table)
    return table


def write_table(table: pd.DataFrame, csv_path: str | Path) -> None:
    """Write a case table as csv, with its paths as they are."""
    table.to_csv(csv_path, index=False, lineterminator="\n")


def read_table(csv_path: str | Path) -> pd.DataFrame:
    """Read back a table written by `write_table`, without checking that its files exist."""
    cells = _read_cells(Path(csv_path))
    cells["fold"] = _as_integers(cells["fold"])
    return cells.reset_index(drop=True)


def clean_name(name: str) -> str:
    """Turn a name into one that is safe in file names: letters, digits, underscore, dot and hyphen only."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("._-")


def _wmh_channel(source: Path, channel: str) -> tuple[str, str]:
    if channel == "T1":
        image, transform = source / "orig/3DT1.nii.gz", source / "orig/reg_3DT1_to_FLAIR.txt"
        if image.is_file() and transform.is_file():
            return str(image), str(transform)
    return str(source / "pre" / f"{channel}.nii.gz"), ""


def _natural_order(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", path.as_posix())
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part]


def _read_cells(csv_path: Path) -> pd.DataFrame:
    if not csv_path.is_file():
        raise ValueError(f"{csv_path}: there is no such table of cases; correct the path.")
    try:
        # utf-8-sig, because spreadsheets put a byte order mark before the first column name.
        cells = pd.read_csv(
            csv_path,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            skipinitialspace=True,
            skip_blank_lines=False,
        )
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{csv_path}: cannot be read as a table ({error}); save it as comma-separated UTF-8.") from error
    if not isinstance(cells.index, pd.RangeIndex):
        raise ValueError(f"{csv_path}: lines hold more cells than the header; remove commas, or quote cells with commas.")
    cells.columns = [str(name).strip() for name in cells.columns]
    cells = cells.fillna("").apply(lambda column: column.str.strip())
    # Blank lines go only now, so that the others keep their line numbers.
    return cells[(cells != "").any(axis=1)].copy()


def _column_problems(columns: list[str], required: list[str], optional: list[str]) -> list[str]:
    problems = []
    foreign = [name for name in columns if name not in (*required, *optional)]
    for name in required:
        if name not in columns:
            near = difflib.get_close_matches(name.lower(), [other.lower() for other in foreign], n=1)
            found = next((other for other in foreign if near and other.lower() == near[0]), None)
            remedy = f"rename {found!r}" if found else f"add it (there are: {', '.join(columns)})"
            problems.append(f"column {name!r} is missing; {remedy}.")
    for name in foreign:
        # A misspelt optional column would otherwise be ignored without a word.
        near = difflib.get_close_matches(name.lower(), [other.lower() for other in optional], n=1, cutoff=0.8)
        if near:
            meant = next(other for other in optional if other.lower() == near[0])
            problems.append(f"column {name!r} is not known; rename it to {meant!r}.")
        # pandas calls the second of two columns `mask.1`.
        if name.endswith(".1") and name[:-2] in (*required, *optional):
            problems.append(f"column {name[:-2]!r} is there twice; remove one.")
    return problems


def _row_problems(row: pd.Series, channels: Sequence[str]) -> list[str]:
    name = row["case"]
    problems = name_problems(name) if name else ["the case has no name; name it."]
    problems += [f"case {name}: no path under {column}; enter one." for column in (*channels, "mask") if not row[column]]
    if row[f"{channels[0]}_transform"]:
        problems.append(f"case {name}: {channels[0]} defines the grid and takes no transform; give it to the others.")
    if row["role"] and row["role"] not in ROLES:
        near = difflib.get_close_matches(row["role"], ROLES, n=1)
        problems.append(f"case {name}: unknown role {row['role']!r}; use {near[0] if near else ', '.join(ROLES)}.")
    if row["role"] and row["fold"]:
        problems.append(f"case {name}: has a role and a fold; remove one of them.")
    if row["fold"] and not re.fullmatch(r"\d+", row["fold"]):
        problems.append(f"case {name}: fold {row['fold']!r} is no number of a fold; count them 0, 1, 2, ...")
    return problems


def name_problems(name: str) -> list[str]:
    """What is wrong with the name of a case, which becomes part of file names."""
    if clean_name(name) == name:
        return []
    return [
        f"the case name {name!r} is not safe in file names (letters, digits, _ . -, the last three only within); "
        f"rename it, for instance to {clean_name(name)!r}."
    ]


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def duplicates(names: list[str], places: list[str]) -> list[str]:
    """A problem for each name of a case that several places have."""
    return [
        f"case {name} occurs more than once: {', '.join(p for n, p in zip(names, places, strict=True) if n == name)}; "
        "rename or remove all but one."
        for name in _repeated(names)
        if name
    ]


def raise_all(source: str, problems: list[str], table: pd.DataFrame | None = None) -> None:
    """Raise CohortError if there are problems."""
    if problems:
        raise CohortError(source, problems, table)


def as_table(rows: pd.DataFrame, channels: Sequence[str]) -> pd.DataFrame:
    """A case table with all columns, in order; columns that are not given are empty."""
    table = rows.reindex(columns=table_columns(channels), fill_value="").reset_index(drop=True)
    table["fold"] = _as_integers(table["fold"])
    return table


def _as_integers(column: pd.Series) -> pd.Series:
    return pd.to_numeric(column.replace("", None)).astype("Int64")
