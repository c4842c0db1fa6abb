"""Segmentation of whole cases, independent of the ground truth (about 10 s, half of it the import of MONAI)."""

from dataclasses import dataclass, field

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from pd_ddpm.config.run import Run
from pd_ddpm.data.scan import Scan
from pd_ddpm.data.working_grid import GridSettings
from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.mask_coding import CODINGS
from pd_ddpm.diffusion.noise import MethodNoise
from pd_ddpm.diffusion.schedule import Schedule
from pd_ddpm.inference import sample_cases
from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.factory import build_segmenter
from pd_ddpm.inference.segment_case import segment_case
from pd_ddpm.models.coordinates import add_coordinates
from pd_ddpm.models.factory import build_model
from pd_ddpm.training.patches import CaseSlices, PatchSettings, TrainingSlices

SHAPE, SPACING = (27, 21, 6), (1.3, 1.7, 4.0)
RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.standard_normal((*SHAPE, 2)).astype(np.float32)
BRAIN = np.zeros(SHAPE, bool)
BRAIN[4:24, 3:18, 1:5] = True
BRAIN[:, :, 3] = False
WITH_BRAIN = [1, 2, 4]
NATIVE = GridSettings(None, "slice", 0.0, 1.0)
VOLUME = GridSettings(None, "slice", 0.0, 1.0, spatial_dims=3)


@dataclass
class Recording:
    """A segmenter that returns a function of its arguments and records the images."""

    answer: object
    num_members: int = 1
    evaluations_shared: int = 0
    divisor: int = 8
    coordinates: bool = False
    mask_channels: int = 1
    evaluations_per_member: int = 1
    images: list = field(default_factory=list)

    def __call__(self, image, presegmentation, noise):
        assert len(image) == len(noise)
        self.images.append(image.clone())
        return self.answer(image, presegmentation, noise)


def segment(segmenter, image=IMAGE, brain=BRAIN, grid=NATIVE, case="case", **options):
    """Return the members of one case."""
    scan = Scan(case, image, brain, nib.Nifti1Image(np.zeros(SHAPE, np.float32), np.diag([*SPACING, 1.0])))
    options = {"noise": MethodNoise("method", 0), "batch": 4, "device": torch.device("cpu")} | options
    return segment_case(segmenter, scan, grid, **options).samples


class Pointwise(nn.Module):
    """A smooth function of image, noisy mask and time at each pixel."""

    divisor = 8

    def forward(self, x, t):
        time = t.reshape(-1, 1, 1, 1) / 1000
        return torch.tanh(0.8 * x[:, -1:] * (0.5 + time) - 0.7 * x[:, :1] + 0.2 * x[:, 1:2])


def chain(num_members=3, network=None, **settings):
    schedule = Schedule.cosine()
    settings = {
        "segmenter": "diffusion",
        "pool": num_members,
        "sampler": "ancestral",
        "variance": "large",
        "reverse_steps": 50,
        "start": "presegmentation",
        "t_start": 300,
    } | settings
    return build_segmenter(settings, Denoiser(network or Pointwise(), schedule, CODINGS["signed"], "noise"))


def test_segment_case_returns_each_voxel_to_its_position():
    segmenter = Recording(lambda image, *_: image[:, :1].sigmoid())
    probability = segment(segmenter)
    assert probability.shape == (*SHAPE, 1)
    assert probability.dtype == np.float32
    expected = 1 / (1 + np.exp(-IMAGE[..., 0].astype(float)))
    for z in range(SHAPE[2]):
        np.testing.assert_allclose(probability[:, :, z, 0], expected[:, :, z] if z in WITH_BRAIN else 0, atol=1e-6)


def test_segment_case_returns_each_voxel_of_a_volume_to_its_position_in_one_pass():
    segmenter = Recording(lambda image, *_: image[:, :1].sigmoid(), num_members=2)
    probability = segment(segmenter, grid=VOLUME, batch=1)
    np.testing.assert_allclose(probability, (1 / (1 + np.exp(-IMAGE[..., :1].astype(float)))).repeat(2, axis=-1), atol=1e-6)
    assert [image.shape for image in segmenter.images] == [(1, 2, 32, 24, 8)] * 2
    padded = np.pad(IMAGE.transpose(3, 0, 1, 2), [(0, 0), (0, 5), (0, 3), (0, 2)], mode="edge")
    assert np.array_equal(segmenter.images[0][0].numpy(), padded)


