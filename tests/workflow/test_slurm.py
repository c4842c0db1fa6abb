"""`snakemake --cores 8 --profile slurm` on a real Slurm cluster of two nodes, which the tests start on this machine.

Slurm assigns declared GPUs that do not exist; jobs compute on the CPU. DEMO=full runs the whole demo instead of a small one.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from workflow_runs import ROOT, command, copy_of_the_repository, small_cohort, snakemake

pytestmark = pytest.mark.slurm

SCRIPT = ROOT / "tests" / "slurm_cluster.sh"
PROFILE = ("--cores", "8", "--profile", "slurm", "--slurm-init-seconds-before-status-checks", "3")

FULL = os.environ.get("DEMO") == "full"

# All tables and figures, but fewer methods outside Table 1.
FEWER = """\
exhibits:
  fig3_tprime: {t_start: [300, 1000]}
  table2: {presegmentations: [{method: zero, printed: Zero}, {method: attunet, printed: "0.799"}]}
"""

# Four trainings with the resources of the paper's, except for CPUs: one thread gives equal bits on every machine.
TRAININGS = """\
splits: [0]
seeds: [0, 1, 2, 3]
device: cpu
grid: {spacing_mm: 4.0}
training: {batch: 2, crop: [16, 16], validate_every: 60, validation_slices: 4, precision: float32}
networks: {unet: {channels: [4, 4, 4, 4, 4], steps: 120}}
sampling: {precision: float32}
save_every_seconds: 0.1
resources: {train: {threads: 1}, sample: {gpu: 2, mem_mb: 500, threads: 1}}
"""

# Settings of a user at the top of slurm/config.yaml.
SITE = {
    'slurm_partition: ""           # partition of jobs with': "slurm_partition: gpu  # partition of jobs with",
    'gpu_model: ""': "gpu_model: test",
}

# Code that the interpreter of each job runs at its start. Saving is slow: each step is saved, and a training takes two minutes
# with little computation, long enough for Slurm to notice a time limit. The code also writes the GPUs of the job to a file.
SLOW_DISK = """\
import os, time
original = os.replace
def replace(source, target, **more):
    if str(target).endswith(("state.pt", "_samples.nii.gz")):
        with open("gpus-of-" + os.environ.get("SLURM_JOB_ID", "none"), "w") as seen:
            seen.write(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        time.sleep(0.8 if str(target).endswith("state.pt") else 2)
    return original(source, target, **more)
os.replace = replace
"""


def wait_for(condition: Callable[[], Any], seconds: float, description: str) -> Any:
    """Return the first true value of the condition; fail the test if there is none in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.2)
    pytest.fail(f"{description}: not within {seconds} s")


@dataclass
class Cluster:
    """A running Slurm cluster, with the environment variables of its commands."""

    environment: dict[str, str]

    def call(self, *arguments: str) -> str:
        return subprocess.run(arguments, env=self.environment, check=True, capture_output=True, text=True).stdout

    def jobs(self, folder: Path, rule: str = "") -> list[dict[str, str]]:
        """Return Slurm's records of the jobs that were submitted from this folder for a rule, by job number."""
        lines = self.call("scontrol", "show", "job", "--oneliner", "--details").splitlines()
        records = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines]
        jobs = [job for job in records if job.get("WorkDir") == str(folder) and job["Comment"].startswith(f"rule_{rule}")]
        return sorted(jobs, key=lambda job: int(job["JobId"]))


def training(seed: str) -> str:
    return f"networks/unet/split-0_seed-{seed}"


def seed_of(job: dict[str, str]) -> str:
    return job["Comment"][-1]


def megabytes(job: dict[str, str]) -> float:
    number, unit = re.fullmatch(r"([\d.]+)([MG])", job["MinMemoryNode"]).groups()
    return float(number) * {"M": 1, "G": 1024}[unit]


