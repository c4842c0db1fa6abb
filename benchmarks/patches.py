"""A batch of twelve patches of 128 x 192 from whole slices in memory: random crop and random flip.

Ours is `TrainingSlices.batch`: image, lesion share, counted pixels. The peer is MONAI's data path as its tutorials set it up:
CacheDataset with everything cached, RandSpatialCropd and RandFlipd on image and mask, DataLoader without workers; metadata
tracking switched off, which is the faster way, and on, which is its default. A MONAI item is one slice with a mask of one
channel, ours has two. Per batch, over whole epochs.
"""

from collections.abc import Callable

import torch
from monai.data import CacheDataset, DataLoader, set_track_meta
from monai.transforms import Compose, RandFlipd, RandSpatialCropd

from benchmarks.rows import Row, compared
from benchmarks.timing import Contestant, take_turns
from benchmarks.training import artificial_slices
from pd_ddpm.diffusion.noise import stream
from pd_ddpm.training.patches import PatchSettings, TrainingSlices

SIZE, CROP, BATCH = (200, 240), (128, 192), 12
CASES, SLICES = 6, 40
EPOCH = CASES * SLICES // BATCH


def our_epoch(slices: TrainingSlices) -> Callable[[], None]:
    """Batches of a training job, as many as MONAI's epoch has."""
    settings = PatchSettings(CROP, None, (0,), 0.0)
    steps = iter(range(1_000_000_000))

    def epoch() -> None:
        for _ in range(EPOCH):
            slices.sample_batch(stream("train", 0, next(steps)), BATCH, settings)

    return epoch


def monai_epoch(slices: TrainingSlices, use: Callable[[dict], object] = id) -> Callable[[], None]:
    """An epoch of MONAI's loader; whether it tracks metadata is decided when its cache is filled and when it runs."""
    items = [
        {"image": case.image[z].clone(), "mask": case.label_fractions[z, :1].clone()}
        for case in slices.cases
        for z in range(SLICES)
    ]
    keys = ("image", "mask")
    transform = Compose(
        [
            RandSpatialCropd(keys, roi_size=CROP, random_size=False),
            RandFlipd(keys, prob=0.5, spatial_axis=0),
        ]
    )
    loader = DataLoader(CacheDataset(items, transform, progress=False), batch_size=BATCH, shuffle=True, num_workers=0)

    def epoch() -> None:
        for batch in loader:
            use(batch)

    return epoch


def batches_of_patches(rounds: int) -> list[Row]:
    """A batch against MONAI's without and with metadata."""
    torch.manual_seed(0)
    slices = TrainingSlices(artificial_slices(CASES, SLICES, SIZE))
    contestants = {name: Contestant(our_epoch(slices), units=EPOCH) for name in ("ours", "again")}
    for name, tracked in (("without metadata", False), ("with metadata", True)):
        contestants[name] = Contestant(_tracking(tracked, lambda: monai_epoch(slices)), units=EPOCH)
    times = take_turns(contestants, rounds)
    what = f"batch of {BATCH} patches ({CROP[0]} x {CROP[1]})"
    return [
        compared(times, what, "MONAI CacheDataset without metadata", "without metadata", target=2.5),
        compared(times, what, "MONAI CacheDataset with metadata", "with metadata"),
    ]


def _tracking(tracked: bool, make: Callable[[], Callable[[], None]]) -> Callable[[], None]:
    """An epoch that is made and runs with MONAI's metadata tracking on or off; the switch is its own again afterwards."""

    def switched(call: Callable[[], object]) -> object:
        set_track_meta(tracked)
        try:
            return call()
        finally:
            set_track_meta(True)

    epoch = switched(make)
    return lambda: switched(epoch)
