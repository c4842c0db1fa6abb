"""The three scanners: tissue contrast of FLAIR and T1, their grids, artefacts, and the motion between the two scans."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter

from pd_ddpm.phantom.anatomy import Anatomy
from pd_ddpm.phantom.fields import Lattice, random_field, smooth_step
from pd_ddpm.phantom.lesions import Lesions

# From nibabel's RAS millimetres to the LPS millimetres of ITK and elastix, and back.
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Scanner:
    """A site: FLAIR matrix and voxel size (mm), T1 matrix (A-P, S-I, R-L; 1 mm), contrasts relative to white matter."""

    site: str
    first_id: int
    flair_shape: tuple[int, int, int]
    flair_spacing: tuple[float, float, float]
    t1_shape: tuple[int, int, int]
    flair_fluid: float
    flair_grey: float
    flair_lesion: float
    flair_fat: float
    flair_noise: float
    flair_blur: float
    bias: float
    flair_level: float
    t1_grey: float
    t1_noise: float
    t1_level: float


SCANNERS = (
    Scanner(
        site="Utrecht",
        first_id=0,
        flair_shape=(240, 240, 48),
        flair_spacing=(0.96, 0.96, 3.0),
        t1_shape=(212, 192, 164),
        flair_fluid=0.24,
        flair_grey=1.24,
        flair_lesion=0.62,
        flair_fat=1.25,
        flair_noise=0.048,
        flair_blur=0.45,
        bias=0.10,
        flair_level=420,
        t1_grey=0.71,
        t1_noise=0.028,
        t1_level=610,
    ),
    Scanner(
        site="Singapore",
        first_id=50,
        flair_shape=(232, 256, 48),
        flair_spacing=(1.0, 1.0, 3.0),
        t1_shape=(212, 196, 166),
        flair_fluid=0.20,
        flair_grey=1.28,
        flair_lesion=0.70,
        flair_fat=1.45,
        flair_noise=0.045,
        flair_blur=0.40,
        bias=0.07,
        flair_level=260,
        t1_grey=0.68,
        t1_noise=0.024,
        t1_level=380,
    ),
    Scanner(
        site="Amsterdam/GE3T",
        first_id=100,
        flair_shape=(132, 256, 48),
        flair_spacing=(1.2, 0.98, 3.0),
        t1_shape=(212, 190, 162),
        flair_fluid=0.28,
        flair_grey=1.20,
        flair_lesion=0.58,
        flair_fat=0.70,
        flair_noise=0.055,
        flair_blur=0.35,
        bias=0.12,
        flair_level=900,
        t1_grey=0.73,
        t1_noise=0.034,
        t1_level=1450,
    ),
)


def compose_flair(anatomy: Anatomy, lesions: Lesions, scanner: Scanner, random: np.random.Generator) -> np.ndarray:
    """Noise-free FLAIR signal (white matter = 1), float32 on the anatomy's lattice."""
    lattice = anatomy.lattice
    white, grey, fluid, distance = (anatomy[name] for name in ("white", "grey", "fluid", "ventricle"))
    fluid_level = scanner.flair_fluid + random.normal(0, 0.02)
    grey_level = scanner.flair_grey + random.normal(0, 0.02)
    lesion_level = scanner.flair_lesion + random.normal(0, 0.04)
    signal = white * (1 + 0.025 * random_field(random, lattice, 14))
    signal += grey * (grey_level + 0.045 * random_field(random, lattice, 9))
    # Iron darkens the pallidum, and the slow T1 of deep grey matter is nearer to white matter's than the cortex's.
    signal -= (0.10 * anatomy["deep_grey"] + 0.10 * anatomy["cerebellum"]) * grey
    signal -= 0.25 * np.clip(anatomy["texture"], -0.15, 0.15) * (white + grey)
    signal += fluid * (fluid_level + _flow(anatomy, random))
    parenchyma = white + grey
    tissue = parenchyma * (1 - lesions.infarct)
    signal += random.uniform(0.05, 0.13) * anatomy["tract"] * white
    signal += random.uniform(0.08, 0.3) * np.exp(-(((distance - 0.3) / 1.0) ** 2)) * parenchyma
    signal += (grey_level - fluid_level) * 0.8 * anatomy["septum"] * fluid * (distance < 0.5)
    signal += random.uniform(0.3, 0.7) * anatomy["choroid"] * fluid
    signal += lesion_level * (lesions.contrast + random.uniform(0.14, 0.30) * (lesions.halo * (1 - lesions.contrast))) * tissue
    scar = lesions.infarct * (1 - lesions.cavity)
    signal += lesions.infarct * (1.0 - signal) + scar * lesion_level * 0.9 + lesions.cavity * (fluid_level - 1.0)
    signal -= 0.15 * lesions.spaces * tissue
    return signal * _within(anatomy) + _shell(
        anatomy, random, fat=scanner.flair_fat, muscle=0.55, marrow=0.45, fluid=fluid_level
    )


