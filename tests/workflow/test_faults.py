"""Jobs under kill -9, on a full disk, out of memory and in other locales: no finished work is lost (about 60 s)."""

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from workflow_runs import ROOT

from pd_ddpm.inference import sample_cases
from pd_ddpm.runtime.files import DiskFullError, file_sha256
from pd_ddpm.runtime.memory import MemoryShortageError
from pd_ddpm.training.saved_state import load_state

# Runs a script as Snakemake does: calls its main by runtime.job.run, with a log file. Paths are decoded as on a command line.
JOB = """
import io, os, pathlib, pickle, runpy, sys
from pd_ddpm.runtime.job import run

class Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        cls = super().find_class(module, name)
        return (lambda *parts: cls(*(os.fsdecode(part.encode()) for part in parts))) if name == "PosixPath" else cls

main = runpy.run_path(sys.argv[1])["main"]
{before}
run(main, sys.argv[2], **Unpickler(io.BytesIO(bytes.fromhex(sys.argv[3]))).load())
"""


def command(script, log, arguments, before=""):
    path = ROOT / "workflow" / "scripts" / f"{script}.py"
    return [sys.executable, "-c", JOB.format(before=before), str(path), str(log), pickle.dumps(arguments).hex()]


def small_network(configured, **changes):
    settings = {"channels": 8, "multipliers": [1, 2], "attention_at": [2], "residual_blocks": 1}
    return configured("network", "denoiser", **settings | changes)


@pytest.fixture
def training(train_job, configured):
    """A function that returns the training job of a small network."""
    changes = {"steps": 12, "batch": 2, "crop": [16, 24], "validate_every": 4, "validation_slices": 4, "early_levels": [0.5]}
    return lambda folder, **more: train_job(folder, small_network(configured, **changes | more))


@pytest.fixture
def sampling(random_network, sample_job, configured):
    """A function that returns the job that samples two test cases, two members each."""
    network = random_network(small_network(configured))

    def job(folder, steps=3, batch=12):
        method = configured("method", "ddpm", reverse_steps=steps, samples=2, pool=2)
        return sample_job(folder, "ddpm", method, batch=batch, **network)

    return job


def on_compute(job, **changes):
    """The job with another device or number of threads."""
    return replace(job, compute=replace(job.compute, **changes))


