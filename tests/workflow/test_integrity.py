"""Flipped bits in the files of a finished workflow (the reading takes about 30 s)."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pd_ddpm.data.nifti.geometry import ImageError
from pd_ddpm.data.nifti.read import read_image
from pd_ddpm.models.weights import CheckpointError, load_weights
from pd_ddpm.runtime.files import read_completion_record
from pd_ddpm.runtime.sealed import DamagedFileError, check_seal, seal_path
from pd_ddpm.training.saved_state import load_state

pytestmark = pytest.mark.workflow

UNREAD = ("results/logs/", "results/index_files/")  # no job reads them
EXISTENCE_ONLY = ("finished.json", "lock")  # no job reads the content
NUM_FLIPS = 300


def sealed_file(path: Path) -> Path:
    """Return the file that a seal belongs to, and any other file itself."""
    if path.suffix == ".sha256":
        return path.with_name(path.name.removeprefix(".").removesuffix(".sha256"))
    return path


def read_voxels(path: Path) -> bytes:
    image = read_image(path, mask=True, allow_4d=True)
    return np.asanyarray(image.dataobj).tobytes() + image.affine.tobytes()


def read_weights(path: Path) -> None:
    """Read weights; a file of early checkpoints may be empty."""
    try:
        load_weights(path, path.with_name("model.json"))
    except CheckpointError as error:
        if "it has no checkpoint" not in str(error):
            raise


def reader(path: Path) -> Callable[[], object]:
    """Return a function that reads a file as jobs do."""
    if seal_path(sealed_file(path)).exists():
        return lambda: check_seal(sealed_file(path))
    if path.name.endswith(".nii.gz"):
        return lambda: read_voxels(path)
    if path.suffix == ".safetensors":
        return lambda: read_weights(path)
    if path.suffix == ".pt":
        return lambda: load_state(path)
    stamp = json.loads(path.read_text(encoding="utf-8"))["stamp"]
    return lambda: read_completion_record(path, stamp)


def is_silent(path: Path, read: Callable[[], object], before: object) -> bool:
    """Return whether a reader of a damaged file neither names it, nor returns None, nor what it returned before the damage."""
    try:
        after = read()
    except (DamagedFileError, ImageError, CheckpointError) as error:
        return sealed_file(path).name not in str(error)
    return not ((after is None and isinstance(before, dict)) or (isinstance(before, bytes) and after == before))


def test_no_flipped_bit_in_a_finished_run_is_silent(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    for part in ("results", "work"):
        shutil.copytree(finished / part, folder / part)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    files = [path for path in files if not path.relative_to(folder).as_posix().startswith(UNREAD)]
    files = [path for path in files if path.name not in EXISTENCE_ONLY]
    random, silent = np.random.default_rng(0), []
    for path in random.choice(files, NUM_FLIPS):
        read, intact = reader(path), path.read_bytes()
        before, flipped = read(), bytearray(intact)
        flipped[random.integers(len(intact))] ^= 1 << random.integers(8)
        path.write_bytes(flipped)
        if is_silent(path, read, before):
            silent.append(path.relative_to(folder).as_posix())
        path.write_bytes(intact)
    assert silent == []
