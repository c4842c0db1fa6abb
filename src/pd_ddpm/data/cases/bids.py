"""Find the cases of a BIDS dataset (Brain Imaging Data Structure, bids.neuroimaging.io) by the names of its files."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pd_ddpm.data.cases.links import glob_through_links
from pd_ddpm.data.cases.table import (
    MISSING_VALUES,
    WEIGHTED,
    CohortError,
    complete_table,
    name_problems,
    raise_problems,
)
from pd_ddpm.data.cases.text import TextError, read_text
from pd_ddpm.runtime.missing_file import missing_file_problem, missing_folder_text
from pd_ddpm.runtime.problem import Problem

PARTICIPANTS = "participants.tsv"

_SITE_COLUMN = re.compile(r".*(site|cent(er|re)|scanner|hospital|institution|location).*", re.I)

_MAX_LISTED = 5

_STANDARD_PLACES = ("*/sub-*/anat/sub-*", "*/sub-*/ses-*/anat/sub-*")  # below derivatives/
_EXAMPLE = "manual/**/*label-WMH*_mask.nii.gz"
_OR_LIST = "or list the cases that you want in a csv (layout: table)"


def find_bids_cases(
    folder: str | Path,
    channels: Sequence[str],
    masks: str | None = None,
    images: Mapping[str, str] | None = None,
    key: str = "dataset",
    with_masks: bool = True,
) -> pd.DataFrame:
    """Find the cases of a BIDS dataset: one for each `sub-*/[ses-*/]anat`.

    A case is named after its session, sub-01_ses-02 or sub-01. Its patient is the subject. Its site is the column `site` of
    participants.tsv, or "unknown". Files are .nii.gz or .nii.

    Args:
        folder: folder that holds the `sub-*`.
        channels: BIDS suffixes, such as FLAIR. T1, T2 and PD also match T1w, T2w and PDw. Each session needs exactly one image
            per channel.
        masks: glob below derivatives/ that matches exactly one mask per session. None stands for
            `*/sub-*/[ses-*/]anat/*_mask` or `*_dseg`, without brain masks (desc-brain).
        images: channel -> glob that the name of its image must match in addition.
        key: config key of the dataset, for messages.
        with_masks: whether sessions need masks; if not, none is looked for.

    Returns:
        The case table.

    Raises:
        CohortError: nothing is found, or sessions have no or several images of a channel or masks. It lists all of them.
    """
    folder = Path(folder)
    location = f"{key}.folder: {folder}"
    sessions = list(_sessions(folder))
    if not sessions:
        problem = "there is no sub-*/anat or sub-*/ses-*/anat in it" if folder.is_dir() else missing_folder_text(folder)
        raise CohortError(Problem(location, problem, "Set it to the folder that holds the sub-* of a BIDS dataset"))
    candidates = _masks(folder, masks) if with_masks else []
    if with_masks and not candidates:
        pattern = masks or "*_mask.nii.gz or *_dseg.nii.gz in */sub-*/anat"
        remedy = f"Put the lesion masks there, or set this key to a glob such as {_EXAMPLE}"
        raise CohortError(Problem(f"{key}.masks: {folder}/derivatives", f"nothing there matches {pattern}", remedy))

    problems, rows, sites = [], [], _sites(folder)
    for name, anat in sessions:
        subject = name.partition("_")[0]
        row = {"case": name, "patient": subject, "site": sites.get(subject, "unknown")}
        problems += name_problems(name)
        matches = {}
        for channel in channels:
            pattern = (images or {}).get(channel)
            wanted = channel if pattern is None else f"{channel} with the name {pattern}"
            paths = [path for path in _images(anat, channel) if pattern is None or path.match(pattern)]
            matches[channel] = _Matches(
                wanted,
                paths,
                f"Add it to {anat.relative_to(folder).as_posix()}, {_OR_LIST}",
                f"Choose one with `{key}.images`{_image_example(paths, channel)}",
            )
        below = folder / "derivatives"
        masks_of_session = [path for path in candidates if _session_of(path) == name]
        if with_masks:
            matches["mask"] = _Matches(
                "mask",
                masks_of_session,
                f"Add it below derivatives/, {_OR_LIST}",
                f"Choose one with `{key}.masks`, a glob below derivatives/{_mask_example(masks_of_session, below)}",
            )
        for column, match in matches.items():
            problem = match.problem(name, folder)
            row[column] = "" if problem else str(match.paths[0])
            problems += [problem] if problem else []
        rows.append(row)
    table = complete_table(pd.DataFrame(rows), channels)
    raise_problems(location, problems, table)
    return table


def _mask_example(paths: Sequence[Path], below: Path) -> str:
    """Return ", such as <glob>" with a glob below a folder that matches one of a session's masks only, or ""."""
    for pipeline in sorted({path.relative_to(below).parts[0] for path in paths}):
        if ending := _unique_ending([path for path in paths if path.is_relative_to(below / pipeline)]):
            return f", such as {pipeline}/**/*{ending}"
    return ""


def _image_example(paths: Sequence[Path], channel: str) -> str:
    """Return ", such as {<channel>: <glob>}" with a glob that matches one of a session's images only, or ""."""
    ending = _unique_ending(paths)
    return f", such as {{{channel}: '*{ending}'}}" if ending else ""


def _unique_ending(paths: Sequence[Path]) -> str:
    """Return what follows the session in the first name with an ending of its own, or "" if there is none."""
    endings = [path.name.removeprefix(_session_of(path)) for path in paths]
    return next((ending for ending in endings if sum(path.name.endswith(ending) for path in paths) == 1), "")


