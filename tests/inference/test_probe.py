"""Probe of denoisers: oracles with a known Dice, slices and noise, and the job (about 5 s)."""

import json
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import GRID
from scipy import stats
from torch import Tensor, nn

from pd_ddpm.config.run import Run
from pd_ddpm.data.working_grid import GridSettings
from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.mask_coding import CODINGS
from pd_ddpm.diffusion.noise import stream
from pd_ddpm.diffusion.schedule import Schedule
from pd_ddpm.inference.job import ProbeJob
from pd_ddpm.inference.probe import ProbedSlices, probe_case, probe_network, probed_timesteps, read_probed_slices
from pd_ddpm.models.coordinates import add_coordinates
from pd_ddpm.runtime.problem import ProblemError

CPU = torch.device("cpu")
SCHEDULE = Schedule.cosine(1000)
TIMESTEPS = [1, 100, 300, 700]
TINY = {"channels": 8, "multipliers": [1, 2], "attention_at": [2], "residual_blocks": 1, "predicts": "mask"}


class Zero(nn.Module):
    """A network without any information. With the likelihood skip, its denoiser is the posterior under a flat prior."""

    divisor = 8

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :1])


class FirstChannel(Zero):
    """A network that segments from the image alone: its logit is the first channel."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x[:, :1]


def slices(num: int = 10, height: int = 61, width: int = 50) -> ProbedSlices:
    """Random binary masks with 20 % of lesion and 10 % of ignored pixels. The other slice shares some of the lesion."""
    random = torch.Generator().manual_seed(0)
    shape = (num, 1, height, width)
    image = torch.randn((num, 2, height, width), generator=random)
    truth, other, ignored = (torch.rand(shape, generator=random) < share for share in (0.2, 0.3, 0.1))
    return ProbedSlices("one", range(num), image, truth.float(), other.float(), ~ignored)


def by_start(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the Dice of a probe, one column per start, indexed by t."""
    return pd.DataFrame(rows).pivot_table(index="t", columns="start", values="dice")


def plain_dice(predicted: Tensor, probed: ProbedSlices) -> float:
    predicted, truth = (mask[probed.is_scored].numpy() > 0.5 for mask in (predicted, probed.truth))
    return 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())


@pytest.mark.parametrize("coding", CODINGS)
def test_probe_of_the_posterior_under_a_flat_prior_has_the_dice_in_closed_form(coding: str) -> None:
    """The posterior exceeds 0.5 if x_t is on the lesion's side of the midpoint, which the noise decides pixel by pixel."""
    model, probed = Denoiser(Zero(), SCHEDULE, CODINGS[coding], "mask", likelihood_skip=True), slices()
    dice = by_start(probe_case(model, probed, TIMESTEPS, seed=0, device=CPU))
    assert dice.loc[1, "truth"] == 1
    assert dice.loc[1, "empty"] == 0
    assert dice.loc[1, "other_slice"] == pytest.approx(plain_dice(probed.other, probed))
    truth = probed.truth[probed.is_scored] > 0.5
    for t, (start, mask) in product(
        TIMESTEPS, {"truth": probed.truth, "empty": 0 * probed.truth, "other_slice": probed.other}.items()
    ):
        signal = SCHEDULE.signal(t)
        half_distance = np.sqrt(signal / (1 - signal)) * (CODINGS[coding].high - CODINGS[coding].low) / 2
        lesion = mask[probed.is_scored] > 0.5
        chance = torch.where(lesion, stats.norm.cdf(half_distance), stats.norm.sf(half_distance))
        expected = 2 * chance[truth].sum() / (chance.sum() + truth.sum())
        assert dice.loc[t, start] == pytest.approx(float(expected), abs=0.01)
    assert dice["truth"].is_monotonic_decreasing


def test_probe_of_a_network_that_ignores_x_t_has_one_dice_for_all_starts_and_timesteps() -> None:
    """More slices than one evaluation takes keep their order. Neither padding nor ignored pixels count."""
    model, probed = Denoiser(FirstChannel(), SCHEDULE, CODINGS["binary"], "mask"), slices()
    rows = probe_case(model, probed, TIMESTEPS, seed=0, device=CPU)
    expected = plain_dice((probed.image[:, :1] > 0).float(), probed)
    assert [row["dice"] for row in rows] == pytest.approx([expected] * len(rows))
    assert [(row["start"], row["t"]) for row in rows] == list(product(("truth", "empty", "other_slice"), TIMESTEPS))
    assert {(row["case"], row["images"], row["dimensions"]) for row in rows} == {("one", 10, 2)}


