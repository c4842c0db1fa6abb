"""Classes of one segmented scan: their volumes and the agreement between members."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pd_ddpm.inference.class_ensemble import ClassSegmentation


def class_table(segmentation: ClassSegmentation, classes: Mapping[int, str], spacing_mm: Sequence[float]) -> pd.DataFrame:
    """List the classes in the order of their labels.

    Args:
        segmentation: the segmentation of the scan.
        classes: label -> name of each class.
        spacing_mm: voxel size along X, Y, Z.

    Returns:
        One row per class: label, class, voxels and volume_ml in the label map; volume_low_ml and volume_high_ml, the smallest
        and the largest volume in the members' own label maps, empty for a single member; mean_probability over its voxels and
        mean_variance over members in them, empty without voxels; members.
    """
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    rows = []
    for number, (label, name) in enumerate(classes.items(), start=1):
        inside = segmentation.index == number
        volumes = (segmentation.member_indices == number).sum(axis=(0, 1, 2)) * voxel_ml
        is_range, is_present = segmentation.num_members > 1, inside.any()
        rows.append(
            {
                "label": label,
                "class": name,
                "voxels": int(inside.sum()),
                "volume_ml": inside.sum() * voxel_ml,
                "volume_low_ml": volumes.min() if is_range else np.nan,
                "volume_high_ml": volumes.max() if is_range else np.nan,
                "mean_probability": segmentation.mean[..., number][inside].mean() if is_present else np.nan,
                "mean_variance": segmentation.class_variance[..., number][inside].mean() if is_present and is_range else np.nan,
                "members": segmentation.num_members,
            }
        )
    return pd.DataFrame(rows)
