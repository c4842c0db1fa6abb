"""The plan of the workflow and its cost, read from Snakemake's own jobs (about 40 s, most of it counting FLOPs)."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from workflow_runs import jobs

from pd_ddpm.config import load, resolve
from pd_ddpm.config.methods import grid_owner
from pd_ddpm.config.resolve import Config, overlay
from pd_ddpm.config.run import Run
from pd_ddpm.config.validate import validate
from pd_ddpm.planning import case_sizes, report
from pd_ddpm.planning.case_sizes import CaseSize, CohortSizes, cohort_sizes
from pd_ddpm.planning.device_rates import ASSUMED, Rate
from pd_ddpm.planning.flop_counts import count
from pd_ddpm.planning.jobs import Job, Sampling, Work, evaluations_per_slice, naive_work, planned_work
from pd_ddpm.planning.planned_flops import PlannedFlops, network_evaluations

ROOT = Path(__file__).parents[2]
JOBS = (
    "import json, sys; sys.path.insert(0, 'workflow'); import plan as command; "
    "config, jobs, pending = command.planned_jobs('paper', [])['pd_ddpm']; print(json.dumps([config, jobs, len(pending)]))"
)


# Five cases of each of three scanners; one case of each scanner is tested.
SIMULATED = {"cases_per_site": 5, "seed": 0, "resolution_mm": 2, "coarsening": 2, "slice_mm": 5, "smallest_lesion_ml": 0.2}


def configured(scale: str, **changes: Any) -> Config:
    return validate(overlay(load.read(None, {"scale": scale}), changes))


def fifteen_phantoms(**changes: Any) -> Config:
    """Return the demo's configuration for fifteen cases of known sizes, in five folds."""
    return configured("demo", datasets={"phantom": {"simulate": SIMULATED}}, folds={"count": 5}, splits=[0], **changes)


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to an empty folder: datasets have relative paths, and the clone may hold data and results."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository in an empty folder, by links, so that nothing has been computed in it."""
    folder = tmp_path_factory.mktemp("repository")
    for part in ("Snakefile", "rules", "workflow", "config", "profiles", "slurm", "envs"):
        (folder / part).symlink_to(ROOT / part)
    return folder


@pytest.fixture(scope="module")
def paper_jobs(repository: Path) -> list[Job]:
    run = subprocess.run([sys.executable, "-c", JOBS], cwd=repository, capture_output=True, text=True, check=True)
    config, jobs, pending = json.loads(run.stdout)
    assert config["scale"] == "paper"
    assert pending == len(jobs)  # nothing has run
    return [Job(*job) for job in jobs]


