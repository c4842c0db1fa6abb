"""Graceful end of a training on SIGTERM."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(SystemExit):
    """The job was asked to end; the state is saved, and the next start goes on from it."""


@contextmanager
def asked_to_end() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM has come, as it does before a cluster's time limit or a preemption; it no longer kills at once."""
    asked = False

    def note(*_: Any) -> None:
        nonlocal asked
        asked = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGTERM, before)
