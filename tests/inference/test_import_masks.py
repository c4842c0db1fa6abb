"""Import of masks from files: equal to the method that made them, cost not known, all problems at once (about 6 s)."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pd_ddpm.config.run import Run
from pd_ddpm.data.cases.mask_files import write_mask_files
from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.import_masks import ImportJob, import_masks
from pd_ddpm.inference.job import SampleJob
from pd_ddpm.inference.prediction_store import PredictionFolder, Presegmentations, read_predictions, write_manifest
from pd_ddpm.inference.shards import sample_all
from pd_ddpm.runtime.problem import ProblemError
from pd_ddpm.runtime.run_record import run_record

CASES = ("four", "five")


@pytest.fixture
def original(prepared: Path, tmp_path: Path) -> Path:
    """Stored predictions of a network: probabilities in two slices, above and below one half. Returns their table."""
    random = np.random.default_rng(0)
    folder = Run("dataset", "unet", 0, 0).folder(tmp_path, "predictions")
    store, records = PredictionFolder(folder, "stamp"), []
    for case in CASES:
        template = nib.load(prepared / f"{case}_brain.nii.gz")
        members = np.zeros((*template.shape, 1))
        members[8:16, 6:14, 2:4] = random.random((8, 8, 2, 1))
        records.append(store.write(case, members, 1, template, Cost(0, 1, 0.25, 0.25)))
    metadata = {"method": "unet", "presegmentation": None, "settings": {}} | run_record({}, "", seconds=1.0)
    shard = {"stamp": "stamp", "cases": records, "method": metadata}
    write_manifest(folder / "predictions.csv", folder / "method.json", CASES, [shard])
    return folder / "predictions.csv"


@pytest.fixture
def import_job(prepared: Path, tmp_path: Path) -> Callable[..., ImportJob]:
    """A function that returns the job that imports these files (case -> file)."""

    def job(files: dict[str, Path], lesion_label: int | None = None) -> ImportJob:
        table = tmp_path / "files.csv"
        write_mask_files(files, lesion_label, str(table), str(tmp_path / "files.json"))
        folder = Run("dataset", "nnunet", 0, 0).folder(tmp_path, "predictions")
        return ImportJob(
            run=Run("dataset", "nnunet", 0, 0),
            settings={"segmenter": "files"},
            grid_tolerance_voxels=0.1,
            files=table,
            cases=prepared / "prepared.csv",
            predictions=folder / "predictions.csv",
            method_metadata=folder / "method.json",
            code="",
            config={},
        )

    return job


def stored(original: Path, part: str) -> dict[str, Path]:
    return {case: original.parent / f"{case}_{part}.nii.gz" for case in CASES}


def test_imported_probabilities_equal_the_stored_ones_byte_for_byte(original: Path, import_job: Callable) -> None:
    job = import_job(stored(original, "samples"))
    import_masks(job)
    for case in CASES:
        for part in ("samples", "mask", "uncertainty"):
            name = f"{case}_{part}.nii.gz"
            assert (job.predictions.parent / name).read_bytes() == (original.parent / name).read_bytes()


def test_imported_masks_have_the_mask_of_their_source_and_a_cost_that_is_not_known(
    original: Path, import_job: Callable
) -> None:
    job = import_job(stored(original, "mask"))
    import_masks(job)
    records = read_predictions(job.predictions)
    assert records["samples"].tolist() == records["pool"].tolist() == [1, 1]
    cost = Cost.from_record(records.loc["four"])
    assert not cost.is_known
    assert np.isnan(list(cost.total(1).values())).all()
    mask = (original.parent / "four_mask.nii.gz").read_bytes()
    assert (job.predictions.parent / "four_mask.nii.gz").read_bytes() == mask
    metadata = json.loads(job.method_metadata.read_text(encoding="utf-8"))
    assert (metadata["network"], metadata["presegmentation"], metadata["generator"]) == (None, None, {})
    assert metadata["files_sha256"].keys() == set(CASES)
    assert "NaN" not in (job.predictions.parent / "four.json").read_text(encoding="utf-8")


def test_methods_that_start_from_files_cost_their_own_chain(original: Path, import_job: Callable) -> None:
    job = import_job(stored(original, "mask"))
    import_masks(job)
    assert Presegmentations(job.predictions, "mean", harden=True).cost("four") == Cost()
    assert Presegmentations(original, "mean", harden=True).cost("four") == Cost(1, 0, 0.5, 0.0)


@pytest.mark.parametrize(
    ("part", "harden", "grid_members"), [("mask", True, "soft"), ("mask", True, "binary"), ("samples", False, "soft")]
)
def test_pd_ddpm_from_files_equals_pd_ddpm_from_their_source_bit_for_bit(
    original: Path,
    import_job: Callable,
    random_network: Callable,
    sample_job: Callable,
    configured: Callable,
    part: str,
    harden: bool,
    grid_members: str,
) -> None:
    job = import_job(stored(original, part))
    import_masks(job)
    network = configured("network", "denoiser", channels=8, multipliers=[1, 2], attention_at=[], likelihood_skip=False)
    settings = configured("method", "pd-ddpm", samples=1, pool=1, reverse_steps=5, variance="small", harden=harden)
    settings |= {"grid_members": grid_members}
    files = random_network(network)
    folder = original.parents[3] / "sampled"
    jobs: list[SampleJob] = [
        sample_job(folder / source.parent.parent.name, "pd-ddpm", settings, batch=8, presegmentation=source, **files)
        for source in (original, job.predictions)
    ]
    for each in jobs:
        sample_all(each)
    for case in CASES:
        ours, theirs = ((each.folder / f"{case}_samples.nii.gz").read_bytes() for each in jobs)
        assert ours == theirs
    assert nib.load(jobs[0].folder / "four_samples.nii.gz").get_fdata().any()


def test_import_masks_takes_the_label_of_lesions(original: Path, import_job: Callable, tmp_path: Path) -> None:
    image = nib.load(original.parent / "four_mask.nii.gz")
    labels = np.asarray(image.dataobj) * 77 + 2
    nib.save(nib.Nifti1Image(labels.astype(np.uint8), image.affine), tmp_path / "labels.nii.gz")
    job = import_job({"four": tmp_path / "labels.nii.gz"}, lesion_label=79)
    import_masks(job)
    mask = (original.parent / "four_mask.nii.gz").read_bytes()
    assert (job.predictions.parent / "four_mask.nii.gz").read_bytes() == mask
    assert json.loads(job.method_metadata.read_text(encoding="utf-8"))["lesion_label"] == 79


def test_import_masks_names_all_unusable_files(original: Path, import_job: Callable, tmp_path: Path) -> None:
    image = nib.load(original.parent / "four_mask.nii.gz")
    labels, moved = tmp_path / "labels.nii.gz", tmp_path / "moved.nii.gz"
    nib.save(nib.Nifti1Image(np.full(image.shape, 3, np.uint8), image.affine), labels)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine + np.eye(4, k=3)), moved)
    job = import_job({"four": labels, "five": moved})
    with pytest.raises(ProblemError) as caught:
        import_masks(job)
    first, second = map(str, caught.value.problems)
    assert first.startswith(f"case four, {labels}: holds 3, but a mask holds values from 0 to 1")
    assert second.startswith(f"case five, {moved}: its affine differs from that of case five")
    assert not job.predictions.exists()


def test_import_masks_keeps_unchanged_masks_and_doubts_empty_ones(
    original: Path, import_job: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = nib.load(original.parent / "four_mask.nii.gz")
    empty = tmp_path / "empty.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), empty)
    job = import_job(stored(original, "mask") | {"five": empty})
    import_masks(job)
    assert f"case five, {empty}: no voxel is lesion" in caplog.text
    first, written = read_predictions(job.predictions), job.predictions.parent / "four_mask.nii.gz"
    unchanged = written.stat().st_mtime_ns
    import_masks(replace(job, config={"other": 1}))
    assert written.stat().st_mtime_ns == unchanged
    empty.write_bytes((original.parent / "five_mask.nii.gz").read_bytes())
    import_masks(job)
    assert set(read_predictions(job.predictions)["stamp"]) != set(first["stamp"])
