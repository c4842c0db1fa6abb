"""Layouts of three data sets of ImgX-DiffSeg in made-up folders: names, roles, PNG images, and what is missing."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pd_ddpm.data.cases import brats, imgx
from pd_ddpm.data.cases.find import case_files, find_cases, layout_of, tables_of_cases
from pd_ddpm.data.cases.table import CohortError
from pd_ddpm.data.nifti.geometry import ImageError, spacing_mm
from pd_ddpm.data.nifti.read import read_image, read_labels


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def write_png(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode or "L").save(path)
    return path


def settings(layout: str, folder: Path, **keys: Any) -> dict[str, Any]:
    return {"layout": layout, "folder": str(folder), "channels": ["US"]} | keys


@pytest.fixture
def muscle(tmp_path: Path) -> Path:
    """Published folders: two images of one subject, one of each other role, an image without mask, and a mask without image."""
    folder = tmp_path / "muscle"
    root = folder / "Polito-Radboud-DeepLearningUS/Segmentation_models/data/MuscleCNN"
    for part, names in (
        ("train", ("BB_anon_1_1", "TA_anon_1_2")),
        ("val", ("GM_anon_7_1",)),
        ("test", ("BB_anon_12_3",)),
    ):
        for name in names:
            touch(root / part / f"{name}.png")
            touch(root / f"{part}annot" / f"{name}.png")
    touch(root / "train" / "BB_anon_3_1.png")
    touch(root / "testannot" / "BB_anon_4_1.png")
    touch(folder / "readme" / "figure.png")
    return folder


def write_amos(root: Path, training: list[int], validation: list[int]) -> Path:
    def pairs(part: str, numbers: list[int]) -> list[dict[str, str]]:
        files = [
            {"image": f"./images{part}/amos_{n:04d}.nii.gz", "label": f"./labels{part}/amos_{n:04d}.nii.gz"} for n in numbers
        ]
        for path in (path for pair in files for path in pair.values()):
            touch(root / path)
        return files

    content = {"name": "AMOS", "training": pairs("Tr", training), "validation": pairs("Va", validation)}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def write_pelvic(folder: Path, sizes: dict[str, int]) -> list[list[str]]:
    """Write the files of institutions whose cases alternate in the list; return case and institution of each line."""
    remaining, lines = dict(sizes), []
    while any(remaining.values()):
        for name in [name for name, count in remaining.items() if count]:
            remaining[name] -= 1
            lines.append([f"{len(lines):06d}", name])
    for case, _ in lines:
        touch(folder / "data" / f"{case}_img.nii")
        touch(folder / "data" / f"{case}_mask.nii")
    (folder / "institution.txt").write_text("".join(f"{case} {name}\n" for case, name in lines))
    return lines


def test_muscle_images_have_the_roles_of_their_folders(muscle: Path) -> None:
    table = find_cases("datasets.muscle", settings("muscle_us", muscle, roles="imgx"))
    assert dict(zip(table["case"], table["role"], strict=True)) == {
        "BB_anon_1_1": "train",
        "TA_anon_1_2": "train",
        "GM_anon_7_1": "validation",
        "BB_anon_12_3": "test",
    }
    for case in table.to_dict("records"):
        assert (
            Path(case["mask"]) == Path(case["US"]).parents[1] / f"{Path(case['US']).parent.name}annot" / f"{case['case']}.png"
        )
    assert layout_of(muscle) == "muscle_us"
    assert len(case_files(settings("muscle_us", muscle))) == 10


def test_muscle_images_of_a_subject_are_one_patient_if_folds_are_made(muscle: Path) -> None:
    touch(muscle / "x/train/other.png")
    touch(muscle / "x/trainannot/other.png")
    table = find_cases("datasets.muscle", settings("muscle_us", muscle))
    assert (table["role"] == "").all()
    patients = dict(zip(table["case"], table["patient"], strict=True))
    assert patients["BB_anon_1_1"] == patients["TA_anon_1_2"] == "anon_1"
    assert patients["other"] == ""


def test_amos_drops_mr_and_splits_its_validation_cases(tmp_path: Path) -> None:
    """The counts of the release: 200 and 100 CT scans, and 40 and 20 MR scans with numbers above 500."""
    training, validation = list(range(1, 201)), [*range(301, 400), 500]
    write_amos(tmp_path / "amos22", [*training, *range(501, 541)], [*validation, *range(541, 561)])
    table = find_cases("datasets.amos", settings("amos", tmp_path, roles="imgx"))
    assert Counter(table["role"]) == {"train": 200, "validation": 10, "test": 90}
    assert table.loc[table["role"] == "validation", "case"].tolist() == [f"amos_{n:04d}" for n in range(301, 311)]
    first = table.iloc[0]
    assert Path(first["US"]).resolve() == (tmp_path / "amos22/imagesTr/amos_0001.nii.gz").resolve()
    assert Path(first["mask"]).resolve() == (tmp_path / "amos22/labelsTr/amos_0001.nii.gz").resolve()
    assert (find_cases("datasets.amos", settings("amos", tmp_path))["role"] == "").all()
    assert layout_of(tmp_path) == layout_of(tmp_path / "amos22") == "amos"
    assert tables_of_cases(settings("amos", tmp_path)) == [str(tmp_path / "amos22/dataset.json")]


def test_pelvic_roles_equal_slices_of_each_institution(tmp_path: Path) -> None:
    sizes = {"UCL": 41, "bergen": 23, "Rutgers": 6}
    lines = write_pelvic(tmp_path, sizes)
    table = find_cases("datasets.pelvic", settings("male_pelvic", tmp_path, roles="imgx"))
    roles = dict(zip(table["case"], table["role"], strict=True))
    for name, size in sizes.items():
        cases = [case for case, institution in lines if institution == name]
        stop = int(0.75 * size - 2)
        assert {roles[case] for case in cases[:2]} == {"validation"}
        assert all(roles[case] == "train" for case in cases[2:stop])
        assert {roles[case] for case in cases[stop:]} == {"test"}
        assert set(table.loc[table["site"] == name, "case"]) == set(cases)
    # 41: 2 + 26 + 13; 23: 2 + 13 + 8; 6: 2 + 0 + 4.
    assert Counter(roles.values()) == {"validation": 6, "train": 39, "test": 25}
    assert layout_of(tmp_path) == "male_pelvic"


def test_pelvic_institution_with_few_cases_has_no_roles(tmp_path: Path) -> None:
    write_pelvic(tmp_path, {"UCL": 8, "Rutgers": 5})
    with pytest.raises(CohortError, match=r"institution Rutgers: has 5 cases, but the roles need 6 or more"):
        find_cases("datasets.pelvic", settings("male_pelvic", tmp_path, roles="imgx"))
    assert len(find_cases("datasets.pelvic", settings("male_pelvic", tmp_path))) == 13


def test_brats_roles_of_imgx_follow_sorted_names(tmp_path: Path) -> None:
    names = [f"BraTS2021_{number:05d}" for number in range(0, 2502, 2)]
    assert Counter(brats._imgx_roles()) == {"train": 938, "validation": 31, "test": 282}
    assert not brats._imgx_role_problems(names, "datasets.brats")
    for part in ("flair", "seg"):
        touch(tmp_path / names[0] / f"{names[0]}_{part}.nii.gz")
    with pytest.raises(CohortError, match=r"1251 cases of BraTS 2021, but there are 1\. Complete"):
        brats.find_brats_cases(tmp_path, ["FLAIR"], roles="imgx")
    (problem,) = brats._imgx_role_problems(["BraTS20_Training_001", *names[1:]], "datasets.brats")
    assert "there are 1250, and 1 others such as BraTS20_Training_001" in str(problem)


@pytest.mark.parametrize(
    ("layout", "missing"),
    [("muscle_us", "trainannot"), ("amos", r"amos22/dataset\.json"), ("male_pelvic", r"institution\.txt")],
)
def test_missing_data_name_the_download(layout: str, missing: str, tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=rf"{missing}.*Let the workflow download the data \(`datasets\.x\.download`\)"):
        find_cases("datasets.x", settings(layout, tmp_path))
    with pytest.raises(CohortError, match="the folder does not exist"):
        find_cases("datasets.x", settings(layout, tmp_path / "nowhere"))
    with pytest.raises(CohortError, match=r"datasets\.x\.channels: it names A, B, but this data set has one channel"):
        find_cases("datasets.x", settings(layout, tmp_path, channels=["A", "B"]))


def test_missing_and_damaged_files_of_a_list_are_named(tmp_path: Path) -> None:
    root = write_amos(tmp_path / "amos22", [1, 2], [301, 302])
    (root / "labelsVa/amos_0302.nii.gz").unlink()
    with pytest.raises(CohortError, match=r"case amos_0302, .*labelsVa/amos_0302\.nii\.gz: the file does not exist"):
        find_cases("datasets.amos", settings("amos", tmp_path))
    (root / "dataset.json").write_text('{"training": [{"image": "./imagesTr/x.nii.gz", "label": "y"}], "validation": []}')
    with pytest.raises(CohortError, match=r"imagesTr/x\.nii\.gz is not named as amos_0001\.nii\.gz"):
        find_cases("datasets.amos", settings("amos", tmp_path))
    (tmp_path / "institution.txt").write_text("000001 UCL\n000002\n")
    with pytest.raises(CohortError, match="line 2 is no case and its institution"):
        imgx.find_pelvic_cases(tmp_path, ["T2"])


def test_read_png_has_columns_rows_and_one_slice(tmp_path: Path) -> None:
    pixels = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64)
    for mode in ("L", "RGB"):
        image = read_image(write_png(tmp_path / f"{mode}.png", pixels, mode))
        assert image.shape == (64, 48, 1)
        np.testing.assert_array_equal(np.asarray(image.dataobj)[..., 0], pixels.T)
        assert spacing_mm(image) == (1.0, 1.0, 1.0)
    # Shown with the patient's left to the right and anterior on top, the image is upright.
    np.testing.assert_array_equal(image.affine[:3, :3], np.diag([-1.0, -1.0, 1.0]))
    deep = (pixels.astype(np.uint16) * 257)[:, :4]
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "deep.png").dataobj)[..., 0], deep.T)


@pytest.mark.parametrize("values", [(0, 255), (0, 1)])
def test_white_of_a_png_mask_is_label_one(values: tuple[int, int], tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[3:9, 5:8] = 1
    path = write_png(tmp_path / "mask.png", np.array(values, np.uint8)[mask])
    labels, _ = read_labels(path)
    np.testing.assert_array_equal(labels[..., 0], mask.T)


def test_unusable_png_names_its_fault(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    path = write_png(tmp_path / "a.png", pixels, "RGB")
    with pytest.raises(ImageError, match=r"is coloured\. Convert it to grey values"):
        read_image(path)
    Image.fromarray(pixels[..., 0]).save(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(path)
    with pytest.raises(ImageError, match="is not a PNG image"):
        read_image(touch(tmp_path / "b.png"))
    with pytest.raises(ImageError, match="the file does not exist"):
        read_image(tmp_path / "c.png")
    Image.fromarray(pixels[..., 0]).save(path)
    with pytest.raises(ImageError, match="a mask may hold only"):
        read_labels(path)
