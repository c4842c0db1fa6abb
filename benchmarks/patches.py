"""Time a batch of twelve patches of 128 x 192 pixels from slices in memory, with random crops and flips.

Ours is `TrainingSlices.sample_batch`, which returns image, label fractions and loss mask. The peer is MONAI's data path as in
its tutorials: CacheDataset with all items cached, RandSpatialCropd and RandFlipd on image and mask, DataLoader without workers.
It is timed without metadata tracking, which is faster, and with it, the default. An item of MONAI is a slice with a mask of one
channel; ours has two. Times are per batch, over whole epochs.
"""

from collections.abc import Callable

import torch
from monai.data import CacheDataset, DataLoader, set_track_meta
from monai.transforms import Compose, RandFlipd, RandSpatialCropd

from benchmarks.rows import Row, comparison
from benchmarks.timing import Implementation, time_in_rounds
from benchmarks.training import artificial_slices
from pd_ddpm.diffusion.noise import stream
from pd_ddpm.training.patches import PatchSettings, TrainingSlices

SIZE, CROP, BATCH = (200, 240), (128, 192), 12
CASES, SLICES = 6, 40
EPOCH = CASES * SLICES // BATCH


def our_epoch(slices: TrainingSlices) -> Callable[[], None]:
    """Return a function that samples the batches of a training job, as many as an epoch of MONAI has."""
    settings = PatchSettings(CROP, None, (0,), 0.0)
    steps = iter(range(1_000_000_000))

    def epoch() -> None:
        for _ in range(EPOCH):
            slices.sample_batch(stream("train", 0, next(steps)), BATCH, settings)

    return epoch


def monai_epoch(slices: TrainingSlices, use: Callable[[dict], object] = id) -> Callable[[], None]:
    """Return a function that iterates over an epoch of MONAI's loader and calls `use` with each batch.

    MONAI's metadata switch takes effect both when the cache is filled, in this call, and when the function runs.
    """
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
    """Compare a batch with MONAI's, without and with metadata."""
    torch.manual_seed(0)
    slices = TrainingSlices(artificial_slices(CASES, SLICES, SIZE))
    implementations = {name: Implementation(our_epoch(slices), units=EPOCH) for name in ("ours", "again")}
    for name, tracked in (("without metadata", False), ("with metadata", True)):
        implementations[name] = Implementation(_with_tracking(tracked, lambda: monai_epoch(slices)), units=EPOCH)
    times = time_in_rounds(implementations, rounds)
    what = f"batch of {BATCH} patches ({CROP[0]} x {CROP[1]})"
    return [
        comparison(times, what, "MONAI CacheDataset without metadata", "without metadata", target=2.5),
        comparison(times, what, "MONAI CacheDataset with metadata", "with metadata"),
    ]


def _with_tracking(tracked: bool, make: Callable[[], Callable[[], None]]) -> Callable[[], None]:
    """Return an epoch that is created and run with MONAI's metadata tracking on or off, and restores the default afterwards."""

    def switched(call: Callable[[], object]) -> object:
        set_track_meta(tracked)
        try:
            return call()
        finally:
            set_track_meta(True)

    epoch = switched(make)
    return lambda: switched(epoch)
