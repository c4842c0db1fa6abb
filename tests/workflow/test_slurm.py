"""`snakemake --cores 8 --profile slurm` on a real Slurm of two nodes, which is started on this machine and stopped again.

The GPUs are declared and not there: jobs are given them and compute on the CPU. DEMO=full runs the whole demo, not a small one.
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

# All exhibits, but fewer methods in those that are not Table 1.
FEWER = """\
exhibits:
  fig3_tprime: {t_start: [300, 1000]}
  table2: {presegmentations: [{method: zero, printed: Zero}, {method: attunet, printed: "0.799"}]}
  pareto: {reverse_steps: {ancestral: [4], ddim: [2]}}
"""

# Four trainings that ask for what the paper's ask for, but CPUs: one thread gives the same bits wherever it runs.
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

# What a user fills in at the top of slurm/config.yaml.
SITE = {
    'slurm_partition: ""           # partition of jobs with': "slurm_partition: gpu  # partition of jobs with",
    'gpu_model: ""': "gpu_model: test",
}

# What the interpreter of each job runs at its start: the disk is slow, so that each step is saved and a training takes two
# minutes without much computing, longer than Slurm needs to notice that its time is up; and the GPUs that a job sees are
# written down.
SLOW_DISK = """\
import os, time
whole = os.replace
def replace(source, target, **more):
    if str(target).endswith(("state.pt", "_samples.nii.gz")):
        with open("gpus-of-" + os.environ.get("SLURM_JOB_ID", "none"), "w") as seen:
            seen.write(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        time.sleep(0.8 if str(target).endswith("state.pt") else 2)
    return whole(source, target, **more)
os.replace = replace
"""


def eventually(question: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true answer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := question():
            return answer
        time.sleep(0.2)
    pytest.fail(f"{what}: not within {seconds} s")


@dataclass
class Cluster:
    """A Slurm cluster that runs. environment: what its commands need."""

    environment: dict[str, str]

    def call(self, *arguments: str) -> str:
        return subprocess.run(arguments, env=self.environment, check=True, capture_output=True, text=True).stdout

    def jobs(self, folder: Path, rule: str = "") -> list[dict[str, str]]:
        """Slurm's record of each job that was sent from this folder for the rule, in their order."""
        lines = self.call("scontrol", "show", "job", "--oneliner", "--details").splitlines()
        found = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines]
        own = [job for job in found if job.get("WorkDir") == str(folder) and job["Comment"].startswith(f"rule_{rule}")]
        return sorted(own, key=lambda job: int(job["JobId"]))


def training(seed: str) -> str:
    return f"networks/unet/split-0_seed-{seed}"


def seed_of(job: dict[str, str]) -> str:
    return job["Comment"][-1]


def megabytes(job: dict[str, str]) -> float:
    number, unit = re.fullmatch(r"([\d.]+)([MG])", job["MinMemoryNode"]).groups()
    return float(number) * {"M": 1, "G": 1024}[unit]


