"""Cases of a BIDS data set (Brain Imaging Data Structure, bids.neuroimaging.io), found by the names of its files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from pd_ddpm.data.cases.table import WEIGHTED, as_table, name_problems, raise_all

_STANDARD_PLACES = ("*/sub-*/anat/sub-*", "*/sub-*/ses-*/anat/sub-*")  # below derivatives/
_EXAMPLE = "manual/**/*label-WMH*_mask.nii.gz"


def find_bids_cases(
    folder: str | Path,
    channels: Sequence[str],
    masks: str | None = None,
    images: Mapping[str, str] | None = None,
    key: str = "dataset",
) -> pd.DataFrame:
    """Find the cases of a BIDS data set: one for each `sub-*/[ses-*/]anat` below `folder`; returns a case table.

    A channel is a suffix of BIDS, such as FLAIR; T1, T2 and PD also mean T1w, T2w and PDw. Its image is the one file of the
    session with this suffix or, if `images` has a glob for the channel, the one whose name matches that too. The mask is
    the one file of the session below derivatives/ that the glob `masks` finds there; without it, the one
    `derivatives/*/sub-*/[ses-*/]anat/*_mask` or `*_dseg`, those of the brain (desc-brain) aside. Files are .nii.gz or .nii.
    The case is named as the session is, sub-01_ses-02 or sub-01; the patient is the subject. The site is the column
    `site` of participants.tsv, else "unknown".

    Raises ValueError, naming the config key (those of `key`), if nothing is found, and CohortError with every session that
    has no image of a channel or no mask, or several.
    """
    folder = Path(folder)
    sessions = list(_sessions(folder))
    if not sessions:
        finding = "no sub-*/anat or sub-*/ses-*/anat lies in it" if folder.is_dir() else "there is no such folder"
        raise ValueError(f"{key}.folder: {folder}: {finding}; name the folder that holds the sub-* of a BIDS data set.")
    candidates = _masks(folder, masks)
    if not candidates:
        sought = masks or "*_mask.nii.gz or *_dseg.nii.gz in */sub-*/anat"
        raise ValueError(
            f"{key}.masks: {folder}/derivatives: nothing there is {sought}; put the lesion masks there, or name them by this "
            f"key, a glob such as {_EXAMPLE}."
        )

    problems, rows, sites = [], [], _sites(folder)

    def chosen(found: list[Path], name: str, what: str, remedies: tuple[str, str]) -> str:
        """The path of the one file that was found, empty after the problem has been noted otherwise."""
        if len(found) == 1 and found[0].is_file():
            return str(found[0])
        listed = ", ".join(path.relative_to(folder).as_posix() for path in found)
        if len(found) == 1:
            problems.append(f"{name}: {listed} is a link to a file that is not there; fetch it, for instance by datalad get.")
        elif found:
            problems.append(f"{name}: {len(found)} files could be its {what}: {listed}; {remedies[1]}.")
        else:
            problems.append(f"{name}: there is no {what}; {remedies[0]}.")
        return ""

    for name, anat in sessions:
        subject = name.partition("_")[0]
        row = {"case": name, "patient": subject, "site": sites.get(subject, "unknown")}
        problems += name_problems(name)
        elsewhere = "or list the cases that you want in a csv (layout: table)"
        for channel in channels:
            pattern = (images or {}).get(channel)
            found = [path for path in _images(anat, channel) if pattern is None or path.match(pattern)]
            what = channel if pattern is None else f"{channel} by the name {pattern}"
            decide = f"decide by {key}.images, such as {{{channel}: '*acq-3D*'}}"
            row[channel] = chosen(found, name, what, (f"add it to {anat.relative_to(folder).as_posix()}, {elsewhere}", decide))
        found = [path for path in candidates if _session_of(path) == name]
        decide = f"decide by {key}.masks, a glob below derivatives/ such as {_EXAMPLE}"
        row["mask"] = chosen(found, name, "mask", (f"add it below derivatives/, {elsewhere}", decide))
        rows.append(row)
    table = as_table(pd.DataFrame(rows), channels)
    raise_all(f"{key}.folder: {folder}", problems, table)
    return table


def bids_files(folder: str | Path, masks: str | None = None) -> list[str]:
    """All images of the sessions, and all files that may be masks."""
    images = [path for _, anat in _sessions(Path(folder)) for path in anat.glob("sub-*.nii*")]
    return sorted(map(str, [*images, *_masks(Path(folder), masks)]))


def _sessions(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and anat folder of every session, or subject without sessions."""
    for subject in sorted(folder.glob("sub-*")):
        for place in (subject, *sorted(subject.glob("ses-*"))):
            if (place / "anat").is_dir():
                yield "_".join(place.relative_to(folder).parts), place / "anat"


def _images(anat: Path, channel: str) -> list[Path]:
    suffixes = {channel, WEIGHTED.get(channel, channel)}
    return [path for path in sorted(anat.glob("sub-*_*.nii*")) if _suffix(path) in suffixes]


def _masks(folder: Path, pattern: str | None) -> list[Path]:
    """Every file that may be a session's mask."""
    below = folder / "derivatives"
    if pattern is not None:
        return sorted(path for path in below.glob(pattern) if _suffix(path) and _session_of(path))
    found = [path for place in _STANDARD_PLACES for path in below.glob(place)]
    return sorted(path for path in found if _suffix(path) in ("mask", "dseg") and "_desc-brain_" not in path.name)


def _suffix(path: Path) -> str:
    """The last part of the name of a NIfTI file, such as FLAIR or mask; empty for any other file."""
    found = re.fullmatch(r".*_([A-Za-z0-9]+)\.nii(\.gz)?", path.name)
    return found[1] if found else ""


def _session_of(path: Path) -> str:
    """sub-01_ses-02 or sub-01, by the name of the file; empty where it says neither."""
    found = re.match(r"sub-[^_]+(_ses-[^_]+)?(?=_)", path.name)
    return found[0] if found else ""


def _sites(folder: Path) -> dict[str, str]:
    """Subject -> site, where participants.tsv says it."""
    path = folder / "participants.tsv"
    if not path.is_file():
        return {}
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path}: cannot be read as a table ({error}); save it as tab-separated UTF-8.") from error
    if not {"participant_id", "site"} <= set(table.columns):
        return {}
    pairs = zip(table["participant_id"].str.strip(), table["site"].str.strip(), strict=True)
    return {subject: site for subject, site in pairs if site not in ("", "n/a")}
