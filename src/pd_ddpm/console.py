"""What a running job says: progress with an estimate of the time left, and errors that a person can act on."""

import logging
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
log = logging.getLogger("pd_ddpm")


class _Lines:
    """tqdm redraws one line with carriage returns; jobs that run side by side need whole lines instead."""

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text:
            log.info(text)

    def flush(self) -> None:
        pass


def progress(items: Iterable[Item], description: str, total: int | None = None, done: int = 0) -> Iterator[Item]:
    """Iterate and say every few seconds how far it is: share, count, elapsed and remaining time."""
    bar = "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt}, {elapsed} elapsed, {remaining} left{postfix}"
    yield from tqdm(
        items,
        description,
        total,
        initial=done,
        file=_Lines(),
        mininterval=10,
        miniters=1,
        maxinterval=10,
        bar_format=bar,
        ascii=True,
    )


def run(main: Callable[..., Any], log_file: str, **arguments: Any) -> None:
    """Call `main` as a workflow job: messages to the console and to the log file, an error as one sentence and exit code 1.

    The sentence names the file that holds the whole traceback.
    """
    Path(log_file).write_text("", encoding="utf-8")
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        handlers=[logging.StreamHandler(sys.stderr), logging.FileHandler(log_file, "a", "utf-8", errors="backslashreplace")],
    )
    logging.captureWarnings(True)
    try:
        main(**arguments)
    except Exception as error:
        # A full disk must not hide what it has led to.
        with suppress(OSError), Path(log_file).open("a", encoding="utf-8", errors="backslashreplace") as traceback_file:
            traceback.print_exc(file=traceback_file)
        log.error("%s: %s\n  (traceback: %s)", type(error).__name__, error, log_file)
        sys.exit(1)
