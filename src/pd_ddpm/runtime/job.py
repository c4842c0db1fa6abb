"""Run a script as a workflow job: log file, one-line errors, exit code."""

import logging
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pd_ddpm.runtime.memory import describe
from pd_ddpm.runtime.progress import log

# Set by the logger plugin of Snakemake, which shows the log files of running jobs in a terminal.
_LOGS_ARE_SHOWN = "PD_DDPM_LOGS_ARE_SHOWN"

# Settings and options that determine the memory of jobs, for errors that are raised where these are not known.
_RESERVE_BYTES = 2**24  # freed after an error, since its message needs memory too
_REDUCE = "the number of jobs at a time (`snakemake --cores`), `training.batch`, `training.crop` or `sampling.batch`"


class _Formatter(logging.Formatter):
    """Writes the level of warnings and errors, and indents further lines, so that they can be found in a log file."""

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname} " if record.levelno >= logging.WARNING else ""
        text = super().format(record).replace("\n", "\n  ")
        return f"{self.formatTime(record, '%H:%M:%S')} {level}{text}"


def run(main: Callable[..., Any], log_file: str, **arguments: Any) -> None:
    """Call the main function of a script as a workflow job.

    Messages go to the log file, and to the console unless Snakemake shows the log file there. An error becomes one message
    that names the log file, which holds the traceback. The process then exits with code 1.

    Args:
        main: the main function.
        log_file: log file of the job.
        **arguments: arguments of `main`.
    """
    Path(log_file).write_text("", encoding="utf-8")
    handlers: list[logging.Handler] = [logging.FileHandler(log_file, "a", "utf-8", errors="backslashreplace")]
    if _LOGS_ARE_SHOWN not in os.environ:
        handlers.append(logging.StreamHandler(sys.stderr))
    for handler in handlers:
        handler.setFormatter(_Formatter())
    logging.basicConfig(level=logging.INFO, handlers=handlers)
    logging.captureWarnings(True)
    reserve = None
    try:
        reserve = bytearray(_RESERVE_BYTES)
        main(**arguments)
    except Exception as error:
        del reserve
        # A full disk or a lack of memory must not hide the original error.
        with (
            suppress(OSError, MemoryError),
            Path(log_file).open("a", encoding="utf-8", errors="backslashreplace") as traceback_file,
        ):
            traceback.print_exc(file=traceback_file)
        log.error("%s: %s\n(traceback: %s)", type(error).__name__, describe(error, _REDUCE), log_file)
        sys.exit(1)
