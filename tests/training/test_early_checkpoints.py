"""Early checkpoints: which validations they come from (about 1 s)."""

import pytest
import torch
from training_examples import (
    OTHER_INPUTS,
    VALIDATION,
    Scale,
    Scripted,
    folder_trainer,
    states_of,
)

from pd_ddpm.models.weights import CheckpointError
from pd_ddpm.runtime.sealed import DamagedFileError
from pd_ddpm.training.early_checkpoints import early_path, load_early_checkpoints, nearest_records, save_record
from pd_ddpm.training.objectives.base import Estimate
from pd_ddpm.training.objectives.segmentation import CrossEntropy
from pd_ddpm.training.resume import TrainingStates


@pytest.mark.parametrize(
    ("dice", "levels", "chosen"),
    [
        ([0.1, 0.5, 0.7, 0.75, 0.77, 0.79, 0.8], [0.944, 0.964, 0.982], [3, 4, 5]),  # 0.755, 0.771, 0.786
        ([0.1, 0.5, 0.7, 0.75, 0.77, 0.79, 0.8], [0.982, 0.944, 0.964], [5, 3, 4]),
        ([0.1, 0.2, 0.3, 0.8], [0.944, 0.964, 0.982], [0, 1, 2]),  # none is near
        ([0.3, 0.76, 0.79, 0.8], [0.944, 0.982], [1, 2]),
        ([0.3, 0.5, 0.79, 0.8], [0.96, 0.98], [1, 2]),  # both are nearest to 0.79
        ([0.3, 0.8], [0.944, 0.964], [0, 0]),
        ([0.3, 0.7, 0.8], [0.3, 0.964, 0.99], [0, 1, 1]),
        ([0.0], [0.5, 0.9], [0, 0]),
    ],
)
def test_nearest_records_chooses_record_nearest_to_each_level(dice, levels, chosen):
    assert nearest_records(dice, levels) == chosen


def test_early_checkpoints_hold_weights_of_their_validation(tmp_path):
    objective = Scripted([0, 0.3, 1, 0, 1])
    shares = {2: 0.0, 4: 0.4, 6: 0.6, 8: 0.2, 10: 1.0}

    def estimates(model, batch, rng):
        objective.evaluated.append(model.factor.item())
        share = shares[2 * len(objective.evaluated)]
        kept = torch.rand(batch.mask.shape, generator=torch.Generator().manual_seed(0)) < share
        return [Estimate(batch.mask * kept)]

    object.__setattr__(objective, "estimates", estimates)
    result = folder_trainer(
        Scale(), objective, validation=VALIDATION[:1], steps=10, validate_every=2, learning_rate=0.1, early_levels=[0.8, 0.5]
    ).fit(tmp_path)
    dice = {row["step"]: row["validation_dice"] for row in result.history}
    assert dice[4] < dice[6] < dice[10] == 1
    assert [(early.level, early.step) for early in result.early] == [(0.8, 6), (0.5, 4)]
    for early in result.early:
        assert early.validation_dice == dice[early.step]
        assert early.weights["factor"].item() == objective.evaluated[early.step // 2 - 1]
        assert early.weights.keys() == result.checkpoint.keys()
    assert {path.name for path in (states_of(tmp_path) / "early").glob("step-*")} == {
        f"step-{n}.safetensors" for n in (2, 4, 6, 10)
    }


def test_early_checkpoints_with_too_few_records_repeat_with_warning(tmp_path, caplog):
    with caplog.at_level("WARNING"):
        result = folder_trainer(
            Scale(), Scripted([1, 0]), validation=VALIDATION[:1], steps=4, validate_every=2, early_levels=[0.9, 0.95]
        ).fit(tmp_path)
    assert [(early.step, early.validation_dice) for early in result.early] == [(2, 1.0), (2, 1.0)]
    assert "only 1 validations were the best so far" in caplog.text
    assert "Reduce `validate_every`" in caplog.text


def test_early_checkpoints_of_other_finished_training_are_removed(tmp_path):
    changes = {"validation": VALIDATION[:1], "steps": 2, "validate_every": 1, "save_every_seconds": 1e-9}
    folder_trainer(Scale(), Scripted([0, 1]), fingerprint_inputs=OTHER_INPUTS, early_levels=[0.9], **changes).fit(tmp_path)
    TrainingStates(tmp_path, OTHER_INPUTS).mark_complete()
    assert len(list((states_of(tmp_path, OTHER_INPUTS) / "early").glob("step-*"))) == 2
    job = folder_trainer(Scale(), Scripted([1, 0]), early_levels=[0.9], **changes)
    job.fit(tmp_path)
    assert not states_of(tmp_path, OTHER_INPUTS).exists()
    assert [path.name for path in (states_of(tmp_path) / "early").glob("step-*")] == ["step-1.safetensors"]
    again = folder_trainer(Scale(), Scripted([]), early_levels=[0.9], **changes).fit(tmp_path)
    assert [early.step for early in again.early] == [1]
    (states_of(tmp_path) / "early" / "step-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"step-1\.safetensors: it cannot be read .*\. Delete its folder and train again"):
        folder_trainer(Scale(), Scripted([]), early_levels=[0.9], **changes).fit(tmp_path)


def test_fit_without_levels_keeps_no_early_checkpoints(tmp_path):
    assert folder_trainer(Scale(), CrossEntropy(0.0), steps=2, validate_every=1).fit(tmp_path).early == []
    assert not list(tmp_path.rglob("early"))


def test_fit_without_validation_cases_warns_about_early_checkpoints(tmp_path, caplog):
    with caplog.at_level("WARNING"):
        result = folder_trainer(Scale(), CrossEntropy(0.0), validation=[], steps=2, early_levels=[0.9]).fit(tmp_path)
    assert result.early == []
    assert "no early checkpoints are kept, since this split has no validation case" in caplog.text


def test_early_checkpoint_with_a_flipped_bit_stops_the_training(tmp_path):
    save_record(tmp_path, 1, {"factor": torch.ones(4)})
    path = early_path(tmp_path, 1)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"step-1\.safetensors: it was changed or damaged"):
        load_early_checkpoints(tmp_path, [(1, 0.5)], [0.9], "unet")
