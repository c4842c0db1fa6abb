"""The WMH challenge's folders as they are published, made up with known anatomy, through search, check and preparation.

About 20 s. What a scan of the made-up head shows at a place is a formula, so that "the challenge's own resampled T1" is exact.
"""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from scipy import ndimage

from pd_ddpm.commands.main import main
from pd_ddpm.data.cases.wmh import find_wmh_cases
from pd_ddpm.data.preparation.case import prepare_cohort
from pd_ddpm.data.preparation.normalise import read_normalised
from pd_ddpm.data.preparation.resample import resample_to
from pd_ddpm.data.prepared import read_ground_truth, read_observer_masks
from pd_ddpm.data.working_grid import GridSettings
from pd_ddpm.training.patches import PatchSettings, TrainingSlices, read_slices

# Site, id -> size and spacing (mm) of the FLAIR as in the challenge, with fewer and thicker slices and mostly fewer pixels.
# GE1T5 keeps its 124 pixels, fewer than the paper's crop of 128.
TRAINING = {
    "training/Utrecht/0": ((120, 120, 24), (1.92, 1.92, 6.0)),
    "training/Singapore/50": ((128, 116, 24), (1.8, 2.0, 6.0)),
    "training/Amsterdam/GE3T/100": ((132, 128, 28), (1.2, 1.96, 6.0)),
}
HELD_OUT = {
    "test/Amsterdam/GE1T5/126": ((124, 256, 24), (1.3, 0.9, 6.0)),
    "test/Amsterdam/Philips_VU .PETMR_01./160": ((160, 120, 24), (1.12, 1.5, 6.0)),
}
# From points of the FLAIR to points of the 3D T1, which was scanned with the head turned by 0.2 rad and moved.
ANGLES, SHIFT = (0.02, -0.03, 0.2), (6.0, -4.0, 3.0)
REGISTRATION = (
    '(Transform "EulerTransform")\n(NumberOfParameters 6)\n'
    f"(TransformParameters {' '.join(map(str, (*ANGLES, *SHIFT)))})\n(CenterOfRotationPoint 0 0 0)\n"
    '(ComputeZYX "false")\n(InitialTransformParametersFileName "NoInitialTransform")\n(UseDirectionCosines "true")\n'
)


def registration() -> sitk.Transform:
    transform = sitk.Euler3DTransform()
    transform.SetRotation(*ANGLES)
    transform.SetTranslation(SHIFT)
    return transform


def t1_at(points: np.ndarray, patient: int) -> np.ndarray:
    """The T1 of the made-up head at points (N, 3) in the FLAIR's frame, in mm to the left, posterior and superior (ITK's)."""
    radius = np.linalg.norm(points / (68, 85, 62), axis=1)
    inside = radius < 1
    # White matter, which is deep, is the brightest tissue of a T1.
    pattern = 500 - 200 * radius + 60 * np.sin(points[:, 0] / 9) + 50 * np.cos(points[:, 1] / 11 + points[:, 2] / 15 + patient)
    return inside * pattern


def flair_at(points: np.ndarray) -> np.ndarray:
    inside = np.linalg.norm(points / (68, 85, 62), axis=1) < 1
    return inside * (200 + 20 * np.cos(points[:, 0] / 13)) + 180 * (np.linalg.norm(points - (20, 10, 12), axis=1) < 9)


def grid(shape: tuple[int, ...], spacing: tuple[float, ...], axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Affine (RAS) of a grid about the origin whose voxel axes are the columns of `axes`, and its points in ITK's frame."""
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, 3)
    ras = voxels @ affine[:3, :3].T + affine[:3, 3]
    return affine, ras * (-1, -1, 1)


def save(path: Path, values: np.ndarray, shape: tuple[int, ...], affine: np.ndarray, dtype: type) -> None:
    image = nib.Nifti1Image(values.reshape(shape).astype(dtype), affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


def make_case(case: Path, shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    affine, points = grid(shape, spacing, np.diag([-1.0, -1.0, 1.0]))  # LPS
    patient = int(case.name)
    random = np.random.default_rng(patient)
    save(case / "pre/FLAIR.nii.gz", (flair_at(points) + random.normal(0, 3, len(points))).clip(0), shape, affine, np.uint16)
    save(case / "pre/T1.nii.gz", t1_at(points, patient), shape, affine, np.float32)
    lesion = np.linalg.norm(points - (20, 10, 12), axis=1) < 9
    other = np.linalg.norm(points - (-30, 0, 12), axis=1) < 7
    save(case / "wmh.nii.gz", lesion + 2.0 * other, shape, affine, np.float32)
    # The 3D T1 shows at T(p) what lies at p. Its voxel axes are posterior, inferior, right.
    size = (120, 110, 100)
    t1_affine, t1_points = grid(size, (1.7, 1.7, 1.9), np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]))
    back = np.array(registration().GetInverse().GetMatrix()).reshape(3, 3)
    in_flair = (t1_points - SHIFT) @ back.T
    np.testing.assert_allclose(registration().TransformPoint(in_flair[5].tolist()), t1_points[5], atol=1e-6)
    save(case / "pre/3DT1.nii.gz", t1_at(in_flair, patient), size, t1_affine, np.float32)
    shading = np.exp(t1_points[:, 0] / 200)
    save(case / "orig/3DT1.nii.gz", shading * t1_at(in_flair, patient), size, t1_affine, np.float32)
    (case / "orig/reg_3DT1_to_FLAIR.txt").write_text(REGISTRATION, encoding="ascii")


