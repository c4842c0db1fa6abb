"""Simulate a cohort in the folder layout of the WMH challenge."""

import gzip
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import nibabel as nib
import numpy as np
from scipy.ndimage import label
from scipy.special import ndtri

from pd_ddpm.data.phantom.acquisition import SCANNERS, SLAB_OFFSETS, Scanner, acquire_flair, acquire_t1, resample
from pd_ddpm.data.phantom.anatomy import sample_anatomy
from pd_ddpm.data.phantom.contrast import compose_flair, compose_t1
from pd_ddpm.data.phantom.geometry import elastix_transform, flair_geometry, sample_motion, t1_geometry
from pd_ddpm.data.phantom.lesions import LOAD_RANGE_ML, LOG_LOAD_SD, MEDIAN_LOAD_ML, sample_lesions
from pd_ddpm.data.phantom.raters import outline
from pd_ddpm.data.phantom.template import TEMPLATE_FILE, build_template_maps
from pd_ddpm.data.phantom.tissues import label_tissues, tissue_fractions
from pd_ddpm.data.phantom.tumours import LOG_VOLUME_SD, MEDIAN_VOLUME_ML, VOLUME_RANGE_ML, sample_tumour
from pd_ddpm.runtime.code_version import code_version
from pd_ddpm.runtime.files import write_json
from pd_ddpm.runtime.process_pool import in_processes

Labels = Literal["lesions", "tissues"]
Pathology = Literal["white_matter_lesions", "tumours"]

# Median, standard deviation of the natural logarithm, limits.
VOLUMES_ML = {
    "white_matter_lesions": (MEDIAN_LOAD_ML, LOG_LOAD_SD, LOAD_RANGE_ML),
    "tumours": (MEDIAN_VOLUME_ML, LOG_VOLUME_SD, VOLUME_RANGE_ML),
}

SUMMARY = "simulated.json"
IDS_PER_SITE = 50
SECOND_RATER = Path("additional_annotations", "observer_o3")

NOTICE = f"""\
The images in this folder are simulated. No patient was scanned.

They are derived from the ICBM 152 non-linear template, file {TEMPLATE_FILE}
(with its grey and white matter maps), as distributed with nilearn. Its notice:

Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill
University. Permission to use, copy, modify, and distribute this software and its documentation for any purpose and
without fee is hereby granted, provided that the above copyright notice appear in all copies. The authors and McGill
University make no representations about the suitability of this software for any purpose. It is provided "as is"
without express or implied warranty. The authors are not responsible for any data loss, equipment damage, property
loss, or injury to subjects or patients resulting from the use or misuse of this software package.

Please cite:
Fonov V, Evans AC, Botteron K, Almli CR, McKinstry RC, Collins DL. Unbiased average age-appropriate atlases for
pediatric studies. NeuroImage 54(1):313-327 (2011).
Fonov VS, Evans AC, McKinstry RC, Almli CR, Collins DL. Unbiased nonlinear average age-appropriate brain templates
from birth to adulthood. NeuroImage 47, Supplement 1:S102 (2009).
"""


