"""Three simulated scanners: grids, contrasts, slice thickness, artefacts and noise.

Sites, ids and FLAIR grids are those of the WMH challenge; `Scanner.coarsened` enlarges the voxels. All other numbers are ours:
they were chosen so that images look like the challenge's, and differ between sites about as much.

Reference: Kuijf et al. 2019 (WMH challenge).
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter

from pd_ddpm.data.phantom.fields import Lattice, random_field


@dataclass(frozen=True)
class Scanner:
    """A site's scanner. Signals are relative to white matter (1.0).

    Attributes:
        site: folder of the site in the challenge's layout.
        first_id: id of the site's first case.
        flair_shape: FLAIR matrix (X, Y, Z).
        flair_spacing: FLAIR voxel size in mm.
        t1_shape: T1 matrix (anterior-posterior, superior-inferior, right-left).
        t1_voxel_mm: edge of the cubic T1 voxels.
        flair_fluid: FLAIR signal of cerebrospinal fluid.
        flair_grey: FLAIR signal of grey matter.
        flair_lesion: FLAIR signal that a typical lesion adds.
        flair_fat: FLAIR signal of fat.
        flair_noise: standard deviation of the FLAIR noise in each of the two receive channels.
        flair_blur: standard deviation of the in-plane FLAIR blur, in voxels.
        bias: standard deviation of the logarithm of the receive field.
        flair_level: stored FLAIR value of white matter.
        t1_grey: T1 signal of grey matter.
        t1_noise: standard deviation of the T1 noise, as `flair_noise`.
        t1_level: stored T1 value of white matter.
    """

    site: str
    first_id: int
    flair_shape: tuple[int, int, int]
    flair_spacing: tuple[float, float, float]
    t1_shape: tuple[int, int, int]
    t1_voxel_mm: float
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

    def coarsened(self, factor: float, slice_mm: float) -> "Scanner":
        """Return this scanner with FLAIR pixels and T1 voxels enlarged by a factor, and FLAIR slices at this distance.

        Fields of view, contrast, and the noise and blur of a voxel stay. So do the differences between sites.
        """
        spacing_x, spacing_y, distance = self.flair_spacing
        size_x, size_y, slices = self.flair_shape
        return replace(
            self,
            flair_shape=(*_shrunk((size_x, size_y), factor), *_shrunk((slices,), slice_mm / distance)),
            flair_spacing=(spacing_x * factor, spacing_y * factor, slice_mm),
            t1_shape=_shrunk(self.t1_shape, factor),
            t1_voxel_mm=self.t1_voxel_mm * factor,
        )


def _shrunk(shape: tuple[int, ...], factor: float) -> tuple[int, ...]:
    """Return how many voxels of `factor` times the size cover the field of view."""
    return tuple(int(np.ceil(round(count / factor, 6))) for count in shape)


SCANNERS = (
    Scanner(
        site="Utrecht",
        first_id=0,
        flair_shape=(240, 240, 48),
        flair_spacing=(0.96, 0.96, 3.0),
        t1_shape=(212, 192, 172),
        t1_voxel_mm=1.0,
        flair_fluid=0.24,
        flair_grey=1.24,
        flair_lesion=0.62,
        flair_fat=1.25,
        flair_noise=0.048,
        flair_blur=0.45,
        bias=0.09,
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
        t1_shape=(212, 196, 176),
        t1_voxel_mm=1.0,
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
        t1_shape=(212, 190, 170),
        t1_voxel_mm=1.0,
        flair_fluid=0.28,
        flair_grey=1.20,
        flair_lesion=0.58,
        flair_fat=0.70,
        flair_noise=0.055,
        flair_blur=0.35,
        bias=0.10,
        flair_level=900,
        t1_grey=0.73,
        t1_noise=0.034,
        t1_level=1450,
    ),
)


def resample(volume: np.ndarray, lattice: Lattice, affine: np.ndarray, shape: tuple, offsets: tuple = (0.0,)) -> np.ndarray:
    """Interpolate a volume linearly on a scanner's grid, with zeros outside of the volume.

    Args:
        volume: (X, Y, Z) on `lattice`.
        lattice: grid of the volume in patient mm.
        affine: (4, 4), from voxels of the result to patient mm.
        shape: shape of the result.
        offsets: positions across the slice, in slices, whose average is the result; several give the slice a thickness.

    Returns:
        float32 volume of the given shape.
    """
    to_lattice = np.diag([*(1 / np.asarray(lattice.spacing)), 1.0])
    to_lattice[:3, 3] = -np.asarray(lattice.origin) / lattice.spacing
    result = np.zeros(shape, np.float32)
    for offset in offsets:
        voxel_to_voxel = to_lattice @ affine
        start = voxel_to_voxel[:3, 3] + voxel_to_voxel[:3, 2] * offset
        result += affine_transform(volume, voxel_to_voxel[:3, :3], start, shape, np.float32, order=1)
    return result / np.float32(len(offsets))


SLAB_OFFSETS = (-1 / 3, 0.0, 1 / 3)  # positions across a FLAIR slice, in slices


def acquire_flair(signal: np.ndarray, scanner: Scanner, random: np.random.Generator) -> np.ndarray:
    """Add blur, ghosts, receive field and noise to a FLAIR signal.

    Args:
        signal: (X, Y, Z), noise-free, on the scanner's FLAIR grid.
        scanner: the scanner.
        random: random stream.

    Returns:
        The stored image, uint16 (X, Y, Z).
    """
    signal = gaussian_filter(signal, (scanner.flair_blur, scanner.flair_blur, 0))
    if random.random() < 0.15:
        shift = int(random.uniform(0.25, 0.5) * signal.shape[1])
        signal = signal + np.float32(random.uniform(0.015, 0.04)) * np.roll(signal, shift, axis=1)
    return _receive(signal, scanner.flair_spacing, scanner.bias, scanner.flair_noise, scanner.flair_level, random)


def acquire_t1(signal: np.ndarray, scanner: Scanner, random: np.random.Generator) -> np.ndarray:
    """Add receive field and noise to a T1 signal.

    Args:
        signal: (X, Y, Z), noise-free, on the scanner's T1 grid.
        scanner: the scanner.
        random: random stream.

    Returns:
        The stored image, uint16 (X, Y, Z).
    """
    return _receive(signal, (scanner.t1_voxel_mm,) * 3, scanner.bias, scanner.t1_noise, scanner.t1_level, random)


def _receive(
    signal: np.ndarray, spacing: tuple, bias: float, noise: float, level: float, random: np.random.Generator
) -> np.ndarray:
    """Apply receive field, Rician noise and scaling, and round to uint16."""
    grid = Lattice(signal.shape, (0.0, 0.0, 0.0), spacing)
    signal = signal * np.exp(np.float32(bias) * random_field(random, grid, 75))
    deviation = np.float32(noise * random.uniform(0.85, 1.15))
    real = signal + deviation * random.standard_normal(signal.shape, dtype=np.float32)
    imaginary = deviation * random.standard_normal(signal.shape, dtype=np.float32)
    magnitude = np.sqrt(real**2 + imaginary**2)
    return np.round(magnitude * np.float32(level * random.uniform(0.85, 1.15))).astype(np.uint16)
