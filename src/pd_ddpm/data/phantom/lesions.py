"""White matter hyperintensities, infarcts and perivascular spaces of one person.

Sizes and numbers of lesions are ours: they give loads in the range of the WMH challenge's cases, and lesion counts too if the
smallest lesion has the size of a few of the challenge's voxels. With a larger one, cases have fewer and larger lesions.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, label

from pd_ddpm.data.phantom.anatomy import Anatomy
from pd_ddpm.data.phantom.fields import Lattice, random_field, sigmoid, smooth_step

# Lesion load of a case: median, standard deviation of its natural logarithm, limits.
MEDIAN_LOAD_ML, LOG_LOAD_SD, LOAD_RANGE_ML = 15.0, 0.9, (2.5, 70.0)


@dataclass(frozen=True)
class Lesions:
    """Fractions of each voxel in [0, 1], float32 (X, Y, Z) on the anatomy's lattice.

    Attributes:
        white_matter: white matter hyperintensities.
        contrast: `white_matter` times the lesion's brightness (1 is typical).
        halo: faintly changed tissue around the lesions.
        infarct: other pathology.
        cavity: the part of `infarct` that is filled with fluid.
        spaces: enlarged perivascular spaces.
    """

    white_matter: np.ndarray
    contrast: np.ndarray
    halo: np.ndarray
    infarct: np.ndarray
    cavity: np.ndarray
    spaces: np.ndarray

    def visible(self) -> np.ndarray:
        """Return the lesion fraction that raters see, which is lower in faint lesions."""
        return 0.55 * self.white_matter + 0.45 * self.contrast


def sample_lesions(anatomy: Anatomy, load_ml: float, smallest_ml: float, random: np.random.Generator) -> Lesions:
    """Sample lesions: caps and bands at the ventricles, the rest in the deep white matter.

    Args:
        anatomy: the person.
        load_ml: approximate total volume of white matter hyperintensities.
        smallest_ml: least volume of a lesion. Smaller ones are left out, and outlines have no finer details.
        random: random stream.
    """
    periventricular_share = float(random.beta(6, 2.4))
    periventricular, halo = _periventricular_lesions(anatomy, periventricular_share * load_ml, smallest_ml, random)
    deep_volumes = _deep_volumes((1 - periventricular_share) * load_ml, smallest_ml, random)
    white_matter, contrast = _add_deep_lesions(anatomy, deep_volumes, periventricular, random)
    infarct, cavity = _infarcts(anatomy, random)
    spaces = _perivascular_spaces(anatomy, random)
    return Lesions(white_matter * (1 - infarct), contrast * (1 - infarct), halo * (1 - infarct), infarct, cavity, spaces)


def _periventricular_lesions(
    anatomy: Anatomy, volume_ml: float, smallest_ml: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return lesion and halo fractions: a noisy distance to the ventricles, with the threshold that gives the volume."""
    lattice, distance = anatomy.lattice, anatomy["ventricle"]
    reach = np.float32(3.8 + 0.42 * np.sqrt(volume_ml))
    x = lattice.axes()[0]
    smallest_diameter = (6e3 * smallest_ml / np.pi) ** (1 / 3)
    score = 0.75 * random_field(random, lattice, 11) + 0.6 * random_field(random, lattice, max(5.5, smallest_diameter))
    score += 0.35 * random_field(random, lattice, max(3, 0.8 * smallest_diameter))
    score += random.normal(1.7, 0.35) * anatomy["frontal_cap"] + random.normal(1.5, 0.35) * anatomy["occipital_cap"]
    score += random.normal(0.8, 0.4) * anatomy["band"] + random.normal(0, 0.4) * x / 60
    # Without the midline term the caps of both sides would meet in the corpus callosum.
    score -= 2.6 * anatomy["midline"] + 1.2 * anatomy["tract"] + 1.5 * smooth_step(anatomy["deep_grey"], 0.1, 0.6)
    score = reach * score - np.maximum(distance, 0)
    allowed = anatomy["white"] * anatomy["cerebrum"] * smooth_step(anatomy["cortex"], 2.0, 4.5)
    allowed *= smooth_step(distance, -1.0, 0.0) * smooth_step(distance, 45, 30)
    border = np.float32(random.uniform(0.5, 0.9) + 0.14 * np.sqrt(volume_ml))
    threshold = _threshold_for_volume(score, allowed, border, volume_ml / np.prod(lattice.spacing) * 1e3)
    lesion = _without_islands(sigmoid((score - threshold) / border) * allowed, lattice, smallest_ml)
    halo = sigmoid((score - threshold + 3.2) / 1.8) * allowed
    return lesion, halo


