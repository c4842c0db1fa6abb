"""The lesions of one segmented scan: how large each is, how sure the members are of it, and where it lies."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from pd_ddpm.evaluation.mask_geometry import MaskGeometry
from pd_ddpm.inference.ensemble import cut, ensemble_mask

COLUMNS = [
    *("lesion", "volume_ml", "volume_low_ml", "volume_high_ml", "mean_probability", "members", "members_finding", "side"),
    *("x_mm", "y_mm", "z_mm", "voxel_i", "voxel_j", "voxel_k", "first_k", "last_k", "voxels"),
]

MIDLINE_MM = 3.0  # nearer to the middle of the brain mask than this, no side is named


def lesion_table(samples: np.ndarray, brain: np.ndarray, affine: np.ndarray, spacing_mm: Sequence[float]) -> pd.DataFrame:
    """One row for each 26-connected lesion of the ensemble's mask, the largest first.

    samples: members (X, Y, Z, K) in [0, 1]; brain: (X, Y, Z) bool; affine: (4, 4), voxels to mm to the right, anterior and
    superior; spacing in mm.

    volume_low_ml, volume_high_ml: the smallest and the largest volume that a member gives the lesion; empty for one member.
    The mask is cut from the members' mean, so that its own volume may lie outside. What a member marks in one piece with a
    lesion counts as that lesion, or, where it joins several, as the nearest. members_finding: how many members mark any of
    it. mean_probability: over the lesion's voxels. x_mm, y_mm, z_mm and voxel_i, voxel_j, voxel_k (0-based): the lesion's
    voxel that is nearest to its centre of mass. side: of the middle of the brain mask, right and left being the patient's.
    first_k, last_k: its slices along the third axis.
    """
    mask = ensemble_mask(samples)
    geometry = MaskGeometry(mask, tuple(spacing_mm))
    count, members = geometry.lesions.count, samples.shape[-1]
    if not count:
        return pd.DataFrame(columns=COLUMNS)
    ml = float(np.prod(spacing_mm)) / 1000
    volumes = np.bincount(geometry.lesions.of_voxel, minlength=count) * ml
    by_member = _voxels_by_member(samples, geometry)
    probability = samples.mean(axis=-1, dtype=np.float64).ravel()[geometry.voxels]
    middle = float(np.median(_to_mm(affine, np.argwhere(brain))[:, 0])) if brain.any() else 0.0
    rows = []
    for number, lesion in enumerate(np.argsort(-volumes, kind="stable"), start=1):
        chosen = geometry.lesions.of_voxel == lesion
        voxels = geometry.coordinates[:, chosen].T
        from_centre = np.linalg.norm((voxels - voxels.mean(axis=0)) * np.asarray(spacing_mm), axis=1)
        centre = voxels[np.argmin(from_centre)]
        x, y, z = _to_mm(affine, centre[None])[0]
        rows.append(
            {
                "lesion": number,
                "volume_ml": volumes[lesion],
                "volume_low_ml": by_member[:, lesion].min() * ml if members > 1 else np.nan,
                "volume_high_ml": by_member[:, lesion].max() * ml if members > 1 else np.nan,
                "mean_probability": probability[chosen].mean(),
                "members": members,
                "members_finding": int((by_member[:, lesion] > 0).sum()),
                "side": "midline" if abs(x - middle) < MIDLINE_MM else "right" if x > middle else "left",
                **{name: round(float(value), 1) for name, value in zip(("x_mm", "y_mm", "z_mm"), (x, y, z), strict=True)},
                **{f"voxel_{axis}": int(index) for axis, index in zip("ijk", centre, strict=True)},
                "first_k": int(voxels[:, 2].min()),
                "last_k": int(voxels[:, 2].max()),
                "voxels": int(chosen.sum()),
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def total_volume_ml(samples: np.ndarray, spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    """Lesion volume of the ensemble's mask, and the smallest and the largest of the members' own masks."""
    ml = float(np.prod(spacing_mm)) / 1000
    of_members = cut(samples).sum(axis=(0, 1, 2)) * ml
    return float(ensemble_mask(samples).sum() * ml), float(of_members.min()), float(of_members.max())


def places_of_some_members(samples: np.ndarray, spacing_mm: Sequence[float]) -> int:
    """How many 26-connected pieces at least one member marks that are no part of a lesion of the ensemble's mask."""
    mask = ensemble_mask(samples)
    union = MaskGeometry(cut(samples).any(axis=-1) | mask, tuple(spacing_mm))
    of_mask = np.unique(union.lesions.of_voxel[mask.ravel()[union.voxels]])
    return union.lesions.count - of_mask.size


def _voxels_by_member(samples: np.ndarray, geometry: MaskGeometry) -> np.ndarray:
    """(K, lesions): how many voxels of a member belong to a lesion."""
    masks = cut(samples)
    union = MaskGeometry(masks.any(axis=-1) | geometry.mask, geometry.spacing_mm)
    lesion_of = np.full(geometry.mask.size, -1, dtype=np.int64)
    lesion_of[geometry.voxels] = geometry.lesions.of_voxel
    in_mask = geometry.mask.ravel()[union.voxels]
    points = union.coordinates.T * np.asarray(geometry.spacing_mm)
    belongs = np.full(union.voxels.size, -1, dtype=np.int64)
    # Pieces that hold no lesion are no part of any.
    for piece in np.unique(union.lesions.of_voxel[in_mask]):
        inside = np.flatnonzero(union.lesions.of_voxel == piece)
        known = inside[in_mask[inside]]
        _, nearest = cKDTree(points[known]).query(points[inside])
        belongs[inside] = lesion_of[union.voxels[known[nearest]]]
    marked = masks.reshape(-1, masks.shape[-1])[union.voxels] & (belongs >= 0)[:, None]
    return np.stack([np.bincount(belongs[of_member], minlength=geometry.lesions.count) for of_member in marked.T])


def _to_mm(affine: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    return voxels @ affine[:3, :3].T + affine[:3, 3]