def test_segment_case_restricts_a_volume_to_the_box_of_the_brain():
    segmenter = Recording(lambda image, *_: torch.ones_like(image[:, :1]))
    probability = segment(segmenter, grid=GridSettings(None, "brain_box", 0.0, 1.0, spatial_dims=3))
    expected = np.zeros(SHAPE)
    expected[4:24, 3:18, 1:5] = 1
    assert np.array_equal(probability[..., 0], expected)


@pytest.mark.parametrize("given", [1, 3])
def test_segment_case_passes_presegmentations_of_a_volume(given):
    before = RANDOM.random((*SHAPE, given)).astype(np.float32)
    segmenter = Recording(lambda _, presegmentation, __: presegmentation, num_members=3)
    probability = segment(segmenter, presegmentation=before, grid=VOLUME, batch=2)
    assert np.array_equal(probability, np.broadcast_to(before, (*SHAPE, 3)))


def test_segment_case_samples_members_of_a_volume_alike_in_any_batch():
    segmenter = Recording(lambda image, _, noise: noise.sample_normal((1, *image.shape[2:])).sigmoid(), num_members=3)
    one, three = (segment(segmenter, grid=VOLUME, batch=batch) for batch in (1, 3))
    assert np.array_equal(one, three)
    assert np.abs(np.corrcoef(one.reshape(-1, 3).T) - np.eye(3)).max() < 0.1


def test_segment_case_in_one_pass_equals_windows_wider_than_the_receptive_field():
    """With coordinates: those of a window are those of its place in the volume."""
    torch.manual_seed(0)
    layers = [nn.Conv3d(5, 4, 3, padding=1), nn.SiLU(), nn.Conv3d(4, 1, 3, padding=1)]
    network = nn.Sequential(*layers)
    whole = segment(Recording(lambda image, *_: network(image).sigmoid(), divisor=1, coordinates=True), grid=VOLUME)
    slices = VOLUME.working_grid(BRAIN, SPACING)[0].slices(IMAGE)
    case = CaseSlices("case", slices, (slices[:, :1] > 0).float().expand(-1, 2, -1, -1, -1), [0])
    settings = PatchSettings((9, 8, 6), None, (), 0.0, coordinates=True)
    batch = TrainingSlices([case]).sample_batch(np.random.default_rng(0), 12, settings)
    with torch.inference_mode():
        windows = network(batch.image).sigmoid()
    for image, window in zip(batch.image, windows, strict=True):
        x, y, z = (slices[0, 0] == image[0, 0, 0, 0]).nonzero()[0].tolist()
        inner = (slice(2, -2),) * 3
        np.testing.assert_allclose(window[0][inner], whole[x : x + 9, y : y + 8, z : z + 6, 0][inner], atol=1e-6)


def test_segment_case_skips_slices_without_brain():
    segmenter = Recording(lambda image, *_: torch.ones_like(image[:, :1]), num_members=2)
    probability = segment(segmenter, batch=4)
    shown = torch.cat(segmenter.images)
    assert shown.shape == (2 * len(WITH_BRAIN), 2, 32, 24)  # 27 and 21, padded to multiples of 8
    for row, z in zip(range(0, len(shown), 2), WITH_BRAIN, strict=True):
        for member in (0, 1):
            assert np.array_equal(shown[row + member, :, :27, :21].numpy(), IMAGE[:, :, z].transpose(2, 0, 1))
    assert probability[:, :, WITH_BRAIN].min() == 1
    assert not np.delete(probability, WITH_BRAIN, axis=2).any()


@pytest.mark.parametrize(
    "grid",
    [NATIVE, GridSettings(2.0, "brain_box", 2.0, 1.0), VOLUME, GridSettings(2.0, "brain_box", 2.0, 1.0, spatial_dims=3)],
    ids=["native", "coarse", "volume", "coarse volume"],
)
def test_segment_case_appends_coordinates_of_working_grid_and_repeats_the_last_in_padding(grid):
    plain, segmenter = (Recording(lambda image, *_: image[:, :1].sigmoid(), coordinates=has) for has in (False, True))
    assert np.array_equal(segment(segmenter, grid=grid), segment(plain, grid=grid))
    inside = tuple(map(slice, grid.working_grid(BRAIN, SPACING)[0].size))
    for image, without in zip(segmenter.images, plain.images, strict=True):
        assert torch.equal(image[:, :2], without)
        assert torch.equal(image[:, 2:, *inside], add_coordinates(without[:, :, *inside])[:, 2:])
        assert (image[:, 2:].flatten(2)[..., -1] == 1).all()


