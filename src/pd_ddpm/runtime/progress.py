"""Log progress with an estimate of the remaining time."""

import logging
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

log = logging.getLogger("pd_ddpm")


class _Lines:
    """A file that logs whole lines. tqdm redraws one line, which parallel jobs would garble."""

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text:
            log.info(text)

    def flush(self) -> None:
        pass


def progress(items: Iterable[Item], description: str, total: int | None = None, done: int = 0) -> Iterator[Item]:
    """Iterate over items and log the progress every ten seconds: percentage, count, elapsed and remaining time.

    Args:
        items: what to iterate over.
        description: prefix of the messages.
        total: number of items, if `items` has no length.
        done: number of items that were finished before.
    """
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
