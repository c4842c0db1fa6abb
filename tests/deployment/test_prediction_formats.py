"""Predictions in other formats, read back with nibabel and SimpleITK, and scored as a submission (about 12 s)."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from challenge_definitions import scores_on_simpleitk

from pd_ddpm.commands.main import main
from pd_ddpm.data.cases.table import read_table, table_columns
from pd_ddpm.data.preparation.case import prepare_cohort
from pd_ddpm.data.prepared import read_ground_truth, read_scan
from pd_ddpm.deployment.formats import conversion
from pd_ddpm.deployment.formats.bids import bids_name, description_label
from pd_ddpm.evaluation.metrics import ReferenceMask, score
from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.ensemble import ensemble_mask, threshold
from pd_ddpm.inference.prediction_store import PredictionFolder, read_samples

SHAPE, SPACING = (41, 57, 13), (3.25, 3.0, 5.0)
MEMBERS, POOL = 3, 4
METHOD = "pd-ddpm@t_start=50"
FORMATS = ("bids", "nnunet", "submission")


def oblique(angle: float) -> np.ndarray:
    """Return a rotation by the same angle about the x and z axes."""
    c, s = np.cos(angle), np.sin(angle)
    about_x, about_z = [[1, 0, 0], [0, c, -s], [0, s, c]], [[c, -s, 0], [s, c, 0], [0, 0, 1]]
    return np.array(about_x) @ np.array(about_z)


def affine(axes: np.ndarray, origin: tuple[float, float, float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = axes @ np.diag(SPACING), origin
    return matrix


# Case -> affine, codes of qform and sform, split. Preprocessing reorients all cases but the first to LPS.
LPS, RAS = np.diag([-1.0, -1.0, 1.0]), np.eye(3)
SAGITTAL = np.array([[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
CASES = {
    "Utrecht-0": (affine(LPS, (66.5, 84.25, -30.0)), (1, 1), 0),
    "sub-01_ses-02": (affine(oblique(0.2) @ RAS, (-70.3, -80.1, -31.7)), (1, 2), 1),
    "c.3": (affine(oblique(-0.1) @ SAGITTAL, (30.2, 80.6, -60.9)), (0, 1), 1),
}
IN_SLICES = ("Utrecht-0", "sub-01_ses-02")
"""Cases whose slices are the same before and after reorientation."""


def save(path: Path, array: np.ndarray, case: str) -> None:
    matrix, codes, _ = CASES[case]
    image = nib.Nifti1Image(array, matrix)
    image.set_qform(matrix, codes[0])
    image.set_sform(matrix, codes[1])
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"Jane Doe"
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


def make_scans(folder: Path) -> pd.DataFrame:
    """Write three heads of some 500 ml with lesions and label 2, as float like the challenge, and return the case table."""
    random = np.random.default_rng(5)
    centre, radii = np.array([20, 28, 6]).reshape(3, 1, 1, 1), np.array([17, 25, 6]).reshape(3, 1, 1, 1)
    distance = np.linalg.norm((np.indices(SHAPE) - centre) / radii, axis=0)
    rows = []
    for case in CASES:
        labels = np.zeros(SHAPE, np.float32)
        for label, count in ((2, 2), (1, 6)):
            for x, y, z in random.integers((10, 14, 3), (31, 43, 10), (count, 3)):
                labels[x - 2 : x + 3, y - 1 : y + 3, z : z + 2] = label
        for channel in ("FLAIR", "T1"):
            scan = (200 * (distance < 1) + 60 * (labels == 1) + random.normal(0, 5, SHAPE)).clip(0).astype(np.int16)
            save(folder / f"data/{case}/{channel}.nii.gz", scan, case)
        save(folder / f"data/{case}/wmh.nii.gz", labels, case)
        paths = {"FLAIR": f"data/{case}/FLAIR.nii.gz", "T1": f"data/{case}/T1.nii.gz", "mask": f"data/{case}/wmh.nii.gz"}
        rows.append({"case": case, "site": "s", **paths})
    return pd.DataFrame(rows, columns=table_columns(["FLAIR", "T1"]))


def write_predictions(data: Path, method: str, split: int, seed: int, cases: list[str]) -> None:
    """Write members with true and false lesions that cover label 2 to a folder like that of rule sample."""
    random = np.random.default_rng(seed)
    folder = PredictionFolder(data / f"predictions/{method}/split-{split}_seed-{seed}", "stamp")
    records = []
    for case in cases:
        truth = read_ground_truth(data / "cases", case)
        moved = np.roll(truth == 1, (1, -1, 1), (0, 1, 2))
        likely = 0.4 * (truth > 0) + 0.3 * moved + 0.7 * (random.random(truth.shape) < 1e-3)
        pool = np.clip(likely[..., None] + random.normal(0, 0.15, (*truth.shape, POOL)), 0, 1)
        records.append(folder.write(case, pool, MEMBERS, read_scan(data / "cases", case).reference, Cost()))
    pd.DataFrame(records).to_csv(folder.folder / "predictions.csv", index=False)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone after a run of the workflow: scans, preprocessed cases in LPS, predictions of two splits."""
    root = tmp_path_factory.mktemp("clone")
    make_scans(root).to_csv(root / "cases.csv", index=False)
    data = root / "results/toy"
    table = read_table(root / "cases.csv")
    absolute = table.assign(**{name: [str(root / path) for path in table[name]] for name in ("FLAIR", "T1", "mask")})
    prepare_cohort(absolute, ["FLAIR", "T1"], data / "cases", orientation="LPS")
    shutil.move(root / "cases.csv", data / "cases.csv")
    roles = ["test", "validation", "train", "train", "test", "test"]
    splits = pd.DataFrame({"split": np.repeat([0, 1], 3), "role": roles, "case": [*CASES, *CASES]})
    splits.to_csv(data / "splits.csv", index=False)
    write_predictions(data, METHOD, 0, 0, ["Utrecht-0"])
    write_predictions(data, METHOD, 1, 0, ["sub-01_ses-02", "c.3"])
    return root


