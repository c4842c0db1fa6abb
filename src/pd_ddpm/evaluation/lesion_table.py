"""Lesions of one segmented scan: volume, agreement between members, location."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from pd_ddpm.evaluation.mask_geometry import MaskGeometry
from pd_ddpm.inference.ensemble import Segmentation

COLUMNS = [
    *("lesion", "volume_ml", "volume_low_ml", "volume_high_ml", "mean_probability", "members", "members_finding", "side"),
    *("x_mm", "y_mm", "z_mm", "voxel_i", "voxel_j", "voxel_k", "first_k", "last_k", "voxels"),
]

MIDLINE_MM = 3.0  # lesions closer than this to the middle of the brain mask get the side "midline"


def lesion_table(
    segmentation: Segmentation, brain: np.ndarray, affine: np.ndarray, spacing_mm: Sequence[float]
) -> pd.DataFrame:
    """List the 26-connected lesions of the ensemble mask, the largest first.

    A lesion's volume range is the smallest and the largest volume that a member gives it. The ensemble mask is thresholded
    from the members' mean, so its own volume may lie outside the range. A member's connected component counts towards the
    lesion that it overlaps. If it overlaps several, each voxel counts towards the nearest.

    Args:
        segmentation: the segmentation of the scan.
        brain: (X, Y, Z) bool.
        affine: (4, 4), from voxel indices to mm to the patient's right, anterior and superior.
        spacing_mm: voxel size along X, Y, Z.

    Returns:
        One row per lesion:

        * `volume_low_ml`, `volume_high_ml`: the volume range; empty for a single member.
        * `mean_probability`: mean over the lesion's voxels.
        * `members_finding`: the number of members that mark any of its voxels.
        * `x_mm`, `y_mm`, `z_mm`, `voxel_i`, `voxel_j`, `voxel_k` (0-based): the lesion's voxel nearest to its centre of mass.
        * `side`: the patient's right or left of the middle of the brain mask.
        * `first_k`, `last_k`: its first and last slice along the third axis.
    """
    geometry = MaskGeometry(segmentation.mask, tuple(spacing_mm))
    count, num_members = geometry.lesions.count, segmentation.num_members
    if not count:
        return pd.DataFrame(columns=COLUMNS)
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    volumes = np.bincount(geometry.lesions.labels, minlength=count) * voxel_ml
    member_voxels = _voxels_by_member(segmentation, geometry)
    probability = segmentation.mean.ravel()[geometry.voxels]
    middle = float(np.median(_to_mm(affine, np.argwhere(brain))[:, 0])) if brain.any() else 0.0
    rows = []
    for number, lesion in enumerate(np.argsort(-volumes, kind="stable"), start=1):
        in_lesion = geometry.lesions.labels == lesion
        voxels = geometry.coordinates[:, in_lesion].T
        from_centre = np.linalg.norm((voxels - voxels.mean(axis=0)) * np.asarray(spacing_mm), axis=1)
        centre = voxels[np.argmin(from_centre)]
        x, y, z = _to_mm(affine, centre[None])[0]
        rows.append(
            {
                "lesion": number,
                "volume_ml": volumes[lesion],
                "volume_low_ml": member_voxels[:, lesion].min() * voxel_ml if num_members > 1 else np.nan,
                "volume_high_ml": member_voxels[:, lesion].max() * voxel_ml if num_members > 1 else np.nan,
                "mean_probability": probability[in_lesion].mean(),
                "members": num_members,
                "members_finding": int((member_voxels[:, lesion] > 0).sum()),
                "side": "midline" if abs(x - middle) < MIDLINE_MM else "right" if x > middle else "left",
                **{name: round(float(value), 1) for name, value in zip(("x_mm", "y_mm", "z_mm"), (x, y, z), strict=True)},
                **{f"voxel_{axis}": int(index) for axis, index in zip("ijk", centre, strict=True)},
                "first_k": int(voxels[:, 2].min()),
                "last_k": int(voxels[:, 2].max()),
                "voxels": int(in_lesion.sum()),
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def total_volume_ml(segmentation: Segmentation, spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    """Return the lesion volume of the ensemble mask, and the smallest and the largest of the members' own masks."""
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    member_volumes = segmentation.member_masks.sum(axis=(0, 1, 2)) * voxel_ml
    return float(segmentation.mask.sum() * voxel_ml), float(member_volumes.min()), float(member_volumes.max())


def num_minority_lesions(segmentation: Segmentation, spacing_mm: Sequence[float]) -> int:
    """Count the 26-connected components that at least one member marks and that overlap no lesion of the ensemble mask."""
    mask = segmentation.mask
    union = MaskGeometry(segmentation.union | mask, tuple(spacing_mm))
    overlapping = np.unique(union.lesions.labels[mask.ravel()[union.voxels]])
    return union.lesions.count - overlapping.size


def _voxels_by_member(segmentation: Segmentation, geometry: MaskGeometry) -> np.ndarray:
    """Count the voxels (K, lesions) of each member that belong to each lesion."""
    masks = segmentation.member_masks
    union = MaskGeometry(segmentation.union | geometry.mask, geometry.spacing_mm)
    lesion_labels = np.full(geometry.mask.size, -1, dtype=np.int64)
    lesion_labels[geometry.voxels] = geometry.lesions.labels
    in_mask = geometry.mask.ravel()[union.voxels]
    points = union.coordinates.T * np.asarray(geometry.spacing_mm)
    nearest_lesion = np.full(union.voxels.size, -1, dtype=np.int64)
    # Components that overlap no lesion of the mask keep -1 and count towards none.
    for component in np.unique(union.lesions.labels[in_mask]):
        inside = np.flatnonzero(union.lesions.labels == component)
        labelled = inside[in_mask[inside]]
        _, nearest = cKDTree(points[labelled]).query(points[inside])
        nearest_lesion[inside] = lesion_labels[union.voxels[labelled[nearest]]]
    marked = masks.reshape(-1, masks.shape[-1])[union.voxels] & (nearest_lesion >= 0)[:, None]
    return np.stack([np.bincount(nearest_lesion[member], minlength=geometry.lesions.count) for member in marked.T])


def _to_mm(affine: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """Return voxel indices (N, 3) in mm, (N, 3)."""
    return voxels @ affine[:3, :3].T + affine[:3, 3]
