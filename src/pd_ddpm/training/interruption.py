"""Graceful end of a training on SIGTERM."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(SystemExit):
    """The job received SIGTERM. Its state is saved, and the next run resumes from it."""


@contextmanager
def handle_sigterm() -> Iterator[Callable[[], bool]]:
    """Handle SIGTERM (sent before a time limit or preemption); yield a function that tells whether it was received."""
    received = False

    def note(*_: Any) -> None:
        nonlocal received
        received = True

    previous_handler = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: received
    finally:
        signal.signal(signal.SIGTERM, previous_handler)
