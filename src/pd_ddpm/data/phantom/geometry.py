"""Position of the scans: oblique grids, motion between FLAIR and T1, and the registration's elastix file."""

from dataclasses import dataclass

import nibabel as nib
import numpy as np

from pd_ddpm.data.phantom.acquisition import Scanner

# Converts between nibabel's RAS mm and the LPS mm of ITK and elastix; it is its own inverse.
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def flair_geometry(scanner: Scanner, random: np.random.Generator) -> np.ndarray:
    """Sample the affine (4, 4) from FLAIR voxels to patient mm (RAS): tilted axial slices (axes L, P, S).

    A NIfTI header stores it exactly, as quaternion and as matrix.
    """
    pitch, roll, yaw = np.deg2rad([random.normal(-9, 4), random.normal(0, 2.5), random.normal(0, 2.5)])
    centre = np.array([0.0, -13.0, 11.0]) + random.normal(0, [1.0, 3.0, 2.0])
    directions = euler_matrix(pitch, roll, yaw) @ np.diag([-1.0, -1.0, 1.0])
    # The axes L, P, S are half a turn from RAS. There, the header's quaternion in float32 can be off by 0.3 mm.
    header = nib.Nifti1Header()
    header.set_qform(_centred_affine(directions, scanner.flair_spacing, scanner.flair_shape, np.zeros(3)), code=1)
    return _centred_affine(header.get_qform()[:3, :3], (1.0, 1.0, 1.0), scanner.flair_shape, centre)


def t1_geometry(scanner: Scanner, random: np.random.Generator) -> np.ndarray:
    """Sample the affine (4, 4) from T1 voxels to patient mm (RAS): nearly straight sagittal slices (axes P, I, R)."""
    directions = euler_matrix(*np.deg2rad(random.normal(0, 1.5, 3)))
    directions = directions @ np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    centre = np.array([0.0, -13.0, -3.0]) + random.normal(0, 1.5, 3)
    return _centred_affine(directions, (scanner.t1_voxel_mm,) * 3, scanner.t1_shape, centre)


def _centred_affine(directions: np.ndarray, spacing: tuple, shape: tuple, centre: np.ndarray) -> np.ndarray:
    """Return the affine (4, 4) of a grid with these axis directions, whose centre lies at `centre` (mm)."""
    affine = np.eye(4)
    affine[:3, :3] = directions @ np.diag(spacing)
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine


def euler_matrix(angle_x: float, angle_y: float, angle_z: float) -> np.ndarray:
    """Return a rotation matrix in ITK's default order: about y first, then x, then z.

    Args:
        angle_x: radians.
        angle_y: radians.
        angle_z: radians.

    Returns:
        (3, 3).
    """
    (cx, cy, cz), (sx, sy, sz) = np.cos([angle_x, angle_y, angle_z]), np.sin([angle_x, angle_y, angle_z])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


@dataclass(frozen=True)
class RigidMotion:
    """A rotation followed by a translation, in LPS mm as in ITK.

    Attributes:
        angles: radians about x, y and z.
        translation: mm.
        centre: centre of the rotation, in mm.
    """

    angles: tuple[float, float, float]
    translation: tuple[float, float, float]
    centre: tuple[float, float, float]

    def matrix(self) -> np.ndarray:
        """Return the motion as a matrix (4, 4) on RAS mm."""
        motion = np.eye(4)
        motion[:3, :3] = euler_matrix(*self.angles)
        motion[:3, 3] = np.asarray(self.centre) + self.translation - motion[:3, :3] @ self.centre
        return LPS @ motion @ LPS


def sample_motion(flair_affine: np.ndarray, shape: tuple, random: np.random.Generator) -> tuple[RigidMotion, RigidMotion]:
    """Sample the patient's motion between FLAIR and T1 scan, and its estimate by a registration.

    The motion is a rotation of 1 to 2 degrees and a translation of 1 to 3 mm. The estimate is off by about 0.3 mm, as after
    a good registration.

    Args:
        flair_affine: (4, 4), from FLAIR voxels to scanner mm (RAS).
        shape: FLAIR matrix.
        random: random stream.

    Returns:
        The true motion and the estimated one, from FLAIR to T1 points.
    """
    centre = (LPS @ flair_affine @ np.array([*((np.asarray(shape) - 1) / 2), 1.0]))[:3]
    angles = _sample_vector(random, np.deg2rad(random.uniform(1, 2)))
    translation = _sample_vector(random, random.uniform(1, 3))
    estimated_angles = angles + np.deg2rad(0.07) * random.standard_normal(3)
    estimated_translation = translation + 0.14 * random.standard_normal(3)
    return (
        RigidMotion(tuple(angles), tuple(translation), tuple(centre)),
        RigidMotion(tuple(estimated_angles), tuple(estimated_translation), tuple(centre)),
    )


def _sample_vector(random: np.random.Generator, length: float) -> np.ndarray:
    """Return a vector of this length in a random direction."""
    vector = random.standard_normal(3)
    return vector / np.linalg.norm(vector) * length


def elastix_transform(motion: RigidMotion, shape: tuple, flair_affine: np.ndarray) -> str:
    """Return the text of an elastix EulerTransform file, which maps FLAIR (fixed) to T1 (moving) points in LPS mm.

    Args:
        motion: the transform.
        shape: FLAIR matrix.
        flair_affine: (4, 4), from FLAIR voxels to scanner mm (RAS).
    """
    to_lps = LPS @ flair_affine
    spacing = np.linalg.norm(to_lps[:3, :3], axis=0)
    # elastix lists the direction matrix column by column.
    direction = (to_lps[:3, :3] / spacing).T.ravel()

    def numbers(values, digits: int) -> str:
        return " ".join(f"{value:.{digits}f}" for value in values)

    return f"""\
(Transform "EulerTransform")
(NumberOfParameters 6)
(TransformParameters {numbers([*motion.angles, *motion.translation], 6)})
(InitialTransformParametersFileName "NoInitialTransform")
(HowToCombineTransforms "Compose")

// Image specific
(FixedImageDimension 3)
(MovingImageDimension 3)
(FixedInternalImagePixelType "float")
(MovingInternalImagePixelType "float")
(Size {" ".join(map(str, shape))})
(Index 0 0 0)
(Spacing {numbers(spacing, 10)})
(Origin {numbers(to_lps[:3, 3], 10)})
(Direction {numbers(direction, 10)})
(UseDirectionCosines "true")

// EulerTransform specific
(CenterOfRotationPoint {numbers(motion.centre, 10)})
(ComputeZYX "false")

// ResampleInterpolator specific
(ResampleInterpolator "FinalBSplineInterpolator")
(FinalBSplineInterpolationOrder 3)

// Resampler specific
(Resampler "DefaultResampler")
(DefaultPixelValue 0.000000)
(ResultImageFormat "nii.gz")
(ResultImagePixelType "short")
(CompressResultImage "false")
"""