def compose_t1(anatomy: Anatomy, lesions: Lesions, scanner: Scanner, random: np.random.Generator) -> np.ndarray:
    """Noise-free T1 signal (white matter = 1), float32 on the anatomy's lattice."""
    lattice = anatomy.lattice
    white, grey, fluid = (anatomy[name] for name in ("white", "grey", "fluid"))
    fluid_level = np.float32(0.27 + random.normal(0, 0.015))
    grey_level = scanner.t1_grey + random.normal(0, 0.012)
    signal = white + grey * (grey_level + 0.015 * random_field(random, lattice, 9)) + fluid * fluid_level
    signal += 0.9 * anatomy["texture"] * (white + grey)
    signal += 0.25 * anatomy["choroid"] * fluid + 0.35 * anatomy["septum"] * fluid * (anatomy["ventricle"] < 0.5)
    tissue = (white + grey) * (1 - lesions.infarct)
    signal -= (random.uniform(0.18, 0.27) * lesions.contrast + 0.03 * lesions.halo) * tissue
    signal += lesions.infarct * (0.68 - signal) * (1 - lesions.cavity)
    signal += np.maximum(lesions.cavity, 0.8 * lesions.spaces) * (fluid_level - signal)
    return signal * _within(anatomy) + _shell(anatomy, random, fat=1.35, muscle=0.5, marrow=0.7, fluid=fluid_level)


def _within(anatomy: Anatomy) -> np.ndarray:
    """Weight of what lies inside the closed outline of the brain."""
    return smooth_step(anatomy["hull"], 2.2, 1.0)


def _flow(anatomy: Anatomy, random: np.random.Generator) -> np.ndarray:
    """Signal of fluid that moved during inversion, strongest in the midline ventricles and around the brain stem."""
    x, y, z = anatomy.lattice.axes()
    near = np.exp(-((x / 7) ** 2)) * smooth_step(z, 22, 6) * smooth_step(y, -60, -40)
    pulsation = np.clip(random_field(random, anatomy.lattice, 5) - 0.6, 0, 2)
    return np.float32(random.uniform(0.1, 0.45)) * pulsation * (near + 0.12)