@dataclass(frozen=True)
class _Matches:
    """The files of a session that could be one of its images; there should be exactly one.

    Attributes:
        wanted: the channel or mask, for messages.
        paths: the files.
        if_missing: remedy if there is none.
        if_several: remedy if there are several.
    """

    wanted: str
    paths: list[Path]
    if_missing: str
    if_several: str

    def problem(self, session: str, folder: Path) -> Problem | None:
        """Return what is wrong, or None if there is exactly one file and it exists."""
        if not self.paths:
            return Problem(session, f"there is no {self.wanted}", self.if_missing)
        listed = ", ".join(path.relative_to(folder).as_posix() for path in self.paths)
        if len(self.paths) > 1:
            return Problem(session, f"{len(self.paths)} files could be its {self.wanted}: {listed}", self.if_several)
        if not self.paths[0].is_file():
            return missing_file_problem(self.paths[0]).within(session)
        return None


def has_bids_masks(folder: Path) -> bool:
    """Return whether a BIDS dataset holds files that may be lesion masks."""
    return bool(_masks(folder, None))


def bids_files(folder: str | Path, masks: str | None = None) -> list[str]:
    """Return all images of the sessions, and all files that may be masks."""
    images = [path for _, anat in _sessions(Path(folder)) for path in anat.glob("sub-*") if _suffix(path)]
    return sorted(map(str, [*images, *_masks(Path(folder), masks)]))


def _sessions(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield name and anat folder of every session, or of every subject without sessions."""
    for subject in sorted(folder.glob("sub-*")):
        for parent in (subject, *sorted(subject.glob("ses-*"))):
            if (parent / "anat").is_dir():
                yield "_".join(parent.relative_to(folder).parts), parent / "anat"


def _images(anat: Path, channel: str) -> list[Path]:
    suffixes = {channel, WEIGHTED.get(channel, channel)}
    return [path for path in sorted(anat.glob("sub-*_*.*")) if _suffix(path) in suffixes]


def _masks(folder: Path, pattern: str | None) -> list[Path]:
    """Return every file that may be the mask of a session."""
    below = folder / "derivatives"
    if pattern is not None:
        return sorted(path for path in glob_through_links(below, pattern) if _suffix(path) and _session_of(path))
    paths = [path for pattern in _STANDARD_PLACES for path in below.glob(pattern)]
    return sorted(path for path in paths if _suffix(path) in ("mask", "dseg") and "_desc-brain_" not in path.name)


def _suffix(path: Path) -> str:
    """Return the BIDS suffix of a NIfTI file, such as FLAIR or mask, or "" for any other file."""
    match = re.fullmatch(r".*_([A-Za-z0-9]+)\.nii(\.gz)?", path.name, re.IGNORECASE)
    return match[1] if match else ""


def _session_of(path: Path) -> str:
    """Return the session in the name of a file, sub-01_ses-02 or sub-01, or "" if it names none."""
    match = re.match(r"sub-[^_]+(_ses-[^_]+)?(?=_)", path.name)
    return match[0] if match else ""


def participants_problems(folder: str | Path) -> list[Problem]:
    """Return why sites in participants.tsv are not read, or not for all subjects. No site at all is no problem."""
    path = Path(folder) / PARTICIPANTS
    table = _participants(path)
    if table is None:
        return []
    columns, listed = list(table.columns), ", ".join(table.columns)
    if len(columns) == 1 and re.search("[,; ]", columns[0]):
        return [Problem(path, "its cells are not separated by tabs, so no site is read", "Save it with tabs")]
    similar = [name for name in columns if _SITE_COLUMN.fullmatch(name) and name != "site"]
    if "site" not in columns:
        problem = f"there is no column `site`, so all sites are unknown (the columns are: {listed})"
        return [Problem(path, problem, f"Rename {similar[0]!r} to 'site'")] if similar else []
    if "participant_id" not in columns:
        problem = f"there is no column `participant_id`, so no site is read (the columns are: {listed})"
        return [Problem(path, problem, "Rename the column that holds the names of the sub-* folders")]
    ids = table["participant_id"].str.strip().tolist()
    subjects = {name.partition("_")[0] for name, _ in _sessions(Path(folder))}
    if not (absent := sorted(subjects - set(ids))):
        return []
    problem = (
        f"it has no row for {_some(absent)}, whose site is unknown (the first ids in its column `participant_id` are: "
        f"{_some(ids) or 'none'})"
    )
    return [Problem(path, problem, f"Write ids as in the names of the folders, such as {absent[0]}")]


def _some(names: Sequence[str]) -> str:
    """Return the first names of a list, and how many follow."""
    further = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + further


def _sites(folder: Path) -> dict[str, str]:
    """Return subject -> site for the subjects whose site is in participants.tsv."""
    table = _participants(folder / PARTICIPANTS)
    if table is None or not {"participant_id", "site"} <= set(table.columns):
        return {}
    pairs = zip(table["participant_id"].str.strip(), table["site"].str.strip(), strict=True)
    return {subject: site for subject, site in pairs if site and site not in MISSING_VALUES}


def _participants(path: Path) -> pd.DataFrame | None:
    """Read participants.tsv as text; None if there is none."""
    if path.is_symlink() and not path.is_file():
        raise CohortError(missing_file_problem(path))
    if not path.is_file():
        return None
    try:
        table = pd.read_csv(io.StringIO(read_text(path)), sep="\t", dtype=str, keep_default_na=False)
    except TextError as error:
        raise CohortError(*error.problems) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise CohortError(Problem(path, f"cannot be read as a table ({error})", "Save it as tab-separated UTF-8")) from error
    table.columns = [str(name).strip() for name in table.columns]
    return table.fillna("")
