"""Want of memory, of a GPU or of the machine, told in one sentence with what to lower."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

# The words of PyTorch's allocators, of cuBLAS and of cuDNN. A GPU's has a class of its own besides.
_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


class MemoryShortageError(RuntimeError):
    """The memory does not suffice; the message names the keys that take it, with their values."""


@contextmanager
def enough_memory(what: str, keys: Mapping[str, Any], number_format: Any, kept: str) -> Iterator[None]:
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
            f"{what}: out of memory ({said[0]}); lower {lower}, set 'precision' to 'bfloat16' where it is not ({number_format} "
            f"here), or give the job more memory. {kept}"
        ) from error


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that memory has run out."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or any(word in str(error) for word in _WORDS)