def _shell(anatomy: Anatomy, random: np.random.Generator, fat: float, muscle: float, marrow: float, fluid: float) -> np.ndarray:
    """Signal of everything outside the brain: skull and marrow, scalp, orbits, sinuses, muscles of face and neck."""
    lattice = anatomy.lattice
    hull, depth = anatomy["hull"], -anatomy["skin"]
    _, y, z = lattice.axes()
    fine, coarse = random_field(random, lattice, 4), random_field(random, lattice, 12)
    base = smooth_step(z + 0.35 * y, -28, -52)
    bone = 6.0 + 0.8 * random_field(random, lattice, 24)
    diploe = np.exp(-(((hull - 1.8 - 0.5 * bone) / (0.22 * bone)) ** 2)) * np.clip(0.7 + 0.3 * fine, 0, 1.2)
    skull = 0.07 + marrow * diploe * (1 - 0.5 * base)
    # Thin sheets of fat between the muscles: where a random field changes sign.
    middle = random_field(random, lattice, 7)
    sheets = 0.55 * np.exp(-((coarse / 0.14) ** 2)) + 0.4 * np.exp(-((middle / 0.12) ** 2))
    sheets += 0.8 * smooth_step(coarse + 0.4 * middle, 1.0, 1.8)
    soft = muscle * (1 + 0.13 * fine) + (0.75 * fat - muscle) * np.clip(sheets, 0, 1)
    soft += (0.85 * fat - soft) * anatomy["orbit_fat"] + (0.9 * fluid - soft) * anatomy["eye"]
    mucosa = np.clip(0.25 + 0.35 * coarse, 0, 0.7)
    soft += (muscle * mucosa - soft) * anatomy["air"]
    outside_bone = smooth_step(hull - 1.8 - bone, -0.6, 0.6)
    signal = skull * (1 - outside_bone) + soft * outside_bone
    scalp = 4.2 + 0.9 * random_field(random, lattice, 20) + 3 * base * (1 - anatomy["eye"])
    covered = smooth_step(scalp - depth, -0.7, 0.7)
    signal = signal * (1 - covered) + fat * (0.88 + 0.1 * fine) * covered
    meninges = fluid * (1 - _within(anatomy)) * smooth_step(hull, 2.6, 1.6)
    return np.maximum(signal * smooth_step(hull, 1.4, 2.6), meninges) * smooth_step(depth, -0.6, 0.6)


def flair_geometry(scanner: Scanner, random: np.random.Generator) -> np.ndarray:
    """Affine (4, 4) from FLAIR voxels to patient mm (RAS): axial slices (axes L, P, S), tilted as a technician would."""
    pitch, roll, yaw = np.deg2rad([random.normal(-9, 4), random.normal(0, 2.5), random.normal(0, 2.5)])
    centre = np.array([0.0, -13.0, 11.0]) + random.normal(0, [1.0, 3.0, 2.0])
    directions = euler_matrix(pitch, roll, yaw) @ np.diag([-1.0, -1.0, 1.0])
    return _centred_affine(directions, scanner.flair_spacing, scanner.flair_shape, centre)


def t1_geometry(scanner: Scanner, random: np.random.Generator) -> np.ndarray:
    """Affine (4, 4) from T1 voxels to patient mm (RAS): sagittal 1 mm slices (axes P, I, R), almost straight."""
    directions = euler_matrix(*np.deg2rad(random.normal(0, 1.5, 3)))
    directions = directions @ np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    centre = np.array([0.0, -13.0, -3.0]) + random.normal(0, 1.5, 3)
    return _centred_affine(directions, (1.0, 1.0, 1.0), scanner.t1_shape, centre)


