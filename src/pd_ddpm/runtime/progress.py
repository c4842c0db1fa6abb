"""Log progress with an estimate of the remaining time."""

import logging
from collections.abc import Iterable, Iterator
from typing import TypeVar

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