@dataclass(frozen=True)
class Cohort:
    """Settings of a simulated cohort: a dataset's section `simulate` in the configuration, documented in config/schema.yaml.

    Attributes:
        cases_per_site: number of cases per scanner, 1 to 50.
        seed: seed of the cohort.
        resolution_mm: voxel size of the simulated anatomy, 0.8 to 4.
        coarsening: size of FLAIR pixels and T1 voxels relative to the challenge's, 1 to 4; see `Scanner.coarsened`.
        slice_mm: distance and thickness of FLAIR slices, 2 to 8; the challenge's is 3.
        smallest_lesion_ml: least volume of a simulated lesion, 0.01 to 1; see `sample_lesions`.
        pathology: "white_matter_lesions" or "tumours", see `sample_lesions` and `sample_tumour`.
        labels: what masks hold. "lesions": 1 lesion and 2 other pathology; "tissues": see `TISSUES`. Scans do not depend on it.

    Raises:
        ValueError: if a setting is out of range.
    """

    cases_per_site: int
    seed: int
    resolution_mm: float
    coarsening: float
    slice_mm: float
    smallest_lesion_ml: float
    pathology: Pathology = "white_matter_lesions"
    labels: Labels = "lesions"

    def __post_init__(self):
        if not 1 <= self.cases_per_site <= IDS_PER_SITE:
            raise ValueError(f"`cases_per_site` must be 1 to {IDS_PER_SITE} (the challenge's ids), not {self.cases_per_site}.")
        if self.seed < 0:
            raise ValueError(f"`seed` must not be negative, but is {self.seed}.")
        limits = {"resolution_mm": (0.8, 4), "coarsening": (1, 4), "slice_mm": (2, 8), "smallest_lesion_ml": (0.01, 1)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"`{name}` must be {low} to {high}, not {getattr(self, name)}.")
        for name, choices in {"pathology": get_args(Pathology), "labels": get_args(Labels)}.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` must be one of {', '.join(choices)}, not {getattr(self, name)}.")

    def cases(self) -> list["Case"]:
        """Return all cases, ordered by id."""
        return [
            Case(scanner.coarsened(self.coarsening, self.slice_mm), scanner.first_id + index, self)
            for scanner in SCANNERS
            for index in range(self.cases_per_site)
        ]


@dataclass(frozen=True)
class Case:
    """Everything that a simulated case depends on, except the code.

    Attributes:
        scanner: the site's scanner, coarsened.
        number: id of the case.
        cohort: settings of the cohort; the case does not depend on the number of cases.
    """

    scanner: Scanner
    number: int
    cohort: Cohort

    @property
    def relative_folder(self) -> Path:
        """Folder of the case below that of the cohort."""
        return Path("training", self.scanner.site, str(self.number))

    def settings(self) -> dict:
        """Return the fields of the case's summary that tell whether it must be simulated again."""
        settings = asdict(self.cohort)
        del settings["cases_per_site"]
        return {"case": self.number, "site": self.scanner.site} | settings | {"code": code_version(__file__)}

    def random(self, purpose: int) -> np.random.Generator:
        """Return the random stream of one part of the simulation; it does not depend on the order of cases."""
        return np.random.default_rng([self.cohort.seed, self.number, purpose])


def simulate_cohort(folder: Path, cohort: Cohort, processes: int = 1) -> list[Path]:
    """Simulate a WMH challenge cohort of three scanners.

    Existing cases with the same settings and code are kept, so an interrupted simulation continues. A case depends on its id
    and the seed, not on the number of processes. `simulated.json` is written last and describes the cohort: lesion
    volumes in ml, number of lesions, inter-rater Dice.

    Args:
        folder: folder of the cohort; made if it does not exist.
        cohort: settings of the cohort.
        processes: number of forked processes.

    Returns:
        The case folders, ordered by id.

    Raises:
        ValueError: if the folder has cases that do not belong to the cohort, or `processes` is below 1.
    """
    folder = Path(folder)
    if processes < 1:
        raise ValueError(f"`processes` must be at least 1, not {processes}.")
    cases = cohort.cases()
    _check_leftovers(folder, cases)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "NOTICE.txt").write_text(NOTICE, encoding="utf-8")
    missing = [case for case in cases if _read_summary(folder, case) is None]
    if missing:
        (folder / SUMMARY).unlink(missing_ok=True)
        build_template_maps()  # before forking, so that the processes share the maps
        in_processes(partial(_simulate_case, folder), missing, processes, "simulating cases")
    summary = asdict(cohort) | {
        "code": code_version(__file__),
        "cases": [_read_summary(folder, case) for case in cases],
    }
    write_json(folder / SUMMARY, summary)
    return [folder / case.relative_folder for case in cases]


def _check_leftovers(folder: Path, cases: list[Case]) -> None:
    """Raise ValueError if the folder has cases that do not belong to this cohort."""
    case_folders = {folder / case.relative_folder for case in cases}
    for mask in sorted(folder.glob("training/**/wmh.nii.gz")):
        if mask.parent not in case_folders and not mask.parent.name.startswith("."):
            raise ValueError(f"{mask.parent}: it is not part of this cohort. Remove it or choose an empty folder.")


def _read_summary(folder: Path, case: Case) -> dict | None:
    """Return the summary of a finished case, or None if it is missing or was simulated with other settings."""
    path = folder / case.relative_folder / SUMMARY
    if not path.is_file():
        return None
    summary = json.loads(path.read_text(encoding="utf-8"))
    return summary if case.settings().items() <= summary.items() else None


def _simulate_case(folder: Path, case: Case) -> None:
    """Simulate one case and write its two folders; the one that marks it as finished comes last."""
    scanner = case.scanner
    anatomy = sample_anatomy(build_template_maps(), case.random(0), case.cohort.resolution_mm)
    if case.cohort.pathology == "tumours":
        lesions = sample_tumour(anatomy, _volume_ml(case), case.random(1))
    else:
        lesions = sample_lesions(anatomy, _volume_ml(case), case.cohort.smallest_lesion_ml, case.random(1))

    geometry = case.random(2)
    flair_to_patient = flair_geometry(scanner, geometry)
    t1_to_patient = t1_geometry(scanner, geometry)
    patient_to_scanner = np.eye(4)
    patient_to_scanner[:3, 3] = geometry.normal(0, 8, 3)
    flair_affine = patient_to_scanner @ flair_to_patient
    motion, estimated_motion = sample_motion(flair_affine, scanner.flair_shape, geometry)
    # The header of the T1 ignores that the patient has moved since the FLAIR.
    t1_affine = motion.matrix() @ patient_to_scanner @ t1_to_patient

    noise = case.random(3)
    volumes = [
        resample(volume, anatomy.lattice, flair_to_patient, scanner.flair_shape, SLAB_OFFSETS)
        for volume in (
            compose_flair(anatomy, lesions, scanner, noise),
            lesions.visible(),
            lesions.infarct,
        )
    ]
    flair = acquire_flair(volumes[0], scanner, noise)
    t1 = resample(compose_t1(anatomy, lesions, scanner, noise), anatomy.lattice, t1_to_patient, scanner.t1_shape)
    t1 = acquire_t1(t1, scanner, noise)
    first_rater, second_rater = (
        outline(*volumes[1:], scanner.flair_spacing, case.cohort.smallest_lesion_ml, case.random(4 + rater))
        for rater in range(2)
    )
    first_mask, second_mask = first_rater, second_rater
    if case.cohort.labels == "tissues":
        fractions = [
            resample(fraction, anatomy.lattice, flair_to_patient, scanner.flair_shape, SLAB_OFFSETS)
            for fraction in tissue_fractions(anatomy, lesions)
        ]
        first_mask, second_mask = (label_tissues(fractions, outlines) for outlines in (first_rater, second_rater))

    case_folder, second_rater_folder = folder / case.relative_folder, folder / SECOND_RATER / case.relative_folder
    with _atomic_folder(case_folder) as target, _atomic_folder(second_rater_folder) as second_rater_target:
        _save(target / "pre" / "FLAIR.nii.gz", flair, flair_affine)
        _save(target / "orig" / "3DT1.nii.gz", t1, t1_affine)
        _save(target / "wmh.nii.gz", first_mask.astype(np.float32), flair_affine)
        _save(second_rater_target / "result.nii.gz", second_mask.astype(np.float32), flair_affine)
        transform = elastix_transform(estimated_motion, scanner.flair_shape, flair_affine)
        (target / "orig" / "reg_3DT1_to_FLAIR.txt").write_text(transform, encoding="ascii")
        voxel_ml = float(np.prod(scanner.flair_spacing)) / 1e3
        num_both = np.sum((first_rater == 1) & (second_rater == 1))
        dice = 2 * num_both / max(np.sum(first_rater == 1) + np.sum(second_rater == 1), 1)
        summary = case.settings() | {
            "lesion_volume_ml": round(float(np.sum(first_rater == 1)) * voxel_ml, 3),
            "other_pathology_volume_ml": round(float(np.sum(first_rater == 2)) * voxel_ml, 3),
            "lesions": int(label(first_rater == 1, np.ones((3, 3, 3)))[1]),
            "inter_rater_dice": round(float(dice), 4),
        }
        write_json(target / SUMMARY, summary)


def _volume_ml(case: Case) -> float:
    """Return the volume of all lesions, or of the tumour, in ml.

    It is log-normal over the ids, evenly spread so that small cohorts have low and high volumes.
    """
    median, log_sd, limits = VOLUMES_ML[case.cohort.pathology]
    start = np.random.default_rng(case.cohort.seed).random()
    rank = (case.number % IDS_PER_SITE) * len(SCANNERS) + case.number // IDS_PER_SITE
    golden_ratio = (np.sqrt(5) - 1) / 2
    quantile = np.clip((start + rank * golden_ratio) % 1, 1e-6, 1 - 1e-6)
    return float(np.clip(median * np.exp(log_sd * ndtri(quantile)), *limits))


@contextmanager
def _atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `folder` when the block ends without an error."""
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def _save(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    """Write a gzipped NIfTI image with equal bytes for equal data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    # At the fastest level files are hardly larger than at the default.
    with gzip.GzipFile(path, "wb", compresslevel=1, mtime=0) as stream:
        image.to_stream(stream)