def test_probe_diffuses_all_starts_with_the_noise_of_the_slice() -> None:
    probed, inputs = slices(num=2, height=16, width=8), []

    class Recorder(Zero):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            inputs.append(x[:, -1:].clone())
            return super().forward(x, t)

    coding = CODINGS["signed"]
    probe_case(Denoiser(Recorder(), SCHEDULE, coding, "mask"), probed, [200, 800], seed=5, device=CPU)
    noise = torch.stack(
        [torch.from_numpy(stream("probe", 5, "one", number).standard_normal((1, 16, 8), dtype=np.float32)) for number in (0, 1)]
    )
    masks = [probed.truth, torch.zeros_like(probed.truth), probed.other]
    for x_t, (mask, t) in zip(inputs, product(masks, (200, 800)), strict=True):
        expected = SCHEDULE.signal(t) ** 0.5 * coding.encode(mask) + (1 - SCHEDULE.signal(t)) ** 0.5 * noise
        torch.testing.assert_close(x_t, expected)


def test_probe_shows_coordinates_of_the_slice_to_a_denoiser_that_has_them() -> None:
    probed, inputs = slices(num=2, height=12, width=8), []

    class Recorder(Zero):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            inputs.append(x[:, :-1])
            return super().forward(x, t)

    model = Denoiser(Recorder(), SCHEDULE, CODINGS["signed"], "mask")
    model.coordinates = True
    probe_case(model, probed, [200], seed=5, device=CPU)
    assert all(torch.equal(image[:, :, :12], add_coordinates(probed.image)) for image in inputs)
    assert inputs[0].shape == (2, 4, 16, 8)


@pytest.mark.parametrize(
    ("timesteps", "t_max", "expected"),
    [([50, 300, 900], 1000, [1, 50, 300, 900, 1000]), ([50, 300, 900], 300, [1, 50, 300]), ([1], 1, [1])],
)
def test_probed_timesteps_are_within_the_trained_range(timesteps: list[int], t_max: int, expected: list[int]) -> None:
    assert probed_timesteps(timesteps, t_max) == expected


def write_lesions(folder: Path, case: str, rows: dict[int, int]) -> None:
    """Replace the labels of a case: for each slice, a lesion from this row to row 20, and other pathology in slice 1."""
    image = nib.load(folder / f"{case}_mask.nii.gz")
    labels = np.zeros(image.shape, dtype=np.uint8)
    labels[10:14, 8:12, 1] = 2
    for z, row in rows.items():
        labels[row:20, 8:14, z] = 1
    nib.save(nib.Nifti1Image(labels, image.affine), folder / f"{case}_mask.nii.gz")


def test_read_probed_slices_takes_slices_with_lesion_and_the_mask_of_a_distant_one(prepared: Path) -> None:
    """Slice 5 has a lesion but no brain."""
    write_lesions(prepared, "three", {2: 6, 3: 9, 4: 12, 5: 6})
    probed = read_probed_slices(prepared, "three", GridSettings(**GRID), 2)
    assert probed.slice_numbers == [2, 4]
    areas = [float(part.sum()) for part in (*probed.truth, *probed.other)]
    # The rows of slices 2 and 4, then of 3 and 2, in pixels of 2 mm instead of 1.3 x 1.7 mm.
    np.testing.assert_allclose(areas, [6 * rows * 1.3 * 1.7 / 4 for rows in (14, 8, 11, 14)], rtol=0.06)
    assert probed.is_scored.all()
    assert probed.image.shape[:2] == (2, 2)
    assert read_probed_slices(prepared, "three", GridSettings(**GRID), 40).slice_numbers == [2, 3, 4]
    write_lesions(prepared, "three", {})
    assert read_probed_slices(prepared, "three", GridSettings(**GRID), 40) is None