@pytest.mark.workflow  # lists the jobs of a whole configuration
def test_plan_takes_scale_and_targets(repository: Path, tmp_path: Path) -> None:
    """The scale of a configuration file replaces the default, as `make plan CONFIG=config/leak.yaml` needs."""
    (tmp_path / "own.yaml").write_text("scale: demo\nseeds: [3]\n", encoding="utf-8")
    code = (
        "import json, sys, pathlib; sys.path.insert(0, 'workflow'); import plan as command; "
        f"arguments = [pathlib.Path({str(tmp_path / 'own.yaml')!r})], ['results/phantom/splits.csv']; "
        "config, jobs, pending = command.planned_jobs(None, *arguments)['pd_ddpm']; "
        "print(json.dumps([config['scale'], config['seeds'], sorted(job.rule for job in jobs), len(pending)]))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    rules = ["check", "list_cases", "simulate_phantom", "split"]
    assert json.loads(run.stdout.splitlines()[-1]) == ["demo", [3], rules, len(rules)]


@pytest.mark.workflow
def test_plan_has_the_jobs_of_a_dry_run(repository: Path, paper_jobs: list[Job]) -> None:
    command = [sys.executable, "-m", "snakemake", "-n", "--cores", "8", "--profile", "slurm"]
    counts = jobs(subprocess.run(command, cwd=repository, capture_output=True, text=True))
    total = sum(counts.values())
    assert Counter(job.rule for job in paper_jobs) == counts
    assert len(paper_jobs) == total
    work = planned_work(configured("paper"), paper_jobs)
    assert (len(work.trainings), len(work.samplings)) == (35, 245)
    assert report.jobs_line(paper_jobs, work) == f"{total} jobs, 35 trainings, 245 samplings"
    several = "sample 245, resample_ensemble 175, score 125, train 35, gate 35, probe 10"
    assert report.rules_line(paper_jobs).startswith(f"{several}; once each: all, publish_table1, table1, ")


@pytest.mark.workflow
def test_cost_table_reads_the_metadata_of_every_planned_run(paper_jobs: list[Job]) -> None:
    work = planned_work(configured("paper"), paper_jobs)
    (cost,) = (job for job in paper_jobs if job.rule == "cost")
    metadata = {tuple(Path(path).parts[2:5]) for path in cost.inputs if path.endswith(("model.json", "method.json"))}
    trained = {("networks", run.name, run.slug) for run in work.trainings}
    sampled = {("predictions", sampling.run.name, sampling.run.slug) for sampling in work.samplings}
    assert metadata == trained | sampled
    assert len([path for path in cost.inputs if "/exhibits/" in path]) == 10


@pytest.mark.workflow
def test_papers_plan_takes_at_most_a_quarter_of_the_naive_plan(tmp_path: Path, paper_jobs: list[Job]) -> None:
    config = configured("paper")
    cohorts = {"wmh": cohort_sizes(config, "wmh", tmp_path)}
    work, naive = planned_work(config, paper_jobs), naive_work(config, paper_jobs)
    planned_flops = PlannedFlops(config, cohorts, tmp_path / "flops.json")
    flops, naive_flops = (
        report.Flops(sum(map(planned_flops.training, plan.trainings)), sum(map(planned_flops.sampling, plan.samplings)))
        for plan in (work, naive)
    )
    assert 0.15 < flops.total / naive_flops.total <= 0.25
    # A DDPM of 100 000 steps of 12 patches is 0.67 EFLOP; its validations add a tenth at most.
    denoiser = planned_flops.training(Run("wmh", "denoiser", 0, 0))
    assert 0.67e18 < denoiser < 1.1 * 0.67e18
    # Vanilla DDPM: 1000 steps of 5 members of 544 slices of 12 cases, of which two thirds are 256 x 256 when padded.
    vanilla = Sampling(Run("wmh", "ddpm", 0, 0), 5)
    slices = 4 * (36 + 36 + 63)
    assert network_evaluations(config, cohorts, vanilla) == 5000 * slices
    assert planned_flops.sampling(vanilla) == pytest.approx(5000 * (288 * 496.7e9 + 252 * 310.3e9), rel=1e-3)
    assert len(planned_flops.cache.read_text(encoding="utf-8")) > 100  # the next run counts nothing


def test_naive_plan_shares_nothing() -> None:
    config = configured("paper")
    run = "split-0_seed-0.csv"
    jobs = [Job("train", {"dataset": "wmh", "network": name, "split": "0", "seed": "0"}, []) for name in ("unet", "denoiser")]
    jobs += [
        Job("table1", {"dataset": "wmh"}, [f"results/wmh/scores/{name}/{run}" for name in ("unet", "ddpm")]),
        Job("fig3_tprime", {"dataset": "wmh"}, [f"results/wmh/scores/pd-ddpm@t_start=50/{run}"]),
        Job("fig4_ensemble", {"dataset": "wmh"}, [f"results/wmh/ensembles/pd-ddpm/{run}"]),
        Job("claims", {"dataset": "wmh"}, [f"results/wmh/scores/tdpm/{run}", "config/printed_values.csv"]),
    ]
    naive = naive_work(config, jobs)
    assert Counter(run.name for run in naive.trainings) == {"denoiser": 10, "unet": 1}  # ten T' in Fig. 3
    sampled = {(sampling.exhibit, sampling.run.name): sampling.members for sampling in naive.samplings}
    # Fig. 4: five times 1 + 2 + ... + 10 fresh members.
    assert sampled == {
        ("table1", "unet"): 1,
        ("table1", "ddpm"): 5,
        ("fig3_tprime", "pd-ddpm@t_start=50"): 5,
        ("fig4_ensemble", "pd-ddpm"): 275,
    }
    assert all(sampling.all_slices for sampling in naive.samplings)


def test_mean_of_methods_has_no_sampling_of_its_own_but_those_of_its_parts_in_the_naive_plan() -> None:
    mean = {"label": "Mean", "segmenter": "mean", "mean_of": ["ddpm", "attunet"], "denoiser": None}
    config = configured("demo", methods={"mean": mean})
    wildcards = {"dataset": "phantom", "method": "mean", "split": "0", "seed": "0"}
    jobs = [Job("average", wildcards, []), Job("table1", {}, ["results/phantom/scores/mean/split-0_seed-0.csv"])]
    assert planned_work(config, jobs) == Work([], [])
    assert evaluations_per_slice(config, "mean") == (0, 0)
    samplings = naive_work(config, jobs).samplings
    assert [(sampling.run.name, sampling.members) for sampling in samplings] == [("ddpm", 5), ("attunet", 1)]


def test_masks_from_files_cost_no_network_evaluation() -> None:
    files = {"label": "nnU-Net", "segmenter": "files", "folder": "masks", "pattern": "{case}.nii.gz"}
    config = configured("demo", methods={"nnunet": files})
    wildcards = {"dataset": "phantom", "method": "nnunet", "split": "0", "seed": "0"}
    jobs = [Job("import_masks", wildcards, []), Job("table1", {}, ["results/phantom/scores/nnunet/split-0_seed-0.csv"])]
    assert planned_work(config, jobs) == Work([], [])
    assert evaluations_per_slice(config, "nnunet") == (0, 0)
    assert naive_work(config, jobs).samplings == []


def test_shards_count_as_one_sampling() -> None:
    wildmetadata = {"dataset": "phantom", "method": "pd-ddpm", "split": "0", "seed": "1"}
    jobs = [Job("sample", wildmetadata | {"shard": str(shard)}, []) for shard in range(4)]
    config = configured("demo", exhibits={"fig4_ensemble": {"pool": 7}})
    assert planned_work(config, jobs).samplings == [Sampling(Run("phantom", "pd-ddpm", 0, 1), 7)]


def test_sizes_of_the_challenge_are_published(tmp_path: Path) -> None:
    cohort = cohort_sizes(configured("paper"), "wmh", tmp_path)
    assert len(cohort.cases) == 60
    assert sum(case.shape[2] for case in cohort.cases.values()) == 3580
    assert Counter(case.size for case in cohort.cases.values()) == {(240, 240): 20, (232, 256): 20, (132, 256): 20}
    assert cohort.assumed == "wmh: published numbers and sizes of cases, 76% of the slices with brain"
    for split in range(5):
        for role, each in (("test", 4), ("validation", 4), ("train", 12)):
            assert Counter(case.site for case in cohort.with_role(split, role)) == dict.fromkeys(
                ("Utrecht", "Singapore", "Amsterdam"), each
            )
    held_out = cohort_sizes(configured("paper"), "wmh-held-out", tmp_path)
    assert len(held_out.with_role(3, "test")) == 110


def test_scans_of_brats_have_their_published_size_and_the_roles_of_patch_ddm(tmp_path: Path) -> None:
    config = validate(load.read_study("patchddm", {"scale": "paper"}))
    cohort = cohort_sizes(config, "brats", tmp_path)
    assert [len(cohort.with_role(0, role)) for role in ("train", "validation", "test")] == [295, 37, 37]
    owner = grid_owner(config, "patchddm")
    assert {case.volume_size for case in cohort.with_role(0, "test", owner)} == {(256, 256, 256)}
    assert {case.shape for case in cohort.cases.values()} == {(240, 240, 155)}


@pytest.mark.parametrize(("minimum_cm2", "share"), [(0, 0.76), (1, 0.758), (130, 0.4356), (500, 0.0)])
def test_share_with_brain_is_that_of_an_ellipsoid(minimum_cm2: float, share: float) -> None:
    """Its largest section is pi / 4 x 14.5 x 17 = 193.6 cm2; a section at height z of h has the share 1 - (z / h)^2 of it."""
    assert case_sizes.share_with_brain(minimum_cm2) == pytest.approx(share, abs=5e-4)


def test_phantom_that_does_not_exist_yet_has_the_size_of_its_scanners(tmp_path: Path) -> None:
    config = fifteen_phantoms(grid={"spacing_mm": 2.25})
    cohort = cohort_sizes(config, "phantom", tmp_path)
    assert len(cohort.cases) == 15
    sizes = {case.site: (case.shape, case.size) for case in cohort.cases.values()}
    assert sizes["Amsterdam/GE3T"] == ((66, 128, 29), (64, 76))  # a brain of 145 x 170 mm in pixels of 2.25 mm
    assert cohort.cases["Amsterdam/GE3T-0"].volume_size == (64, 76, 64)  # 29 slices of 5 mm are less than 150 mm
    own = {"layout": "table", "folder": "own", "table": str(tmp_path / "cohort.csv"), "channels": ["FLAIR", "T1"]}
    config |= {"datasets": {"own": own}}
    with pytest.raises(ValueError, match=r"cohort\.csv"):
        cohort_sizes(config, "own", tmp_path)


def test_networks_with_a_grid_of_their_own_see_cases_of_another_size(tmp_path: Path) -> None:
    """Twice the spacing has an eighth of the voxels, a fixed size is that of all cases, and FLOPs follow."""
    config = configured("paper")
    volumes = {"spatial_dims": 3, "crop": [16, 16, 16], "channels": [2] * 5}
    small = {f"unet-{name}": config["networks"]["unet"] | volumes for name in ("full", "half", "padded")}
    small["unet-half"]["grid"] = config["grid"] | {"spacing_mm": 2.0}
    small["unet-padded"]["grid"] = config["grid"] | {"padded_size": [96, 64, 32]}
    config["networks"] |= small
    shape = (64, 32, 32)
    folder = tmp_path / "cases"
    folder.mkdir()
    nib.save(nib.Nifti1Image(np.ones(shape, np.uint8), np.eye(4)), folder / "a_brain.nii.gz")
    pd.DataFrame({"case": ["a"], "site": "s"}).to_csv(folder / "prepared.csv", index=False)
    pd.DataFrame({"split": 0, "role": ["test"], "case": "a"}).to_csv(tmp_path / "splits.csv", index=False)
    cohort = cohort_sizes(config, "wmh", tmp_path)
    (full,), (half,), (padded,) = (cohort.with_role(0, "test", name) for name in (None, "unet-half", "unet-padded"))
    assert full.volume_size == shape
    assert half.volume_size == (32, 16, 16)
    assert padded.volume_size == (96, 64, 32)
    assert padded.size == shape[:2]
    flops = []
    for name in small:
        config["methods"][name] = config["methods"]["unet"] | {"network": name}
        planned = PlannedFlops(config, {"wmh": cohort}, tmp_path / "flops.json")
        flops.append(planned.sampling(Sampling(Run("wmh", name, 0, 0), 1)))
    assert flops[0] == 8 * flops[1]
    assert flops[2] == 3 * flops[0]


def test_prepared_cases_are_measured_from_their_brain_masks(prepared: Path) -> None:
    manifest = pd.read_csv(prepared / "prepared.csv").assign(site="s")
    manifest.to_csv(prepared / "prepared.csv", index=False)
    roles = pd.read_csv(prepared / "splits.csv")
    roles.to_csv(prepared.parent / "splits.csv", index=False)
    config = configured("demo")
    config["grid"] = {"spacing_mm": 2.0, "region": "brain_box", "margin_mm": 4.0, "minimum_brain_cm2": 0.5}
    cohort = cohort_sizes(config, "phantom", prepared.parent)
    assert cohort.assumed is None
    assert cohort.cases["four"].shape == (27, 21, 6)
    assert cohort.cases["four"].with_brain == 4  # the outermost slices hold none
    # 23 x 17 voxels of brain, 4 mm of margin on each side, cut off at the scan's edges: 27 x 21, in pixels of 2 mm.
    assert cohort.cases["four"].size == (18, 18)
    assert cohort.cases["four"].volume_size == (18, 18, 12)  # four slices of 4 mm, and one on each side
    assert [case.case for case in cohort.with_role(0, "test")] == ["four", "five"]


def test_hours_are_operations_over_the_rate() -> None:
    flops = report.Flops(training=int(9.1e12 * 3600 * 2), sampling=int(9.1e12 * 3600 * 150))
    here = Rate("CPU", "float32", 1e12, 2e12, measured=True)
    assert report.hours(flops, ASSUMED[0]) == pytest.approx((2, 150))
    assert report.hours(flops, here, 2) == pytest.approx((9.1, 341.25))
    lines = report.hours_lines(flops, here, 2)
    assert lines[1].split() == ["CPU", "float32,", "2", "jobs", "at", "once", "1/2", "9.1", "341", "350", "measured", "here"]
    assert lines[2].split() == ["V100", "float32", "9.1", "2", "150", "152", "estimate"]
    assert len(lines) == 2 + len(ASSUMED)
    phrase = report.hours_phrase(flops, None, 1)
    assert phrase.startswith("hours of network time, estimated: 152 on a V100 in float32, 28.2 on a V100 in float16, ")
    assert report.hours_phrase(flops, here, 2).startswith("350 hours of network time here (CPU, float32, measured, 2 jobs")


def test_networks_of_volumes_see_one_image_of_each_case() -> None:
    case = CaseSize("a", "s", (100, 90, 10), (50, 45), 8, (50, 45, 15))
    assert (case.image_size(2), case.num_images(2), case.num_images(2, all_slices=True)) == ((50, 45), 8, 10)
    assert (case.image_size(3), case.num_images(3), case.num_images(3, all_slices=True)) == ((50, 45, 15), 1, 1)


def test_plan_counts_the_volumes_of_a_network_in_three_dimensions(tmp_path: Path) -> None:
    """FLOPs are those of the padded volume, for each member and each step."""
    config = configured("paper")
    changes = {"spatial_dims": 3, "crop": [16, 16, 16], "channels": 4, "multipliers": [1, 2], "groups": 2, "attention_at": []}
    config["networks"]["denoiser"] |= changes | {"validation_presegmenter": None, "middle_attention": False}
    cases = {name: CaseSize(name, "s", (13, 12, 9), (13, 12), 7, (13, 12, 9)) for name in "ab"}
    roles = pd.DataFrame({"split": 0, "role": "test", "case": list(cases)})
    cohorts = {"wmh": CohortSizes(cases, roles, None)}
    sampling = Sampling(Run("wmh", "ddpm", 0, 0), 5)
    assert network_evaluations(config, cohorts, sampling) == 2 * 5 * 1000
    (_, each) = count(resolve.network(config, "denoiser"), 2, "evaluation", (14, 12, 10))
    assert PlannedFlops(config, cohorts, tmp_path / "flops.json").sampling(sampling) == 2 * 5 * 1000 * each


def test_disk_space_counts_weights_states_and_volumes() -> None:
    config = configured("paper")
    case = CaseSize("a", "s", (100, 100, 10), (100, 100), 8, (100, 100, 10))
    cohorts = {"wmh": CohortSizes({"a": case}, pd.DataFrame({"split": [0], "role": ["test"], "case": ["a"]}), None)}
    training = Run("wmh", "attunet", 0, 0)
    work = Work([training], [Sampling(Run("wmh", "pd-ddpm", 0, 0), 10)])
    first, second = report.disk_lines(config, work, cohorts, {training: 250_000_000})
    # Raw weights and their average in the selected and three early checkpoints, with 4 bytes for a parameter; two channels;
    # ten members, mask and uncertainty. A state holds six copies: both weights, the best of both, and two moments.
    assert first == "prepared cases 0.0005 GB, networks 8 GB, predictions 2.6e-05 GB"
    assert second == "in work/ the last state of each training, 6 GB; while one runs, up to 12 GB more"


def test_plan_names_trainings_that_may_end_early() -> None:
    work = Work([Run("wmh", name, 0, 0) for name in ("attunet", "unet")], [])
    assert report.patience_lines(configured("paper"), work) == []
    (line,) = report.patience_lines(configured("paper", networks={"unet": {"patience": 5}}), work)
    assert line.endswith("may end early (patience): unet")


def test_plan_doubts_long_steps_only_if_figure_3_is_computed() -> None:
    config = configured("demo", sampling={"reverse_steps": 8})
    figure = Job("fig3_tprime", {"dataset": "phantom"}, [])
    (line,) = report.doubt_lines(config, [figure])
    assert line.startswith("doubtful: `methods.pd-ddpm.reverse_steps`: 8 over T = 1000 are too few for Figure 3")
    assert report.doubt_lines(config, [Job("table1", {"dataset": "phantom"}, [])]) == []
    assert report.doubt_lines(configured("demo"), [figure]) == []


@pytest.mark.parametrize(
    ("flops", "words"), [(3.614e18, "3.61 EFLOP"), (5.6e13, "56 TFLOP"), (0, "0 GFLOP"), (2e15, "2 PFLOP")]
)
def test_operations_are_printed_with_three_digits(flops: float, words: str) -> None:
    assert report.operations(flops) == words


def run_startup_plan(folder: Path, jobs: list[Job]) -> subprocess.CompletedProcess[str]:
    request = {"config": fifteen_phantoms(), "jobs": jobs, "cores": 2, "is_local": False}
    command = [sys.executable, str(ROOT / "workflow" / "plan.py"), "--start"]
    return subprocess.run(command, cwd=folder, input=json.dumps(request), capture_output=True, text=True)


@pytest.mark.workflow  # measures the device before a run
def test_start_of_a_run_prints_the_cost_of_its_networks(tmp_path: Path) -> None:
    unet = Job("sample", {"dataset": "phantom", "method": "probabilistic-unet", "split": "0", "seed": "0"}, [])
    run = run_startup_plan(tmp_path, [unet])
    first, second, third = run.stdout.splitlines()
    assert first == "Plan: 45 network evaluations of a slice or volume in sampling"  # three cases, 15 of 29 slices
    assert second.startswith("Plan: 0 GFLOP in training and ")
    assert third.startswith("Plan: hours of network time, estimated: ")


@pytest.mark.workflow  # a process for each configuration
def test_invalid_configuration_ends_with_a_message(repository: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("trainin: {steps: 3}\n", encoding="utf-8")
    command = [sys.executable, "workflow/plan.py", "--configfile", str(wrong)]
    run = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert run.returncode == 1
    assert "plan: the configuration cannot be run" in run.stderr
    assert "Did you mean 'training'" in run.stderr
    assert "Traceback" not in run.stderr
