"""Files that a wrong clock has dated in the future."""

import time
from collections.abc import Iterable
from datetime import datetime
from os import PathLike
from pathlib import Path

from pd_ddpm.runtime.problem import Problem

TOLERANCE_SECONDS = 60  # clocks of a cluster's machines differ by less


def future_problems(files: Iterable[str | PathLike[str]]) -> list[Problem]:
    """Return a problem for each existing file that is dated in the future.

    Snakemake compares times. It would repeat all that depends on such a file at every start.
    """
    latest, problems = time.time() + TOLERANCE_SECONDS, []
    for file in sorted(set(map(Path, files))):
        if file.exists() and file.stat().st_mtime > latest:
            date = datetime.fromtimestamp(file.stat().st_mtime).astimezone().isoformat(sep=" ", timespec="minutes")
            problem = f"it is dated in the future ({date}), so that everything after it would be computed again at every start"
            remedy = (
                "Correct the clock if it is wrong, then run `find data results -newermt now -exec touch {} +` and, to keep the "
                "existing results, `snakemake --touch` with the same options"
            )
            problems.append(Problem(file, problem, remedy))
    return problems
