"""Cases and sites called NA, null or 001 reach splits, scores, Table 1 and Figure 2 unchanged. About 2 s."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROLES

from pd_ddpm.data.cases.table import complete_table, read_table, write_table
from pd_ddpm.data.nifti.read import read_image
from pd_ddpm.data.prepared import cases_by_role, read_ground_truth
from pd_ddpm.data.splits import make_splits
from pd_ddpm.evaluation.metrics import dice
from pd_ddpm.evaluation.score_cases import score_cases
from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.exhibits.figures.fig2_cases import fig2_numbers, read_figure_cases
from pd_ddpm.exhibits.tables.table1 import table1_groups
from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.prediction_store import PredictionFolder, write_manifest
from pd_ddpm.runtime.sealed_tables import read_sealed_csv, write_sealed_csv

# Case -> site.
NAMES = {"NA": "001", "null": "NA", "001": "null"}
EVALUATION = yaml.safe_load((Path(__file__).parents[2] / "config" / "config.yaml").read_text(encoding="utf-8"))["evaluation"]


@pytest.fixture
def cases(prepared: Path) -> Path:
    """The table of three prepared cases with these names."""
    for case, name in zip(ROLES, NAMES, strict=False):
        for file in prepared.glob(f"{case}_*.nii.gz"):
            file.rename(prepared / file.name.replace(case, name))
    write_sealed_csv(pd.DataFrame(NAMES.items(), columns=["case", "site"]), prepared / "prepared.csv")
    return prepared / "prepared.csv"


@pytest.fixture
def predictions(tmp_path: Path, cases: Path) -> Path:
    """The table of predictions of these cases: two members, equal to the ground truth without its first slices."""
    folder = tmp_path / "predictions"
    store = PredictionFolder(folder, "stamp")
    for case in NAMES:
        mask = read_ground_truth(cases.parent, case) == 1
        mask[..., :3] = False
        store.write(case, np.stack([mask] * 2, axis=-1).astype(np.float32), 2, image_of(cases, case), Cost())
    record = {"stamp": "stamp", "cases": list(NAMES), "method": {"generator": {}, "provenance": {"seconds": 1.0}}}
    write_manifest(folder / "predictions.csv", folder / "method.json", list(NAMES), [record])
    return folder / "predictions.csv"


def image_of(cases: Path, case: str):
    return read_image(cases.parent / f"{case}_brain.nii.gz", mask=True)


def test_splits_keep_unusual_names(tmp_path: Path) -> None:
    table = complete_table(pd.DataFrame(NAMES.items(), columns=["case", "site"]).assign(mask="m", patient=""), ["FLAIR"])
    write_table(table, tmp_path / "cases.csv")
    written = read_table(tmp_path / "cases.csv")
    assert dict(zip(written["case"], written["site"], strict=True)) == NAMES
    write_sealed_csv(make_splits(written, folds=3, splits=range(3)), tmp_path / "splits.csv")
    splits = read_sealed_csv(tmp_path / "splits.csv")
    assert dict(zip(splits["case"], splits["site"], strict=True)) == NAMES
    assert splits["patient"].tolist() == splits["case"].tolist()
    tested = [cases_by_role(tmp_path / "splits.csv", split)["test"] for split in range(3)]
    assert sorted(case for (case,) in tested) == sorted(NAMES)


def test_scores_and_exhibits_keep_unusual_names(tmp_path: Path, cases: Path, predictions: Path) -> None:
    identity = {"dataset": "own", "method": "unet", "split": 0, "seed": 0}
    scores = score_cases(cases, predictions, predictions.with_name("method.json"), identity, EVALUATION)
    write_sealed_csv(scores, tmp_path / "scores.csv")
    scores = read_scores([tmp_path / "scores.csv"])
    assert dict(zip(scores["case"], scores["site"], strict=True)) == NAMES
    for case, score in scores.set_index("case")["dice"].items():
        truth = read_ground_truth(cases.parent, case) == 1
        assert score == pytest.approx(dice(truth, truth & (np.arange(truth.shape[2]) >= 3)))

    write_sealed_csv(table1_groups(scores, {"unet": "U-Net"}), tmp_path / "groups.csv")
    groups = read_sealed_csv(tmp_path / "groups.csv").query("grouping == 'site'")
    by_site = scores.set_index("site")["dice"].to_dict()
    assert dict(zip(groups["group"], groups["dice"], strict=True)) == pytest.approx(by_site)

    chosen = read_figure_cases(scores, cases.parent, {"unet": str(predictions)}, {"unet": "U-Net"}, len(NAMES))
    write_sealed_csv(fig2_numbers(chosen), tmp_path / "fig2.csv")
    pixels = read_sealed_csv(tmp_path / "fig2.csv").drop_duplicates("case")
    assert dict(zip(pixels["case"], pixels["site"], strict=True)) == NAMES