@pytest.fixture
def clone(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(original, tmp_path / "clone")


@pytest.fixture
def convert(
    tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> Callable[..., tuple[int, str, Path]]:
    """Return the exit code, the output and the folder of a conversion."""

    def call(predictions: Path, to: str, *arguments: str, output: Path = tmp_path / "converted") -> tuple[int, str, Path]:
        code = main(["convert", str(predictions), "--to", to, "--output", str(output), *arguments])
        printed = capsys.readouterr()
        return code, printed.out + printed.err + caplog.text, output

    return call


def method_folder(root: Path, method: str = METHOD) -> Path:
    return root / "results/toy/predictions" / method


def split_folder(root: Path, case: str) -> Path:
    return method_folder(root) / f"split-{CASES[case][2]}_seed-0"


def list_files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def mask_file(folder: Path, to: str, case: str) -> Path:
    name = {"Utrecht-0": "sub-Utrecht0", "c.3": "sub-c3"}.get(case, case)
    return {
        "bids": folder / name.replace("_", "/") / f"anat/{name}_space-orig_label-WMH_desc-pdDdpmTStart50_mask.nii.gz",
        "nnunet": folder / f"{case}.nii.gz",
        "submission": folder / f"{case}/result.nii.gz",
    }[to]


def values_at_flair_voxels(root: Path, case: str, array: np.ndarray) -> np.ndarray:
    """Return the values of an array on the preprocessed grid at the voxels of the case's FLAIR, located with the affines."""
    flair = nib.load(root / f"data/{case}/FLAIR.nii.gz")
    stored = nib.load(split_folder(root, case) / f"{case}_mask.nii.gz")
    homogeneous = np.vstack([np.indices(flair.shape).reshape(3, -1), np.ones(np.prod(flair.shape))])
    index = (np.linalg.inv(stored.affine) @ flair.affine @ homogeneous)[:3]
    np.testing.assert_allclose(index, np.rint(index), atol=1e-3)
    return array[tuple(np.rint(index).astype(int))].reshape(flair.shape)


# Round trips


def test_synthetic_cases_are_stored_reoriented(original):
    for case, (matrix, _, _) in CASES.items():
        stored = nib.load(split_folder(original, case) / f"{case}_mask.nii.gz")
        assert nib.aff2axcodes(stored.affine) == ("L", "P", "S")
        assert np.allclose(stored.affine, matrix, atol=1e-3) == (case == "Utrecht-0")
    assert nib.load(split_folder(original, "c.3") / "c.3_mask.nii.gz").shape == (13, 41, 57)


@pytest.mark.parametrize("to", FORMATS)
def test_convert_returns_each_voxel_of_the_mask_on_the_flair_grid(original, convert, to):
    code, printed, folder = convert(method_folder(original), to)
    assert code == 0, printed
    assert f"3 cases of {METHOD}, split 0, 1, seed 0, written to {folder}" in printed
    for case, (matrix, codes, _) in CASES.items():
        mask, flair = nib.load(mask_file(folder, to, case)), nib.load(original / f"data/{case}/FLAIR.nii.gz")
        stored = np.asarray(nib.load(split_folder(original, case) / f"{case}_mask.nii.gz").dataobj)
        assert 20 < stored.sum() < 2000
        np.testing.assert_array_equal(np.asarray(mask.dataobj), values_at_flair_voxels(original, case, stored))
        assert mask.get_data_dtype() == np.uint8
        assert mask.header["scl_slope"] == 1 or np.isnan(mask.header["scl_slope"])
        np.testing.assert_array_equal(mask.affine, flair.affine)
        np.testing.assert_allclose(mask.affine, matrix, atol=1e-4)
        assert (int(mask.header["qform_code"]), int(mask.header["sform_code"])) == codes
        assert mask.header.get_xyzt_units() == ("mm", "sec")
        assert not bytes(mask.header["descrip"]).strip(b"\0")


@pytest.mark.parametrize("to", FORMATS)
def test_convert_writes_masks_with_the_flair_grid_in_simpleitk(original, convert, to):
    _, _, folder = convert(method_folder(original), to)
    for case in CASES:
        mask, flair = (
            sitk.ReadImage(str(path)) for path in (mask_file(folder, to, case), original / f"data/{case}/FLAIR.nii.gz")
        )
        assert (mask.GetSize(), mask.GetPixelIDTypeAsString()) == (flair.GetSize(), "8-bit unsigned integer")
        for mask_value, flair_value in zip(
            (mask.GetSpacing(), mask.GetOrigin(), mask.GetDirection()),
            (flair.GetSpacing(), flair.GetOrigin(), flair.GetDirection()),
            strict=True,
        ):
            assert mask_value == flair_value
        assert set(np.unique(sitk.GetArrayFromImage(mask))) == {0, 1}


def test_submission_scored_by_the_challenge_equals_our_scores(original, convert):
    """HD95 differs if reorientation changes the slice axis, because the challenge detects surfaces slice by slice."""
    _, _, folder = convert(method_folder(original), "submission")
    results = []
    for case in CASES:
        scan = read_scan(original / "results/toy/cases", case)
        reference = ReferenceMask.from_labels(read_ground_truth(original / "results/toy/cases", case), scan.spacing_mm, case)
        ours = score(reference, ensemble_mask(read_samples(split_folder(original, case), case)[..., :MEMBERS]))
        truth = sitk.ReadImage(str(original / f"data/{case}/wmh.nii.gz"))
        theirs = scores_on_simpleitk(truth, sitk.ReadImage(str(folder / case / "result.nii.gz")))
        for name in ("dice", "hd95_mm", "avd_percent", "lesion_recall", "lesion_f1"):
            if name == "hd95_mm" and case not in IN_SLICES:
                assert theirs[name] != pytest.approx(ours[name], rel=0, abs=0.01)
                continue
            # ITK reads direction cosines in float32, which moves the surfaces of an oblique scan by some nanometres.
            tolerance = 1e-6 if name == "hd95_mm" and case != "Utrecht-0" else 1e-9
            assert theirs[name] == pytest.approx(ours[name], rel=0, abs=tolerance), (case, name)
        assert ours["ignored_voxels"] > 0
        results.append(ours)
    assert all(0.3 < result["dice"] < 0.95 and 0 < result["lesion_f1"] < 1 for result in results)
    assert len({round(result["hd95_mm"], 6) for result in results}) == 3


# BIDS


def bids_file(folder: Path, case: str, ending: str) -> Path:
    (file,) = mask_file(folder, "bids", case).parent.glob(f"*{ending}")
    return file


def test_bids_images_hold_mean_and_variance_of_the_ensemble(original, convert):
    _, _, folder = convert(method_folder(original), "bids")
    for case in CASES:
        members = read_samples(split_folder(original, case), case)[..., :MEMBERS].astype(np.float64)
        mean = nib.load(bids_file(folder, case, "desc-pdDdpmTStart50_probseg.nii.gz"))
        variance = nib.load(bids_file(folder, case, "Uncertainty_probseg.nii.gz"))
        assert mean.get_data_dtype() == variance.get_data_dtype() == np.float32
        np.testing.assert_allclose(mean.get_fdata(), values_at_flair_voxels(original, case, members.mean(-1)), atol=1e-7)
        np.testing.assert_allclose(
            variance.get_fdata(), values_at_flair_voxels(original, case, members.var(-1, ddof=1)), atol=1e-7
        )
        assert 0 <= mean.get_fdata().min() < 0.5 < mean.get_fdata().max() <= 1
        assert 0 <= variance.get_fdata().min() < 0.01 < variance.get_fdata().max() <= 0.5
        np.testing.assert_array_equal(threshold(mean.get_fdata()), nib.load(mask_file(folder, "bids", case)).get_fdata() == 1)
        for image in (mean, variance):
            np.testing.assert_array_equal(image.affine, nib.load(original / f"data/{case}/FLAIR.nii.gz").affine)


def test_bids_file_names_follow_the_schema(original, convert):
    _, _, folder = convert(method_folder(original), "bids")
    desc = "desc-pdDdpmTStart50"
    endings = [f"{desc}Uncertainty_probseg", f"label-WMH_{desc}_mask", f"label-WMH_{desc}_probseg"]
    expected = [".pd-ddpm.json", "dataset_description.json"]
    for name in ("sub-Utrecht0", "sub-01_ses-02", "sub-c3"):
        stems = [f"{name.replace('_', '/')}/anat/{name}_space-orig_{ending}" for ending in endings]
        expected += [f"{stem}.{kind}" for stem in stems for kind in ("json", "nii.gz")]
    assert list_files(folder) == sorted(expected)
    # Order of the entities in the schema of BIDS 1.10 (rules/entities.yaml), with those that derivatives may have.
    pattern = (
        r"sub-[0-9A-Za-z]+(_ses-[0-9A-Za-z]+)?(_space-[0-9A-Za-z]+)?(_label-[0-9A-Za-z]+)?(_desc-[0-9A-Za-z]+)?"
        r"_(mask|probseg)\.(json|nii\.gz)"
    )
    images = [path for path in list_files(folder) if path.startswith("sub-")]
    assert all(re.fullmatch(pattern, path.rsplit("/", 1)[1]) for path in images)


def test_bids_sidecars_describe_each_image(original, convert):
    _, _, folder = convert(method_folder(original), "bids")
    parts = ("mask", "0_probseg", "Uncertainty_probseg")
    content = {part: json.loads(bids_file(folder, "c.3", f"{part}.json").read_text()) for part in parts}
    for sidecar in content.values():
        description = sidecar.pop("Description")
        assert "members" in description
        assert (
            sidecar.items()
            >= {
                "Manual": False,
                "SpatialReference": "bids:source:c.3/FLAIR.nii.gz",
                "Sources": ["bids:source:c.3/FLAIR.nii.gz"],
                "Method": METHOD,
                "Members": MEMBERS,
                "Case": "c.3",
                "Split": 1,
                "Seed": 0,
            }.items()
        )
        assert (sidecar.get("Type"), sidecar.get("Threshold")) == (
            ("Lesion", 0.5) if sidecar is content["mask"] else (None, None)
        )


def test_bids_dataset_description_names_method_and_sources(original, convert):
    datasets = ("--source-dataset", "doi:10.34894/AECRSD", "--source-dataset", "https://example.org/scans")
    _, _, folder = convert(method_folder(original), "bids", *datasets)
    description = json.loads((folder / "dataset_description.json").read_text())
    assert (
        description.items()
        >= {
            "Name": f"Lesions of toy, segmented by {METHOD}",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "SourceDatasets": [{"DOI": "doi:10.34894/AECRSD"}, {"URL": "https://example.org/scans"}],
        }.items()
    )
    (generated,) = description["GeneratedBy"]
    assert generated["Name"] == "pd-ddpm"
    assert re.fullmatch(r"\d+\.\d+\.\d+", generated["Version"])
    assert (folder / description["DatasetLinks"]["source"]).resolve() == (original / "data").resolve()


def test_bids_sources_start_from_the_dataset_that_holds_the_scans(clone, convert):
    (clone / "dataset_description.json").write_text("{}", encoding="utf-8")
    _, _, folder = convert(split_folder(clone, "Utrecht-0"), "bids")
    assert json.loads(bids_file(folder, "Utrecht-0", "mask.json").read_text())["Sources"] == [
        "bids:source:data/Utrecht-0/FLAIR.nii.gz"
    ]
    links = json.loads((folder / "dataset_description.json").read_text())["DatasetLinks"]
    assert (folder / links["source"]).resolve() == clone.resolve()


@pytest.mark.parametrize(
    ("case", "patient", "name"),
    [
        ("sub-01", "", "sub-01"),
        ("sub-01_ses-02", "sub-01", "sub-01_ses-02"),
        ("sub-01_ses-1_run-2", "", "sub-01_ses-1_run-2"),
        ("sub-02_acq-3D", "", "sub-02_acq-3D"),
        ("sub-02_run-1_acq-3D_ses-b", "", "sub-02_ses-b_acq-3D_run-1"),
        ("Utrecht-0", "", "sub-Utrecht0"),
        ("Utrecht-0", "Utrecht-0", "sub-Utrecht0"),
        ("a_b.c-1", "", "sub-abc1"),
        ("sub-0-1", "", "sub-sub01"),
        ("sub-01_foo-1", "", "sub-sub01foo1"),
        ("sub-01_run-1_run-2", "", "sub-sub01run1run2"),
        ("P7_TP1", "P7", "sub-P7_ses-TP1"),
        ("x.9", "sub-03", "sub-03_ses-x9"),
    ],
)
def test_bids_name_keeps_entities_and_patients(case, patient, name):
    assert bids_name(case, patient) == name


@pytest.mark.parametrize(
    ("method", "label"),
    [
        ("unet", "unet"),
        ("pd-ddpm", "pdDdpm"),
        ("pd-ddpm@t_start=50", "pdDdpmTStart50"),
        ("ddpm@reverse_steps=3@sampler=ddim", "ddpmReverseSteps3SamplerDdim"),
        ("pd-ddpm@eta=0.5", "pdDdpmEta05"),
    ],
)
def test_description_label_is_camel_case(method, label):
    assert description_label(method) == label


def rename(root: Path, case: str, name: str) -> None:
    """Rename a case in the tables and in the names of its files."""
    data = root / "results/toy"
    for table in (data / "cases.csv", data / "splits.csv", split_folder(root, case) / "predictions.csv"):
        pd.read_csv(table, dtype=str).replace({"case": {case: name}}).to_csv(table, index=False)
    for path in split_folder(root, case).glob(f"{case}[._]*"):
        path.rename(path.with_name(path.name.replace(case, name, 1)))


def test_bids_with_two_cases_of_one_name_stops(clone, convert):
    rename(clone, "c.3", "Utrecht_0")
    code, printed, folder = convert(method_folder(clone), "bids")
    assert code == 1
    assert "cases Utrecht-0, Utrecht_0: all would be sub-Utrecht0 in BIDS. Rename them in the case table." in printed
    assert not folder.exists()
    assert convert(method_folder(clone), "submission")[0] == 0


def test_bids_keeps_runs_of_one_subject_together(clone, convert):
    """Two runs of a session lie in one folder. Their names have the entities in the order of BIDS."""
    rename(clone, "c.3", "sub-01_ses-02_run-2")
    rename(clone, "Utrecht-0", "sub-02_acq-3D")
    code, printed, folder = convert(method_folder(clone), "bids")
    assert code == 0
    assert "warning" not in printed
    masks = [path for path in list_files(folder) if path.endswith("_mask.nii.gz")]
    ending = "space-orig_label-WMH_desc-pdDdpmTStart50_mask.nii.gz"
    assert masks == [
        f"sub-01/ses-02/anat/sub-01_ses-02_run-2_{ending}",
        f"sub-01/ses-02/anat/sub-01_ses-02_{ending}",
        f"sub-02/anat/sub-02_acq-3D_{ending}",
    ]


def test_bids_warns_of_names_that_only_begin_like_bids(clone, convert):
    rename(clone, "c.3", "sub-01_ses-02_baseline")
    code, printed, folder = convert(method_folder(clone), "bids")
    assert code == 0
    assert "1 case(s) begin with sub- but are not BIDS names, such as sub-01_ses-02_baseline" in printed
    assert (folder / "sub-sub01ses02baseline").is_dir()


# nnU-Net


def test_nnunet_of_a_dataset_that_is_only_tested_has_no_folds(clone, convert):
    table = clone / "results/toy/splits.csv"
    pd.read_csv(table).assign(role="test").to_csv(table, index=False)
    code, printed, folder = convert(method_folder(clone), "nnunet")
    assert code == 0
    assert "splits_final.json" not in list_files(folder)
    assert "warning" not in printed


def test_nnunet_has_masks_and_the_same_folds(original, convert):
    code, printed, folder = convert(method_folder(original), "nnunet", "--label", "lesion")
    assert code == 0
    names = [".pd-ddpm.json", "Utrecht-0.nii.gz", "c.3.nii.gz", "dataset.json", "splits_final.json", "sub-01_ses-02.nii.gz"]
    assert list_files(folder) == names
    assert json.loads((folder / "dataset.json").read_text()) == {
        "name": "toy",
        "channel_names": {"0": "FLAIR", "1": "T1"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    assert json.loads((folder / "splits_final.json").read_text()) == [
        {"train": ["c.3"], "val": ["sub-01_ses-02"]},
        {"train": ["Utrecht-0"], "val": []},
    ]
    assert "warning: split 1 has no validation cases, which nnU-Net needs in splits_final.json." in printed


# Submission


def test_submission_folders_hold_only_the_result(original, convert):
    _, _, folder = convert(method_folder(original), "submission")
    assert list_files(folder) == [".pd-ddpm.json", *(f"{case}/result.nii.gz" for case in sorted(CASES))]


# Selection of predictions


def test_convert_one_split_by_option_equals_by_folder(original, convert, tmp_path):
    code, _, by_option = convert(method_folder(original), "nnunet", "--split", "1", output=tmp_path / "option")
    assert code == 0
    code, _, by_folder = convert(method_folder(original) / "split-1_seed-0", "nnunet", output=tmp_path / "folder")
    assert code == 0
    assert list_files(by_option) == list_files(by_folder)
    assert [path for path in list_files(by_option) if path.endswith(".gz")] == ["c.3.nii.gz", "sub-01_ses-02.nii.gz"]


def test_convert_without_seed_uses_the_lowest(clone, convert, tmp_path):
    write_predictions(clone / "results/toy", METHOD, 0, 7, ["Utrecht-0"])
    code, printed, lowest = convert(method_folder(clone), "submission", "--split", "0", output=tmp_path / "lowest")
    assert (code, "seed 0, written" in printed) == (0, True)
    code, printed, seventh = convert(method_folder(clone), "submission", "--seed", "7", output=tmp_path / "seventh")
    assert (code, "1 cases of pd-ddpm@t_start=50, split 0, seed 7, written" in printed) == (0, True)
    masks = [nib.load(folder / "Utrecht-0/result.nii.gz").get_fdata() for folder in (lowest, seventh)]
    assert (masks[0] != masks[1]).any()


def test_convert_with_linked_results_works_from_any_folder(clone, convert, tmp_path, monkeypatch):
    shutil.move(clone / "results", tmp_path / "other-disk")
    (clone / "results").symlink_to(tmp_path / "other-disk", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    code, printed, folder = convert(Path("clone/results/toy/predictions") / METHOD, "submission")
    assert (code, "gone" in printed) == (0, False)
    for case in CASES:
        result, flair = nib.load(folder / case / "result.nii.gz"), nib.load(clone / f"data/{case}/FLAIR.nii.gz")
        np.testing.assert_array_equal(result.affine, flair.affine)


def test_convert_with_a_case_in_two_splits_stops(clone, convert):
    write_predictions(clone / "results/toy", METHOD, 1, 0, list(CASES))
    code, printed, folder = convert(method_folder(clone), "submission")
    assert code == 1
    assert "several splits predict the same case (1 case(s)), such as Utrecht-0 in 0, 1" in printed
    assert "Choose one of them, for instance with --split 0." in printed
    assert not folder.exists()
    assert convert(method_folder(clone), "submission", "--split", "1")[0] == 0


def remove_manifest(root: Path) -> None:
    (split_folder(root, "c.3") / "predictions.csv").unlink()


def forget_case(root: Path) -> None:
    table = root / "results/toy/cases.csv"
    table.write_text(table.read_text().replace("c.3,", "c.4,"), encoding="utf-8")


def damage_mask(root: Path) -> None:
    path = split_folder(root, "c.3") / "c.3_mask.nii.gz"
    path.write_bytes(path.read_bytes()[:-9])


def damage_scan(root: Path) -> None:
    path = root / "data/c.3/FLAIR.nii.gz"
    path.write_bytes(path.read_bytes()[:-9])


def move_scan(root: Path) -> None:
    path = root / "data/c.3/FLAIR.nii.gz"
    image = nib.load(path)
    matrix = image.affine.copy()
    matrix[0, 3] += 1
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), matrix), path)


@pytest.mark.parametrize(
    ("damage", "predictions", "arguments", "message"),
    [
        (None, "results/toy/predictions/unet", "", "unet: the folder does not exist. Give the folder of a method"),
        (
            None,
            "results/toy/predictions",
            "",
            r"predictions: it holds no predictions \(folders such as split-0_seed-0\). Give the folder",
        ),
        (None, "", "--seed 3", "holds no predictions of seed 3. Choose --seed from 0."),
        (None, "", "--split 1 4 2", "holds no predictions of split 2, 4. Choose --split from 0, 1."),
        (
            None,
            "split-0_seed-0",
            "--seed 0",
            "split-0_seed-0: the folder already selects a split and a seed. Omit --split and --seed",
        ),
        (None, "", "--to bids --label WM_H", "--label WM_H: BIDS allows letters and digits only"),
        (None, "", "--label WMH", "--to submission: the format does not use --label. Omit the option."),
        (None, "", "--to nnunet --source-dataset x", "--to nnunet: the format does not use --source-dataset. Omit the option."),
        (
            remove_manifest,
            "",
            "",
            "split-1_seed-0: predictions.csv does not exist, .* Finish it with `snakemake`, or .* --split 0.",
        ),
        (forget_case, "", "", "split-1_seed-0: cases.csv has changed since and does not list c.3. Sample the masks again"),
        (lambda root: (root / "results/toy/cases.csv").unlink(), "", "", "toy/cases.csv: the table does not exist. Convert"),
        (lambda root: (root / "results/toy/splits.csv").unlink(), "", "", "toy/splits.csv: the table does not exist. Convert"),
        (damage_mask, "", "", "c.3_mask.nii.gz: the gzip stream ends early, so the file is truncated"),
        (damage_scan, "", "", "c.3/FLAIR.nii.gz: the gzip stream ends early, so the file is truncated"),
        (move_scan, "", "", "c.3/FLAIR.nii.gz: its grid is not the one that case c.3 was segmented on, .* Restore that scan"),
    ],
)
def test_convert_with_a_fault_names_file_and_remedy(clone, convert, damage, predictions, arguments, message):
    if damage:
        damage(clone)
    folder = clone / predictions if predictions.startswith("results") else method_folder(clone) / predictions
    code, printed, _ = convert(folder, "submission", *arguments.split())
    assert code == 1
    assert re.search(f"pd-ddpm: .*{message}", printed), printed


def test_convert_without_scans_warns_and_keeps_the_stored_grid(clone, convert):
    scan = clone / "data/c.3/FLAIR.nii.gz"
    scan.unlink()
    code, printed, folder = convert(method_folder(clone), "submission")
    assert code == 0
    assert (
        f"warning: the scans of 1 case(s) do not exist any more, such as {scan}. Their images have the axis order of the"
        in printed
    )
    kept, stored = nib.load(folder / "c.3/result.nii.gz"), nib.load(split_folder(clone, "c.3") / "c.3_mask.nii.gz")
    np.testing.assert_array_equal(kept.affine, stored.affine)
    np.testing.assert_array_equal(kept.get_fdata(), stored.get_fdata())
    other, flair = nib.load(folder / "sub-01_ses-02/result.nii.gz"), nib.load(clone / "data/sub-01_ses-02/FLAIR.nii.gz")
    np.testing.assert_array_equal(other.affine, flair.affine)


# Output folder


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in list_files(folder)}


@pytest.mark.parametrize("to", FORMATS)
def test_convert_after_an_interruption_completes_the_files(original, convert, tmp_path, monkeypatch, to):
    _, _, whole = convert(method_folder(original), to, output=tmp_path / "whole")
    write, written = conversion.write_image, []

    def write_one(path: Path, *arguments: object) -> None:
        if written:
            path.parent.mkdir(exist_ok=True)
            path.with_name(f".partial.{path.name}").write_bytes(b"half")
            raise OSError("no space left")
        written.append(path)
        write(path, *arguments)

    monkeypatch.setattr(conversion, "write_image", write_one)
    code, printed, folder = convert(method_folder(original), to)
    assert (code, "no space left" in printed) == (1, True)
    assert len([name for name in list_files(folder) if name.endswith(".nii.gz") and "partial" not in name]) == 1
    monkeypatch.undo()
    assert convert(method_folder(original), to)[0] == 0
    assert contents(folder) == contents(whole)


def test_convert_again_with_fewer_cases_removes_the_others(original, convert):
    _, _, folder = convert(method_folder(original), "bids")
    (folder / ".bidsignore").write_text("*.md", encoding="utf-8")
    code, _, _ = convert(method_folder(original), "bids", "--split", "0")
    assert code == 0
    assert {name.split("/")[0] for name in list_files(folder)} == {
        *(".bidsignore", ".pd-ddpm.json", "dataset_description.json", "sub-Utrecht0")
    }
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["sub-Utrecht0"]


def test_convert_into_a_folder_with_other_files_stops(original, convert, tmp_path):
    folder = tmp_path / "converted"
    (folder / "notes").mkdir(parents=True)
    (folder / "notes/a.txt").write_text("mine", encoding="utf-8")
    code, printed, _ = convert(method_folder(original), "nnunet")
    assert code == 1
    assert (
        f"{folder}: it holds 1 file(s) that are not part of a conversion, such as notes/a.txt. Choose a new or empty" in printed
    )
    assert list_files(folder) == ["notes/a.txt"]


def test_convert_into_another_conversion_stops(original, convert):
    _, _, folder = convert(method_folder(original), "submission")
    before = contents(folder)
    code, printed, _ = convert(method_folder(original), "nnunet")
    assert code == 1
    assert (
        f"{folder}: it holds another conversion (format submission, dataset toy, method {METHOD}, seed 0). Choose another "
        "folder, or remove this one."
    ) in printed
    assert contents(folder) == before


def test_convert_with_a_damaged_record_or_a_file_as_folder_stops(original, convert, tmp_path):
    _, _, folder = convert(method_folder(original), "submission")
    (folder / ".pd-ddpm.json").write_text("{", encoding="utf-8")
    code, printed, _ = convert(method_folder(original), "submission")
    assert (code, ".pd-ddpm.json: it is damaged. Remove the folder, or choose another one." in printed) == (1, True)
    (tmp_path / "file").write_text("", encoding="utf-8")
    code, printed, _ = convert(method_folder(original), "submission", output=tmp_path / "file")
    assert (code, f"{tmp_path / 'file'}: it is a file. Give a folder." in printed) == (1, True)


def test_convert_help_names_the_formats(capsys):
    with pytest.raises(SystemExit) as end:
        main(["convert", "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert all(f"--to {to} " in printed for to in FORMATS)
    assert max(map(len, printed.splitlines())) <= 128
