"""Files dated in the future (below 1 s)."""

import os
import time

from pd_ddpm.runtime.clock import future_problems


def test_future_problems_name_files_of_tomorrow_but_not_of_a_slightly_fast_clock(tmp_path):
    now = time.time()
    for name, seconds in (("yesterday", -86400), ("skewed", 5), ("tomorrow", 86400)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (now, now + seconds))
    (problem,) = future_problems([*tmp_path.iterdir(), str(tmp_path / "tomorrow"), tmp_path / "missing"])
    assert problem.location == str(tmp_path / "tomorrow")
    assert "dated in the future" in str(problem)
    assert "`snakemake --touch`" in str(problem)
