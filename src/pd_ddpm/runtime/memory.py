"""Want of memory, of a GPU or of the machine, told in one sentence with what to lower."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# The words of PyTorch's allocators, of cuBLAS and of cuDNN. A GPU's has a class of its own besides.
_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


class MemoryShortageError(RuntimeError):
    """The memory does not suffice; the message names the keys that take it, with their values."""


@contextmanager
def enough_memory(what: str, keys: Mapping[str, Any], precision: Any, kept: str) -> Iterator[None]:
    """Raise MemoryShortageError where the block fails for want of memory, and leave other errors as they are.

    keys: configuration keys to lower, with their present values; kept: a sentence on what is not lost.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        lower = " or ".join(f"'{key}' ({value})" for key, value in keys.items())
        said = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise MemoryShortageError(
            f"{what}: out of memory ({said[0]}); lower {lower}, set 'precision' to 'bfloat16' where it is not ({precision} "
            f"here), or give the job more memory. {kept}"
        ) from error


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that memory has run out."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or any(word in str(error) for word in _WORDS)


def available_memory(root: Path = Path("/")) -> int:
    """Bytes of main memory that this process may still take: the least of what the machine, its control group and Slurm leave.

    root: where /proc and /sys lie.
    """
    left = [_machine_leaves(root), *_groups_leave(root)]
    used = int((root / "proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if megabytes := _slurm_gives(os.environ):
        left.append(megabytes * 2**20 - used)
    return max(min(left), 0)


def _machine_leaves(root: Path) -> int:
    lines = (line.split() for line in (root / "proc/meminfo").read_text(encoding="utf-8").splitlines())
    return next(int(line[1]) * 1024 for line in lines if line[0] == "MemAvailable:")


def _groups_leave(root: Path) -> Iterator[int]:
    """What the limits of the control groups of this process leave, of version 2 and of version 1."""
    for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            folder, files = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            folder, files = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        inner = folder / group.lstrip("/")
        for place in (inner, *(parent for parent in inner.parents if parent.is_relative_to(folder))):
            # A container sees its own group as the root; "max" is no number, and no limit.
            with suppress(OSError, ValueError):
                limit, used = (int((place / file).read_text(encoding="utf-8")) for file in files)
                yield limit - used


def _slurm_gives(environment: Mapping[str, str]) -> int:
    """Megabytes of this job's allocation on this node; 0 where there is none or it has no limit."""
    if whole := int(environment.get("SLURM_MEM_PER_NODE", 0)):
        return whole
    return int(environment.get("SLURM_MEM_PER_CPU", 0)) * int(environment.get("SLURM_CPUS_ON_NODE", 1))
