"""What a terminal shows of a run: few lines, and every warning and error."""

import io
import logging
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from snakemake.logging import DefaultFormatter
from snakemake.settings.types import OutputSettings
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_pd_ddpm import LogHandler, LogHandlerSettings
from snakemake_logger_plugin_pd_ddpm.jobs import duration, job_name
from snakemake_logger_plugin_pd_ddpm.terminal import Terminal

RUN = {"dataset": "phantom", "split": "0", "seed": "0"}


class Run:
    """A handler whose clock the test sets, and the records that Snakemake would send."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.now = 0.0
        self.stream = io.StringIO()
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(sys, "stderr", self.stream)
        monkeypatch.setattr(sys, "stdout", self.stream)
        monkeypatch.setattr(LogHandler, "_tick", lambda self: None)
        monkeypatch.setenv("PD_DDPM_LOGS_ARE_SHOWN", "")  # so that it is removed after the test
        self.handler = LogHandler(OutputSettings(**settings), LogHandlerSettings())
        self.handler.setFormatter(DefaultFormatter())

    def send(self, event: LogEvent | None = None, message: str = "", level: int = logging.INFO, **fields: Any) -> None:
        record = logging.LogRecord("snakemake", level, __file__, 1, message, None, None)
        record.__dict__.update(fields | ({} if event is None else {"event": event}))
        self.handler.emit(record)

    def begin(self, number: int, rule: str, log: Path | None, reason: str = "", **wildcards: str) -> None:
        described = {"rule_name": rule, "wildcards": wildcards, "log": [str(log)] if log else [], "reason": reason}
        self.send(LogEvent.JOB_INFO, jobid=number, **described)

    def finish(self, number: int, total: int) -> None:
        self.send(LogEvent.JOB_FINISHED, job_id=number)
        self.send(LogEvent.PROGRESS, done=number, total=total)

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


def test_run_of_hundred_jobs_in_eleven_minutes_prints_few_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = Run(monkeypatch)
    for number in range(1, 102):
        for noise in ("Select jobs to execute...", "Building DAG of jobs..."):
            run.send(message=noise)
        run.begin(number, "sample", tmp_path / "log", method=f"m{number}", **RUN)
        run.now += 6.5
        run.finish(number, 101)
    run.send(message="Done. Open results/table1.html in a browser.")
    run.send(message="Complete log(s): /x")
    run.send(message="Elapsed time: 0:11:00")
    run.handler.close()
    assert len(run.lines) <= 35
    assert run.lines[-1] == "Done. Open results/table1.html in a browser."
    text = run.stream.getvalue()
    assert [number for number in range(1, 102) if f" m{number} " not in text] == []  # each job is named


def test_warnings_and_the_error_of_a_failed_job_are_shown_in_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = Run(monkeypatch)
    log = tmp_path / "unet.log"
    run.begin(1, "train", log, network="unet", **RUN)
    log.write_text("12:00:00 WARNING odd\n12:00:01 ERROR ValueError: damaged\n  (traceback: unet.log)\n", encoding="utf-8")
    failure = {"jobid": 1, "rule_name": "train", "rule_msg": None, "aux": {"slurm_jobid": 7}, "log": [str(log)]}
    run.send(LogEvent.JOB_ERROR, "Error in rule train", logging.ERROR, **failure)
    run.send(message="Shutting down", level=logging.ERROR)
    run.send(message="Complete log(s): /x/y.log")
    run.handler.close()
    assert run.lines == [
        "FAILED: train unet (split 0)",
        "  WARNING odd",
        "  ERROR ValueError: damaged",
        "    (traceback: unet.log)",
        "  slurm_jobid: 7",
        f"  log: {log}",
        "Shutting down",
        "Complete log(s): /x/y.log",
    ]


def test_failed_job_without_message_shows_the_end_of_its_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = Run(monkeypatch)
    log = tmp_path / "unet.log"
    run.begin(1, "train", log, network="unet", **RUN)
    log.write_text("12:00:00 training: 50%\n", encoding="utf-8")
    run.send(LogEvent.JOB_ERROR, "Error", logging.ERROR, jobid=1, rule_name="train", rule_msg="killed", aux={}, log=[str(log)])
    assert run.lines[1:3] == ["  12:00:00 training: 50%", "  killed"]


def test_dry_run_prints_one_line_per_rule_with_its_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, dryrun=True, stdout=True)
    run.begin(1, "train", None, "Missing output files: a, b", network="unet", **RUN)
    run.begin(2, "train", None, "Params have changed since last execution:\n  before; after", network="attunet", **RUN)
    run.begin(3, "score", None, "Input files updated by another job: a", method="unet", **RUN)
    run.send(message="This was a dry-run (flag -n). The order of jobs")
    assert [" ".join(line.split()) for line in run.lines[2:6]] == [
        "train 2 missing output (1), changed settings or code (1)",
        "score 1 follows from the jobs above",
        "total 3",
        "",
    ]


def test_quiet_dry_run_counts_the_jobs_that_it_does_not_list(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, dryrun=True, stdout=True)
    run.send(LogEvent.RUN_INFO, "Job stats:", stats={"train": 2, "score": 1, "total": 3})
    run.send(message="This was a dry-run (flag -n). The order of jobs")
    assert [line.split() for line in run.lines[2:5]] == [["train", "2"], ["score", "1"], ["total", "3"]]


def test_jobs_of_another_study_are_named_without_it_and_its_targets_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.send(targets=["results/table1.csv"], prefix="pd_ddpm_")
    run.send(targets=["results/patchddm/table1.csv"], prefix="patchddm_")
    run.begin(1, "patchddm_train", None, network="full-resolution", **RUN)
    failure = {"jobid": 1, "rule_name": "patchddm_train", "rule_msg": None, "aux": {}, "log": []}
    run.send(LogEvent.JOB_ERROR, "Error", logging.ERROR, **failure)
    message = "No rule to produce results/patchddm/tabel1.csv (if you use input functions ...)"
    run.send(LogEvent.ERROR, message, logging.ERROR)
    assert run.lines[0] == "FAILED: train full-resolution (split 0)"
    assert "Did you mean results/patchddm/table1.csv?" in run.lines[-1]


def test_silent_run_reports_what_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = Run(monkeypatch)
    log = tmp_path / "unet.log"
    run.begin(1, "train", log, network="unet", **RUN)
    run.begin(2, "train", tmp_path / "other.log", network="attunet", **RUN)
    log.write_text("12:00:00 training:  50% 5/10\n", encoding="utf-8")
    run.handler._severe_lines(run.handler._running[1])
    run.now = 59
    run.handler._report_running_if_due()
    assert run.lines == []
    run.now = 61
    run.handler._report_running_if_due()
    assert run.lines[0].endswith("running: train unet (split 0): training:  50% 5/10; 1 more: starting, or in the queue")


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_terminal_keeps_the_cursor_above_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process prints moves the cursor down and is not overwritten, since only what follows it is cleared."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "24")
    screen = Screen()
    terminal = Terminal(screen)
    terminal.draw(["first", "second " * 9])
    assert screen.getvalue() == "\033[Jfirst\nsecond second secon\033[1A\r"
    terminal.print(["stays"])
    assert screen.getvalue().endswith("\033[Jstays\n")


def test_names_of_jobs_and_durations_are_short() -> None:
    assert job_name({"dataset": "wmh"}) == "wmh"
    assert job_name({"dataset": "wmh", "network": "unet", "split": "3", "seed": "1"}) == "unet (split 3, seed 1)"
    shard = {"dataset": "wmh", "method": "ddpm", "split": "0", "seed": "0", "shard": "1", "shards": "4"}
    assert job_name(shard) == "ddpm (split 0, shard 1 of 4)"
    assert [duration(seconds) for seconds in (3.4, 62, 7860)] == ["3 s", "1 min 2 s", "2 h 11 min"]
