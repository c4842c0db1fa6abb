"""Images and masks that are sound files but cannot be what their columns say, made from a simulated scan. About 20 s."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pd_ddpm.data.cases.wmh import find_wmh_cases
from pd_ddpm.data.check.case import examine_case
from pd_ddpm.data.check.report import Requirements
from pd_ddpm.data.phantom.cohort import Cohort, simulate_cohort
from pd_ddpm.data.preparation.brain_mask import brain_mask
from pd_ddpm.data.preparation.resample import resample_to

# The demo's scans: pixels of 2 mm in slices of 5 mm.
COHORT = Cohort(1, seed=0, resolution_mm=2, coarsening=2, slice_mm=5, smallest_lesion_ml=0.2)
REQUIREMENTS = Requirements(("FLAIR", "T1"), None, None, (1, 1), {}, {"layout": "table"})


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return a case of each simulated scanner, without label 2 and further observers, and with T1 on the grid of the FLAIR."""
    folder = tmp_path_factory.mktemp("phantom")
    simulate_cohort(folder, COHORT)
    rows = find_wmh_cases(folder).to_dict("records")
    for row in rows:
        mask = nib.load(row["mask"])
        save(Path(row["mask"]), np.asarray(mask.dataobj) == 1, mask.affine)
        t1 = resample_to(row["FLAIR"], row["T1"], row["T1_transform"] or None)
        row |= {
            "T1": str(save(folder / f"{row['case']}_T1.nii.gz", t1, mask.affine)),
            "T1_transform": "",
            "observer_2": "",
            "observer_3": "",
        }
    return rows


@pytest.fixture
def findings(tmp_path: Path) -> Callable[..., list[str]]:
    """Check a case some of whose files are replaced by (array, affine), and return columns and texts of the findings."""

    def check(case: dict[str, Any], **replaced: tuple[np.ndarray, np.ndarray] | str) -> list[str]:
        changed = dict(case)
        for column, content in replaced.items():
            is_path = isinstance(content, str)
            changed[column] = content if is_path else str(save(tmp_path / f"{column}.nii.gz", *content))
        examined = examine_case(changed, REQUIREMENTS).findings
        columns = {path: column for column, path in changed.items()}
        return [f"{finding.severity}: {columns[finding.file]}: {finding.finding}" for finding in examined]

    return check


def save(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(array.astype(np.uint8 if array.dtype == bool else array.dtype), affine), path)
    return path


def load(path: str) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(path)
    return np.asarray(image.dataobj), image.affine


def shifted(affine: np.ndarray, *mm: float) -> np.ndarray:
    result = affine.copy()
    result[:3, 3] += mm
    return result


def test_examine_case_of_sound_scans_has_no_findings(cases, findings):
    for case in cases:
        assert findings(case) == []
    assert findings(cases[0], mask="") == []


def test_examine_case_warns_of_a_brain_mask_in_place_of_lesions(cases, findings):
    flair, affine = load(cases[0]["FLAIR"])
    (text,) = findings(cases[0], mask=(flair > np.percentile(flair, 70), affine))
    assert text.startswith("warning: mask: its lesions (label 1) take ")


@pytest.mark.parametrize(("axis", "name"), [(0, "left to right"), (1, "front to back"), (2, "top to bottom")])
def test_examine_case_names_the_axis_of_a_mirrored_mask(cases, findings, axis, name):
    mask, affine = load(cases[axis]["mask"])
    (text,) = findings(cases[axis], mask=(np.flip(mask, axis), affine))
    assert f"warning: mask: its lesions fit the first channel better if the mask is mirrored {name}" in text


def test_examine_case_warns_of_the_mask_of_another_place(cases, findings):
    mask, affine = load(cases[0]["mask"])
    (text,) = findings(cases[0], mask=(np.roll(mask, 12, axis=1), affine))
    assert text.startswith("warning: mask: its lesions are not brighter than the brain in the first channel")