def test_read_probed_slices_moves_the_slices_of_a_volume_with_lesion(prepared: Path) -> None:
    """Each slice with lesion gets the mask of the slice which is half of them further on; the others keep theirs."""
    write_lesions(prepared, "three", {2: 6, 3: 9, 4: 12})
    grid = GridSettings(None, "slice", 0.0, 0.5, spatial_dims=3)
    probed = read_probed_slices(prepared, "three", grid, 40)
    labels = np.asarray(nib.load(prepared / "three_mask.nii.gz").dataobj)
    assert probed.slice_numbers == [0]
    assert probed.image.shape == (1, 2, *labels.shape)
    assert np.array_equal(probed.truth[0, 0], labels == 1)
    assert np.array_equal(probed.is_scored[0, 0], labels != 2)
    order = [3, 4, 2]  # of the slices 2, 3 and 4
    assert np.array_equal(probed.other[0, 0][..., 2:5], (labels == 1)[..., order])
    assert np.array_equal(probed.other[0, 0][..., :2], (labels == 1)[..., :2])
    write_lesions(prepared, "three", {})
    assert read_probed_slices(prepared, "three", grid, 40) is None


def test_probe_of_a_volume_crops_the_padding_of_all_axes() -> None:
    random = torch.Generator().manual_seed(0)
    shape = (1, 1, 13, 9, 10)
    image = torch.randn((1, 2, *shape[2:]), generator=random)
    truth, other, ignored = (torch.rand(shape, generator=random) < share for share in (0.2, 0.3, 0.1))
    probed = ProbedSlices("one", [0], image, truth.float(), other.float(), ~ignored)
    rows = probe_case(Denoiser(FirstChannel(), SCHEDULE, CODINGS["binary"], "mask"), probed, [1, 500], seed=0, device=CPU)
    expected = plain_dice((image[:, :1] > 0).float(), probed)
    assert [row["dice"] for row in rows] == pytest.approx([expected] * 6)


@pytest.fixture
def job(prepared: Path, random_network: Callable, configured: Callable) -> ProbeJob:
    return ProbeJob(
        run=Run("dataset", "denoiser", 0, 7),
        settings={"slices": 2, "timesteps": [300]},
        cases=prepared / "prepared.csv",
        splits=prepared / "splits.csv",
        device="cpu",
        threads=1,
        code="hash",
        config={},
        **random_network(configured("network", "denoiser", **TINY)),
    )


def test_probe_writes_a_row_per_case_start_and_timestep_and_its_record(job: ProbeJob, script: Callable, tmp_path: Path) -> None:
    table, record = tmp_path / "probe.csv", tmp_path / "probe.json"
    script("probe")(job, table=str(table), record=str(record))
    rows = pd.read_csv(table)
    assert list(rows.columns) == ["network", "split", "seed", "role", "case", "images", "dimensions", "start", "t", "dice"]
    identity = rows[["network", "split", "seed", "role", "case", "images"]].drop_duplicates().to_numpy().tolist()
    assert identity == [["denoiser", 0, 7, "validation", "three", 2]]
    assert list(zip(rows["start"], rows["t"], strict=True)) == list(product(("truth", "empty", "other_slice"), (1, 300, 1000)))
    assert rows["dice"].between(0, 1).all()
    provenance = json.loads(record.read_text(encoding="utf-8"))
    assert [provenance["provenance"][key] for key in ("code", "precision", "seed")] == ["hash", "float32", 7]
    assert [run["file"] for run in provenance["made_from"]["runs"]] == ["dataset/networks/a/split-0_seed-0/model.json"]


def roles(job: ProbeJob) -> Iterator[tuple[str, str]]:
    table, _ = probe_network(job)
    return zip(table["role"].drop_duplicates(), [", ".join(table["case"].unique())], strict=True)


def test_probe_takes_training_cases_if_no_validation_case_has_a_lesion(job: ProbeJob) -> None:
    folder = job.cases.parent
    write_lesions(folder, "three", {})
    assert list(roles(job)) == [("train", "one, two")]
    for case in ("one", "two"):
        write_lesions(folder, case, {})
    with pytest.raises(ProblemError, match=r"splits.csv: no validation or training case of split 0 has a slice with lesion"):
        probe_network(job)


def test_probe_takes_training_cases_if_the_split_has_no_validation_cases(job: ProbeJob) -> None:
    job.splits.write_text(job.splits.read_text(encoding="utf-8").replace("validation", "test"), encoding="utf-8")
    assert list(roles(job)) == [("train", "one, two")]