def _without_islands(lesion: np.ndarray, lattice: Lattice, smallest_ml: float) -> np.ndarray:
    """Return the lesion fractions without islands below the smallest volume; these stay as a faint halo."""
    islands, count = label(lesion > 0.5, np.ones((3, 3, 3)))
    volumes_ml = np.bincount(islands.ravel(), minlength=count + 1) * np.prod(lattice.spacing) / 1e3
    is_large = volumes_ml >= smallest_ml
    is_large[0] = False
    return lesion * smooth_step(distance_transform_edt(~is_large[islands], sampling=lattice.spacing), 6, 3)


def _threshold_for_volume(score: np.ndarray, allowed: np.ndarray, border: float, voxels: float) -> float:
    """Return the threshold at which the soft lesion fills this many voxels, by bisection."""
    candidates = allowed > 0.05
    score, allowed = score[candidates], allowed[candidates]
    low, high = float(score.min()), float(score.max())
    for _ in range(25):
        middle = 0.5 * (low + high)
        if float((sigmoid((score - middle) / border) * allowed).sum(dtype=np.float64)) > voxels:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def _add_deep_lesions(
    anatomy: Anatomy, volumes: np.ndarray, periventricular: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Add lesions away from the ventricles; return the fraction and the brightness-weighted fraction of all lesions."""
    lattice, distance = anatomy.lattice, anatomy["ventricle"]
    white_matter = anatomy["white"] * smooth_step(anatomy["cortex"], 1.5, 4.0) * anatomy["cerebrum"]
    upper_half = 0.12 + 0.88 * smooth_step(lattice.axes()[2], -2, 14)
    weight = white_matter * upper_half * (distance > 4) * np.exp(-np.maximum(distance, 0) / 25)
    weight *= (1 - anatomy["midline"]) * (1 - 0.7 * anatomy["tract"])
    weight *= np.clip(1 + 0.6 * random_field(random, lattice, 30), 0.05, None)
    pons = anatomy["brainstem"] * anatomy["white"] * (random.random() < 0.3) * 0.4
    weight = np.where(white_matter > 0.6, weight, 0) + np.where(pons > 0.2, pons, 0) * 0.15
    positions = sample_positions(weight, len(volumes), random)
    lesion, contrast = periventricular.copy(), periventricular * np.float32(random.uniform(0.88, 1.08))
    allowed = np.clip(white_matter + pons * 2, 0, 1)
    for volume, position in zip(volumes, positions, strict=True):
        radius = (volume * 3 / (4 * np.pi)) ** (1 / 3)
        box, depth = rough_ellipsoid(lattice, position, radius, random)
        blob = sigmoid(depth / 0.55) * allowed[box]
        # Raters disagree on faint lesions.
        brightness = np.float32(random.uniform(0.6, 1.08))
        lesion[box] = np.maximum(lesion[box], blob)
        contrast[box] = np.maximum(contrast[box], blob * brightness)
    return lesion, contrast


def _deep_volumes(total_ml: float, smallest_ml: float, random: np.random.Generator) -> np.ndarray:
    """Sample 4 to 60 lesion volumes in mm3 that add up to about the total: the smallest plus a log-normal excess."""
    excess = 45 * max(total_ml / 3, 0.8) ** 0.5 * np.exp(1.15 * random.standard_normal(60))
    volumes = np.minimum(smallest_ml * 1e3 + excess, 3000)
    count = int(np.clip(np.searchsorted(np.cumsum(volumes), total_ml * 1e3) + 1, 4, len(volumes)))
    return volumes[:count]


def sample_positions(weight: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Sample voxel indices (count, 3) with probability proportional to `weight`."""
    cumulative = np.cumsum(weight.ravel(), dtype=np.float64)
    indices = np.searchsorted(cumulative, random.random(count) * cumulative[-1], side="right")
    return np.stack(np.unravel_index(np.minimum(indices, weight.size - 1), weight.shape), axis=1)


def rough_ellipsoid(
    lattice: Lattice, voxel: np.ndarray, radius: float, random: np.random.Generator, roughness: float = 0.28
) -> tuple[tuple[slice, ...], np.ndarray]:
    """Sample a rough ellipsoid around a voxel.

    Args:
        lattice: grid of the maps.
        voxel: (3,), index of its centre.
        radius: mean radius in mm.
        random: random stream.
        roughness: standard deviation of its surface, as a fraction of the radius.

    Returns:
        Box of the ellipsoid in the lattice, and the depth below its surface in mm, float32 in the shape of the box.
    """
    axes_ratio = np.exp(0.25 * random.standard_normal(3))
    semi_axes = radius * axes_ratio / np.prod(axes_ratio) ** (1 / 3)
    angles = random.uniform(0, np.pi, 2)
    jitter = random.uniform(-0.5, 0.5, 3)
    reach = np.ceil((1.5 * semi_axes.max() + 2) / np.asarray(lattice.spacing)).astype(int)
    low = np.maximum(voxel - reach, 0)
    high = np.minimum(voxel + reach + 1, lattice.shape)
    box = tuple(slice(start, stop) for start, stop in zip(low, high, strict=True))
    x, y, z = np.meshgrid(
        *[(np.arange(low[axis], high[axis]) - voxel[axis] - jitter[axis]) * lattice.spacing[axis] for axis in range(3)],
        indexing="ij",
    )
    x, y = x * np.cos(angles[0]) - y * np.sin(angles[0]), x * np.sin(angles[0]) + y * np.cos(angles[0])
    y, z = y * np.cos(angles[1]) - z * np.sin(angles[1]), y * np.sin(angles[1]) + z * np.cos(angles[1])
    depth = 1 - np.sqrt((x / semi_axes[0]) ** 2 + (y / semi_axes[1]) ** 2 + (z / semi_axes[2]) ** 2)
    local = Lattice(depth.shape, (0.0, 0.0, 0.0), lattice.spacing)
    rough = random_field(random, local, max(0.7 * radius, 1.5))
    return box, (depth * radius + roughness * radius * rough).astype(np.float32)


def _infarcts(anatomy: Anatomy, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return infarct and cavity fractions: about a third of the people have cortical or lacunar infarcts."""
    lattice = anatomy.lattice
    infarct, cavity = np.zeros(lattice.shape, np.float32), np.zeros(lattice.shape, np.float32)
    kind = random.random()
    if kind > 0.36:
        return infarct, cavity
    parenchyma = np.clip(anatomy["grey"] + anatomy["white"], 0, 1)
    z = lattice.axes()[2]
    if kind < 0.19:
        near_surface = (anatomy["hull"] < -4) & (anatomy["hull"] > -10) & (z > -20)
        weight = anatomy["grey"] * anatomy["cerebrum"] * near_surface * (1 - anatomy["midline"])
        radii = [float(np.clip(12 * np.exp(0.35 * random.standard_normal()), 6, 20))]
    else:
        weight = (anatomy["deep_grey"] + 0.3 * anatomy["tract"]) * parenchyma * (anatomy["ventricle"] > 4)
        radii = np.clip(4.5 * np.exp(0.25 * random.standard_normal(random.integers(1, 4))), 3.0, 8).tolist()
    for radius, position in zip(radii, sample_positions(weight, len(radii), random), strict=True):
        box, depth = rough_ellipsoid(lattice, position, radius, random, roughness=0.45)
        infarct[box] = np.maximum(infarct[box], sigmoid(depth / 0.6) * parenchyma[box])
        # The centre of an old infarct is filled with fluid; its border is a bright scar.
        cavity_share = random.uniform(0.0, 1.0) if kind < 0.19 else random.uniform(0.7, 1.0)
        cavity[box] = np.maximum(cavity[box], sigmoid((depth - 0.3 * radius) / 0.6) * cavity_share * parenchyma[box])
    return infarct, cavity


def _perivascular_spaces(anatomy: Anatomy, random: np.random.Generator) -> np.ndarray:
    """Return fractions of about 25 small fluid-filled spaces, most of them in the basal ganglia."""
    spaces = np.zeros(anatomy.lattice.shape, np.float32)
    weight = anatomy["deep_grey"] + 0.06 * anatomy["white"] * (anatomy["cortex"] > 3)
    for position in sample_positions(weight, int(random.poisson(25)), random):
        box, depth = rough_ellipsoid(anatomy.lattice, position, float(random.uniform(0.6, 1.2)), random)
        spaces[box] = np.maximum(spaces[box], sigmoid(depth / 0.5))
    return spaces
