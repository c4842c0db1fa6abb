"""Sizes of a dataset's cases: exact if they are prepared, otherwise from the scans' headers or from published numbers."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from pd_ddpm.config import study_names
from pd_ddpm.config.methods import grid_owner, network_grid, networks_from
from pd_ddpm.config.resolve import Config
from pd_ddpm.data.cases.brats import published_roles
from pd_ddpm.data.cases.find import find_cases
from pd_ddpm.data.nifti.geometry import spacing_mm
from pd_ddpm.data.nifti.read import read_image
from pd_ddpm.data.splits import make_splits, make_test_only_splits
from pd_ddpm.runtime.sealed_tables import read_sealed_csv

# Assumed until brain masks exist.
SHARE_WITH_BRAIN = 0.76  # of a scan's slices
BRAIN_BOX_MM = (145.0, 170.0, 150.0)  # size along X, Y and Z, including the margin


@dataclass(frozen=True)
class SiteScans:
    """Shape (X, Y, Z) and spacing (mm) of the FLAIR scans of a site, and the number of cases in each part of the challenge."""

    site: str
    training_cases: int
    held_out_cases: int
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]


# Kuijf et al. 2019. Amsterdam's held-out cases are of three scanners; all are taken to be as large as those of the first.
WMH_SITES = (
    SiteScans("Utrecht", 20, 30, (240, 240, 48), (0.96, 0.96, 3.0)),
    SiteScans("Singapore", 20, 30, (232, 256, 48), (1.0, 1.0, 3.0)),
    SiteScans("Amsterdam", 20, 50, (132, 256, 83), (1.2, 0.98, 3.0)),
)


# Shape and spacing of every scan of BraTS (Bakas et al. 2017).
BRATS_SHAPE, BRATS_SPACING_MM = (240, 240, 155), (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class KnownScan:
    """A scan whose voxel grid is known: case, site, shape (X, Y, Z), spacing in mm, and its role if that is published."""

    case: str
    site: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    role: str = ""


@dataclass(frozen=True)
class CaseSize:
    """Size of a case.

    Attributes:
        case: name of the case.
        site: its site.
        shape: (X, Y, Z) of the scan.
        size: (height, width) in pixels of the slices that networks see.
        with_brain: number of slices with brain.
        volume_size: (height, width, depth) in pixels of the volume that networks in three dimensions see.
    """

    case: str
    site: str
    shape: tuple[int, int, int]
    size: tuple[int, int]
    with_brain: int
    volume_size: tuple[int, int, int]

    def image_size(self, spatial_dims: int) -> tuple[int, ...]:
        """Return the size of the images that a network of this number of dimensions sees."""
        return self.size if spatial_dims == 2 else self.volume_size

    def num_images(self, spatial_dims: int, all_slices: bool = False) -> int:
        """Return the number of images of the case: the volume, or the slices with brain, or all slices."""
        if spatial_dims == 3:
            return 1
        return self.shape[2] if all_slices else self.with_brain


@dataclass(frozen=True)
class CohortSizes:
    """Sizes of a dataset's cases.

    Attributes:
        cases: sizes by the name of the case, on the grid of the section `grid`.
        roles: columns split, role, case.
        assumed: what is assumed about the sizes; None if they are exact.
        on_own_grids: the same sizes on each grid that networks have of their own, by the first of these networks.
    """

    cases: dict[str, CaseSize]
    roles: pd.DataFrame
    assumed: str | None
    on_own_grids: Mapping[str, dict[str, CaseSize]] = field(default_factory=dict)

    def with_role(self, split: int, role: str, grid_owner: str | None = None) -> list[CaseSize]:
        """Return the cases that have this role in this split.

        Args:
            split: index of the split.
            role: "train", "validation" or "test".
            grid_owner: the first network with the grid of the sizes; None for the section `grid`.
        """
        cases = self.cases if grid_owner is None else self.on_own_grids[grid_owner]
        selected = (self.roles["split"] == split) & (self.roles["role"] == role)
        return [cases[case] for case in self.roles.loc[selected, "case"]]


def cohort_sizes(config: Config, dataset: str, results: Path) -> CohortSizes:
    """Return the sizes of a dataset's cases, as exactly as they are known so far.

    Args:
        config: a canonical configuration.
        dataset: name of the dataset.
        results: the dataset's folder of results, which may not exist yet.

    Raises:
        ValueError: the scans do not exist and their sizes are not published.
    """
    owners = dict.fromkeys(grid_owner(config, name) for name in config["networks"])
    grids = {owner: network_grid(config, owner) for owner in (None, *owners)}
    cases, sizes, assumed = _case_sizes(config, dataset, results, list(grids.values()))
    by_grid = {owner: {size.case: size for size in on_grid} for owner, on_grid in zip(grids, sizes, strict=True)}
    by_name = by_grid.pop(None)
    splits = results / "splits.csv"
    if splits.exists():
        roles = read_sealed_csv(splits)
        if set(roles["case"]) == set(by_name):
            return CohortSizes(by_name, roles, assumed, by_grid)
    is_only_tested = networks_from(config, dataset) != dataset
    return CohortSizes(by_name, _assign_roles(cases, config, is_only_tested), assumed, by_grid)


def _assign_roles(cases: pd.DataFrame, config: Config, is_only_tested: bool) -> pd.DataFrame:
    """Return the roles that rule `split` will assign."""
    folds = config["folds"]
    if is_only_tested:
        return make_test_only_splits(cases, range(folds["count"]))
    count = 1 if "role" in cases and cases["role"].astype(bool).any() else folds["count"]
    return make_splits(cases, folds["count"], folds["seed"], folds["stratify_by_site"], range(count))


def _case_sizes(
    config: Config, dataset: str, results: Path, grids: Sequence[Mapping[str, Any]]
) -> tuple[pd.DataFrame, list[list[CaseSize]], str | None]:
    """Return the table of cases (case, site and any further columns), their sizes, and what is assumed about these.

    The sizes are those on each of the grids.
    """
    source = config["datasets"][dataset]
    prepared = results / "cases" / "prepared.csv"
    if prepared.exists():
        with suppress(ImportError):  # the head node of a cluster may lack PyTorch, which selects the slices
            cases = read_sealed_csv(prepared)[["case", "site"]]
            return cases, prepared_sizes(prepared, grids), None
    try:
        cases = find_cases(study_names.dataset_key(config, dataset), source)
        scans = _read_headers(cases, source["channels"][0])
        origin = "sizes from the scans' headers"
    except ValueError:
        scans = published_scans(source)
        if not scans:
            raise
        columns = ["case", "site", "role"]
        cases = pd.DataFrame([(scan.case, scan.site, scan.role) for scan in scans], columns=columns)
        origin = "published numbers and sizes of cases"
    is_whole = all(grid["region"] == "slice" for grid in grids)
    box = "" if is_whole else f", a brain of {BRAIN_BOX_MM[0]:g} x {BRAIN_BOX_MM[1]:g} mm"
    share = share_with_brain(grids[0]["minimum_brain_cm2"])
    assumed = f"{dataset}: {origin}, {share:.0%} of the slices with brain{box}"
    return cases, [[assumed_size(scan, grid) for scan in scans] for grid in grids], assumed


def _read_headers(cases: pd.DataFrame, channel: str) -> list[KnownScan]:
    rows = zip(cases["case"], cases["site"], map(nib.load, cases[channel]), strict=True)
    return [KnownScan(case, site, image.shape[:3], spacing_mm(image)) for case, site, image in rows]


def prepared_sizes(prepared: Path, grids: Sequence[Mapping[str, Any]]) -> list[list[CaseSize]]:
    """Return the sizes of prepared cases on each of the grids, measured from their brain masks.

    Args:
        prepared: manifest of the cases; their files are in the same folder.
        grids: settings of working grids, as in the section `grid` of the configuration.

    Raises:
        ImportError: PyTorch is not installed.
    """
    from pd_ddpm.data.working_grid import GridSettings

    def sizes(case: str, site: str) -> list[CaseSize]:
        mask = read_image(prepared.parent / f"{case}_brain.nii.gz", mask=True)
        brain, spacing = np.asarray(mask.dataobj) > 0, spacing_mm(mask)
        on_grids = []
        for grid in grids:
            padded = {dims: {"spatial_dims": dims, "padded_size": _padded_size(grid, dims)} for dims in (2, 3)}
            slices, with_brain = GridSettings(**{**grid, **padded[2]}).working_grid(brain, spacing)
            volume, _ = GridSettings(**{**grid, **padded[3]}).working_grid(brain, spacing)
            on_grids.append(CaseSize(case, site, mask.shape, slices.size, int(with_brain.sum()), volume.size))
        return on_grids

    cases = read_sealed_csv(prepared)
    by_case = [sizes(case, site) for case, site in zip(cases["case"], cases["site"], strict=True)]
    return [list(on_grid) for on_grid in zip(*by_case, strict=True)]


def published_scans(source: Mapping[str, Any]) -> list[KnownScan]:
    """Return the scans of a dataset that is simulated or downloaded later, or of BraTS; none for any other dataset."""
    if source["layout"] == "brats":
        roles = enumerate(published_roles(source.get("roles", "folds")), start=1)
        return [KnownScan(f"case-{number}", "unknown", BRATS_SHAPE, BRATS_SPACING_MM, role) for number, role in roles]
    if "simulate" in source:
        from pd_ddpm.data.phantom.acquisition import SCANNERS

        simulation = source["simulate"]
        count = simulation["cases_per_site"]
        scanners = [scanner.coarsened(simulation["coarsening"], simulation["slice_mm"]) for scanner in SCANNERS]
        sites = [SiteScans(scanner.site, count, 0, scanner.flair_shape, scanner.flair_spacing) for scanner in scanners]
    else:
        sites = WMH_SITES if source["layout"] == "wmh_challenge" else ()
    is_held_out = source.get("part") == "held_out"
    return [
        KnownScan(f"{site.site}-{number}", site.site, site.shape, site.spacing_mm)
        for site in sites
        for number in range(site.held_out_cases if is_held_out else site.training_cases)
    ]


def assumed_size(scan: KnownScan, grid: Mapping[str, Any]) -> CaseSize:
    """Return the size of a case without brain mask, on a working grid with these settings."""
    size = np.array(scan.shape, dtype=float)
    if grid["region"] == "brain_box":
        size = np.minimum(size, np.divide(BRAIN_BOX_MM, scan.spacing_mm))
    if grid["spacing_mm"] is not None:
        size = size * scan.spacing_mm / grid["spacing_mm"]
    volume = tuple(np.maximum(1, size.round()).astype(int).tolist())
    slices, volume = _padded_size(grid, 2) or volume[:2], _padded_size(grid, 3) or volume
    with_brain = round(share_with_brain(grid["minimum_brain_cm2"]) * scan.shape[2])
    return CaseSize(scan.case, scan.site, tuple(scan.shape), slices, with_brain, volume)


def share_with_brain(minimum_brain_cm2: float) -> float:
    """Return the assumed share of a scan's slices that hold this much brain: the brain is taken to be an ellipsoid."""
    largest_cm2 = math.pi / 4 * BRAIN_BOX_MM[0] * BRAIN_BOX_MM[1] / 100
    return SHARE_WITH_BRAIN * math.sqrt(max(0.0, 1 - minimum_brain_cm2 / largest_cm2))


def _padded_size(grid: Mapping[str, Any], spatial_dims: int) -> tuple[int, ...] | None:
    """Return the size to which images of this number of dimensions are padded, if they are."""
    size = grid.get("padded_size")
    return tuple(size) if size and len(size) == spatial_dims else None