def images(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.nii.gz"))}


# Killed


def test_sampling_killed_between_two_cases_keeps_the_first(tmp_path, sampling, script):
    reference, parts = tmp_path / "reference", tmp_path / "parts"
    script("sample")(sampling(reference, 20))
    job = subprocess.Popen(command("sample", tmp_path / "log", {"job": sampling(parts, 20)}), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (parts / "four.json").exists():
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    job.kill()
    assert job.wait() == -signal.SIGKILL
    assert not (parts / "predictions.csv").exists()
    assert not (parts / "five.json").exists()
    for path in parts.glob("[!.]*.nii.gz"):  # files with their final name are complete
        assert path.read_bytes() == (reference / path.name).read_bytes()
    (parts / ".partial.five_samples.nii.gz").write_bytes(b"half")  # left by a process that was killed while writing
    first = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in parts.glob("four*")}
    assert len(first) == 4

    script("sample")(sampling(parts, 20))
    assert {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in parts.glob("four*")} == first
    assert images(parts) == images(reference)
    assert not list(parts.glob(".partial.*"))
    assert (
        pd.read_csv(parts / "predictions.csv")["case"].tolist() == pd.read_csv(reference / "predictions.csv")["case"].tolist()
    )


@pytest.mark.workflow  # a process for each file
@pytest.mark.parametrize("part", ["samples", "mask", "uncertainty"])
def test_sampling_killed_during_a_write_leaves_no_incomplete_file(tmp_path, sampling, script, part):
    parts = tmp_path / "parts"
    before = (
        "import os, signal, pathlib\n"
        "original = pathlib.Path.replace\n"
        "def replace(self, target):\n"
        f"    if 'four_{part}' in str(target): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return original(self, target)\n"
        "pathlib.Path.replace = replace"
    )
    job = subprocess.run(command("sample", tmp_path / "log", {"job": sampling(parts)}, before), capture_output=True)
    assert job.returncode == -signal.SIGKILL
    assert (parts / f".partial.four_{part}.nii.gz").exists()
    assert not (parts / f"four_{part}.nii.gz").exists()
    assert not (parts / "four.json").exists()
    script("sample")(sampling(parts))
    script("sample")(sampling(tmp_path / "reference"))
    assert images(parts) == images(tmp_path / "reference")
    assert not list(parts.glob(".partial.*"))


# Full disk


DRIVER = """
import json, shutil, subprocess, sys
job, disk, kept = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
first = subprocess.run(job, capture_output=True, text=True)
shutil.copytree(disk, kept + "/first")
subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
second = subprocess.run(job, capture_output=True, text=True)
shutil.copytree(disk, kept + "/second")
json.dump([[run.returncode, run.stderr] for run in (first, second)], open(kept + "/runs.json", "w"))
"""


@pytest.fixture
def on_small_disk(tmp_path):
    """A function that runs a job twice: on a file system of the given size, and again after it was enlarged."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    kept.mkdir()
    unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    mount = 'mount -t tmpfs -o "size=$1" none "$2" && shift 2 && exec "$@"'
    if not shutil.which("unshare"):
        pytest.skip("unshare is not installed, which mounts a small file system")
    attempt = subprocess.run([*unshare, "sh", "-c", mount, "sh", "1m", str(disk), "true"], capture_output=True, text=True)
    if attempt.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {attempt.stderr.strip()}")

    def run(job, size):
        driver = [sys.executable, "-c", DRIVER, json.dumps(job), str(disk), str(kept)]
        subprocess.run([*unshare, "sh", "-c", mount, "sh", str(size), str(disk), *driver], check=True)
        return kept / "first", kept / "second", json.loads((kept / "runs.json").read_text())

    run.disk = disk
    return run


def state_in(folder):
    """Return the last state of the only training in a job's folder."""
    (state,) = (folder / "work").glob("*/state.pt")
    return state


@pytest.mark.workflow  # two trainings in processes of their own
def test_training_on_full_disk_keeps_its_states_and_resumes(tmp_path, training, script, on_small_disk):
    reference, disk = tmp_path / "reference", on_small_disk.disk
    script("train")(training(reference))
    state = state_in(reference).stat().st_size
    first, second, runs = on_small_disk(command("train", tmp_path / "log", {"job": training(disk)}), int(2.7 * state))
    (code, message), (second_code, second_message) = runs
    assert code == 1
    match = re.search(
        rf"DiskFullError: {disk / 'work'}/\w+/(state\.pt|early/step-\d+\.safetensors): there is no room .* it needs (\S+) "
        "(k|M)B",
        message,
    )
    assert 0.1 * state < {"k": 1e3, "M": 1e6}[match[3]] * float(match[2]) <= 1.1 * state
    assert "Make room and start again. Finished results are kept" in message
    step = load_state(state_in(first))["progress"]["step"]
    assert 2 <= step < 12
    assert not list(first.rglob(".partial.*"))
    assert not (first / "model.safetensors").exists()
    assert second_code == 0, second_message
    assert f"resuming after step {step} of 12" in second_message
    for name in ("model.safetensors", "early.safetensors"):
        assert file_sha256(second / name) == file_sha256(reference / name)


@pytest.mark.workflow  # a process of its own
def test_sampling_on_full_disk_keeps_finished_cases_and_resumes(tmp_path, sampling, script, on_small_disk):
    reference, disk = tmp_path / "reference", on_small_disk.disk
    script("sample")(sampling(reference))
    page = os.sysconf("SC_PAGE_SIZE")
    case_size = sum(-(-path.stat().st_size // page) * page for path in reference.glob("four*"))
    first, second, runs = on_small_disk(command("sample", tmp_path / "log", {"job": sampling(disk)}), case_size + 3 * page)
    (code, message), (second_code, second_message) = runs
    assert code == 1
    match = re.search(
        rf"DiskFullError: {disk}/(five_\w+\.nii\.gz): there is no room for it .* it needs (\S+) kB or more", message
    )
    assert float(match[2]) == pytest.approx((reference / match[1]).stat().st_size / 1e3, abs=0.06)
    assert (first / "four.json").exists()
    assert not (first / "five.json").exists()
    assert not (first / "predictions.csv").exists()
    assert not list(first.glob(".partial.*"))
    assert second_code == 0, second_message
    assert images(second) == images(reference)
    assert (first / "four.json").read_text() == (second / "four.json").read_text()  # including its time


def test_sampling_with_failed_write_keeps_finished_cases(tmp_path, sampling, script, monkeypatch):
    """Test a write that fails, also on systems where no file system can be mounted."""
    main = script("sample")
    replace = Path.replace

    def full(self, target):
        if "five_mask" in str(target):
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(DiskFullError, match=r"five_mask\.nii\.gz: there is no room for it"):
        main(sampling(tmp_path / "parts"))
    assert (tmp_path / "parts" / "four.json").exists()
    assert not list((tmp_path / "parts").glob(".partial.*"))
    monkeypatch.setattr(Path, "replace", replace)
    main(sampling(tmp_path / "parts"))
    main(sampling(tmp_path / "reference"))
    assert images(tmp_path / "parts") == images(tmp_path / "reference")


# Out of memory


@pytest.mark.workflow  # a process of its own
def test_training_out_of_memory_names_settings_to_reduce(tmp_path, training):
    """Limit the process to 300 MB more than it has after its imports. The batch needs 800 MB."""
    limit = (
        "import resource\n"
        "taken = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (taken + 300_000_000,) * 2)"
    )
    arguments = {"job": training(tmp_path / "out", batch=100, crop=[1000, 1000])}
    job = subprocess.run(command("train", tmp_path / "log", arguments, limit), capture_output=True, text=True)
    assert job.returncode == 1
    sentence = job.stderr[job.stderr.index("MemoryShortageError") :]
    assert re.match(
        r"MemoryShortageError: denoiser, split 0, seed 3, step 1 of 12: out of memory \(.*can't allocate memory.*\)\. Reduce "
        r"`batch` \(100\) or `crop` \(\[1000, 1000\]\), use `precision: bfloat16` \(currently float32\)",
        sentence,
    ), sentence
    assert "Traceback" not in job.stderr
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_sampling_out_of_gpu_memory_names_batch_and_keeps_finished_cases(tmp_path, sampling, script, monkeypatch):
    main, segment = script("sample"), sample_cases.segment_case

    def full(segmenter, scan, *arguments, **options):
        if scan.case == "five":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")
        return segment(segmenter, scan, *arguments, **options)

    monkeypatch.setattr(sample_cases, "segment_case", full)
    with pytest.raises(MemoryShortageError) as caught:
        main(sampling(tmp_path / "parts"))
    assert str(caught.value).startswith(
        "ddpm, case five: out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.). Reduce `sampling.batch` (12), use "
    )
    assert str(caught.value).endswith("Finished cases are kept, and a lower batch changes no result")
    before = (tmp_path / "parts" / "four.json").stat().st_mtime_ns
    monkeypatch.setattr(sample_cases, "segment_case", segment)
    main(sampling(tmp_path / "parts", batch=3))
    assert (tmp_path / "parts" / "four.json").stat().st_mtime_ns == before
    main(sampling(tmp_path / "reference"))
    for name in ("four_mask.nii.gz", "five_mask.nii.gz"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "reference" / name).read_bytes()


# Environment


def test_training_records_threads_and_device(tmp_path, training, script, caplog):
    with caplog.at_level("INFO"):
        script("train")(on_compute(training(tmp_path / "out", steps=2, validate_every=2), device="auto", threads=2))
    card = json.loads((tmp_path / "out" / "model.json").read_text(encoding="utf-8"))
    assert card["threads"] == torch.get_num_threads() == 2
    assert card["provenance"]["device"]
    assert f"device auto: {'cuda' if torch.cuda.is_available() else 'cpu'}" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_training_without_gpu_names_key_and_remedy(tmp_path, training):
    arguments = {"job": on_compute(training(tmp_path / "out"), device="cuda")}
    job = subprocess.run(command("train", tmp_path / "log", arguments), capture_output=True, text=True)
    assert job.returncode == 1
    assert "`device`: 'cuda' is not available, since PyTorch finds no CUDA device here. Use 'auto' or 'cpu'" in job.stderr


def german(folder):
    """Create a locale with a decimal comma and return its environment variables; None if its sources are not installed."""
    made = folder / "locales" / "de_DE.ISO-8859-1"
    made.parent.mkdir()
    if not shutil.which("localedef"):
        return None
    subprocess.run(["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(made)], capture_output=True)
    return {"LOCPATH": str(made.parent), "LC_ALL": made.name} if made.exists() else None


@pytest.mark.workflow  # a process of its own
@pytest.mark.parametrize("name", ["C", "German"])
def test_sampling_in_any_locale_writes_identical_files(tmp_path, sampling, script, name):
    """Sample into a folder with an umlaut; the images equal those of this process, byte for byte."""
    locale = {"LC_ALL": "C"} if name == "C" else german(tmp_path)
    if locale is None:
        pytest.skip("the sources of the German locale are not installed")
    folder, reference = tmp_path / "Größe", tmp_path / "reference"
    script("sample")(sampling(reference))
    before = "import locale; locale.setlocale(locale.LC_ALL, ''); comma = locale.localeconv()['decimal_point']; print(comma)"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG"))}
    job = subprocess.run(
        command("sample", folder / "log", {"job": sampling(folder)}, before),
        env=environment | locale | {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
    )
    assert job.returncode == 0, job.stderr
    assert job.stdout == {"C": b".\n", "German": b",\n"}[name]
    assert images(folder) == images(reference)
    text = (folder / "predictions.csv").read_bytes().decode("utf-8")
    ours, theirs = (pd.read_csv(path / "predictions.csv") for path in (reference, folder))
    assert list(ours.columns) == list(theirs.columns)
    assert theirs["seconds_per_member"].between(0, 100).all()
    assert text.count(",") == 3 * (len(ours.columns) - 1)


def test_check_prints_non_ascii_names_on_ascii_terminal(tmp_path):
    table = tmp_path / "cases.csv"
    table.write_text("case,site,FLAIR,T1,mask\np0,Zürich,größe/a.nii.gz,b.nii.gz,c.nii.gz\n", encoding="utf-8")
    job = subprocess.run(
        [sys.executable, "-m", "pd_ddpm.commands.main", "check", str(table)],
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
    )
    assert job.returncode == 1
    assert r"gr\xf6\xdfe/a.nii.gz" in job.stdout, job.stdout + job.stderr
    assert "codec" not in job.stderr
