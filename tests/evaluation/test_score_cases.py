"""Scores of a method: columns that come from its network's metadata, and warnings (about 3 s)."""

import json

import nibabel as nib
import numpy as np
import pytest
from conftest import ROLES

from pd_ddpm.evaluation.score_cases import score_cases
from pd_ddpm.inference.prediction_store import read_samples
from pd_ddpm.inference.shards import sample_all

IDENTITY = {"dataset": "dataset", "method": "probabilistic-unet", "split": 0, "seed": 0}
SETTINGS = {"band_mm": 5.0, "calibration_bins": 15}


@pytest.fixture
def scored(tmp_path, prepared, configured, random_network, sample_job):
    """A function that samples and scores a Probabilistic U-Net whose metadata has these values of the generator."""

    (prepared / "prepared.csv").write_text("case,site\n" + "".join(f"{case},s\n" for case in ROLES), encoding="utf-8")

    def score(generator):
        network = random_network(configured("network", "probabilistic-unet", channels=[4, 8], latent=2))
        metadata = json.loads(network["network_metadata"].read_text(encoding="utf-8"))
        network["network_metadata"].write_text(json.dumps(metadata | {"generator": generator}), encoding="utf-8")
        settings = configured("method", "probabilistic-unet", samples=3, pool=4)
        job = sample_job(tmp_path / "out", "probabilistic-unet", settings, batch=8, **network)
        sample_all(job)
        return job, score_cases(job.cases, job.predictions, job.method_metadata, IDENTITY, SETTINGS)

    return score


def test_score_cases_carries_the_values_of_the_generator_and_the_dice_of_members(scored, caplog):
    job, scores = scored({"kl": 0.004})
    assert scores["kl"].tolist() == [0.004, 0.004]
    assert scores["discriminator_loss"].isna().all()
    for case, dice in scores.set_index("case")["members_dice"].items():
        masks = (read_samples(job.folder, case) >= 0.5)[..., :3]
        pairs = [(masks[..., a], masks[..., b]) for a, b in ((0, 1), (0, 2), (1, 2))]
        expected = sum(2 * (one & other).sum() / (one.sum() + other.sum()) for one, other in pairs) / 3
        assert dice == pytest.approx(expected)
        labels = nib.load(job.cases.parent / f"{case}_mask.nii.gz").get_fdata()
        truth, scored = labels == 1, labels != 2
        own = [2 * (truth & one & scored).sum() / (truth.sum() + (one & scored).sum()) for one in np.moveaxis(masks, -1, 0)]
        assert scores.set_index("case").loc[case, "single_member_dice"] == pytest.approx(np.mean(own))
    is_warned = "pairs of ensemble members have a mean Dice" in caplog.text
    assert is_warned == (scores["members_dice"].mean() > 0.98)


def test_score_cases_warns_of_members_that_are_equal(scored, caplog, monkeypatch):
    monkeypatch.setattr("pd_ddpm.evaluation.score_cases.members_dice", lambda _: 0.99)
    scored({})
    assert "probabilistic-unet: pairs of ensemble members have a mean Dice of 0.990 (above 0.98)" in caplog.text
