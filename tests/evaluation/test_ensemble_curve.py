"""Dice of subsets of a pool against a direct computation (about 2 s)."""

import math
from itertools import combinations

import numpy as np
import pytest

from pd_ddpm.data.nifti.write import PROBABILITY_SLOPE
from pd_ddpm.evaluation.ensemble_curve import curve, subsets
from pd_ddpm.evaluation.metrics import ReferenceMask, score
from pd_ddpm.inference.ensemble import ensemble_mask


def stream() -> np.random.Generator:
    return np.random.default_rng(0)


def pool_of(members: int, shape: tuple[int, int, int] = (9, 8, 4)) -> np.ndarray:
    """Return members as they are stored: uint8 steps, many at 0 and 1, and pairs whose mean is a tie."""
    random = np.random.default_rng(1)
    steps = np.clip(random.normal(127, 110, (*shape, members)), 0, 255).round()
    steps[:3, :3, :2, : members // 2 * 2] = np.tile([100, 155], members // 2)
    return steps.astype(np.float32) * np.float32(PROBABILITY_SLOPE)


def reference(labels: np.ndarray) -> ReferenceMask:
    return ReferenceMask.from_labels(labels.astype(np.uint8), (1.0, 1.0, 3.0))


@pytest.mark.parametrize(("pool", "per_size"), [(1, 1), (4, 6), (7, 20), (10, 30), (20, 12)])
def test_subsets_are_distinct_and_at_most_per_size(pool: int, per_size: int) -> None:
    chosen = subsets(pool, per_size, stream())
    assert list(chosen) == list(range(1, pool + 1))
    for size, of_size in chosen.items():
        possible = math.comb(pool, size)
        assert len(of_size) == len(set(of_size)) == min(per_size, possible)
        assert of_size[0] == tuple(range(size))
        assert of_size == sorted(of_size)
        assert all(len(subset) == size == len(set(subset)) and list(subset) == sorted(subset) for subset in of_size)
        assert set().union(*of_size) <= set(range(pool))
        if possible <= per_size:
            assert of_size == list(combinations(range(pool), size))


def test_equal_streams_give_equal_subsets() -> None:
    assert subsets(10, 25, stream()) == subsets(10, 25, stream())
    assert subsets(10, 25, stream()) != subsets(10, 25, np.random.default_rng(1))


def test_subsets_sample_all_members_equally_often() -> None:
    counts = np.zeros(12)
    for seed in range(60):
        for subset in subsets(12, 20, np.random.default_rng(seed))[4]:
            counts[list(subset)] += subset != (0, 1, 2, 3)
    expected = counts.sum() / 12
    assert np.abs(counts - expected).max() < 5 * math.sqrt(expected)


def test_subsets_of_half_the_pool_include_disjoint_pairs() -> None:
    of_half = [set(subset) for subset in subsets(20, 12, stream())[10]]
    assert sum(first.isdisjoint(second) for first, second in combinations(of_half, 2)) >= 6


@pytest.mark.parametrize(("pool", "per_size"), [(0, 3), (3, 0)])
def test_subsets_reject_an_empty_pool(pool: int, per_size: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        subsets(pool, per_size, stream())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_curve_equals_the_score_of_each_subset_exactly(dtype: type) -> None:
    samples = pool_of(6).astype(dtype)
    truth = reference(np.random.default_rng(2).choice(3, samples.shape[:3], p=(0.6, 0.3, 0.1)))
    chosen = subsets(6, 100, stream())
    expected = [
        (size, "+".join(map(str, subset)), score(truth, ensemble_mask(samples[..., list(subset)]))["dice"])
        for size, of_size in chosen.items()
        for subset in of_size
    ]
    rows = curve(samples, truth, chosen)
    assert list(rows.columns) == ["size", "subset", "dice"]
    assert list(rows.itertuples(index=False, name=None)) == expected
    assert len(expected) == 63


def test_curve_with_hd95_equals_the_score_of_each_subset_exactly() -> None:
    samples = pool_of(4)
    truth = reference(np.random.default_rng(2).choice(3, samples.shape[:3], p=(0.6, 0.3, 0.1)))
    chosen = subsets(4, 100, stream())
    rows = curve(samples, truth, chosen, hd95=True)
    members = [list(subset) for of_size in chosen.values() for subset in of_size]
    expected = [score(truth, ensemble_mask(samples[..., subset]))["hd95_mm"] for subset in members]
    assert rows["hd95_mm"].tolist() == expected
    assert len(set(expected)) > 3
    empty = curve(np.zeros_like(samples), truth, {1: [(0,)]}, hd95=True)
    assert math.isnan(empty["hd95_mm"].item())


def test_curve_counts_a_tie_as_lesion() -> None:
    samples = pool_of(2)[:3, :3, :2]
    truth = reference(np.ones(samples.shape[:3]))
    assert curve(samples, truth, {2: [(0, 1)]})["dice"].item() == 1
    assert curve(samples, truth, {1: [(0,)]})["dice"].item() == 0


def test_curve_of_empty_masks_follows_the_policy() -> None:
    nothing = np.zeros((4, 4, 2, 3), dtype=np.float32)
    assert curve(nothing, reference(np.zeros((4, 4, 2))), subsets(3, 5, stream()))["dice"].eq(1).all()
    assert curve(nothing + 1, reference(np.zeros((4, 4, 2))), subsets(3, 5, stream()))["dice"].eq(0).all()
    assert curve(nothing + 1, reference(np.full((4, 4, 2), 2)), subsets(3, 5, stream()))["dice"].eq(1).all()


def test_curve_rejects_unknown_members_and_other_shapes() -> None:
    truth = reference(np.zeros((4, 4, 2)))
    with pytest.raises(ValueError, match="only members 0 to 1"):
        curve(np.zeros((4, 4, 2, 2)), truth, {1: [(2,)]})
    with pytest.raises(ValueError, match="shape"):
        curve(np.zeros((4, 4, 3, 2)), truth, {1: [(0,)]})
