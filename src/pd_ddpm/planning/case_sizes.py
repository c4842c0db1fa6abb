"""How large the cases of a data set are: exactly once they are prepared, by the scans' headers, or as stated before."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd

from pd_ddpm.config.methods import networks_from
from pd_ddpm.config.resolve import Config
from pd_ddpm.data.cases.find import find_cases
from pd_ddpm.data.nifti.geometry import spacing_mm
from pd_ddpm.data.nifti.read import read_image
from pd_ddpm.data.splits import make_splits, make_test_only_splits

# Assumed as long as the brain masks are not known.
SHARE_WITH_BRAIN = 0.76  # of a scan's slices
BRAIN_BOX_MM = (145.0, 170.0)  # along X and Y, the margin included

# The WMH challenge (Kuijf et al. 2019): site, cases in training and in its held-out part, size of the FLAIR, spacing in mm.
# Amsterdam's held-out cases are of three scanners, here all as large as the first one's.
WMH = (
    ("Utrecht", 20, 30, (240, 240, 48), (0.96, 0.96, 3.0)),
    ("Singapore", 20, 30, (232, 256, 48), (1.0, 1.0, 3.0)),
    ("Amsterdam", 20, 50, (132, 256, 83), (1.2, 0.98, 3.0)),
)


class CaseSize(NamedTuple):
    """shape: (X, Y, Z) of the scan; size: (height, width) in pixels of the slices that networks see; with_brain: how many."""

    case: str
    site: str
    shape: tuple[int, int, int]
    size: tuple[int, int]
    with_brain: int


class CohortSizes(NamedTuple):
    """The cases of a data set by name, their roles (columns split, role, case), and what is assumed of them, if anything."""

    cases: dict[str, CaseSize]
    roles: pd.DataFrame
    assumed: str | None

    def of_role(self, split: int, role: str) -> list[CaseSize]:
        """The cases that have this role in this split."""
        chosen = (self.roles["split"] == split) & (self.roles["role"] == role)
        return [self.cases[case] for case in self.roles.loc[chosen, "case"]]


def cohort_sizes(config: Config, dataset: str, results: Path) -> CohortSizes:
    """The cases of a data set, as exactly as they are known by now; results: its folder among the results.

    Raises ValueError where the scans cannot be found and nothing is stated of them.
    """
    cases, assumed = _cases(config, dataset, results)
    sizes = {one.case: one for one in cases["size"]}
    written = results / "splits.csv"
    if written.exists():
        roles = pd.read_csv(written, dtype={"case": str})
        if set(roles["case"]) == set(sizes):
            return CohortSizes(sizes, roles, assumed)
    return CohortSizes(sizes, _dealt(cases, config, networks_from(config, dataset) != dataset), assumed)


def _dealt(cases: pd.DataFrame, config: Config, no_training: bool) -> pd.DataFrame:
    """The roles as rule split deals them out."""
    folds = config["folds"]
    if no_training:
        return make_test_only_splits(cases, range(folds["count"]))
    count = 1 if "role" in cases and cases["role"].astype(bool).any() else folds["count"]
    return make_splits(cases, folds["count"], folds["seed"], folds["stratify_by_site"], range(count))


def _cases(config: Config, dataset: str, results: Path) -> tuple[pd.DataFrame, str | None]:
    """A row per case: case, site, size, and what the table of cases holds besides; and what is assumed of them."""
    source, grid = config["datasets"][dataset], config["grid"]
    prepared = results / "cases" / "prepared.csv"
    if prepared.exists():
        with suppress(ImportError):  # on the head of a cluster there may be no PyTorch, in which slices are found
            return prepared_sizes(prepared, grid), None
    try:
        cases = find_cases(dataset, source)
        headers = [nib.load(path) for path in cases[source["channels"][0]]]
        scans = [(image.shape[:3], spacing_mm(image)) for image in headers]
        how = "sizes by the scans' headers"
    except ValueError:
        stated = stated_scans(source)
        if not stated:
            raise
        cases, scans = pd.DataFrame([row[:2] for row in stated], columns=["case", "site"]), [row[2:] for row in stated]
        how = "numbers and sizes of the cases as stated"
    names = zip(cases["case"], cases["site"], scans, strict=True)
    cases = cases.assign(size=[assumed_size(case, site, *scan, grid) for case, site, scan in names])
    box = "" if grid["region"] == "slice" else f", a brain of {BRAIN_BOX_MM[0]:g} x {BRAIN_BOX_MM[1]:g} mm"
    return cases, f"{dataset}: {how}, {SHARE_WITH_BRAIN:.0%} of the slices with brain{box}"


def prepared_sizes(prepared: Path, grid: Mapping[str, Any]) -> pd.DataFrame:
    """Columns case, site and size of prepared cases, by their brain masks. Raises ImportError without PyTorch.

    prepared: the manifest of the cases, whose files lie beside it.
    """
    from pd_ddpm.data.working_grid import GridSettings

    settings = GridSettings(**grid)

    def size(case: str, site: str) -> CaseSize:
        mask = read_image(prepared.parent / f"{case}_brain.nii.gz", mask=True)
        working, with_brain = settings.working_grid(np.asarray(mask.dataobj) > 0, spacing_mm(mask))
        return CaseSize(case, site, mask.shape, working.size, int(with_brain.sum()))

    cases = pd.read_csv(prepared, dtype={"case": str, "site": str})[["case", "site"]]
    return cases.assign(size=[size(*row) for row in cases.itertuples(index=False)])


def stated_scans(source: Mapping[str, Any]) -> list[tuple[str, str, tuple[int, int, int], tuple[float, float, float]]]:
    """Case, site, size and spacing of the scans of a data set yet to be simulated or fetched; nothing of any other."""
    if "simulate" in source:
        from pd_ddpm.data.phantom.acquisition import SCANNERS

        number = source["simulate"]["cases_per_site"]
        sites = [(scanner.site, number, scanner.flair_shape, scanner.flair_spacing) for scanner in SCANNERS]
    elif source["layout"] == "wmh_challenge":
        held_out = source.get("part") == "held_out"
        sites = [(site, test if held_out else train, *scan) for site, train, test, *scan in WMH]
    else:
        sites = []
    return [(f"{site}-{case}", site, shape, spacing) for site, number, shape, spacing in sites for case in range(number)]


def assumed_size(
    case: str, site: str, shape: tuple[int, int, int], spacing: tuple[float, float, float], grid: Mapping[str, Any]
) -> CaseSize:
    """The working grid of a scan whose brain is not known yet."""
    size = np.array(shape[:2], dtype=float)
    if grid["region"] == "brain_box":
        size = np.minimum(size, np.divide(BRAIN_BOX_MM, spacing[:2]))
    if grid["spacing_mm"] is not None:
        size = size * spacing[:2] / grid["spacing_mm"]
    height, width = np.maximum(1, size.round()).astype(int).tolist()
    return CaseSize(case, site, tuple(shape), (height, width), round(SHARE_WITH_BRAIN * shape[2]))
