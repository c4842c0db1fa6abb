"""Messages of memory errors that no other code has explained (about 3 s)."""

import subprocess
import sys

import pytest

from pd_ddpm.commands import check
from pd_ddpm.commands.main import main
from pd_ddpm.runtime.memory import MemoryShortageError, describe, is_shortage

JOB = """
import resource, sys
from pd_ddpm.runtime.job import run
taken = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 50_000_000,) * 2)
run(lambda: bytearray(500_000_000), sys.argv[1])
"""


def test_job_out_of_memory_names_what_to_reduce(tmp_path):
    job = subprocess.run([sys.executable, "-c", JOB, str(tmp_path / "log")], capture_output=True, text=True)
    assert job.returncode == 1
    assert "out of memory (MemoryError). Reduce the number of jobs at a time (`snakemake --cores`)" in job.stderr
    assert "`sampling.batch`" in job.stderr
    assert "Traceback" not in job.stderr


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate output buffer."),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("std::bad_alloc"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_describe_names_what_to_reduce_after_a_lack_of_memory(error):
    assert is_shortage(error)
    assert "Reduce `--batch`, or request more memory." in describe(error, "`--batch`")


def test_describe_quotes_the_line_that_names_memory():
    error = ValueError("scan a: 2 problem(s):\n  f.nii: the header is damaged.\n  t.nii: cannot allocate memory.")
    assert describe(error, "`--batch`").startswith("out of memory (t.nii: cannot allocate memory.). Reduce `--batch`")


def test_command_whose_libraries_do_not_fit_into_memory_names_what_to_reduce(monkeypatch, capsys):
    errors = [ImportError("libtorch_cpu.so: failed to map segment from shared object"), ImportError("No module named 'torch'")]

    def run(options):
        raise errors.pop(0)

    monkeypatch.setattr(check, "run", run)
    assert main(["check", "scans"]) == 1
    assert "out of memory (libtorch_cpu.so: failed to map segment" in capsys.readouterr().err
    with pytest.raises(ImportError, match="No module named"):
        main(["check", "scans"])


def test_describe_leaves_other_messages():
    explained = MemoryShortageError("out of memory (x). Reduce `batch` (12).")
    assert describe(explained, "something else") == str(explained)
    assert describe(ValueError("no such file"), "something else") == "no such file"
