"""Training and sampling of several classes (about 20 s)."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from pd_ddpm.data.foreign_masks import read_foreign_classes
from pd_ddpm.data.label_maps import class_index, one_hot
from pd_ddpm.data.nifti.geometry import ImageError
from pd_ddpm.data.prepared import read_scan
from pd_ddpm.inference.average import mean_of_ensembles
from pd_ddpm.inference.class_ensemble import ClassSegmentation
from pd_ddpm.inference.prediction_store import read_samples
from pd_ddpm.inference.shards import sample_all
from pd_ddpm.models.factory import build_model
from pd_ddpm.runtime.backend import Backend
from pd_ddpm.training.job import open_states, read_data, train, write_result
from pd_ddpm.training.objectives import losses
from pd_ddpm.training.patches import PatchSettings

LABELS = [1, 2]
SMALL = {"channels": [4, 4, 8, 8, 8], "labels": LABELS}
DENOISER = {
    "channels": 8,
    "multipliers": [1, 2],
    "attention_at": [],
    "residual_blocks": 1,
    "predicts": "mask",
    "likelihood_skip": True,
    "mask_loss": "cross_entropy_dice",
    "labels": LABELS,
}
TRAINING = {"steps": 2, "batch": 2, "crop": [16, 16], "validate_every": 2, "validation_slices": 2, "early_levels": []}


def test_cross_entropy_and_dice_of_classes_have_their_closed_forms():
    generator = torch.Generator().manual_seed(0)
    logits, index = torch.randn((2, 3, 5, 6), generator=generator), torch.randint(3, (2, 5, 6), generator=generator)
    mask = functional.one_hot(index, 3).movedim(-1, 1).float()
    known = (torch.rand((2, 1, 5, 6), generator=generator) < 0.7).float()
    expected = functional.cross_entropy(logits, index, reduction="none")[known[:, 0] > 0].mean()
    torch.testing.assert_close(losses.cross_entropy(logits, mask, known), expected)
    probability = logits.softmax(dim=1)
    dice = [losses.soft_dice_loss(probability[:, [c]], mask[:, [c]], known) for c in (1, 2)]
    torch.testing.assert_close(losses.soft_dice_loss(probability, mask, known), torch.stack(dice).mean())


def test_squared_error_of_classes_is_the_mean_over_all_channels():
    prediction, target = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 2.0)
    assert losses.squared_error(prediction, target, torch.ones(2, 1, 4, 4)).item() == 4


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("unet", SMALL),
        ("probabilistic-unet", {"channels": [4, 8], "latent": 2, "labels": LABELS}),
        ("denoiser", DENOISER | {"validation_presegmenter": None}),
        ("truncated-denoiser", DENOISER | {"discriminator_channels": 4, "t_max": 300}),
    ],
)
def test_training_on_classes_has_one_output_per_class(train_job, configured, tmp_path, name, changes):
    settings = configured("network", name, **TRAINING | changes)
    settings.pop("grid", None)
    job = train_job(tmp_path / name, settings)
    backend = Backend.from_compute(job.compute)
    data = read_data(job)
    result = train(job, data, backend, open_states(job, data, backend))
    write_result(job, data, backend, result)
    assert build_model(settings, 2).mask_channels == 3
    history = pd.read_csv(job.history)
    assert np.isfinite(history["loss"]).all()
    assert history["validation_dice"].between(0, 1).all()


def test_training_batches_are_one_hot_with_background(train_job, configured, tmp_path):
    job = train_job(tmp_path / "unet", configured("network", "unet", **TRAINING | SMALL))
    slices = read_data(job).slices
    patches = PatchSettings(crop=(40, 40), lesion_share=1.0, flip=(0,), intensity_jitter=0.0)
    batch = slices.sample_batch(np.random.default_rng(0), 4, patches)
    assert batch.mask.shape == (4, 3, 40, 40)
    torch.testing.assert_close(batch.mask.sum(dim=1), torch.ones(4, 40, 40))
    assert batch.mask[:, 1:].flatten(1).any(dim=1).all()


@pytest.fixture
def sampled(sample_job, random_network, configured, tmp_path):
    """Folders of the predictions of a U-Net and of PD-DDPM that starts from them, each with random weights."""
    unet = configured("network", "unet", **TRAINING | SMALL)
    denoiser = configured("network", "denoiser", **TRAINING | DENOISER)
    first = configured("method", "unet")
    folder = tmp_path / "dataset" / "predictions" / "unet" / "split-0_seed-0"
    sample_all(sample_job(folder, "unet", first | {"pool": 1}, batch=4, **random_network(unet, "unet")))
    chain = configured("method", "pd-ddpm", presegmentation="unet", reverse_steps=10, variance="small", samples=2)
    files = random_network(denoiser, "denoiser")

    def sample(pool: int):
        target = tmp_path / "dataset" / "predictions" / "pd-ddpm" / "split-0_seed-0"
        settings = chain | {"pool": pool, "samples": pool}
        sample_all(sample_job(target, "pd-ddpm", settings, batch=3, presegmentation=folder / "predictions.csv", **files))
        return target

    return folder, sample


def test_sampling_of_classes_stores_members_label_map_and_uncertainty(sampled, prepared):
    unet, sample = sampled
    for folder in (unet, sample(2)):
        members = read_samples(folder, "four", len(LABELS))
        assert members.shape[-1] == 3
        np.testing.assert_allclose(members.sum(axis=-1), 1, atol=2 / 255)
        segmentation = ClassSegmentation.from_members(members)
        mask = np.asarray(nib.load(folder / "four_mask.nii.gz").dataobj)
        assert np.array_equal(mask, segmentation.index)  # the labels are 1 and 2
        stored = np.asarray(nib.load(folder / "four_uncertainty.nii.gz").dataobj)
        np.testing.assert_array_equal(stored, segmentation.variance)
        brain = read_scan(prepared, "four").brain
        assert (members[:, :, ~brain.any(axis=(0, 1)), :, 0] > 0.999).all()  # slices without brain are background


def test_further_members_of_classes_equal_those_of_a_larger_ensemble(sampled, tmp_path):
    _, sample = sampled
    sample(1)
    extended = read_samples(sample(3), "four", len(LABELS))
    for file in sample(3).iterdir():
        if file.is_file():
            file.unlink()
    np.testing.assert_array_equal(read_samples(sample(3), "four", len(LABELS)), extended)


def test_mean_of_ensembles_of_classes_is_that_of_their_probabilities():
    random = np.random.default_rng(0)
    single, several = random.dirichlet([1] * 3, (4, 3, 2, 1)), random.dirichlet([1] * 3, (4, 3, 2, 5))
    mean = mean_of_ensembles([single, several])
    assert mean.shape == (4, 3, 2, 5, 3)
    np.testing.assert_allclose(mean.mean(axis=3), (single.mean(axis=3) + several.mean(axis=3)) / 2)


def test_read_foreign_classes_reads_label_maps_and_refuses_other_labels(tmp_path, prepared):
    scan = read_scan(prepared, "four").reference
    labels = np.random.default_rng(0).choice([0, 2, 7], scan.shape[:3]).astype(np.uint8)
    nib.save(nib.Nifti1Image(labels, scan.affine), tmp_path / "a.nii.gz")
    masks = read_foreign_classes(tmp_path / "a.nii.gz", scan, "case four", [2, 7])
    assert np.array_equal(masks, one_hot(class_index(labels, [2, 7]), 3))
    with pytest.raises(ImageError, match="voxels hold 7, but a mask may hold only 0 and 2"):
        read_foreign_classes(tmp_path / "a.nii.gz", scan, "case four", [2])
