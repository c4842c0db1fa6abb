"""Follow the log file of a running job: its latest message, and its warnings and errors."""

from pathlib import Path

_SEVERE = ("WARNING", "ERROR", "CRITICAL")  # between the time and the text of a message, see pd_ddpm.runtime.job
_TIME_LENGTH = len("12:34:56 ")


class JobLog:
    """The log file of a job. The content that an earlier attempt has left is ignored.

    Attributes:
        path: the file, or None if the rule has none.
        latest: the latest message of the job without its time; empty before the first.
        has_begun: whether the job has written to the file.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.latest = ""
        self.has_begun = False
        self._earlier = self._version()
        self._position = 0
        self._is_severe = False

    def read(self) -> list[str]:
        """Read what the job has written since the last call and return the lines of its warnings and errors."""
        version = self._version()
        if self.path is None or version is None or (not self.has_begun and version == self._earlier):
            return []
        self.has_begun = True
        try:
            with self.path.open("rb") as file:
                file.seek(self._position)
                content = file.read()
        except OSError:
            return []
        whole, newline, _ = content.rpartition(b"\n")
        self._position += len(whole) + len(newline)
        lines = whole.decode("utf-8", errors="backslashreplace").splitlines()
        return [text for line in lines if (text := self._severe_text(line))]

    def last_lines(self, count: int) -> list[str]:
        """Return the last lines of the file, if this job has written to it."""
        if not self.has_begun or self.path is None:
            return []
        try:
            return self.path.read_text(encoding="utf-8", errors="backslashreplace").splitlines()[-count:]
        except OSError:
            return []

    def _severe_text(self, line: str) -> str:
        """Return the line without its time if it belongs to a warning or an error, and an empty text otherwise."""
        if _has_time(line):
            self.latest = line[_TIME_LENGTH:]
            self._is_severe = self.latest.startswith(_SEVERE)
            return self.latest if self._is_severe else ""
        if not line.startswith(" "):  # a traceback follows
            self._is_severe = False
        return line if self._is_severe else ""

    def _version(self) -> tuple[int, int] | None:
        """Return what differs after the file has been written, or None if there is no file."""
        try:
            state = self.path.stat() if self.path else None
        except OSError:
            return None
        return state and (state.st_mtime_ns, state.st_size)


def _has_time(line: str) -> bool:
    return len(line) >= _TIME_LENGTH and line[2] == line[5] == ":" and line[:2].isdigit() and line[6:8].isdigit()