def minutes(limit: str) -> int:
    """Return the minutes of a time limit of Slurm, such as 1-12:30:00."""
    match = re.fullmatch(r"(?:(?P<days>\d+)-)?(?P<hours>\d+):(?P<minutes>\d+):\d+", limit)
    return (int(match["days"] or 0) * 24 + int(match["hours"])) * 60 + int(match["minutes"])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if not shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin"):
        pytest.skip("Slurm is not installed; install Debian's packages: bash tests/slurm_cluster.sh install")
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run(["bash", SCRIPT, "up", folder], check=True)
    shown = subprocess.run(["bash", SCRIPT, "env", folder], check=True, capture_output=True, text=True).stdout
    values = dict(part.split("=", 1) for part in shown.removeprefix("export ").split())
    environment = os.environ | {"SLURM_CONF": values["SLURM_CONF"], "PATH": f"{folder}/bin:{os.environ['PATH']}"}
    try:
        yield Cluster(environment)
    finally:
        subprocess.run(["bash", SCRIPT, "down", folder], check=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in which the four trainings have run locally without interruption."""
    folder = copy_of_the_repository(tmp_path_factory.mktemp("uninterrupted"))
    small_cohort(folder)
    (folder / "training.yaml").write_text(TRAININGS, encoding="utf-8")
    targets = [f"results/own/{training(seed)}/model.safetensors" for seed in "0123"]
    run = snakemake(folder, *targets, "--configfile", "own.yaml", "training.yaml", "--config", "scale=paper")
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


@dataclass
class InterruptedRun:
    """A run whose four trainings were interrupted in different ways: seed of each way, and output of Snakemake."""

    folder: Path
    seeds: dict[str, str]
    output: str


@pytest.fixture(scope="module")
def interrupted(cluster: Cluster, demo: tuple, uninterrupted: Path, tmp_path_factory: pytest.TempPathFactory) -> InterruptedRun:
    folder = tmp_path_factory.mktemp("interrupted") / "copy"
    shutil.copytree(uninterrupted, folder, symlinks=True)
    shutil.rmtree(folder / "work")
    shutil.rmtree(folder / "results/own/networks")
    (folder / "results/own/cases/prepared.csv").unlink()
    (folder / "src/sitecustomize.py").write_text(SLOW_DISK, encoding="utf-8")
    profile = (folder / "slurm/config.yaml").read_text(encoding="utf-8")
    for old, new in SITE.items():
        assert profile.count(old) == 1
        profile = profile.replace(old, new)
    (folder / "slurm/config.yaml").write_text(profile, encoding="utf-8")
    targets = [f"results/own/{training(seed)}/model.safetensors" for seed in "0123"]
    arguments = (*targets, *PROFILE, "--configfile", "own.yaml", "training.yaml")
    log_file = folder / "output.txt"
    with log_file.open("w", encoding="utf-8") as output:
        run = subprocess.Popen(
            **command(folder, *arguments, environment=cluster.environment), stdout=output, stderr=subprocess.STDOUT
        )
        try:
            seeds = interrupt_trainings(cluster, folder)
            assert run.wait(540) == 0, log_file.read_text(encoding="utf-8")
        finally:
            run.send_signal(signal.SIGINT)  # cancels its jobs
            run.wait()
    return InterruptedRun(folder, seeds, log_file.read_text(encoding="utf-8"))


def interrupt_trainings(cluster: Cluster, folder: Path) -> dict[str, str]:
    """Interrupt the four trainings after each has saved a state; return way of interruption -> seed."""
    states = [f"work/own/{training(seed)}/*/state.previous.pt" for seed in "0123"]
    wait_for(lambda: all(any(folder.glob(state)) for state in states), 300, "four trainings run")
    running = {seed_of(job): job["JobId"] for job in cluster.jobs(folder, "train")}
    cluster.call("sbatch", "-p", "high", "--gpus=1", "--time=1", "--mem=1", "--output=/dev/null", "--wrap", "sleep 1")
    preempted = wait_for(
        lambda: [seed_of(job) for job in cluster.jobs(folder, "train") if job["PreemptTime"] != "None"], 60, "a preemption"
    )
    seeds = dict(zip(("cancelled", "requeued", "time limit"), sorted(running.keys() - {preempted[0]}), strict=True))
    cluster.call("scancel", running[seeds["cancelled"]])
    cluster.call("scontrol", "requeue", running[seeds["requeued"]])
    cluster.call("scontrol", "update", f"JobId={running[seeds['time limit']]}", "TimeLimit=4")
    return seeds | {"preempted": preempted[0]}


@pytest.fixture(scope="module")
def demo(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.Popen]]:
    """A copy of the repository in which the complete demo runs on the cluster, in parallel with the other tests."""
    folder = copy_of_the_repository(tmp_path_factory.mktemp("demo"))
    (folder / "fewer.yaml").write_text(FEWER, encoding="utf-8")
    overlay = () if FULL else ("--configfile", "small.yaml", "fewer.yaml")
    arguments = command(folder, *PROFILE, "--config", "scale=demo", *overlay, environment=cluster.environment)
    with (folder / "output.txt").open("w", encoding="utf-8") as output:
        run = subprocess.Popen(**arguments, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield folder, run
    finally:
        run.send_signal(signal.SIGINT)  # cancels its jobs
        run.wait()


INTERRUPTIONS = ["cancelled", "requeued", "time limit", "preempted"]


@pytest.mark.parametrize("interruption", INTERRUPTIONS)
def test_interrupted_training_ends_with_weights_of_uninterrupted_one(
    interrupted: InterruptedRun, uninterrupted: Path, interruption: str
) -> None:
    seed = interrupted.seeds[interruption]
    for file in ("model.safetensors", "early.safetensors"):
        path = f"results/own/{training(seed)}/{file}"
        assert (interrupted.folder / path).read_bytes() == (uninterrupted / path).read_bytes()
    log = (interrupted.folder / f"results/logs/train/own/unet/split-0_seed-{seed}.log").read_text(encoding="utf-8")
    continued = int(re.search(r"resuming after step (\d+) of 120", log)[1])
    assert 0 < continued < 120
    if interruption == "time limit":  # the last lines of the others may be lost with their srun
        logs = (interrupted.folder / f"results/logs/slurm/rule_train/own_unet_0_{seed}").glob("*.log")
        first = min(logs, key=lambda log: int(log.stem))  # the names are the job numbers
        assert f"received SIGTERM. Step {continued} of 120 is saved" in first.read_text(encoding="utf-8")


@pytest.mark.parametrize("interruption", ["cancelled", "time limit", "preempted"])
def test_failed_job_is_submitted_again_with_more_memory(
    cluster: Cluster, interrupted: InterruptedRun, interruption: str
) -> None:
    first, second = [
        job for job in cluster.jobs(interrupted.folder, "train") if seed_of(job) == interrupted.seeds[interruption]
    ]
    assert first["JobState"] == ("CANCELLED" if interruption == "cancelled" else "FAILED")
    assert second["JobState"] == "COMPLETED"
    assert (megabytes(first), megabytes(second)) == (32000, 64000)
    assert minutes(second["TimeLimit"]) == 1440
    assert minutes(first["TimeLimit"]) == (4 if interruption == "time limit" else 1440)


def test_requeued_job_keeps_its_id(cluster: Cluster, interrupted: InterruptedRun) -> None:
    (job,) = [job for job in cluster.jobs(interrupted.folder, "train") if seed_of(job) == interrupted.seeds["requeued"]]
    assert (job["JobState"], job["Restarts"], job["Requeue"]) == ("COMPLETED", "1", "1")


def test_jobs_request_gpus_and_cpus_of_the_configuration(cluster: Cluster, interrupted: InterruptedRun) -> None:
    trainings = cluster.jobs(interrupted.folder, "train")
    assert {(job["Partition"], job["TresPerJob"]) for job in trainings} == {("gpu", "gres:gpu:test:1")}
    seen = {(interrupted.folder / f"gpus-of-{job['JobId']}").read_text(encoding="utf-8") for job in trainings}
    assert seen == {"0", "1"}
    (preparation,) = cluster.jobs(interrupted.folder, "prepare")
    assert "TresPerJob" not in preparation
    assert "gpu" not in preparation["TRES"]
    assert preparation["Partition"] == "cpu"
    assert (preparation["NumCPUs"], megabytes(preparation), preparation["TimeLimit"]) == ("2", 6000, "02:00:00")


def test_job_out_of_memory_is_submitted_again_with_more_memory_and_two_gpus(
    cluster: Cluster, uninterrupted: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(uninterrupted, folder, symlinks=True)
    (folder / "src/sitecustomize.py").write_text(SLOW_DISK, encoding="utf-8")
    target = "results/own/scores/unet/split-0_seed-0.csv"
    arguments = (target, *PROFILE, "--configfile", "own.yaml", "training.yaml")
    run = snakemake(folder, *arguments, environment=cluster.environment)
    assert run.returncode == 0, run.stdout + run.stderr
    jobs = cluster.jobs(folder)
    assert {job["Comment"] for job in jobs} == {"rule_sample_wildcards_own_unet_0_0"}  # scoring runs locally
    assert len(jobs) >= 2
    assert [megabytes(job) for job in jobs] == [500, 1000, 1500][: len(jobs)]
    assert [job["JobState"] for job in jobs] == [*["FAILED"] * (len(jobs) - 1), "COMPLETED"]
    for job in jobs[:-1]:
        log = folder / f"results/logs/slurm/rule_sample/own_unet_0_0/{job['JobId']}.log"
        assert "exceeded memory limit" in log.read_text(encoding="utf-8")
    assert {job["TresPerJob"] for job in jobs} == {"gres:gpu:2"}
    assert (folder / f"gpus-of-{jobs[-1]['JobId']}").read_text(encoding="utf-8") == "0,1"


def without_times(folder: Path) -> pd.DataFrame:
    """Return Table 1 as text, without the columns of seconds."""
    table = pd.read_csv(folder / "results/table1.csv", dtype=str)
    return table[[column for column in table if "seconds" not in column]]


def test_demo_on_cluster_has_the_scores_of_a_local_run(
    cluster: Cluster, demo: tuple[Path, subprocess.Popen], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if not FULL and any("finished" in item.fixturenames for item in request.session.items):
        local = request.getfixturevalue("finished")
    else:
        local = copy_of_the_repository(tmp_path)
        run = snakemake(local, "results/table1.csv", *([] if FULL else ["--configfile", "small.yaml"]))
        assert run.returncode == 0, run.stdout + run.stderr
    folder, run = demo
    assert run.wait() == 0, (folder / "output.txt").read_text(encoding="utf-8")
    assert len(without_times(folder)) == 9
    pd.testing.assert_frame_equal(without_times(folder), without_times(local), check_exact=True)
    for exhibit in ("table2.csv", "uncertainty.csv", "claims.csv", "fig2_uncertainty.pdf", "fig3_tprime.pdf", "pareto.pdf"):
        assert (folder / "results" / exhibit).exists()
    jobs = cluster.jobs(folder)
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    rules = {job["Comment"].split("_wildcards_")[0] for job in jobs}
    gates = {"rule_gate"} if FULL else set()  # the small demo samples in float32 on every CPU
    assert rules == {"rule_simulate_phantom", "rule_check", "rule_prepare", "rule_train", "rule_probe", "rule_sample"} | gates
    assert not any("TresPerJob" in job for job in jobs)  # the demo's networks run on CPUs
