"""Check the masks that other programs have made for the methods of a configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pd_ddpm.config import methods
from pd_ddpm.config.exhibits import method_runs, planned_methods
from pd_ddpm.config.resolve import Config, method
from pd_ddpm.data.cases.mask_files import find_mask_files
from pd_ddpm.data.cases.table import CohortError
from pd_ddpm.data.check.report import Finding
from pd_ddpm.data.foreign_masks import empty_mask_problem, read_foreign_mask
from pd_ddpm.data.nifti.geometry import ImageError
from pd_ddpm.data.nifti.read import read_image
from pd_ddpm.data.splits import SplitError, make_splits, make_test_only_splits
from pd_ddpm.runtime.problem import Problem, problems_of


def mask_findings(config: Config, dataset: str, table: pd.DataFrame) -> list[Finding]:
    """Return what is wrong or doubtful with the files of each method with `segmenter: files` that an exhibit needs.

    Args:
        config: a canonical configuration.
        dataset: name of the dataset.
        table: its case table.
    """
    names = [name for name in planned_methods(config) if methods.is_from_files(config, name)]
    try:
        splits = _splits(config, dataset, table) if names else table
    except SplitError:
        return []  # a finding of its own
    findings: dict[Finding, None] = {}
    files: dict[tuple[str, str, Path], None] = {}
    for run in method_runs(config, dataset, names):
        tested = splits[(splits["split"] == run.split) & (splits["role"] == "test")]
        try:
            matches = find_mask_files(methods.file_settings(config, run.name), run, tested["case"].tolist())
        except CohortError as error:
            findings |= {Finding.from_problem("error", problem): None for problem in error.problems}
        else:
            files |= {(run.name, case, path): None for case, path in matches.items()}
    cases = table.drop_duplicates("case").set_index("case", drop=False)
    for name, case, path in files:
        findings |= dict.fromkeys(_file_findings(config, dataset, cases.loc[case], method(config, name), path))
    doubts = [(name, methods.seen_doubt(config, name)) for name in names]
    remedy = "Give each split files of its own with {split}, or set `unseen: true` if it was not"
    problems = [Problem(f"`methods.{name}`", doubt.removesuffix("."), remedy) for name, doubt in doubts if doubt]
    return [*findings, *(Finding.from_problem("warning", problem) for problem in problems)]


def _splits(config: Config, dataset: str, table: pd.DataFrame) -> pd.DataFrame:
    cases, folds = table.drop_duplicates("case"), config["folds"]
    if methods.networks_from(config, dataset) != dataset:
        return make_test_only_splits(cases, config["splits"])
    return make_splits(cases, folds["count"], folds["seed"], folds["stratify_by_site"], config["splits"])


def _file_findings(
    config: Config, dataset: str, case: Mapping[str, Any], settings: Mapping[str, Any], path: Path
) -> Iterator[Finding]:
    """Yield what is wrong or doubtful with the file of a case."""
    first = case[config["datasets"][dataset]["channels"][0]]
    try:
        scan = read_image(first)
    except ImageError:
        return  # a finding of its own
    tolerance = methods.preparation(config, dataset)["grid_tolerance_voxels"]
    try:
        mask = read_foreign_mask(path, scan, first, settings.get("lesion_label"), tolerance)
    # Unforeseen errors of damaged files must not hide what is wrong with the other files.
    except Exception as error:
        yield from (Finding.from_problem("error", problem, case["case"], path) for problem in problems_of(error, path))
        return
    if doubt := empty_mask_problem(path, mask):
        yield Finding.from_problem("warning", doubt, case["case"])
