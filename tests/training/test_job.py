"""The training job: what it reads from Snakemake, its fingerprint, first weights, and files (about 3 s)."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from pd_ddpm.data.cases.mask_files import write_mask_files
from pd_ddpm.models.weights import CheckpointError, load_weights
from pd_ddpm.runtime.backend import Backend
from pd_ddpm.runtime.compute import Compute
from pd_ddpm.runtime.problem import ProblemError
from pd_ddpm.training.job import TrainJob, open_states, read_data, train, write_result
from pd_ddpm.training.result import TrainingResult


@pytest.fixture
def job(tmp_path, train_job, configured):
    """A small network with two steps."""
    settings = {"channels": 8, "multipliers": [1, 2], "attention_at": [2], "residual_blocks": 1, "batch": 2, "crop": [16, 24]}
    settings |= {"steps": 2, "validate_every": 2, "validation_slices": 2, "early_levels": [0.5]}
    return train_job(tmp_path / "out", configured("network", "denoiser", **settings))


def run(job):
    """Train and write as the script does; return the result."""
    backend, data = Backend.from_compute(job.compute), read_data(job)
    result = train(job, data, backend, open_states(job, data, backend))
    write_result(job, data, backend, result)
    return result


def test_validation_starts_from_the_files_of_another_program(job, prepared, tmp_path):
    settings = job.settings | {"validation_presegmenter": "nnunet"}
    table, versions = tmp_path / "masks.csv", tmp_path / "masks.json"
    write_mask_files({"three": prepared / "three_mask.nii.gz"}, 2, str(table), str(versions))
    config = {"preparation": {"grid_tolerance_voxels": 0.1}}
    job = replace(job, settings=settings, validation_masks=(table, versions), config=config)
    data, backend = read_data(job), Backend.from_compute(job.compute)
    (case,) = data.validation
    # Label 2 of the ground truth stands for the other program's lesions.
    assert torch.equal(case.presegmentation, (case.label_fractions[:, 1:] >= 0.5).float())
    assert case.presegmentation.any()
    assert "validation_dice_presegmentation" in run(job).history[-1]
    states = open_states(job, data, backend)
    write_mask_files({}, 2, str(table), str(versions))
    without = open_states(job, read_data(job), backend)
    assert states.fingerprint_inputs["data"]["validation_masks"].keys() == {"three"}
    assert without.fingerprint_inputs["data"]["validation_masks"] == {}


def test_from_snakemake_reads_files_parameters_and_configuration():
    settings = {"precision": "bfloat16", "batch": 12}
    job = TrainJob.from_snakemake(
        SimpleNamespace(
            input={"cases": "c.csv", "splits": "s.csv", "first_weights": "w.safetensors", "first_metadata": "w.json"},
            output={"weights": "m.safetensors", "early": "e.safetensors", "metadata": "m.json", "history": "t.csv"},
            params={"state": "work", "name": "unet", "split": 1, "seed": 2, "settings": settings, "grid": {}, "code": "abc"},
            config={"device": "cpu", "save_every_seconds": 60, "changed_training": "stop", "compile": False},
            threads=4,
        )
    )
    assert job.compute == Compute("cpu", "bfloat16", threads=4, batch=12)
    assert (job.cases, job.first_metadata, job.metadata, job.state) == tuple(map(Path, ("c.csv", "w.json", "m.json", "work")))
    assert (job.settings, job.code, job.save_every_seconds, job.changed_training) == (settings, "abc", 60, "stop")
    assert job.title == "unet, split 1, seed 2"


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({"save_every_seconds": 9.0}, True),
        ({"changed_training": "restart"}, True),
        ({"config": {"device": "cpu"}}, True),
        ({"seed": 4}, False),
        ({"code": "other"}, False),
        ({"grid": {"spacing_mm": None, "region": "slice", "margin_mm": 0.0, "minimum_brain_cm2": 0.5}}, False),
    ],
)
def test_open_states_depends_on_what_changes_the_result_only(job, changes, is_same):
    backend, data = Backend.from_compute(job.compute), read_data(job)
    folder = open_states(job, data, backend).folder
    assert (open_states(replace(job, **changes), data, backend).folder == folder) == is_same


def test_open_states_depends_on_the_settings_and_on_the_table_of_cases(job):
    backend, data = Backend.from_compute(job.compute), read_data(job)
    folder = open_states(job, data, backend).folder
    assert open_states(replace(job, settings=job.settings | {"steps": 3}), data, backend).folder != folder
    job.cases.write_text(job.cases.read_text(encoding="utf-8") + "six\n", encoding="utf-8")
    assert open_states(job, data, backend).folder != folder


def test_train_with_first_weights_starts_from_them(tmp_path, job):
    run(job)
    first, _ = load_weights(job.weights, job.metadata)
    frozen = job.settings | {"learning_rate": 0.0, "weight_decay": 0.0, "weights": "raw", "select": "last"}
    paths = {
        name: tmp_path / "second" / getattr(job, name).name for name in ("weights", "early", "metadata", "history", "state")
    }
    second = replace(job, settings=frozen, seed=9, first_weights=job.weights, first_metadata=job.metadata, **paths)
    selected = run(second).selected
    assert all(torch.equal(selected[name], first[name]) for name in first)
    assert json.loads(second.metadata.read_text(encoding="utf-8"))["made_from"]["summary"]["runs"] == 1
    with pytest.raises(CheckpointError, match="channels"):
        run(replace(second, settings=frozen | {"channels": 16}))


def test_train_with_a_presegmenter_validates_chains_from_its_masks(tmp_path, job, configured, train_job):
    unet = train_job(
        tmp_path / "unet", configured("network", "unet", channels=[4, 4, 8, 8, 16], steps=2, batch=2, crop=[16, 32])
    )
    run(unet)
    with_masks = replace(job, presegmenter_weights=unet.weights, presegmenter_metadata=unet.metadata)
    (row,) = run(with_masks).history
    columns = [f"validation_dice_{name}" for name in ("noise", "presegmentation", "diffused_truth")]
    assert row["validation_dice"] == pytest.approx((row[columns[0]] + row[columns[1]]) / 2)
    assert list(pd.read_csv(job.history))[:8] == [
        *("step", "loss", "learning_rate", "validation_dice", "seconds"),
        *columns,
    ]
    runs = json.loads(job.metadata.read_text(encoding="utf-8"))["made_from"]["runs"]
    assert [one["file"].split("/")[-2:] for one in runs] == [["unet", "model.json"]]
    backend, data = Backend.from_compute(job.compute), read_data(job)
    assert open_states(with_masks, data, backend).folder != open_states(job, data, backend).folder


def test_write_result_describes_the_training(job):
    result = run(job)
    metadata = json.loads(job.metadata.read_text(encoding="utf-8"))
    assert (metadata["network"], metadata["split"], metadata["seed"], metadata["image_channels"]) == ("denoiser", 0, 3, 2)
    assert metadata["training_cases"] == ["one", "two"]
    assert (metadata["selected_step"], metadata["early"][0]["step"]) == (2, 2)
    assert (metadata["threads"], metadata["device_type"], metadata["provenance"]["precision"]) == (1, "cpu", "float32")
    assert metadata["sha256"].keys() == {"model.safetensors", "early.safetensors"}
    assert pd.read_csv(job.history)["step"].tolist() == [row["step"] for row in result.history] == [2]


def test_read_data_with_random_raters_rejects_cases_of_one_rater(job):
    job = replace(job, settings=job.settings | {"raters": "random"})
    with pytest.raises(ProblemError, match=r"networks\.denoiser: `raters: random` needs .*_observer-2.*Set `raters: first`"):
        read_data(job)


def test_read_data_with_random_raters_trains_on_all_and_validates_on_the_ground_truth(job, caplog):
    folder = job.cases.parent
    for case in ("two", "three"):
        shutil.copy(folder / "one_mask.nii.gz", folder / f"{case}_observer-2.nii.gz")
    plain, data = read_data(job), read_data(replace(job, settings=job.settings | {"raters": "random"}))
    assert [len(case.further_fractions) for case in data.slices.cases] == [0, 1]
    assert [len(case.further_fractions) for case in data.validation] == [0]
    assert not any(case.further_fractions for case in plain.slices.cases)
    assert "1 of 2 training cases have one rater only" in caplog.text


@pytest.mark.parametrize(
    ("column", "value", "is_sign"), [("kl", 0.003, True), ("kl", 3.0, False), ("discriminator_loss", 1.38, True)]
)
def test_write_result_keeps_the_values_of_the_generator_and_warns_of_collapse(job, caplog, column, value, is_sign):
    """The values are those of the selected step, not of the last one."""
    data, backend = read_data(job), Backend.from_compute(job.compute)
    history = [{"step": step, "loss": 1.0, "seconds": 0.0, column: number} for step, number in ((1, 0.5), (2, value), (3, 0.5))]
    write_result(job, data, backend, TrainingResult({"weight": torch.zeros(1)}, 2, history, []))
    assert json.loads(job.metadata.read_text(encoding="utf-8"))["generator"] == {column: value}
    assert (f"{job.title}: the di" in caplog.text) == is_sign
