"""Paths of runs and the distribution of cases over shards."""

from pathlib import Path

import pytest

from pd_ddpm.config.run import Run, Shard, parse_slug

RUN = Run("wmh", "pd-ddpm@t_start=50", 3, 12)


def test_run_folder_names_dataset_kind_name_and_slug() -> None:
    assert RUN.slug == "split-3_seed-12"
    assert RUN.folder("results", "networks") == Path("results/wmh/networks/pd-ddpm@t_start=50/split-3_seed-12")


@pytest.mark.parametrize(
    "path",
    [
        RUN.folder("results", "predictions"),
        RUN.folder("/data/split-0_seed-0/results", "networks") / "model.json",
        RUN.folder("results", "predictions") / "shards" / "1-of-3.json",
        "results/wmh/scores/pd-ddpm@t_start=50/split-3_seed-12.csv",
        "wmh/ensembles/pd-ddpm@t_start=50/split-3_seed-12.json",
    ],
)
def test_run_parse_returns_the_run_of_a_path(path: Path | str) -> None:
    assert Run.parse(path) == RUN


@pytest.mark.parametrize(
    "path", ["results/wmh/splits.csv", "unet/split-0_seed-0", "results/wmh/networks/unet/split-0_seed-0-old/model.json"]
)
def test_run_parse_rejects_a_path_without_run(path: str) -> None:
    with pytest.raises(ValueError, match=r"is not in the folder of a run\. Give a path with \{name\}/split-\{i\}_seed-\{j\}\."):
        Run.parse(path)


def test_parse_slug_returns_split_and_seed_of_whole_names_only() -> None:
    assert parse_slug(RUN.slug) == (3, 12)
    assert parse_slug("split-3_seed-12.tsv") is None
    assert parse_slug("shards") is None


def test_shards_distribute_all_cases_once_and_evenly() -> None:
    cases = [f"case-{number}" for number in range(11)]
    shards = [Shard(index, 3).select(cases) for index in (1, 2, 3)]
    assert sorted(case for shard in shards for case in shard) == sorted(cases)
    assert [len(shard) for shard in shards] == [4, 4, 3]
    assert shards[1][:2] == ["case-1", "case-4"]
    assert Shard().select(cases) == cases


@pytest.mark.parametrize(("index", "count"), [(0, 2), (3, 2), (1, 0)])
def test_shard_outside_the_count_is_rejected(index: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"shard {index} of {count}"):
        Shard(index, count)
