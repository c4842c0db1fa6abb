"""Parallel worker processes, and what happens when one is killed (about 3 s)."""

import os
import signal
import time

import pandas as pd
import pytest

from pd_ddpm.data.check import case as check_case
from pd_ddpm.data.check import dataset, report
from pd_ddpm.data.preparation import case as preparation_case
from pd_ddpm.data.preparation.case import prepare_cohort
from pd_ddpm.runtime.process_pool import WorkerError, in_processes


def squared(number):
    time.sleep(0.05 * (3 - number))  # the first ends last
    return number, number**2, os.getpid()


def killed_at_two(number):
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def wrong_at_one(number):
    if number == 1:
        raise ValueError(f"{number} is wrong")
    return number


@pytest.mark.parametrize("processes", [1, 2, 8])
def test_in_processes_keeps_the_order_of_items(processes, caplog):
    with caplog.at_level("INFO"):
        found = in_processes(squared, [0, 1, 2, 3], processes, "squaring")
    assert [result[:2] for result in found] == [(0, 0), (1, 1), (2, 4), (3, 9)]
    assert ({result[2] for result in found} == {os.getpid()}) == (processes == 1)
    assert "squaring: 100% 4/4" in caplog.text


def test_in_processes_runs_a_single_item_in_the_caller():
    assert in_processes(squared, [3], 4, "squaring")[0][2] == os.getpid()


def test_in_processes_reports_a_killed_worker_with_cause_and_remedy():
    with pytest.raises(WorkerError) as caught:
        in_processes(killed_at_two, range(4), 2, "squaring")
    for words in (
        "squaring: one of 2 processes was killed",
        "lack of memory (the largest process that has ended took ",
        " MB)",
    ):
        assert words in str(caught.value)
    assert "Use fewer processes (`snakemake --set-threads RULE=1`, or `--processes 1`)" in str(caught.value)
    assert "Finished results are kept" in str(caught.value)


@pytest.mark.parametrize("processes", [1, 2])
def test_in_processes_raises_an_items_error_with_the_workers_traceback(processes):
    with pytest.raises(ValueError, match="1 is wrong") as caught:
        in_processes(wrong_at_one, [0, 1, 2], processes, "trying")
    told = str(caught.value.__cause__) if processes > 1 else str(caught.getrepr())
    assert "in wrong_at_one" in told or "wrong_at_one(" in told


def test_prepare_cohort_keeps_finished_cases_after_a_killed_worker(tmp_path, monkeypatch):
    def prepare(case, **settings):
        done = tmp_path / "a"
        if case["case"] == "a":
            done.write_text("finished")
            return {"case": "a"}
        while not done.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

    left = tmp_path / ".partial.b_image.nii.gz"  # by a run that was killed before
    left.write_text("half")
    monkeypatch.setattr(preparation_case, "prepare_case", prepare)
    with pytest.raises(WorkerError, match=r"preparing: one of 2 processes was killed .*Finished results are kept"):
        prepare_cohort(pd.DataFrame({"case": ["a", "b"]}), ["FLAIR"], tmp_path, processes=2)
    assert (tmp_path / "a").read_text() == "finished"
    assert not left.exists()


def test_check_cases_reports_a_killed_worker(tmp_path, monkeypatch):
    monkeypatch.setattr(check_case, "read_image", lambda path: os.kill(os.getpid(), signal.SIGKILL))
    table = pd.DataFrame(
        {"case": ["a", "b"], "site": "s", "FLAIR": "x.nii.gz", "FLAIR_transform": "", "mask": "", "observer_2": ""}
    )
    requirements = report.Requirements(("FLAIR",), None, None, (16, 16), {})
    with pytest.raises(WorkerError, match="checking: one of 2 processes was killed"):
        dataset.check_cases(table, requirements, tmp_path, processes=2)
