"""Apply a function to many items in parallel processes."""

import multiprocessing
import multiprocessing.connection
import os
import resource
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from pd_ddpm.runtime.files import format_bytes
from pd_ddpm.runtime.progress import progress


class WorkerError(RuntimeError):
    """Raised if a worker process was killed from outside, most often because the machine ran out of memory."""


def in_processes(function: Callable[[Any], Any], items: Sequence[Any], processes: int, description: str) -> list[Any]:
    """Apply a function to every item in parallel processes, and return the results in the order of the items.

    Args:
        function: a function that pickle can name, unless there is one process only.
        items: its arguments, one per call.
        processes: number of worker processes; with 1, the calling process does the work.
        description: prefix of the progress messages.

    Raises:
        WorkerError: a worker process was killed.
        Exception: the error of the first item that failed, with the worker's traceback. No further item is started.
    """
    if processes == 1 or len(items) < 2:
        return [function(item) for item in progress(items, description)]
    # Fork before the progress bar starts its thread. Spawned processes would run the calling script again.
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
            f"{description}: one of {processes} processes was killed from outside, most often for lack of memory (the largest "
            f"process that has ended took {format_bytes(largest)}). Use fewer processes (`snakemake --set-threads RULE=1`, or "
            "`--processes 1`), or give the job more memory. Finished results are kept."
        ) from error


def _leave_with_parent() -> None:
    """Exit this worker when its parent is killed. Otherwise it would wait for work forever."""

    def watch() -> None:
        multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
