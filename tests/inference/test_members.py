"""Another number of ensemble members keeps those that are sampled already (about 5 s)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pd_ddpm.inference import sample_cases
from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.job import SampleJob

NETWORKS = {
    "bayesian-unet": {"channels": [4, 4, 8, 8, 16]},
    "denoiser": {"channels": 8, "multipliers": [1, 2], "attention_at": [2]},
}
METHODS = {"bayesian-unet": {"network": "bayesian-unet"}, "ddpm": {"network": "denoiser", "reverse_steps": 3}}


@pytest.fixture
def sampling(
    request: pytest.FixtureRequest, random_network: Callable, sample_job: Callable, configured: Callable
) -> Callable[[Path, int, int], SampleJob]:
    """A function that returns the job that samples a method with a pool of members, some of which are its ensemble."""
    name = request.param
    settings = METHODS[name]
    network = random_network(configured("network", settings["network"], **NETWORKS[settings["network"]]))

    def job(folder: Path, samples: int, pool: int) -> SampleJob:
        method: dict[str, Any] = configured("method", name, variance="small", **settings | {"samples": samples, "pool": pool})
        return sample_job(folder, name, method, batch=2, **network)

    return job


def images(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.nii.gz"))}


@pytest.mark.parametrize("sampling", METHODS, indirect=True)
def test_other_numbers_of_members_give_the_files_of_a_new_sampling(
    tmp_path: Path, sampling: Callable[[Path, int, int], SampleJob], script: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, folder = script("sample"), tmp_path / "kept"
    sampled: list[int] = []
    original = sample_cases.segment_case

    def counted(segmenter: Any, *arguments: Any, **keywords: Any) -> Any:
        sampled.append(segmenter.num_members)
        return original(segmenter, *arguments, **keywords)

    monkeypatch.setattr(sample_cases, "segment_case", counted)
    sample(sampling(folder, 3, 3))
    num_cases = len(pd.read_csv(folder / "predictions.csv"))
    for samples, pool, missing in ((2, 2, None), (1, 4, 2), (4, 4, None)):
        sampled.clear()
        sample(sampling(folder, samples, pool))
        assert sampled == ([] if missing is None else [missing] * num_cases)
        new = tmp_path / f"new-{samples}-{pool}"
        sample(sampling(new, samples, pool))
        assert images(folder) == images(new)
        tables = [pd.read_csv(path / "predictions.csv") for path in (folder, new)]
        seconds = ["seconds_shared", "seconds_per_member"]
        pd.testing.assert_frame_equal(*(table.drop(columns=seconds) for table in tables))
        assert json.loads((folder / "method.json").read_text(encoding="utf-8"))["settings"]["pool"] == pool


def test_cost_of_members_sampled_later_is_their_mean() -> None:
    first, later = Cost(1, 2, 0.5, 3.0), Cost(1, 2, 9.0, 6.0)
    extended = first.extended(2, later, 1)
    assert extended == Cost(1, 2, 0.5, 4.0)
    assert extended.total(3)["seconds"] == 0.5 + 2 * 3 + 1 * 6