def test_examine_case_warns_of_exchanged_flair_and_t1_with_and_without_mask(cases, findings):
    for case, mask in zip(cases, (cases[0]["mask"], "", cases[2]["mask"]), strict=True):
        texts = findings(case, FLAIR=case["T1"], T1=case["FLAIR"], mask=mask)
        assert texts == ["warning: T1: FLAIR and T1 seem to be exchanged, by the brightness of white matter"]


def test_examine_case_accepts_many_lesions_around_the_ventricles(cases, findings):
    """They are deep and bright in the FLAIR, as white matter is in the T1."""
    (flair, affine), (t1, _) = load(cases[0]["FLAIR"]), load(cases[0]["T1"])
    brain = brain_mask(flair, affine)
    depth_mm = ndimage.distance_transform_edt(brain, sampling=np.linalg.norm(affine[:3, :3], axis=0))
    lesion = depth_mm > np.quantile(depth_mm[brain], 0.92)
    flair = np.where(lesion, np.percentile(flair[brain], 99), flair)
    t1 = np.where(lesion, np.percentile(t1[brain], 40), t1)
    assert findings(cases[0], FLAIR=(flair, affine), T1=(t1, affine), mask="") == []


@pytest.mark.parametrize("offset", [(0, 0, 20), (0, 0, -20), (12, 0, 0), (0, -20, 10)])
def test_examine_case_states_how_far_t1_is_from_its_place(cases, findings, offset):
    """The estimate is within 4 mm of the offset."""
    t1, affine = load(cases[1]["T1"])
    (text,) = findings(cases[1], T1=(t1, shifted(affine, *offset)))
    assert text.startswith("warning: T1: it fits FLAIR better if it is moved by about ")
    assert float(text.split("about ")[1].split()[0]) == pytest.approx(np.linalg.norm(offset), abs=4)


def test_examine_case_accepts_the_motion_of_a_patient_between_scans(cases, findings):
    for case in cases:
        t1, affine = load(case["T1"])
        assert findings(case, T1=(t1, shifted(affine, 2, -1, 2))) == []


def test_examine_case_warns_of_a_rotated_t1(cases, findings):
    t1, affine = load(cases[0]["T1"])
    centre = affine @ [*(size / 2 for size in t1.shape), 1]
    rotation = np.eye(4)
    rotation[:3, :3] = Rotation.from_euler("x", 15, degrees=True).as_matrix()
    about_centre = shifted(np.eye(4), *centre[:3]) @ rotation @ shifted(np.eye(4), *-centre[:3])
    (text,) = findings(cases[0], T1=(t1, about_centre @ affine))
    assert "rotated by about 1" in text


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_examine_case_warns_of_a_mirrored_t1(cases, findings, axis):
    t1, affine = load(cases[2]["T1"])
    (text,) = findings(cases[2], T1=(np.flip(t1, axis), affine))
    assert text.startswith("warning: T1: it fits FLAIR better if it is ")
    # Only left and right are similar enough to be mistaken for each other.
    assert axis != 0 or "mirrored left to right" in text


def test_examine_case_warns_of_lesions_that_are_label_2(cases, findings):
    mask, affine = load(cases[0]["mask"])
    upper = np.indices(mask.shape)[2] > np.argwhere(mask)[:, 2].mean()
    (text,) = findings(cases[0], mask=(mask * (1 + upper).astype(np.uint8), affine))
    assert text.startswith("warning: mask: label 2 ")


def test_examine_case_warns_of_lost_voxel_sizes(cases, findings):
    files = {column: (load(cases[0][column])[0], np.eye(4)) for column in ("FLAIR", "T1", "mask")}
    assert findings(cases[0], **files) == [
        "warning: FLAIR: its affine is the identity, so its voxel size, orientation and place were probably lost"
    ]
    # Orientation and place may survive.
    for voxel in (0.9, 1.1, 6.0):
        files = {
            column: (array, shifted(np.diag([-voxel, -voxel, voxel, 1]), 90, 90, 0)) for column, (array, _) in files.items()
        }
        (text,) = findings(cases[0], **files)
        assert "is not that of a whole head" in text