@pytest.fixture(scope="module")
def challenge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wmh data")
    for place, size in (TRAINING | HELD_OUT).items():
        make_case(folder / place, *size)
    for number, observer in ((0, "o3"), (1, "o4")):
        for place in TRAINING:
            source = nib.load(folder / place / "wmh.nii.gz")
            mask = np.roll(np.asarray(source.dataobj) == 1, number + 1, axis=0)
            target = folder / f"additional_annotations/observer_{observer}" / place / "result.nii.gz"
            save(target, mask, source.shape, source.affine, np.uint8)
    return folder


@pytest.mark.parametrize("part", ["training", "held_out"])
def test_the_3d_t1_lands_where_the_challenge_has_resampled_it_to(challenge, part):
    table = find_wmh_cases(challenge, part=part)
    assert len(table) == len(TRAINING if part == "training" else HELD_OUT)
    for number, case in enumerate(table.to_dict("records")):
        assert case["T1"].endswith("pre/3DT1.nii.gz")
        assert case["T1_transform"].endswith("orig/reg_3DT1_to_FLAIR.txt")
        shipped = nib.load(Path(case["FLAIR"]).with_name("T1.nii.gz"))
        theirs = np.asarray(shipped.dataobj)
        # Away from the head's edge, where a voxel holds both sides.
        inside = ndimage.binary_erosion(theirs > 0, np.ones((7, 7, 3)))
        assert inside.sum() > 10_000
        ours = resample_to(case["FLAIR"], case["T1"], case["T1_transform"])
        assert np.abs(ours - theirs)[inside].max() < 1.0  # of 300 +- 55
        assert np.abs(resample_to(case["FLAIR"], case["T1"]) - theirs)[inside].max() > 50
        if number > 0:
            continue  # Normalising one case takes as long as resampling three.
        normalised = read_normalised(case, ["FLAIR", "T1"])
        of_shipped = read_normalised(case | {"T1": shipped.get_filename(), "T1_transform": ""}, ["FLAIR", "T1"])
        np.testing.assert_array_equal(normalised.brain, of_shipped.brain)
        np.testing.assert_array_equal(normalised.image[..., 0], of_shipped.image[..., 0])
        # Voxels at the edge, which are half as bright in ours, move mean and deviation.
        assert np.abs(normalised.image[..., 1] - of_shipped.image[..., 1])[inside].max() < 0.25


def test_names_sites_and_raters(challenge, tmp_path):
    table = find_wmh_cases(challenge, part="held_out").set_index("case")
    assert sorted(table.index) == ["GE1T5-126", "Philips_VU_.PETMR_01-160"]
    assert table.loc["Philips_VU_.PETMR_01-160", "site"] == "Philips_VU_.PETMR_01"
    assert ".PETMR_01./160" in table.loc["Philips_VU_.PETMR_01-160", "FLAIR"]
    training = find_wmh_cases(challenge)
    prepare_cohort(training, ["FLAIR", "T1"], tmp_path)
    truth, raters = read_ground_truth(tmp_path, "Utrecht-0"), read_observer_masks(tmp_path, "Utrecht-0")
    assert set(np.unique(truth)) == {0, 1, 2}
    np.testing.assert_array_equal(raters[0], np.roll(truth == 1, 1, axis=0))
    np.testing.assert_array_equal(raters[1], np.roll(truth == 1, 2, axis=0))


def test_scans_narrower_than_the_crop_are_widened_and_label_2_counts_nowhere(challenge, tmp_path):
    table = find_wmh_cases(challenge, part="held_out")
    manifest = prepare_cohort(table, ["FLAIR", "T1"], tmp_path)
    assert manifest.set_index("case").loc["GE1T5-126", "size_x"] == 124
    case = read_slices(tmp_path, "GE1T5-126", GridSettings(None, "slice", 8, 1))
    batch = TrainingSlices([case]).sample_batch(np.random.default_rng(0), 12, PatchSettings((128, 192), 1.0, (), 0.0))
    assert batch.image.shape == (12, 2, 128, 192)
    assert not batch.mask[:, :, :2].any()
    assert not batch.mask[:, :, -2:].any()
    assert batch.mask.any()
    other = read_ground_truth(tmp_path, "GE1T5-126") == 2
    assert other.any()
    # Label 2 is neither lesion nor counted background.
    assert float((1 - batch.loss_mask).sum()) > 0
    assert float((batch.mask * (1 - batch.loss_mask)).sum()) == 0


def test_the_check_accepts_it_all(challenge, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(
        f"dataset: wmh\ndatasets: {{wmh: {{folder: '{challenge}', download: null}}}}\nfolds: {{count: 3}}\nsplits: [0]\n",
        encoding="utf-8",
    )
    arguments = ["--scale", "paper", "--results", str(tmp_path / "results"), "--processes", "1"]
    for dataset in ("wmh", "wmh-held-out"):
        output = tmp_path / f"{dataset}.csv"
        text = (tmp_path / "config.yaml").read_text(encoding="utf-8")
        if dataset == "wmh-held-out":
            text = text.replace("download: null}}", f"download: null}}, wmh-held-out: {{folder: '{challenge}'}}}}")
        (tmp_path / "own.yaml").write_text(text, encoding="utf-8")
        more = ["--dataset", dataset, "--output", str(output)]
        assert main(["check", str(tmp_path / "own.yaml"), *arguments, *more]) == 0, capsys.readouterr()
        findings = pd.read_csv(output)
        assert set(findings["severity"]) <= {"note"}, findings.to_string()
        assert findings["finding"].str.contains("smaller than the networks' crop of 128x192").any()
