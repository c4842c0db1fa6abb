"""One person's head: the template's maps, warped, aged and sharpened on the working lattice."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from pd_ddpm.data.phantom.fields import Lattice, random_field, smooth_step
from pd_ddpm.data.phantom.template import TemplateMaps

# Box around head and neck in patient space: mm, RAS, origin near the anterior commissure.
HEAD_LOWER_MM, HEAD_UPPER_MM = (-86.0, -118.0, -104.0), (86.0, 94.0, 96.0)
# Heads in MNI space are larger than real ones. They must also fit the narrowest scanner's field of view (158 mm).
MEAN_SCALE = 0.925
# All other maps concern the brain. They are evaluated near it only, which takes less than half of the time.
MAPS_OF_THE_HEAD = ("hull", "skin", "eye", "orbit_fat", "air")
BRAIN_MARGIN_MM, FAR_FROM_VENTRICLES_MM = 4.0, 200.0


@dataclass(frozen=True)
class Anatomy:
    """One person's maps: tissue fractions, distances and regions.

    Attributes:
        lattice: grid of the maps in patient mm.
        age: 0 (young) to 1 (old).
        maps: name -> float32 (X, Y, Z), see `sample_anatomy`.
    """

    lattice: Lattice
    age: float
    maps: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        """Return the map of this name."""
        return self.maps[name]


def sample_anatomy(template: TemplateMaps, random: np.random.Generator, resolution_mm: float) -> Anatomy:
    """Sample one person, whose age widens ventricles and sulci.

    Args:
        template: maps of the template.
        random: random stream.
        resolution_mm: voxel size of the maps.

    Returns:
        The template's maps (see `build_template_maps`) for this person, and `fluid`, the fraction of CSF. Outside of the
        brain, maps of the brain are zero, and distances to the ventricles are large.
    """
    lattice = Lattice.from_box(HEAD_LOWER_MM, HEAD_UPPER_MM, resolution_mm)
    age = float(random.beta(2.2, 2.2))
    coordinates = _sample_warp(random, lattice)
    _enlarge_ventricles(template, random, lattice, coordinates, age)
    maps = {name: template.interpolate(name, coordinates) for name in MAPS_OF_THE_HEAD}
    near_brain = maps["hull"] < BRAIN_MARGIN_MM
    coordinates = coordinates[:, near_brain]
    for name in template.maps:
        if name not in MAPS_OF_THE_HEAD:
            outside = FAR_FROM_VENTRICLES_MM if name == "ventricle" else 0
            maps[name] = np.full(lattice.shape, outside, np.float32)
            maps[name][near_brain] = template.interpolate(name, coordinates)
    _sharpen_tissues(random, lattice, maps, age)
    return Anatomy(lattice, age, maps)


def _sample_warp(random: np.random.Generator, lattice: Lattice) -> np.ndarray:
    """Return MNI coordinates (3, X, Y, Z) in mm of each voxel: an affine map and smooth deformations on two scales."""
    scale = MEAN_SCALE * (1 + 0.03 * random.standard_normal() + 0.015 * random.standard_normal(3))
    # A wider head would not fit the field of view of the narrowest scanner.
    scale[0] = min(scale[0], 0.95)
    angles = np.deg2rad(3) * random.standard_normal(3)
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    rotation = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]) @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rotation = rotation @ np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    matrix = (rotation / scale[:, None]).astype(np.float32)
    axes = lattice.axes()
    coordinates = np.empty((3, *lattice.shape), np.float32)
    for axis in range(3):
        coordinates[axis] = sum(matrix[axis, column] * axes[column] for column in range(3))
        coordinates[axis] += 2.2 * random_field(random, lattice, 45)
        coordinates[axis] += 0.8 * random_field(random, lattice, 17)
    return coordinates


def _enlarge_ventricles(
    template: TemplateMaps, random: np.random.Generator, lattice: Lattice, coordinates: np.ndarray, age: float
) -> None:
    """Move the coordinates near the lateral ventricles towards them, in place, by up to 6 mm."""
    distance = template.interpolate("ventricle", coordinates)
    strength = np.float32(0.8 + 5.2 * age) * np.clip(1 + 0.25 * random_field(random, lattice, 30), 0.3, 1.6)
    # Voxels inside the ventricle hardly move, so that none is pulled past the far wall.
    shift = np.clip(np.minimum(strength * np.exp(-np.maximum(distance, 0) / 14), distance + 1), 0, None)
    direction = np.gradient(gaussian_filter(distance, 2.0 / lattice.spacing[0]))
    length = np.sqrt(sum(component**2 for component in direction)) + np.float32(1e-3)
    for axis in range(3):
        coordinates[axis] -= shift * direction[axis] / length


def _sharpen_tissues(random: np.random.Generator, lattice: Lattice, maps: dict, age: float) -> None:
    """Turn averaged probabilities into one brain's sharp tissues and sulci, in place, and add the map `fluid`."""
    inside = smooth_step(maps["hull"], 2.0, 0.5)
    fluid = np.clip(maps["brain"] - maps["grey"] - maps["white"], 0, 1)
    outer = np.clip(inside - maps["brain"], 0, 1)
    # The average of 152 brains has no visible sulci. A random field places them, and age sets their width.
    sulci = np.exp((0.4 + 1.5 * age) + 0.8 * random_field(random, lattice, 4) + 0.5 * random_field(random, lattice, 11))
    folds = np.exp(0.8 * random_field(random, lattice, 3.5))
    power = np.float32(2.5)
    grey = np.maximum(maps["grey"], 0) ** power * folds
    white = np.maximum(maps["white"], 0) ** power
    fluid = fluid**power * sulci * np.where(maps["ventricle"] < 2, np.float32(4), np.float32(1))
    total = grey + white + fluid + np.float32(1e-4)
    parenchyma = np.clip(maps["brain"], 0, 1)
    maps["grey"] = grey / total * parenchyma
    maps["white"] = white / total * parenchyma
    maps["fluid"] = (fluid + np.float32(1e-4)) / total * parenchyma + outer
    # The template's cerebellum is smooth. Folia are added parallel to its surface, 4.4 mm apart.
    phase = maps["hull"] * np.float32(2 * np.pi / 4.4) + 2.2 * random_field(random, lattice, 9)
    fissures = np.maximum(np.cos(phase), 0) ** 2 * maps["cerebellum"] * maps["grey"]
    fissures *= np.clip(0.28 + 0.14 * random_field(random, lattice, 7), 0, 0.6)
    maps["grey"] -= fissures
    maps["fluid"] += fissures