def test_segment_case_without_brain_is_empty():
    segmenter = Recording(lambda image, *_: torch.ones_like(image[:, :1]), num_members=2)
    probability = segment(segmenter, brain=np.zeros(SHAPE, bool), grid=GridSettings(2.0, "brain_box", 8.0, 1.0))
    assert probability.shape == (*SHAPE, 2)
    assert not probability.any()
    assert not segmenter.images


def test_segment_case_returns_members_along_the_last_axis():
    segmenter = Recording(lambda image, _, noise: noise.sample_normal((1, *image.shape[2:])).sigmoid(), num_members=3)
    probability = segment(segmenter)
    assert probability.shape == (*SHAPE, 3)
    samples = probability[:, :, WITH_BRAIN].reshape(-1, 3)
    assert np.abs(np.corrcoef(samples.T) - np.eye(3)).max() < 0.1


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("given", [1, 3])
def test_segment_case_passes_the_presegmentation_of_each_member(given, batch):
    """One mask for all members, or one mask per member."""
    before = RANDOM.random((*SHAPE, given)).astype(np.float32)
    segmenter = Recording(lambda _, presegmentation, __: presegmentation, num_members=3)
    probability = segment(segmenter, presegmentation=before, batch=batch)
    expected = np.broadcast_to(before, (*SHAPE, 3))
    assert np.array_equal(probability[:, :, WITH_BRAIN], expected[:, :, WITH_BRAIN])


@pytest.mark.parametrize("value", [1.0, 0.9])
def test_segment_case_resamples_the_presegmentation_to_the_working_grid(value):
    """A hard mask becomes partial volumes, as in the training of the denoiser."""
    before = np.zeros((*SHAPE, 1), np.float32)
    before[8:19, 6:14] = value
    seen = []
    grid = GridSettings(2.0, "brain_box", 4.0, 1.0)
    probability = segment(Recording(lambda _, given, __: seen.append(given) or given), grid=grid, presegmentation=before)
    values = torch.cat(seen).unique()
    assert len(values) > 2
    assert values.max() == pytest.approx(value, abs=1e-5)
    np.testing.assert_allclose(probability[10:17, 8:12, WITH_BRAIN, 0], value, atol=1e-5)
    assert 0 <= probability.min() <= probability.max() <= 1


@pytest.mark.parametrize("members", ["auto", "binary"])
def test_segment_case_makes_members_binary_on_a_coarser_grid(members):
    """A chain then starts from the binary mask that its pre-segmentation was on this grid, single pixels included."""
    grid, seen = GridSettings(3.0, "slice", 0.0, 1.0, members), []
    first = segment(Recording(lambda image, *_: image[:, :1].sigmoid()), grid=grid)
    settings = GridSettings(3.0, "slice", 0.0, 1.0, "soft")
    soft = segment(Recording(lambda image, *_: (image[:, :1] >= 0).float()), grid=settings)
    np.testing.assert_array_equal(first, soft)
    again = segment(Recording(lambda _, given, __: seen.append(given) or given), grid=grid, presegmentation=first >= 0.5)
    assert set(torch.cat(seen).unique().tolist()) == {0, 1}
    np.testing.assert_array_equal(again, first)


@pytest.mark.parametrize("start", ["presegmentation", "noise"])
@pytest.mark.parametrize("grid", [NATIVE, GridSettings(2.0, "brain_box", 4.0, 1.0)])
def test_segment_case_does_not_depend_on_batch_size(start, grid):
    before = (RANDOM.random((*SHAPE, 1)) > 0.5).astype(np.float32)
    segmenter = chain(start=start, t_start=300 if start == "presegmentation" else 1000)
    results = [segment(segmenter, grid=grid, presegmentation=before, batch=batch) for batch in (1, 2, 5, 100)]
    assert results[0].std() > 0.1
    for result in results[1:]:
        assert np.array_equal(result, results[0])


def test_segment_case_with_a_real_network_agrees_over_batch_sizes(configured):
    settings = configured("network", "denoiser", channels=8, multipliers=[1, 2], attention_at=[2], residual_blocks=1)
    torch.manual_seed(0)
    network = build_model(settings, 2).network.eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    before = (RANDOM.random((*SHAPE, 1)) > 0.5).astype(np.float32)
    results = [segment(chain(network=network), presegmentation=before, batch=batch) for batch in (1, 4, 9)]
    assert results[0].std() > 0.05
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], atol=1e-3)


