"""Lines that stay and, on a terminal, a block of lines below them that is rewritten in place."""

import os
import shutil
from collections.abc import Sequence
from typing import TextIO

_CLEAR_BELOW = "\033[J"
_MAX_BLOCK = 8


class Terminal:
    """A stream of text.

    The cursor waits at the beginning of the block. What another process prints therefore stays, and pushes the block down.

    Attributes:
        is_live: whether the stream is a terminal that can rewrite lines.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.is_live = stream.isatty() and os.environ.get("TERM") != "dumb"

    def print(self, lines: Sequence[str]) -> None:
        """Print lines that stay. The block disappears until it is drawn again."""
        if lines:
            self._write((_CLEAR_BELOW if self.is_live else "") + "".join(f"{line}\n" for line in lines))

    def draw(self, block: Sequence[str]) -> None:
        """Replace the block on a terminal; do nothing elsewhere."""
        if not self.is_live:
            return
        width, height = shutil.get_terminal_size()
        shown = [line[: width - 1] for line in block[: min(_MAX_BLOCK, height - 1)]]
        back = f"\033[{len(shown) - 1}A" if len(shown) > 1 else ""
        self._write(_CLEAR_BELOW + "\n".join(shown) + back + "\r")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
