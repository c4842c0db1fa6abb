"""Label maps with several classes: cases, checks, preprocessing, working grid (some seconds)."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from pd_ddpm.data.cases.brats import label_recoding
from pd_ddpm.data.cases.find import find_cases
from pd_ddpm.data.cases.table import CohortError
from pd_ddpm.data.check.dataset import check_cases
from pd_ddpm.data.check.report import Requirements
from pd_ddpm.data.label_maps import class_index, classes_to_text, one_hot, parse_classes
from pd_ddpm.data.preparation.case import prepare_cohort
from pd_ddpm.data.prepared import read_ground_truth
from pd_ddpm.data.working_grid import GridSettings, WorkingGrid
from pd_ddpm.training.patches import as_batch

CLASSES = {1: "CSF", 2: "grey matter", 4: "white matter"}
AFFINE = np.diag([4.0, 4.0, 6.0, 1.0])


def write_dataset(folder: Path, labels: list[np.ndarray], description: dict) -> None:
    """Write a raw dataset of nnU-Net whose scans are ellipsoids."""
    random = np.random.default_rng(0)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for number, label_map in enumerate(labels):
        scan = (200 * (label_map > 0) + random.normal(0, 5, label_map.shape)).clip(0).astype(np.float32)
        nib.save(nib.Nifti1Image(scan, AFFINE), folder / "imagesTr" / f"p{number}_0000.nii.gz")
        nib.save(nib.Nifti1Image(label_map, AFFINE), folder / "labelsTr" / f"p{number}.nii.gz")
    content = {"channel_names": {"0": "T1"}, "labels": description, "numTraining": len(labels), "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")


def head(white_matter: int = 4, csf: int = 1) -> np.ndarray:
    x, y, z = np.indices((40, 46, 14))
    distance = np.sqrt(((x - 20) / 17) ** 2 + ((y - 23) / 21) ** 2 + ((z - 7) / 6) ** 2)
    return np.select([distance < 0.3, distance < 0.8, distance < 1], [csf, white_matter, 2], 0).astype(np.uint8)


def settings(folder: Path) -> dict:
    return {"layout": "nnunet", "folder": str(folder), "channels": ["T1"], "classes": CLASSES}


DESCRIPTION = {"background": 0, "CSF": 1, "GM": 2, "WM": 4}


def requirements(folder: Path) -> Requirements:
    return Requirements(("T1",), None, None, (8, 8), None, settings(folder))


def test_classes_survive_the_way_through_a_cell() -> None:
    assert parse_classes(classes_to_text(CLASSES)) == CLASSES
    assert parse_classes("") == {}


def test_class_index_and_one_hot_number_the_labels() -> None:
    index = class_index(np.array([0, 4, 2, 1], np.uint8), list(CLASSES))
    assert index.tolist() == [0, 3, 2, 1]
    assert one_hot(index, 4).argmax(axis=-1).tolist() == [0, 3, 2, 1]


def test_find_cases_names_the_classes_of_each_case_by_its_labels(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", [head()], DESCRIPTION)
    table = find_cases("datasets.a", settings(tmp_path / "a"))
    assert label_recoding(table.iloc[0]) == {0: 0, 1: 1, 2: 2, 4: 4}


def test_find_cases_refuses_labels_of_nnunet_without_a_class(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", [head()], DESCRIPTION | {"ventricles": 3})
    with pytest.raises(CohortError, match=r"`datasets\.a\.classes` names 1, 2, 4\. Name every label but 0"):
        find_cases("datasets.a", settings(tmp_path / "a"))


def test_check_names_unknown_labels_and_missing_classes(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", [head(csf=2), head(white_matter=5, csf=2)], DESCRIPTION)
    table = find_cases("datasets.a", settings(tmp_path / "a"))
    report = check_cases(table, requirements(tmp_path / "a"), tmp_path)
    text = " ".join(report.text().split())
    assert "voxels hold 5, but a mask may hold only 0, 1, 2 and 4" in text
    assert "no mask has a voxel of label 1 (CSF), so there is nothing to learn" in text
    notes = [finding for finding in report.findings if finding.severity == "note"]
    assert any("no voxel has label 1 (CSF)" in finding.finding for finding in notes)


def test_prepare_keeps_label_maps_and_lists_the_volume_of_each_class(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", [head()], DESCRIPTION)
    table = find_cases("datasets.a", settings(tmp_path / "a"))
    manifest = prepare_cohort(table, ["T1"], tmp_path / "cases")
    assert np.array_equal(read_ground_truth(tmp_path / "cases", "p0", tuple(CLASSES)), head())
    ml = 4 * 4 * 6 / 1000
    for label in CLASSES:
        assert manifest[f"label_{label}_ml"].item() == pytest.approx((head() == label).sum() * ml, abs=1e-4)
    assert manifest["foreground_ml"].item() == pytest.approx((head() > 0).sum() * ml, abs=1e-4)
    # Without classes the same file is a mask of lesions with an invalid label.
    plain = pd.DataFrame(table).drop(columns="classes")
    with pytest.raises(ValueError, match=r"voxels hold 4.*name its labels in `classes`"):
        prepare_cohort(plain, ["T1"], tmp_path / "plain")


def test_label_fractions_of_classes_and_background_add_up_and_padding_is_ignored() -> None:
    brain = head() > 0
    grid, _ = GridSettings(7.0, "slice", 0.0, 0.1, padded_size=(32, 32)).working_grid(brain, (4.0, 4.0, 6.0))
    fractions = grid.label_fractions(head(), tuple(CLASSES))
    assert fractions.shape == (14, 4, 32, 32)
    batch = as_batch(torch.zeros(14, 1, 32, 32), fractions, has_classes=True)
    torch.testing.assert_close(batch.mask.sum(dim=1), torch.ones(14, 32, 32), rtol=0, atol=1e-5)
    height, width = round(40 * 4 / 7), round(46 * 4 / 7)
    assert int(batch.loss_mask.sum()) == 14 * height * width
    unpadded = WorkingGrid.from_brain(brain, (4.0, 4.0, 6.0), 7.0, "slice", 0.0)
    for number, label in enumerate(CLASSES):
        torch.testing.assert_close(
            fractions[:, number][batch.loss_mask[:, 0] > 0], unpadded.slices(head() == label)[:, 0].flatten()
        )
