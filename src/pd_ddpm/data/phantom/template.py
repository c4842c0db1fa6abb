"""Maps of the MNI152 template from which heads are warped: tissues, distances, regions.

Coordinates of regions were read off the template by us.

Reference: Fonov et al. 2009, 2011 (ICBM 152 non-linear template).
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template
from scipy.ndimage import (
    binary_fill_holes,
    distance_transform_edt,
    gaussian_filter,
    grey_opening,
    label,
    map_coordinates,
)

from pd_ddpm.data.phantom.fields import Lattice, smooth_step

TEMPLATE_FILE = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
# Box of the maps in MNI mm: that of the template without empty margins, extended for a neck.
LOWER_MM, UPPER_MM = (-92.0, -126.0, -132.0), (92.0, 104.0, 104.0)
FINE_MM, COARSE_MM = 1.0, 2.0  # voxel sizes of the two lattices
# Centres (+-x, y, z) and radii in MNI mm of the maxillary and sphenoid sinuses, nasal cavity, pharynx and mastoid cells.
AIR = [
    ((27, 48, -68), (11, 14, 14)),
    ((6, 22, -34), (8, 10, 7)),
    ((5, 50, -60), (4, 24, 16)),
    ((0, 2, -90), (9, 7, 40)),
    ((50, -30, -44), (6, 11, 11)),
]


@dataclass(frozen=True)
class TemplateMaps:
    """Named maps on lattices in MNI space (mm, RAS); `build_template_maps` lists them."""

    maps: dict[str, tuple[Lattice, np.ndarray]]

    def interpolate(self, name: str, coordinates: np.ndarray) -> np.ndarray:
        """Interpolate the map `name` linearly at MNI coordinates (3, ...) in mm; return float32 (...)."""
        lattice, values = self.maps[name]
        voxels = np.empty_like(coordinates)
        for axis in range(3):
            np.subtract(coordinates[axis], np.float32(lattice.origin[axis]), out=voxels[axis])
            voxels[axis] *= np.float32(1 / lattice.spacing[axis])
        sampled = map_coordinates(values, voxels, order=1, mode="nearest", output=np.float32)
        return sampled * np.float32(1 / 255) if values.dtype == np.uint8 else sampled


@cache
def build_template_maps() -> TemplateMaps:
    """Compute all maps from the template files in the installed nilearn package, once per process.

    This needs no network and takes some seconds.

    Maps in [0, 1]: `grey`, `white`, `brain` (probabilities), `choroid`, `septum`, `tract` (corticospinal), `deep_grey`,
    `frontal_cap`, `occipital_cap`, `band` (frequent sites of periventricular lesions), `midline` (no such lesions),
    `cerebrum`, `cerebellum`, `brainstem`, `eye`, `orbit_fat`, `air` (sinuses and airways).

    Maps in mm: `ventricle` (signed distance to the lateral ventricles, negative inside), `cortex` (depth of white matter
    below the cortex), `hull` (signed distance to the closed outline of the brain), `skin` (signed distance to the outer
    surface, negative inside the head).

    `texture` is the template's T1 (white matter is 1) minus the signal that the tissue fractions predict.
    """
    fine = Lattice.from_box(LOWER_MM, UPPER_MM, FINE_MM)
    coarse = Lattice.from_box(LOWER_MM, UPPER_MM, COARSE_MM)
    t1, grey, white = (
        _on_lattice(load(resolution=1), fine)
        for load in (load_mni152_template, load_mni152_gm_template, load_mni152_wm_template)
    )
    brain_mask = binary_fill_holes(t1 > 0.02)
    brain = gaussian_filter(brain_mask.astype(np.float32), 0.5)
    ventricle_mask = _lateral_ventricles(fine, np.clip(1 - grey - white, 0, 1) * brain_mask)
    ventricle = _signed_distance(ventricle_mask, FINE_MM)
    grey, white = _without_false_rim(grey, white, ventricle)

    x, y, z = fine.axes()
    cerebrum, cerebellum, brainstem = _compartments(fine)
    cortical = (grey > 0.5) & (cerebrum > 0.5) & (ventricle > 9) & ~_box(fine, 34, (-38, 26), (-16, 20))
    every_second = np.s_[::2, ::2, ::2]
    cortex = distance_transform_edt(~cortical[every_second], sampling=COARSE_MM).astype(np.float32)
    hull, skin = _head_surfaces(coarse, brain_mask[every_second])

    eye, orbit_fat = _orbits(coarse)
    deep_grey = (grey > 0.35) * smooth_step(np.abs(x), 40, 32) * smooth_step(np.abs(y + 4), 34, 26)
    deep_grey = deep_grey * smooth_step(z, -16, -10) * smooth_step(z, 26, 20)
    fractions = {
        "grey": grey,
        "white": white,
        "brain": brain,
        "cerebrum": cerebrum,
        "cerebellum": cerebellum,
        "brainstem": brainstem,
        "deep_grey": deep_grey,
        "choroid": _choroid_plexus(fine, ventricle_mask),
        "septum": np.exp(-((x / 1.1) ** 2)) * _box(fine, 8, (-34, 26), (2, 27)),
        "tract": _corticospinal_tract(fine),
        "frontal_cap": _gaussian_pair(fine, (15, 32, 8), (10, 12, 14)),
        "occipital_cap": _gaussian_pair(fine, (26, -54, 12), (11, 16, 16)),
        "band": smooth_step(z, 12, 20) * smooth_step(np.abs(y + 10), 46, 28) * smooth_step(np.abs(x), 8, 13),
        "midline": np.exp(-((x / 7.0) ** 2)) * np.ones_like(y + z),
    }
    expected = white + 0.72 * grey + 0.3 * np.clip(brain - grey - white, 0, 1)
    texture = (gaussian_filter(t1, 0.4) / np.median(t1[white > 0.95]) - expected) * brain
    maps = {name: (fine, _as_bytes(values, fine)) for name, values in fractions.items()}
    maps |= {"ventricle": (fine, ventricle), "texture": (fine, texture.astype(np.float32))}
    maps |= {"cortex": (coarse, cortex), "hull": (coarse, hull), "skin": (coarse, skin)}
    for name, values in (("eye", eye), ("orbit_fat", orbit_fat), ("air", _ellipsoids(coarse, AIR))):
        maps[name] = (coarse, _as_bytes(values, coarse))
    return TemplateMaps(maps)


def _on_lattice(image, lattice: Lattice) -> np.ndarray:
    """Copy a 1 mm template image, scaled to [0, 1], into a 1 mm lattice, with zeros outside of the image."""
    data = np.asarray(image.dataobj, dtype=np.float32)
    start = np.round(np.asarray(lattice.origin) - image.affine[:3, 3]).astype(int)
    result = np.zeros(lattice.shape, np.float32)
    source, target = [], []
    for first, count, available in zip(start, lattice.shape, data.shape, strict=True):
        low, high = max(first, 0), min(first + count, available)
        source.append(slice(low, high))
        target.append(slice(low - first, high - first))
    result[tuple(target)] = data[tuple(source)]
    # The template ends within the medulla. Its lowest slice is repeated downwards as the spinal cord.
    bottom = target[2].start
    result[:, :, :bottom] = result[:, :, bottom : bottom + 1]
    return result / data.max()


def _as_bytes(values: np.ndarray, lattice: Lattice) -> np.ndarray:
    return np.round(np.broadcast_to(np.clip(values, 0, 1), lattice.shape) * np.float32(255)).astype(np.uint8)


def _box(lattice: Lattice, half_width: float, y_range: tuple, z_range: tuple) -> np.ndarray:
    """Return a mask of a box that is symmetric about the midplane, in MNI mm."""
    x, y, z = lattice.axes()
    return (np.abs(x) <= half_width) & (y >= y_range[0]) & (y <= y_range[1]) & (z >= z_range[0]) & (z <= z_range[1])


def _gaussian_pair(lattice: Lattice, centre: tuple, widths: tuple) -> np.ndarray:
    """Return two mirrored Gaussian blobs (peak 1) at MNI (+-x, y, z), with standard deviations in mm."""
    x, y, z = lattice.axes()
    offsets = (np.abs(x) - centre[0], y - centre[1], z - centre[2])
    return np.exp(-0.5 * sum((offset / width) ** 2 for offset, width in zip(offsets, widths, strict=True)))


def _signed_distance(mask: np.ndarray, spacing: float) -> np.ndarray:
    """Return the distance in mm to the border of a mask, negative inside."""
    outside = distance_transform_edt(~mask, sampling=spacing)
    inside = distance_transform_edt(mask, sampling=spacing)
    return (outside - inside).astype(np.float32) + np.float32(spacing) * (mask - np.float32(0.5))


def _lateral_ventricles(lattice: Lattice, fluid: np.ndarray) -> np.ndarray:
    """Return a mask of the CSF that is connected with the bodies and atria of the lateral ventricles."""
    x, y, z = lattice.axes()
    # Excluded are regions that touch the ventricles in an average brain: third ventricle, cisterns, Sylvian fissure.
    allowed = _box(lattice, 40, (-84, 42), (-24, 34)) & ~((np.abs(x) < 2.5) & (z < 4))
    allowed &= ~((y < -20) & (np.abs(x) < 9) & (z < 14)) & ~((y > -20) & (z < -9)) & ~((np.abs(x) > 26) & (y > -22) & (z > -8))
    candidates = (fluid > 0.5) & allowed
    components, _ = label(candidates)
    corner = np.asarray(lattice.origin)
    ventricle_labels = set()
    for seed in ((9, 8, 18), (14, -18, 22), (25, -44, 8)):
        for side in (-1, 1):
            voxel = np.round(np.array((side * seed[0], *seed[1:])) - corner).astype(int)
            near = components[tuple(slice(index - 3, index + 4) for index in voxel)]
            ventricle_labels |= set(np.unique(near[near > 0]).tolist())
    return np.isin(components, sorted(ventricle_labels))


def _without_false_rim(grey: np.ndarray, white: np.ndarray, ventricle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return grey and white matter without the false rim of grey matter where white matter and CSF share a voxel."""
    thin = grey - grey_opening(grey, size=(5, 5, 5))
    moved = thin * smooth_step(ventricle, 6, 4)
    return grey - moved, white + moved * smooth_step(ventricle, -1, 0.5)


