"""Means of stored ensembles: probabilities, members, cost, and a run that is killed and resumed (about 2 s)."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from pd_ddpm.config.run import Run
from pd_ddpm.inference import average
from pd_ddpm.inference.average import AveragedPredictions, AverageJob, average_predictions, mean_of_ensembles
from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.prediction_store import PredictionFolder, read_predictions, read_samples, write_manifest
from pd_ddpm.runtime.run_record import run_record
from pd_ddpm.runtime.sealed_tables import write_sealed_csv

CASES = ["four", "five"]
STEP = 1 / 255  # stored probabilities


def test_mean_of_ensembles_averages_members_of_equal_number() -> None:
    ensembles = [np.array([[0.0, 0.5, 1.0]]), np.array([[1.0, 0.5, 0.0]])]
    assert mean_of_ensembles(ensembles).tolist() == [[0.5, 0.5, 0.5]]


def test_mean_of_ensembles_has_the_mean_of_the_probability_maps_for_any_number_of_members() -> None:
    random = np.random.default_rng(0)
    ensembles = [random.random((3, 4, 2, members)).astype(np.float32) for members in (5, 1, 3)]
    mean = mean_of_ensembles(ensembles)
    assert mean.shape == (3, 4, 2, 5)
    expected = np.mean([members.astype(float).mean(axis=-1) for members in ensembles], axis=0)
    np.testing.assert_allclose(mean.mean(axis=-1), expected, atol=1e-7)
    # Only the members of the largest ensemble vary, each with a third of its weight.
    np.testing.assert_allclose(mean.var(axis=-1), ensembles[0].astype(float).var(axis=-1) / 9, atol=1e-7)


@pytest.fixture
def averaged(prepared: Path, tmp_path: Path) -> dict[str, AveragedPredictions]:
    """Stored predictions of an ensemble of three (and a fourth stored member) and of the one mask that it starts from."""
    (prepared / "prepared.csv").write_text("case,site\none,s\nfour,s\nfive,s\n", encoding="utf-8")
    template = nib.load(prepared / "four_brain.nii.gz")
    members = {"pd": np.array([0.2, 0.4, 0.6, 1.0]), "start": np.array([0.8])}
    costs = {"pd": Cost(1, 20, 0.5, 2.0), "start": Cost(0, 1, 0.25, 0.25)}
    parts = {}
    for name, values in members.items():
        folder = Run("dataset", name, 0, 0).folder(tmp_path, "predictions")
        store, pool = PredictionFolder(folder, f"stamp of {name}"), np.broadcast_to(values, (*template.shape, len(values)))
        records = [store.write(case, pool, min(3, len(values)), template, costs[name]) for case in CASES]
        metadata = {"method": name, "presegmentation": None, "settings": {}}
        metadata |= run_record({}, "", device="a GPU", precision="float32", seconds=1.0)
        shard = {"stamp": store.fingerprint, "cases": records, "method": metadata}
        write_manifest(folder / "predictions.csv", folder / "method.json", CASES, [shard])
        parts[name] = AveragedPredictions(folder / "predictions.csv")
    return parts


def job(prepared: Path, tmp_path: Path, parts: list[AveragedPredictions], **settings: object) -> AverageJob:
    folder = Run("dataset", "mean", 0, 0).folder(tmp_path, "predictions")
    return AverageJob(
        run=Run("dataset", "mean", 0, 0),
        settings={"segmenter": "mean", **settings},
        parts=tuple(parts),
        cases=prepared / "prepared.csv",
        predictions=folder / "predictions.csv",
        method_metadata=folder / "method.json",
        code="",
        config={},
    )


def test_average_predictions_writes_members_mask_and_cost(prepared: Path, tmp_path: Path, averaged: dict) -> None:
    mean = job(prepared, tmp_path, list(averaged.values()))
    average_predictions(mean)
    records = read_predictions(mean.predictions)
    assert list(records.index) == CASES
    assert records["samples"].tolist() == records["pool"].tolist() == [3, 3]
    # The fourth stored member is not part of the ensemble.
    np.testing.assert_allclose(read_samples(mean.predictions.parent, "five")[3, 2, 1], [0.5, 0.6, 0.7], atol=STEP)
    assert nib.load(mean.predictions.parent / "five_mask.nii.gz").get_fdata().all()
    assert Cost.from_record(records.loc["four"]) == Cost(2, 20, 1.0, 2.0)
    metadata = json.loads(mean.method_metadata.read_text(encoding="utf-8"))
    assert (metadata["method"], metadata["network"], metadata["generator"]) == ("mean", None, {})
    assert metadata["made_from"]["summary"]["mixed"] == []
    assert (metadata["provenance"]["device"], metadata["provenance"]["precision"]) == ("a GPU", "float32")
    runs = [run["file"] for run in metadata["made_from"]["runs"]]
    assert runs == [f"dataset/predictions/{name}/split-0_seed-0/method.json" for name in ("pd", "start")]


def test_cost_of_a_presegmentation_counts_once(prepared: Path, tmp_path: Path, averaged: dict) -> None:
    averaged["pd"].method["presegmentation"] = "start"
    mean = job(prepared, tmp_path, list(averaged.values()))
    average_predictions(mean)
    assert Cost.from_record(read_predictions(mean.predictions).loc["four"]) == Cost(1, 20, 0.5, 2.0)


def test_average_predictions_resumes_and_repeats_what_has_changed(
    prepared: Path, tmp_path: Path, averaged: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = list(averaged.values())
    mean = job(prepared, tmp_path, parts)
    average_predictions(mean)
    first, second = (mean.predictions.parent / f"{case}_mask.nii.gz" for case in CASES)
    second.write_bytes(b"")  # as after a killed write
    computed = []
    original = average.mean_of_ensembles
    monkeypatch.setattr(average, "mean_of_ensembles", lambda members: computed.append(1) or original(members))
    unchanged = first.stat().st_mtime_ns
    average_predictions(mean)
    assert (len(computed), first.stat().st_mtime_ns) == (1, unchanged)
    assert nib.load(second).get_fdata().all()
    table = pd.read_csv(parts[0].manifest).assign(stamp="another sampling")
    write_sealed_csv(table, parts[0].manifest)
    average_predictions(job(prepared, tmp_path, [AveragedPredictions(part.manifest) for part in parts]))
    assert len(computed) == 3


def test_average_predictions_rejects_methods_with_different_cases(prepared: Path, tmp_path: Path, averaged: dict) -> None:
    table = pd.read_csv(averaged["start"].manifest)
    write_sealed_csv(table[table["case"] == "four"], averaged["start"].manifest)
    with pytest.raises(ValueError, match=r"start.*has not the same cases as .*pd.* \(five\)\. Sample both methods again"):
        average_predictions(job(prepared, tmp_path, list(averaged.values())))