def _centred_affine(directions: np.ndarray, spacing: tuple, shape: tuple, centre: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = directions @ np.diag(spacing)
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine


def euler_matrix(angle_x: float, angle_y: float, angle_z: float) -> np.ndarray:
    """Rotation (3, 3) from angles in radians in ITK's default order: about y first, then x, then z."""
    (cx, cy, cz), (sx, sy, sz) = np.cos([angle_x, angle_y, angle_z]), np.sin([angle_x, angle_y, angle_z])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


@dataclass(frozen=True)
class RigidMotion:
    """Rotation by `angles` (radians, about x, y, z) around `centre`, then `translation`; mm, LPS as in ITK."""

    angles: tuple[float, float, float]
    translation: tuple[float, float, float]
    centre: tuple[float, float, float]

    def matrix(self) -> np.ndarray:
        """The same motion as a matrix (4, 4) on RAS mm."""
        motion = np.eye(4)
        motion[:3, :3] = euler_matrix(*self.angles)
        motion[:3, 3] = np.asarray(self.centre) + self.translation - motion[:3, :3] @ self.centre
        return LPS @ motion @ LPS


def draw_motion(flair_affine: np.ndarray, shape: tuple, random: np.random.Generator) -> tuple[RigidMotion, RigidMotion]:
    """Motion of the patient from the FLAIR to the T1 scan (1-2 degrees, 1-3 mm), and what a registration finds of it.

    The second differs from the first by about 0.3 mm, an error that a good registration leaves.
    """
    centre = (LPS @ flair_affine @ np.array([*((np.asarray(shape) - 1) / 2), 1.0]))[:3]
    angles = _of_length(random, np.deg2rad(random.uniform(1, 2)))
    translation = _of_length(random, random.uniform(1, 3))
    found_angles = angles + np.deg2rad(0.07) * random.standard_normal(3)
    found_translation = translation + 0.14 * random.standard_normal(3)
    return (
        RigidMotion(tuple(angles), tuple(translation), tuple(centre)),
        RigidMotion(tuple(found_angles), tuple(found_translation), tuple(centre)),
    )


def _of_length(random: np.random.Generator, length: float) -> np.ndarray:
    vector = random.standard_normal(3)
    return vector / np.linalg.norm(vector) * length


def resample(volume: np.ndarray, lattice: Lattice, affine: np.ndarray, shape: tuple, offsets: tuple = (0.0,)) -> np.ndarray:
    """Linear interpolation of a patient-space volume on the voxels of `affine` (voxel to patient mm), zero outside.

    `offsets` (in slices) are averaged: with more than one the slice gets a thickness. Returns float32 `shape`.
    """
    to_lattice = np.diag([*(1 / np.asarray(lattice.spacing)), 1.0])
    to_lattice[:3, 3] = -np.asarray(lattice.origin) / lattice.spacing
    result = np.zeros(shape, np.float32)
    for offset in offsets:
        total = to_lattice @ affine
        start = total[:3, 3] + total[:3, 2] * offset
        result += affine_transform(volume, total[:3, :3], start, shape, np.float32, order=1)
    return result / np.float32(len(offsets))


SLAB = (-1 / 3, 0.0, 1 / 3)


def acquire_flair(signal: np.ndarray, scanner: Scanner, random: np.random.Generator) -> np.ndarray:
    """Turn the noise-free signal on the scanner's grid into the stored image (uint16): blur, ghosts, bias, noise."""
    signal = gaussian_filter(signal, (scanner.flair_blur, scanner.flair_blur, 0))
    if random.random() < 0.15:
        shift = int(random.uniform(0.25, 0.5) * signal.shape[1])
        signal = signal + np.float32(random.uniform(0.015, 0.04)) * np.roll(signal, shift, axis=1)
    return _stored(signal, scanner.flair_spacing, scanner.bias, scanner.flair_noise, scanner.flair_level, random)


def acquire_t1(signal: np.ndarray, scanner: Scanner, random: np.random.Generator) -> np.ndarray:
    """Turn the noise-free signal on the T1 grid into the stored image (uint16): bias and noise."""
    return _stored(signal, (1.0, 1.0, 1.0), scanner.bias, scanner.t1_noise, scanner.t1_level, random)


def _stored(
    signal: np.ndarray, spacing: tuple, bias: float, noise: float, level: float, random: np.random.Generator
) -> np.ndarray:
    """Receive field, Rician noise and scaling; what both sequences have in common."""
    grid = Lattice(signal.shape, (0.0, 0.0, 0.0), spacing)
    signal = signal * np.exp(np.float32(bias) * random_field(random, grid, 75))
    deviation = np.float32(noise * random.uniform(0.85, 1.15))
    real = signal + deviation * random.standard_normal(signal.shape, dtype=np.float32)
    imaginary = deviation * random.standard_normal(signal.shape, dtype=np.float32)
    magnitude = np.sqrt(real**2 + imaginary**2)
    return np.round(magnitude * np.float32(level * random.uniform(0.85, 1.15))).astype(np.uint16)