def _compartments(lattice: Lattice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return soft boxes of cerebrum, cerebellum and brain stem in MNI space, used for white matter only."""
    x, y, z = lattice.axes()
    tentorium = -2 + 0.4 * (y + 40) - 0.25 * np.abs(x)
    behind = smooth_step(y, -26, -34)
    below = smooth_step(z - tentorium, 4, -4)
    brainstem = smooth_step(np.abs(x), 22, 18) * smooth_step(z, -6, -12) * smooth_step(np.abs(y + 28), 22, 18)
    cerebellum = behind * below * (1 - brainstem)
    return (1 - cerebellum) * (1 - brainstem), cerebellum, brainstem


def _choroid_plexus(lattice: Lattice, ventricle_mask: np.ndarray) -> np.ndarray:
    """Return the choroid plexus: strands on the floor of the ventricles' bodies, and the glomus in the atria."""
    glomus = _gaussian_pair(lattice, (25, -41, 8), (4, 6, 6))
    strand = _gaussian_pair(lattice, (11, -18, 17), (4, 16, 2.5))
    return np.maximum(glomus, 0.7 * strand) * ventricle_mask


def _corticospinal_tract(lattice: Lattice) -> np.ndarray:
    """Return the posterior limb of the internal capsule, which fades upwards into the corona radiata."""
    x, y, z = lattice.axes()
    radius = (np.abs(x) - 22 - 0.12 * z) ** 2 + (y + 15 + 0.15 * z) ** 2
    return np.exp(-radius / (2 * 4.0**2)) * smooth_step(z, -14, -4) * smooth_step(z, 34, 14)


def _head_surfaces(lattice: Lattice, brain_mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return signed distances in mm to the closed outline of the brain and to the surface of head, face and neck."""
    # Closing by 22 mm bridges the gap between the temporal lobes; otherwise the skull would wrap around each of them.
    pad = 12
    padded = np.pad(brain_mask, pad)
    near = distance_transform_edt(~padded, sampling=COARSE_MM) <= 22
    closed = (distance_transform_edt(near, sampling=COARSE_MM) > 22)[pad:-pad, pad:-pad, pad:-pad]
    outline = _signed_distance(closed | brain_mask, COARSE_MM)
    # Far from the brain, the closed gaps contain the bones of the skull base, not fluid.
    gap = distance_transform_edt(~brain_mask, sampling=COARSE_MM).astype(np.float32) - 4
    gap = np.where(brain_mask, outline, np.where(gap < 0, 3 * gap, gap))
    hull = gaussian_filter(np.maximum(outline, gap), 1.0)
    x, y, z = lattice.axes()
    # The face is cut off below the orbits, as in the public images. A neck continues below the skull base.
    face = (x / 64) ** 2 + ((y - 28) / 55) ** 2 + ((z + 38) / 52) ** 2 - 1
    neck_y = -34 - 0.12 * (z + 60)
    neck = np.maximum((x / 58) ** 2 + ((y - neck_y) / 58) ** 2 - 1, (z + 40) / 30)
    head = (gaussian_filter(outline, 4) < 13) | (face < 0) | (neck < 0)
    smooth = gaussian_filter(head.astype(np.float32), 4) > 0.5
    return hull, gaussian_filter(_signed_distance(smooth | (outline < 11), COARSE_MM), 1.0)


def _orbits(lattice: Lattice) -> tuple[np.ndarray, np.ndarray]:
    """Return the eyeballs, and the fat-filled cones around them."""
    x, y, z = lattice.axes()
    eye = _ellipsoids(lattice, [((32, 57, -37), (12.5, 12.5, 12.5))])
    apex, centre = np.array([13.0, 20.0, -27.0]), np.array([32.0, 57.0, -37.0])
    axis = (centre - apex) / np.linalg.norm(centre - apex)
    offsets = (np.abs(x) - apex[0], y - apex[1], z - apex[2])
    along = sum(offset * direction for offset, direction in zip(offsets, axis, strict=True))
    across = np.sqrt(np.maximum(sum(offset**2 for offset in offsets) - along**2, 0))
    cone = smooth_step(4 + 0.33 * along - across, -1, 1) * smooth_step(along, -1, 3) * smooth_step(along, 54, 50)
    nerve = smooth_step(across, 2.8, 1.6)
    return eye, cone * (1 - eye) * (1 - 0.6 * nerve)


def _ellipsoids(lattice: Lattice, centres_and_radii: list[tuple[tuple, tuple]]) -> np.ndarray:
    """Return the union of mirrored ellipsoids at MNI (+-x, y, z), with a soft border of about 2 mm."""
    x, y, z = lattice.axes()
    result = np.zeros(lattice.shape, np.float32)
    for centre, radii in centres_and_radii:
        offsets = (np.abs(x) - centre[0], y - centre[1], z - centre[2])
        radius = np.sqrt(sum((offset / width) ** 2 for offset, width in zip(offsets, radii, strict=True)))
        result = np.maximum(result, smooth_step((radius - 1) * np.float32(min(radii)), 1, -1))
    return result