def test_segment_case_members_and_slices_are_independent():
    before = (RANDOM.random((*SHAPE, 1)) > 0.5).astype(np.float32)
    five, two = (segment(chain(num_members), presegmentation=before) for num_members in (5, 2))
    assert np.array_equal(five[..., :2], two)
    fewer = BRAIN.copy()
    fewer[:, :, :4] = False
    last = segment(chain(2), brain=fewer, presegmentation=before)
    assert np.array_equal(last[:, :, 4], two[:, :, 4])
    assert not last[:, :, :4].any()


def test_segment_case_members_slices_cases_seeds_and_methods_differ():
    constant, before = np.zeros_like(IMAGE), np.zeros((*SHAPE, 1), np.float32)
    first = segment(chain(2), image=constant, presegmentation=before)
    assert not np.array_equal(first[..., 0], first[..., 1])
    assert not np.array_equal(first[:, :, 1], first[:, :, 2])
    for other in ({"case": "another"}, {"noise": MethodNoise("method", 1)}, {"noise": MethodNoise("another", 0)}):
        assert not np.array_equal(segment(chain(2), image=constant, presegmentation=before, **other), first)


def test_sample_cases_names_noise_with_the_method_and_shares_it_among_its_variations(
    tmp_path, configured, random_network, sample_job, monkeypatch
):
    trained = random_network(configured("network", "attunet", channels=[4, 8]))
    settings = configured("method", "attunet")

    def noise(name):
        values = []

        def answer(image, _, noise):
            values.append(noise.sample_normal((1000,)))
            return torch.zeros_like(image[:, :1])

        monkeypatch.setattr(sample_cases, "build_segmenter", lambda *_: Recording(answer))
        sample_cases.sample_cases(sample_job(tmp_path / name, name, settings, batch=12, **trained))
        return torch.cat(values).flatten().numpy()

    latent, start, variation = map(noise, ("probabilistic-unet", "es-ddpm", "es-ddpm@t_start=100"))
    assert np.array_equal(start, variation)
    assert abs(np.corrcoef(latent, start)[0, 1]) < 4.5 / np.sqrt(len(start))


# The ground truth


def test_sampling_does_not_depend_on_the_ground_truth(tmp_path, prepared, script, configured, random_network, sample_job):
    """Predictions are byte-identical whether the ground truth exists, has other labels or is missing."""
    networks = {
        "attunet": configured("network", "attunet", channels=[4, 8]),
        "denoiser": configured("network", "denoiser", channels=8, multipliers=[1, 2], attention_at=[2], residual_blocks=1),
    }
    trained = {name: random_network(settings, name) for name, settings in networks.items()}
    methods = {
        "attunet": (configured("method", "attunet"), "attunet", None),
        "ddpm": (configured("method", "ddpm", reverse_steps=3, samples=2, pool=2), "denoiser", None),
        "pd-ddpm": (configured("method", "pd-ddpm", reverse_steps=10, samples=2, pool=2), "denoiser", "attunet"),
    }
    sample = script("sample")

    def predictions(root):
        for name, (settings, network, presegmentation) in methods.items():
            folder = Run("dataset", name, 0, 0).folder(root, "predictions")
            start = presegmentation and Run("dataset", presegmentation, 0, 0).folder(root, "predictions") / "predictions.csv"
            sample(sample_job(folder, name, settings, batch=12, presegmentation=start, **trained[network]))
        return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*.nii.gz"))}

    expected = predictions(tmp_path / "truth")
    assert len(expected) == 3 * 2 * 3
    folder = Run("dataset", "pd-ddpm", 0, 0).folder(tmp_path / "truth", "predictions")
    samples = nib.load(folder / "four_samples.nii.gz").get_fdata()
    assert samples.shape == (27, 21, 6, 2)
    assert samples.std() > 0.05
    for _, record in pd.read_csv(folder / "predictions.csv").iterrows():
        # Two members of three steps, and the pre-segmentation that they share.
        assert Cost.from_record(record).total(2)["network_evaluations"] == 2 * 3 + 1
    masks = sorted(prepared.glob("*_mask.nii.gz"))
    assert len(masks) == 5
    for path in masks:
        stored = nib.load(path)
        nib.save(nib.Nifti1Image(((stored.get_fdata() + 1) % 3).astype(np.uint8), stored.affine), path)
    assert predictions(tmp_path / "poisoned") == expected
    for path in masks:
        path.unlink()
    assert predictions(tmp_path / "gone") == expected
