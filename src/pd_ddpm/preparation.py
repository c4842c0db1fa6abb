"""From the scans of one case to the files that the networks use: one grid, a brain mask, normalised intensities."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd
import SimpleITK as sitk
from scipy import ndimage

from pd_ddpm.cohort import OBSERVERS
from pd_ddpm.files import file_sha256, fingerprint, finished_row, sweep, write_record
from pd_ddpm.images import ImageError, check_same_grid, read_image, read_labels, spacing_mm, turned, write_image
from pd_ddpm.processes import in_processes
from pd_ddpm.provenance import code_version

Interpolator = Literal["linear", "bspline"]
Normalisation = Literal["zscore_brain", "percentile", "none"]

_INTERPOLATORS = {"linear": sitk.sitkLinear, "bspline": sitk.sitkBSpline}
_NO_INITIAL_TRANSFORM = "NoInitialTransform"

# Brain mask, in mm and ml. The radii are tried in turn, because a larger one cuts wider bridges but also more gyri.
_OPENING_RADII_MM = (4, 5, 6, 8)
_GYRI_MM = 4
_CLOSING_RADIUS_MM = 12
_MARGIN_MM = 2
_SMALLEST_BRAIN_ML = 400
_LARGEST_BRAIN_ML = 2000
_SMALLEST_SHARE_OF_FOREGROUND = 0.4
_LARGEST_SHARE_OF_HEAD = 0.8


def read_elastix_transform(path: str | Path) -> sitk.Transform:
    """Read a 3D Euler, affine or translation transform from an elastix parameter file.

    It maps points of the fixed to the moving image, in mm in ITK's LPS frame: T(x) = A (x - c) + c + t (elastix
    manual, on transforms). Without UseDirectionCosines the file is taken to be of elastix 4.8 or later, where it is "true".

    Raises ImageError for other transforms, chained transforms, and files that lack a parameter.
    """
    path = Path(path)
    entries = _elastix_entries(path)

    def one(name: str, default: str) -> str:
        return entries.get(name, [default])[0]

    kind = one("Transform", "")
    counts = {"EulerTransform": 6, "AffineTransform": 12, "TranslationTransform": 3}
    if kind not in counts:
        raise ImageError(f"{path}: elastix transform {kind!r} is not read; use one of {', '.join(counts)}.")
    # The name was spelt with a plural s before elastix 5.1.
    for name in ("InitialTransformParameterFileName", "InitialTransformParametersFileName"):
        if one(name, _NO_INITIAL_TRANSFORM) != _NO_INITIAL_TRANSFORM:
            raise ImageError(
                f"{path}: builds on an initial transform ({one(name, '')}), and chains are not read; combine them into one "
                "transform, or resample the image beforehand."
            )
    if {one("FixedImageDimension", "3"), one("MovingImageDimension", "3")} != {"3"}:
        raise ImageError(f"{path}: is not a transform between 3D images; register the 3D images.")
    if one("UseDirectionCosines", "true") != "true":
        raise ImageError(f"{path}: was made without direction cosines; register again with UseDirectionCosines true.")
    parameters = _numbers(path, entries, "TransformParameters", counts[kind])
    if kind == "TranslationTransform":
        return sitk.TranslationTransform(3, parameters)
    centre = _numbers(path, entries, "CenterOfRotationPoint", 3)
    if kind == "EulerTransform":
        transform = sitk.Euler3DTransform()
        transform.SetComputeZYX(one("ComputeZYX", "false") == "true")
    else:
        transform = sitk.AffineTransform(3)
    transform.SetCenter(centre)
    transform.SetParameters(parameters)
    return transform


def read_transform(path: str | Path) -> sitk.Transform:
    """Read a transform from fixed to moving image, from an elastix parameter file or any file that ITK reads.

    Raises ImageError if it is neither.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError(f"{path}: there is no such transform; correct the path.")
    if re.search(rb"^\s*\(Transform\s", path.read_bytes(), re.MULTILINE):
        return read_elastix_transform(path)
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise ImageError(
            f"{path}: is a transform neither of elastix nor of ITK; convert it to an ITK transform (.tfm or .mat)."
        ) from error
    if transform.GetDimension() != 3:
        raise ImageError(f"{path}: is not a transform between 3D images; register the 3D images.")
    return transform


