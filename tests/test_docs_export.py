"""The script in docs/your_data.md that writes a raw dataset of nnU-Net, run on prepared cases (below 1 s)."""

import re
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from pd_ddpm.data.cases.find import find_cases

DOCS = Path(__file__).parents[1] / "docs" / "your_data.md"


def test_script_for_nnunet_writes_a_raw_dataset(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (script,) = re.findall("```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    results = tmp_path / "results" / "phantom"
    results.mkdir(parents=True)
    (results / "cases").symlink_to(prepared)
    (results / "splits.csv").symlink_to(prepared / "splits.csv")
    monkeypatch.chdir(tmp_path)
    exec(script, {})
    raw = tmp_path / "nnUNet_raw" / "Dataset501_WMH"
    settings = {"layout": "nnunet", "folder": str(raw), "channels": ["FLAIR", "T1"]}
    table = find_cases("datasets.raw", settings)
    assert sorted(table["case"]) == sorted(pd.read_csv(prepared / "splits.csv")["case"])
    expected = nibabel.load(prepared / "four_image.nii.gz").get_fdata()
    for number in (0, 1):
        np.testing.assert_array_equal(
            nibabel.load(raw / f"imagesTr/four_000{number}.nii.gz").get_fdata(), expected[..., number]
        )
    assert '"train": ["one", "two"], "val": ["three"]' in (raw / "splits_final.json").read_text(encoding="utf-8")
