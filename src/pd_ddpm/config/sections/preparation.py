"""Sections `preparation`, `grid` and `folds`: what happens to scans before anything is trained."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from pd_ddpm.config.sections.base import WHOLE, Contradiction, Count, Index, NonNegative, Positive, Section

Limits = Annotated[list[float], Field(min_length=2, max_length=2)]
Percentile = Annotated[float, Field(ge=0, le=100)]
PerAxis = Field(min_length=3, max_length=3)


class Clip(Section):
    """A range to which channels are limited."""

    values: Limits = Field(None, description="Least and largest value, such as [-991, 362] for CT in HU.")
    percentiles: Annotated[list[Percentile], Field(min_length=2, max_length=2)] = Field(
        None, description="Percentiles of all voxels of a channel, such as [0.95, 99.5]."
    )

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield what is no range."""
        given = [key for key in ("values", "percentiles") if getattr(self, key) is not None]
        if len(given) != 1:
            yield Contradiction("values", "a range has either values or percentiles", "Set one of the two keys")
        for key in given:
            low, high = getattr(self, key)
            if low >= high:
                yield Contradiction(key, f"{low:g} is not below {high:g}", "Name the lower limit first")


class Preparation(Section):
    """How scans are preprocessed, in the order of cutting margins, resampling, clipping, normalising, padding and cropping."""

    region: Literal["brain", "scan"] = Field(
        description=(
            "Voxels over which intensities are normalised, and in which slices are segmented. brain: a mask of the brain, made "
            "from the first channel, which should be a FLAIR; scan: all voxels, for other organs and for scans that are "
            "normalised as a whole."
        )
    )
    margins_voxels: Annotated[list[Annotated[list[Index], Field(min_length=2, max_length=2)]], PerAxis] | None = Field(
        description="Voxels that are cut off at the beginning and the end of each axis of the scan; null cuts off none."
    )
    spacing_mm: Annotated[list[Positive], PerAxis] | None = Field(
        description=(
            "Voxel size along each axis to which cases are resampled (masks by the nearest voxel), on which they are also "
            "scored and written by bundles; null keeps the first channel's grid."
        )
    )
    size: Annotated[list[Count], PerAxis] | None = Field(
        description="Voxels along each axis, to which cases are padded with 0 evenly, or cropped; null keeps all voxels."
    )
    crop_around: Literal["centre", "label"] = Field(
        description=(
            "What a case is cropped around. centre: the centre of the scan; label: the box of its mask, also for test cases, "
            "as ImgX-DiffSeg's code does. New scans have no mask, and bundles crop around the centre."
        )
    )
    clip: Clip | None = Field(description="Range to which channels are limited before the normalisation; null: only outliers.")
    interpolator: Literal["linear", "bspline"] = Field(description="For images that are resampled onto the first channel.")
    bias_correction: Literal["none", "n4"] = Field(
        description=(
            "n4: the bias field of each channel is estimated in the brain with N4 and removed before the normalisation, which "
            "takes some seconds for each channel; none: intensities stay as they are."
        )
    )
    normalisation: Literal["zscore_brain", "percentile", "unit_range", "none"] = Field(
        description=(
            "zscore_brain: mean 0 and standard deviation 1 in the region; percentile: 1 % to 99 % become 0 to 1; unit_range: "
            "the least value becomes 0 and the largest 1."
        )
    )
    grid_tolerance_voxels: Annotated[float, Field(gt=0, le=0.5)] = Field(
        description=(
            "Masks must lie on the grid of the first channel: no voxel may lie further from its counterpart than this fraction "
            "of the shortest side of a voxel."
        )
    )
    orientation: Annotated[str, Field(pattern="^[LRAPIS]{3}$", examples=["LPS"])] | None = Field(
        description="Voxel axes that every case is turned to, without interpolation, such as LPS; null keeps each scan's own."
    )

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield keys that do not fit each other."""
        if self.bias_correction == "n4" and self.region == "scan":
            yield Contradiction("bias_correction", "N4 needs a brain, but `region` is scan", "Set it to none")
        if self.crop_around == "label" and self.size is None:
            yield Contradiction("crop_around", "nothing is cropped, since `size` is null", "Set `size`, or use centre")


class Grid(Section):
    """The working grid, on which networks see slices or volumes. Networks may override its keys."""

    spacing_mm: Positive | None = Field(
        description="Pixel size in mm: in the plane of slices, along all axes of volumes; null keeps the scan's own."
    )
    region: Literal["slice", "brain_box"] = Field(
        description="Part of a slice that the networks see: all of it, or the bounding box of the brain."
    )
    margin_mm: NonNegative = Field(description="Margin around the bounding box, in mm.")
    padded_size: Annotated[list[Count], Field(min_length=2, max_length=3)] | None = Field(
        description=(
            "Size to which the networks' images are padded evenly, along X and Y of the scan, and along Z for networks of "
            "volumes, in pixels of the grid. Losses and scores ignore the padding; coordinates cover it. null: only up to a "
            "multiple of the network's down-sampling factor, where it is needed."
        )
    )
    labels: Literal["fractions", "binary"] = Field(
        description=(
            "Form of the ground truth that networks learn on a grid with larger pixels than the scan's. fractions: partial "
            "volumes; binary: thresholded at 0.5, as the noise of a diffusion model assumes, but small lesions vanish."
        )
    )
    minimum_brain_cm2: NonNegative = Field(
        description="Slices with less brain area than this, in cm2, are segmented as empty without being sampled."
    )
    members: Literal["auto", "binary", "soft"] = Field(
        description=(
            "Form in which the members of all methods return from the working grid to the scan's. binary: thresholded at 0.5 "
            "on the working grid; soft: as probabilities; auto: binary for scans with smaller pixels than the grid, otherwise "
            "soft. On a coarser grid probabilities hold partial volumes. This favours a network's single pass over a reverse "
            "chain, whose members are nearly binary there. If members are binary, a chain starts from the binary mask that its "
            "pre-segmentation was on this grid, otherwise from partial volumes. A mask that was made on another grid is "
            "averaged over pixels first."
        )
    )


class Folds(Section):
    """How cases are assigned to folds."""

    count: Annotated[int, Field(ge=3), WHOLE] = Field(
        description="Number of folds: one is tested, one is validated on, the others are trained on."
    )
    seed: Index = Field(description="Seed of the assignment.")
    stratify_by_site: bool = Field(description="true: each fold has about the same number of cases from every site.")
