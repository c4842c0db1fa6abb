"""Find the masks that another program has made, one file per case."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pd_ddpm.config.run import Run
from pd_ddpm.data.cases.links import glob_through_links, is_match
from pd_ddpm.data.cases.scan_versions import write_scan_versions
from pd_ddpm.data.cases.table import CohortError, read_cells
from pd_ddpm.runtime.missing_file import missing_file_problem, missing_folder_text
from pd_ddpm.runtime.problem import Problem
from pd_ddpm.runtime.sealed_tables import read_sealed_csv, write_sealed_csv


def find_mask_files(
    settings: Mapping[str, Any], run: Run, cases: Sequence[str], *, are_required: bool = True
) -> dict[str, Path]:
    """Return the file of each case.

    Args:
        settings: entry of `methods` whose segmenter is "files".
        run: dataset, method, split and seed, which stand in paths in place of {dataset}, {split} and {seed}.
        cases: names of the cases.
        are_required: whether each case must have a file; otherwise those without one are left out.

    Raises:
        CohortError: cases have no file, or several. It names all of them.
    """
    key, run_fields = f"methods.{run.name}", {"dataset": run.dataset, "split": run.split, "seed": run.seed}
    if "table" in settings:
        source = settings["table"].format(**run_fields)
        files, key = _files_of_table(Path(source)), f"{key}.table"
    else:
        folder = Path(settings["folder"].format(**run_fields))
        if not folder.is_dir():
            raise CohortError(Problem(f"`{key}.folder`: {folder}", missing_folder_text(folder), "Correct the path"))
        source = f"{folder}/{settings['pattern']}"
        # A case's name is no glob, even if it holds brackets.
        patterns = {case: settings["pattern"].format(case=glob.escape(case), **run_fields) for case in cases}
        files, key = _matches(folder, patterns), f"{key}.pattern"
    if not are_required:
        cases = [case for case in cases if files.get(case)]
    if problems := list(_problems(f"`{key}`: {source}", files, cases)):
        raise CohortError(*problems, heading=f"{run.name}, split {run.split}")
    return {case: files[case][0] for case in cases}


def write_mask_files(files: Mapping[str, Path], lesion_label: int | None, table: str, versions: str) -> None:
    """Write the table that `read_mask_files` reads, and the versions of its files.

    Args:
        files: case -> its file.
        lesion_label: see `read_foreign_mask`.
        table: the csv to write.
        versions: the JSON file to write.
    """
    rows = pd.DataFrame({"case": list(files), "file": list(map(str, files.values()))})
    write_sealed_csv(rows.assign(lesion_label=lesion_label), table)
    write_scan_versions(rows, versions)


def read_mask_files(table: Path) -> tuple[dict[str, Path], int | None]:
    """Read the file of each case, and the label of lesions in the files, if they have several labels."""
    rows = read_sealed_csv(table)
    labels = rows["lesion_label"].dropna().unique()
    return {case: Path(file) for case, file in zip(rows["case"], rows["file"], strict=True)}, next(map(int, labels), None)


def _problems(location: str, files: Mapping[str, Sequence[Path]], cases: Sequence[str]) -> Iterator[Problem]:
    """Yield one problem that names the cases without a file, and one for each case whose file is ambiguous or missing."""
    if absent := [case for case in cases if not files.get(case)]:
        problem = f"{len(absent)} of {len(cases)} cases have no file: {', '.join(absent)}"
        yield Problem(location, problem, "Let the other program segment these cases, or correct the key")
    for case in cases:
        matches = files.get(case, ())
        if len(matches) > 1:
            problem = f"{len(matches)} files could be that of case {case}: {', '.join(map(str, matches))}"
            yield Problem(location, problem, "Write more of the name, so that one file matches")
        elif matches and not matches[0].is_file():
            yield missing_file_problem(matches[0]).within(f"case {case}")


def _matches(folder: Path, patterns: Mapping[str, str]) -> dict[str, list[Path]]:
    """Return the files that match the glob of each case. The folder is searched once."""
    paths = [(path, path.relative_to(folder)) for path in glob_through_links(folder, "**/*")]
    return {case: sorted(path for path, name in paths if is_match(name, pattern)) for case, pattern in patterns.items()}


def _files_of_table(table: Path) -> dict[str, list[Path]]:
    """Read case -> files from a user's csv with the columns case and file."""
    cells = read_cells(table)
    if missing := [name for name in ("case", "file") if name not in cells]:
        listed = ", ".join(cells.columns)
        problem = f"column {missing[0]!r} is missing (the columns are: {listed})"
        raise CohortError(Problem(table, problem, "Begin with a line such as case,file"))
    files: dict[str, list[Path]] = {}
    for case, file in zip(cells["case"], cells["file"], strict=True):
        files.setdefault(case, []).append(table.parent / Path(file).expanduser())
    return files
