"""One function over many items, in processes side by side."""

import multiprocessing
import multiprocessing.connection
import os
import resource
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from pd_ddpm.runtime.files import readable
from pd_ddpm.runtime.progress import progress


class WorkerError(RuntimeError):
    """A process was killed from outside, most often by a system that is out of memory."""


def in_processes(function: Callable[[Any], Any], items: Sequence[Any], processes: int, description: str) -> list[Any]:
    """What the function returns for each item, in their order; `description` stands before the progress.

    More than one process is forked, and the function must be one that pickle can name. The error of an item is raised with
    the worker's own traceback, and no further item is begun then. Raises WorkerError if a process was killed.
    """
    if processes == 1 or len(items) < 2:
        return [function(item) for item in progress(items, description)]
    # Forked before the progress bar starts its thread. Spawned processes would run the calling script again.
    context = multiprocessing.get_context("fork")
    try:
        with ProcessPoolExecutor(min(processes, len(items)), context, _leave_with_parent) as pool:
            futures = [pool.submit(function, item) for item in items]
            try:
                return [future.result() for future in progress(futures, description)]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    except BrokenProcessPool as error:
        largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        raise WorkerError(
            f"{description}: one of {processes} processes was killed from outside, most often for want of memory (the largest "
            f"that has ended took {readable(largest)}); use fewer processes (snakemake --set-threads RULE=1, or --processes "
            "1), or give the job more memory. What is finished is kept"
        ) from error


def _leave_with_parent() -> None:
    """End this worker when its parent is killed; it would wait for more work for ever."""

    def watch() -> None:
        multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
