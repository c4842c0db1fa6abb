"""Tissue contrast: the noise-free FLAIR and T1 signal of one head.

The signal levels are ours, chosen by comparison with images of the WMH challenge.
"""

import numpy as np

from pd_ddpm.data.phantom.acquisition import Scanner
from pd_ddpm.data.phantom.anatomy import Anatomy
from pd_ddpm.data.phantom.fields import random_field, smooth_step
from pd_ddpm.data.phantom.lesions import Lesions


def compose_flair(anatomy: Anatomy, lesions: Lesions, scanner: Scanner, random: np.random.Generator) -> np.ndarray:
    """Return the noise-free FLAIR signal.

    Args:
        anatomy: tissue fractions and distances.
        lesions: lesion fractions on the same lattice.
        scanner: contrasts.
        random: random stream.

    Returns:
        float32 (X, Y, Z) on the anatomy's lattice; white matter is 1.
    """
    lattice = anatomy.lattice
    white, grey, fluid = (anatomy[name] for name in ("white", "grey", "fluid"))
    distance = anatomy["ventricle"]
    fluid_level = scanner.flair_fluid + random.normal(0, 0.02)
    grey_level = scanner.flair_grey + random.normal(0, 0.02)
    lesion_level = scanner.flair_lesion + random.normal(0, 0.04)
    signal = white * (1 + 0.025 * random_field(random, lattice, 14))
    signal += grey * (grey_level + 0.045 * random_field(random, lattice, 9))
    # Iron darkens the pallidum. The T1 of deep grey matter is closer to that of white matter than the cortex's.
    signal -= (0.10 * anatomy["deep_grey"] + 0.10 * anatomy["cerebellum"]) * grey
    signal -= 0.25 * np.clip(anatomy["texture"], -0.15, 0.15) * (white + grey)
    signal += fluid * (fluid_level + _flow_artefact(anatomy, random))
    parenchyma = white + grey
    tissue = parenchyma * (1 - lesions.infarct)
    signal += random.uniform(0.05, 0.13) * anatomy["tract"] * white
    signal += random.uniform(0.08, 0.3) * np.exp(-(((distance - 0.3) / 1.0) ** 2)) * parenchyma
    signal += (grey_level - fluid_level) * 0.8 * anatomy["septum"] * fluid * (distance < 0.5)
    signal += random.uniform(0.3, 0.7) * anatomy["choroid"] * fluid
    signal += lesion_level * (lesions.contrast + random.uniform(0.14, 0.30) * (lesions.halo * (1 - lesions.contrast))) * tissue
    unevenness = 0.85 + 0.15 * random_field(random, lattice, 8)
    signal += (lesions.infarct - lesions.cavity) * lesion_level * random.uniform(0.6, 0.95) * unevenness
    signal += lesions.cavity * (fluid_level - signal)
    signal -= 0.15 * lesions.spaces * tissue
    return signal * _brain_weight(anatomy) + _extracranial_signal(
        anatomy, random, fat=scanner.flair_fat, muscle=0.55, marrow=0.45, fluid=fluid_level
    )


def compose_t1(anatomy: Anatomy, lesions: Lesions, scanner: Scanner, random: np.random.Generator) -> np.ndarray:
    """Return the noise-free T1 signal.

    Args:
        anatomy: tissue fractions and distances.
        lesions: lesion fractions on the same lattice.
        scanner: contrasts.
        random: random stream.

    Returns:
        float32 (X, Y, Z) on the anatomy's lattice; white matter is 1.
    """
    lattice = anatomy.lattice
    white, grey, fluid = (anatomy[name] for name in ("white", "grey", "fluid"))
    fluid_level = np.float32(0.27 + random.normal(0, 0.015))
    grey_level = scanner.t1_grey + random.normal(0, 0.012)
    signal = white + grey * (grey_level + 0.015 * random_field(random, lattice, 9)) + fluid * fluid_level
    signal += 0.9 * anatomy["texture"] * (white + grey)
    signal += 0.25 * anatomy["choroid"] * fluid + 0.35 * anatomy["septum"] * fluid * (anatomy["ventricle"] < 0.5)
    tissue = (white + grey) * (1 - lesions.infarct)
    signal -= (random.uniform(0.18, 0.27) * lesions.contrast + 0.03 * lesions.halo) * tissue
    unevenness = 1 + 0.2 * random_field(random, lattice, 8)
    signal -= (lesions.infarct - lesions.cavity) * random.uniform(0.15, 0.28) * unevenness
    signal += np.maximum(lesions.cavity, 0.8 * lesions.spaces) * (fluid_level - signal)
    return signal * _brain_weight(anatomy) + _extracranial_signal(
        anatomy, random, fat=1.35, muscle=0.5, marrow=0.7, fluid=fluid_level
    )


def _brain_weight(anatomy: Anatomy) -> np.ndarray:
    """Return a weight in [0, 1]: 1 inside the closed outline of the brain, 0 outside."""
    return smooth_step(anatomy["hull"], 2.2, 1.0)


def _flow_artefact(anatomy: Anatomy, random: np.random.Generator) -> np.ndarray:
    """Return the signal of fluid that moved during inversion, strongest in the midline ventricles and near the brain stem."""
    x, y, z = anatomy.lattice.axes()
    near = np.exp(-((x / 7) ** 2)) * smooth_step(z, 22, 6) * smooth_step(y, -60, -40)
    pulsation = np.clip(random_field(random, anatomy.lattice, 5) - 0.6, 0, 2)
    return np.float32(random.uniform(0.1, 0.45)) * pulsation * (near + 0.12)


def _extracranial_signal(
    anatomy: Anatomy, random: np.random.Generator, fat: float, muscle: float, marrow: float, fluid: float
) -> np.ndarray:
    """Return the signal outside the brain: skull, marrow, scalp, orbits, sinuses, muscles of face and neck.

    Args:
        anatomy: distances and regions.
        random: random stream.
        fat: signal of fat, relative to white matter, as the following ones.
        muscle: signal of muscle.
        marrow: signal of bone marrow.
        fluid: signal of CSF.

    Returns:
        float32 (X, Y, Z) on the anatomy's lattice.
    """
    lattice = anatomy.lattice
    hull, depth = anatomy["hull"], -anatomy["skin"]
    _, y, z = lattice.axes()
    fine, coarse = random_field(random, lattice, 4), random_field(random, lattice, 12)
    base = smooth_step(z + 0.35 * y, -28, -52)
    bone = 6.0 + 0.8 * random_field(random, lattice, 24)
    diploe = np.exp(-(((hull - 1.8 - 0.5 * bone) / (0.22 * bone)) ** 2)) * np.clip(0.7 + 0.3 * fine, 0, 1.2)
    skull = 0.07 + marrow * diploe * (1 - 0.5 * base)
    # Thin sheets of fat lie between the muscles, at the zero crossings of a random field.
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
    meninges = fluid * (1 - _brain_weight(anatomy)) * smooth_step(hull, 2.6, 1.6)
    return np.maximum(signal * smooth_step(hull, 1.4, 2.6), meninges) * smooth_step(depth, -0.6, 0.6)