def minutes(limit: str) -> int:
    days, hours, more, _ = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", limit).groups(default="0")
    return (int(days) * 24 + int(hours)) * 60 + int(more)


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
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in which the four trainings have run on this machine."""
    folder = copy_of_the_repository(tmp_path_factory.mktemp("unbroken"))
    small_cohort(folder)
    (folder / "training.yaml").write_text(TRAININGS, encoding="utf-8")
    targets = [f"results/own/{training(seed)}/model.safetensors" for seed in "0123"]
    run = snakemake(folder, *targets, "--configfile", "own.yaml", "training.yaml", "--config", "scale=paper")
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


@dataclass
class Broken:
    """A run whose four trainings were broken off in the middle, each in its own way: which seed, and what Snakemake said."""

    folder: Path
    seeds: dict[str, str]
    said: str


@pytest.fixture(scope="module")
def broken(cluster: Cluster, demo: tuple, unbroken: Path, tmp_path_factory: pytest.TempPathFactory) -> Broken:
    folder = tmp_path_factory.mktemp("broken") / "copy"
    shutil.copytree(unbroken, folder, symlinks=True)
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
    said = folder / "said.txt"
    with said.open("w", encoding="utf-8") as output:
        run = subprocess.Popen(
            **command(folder, *arguments, environment=cluster.environment), stdout=output, stderr=subprocess.STDOUT
        )
        try:
            seeds = break_off(cluster, folder)
            assert run.wait(540) == 0, said.read_text(encoding="utf-8")
        finally:
            run.send_signal(signal.SIGINT)  # which cancels its jobs
            run.wait()
    return Broken(folder, seeds, said.read_text(encoding="utf-8"))


def break_off(cluster: Cluster, folder: Path) -> dict[str, str]:
    """Once all four trainings have saved a state: what happens to one -> its seed."""
    states = [f"work/own/{training(seed)}/*/state.previous.pt" for seed in "0123"]
    eventually(lambda: all(any(folder.glob(state)) for state in states), 300, "four trainings run")
    running = {seed_of(job): job["JobId"] for job in cluster.jobs(folder, "train")}
    cluster.call("sbatch", "-p", "high", "--gpus=1", "--time=1", "--mem=1", "--output=/dev/null", "--wrap", "sleep 1")
    preempted = eventually(
        lambda: [seed_of(job) for job in cluster.jobs(folder, "train") if job["PreemptTime"] != "None"], 60, "a preemption"
    )
    seeds = dict(zip(("cancelled", "requeued", "short of time"), sorted(running.keys() - {preempted[0]}), strict=True))
    cluster.call("scancel", running[seeds["cancelled"]])
    cluster.call("scontrol", "requeue", running[seeds["requeued"]])
    cluster.call("scontrol", "update", f"JobId={running[seeds['short of time']]}", "TimeLimit=4")
    return seeds | {"preempted": preempted[0]}


@pytest.fixture(scope="module")
def demo(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.Popen]]:
    """A copy of the repository in which the demo runs through the cluster, all rules of it, while the other tests go on."""
    folder = copy_of_the_repository(tmp_path_factory.mktemp("demo"))
    (folder / "fewer.yaml").write_text(FEWER, encoding="utf-8")
    overlay = () if FULL else ("--configfile", "small.yaml", "fewer.yaml")
    arguments = command(folder, *PROFILE, "--config", "scale=demo", *overlay, environment=cluster.environment)
    with (folder / "said.txt").open("w", encoding="utf-8") as output:
        run = subprocess.Popen(**arguments, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield folder, run
    finally:
        run.send_signal(signal.SIGINT)  # which cancels its jobs
        run.wait()


FATES = ["cancelled", "requeued", "short of time", "preempted"]


@pytest.mark.parametrize("fate", FATES)
def test_interrupted_training_ends_with_weights_of_uninterrupted_one(broken: Broken, unbroken: Path, fate: str) -> None:
    seed = broken.seeds[fate]
    for file in ("model.safetensors", "early.safetensors"):
        path = f"results/own/{training(seed)}/{file}"
        assert (broken.folder / path).read_bytes() == (unbroken / path).read_bytes()
    log = (broken.folder / f"results/logs/train/own/unet/split-0_seed-{seed}.log").read_text(encoding="utf-8")
    continued = int(re.search(r"resuming after step (\d+) of 120", log)[1])
    assert 0 < continued < 120
    if fate == "short of time":  # the last words of the others may be lost with their srun
        logs = (broken.folder / f"results/logs/slurm/rule_train/own_unet_0_{seed}").glob("*.log")
        first = min(logs, key=lambda log: int(log.stem))  # their names are the jobs' numbers
        assert f"received SIGTERM. Step {continued} of 120 is saved" in first.read_text(encoding="utf-8")


@pytest.mark.parametrize("fate", ["cancelled", "short of time", "preempted"])
def test_failed_job_is_submitted_again_with_more_memory_and_time(cluster: Cluster, broken: Broken, fate: str) -> None:
    first, second = [job for job in cluster.jobs(broken.folder, "train") if seed_of(job) == broken.seeds[fate]]
    assert first["JobState"] == ("CANCELLED" if fate == "cancelled" else "FAILED")
    assert second["JobState"] == "COMPLETED"
    assert (megabytes(first), megabytes(second)) == (32000, 64000)
    assert minutes(second["TimeLimit"]) == 2 * 1440
    assert minutes(first["TimeLimit"]) == (4 if fate == "short of time" else 1440)


def test_requeued_job_keeps_its_id(cluster: Cluster, broken: Broken) -> None:
    (job,) = [job for job in cluster.jobs(broken.folder, "train") if seed_of(job) == broken.seeds["requeued"]]
    assert (job["JobState"], job["Restarts"], job["Requeue"]) == ("COMPLETED", "1", "1")


def test_jobs_request_gpus_and_cpus_of_the_configuration(cluster: Cluster, broken: Broken) -> None:
    trainings = cluster.jobs(broken.folder, "train")
    assert {(job["Partition"], job["TresPerJob"]) for job in trainings} == {("gpu", "gres:gpu:test:1")}
    seen = {(broken.folder / f"gpus-of-{job['JobId']}").read_text(encoding="utf-8") for job in trainings}
    assert seen == {"0", "1"}
    (preparation,) = cluster.jobs(broken.folder, "prepare")
    assert "TresPerJob" not in preparation
    assert "gpu" not in preparation["TRES"]
    assert preparation["Partition"] == "cpu"
    assert (preparation["NumCPUs"], megabytes(preparation), preparation["TimeLimit"]) == ("2", 6000, "02:00:00")


def test_job_out_of_memory_is_submitted_again_with_more_memory_and_two_gpus(
    cluster: Cluster, unbroken: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(unbroken, folder, symlinks=True)
    (folder / "src/sitecustomize.py").write_text(SLOW_DISK, encoding="utf-8")
    target = "results/own/scores/unet/split-0_seed-0.csv"
    arguments = (target, *PROFILE, "--configfile", "own.yaml", "training.yaml")
    run = snakemake(folder, *arguments, environment=cluster.environment)
    assert run.returncode == 0, run.stdout + run.stderr
    jobs = cluster.jobs(folder)
    assert {job["Comment"] for job in jobs} == {"rule_sample_wildcards_own_unet_0_0"}  # it is scored beside Snakemake
    assert len(jobs) >= 2
    assert [megabytes(job) for job in jobs] == [500, 1000, 1500][: len(jobs)]
    assert [job["JobState"] for job in jobs] == [*["FAILED"] * (len(jobs) - 1), "COMPLETED"]
    for job in jobs[:-1]:
        log = folder / f"results/logs/slurm/rule_sample/own_unet_0_0/{job['JobId']}.log"
        assert "exceeded memory limit" in log.read_text(encoding="utf-8")
    assert {job["TresPerJob"] for job in jobs} == {"gres:gpu:2"}
    assert (folder / f"gpus-of-{jobs[-1]['JobId']}").read_text(encoding="utf-8") == "0,1"


def without_times(folder: Path) -> pd.DataFrame:
    """Table 1 as it is written, without the columns of seconds."""
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
    assert run.wait() == 0, (folder / "said.txt").read_text(encoding="utf-8")
    assert len(without_times(folder)) == 9
    pd.testing.assert_frame_equal(without_times(folder), without_times(local), check_exact=True)
    for exhibit in ("table2.csv", "uncertainty.csv", "claims.csv", "fig2_uncertainty.pdf", "fig3_tprime.pdf", "pareto.pdf"):
        assert (folder / "results" / exhibit).exists()
    jobs = cluster.jobs(folder)
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    rules = {job["Comment"].split("_wildcards_")[0] for job in jobs}
    gates = {"rule_gate"} if FULL else set()  # the small demo draws in float32, whatever the processor has
    assert rules == {"rule_simulate_phantom", "rule_check", "rule_prepare", "rule_train", "rule_sample"} | gates
    assert not any("TresPerJob" in job for job in jobs)  # the demo's networks run on CPUs