def resample_to(
    reference: str | Path | nib.Nifti1Image,
    moving: str | Path | nib.Nifti1Image,
    transform: str | Path | None = None,
    interpolator: Interpolator = "linear",
) -> np.ndarray:
    """Resample an image onto the grid of another: float32 array of the reference's shape (H, W, D), 0 outside.

    `transform` maps points of the reference to points of the moving image; without one the headers decide. An image
    that is on the grid already is returned unchanged.

    Raises ImageError for files that cannot be used, ValueError for an unknown interpolator.
    """
    if interpolator not in _INTERPOLATORS:
        raise ValueError(f"interpolator: {interpolator!r} is unknown; use {' or '.join(_INTERPOLATORS)}.")
    reference = reference if isinstance(reference, nib.Nifti1Image) else read_image(reference)
    moving = moving if isinstance(moving, nib.Nifti1Image) else read_image(moving)
    if transform is None and _same_grid(reference, moving):
        return np.asarray(moving.dataobj).astype(np.float32)
    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(_as_sitk(np.zeros(reference.shape, np.uint8), reference.affine))
    resampler.SetInterpolator(_INTERPOLATORS[interpolator])
    resampler.SetTransform(sitk.Transform(3, sitk.sitkIdentity) if transform is None else read_transform(transform))
    resampler.SetOutputPixelType(sitk.sitkFloat32)
    resampler.SetDefaultPixelValue(0)
    resampled = resampler.Execute(_as_sitk(np.asarray(moving.dataobj).astype(np.float32), moving.affine))
    return np.ascontiguousarray(sitk.GetArrayViewFromImage(resampled).T)


