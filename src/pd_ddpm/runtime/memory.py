"""Turn out-of-memory errors of CPU or GPU into one message with the keys to reduce."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# Messages of PyTorch's allocators, cuBLAS and cuDNN. For GPUs, PyTorch also has an error class.
_MESSAGES = (
    *("can't allocate memory", "cannot allocate memory", "unable to allocate", "not enough memory", "out of memory"),
    *("alloc_failed", "bad_alloc", "failed to map segment"),
)

LARGEST_BATCH = {"cpu": 20, "cuda": 128}  # by device type; larger batches make neither a core nor a GPU faster


class MemoryShortageError(RuntimeError):
    """Raised if the memory does not suffice. The message names the keys that determine its use, with their values."""


@contextmanager
def explain_memory_shortage(task: str, keys: Mapping[str, Any], precision: Any, kept: str) -> Iterator[None]:
    """Turn an out-of-memory error of the block into MemoryShortageError. Other errors pass unchanged.

    Args:
        task: what the block does, such as a network and its step, for the message.
        keys: configuration keys to reduce, with their present values.
        precision: present precision of the network.
        kept: sentence on which results are kept.

    Raises:
        MemoryShortageError: the memory does not suffice.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_shortage(error):
            raise
        reduce = " or ".join(f"`{key}` ({value})" for key, value in keys.items())
        cause = _cause(error)
        raise MemoryShortageError(
            f"{task}: out of memory ({cause}). Reduce {reduce}, use `precision: bfloat16` (currently {precision}), or "
            f"request more memory. {kept}"
        ) from error


def is_shortage(error: BaseException) -> bool:
    """Return whether an error was caused by a lack of memory."""
    is_memory_error = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return is_memory_error or _names_shortage(str(error))


def describe(error: Exception, reduce: str) -> str:
    """Return the message of an error; that of a lack of memory names what to reduce.

    Args:
        error: any error.
        reduce: what to reduce, if the error does not name it.
    """
    if not is_shortage(error) or isinstance(error, MemoryShortageError):
        return str(error)
    return f"out of memory ({_cause(error)}). Reduce {reduce}, or request more memory. Finished results are kept."


def _cause(error: Exception) -> str:
    """Return the line of a message that names the lack of memory, or else its first line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next(filter(_names_shortage, lines), lines[0]).strip()


def _names_shortage(text: str) -> bool:
    return any(message in text.lower() for message in _MESSAGES)


def available_memory(root: Path = Path("/")) -> int:
    """Return the bytes of main memory that this process may still allocate.

    This is the least of what the machine, its control groups and Slurm leave.

    root: folder that holds proc/ and sys/.
    """
    limits = [_machine_available(root), *_cgroup_available(root)]
    used = int((root / "proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if megabytes := _slurm_limit_mb(os.environ):
        limits.append(megabytes * 2**20 - used)
    return max(min(limits), 0)


def _machine_available(root: Path) -> int:
    lines = (line.split() for line in (root / "proc/meminfo").read_text(encoding="utf-8").splitlines())
    return next(int(line[1]) * 1024 for line in lines if line[0] == "MemAvailable:")


def _cgroup_available(root: Path) -> Iterator[int]:
    """Yield what each control group of this process leaves, of version 2 and of version 1."""
    for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            folder, files = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            folder, files = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        inner = folder / group.lstrip("/")
        for group_folder in (inner, *(parent for parent in inner.parents if parent.is_relative_to(folder))):
            # A container sees its own group as the root. "max" means no limit, and int() refuses it.
            with suppress(OSError, ValueError):
                limit, used = (int((group_folder / file).read_text(encoding="utf-8")) for file in files)
                yield limit - used


def _slurm_limit_mb(environment: Mapping[str, str]) -> int:
    """Return the megabytes of this job's allocation on this node, or 0 if there is no allocation or no limit."""
    if whole := int(environment.get("SLURM_MEM_PER_NODE", 0)):
        return whole
    return int(environment.get("SLURM_MEM_PER_CPU", 0)) * int(environment.get("SLURM_CPUS_ON_NODE", 1))
