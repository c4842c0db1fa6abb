"""Who provides the scans of a dataset: the workflow or the user."""

from pathlib import Path
from typing import Any

import pytest

from pd_ddpm.data.cases.origin import completion_files, is_downloaded, user_files


@pytest.fixture
def source(tmp_path: Path) -> dict[str, Any]:
    return {"layout": "wmh_challenge", "folder": str(tmp_path), "channels": ["FLAIR", "T1"], "download": {"doi": "10.1/X"}}


def add_case(folder: Path) -> Path:
    mask = folder / "training" / "Utrecht" / "0" / "wmh.nii.gz"
    mask.parent.mkdir(parents=True)
    mask.touch()
    return mask


def test_empty_folder_is_downloaded(source: dict[str, Any], tmp_path: Path) -> None:
    assert is_downloaded(source)
    assert completion_files(source) == [f"{tmp_path}/downloaded.json"]
    assert user_files(source) == []
    assert not is_downloaded(source | {"download": None})


def test_scans_of_the_user_are_left_alone(source: dict[str, Any], tmp_path: Path) -> None:
    mask = add_case(tmp_path)
    assert not is_downloaded(source)
    assert completion_files(source) == []
    assert user_files(source) == [str(mask)]
    assert is_downloaded(source | {"part": "held_out"})  # of which there are no scans yet


@pytest.mark.parametrize("record", ["dataverse.json", "downloaded.json"])
def test_download_that_has_begun_goes_on(source: dict[str, Any], tmp_path: Path, record: str) -> None:
    add_case(tmp_path)
    (tmp_path / record).touch()
    assert is_downloaded(source)
    assert user_files(source) == []


def test_simulated_dataset_ends_with_its_record() -> None:
    assert completion_files({"folder": "data/phantom", "simulate": {"seed": 0}}) == ["data/phantom/simulated.json"]