def brain_mask(flair: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """A rough brain mask (H, W, D), bool, of a FLAIR scan with or without skull; spacing in mm.

    A threshold (Otsu 1979) leaves brain and scalp. An in-plane opening cuts the bridges between them, and the largest
    piece is the core of the brain; the gyri about it are put back, the whole is closed, filled and widened by 2 mm, so
    that lesions at the cortex lie within. If next to nothing can be cut off and the scan has a background of exact
    zeros, it is without skull, and everything that is not zero counts as brain. Where the result is implausible (below
    400 ml, or below 40 % of the foreground), the whole head is returned. The mask serves to normalise intensities, to
    leave out slices without brain and to find a bounding box, not to measure volumes.

    Raises ValueError if no voxel is positive.
    """
    if not (flair > 0).any():
        raise ValueError("no voxel of the FLAIR is positive; export the image again.")
    ml = float(np.prod(spacing)) / 1000
    # Most voxels above the mean are brain. Without the limit, fat several times as bright would raise the threshold above
    # the brain; and filters may leave a negative ripple about it.
    levels = np.clip(flair, 0, 1.5 * np.median(flair[flair > flair.mean()])).astype(np.float32)
    foreground = sitk.GetArrayFromImage(sitk.OtsuThreshold(sitk.GetImageFromArray(levels), 0, 1)) > 0
    head = _closed_in_plane(foreground, spacing)
    support = _filled(flair != 0)
    depth = _distance_mm(foreground, spacing, in_plane=True)
    for radius in _OPENING_RADII_MM:
        core = _largest_piece(depth > radius)
        if not core.any():
            break
        # Above and below the core the scalp is nearer than beside it, hence twice the spacing along Z.
        near = _distance_mm(~core, (*spacing[:2], 2 * spacing[2])) <= radius + _GYRI_MM
        brain = _distance_mm(~_closed_in_plane(foreground & near, spacing), spacing) <= _MARGIN_MM
        if brain.sum() < _LARGEST_SHARE_OF_HEAD * head.sum():
            large_enough = brain.sum() * ml >= _SMALLEST_BRAIN_ML
            if large_enough and brain.sum() >= _SMALLEST_SHARE_OF_FOREGROUND * foreground.sum():
                return brain
            break
        if support.sum() * ml < _LARGEST_BRAIN_ML:
            break
    return support if support.sum() < 1.5 * head.sum() else head


def voxel_hash(volume: np.ndarray) -> str:
    """Hash of an image's voxels as float32, which tells that two files hold the same scan."""
    # NIfTI stores X fastest, so that the transpose is contiguous already.
    return hashlib.sha256(np.ascontiguousarray(volume.T, dtype=np.float32)).hexdigest()


class NormalisedScan(NamedTuple):
    """What the networks are given of a scan.

    image: (H, W, D, channel) float32, normalised; brain: (H, W, D) bool; both on the grid of `first`, the first channel as it
    was read.
    """

    image: np.ndarray
    brain: np.ndarray
    first: nib.Nifti1Image


def read_normalised(
    case: Mapping[str, str],
    channels: Sequence[str],
    normalisation: Normalisation = "zscore_brain",
    interpolator: Interpolator = "linear",
) -> NormalisedScan:
    """The channels of a case on the grid of the first, which must be a FLAIR scan or look like one, and its brain.

    case: for each channel its path, and under `{channel}_transform` that of its transform, or nothing. normalisation:
    "zscore_brain" (mean 0 and standard deviation 1 over the brain), "percentile" (linear, the 1st percentile of the brain to 0
    and the 99th to 1, not clipped: lesions are among the brightest voxels), or "none".

    Raises ImageError if a file is unusable or a channel does not cover the brain.
    """
    first = read_image(case[channels[0]])
    volumes = [np.asarray(first.dataobj).astype(np.float32)]
    for channel in channels[1:]:
        volumes.append(resample_to(first, case[channel], case[f"{channel}_transform"] or None, interpolator))
    brain = brain_mask(volumes[0], spacing_mm(first))
    for channel, volume in zip(channels, volumes, strict=True):
        check_coverage(case, channel, volume, brain)
    image = np.stack([_normalise(volume, brain, normalisation) for volume in volumes], axis=-1)
    return NormalisedScan(image, brain, first)


def prepare_case(
    case: Mapping,
    channels: Sequence[str],
    output_folder: str | Path,
    normalisation: Normalisation = "zscore_brain",
    interpolator: Interpolator = "linear",
    orientation: str | None = None,
) -> dict:
    """Prepare one case (a row of the case table) and return its row of the manifest.

    Writes, on the grid of the first channel: `{case}_image.nii.gz` (H, W, D, channel) float32 (see `read_normalised`),
    `{case}_mask.nii.gz` uint8 labels 0, 1, 2, `{case}_brain.nii.gz` uint8, `{case}_observer-2.nii.gz` and so on where there are
    further observers, and last `{case}.json`, the fingerprint of settings, code and inputs. If that is there and still right,
    nothing is done.

    orientation: axis codes such as "LPS" to which the grid is turned, without interpolation; None keeps the scan's own.

    Raises ImageError if a file is unusable, a mask is not on the FLAIR's grid, or a channel does not cover the brain.
    """
    name = case["case"]
    output_folder = Path(output_folder)
    settings = {
        "channels": list(channels),
        "normalisation": normalisation,
        "interpolator": interpolator,
        "orientation": orientation,
    }
    stamp = _stamp(case, channels, settings)
    record_path = output_folder / f"{name}.json"
    if (row := finished_row(record_path, stamp)) is not None:
        return row
    record_path.unlink(missing_ok=True)
    output_folder.mkdir(parents=True, exist_ok=True)

    image, brain, first = read_normalised(case, channels, normalisation, interpolator)
    mask = _labels_on_grid(case, "mask", first, channels)
    files = {
        f"{name}_image.nii.gz": image,
        f"{name}_mask.nii.gz": mask,
        f"{name}_brain.nii.gz": brain.astype(np.uint8),
    }
    for observer in OBSERVERS:
        file = f"{name}_{observer.replace('_', '-')}.nii.gz"
        if case.get(observer):
            files[file] = _labels_on_grid(case, observer, first, channels)
        else:
            (output_folder / file).unlink(missing_ok=True)
    grid = first if orientation is None else turned(np.asarray(first.dataobj), first, orientation)
    for file, array in files.items():
        if orientation is not None:
            array = np.asarray(turned(array, first, orientation).dataobj)
        write_image(output_folder / file, array, like=grid, dtype=array.dtype)
    row = _manifest_row(case, grid, mask, brain, np.asarray(first.dataobj))
    # What is trained on and scored depends on this manifest alone, so it must tell when a voxel has changed.
    row["prepared_sha256"] = fingerprint([file_sha256(output_folder / file) for file in files])
    write_record(record_path, stamp, files, row)
    return row


def _labels_on_grid(case: Mapping, column: str, first: nib.Nifti1Image, channels: Sequence[str]) -> np.ndarray:
    """The labels of a mask that must lie on the grid of the first channel."""
    labels, image = read_labels(case[column])
    check_same_grid(first, image, (case[channels[0]], case[column]))
    return labels


def prepare_cohort(
    table: pd.DataFrame,
    channels: Sequence[str],
    output_folder: str | Path,
    normalisation: Normalisation = "zscore_brain",
    interpolator: Interpolator = "linear",
    orientation: str | None = None,
    processes: int = 1,
) -> pd.DataFrame:
    """Prepare all cases of a case table (see `prepare_case`) and return the manifest, one row per case in their order.

    Raises one ValueError at the end that lists every case that could not be prepared, cases that hold the same scan, and
    cases whose voxel axes point elsewhere than those of the others; what has been prepared stays on disk.
    """
    cases = table.to_dict("records")
    arguments = (list(channels), str(output_folder), normalisation, interpolator, orientation)
    sweep(Path(output_folder))
    outcomes = in_processes(partial(_attempt, arguments=arguments), cases, processes, "preparing")
    problems = [outcome for outcome in outcomes if isinstance(outcome, str)]
    manifest = pd.DataFrame([outcome for outcome in outcomes if isinstance(outcome, dict)])
    if len(manifest):
        problems += cohort_problems(manifest)
    if problems:
        raise ValueError(f"{len(problems)} problem(s) in {len(cases)} cases:\n" + "\n".join(f"  {text}" for text in problems))
    return manifest.drop(columns="sha256")


def _elastix_entries(path: Path) -> dict[str, list[str]]:
    entries = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if match := re.match(r"\s*\(\s*(\w+)\s+(.*?)\s*\)\s*(//.*)?$", line):
            entries[match[1]] = [quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|(\S+)', match[2])]
    return entries


def _numbers(path: Path, entries: dict[str, list[str]], name: str, count: int) -> list[float]:
    texts = entries.get(name, [])
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        numbers = []
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ImageError(f"{path}: {name} should be {count} numbers but is {' '.join(texts) or 'missing'}; register again.")
    return numbers


def _as_sitk(array: np.ndarray, affine: np.ndarray) -> sitk.Image:
    # Voxels come through nibabel, whose reading is checked; NIfTI's RAS frame becomes ITK's LPS frame.
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def _same_grid(a: nib.Nifti1Image, b: nib.Nifti1Image) -> bool:
    try:
        check_same_grid(a, b, ("a", "b"))
    except ImageError:
        return False
    return True


def _distance_mm(mask: np.ndarray, spacing: tuple[float, float, float], in_plane: bool = False) -> np.ndarray:
    """From each voxel of the mask to the nearest outside of it, in its slice only (inf where that has none) or in all."""
    if not in_plane:
        return ndimage.distance_transform_edt(mask, sampling=spacing)
    slices = [ndimage.distance_transform_edt(plane, sampling=spacing[:2]) for plane in np.moveaxis(mask, 2, 0)]
    return np.where(mask.all(axis=(0, 1)), np.inf, np.stack(slices, axis=2))


def _filled(mask: np.ndarray) -> np.ndarray:
    return np.stack([ndimage.binary_fill_holes(mask[:, :, z]) for z in range(mask.shape[2])], axis=2)


def _closed_in_plane(mask: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    # Without a border the closing would stick to the edges of a narrow field of view.
    border = [(int(np.ceil(_CLOSING_RADIUS_MM / size)) + 1,) * 2 for size in spacing[:2]]
    padded = np.pad(mask, [*border, (0, 0)])
    widened = _distance_mm(~padded, spacing, in_plane=True) <= _CLOSING_RADIUS_MM
    closed = _filled(_distance_mm(widened, spacing, in_plane=True) > _CLOSING_RADIUS_MM)
    return closed[border[0][0] : -border[0][0], border[1][0] : -border[1][0]]


def _largest_piece(mask: np.ndarray) -> np.ndarray:
    pieces, count = ndimage.label(mask)
    return pieces == 1 + np.argmax(np.bincount(pieces.ravel(), minlength=2)[1:]) if count else mask


def _normalise(volume: np.ndarray, brain: np.ndarray, normalisation: Normalisation) -> np.ndarray:
    inside = volume[brain].astype(np.float64)
    if normalisation == "zscore_brain":
        low, width = inside.mean(), inside.std()
    elif normalisation == "percentile":
        low, high = np.percentile(inside, (1, 99))
        width = high - low
    elif normalisation == "none":
        return volume
    else:
        raise ValueError(f"normalisation: {normalisation!r} is unknown; use zscore_brain, percentile or none.")
    return ((volume - low) / width).astype(np.float32)


def check_coverage(case: Mapping, channel: str, volume: np.ndarray, brain: np.ndarray) -> None:
    """Raise ImageError if a channel (H, W, D), on the grid of the brain mask, is constant or zero in most of the brain."""
    inside = volume[brain]
    low, high = np.percentile(inside, (1, 99))
    if low == high or (inside == 0).mean() > 0.5:
        transform = case[f"{channel}_transform"]
        raise ImageError(
            f"{case[channel]}: covers {(inside != 0).mean():.0%} of the brain on the grid of the first channel; check its "
            f"header and {f'the direction of {transform}' if transform else 'whether it needs a transform'}."
        )


def _manifest_row(case: Mapping, grid: nib.Nifti1Image, mask: np.ndarray, brain: np.ndarray, flair: np.ndarray) -> dict:
    spacing = spacing_mm(grid)
    ml = float(np.prod(spacing)) / 1000
    lesion = mask == 1
    return {
        "case": case["case"],
        "site": case["site"],
        "orientation": "".join(nib.aff2axcodes(grid.affine)),
        **{f"size_{axis}": int(size) for axis, size in zip("xy", grid.shape, strict=False)},
        "slices": int(grid.shape[2]),
        **{f"spacing_{axis}_mm": size for axis, size in zip("xyz", spacing, strict=True)},
        "lesion_ml": round(int(lesion.sum()) * ml, 4),
        # Voxels that share a corner are one lesion, as the WMH challenge counts them.
        "lesion_count": int(ndimage.label(lesion, np.ones((3, 3, 3)))[1]),
        "lesion_outside_brain_ml": round(int((lesion & ~brain).sum()) * ml, 4),
        "ignored_ml": round(int((mask == 2).sum()) * ml, 4),
        "brain_ml": round(int(brain.sum()) * ml, 4),
        "sha256": voxel_hash(flair),
    }


def _stamp(case: Mapping, channels: Sequence[str], settings: dict) -> str:
    paths = [case[name] for name in (*channels, *(f"{c}_transform" for c in channels), "mask")]
    paths += [case.get(observer, "") for observer in OBSERVERS]
    inputs = []
    for path in paths:
        if path and not Path(path).is_file():
            raise ImageError(f"{path}: there is no such file; correct the path or fetch the file.")
        inputs.append([path, Path(path).stat().st_size, Path(path).stat().st_mtime_ns] if path else None)
    return fingerprint([case["case"], case["site"], settings, inputs, code_version(__file__)])


def _attempt(case: Mapping, arguments: tuple) -> dict | str:
    try:
        return prepare_case(case, *arguments)
    except (ValueError, OSError, RuntimeError) as error:
        return f"case {case['case']}: {error}"


def cohort_problems(manifest: pd.DataFrame) -> list[str]:
    """What is wrong with cases only beside each other, from their columns case, sha256 (see `voxel_hash`) and orientation."""
    problems = [
        f"cases {', '.join(names)} hold the same scan, which would leak between training and test; remove all but one."
        for names in manifest.groupby("sha256")["case"].agg(list)
        if len(names) > 1
    ]
    by_orientation = manifest.groupby("orientation")["case"].agg(list)
    if len(by_orientation) > 1:
        listed = "; ".join(f"{codes}: {', '.join(names)}" for codes, names in by_orientation.items())
        problems.append(
            f"the voxel axes point different ways ({listed}), so that networks would see some heads mirrored or "
            "turned; set orientation to one of them for all."
        )
    return problems
