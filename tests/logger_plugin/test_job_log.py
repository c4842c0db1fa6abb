"""The log of a running job: its latest message, its warnings and errors."""

import logging
from pathlib import Path

import pytest

from pd_ddpm.runtime.job import run
from snakemake_logger_plugin_pd_ddpm.job_log import JobLog


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def test_job_log_shows_warnings_and_errors_with_their_further_lines_and_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "job.log"
    log = JobLog(path)
    assert log.read() == []
    append(path, "12:00:01 training:  10% 1/10\n12:00:02 WARNING slow\n  very slow\n12:00:03 training:  20% 2/10\n")
    assert log.read() == ["WARNING slow", "  very slow"]
    assert (log.has_begun, log.latest) == (True, "training:  20% 2/10")
    append(path, "Traceback (most recent call last):\n  File x\nValueError: wrong\n12:00:04 ERROR ValueError: wro")
    assert log.read() == []
    append(path, "ng\n  (traceback: job.log)\n")
    assert log.read() == ["ERROR ValueError: wrong", "  (traceback: job.log)"]
    assert log.read() == []


def test_job_log_ignores_what_an_earlier_attempt_has_left(tmp_path: Path) -> None:
    path = tmp_path / "job.log"
    path.write_text("12:00:01 WARNING of the first attempt\n", encoding="utf-8")
    log = JobLog(path)
    assert (log.read(), log.has_begun, log.last_lines(5)) == ([], False, [])
    path.write_text("", encoding="utf-8")
    append(path, "12:00:09 second attempt\n")
    assert (log.read(), log.latest, log.last_lines(5)) == ([], "second attempt", ["12:00:09 second attempt"])


def test_job_log_without_file_is_empty() -> None:
    log = JobLog(None)
    assert (log.read(), log.has_begun, log.last_lines(5)) == ([], False, [])


def failing_job() -> None:
    logging.getLogger("pd_ddpm").info("begins")
    logging.getLogger("pd_ddpm").warning("first line\nsecond line")
    raise ValueError("the file is damaged")


@pytest.mark.parametrize("is_shown", [True, False])
def test_job_log_reads_what_a_job_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_shown: bool
) -> None:
    """The job itself writes to the console only if the logger plugin does not."""
    path = tmp_path / "job.log"
    log = JobLog(path)
    monkeypatch.delenv("PD_DDPM_LOGS_ARE_SHOWN", raising=False)
    if is_shown:
        monkeypatch.setenv("PD_DDPM_LOGS_ARE_SHOWN", "1")
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        with pytest.raises(SystemExit):
            run(failing_job, str(path))
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers = handlers
        logging.captureWarnings(False)
    assert log.read() == [
        "WARNING first line",
        "  second line",
        "ERROR ValueError: the file is damaged",
        f"  (traceback: {path})",
    ]
    assert ("the file is damaged" in capsys.readouterr().err) is not is_shown
