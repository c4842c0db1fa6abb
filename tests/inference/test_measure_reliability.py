"""Reliability of a pre-segmenter on validation cases, counted again voxel by voxel (about 1 s)."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pd_ddpm.config.run import Run
from pd_ddpm.inference.job import ReliabilityJob, SampleJob
from pd_ddpm.inference.measure_reliability import measure_reliability
from pd_ddpm.inference.prediction_store import PredictionFolder
from pd_ddpm.inference.sample_cases import sample_cases
from pd_ddpm.inference.shards import sample_all
from pd_ddpm.runtime.problem import ProblemError

SMALL = {"channels": [4, 4, 8, 8, 16]}
DENOISER = {"channels": 8, "multipliers": [1, 2], "attention_at": [2], "residual_blocks": 1, "predicts": "mask"}


@pytest.fixture
def job(prepared: Path, random_network: Callable, configured: Callable) -> ReliabilityJob:
    return ReliabilityJob(
        run=Run("dataset", "unet", 0, 7),
        settings={"weights": "raw"},
        cases=prepared / "prepared.csv",
        splits=prepared / "splits.csv",
        device="cpu",
        threads=1,
        code="hash",
        **random_network(configured("network", "unet", **SMALL), "unet"),
    )


def test_rates_are_those_of_stored_masks_within_the_brain_without_label_2(
    job: ReliabilityJob, script: Callable, sample_job: Callable[..., SampleJob], configured: Callable, tmp_path: Path
) -> None:
    script("reliability")(job, record=str(tmp_path / "reliability.json"))
    record = json.loads((tmp_path / "reliability.json").read_text(encoding="utf-8"))
    assert (record["cases"], record["weights"], record["network"], record["code"]) == (["three"], "raw", "unet", "hash")
    settings = configured("method", "unet", pool=1)
    sampled = sample_job(
        tmp_path / "out", "unet", settings, batch=4, weights=job.weights, network_metadata=job.network_metadata
    )
    validated = job.splits.read_text(encoding="utf-8").replace("test", "train").replace("validation", "test")
    sampled.splits.write_text(validated, encoding="utf-8")
    sample_cases(sampled)
    mask, brain, labels = (
        np.asarray(nib.load(path).dataobj)
        for path in (
            tmp_path / "out" / "three_mask.nii.gz",
            job.cases.parent / "three_brain.nii.gz",
            job.cases.parent / "three_mask.nii.gz",
        )
    )
    marked = [bool(mask[place]) for place in zip(*np.nonzero((brain == 1) & (labels == 1)), strict=True)]
    free = [not mask[place] for place in zip(*np.nonzero((brain == 1) & (labels == 0)), strict=True)]
    assert record["sensitivity"] == (sum(marked) + 1) / (len(marked) + 2)
    assert record["specificity"] == (sum(free) + 1) / (len(free) + 2)
    assert len(marked) + len(free) < (brain == 1).sum()  # label 2


def test_split_without_validation_cases_is_refused(job: ReliabilityJob) -> None:
    job.splits.write_text(job.splits.read_text(encoding="utf-8").replace("validation", "test"), encoding="utf-8")
    with pytest.raises(ProblemError, match=r"split 0 has no validation case .*Set `start_reliability: none`"):
        measure_reliability(job)


def test_sampling_depends_on_the_measured_reliability_and_keeps_its_evaluations(
    job: ReliabilityJob,
    sample_job: Callable[..., SampleJob],
    random_network: Callable,
    configured: Callable,
    tmp_path: Path,
) -> None:
    start = sample_job(
        Run("dataset", "unet", 0, 0).folder(tmp_path, "predictions"),
        "unet",
        configured("method", "unet", pool=1),
        batch=4,
        weights=job.weights,
        network_metadata=job.network_metadata,
    )
    sample_all(start)
    trained = random_network(configured("network", "denoiser", **DENOISER, likelihood_skip=True), "denoiser")
    settings = configured("method", "pd-ddpm", pool=2, samples=2, reverse_steps=10, start_reliability="validation")
    stamps, evaluations = [], []
    for name, rates in (("plain", None), ("first", (0.75, 0.99)), ("second", (0.5, 0.99))):
        record = tmp_path / f"{name}.json"
        if rates:
            record.write_text(json.dumps(dict(zip(("sensitivity", "specificity"), rates, strict=True))), encoding="utf-8")
        fields = {"presegmentation": start.predictions, "reliability": record if rates else None, **trained}
        chain = sample_job(tmp_path / name, "pd-ddpm", settings, batch=4, **fields)
        result = sample_cases(chain)
        stamps.append(result["stamp"])
        evaluations.append(PredictionFolder(tmp_path / name, result["stamp"]).read_record("four")["evaluations_per_member"])
        assert result["method"]["reliability"] == (rates and {"sensitivity": rates[0], "specificity": rates[1]})
    assert len(set(stamps)) == 3
    assert evaluations == [3, 3, 3]
