"""Training on pre-segmentations: each comes from a network that has not seen the case (about 4 s)."""

import json
from dataclasses import replace

import pytest
import torch

from pd_ddpm.models.factory import load_model
from pd_ddpm.runtime.backend import Backend
from pd_ddpm.runtime.problem import ProblemError
from pd_ddpm.training.job import open_states, read_data, train, write_result
from pd_ddpm.training.out_of_fold import add_presegmentations
from pd_ddpm.training.validator import presegment

CPU = torch.device("cpu")


def run(job):
    """Train and write as the script does."""
    backend, data = Backend.from_compute(job.compute), read_data(job)
    write_result(job, data, backend, train(job, data, backend, open_states(job, data, backend)))
    return job


@pytest.fixture
def inner(tmp_path, train_job, configured):
    """Two trained U-Nets, each without one of the two training cases."""
    settings = configured("network", "unet", channels=[4, 4, 8, 8, 16], steps=2, batch=2, crop=[16, 32], validate_every=2)
    jobs = [train_job(tmp_path / f"inner-{k}", settings | {"inner_fold": f"{k}-of-2"}) for k in (1, 2)]
    return [run(replace(job, seed=number)) for number, job in enumerate(jobs)]


@pytest.fixture
def denoiser_job(tmp_path, train_job, configured, inner):
    """A small denoiser that is trained on pre-segmentations only."""
    settings = {"channels": 8, "multipliers": [1, 2], "attention_at": [2], "residual_blocks": 1, "batch": 2, "crop": [16, 24]}
    settings |= {"steps": 2, "validate_every": 2, "validation_slices": 2, "predicts": "mask", "presegmented_share": 1.0}
    job = train_job(tmp_path / "out", configured("network", "denoiser", **settings, presegmented_by="unet", inner_folds=2))
    return replace(job, inner_weights=tuple(job.weights for job in inner), inner_metadata=tuple(job.metadata for job in inner))


def networks_of(jobs):
    return [(job.weights, job.metadata) for job in jobs]


def test_networks_of_inner_folds_are_trained_without_their_fold(inner):
    seen = [json.loads(job.metadata.read_text(encoding="utf-8"))["training_cases"] for job in inner]
    assert sorted(seen) == [["one"], ["two"]]
    data = [read_data(job) for job in inner]
    assert [[case.case for case in part.slices.cases] for part in data] == seen
    assert [[case.case for case in part.validation] for part in data] == [["three"]] * 2


def test_each_mask_is_that_of_the_network_which_has_not_seen_the_case(inner, denoiser_job):
    data = read_data(denoiser_job)
    cases = add_presegmentations(data.slices.cases, networks_of(inner), data.roles, CPU)
    for case in cases:
        ((weights, metadata),) = [
            files for files in networks_of(inner) if case.case not in json.loads(files[1].read_text())["training_cases"]
        ]
        expected = presegment(load_model(weights, metadata)[0], case.image, CPU)
        assert torch.equal(case.presegmentation, expected)
        assert case.presegmentation.shape == (len(case.image), 1, *case.image.shape[2:])
    assert [case.case for case in cases] == ["one", "two"]


def test_masks_from_networks_that_have_seen_the_wrong_cases_are_refused(inner, denoiser_job, tmp_path):
    data = read_data(denoiser_job)
    first, second = networks_of(inner)
    with pytest.raises(ProblemError, match=r"every network was trained on .*Train one network without each inner fold"):
        add_presegmentations(data.slices.cases, [first], data.roles, CPU)
    with pytest.raises(ProblemError, match=r"has left out .*, as another network has"):
        add_presegmentations(data.slices.cases, [first, first, second], data.roles, CPU)
    roles = data.roles | {"test": ["one", "five"], "train": ["two", "four"]}
    with pytest.raises(ProblemError, match="it was trained on one, which this split does not train on"):
        add_presegmentations(data.slices.cases, [first, second], roles, CPU)


def test_training_diffuses_the_masks_and_records_where_they_are_from(inner, denoiser_job, monkeypatch):
    seen = []
    original = torch.Tensor.index_copy

    def spy(self, dim, rows, source):
        seen.append(source)
        return original(self, dim, rows, source)

    monkeypatch.setattr(torch.Tensor, "index_copy", spy)
    run(denoiser_job)
    assert [len(source) for source in seen] == [2, 2]
    runs = json.loads(denoiser_job.metadata.read_text(encoding="utf-8"))["made_from"]["runs"]
    assert [entry["file"].split("/")[-2] for entry in runs] == ["inner-1", "inner-2"]


def test_other_inner_networks_are_another_training(denoiser_job):
    backend, data = Backend.from_compute(denoiser_job.compute), read_data(denoiser_job)
    exchanged = replace(denoiser_job, inner_weights=denoiser_job.inner_weights[::-1])
    assert open_states(exchanged, data, backend).folder != open_states(denoiser_job, data, backend).folder


def test_masks_of_many_slices_are_those_of_each_slice(inner):
    network, _ = load_model(inner[0].weights, inner[0].metadata)
    image = torch.randn(19, 2, 20, 24, generator=torch.Generator().manual_seed(0))
    each = torch.cat([presegment(network, image[row : row + 1], CPU) for row in range(len(image))])
    assert torch.equal(presegment(network, image, CPU), each)
