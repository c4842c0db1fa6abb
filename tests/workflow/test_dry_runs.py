"""Dry runs: the jobs of the demo and of the paper, and invalid configurations (about 30 s)."""

import shutil
import subprocess
from pathlib import Path

import pytest
from workflow_runs import FULL, ROOT, command, error, jobs, snakemake

from pd_ddpm.config import load


def test_snakemake_without_options_plans_the_demo(fresh: Path) -> None:
    run = snakemake(fresh, "-n")
    planned = jobs(run)
    config = load.read(None, {"scale": "demo"})
    trainings = len(config["splits"]) * len(config["seeds"])
    assert planned["simulate_phantom"] == 1
    assert planned["train"] == 7 * trainings
    for name in ("table1", "table2", "fig2_uncertainty", "fig3_tprime", "fig4_ensemble", "pareto", "uncertainty", "claims"):
        assert (planned[name], planned[f"publish_{name}"]) == (1, 1)
    assert (planned["probe"], planned["probe_figure"], planned["publish_probe"]) == (2 * trainings, 1, 1)
    assert (planned["training_curves"], planned["publish_training"], planned["index"]) == (1, 1, 1)


@pytest.mark.workflow  # dry runs of the paper
def test_dry_run_of_the_paper_is_a_short_table_and_names_the_licence(fresh: Path) -> None:
    run = snakemake(fresh, "-n", "--cores", "8", "--profile", "slurm")
    lines = (run.stdout + run.stderr).splitlines()
    assert len(lines) <= 50
    assert jobs(run)["train"] == 35
    licences = [line for line in lines if "datasets.wmh.download.accept_licence" in line]
    assert len(licences) == 1
    assert "which you have not accepted" in licences[0]
    (fresh / "accept.yaml").write_text("datasets: {wmh: {download: {accept_licence: true}}}\n", encoding="utf-8")
    accepted = snakemake(fresh, "results/wmh/splits.csv", "-n", "--config", "scale=paper", "--configfile", "accept.yaml")
    assert "licence" not in accepted.stdout + accepted.stderr
    # A real run stops before its first job.
    message = error(snakemake(fresh, "results/wmh/splits.csv", "--config", "scale=paper"))
    assert "datasets.wmh.download.accept_licence" in message
    assert not (fresh / "results" / "logs").exists()


@pytest.mark.workflow
def test_dry_run_of_the_gpu_scale_plans_all_networks_and_exhibits(fresh: Path) -> None:
    planned = jobs(snakemake(fresh, "-n", "--config", "scale=gpu"))
    assert planned["simulate_phantom-fine"] == 1
    assert (planned["train"], planned["gate"], planned["probe"]) == (7, 7, 2)
    for name in ("table1", "table2", "fig2_uncertainty", "fig3_tprime", "fig4_ensemble", "pareto", "uncertainty", "claims"):
        assert planned[name] == 1


@pytest.mark.workflow  # four runs of Snakemake
def test_mistakes_in_the_command_line_are_named_in_one_sentence(fresh: Path) -> None:
    mistakes = {
        ("results/tabel1.csv",): "results/tabel1.csv: no rule makes this file. Did you mean results/table1.csv?",
        ("--configfile", "none.yaml"): "none.yaml: the configuration file does not exist.",
        ("--configfile", "config/leak.yaml", "results/leak.csv"): "results/leak.csv: `--configfile` takes it for",
        (
            "--config",
            "sampling={samples: 3}",
        ): "`sampling.samples`: '3' is not a whole number. Write it without quotes. `--config`",
    }
    for arguments, sentence in mistakes.items():
        message = error(snakemake(fresh, "-n", *arguments))
        assert sentence in message
        assert "Traceback" not in message


@pytest.mark.workflow  # two dry runs of the demo
def test_workflow_runs_in_another_folder(fresh: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    target = "results/phantom/predictions/unet/split-0_seed-0/predictions.csv"
    run = snakemake(fresh, "-n", target, "--snakefile", str(fresh / "Snakefile"), "--directory", str(elsewhere))
    assert jobs(run) == jobs(snakemake(fresh, "-n", target))
    assert not list(elsewhere.glob("config*"))


MODULE = """
configfile: "config/config.yaml"
module pd_ddpm:
    snakefile: "{snakefile}"
    config: config
use rule * from pd_ddpm
"""


@pytest.mark.workflow  # two dry runs of the demo
def test_workflow_runs_as_a_module_in_the_layout_of_snakedeploy(fresh: Path, tmp_path: Path) -> None:
    deployed = tmp_path / "deployed"
    shutil.copytree(fresh / "config", deployed / "config")
    shutil.copytree(fresh / "profiles", deployed / "profiles")
    (deployed / "workflow").mkdir()
    (deployed / "workflow" / "Snakefile").write_text(MODULE.format(snakefile=fresh / "workflow" / "Snakefile"))
    arguments = command(fresh, "-n", "--configfile", "config/demo.yaml") | {"cwd": deployed}
    planned = jobs(subprocess.run(**arguments, capture_output=True, text=True))
    original = jobs(snakemake(fresh, "-n"))
    assert planned.pop("everything") == original.pop("all") == 1  # the default targets
    assert planned == original


@pytest.mark.workflow  # three runs of Snakemake
def test_exhibits_go_to_the_folder_that_results_names(fresh: Path) -> None:
    run = snakemake(fresh, "-n", "results-2/table1.csv", FULL, "--config", "results=results-2")
    assert jobs(run) == jobs(snakemake(fresh, "-n", "results/table1.csv"))
    assert "output: results-2/phantom/exhibits/table1.csv" in run.stdout + run.stderr
    assert "output: results/phantom/networks/unet/split-0_seed-0/model.safetensors" in run.stdout + run.stderr
    assert "results/phantom/exhibits" not in run.stdout + run.stderr
    message = error(snakemake(fresh, "-n", "--config", "results=work"))
    assert "`results`: 'work' does not have the required form. Set text such as 'results', 'results-t25'" in message


def outputs(run: subprocess.CompletedProcess[str], kind: str) -> list[str]:
    """Return the output folders of one kind in a dry run, such as "networks/denoiser/split-0_seed-0", one per job."""
    lines = [line.strip() for line in (run.stdout + run.stderr).splitlines() if line.strip().startswith("output: ")]
    paths = [line.removeprefix("output: ").split(",")[0].strip() for line in lines]
    paths = [path for path in paths if not path.endswith(("-raw.json", "-ema.json", "probe.csv"))]  # written by gate and probe
    return [str(Path(path).parent).split("/", 2)[2] for path in paths if f"/{kind}/" in path]


@pytest.mark.workflow  # a dry run of the paper
def test_slurm_profile_plans_the_paper_and_trains_each_network_once(fresh: Path) -> None:
    run = snakemake(fresh, "-n", "--cores", "8", "--profile", "slurm", FULL)
    planned = jobs(run)
    assert "simulate_phantom" not in planned
    # Seven networks for nine methods, in five splits. Vanilla DDPM, ES-DDPM and PD-DDPM at every T' share one denoiser.
    assert planned["train"] == len(outputs(run, "networks")) == len(set(outputs(run, "networks"))) == 35
    denoisers = [path for path in outputs(run, "networks") if "denoiser" in path]
    assert len([path for path in denoisers if path.startswith("networks/denoiser/")]) == 5
    assert len(denoisers) == 10  # the other five are TDPM's
    # Table 1: 9. Fig. 3: 9 more, because Table 1 has T' = 300. Table 2: 3 early AttUNets and 4 chains; Table 1 has the best.
    # Pareto: 6 respaced chains from noise and 6 from each of three T'; others exist. Fig. 4 and Fig. 2: none.
    assert planned["sample"] == 5 * (9 + 9 + 7 + 24)
    predictions = outputs(run, "predictions")
    assert len(predictions) == len(set(predictions)) == planned["sample"]
    for split in range(5):
        assert predictions.count(f"predictions/pd-ddpm/split-{split}_seed-0") == 1
    assert "results/wmh/" in run.stdout + run.stderr
    keys = {line.split(":")[0] for line in (ROOT / "profiles/default/config.yaml").read_text(encoding="utf-8").splitlines()}
    slurm_keys = {line.split(":")[0] for line in (ROOT / "slurm/config.yaml").read_text(encoding="utf-8").splitlines()}
    assert {key for key in keys & slurm_keys if key.strip() and not key.startswith("#")} == set()


@pytest.mark.workflow  # a dry run of the demo
def test_slurm_profile_requests_more_gpus_than_this_machine_has(fresh: Path) -> None:
    (fresh / "two.yaml").write_text("resources: {sample: {gpu: 2}}\n", encoding="utf-8")
    target = "results/phantom/scores/unet/split-0_seed-0.csv"
    arguments = ("--cores", "8", "--profile", "slurm", "--config", "scale=demo", "--configfile", "two.yaml")
    run = snakemake(fresh, "-n", target, FULL, *arguments)
    assert "gpu=2, gpu_jobs=1" in run.stdout + run.stderr


@pytest.mark.workflow  # two dry runs, one of the paper
def test_scale_on_command_line_overrides_profile(fresh: Path) -> None:
    target = "results/probe.csv"  # of the configuration's dataset; far fewer jobs than all exhibits
    assert "simulate_phantom" not in jobs(snakemake(fresh, "-n", target, "--config", "scale=paper"))
    demo = ("--cores", "8", "--profile", "slurm", "--config", "scale=demo")
    assert "simulate_phantom" in jobs(snakemake(fresh, "-n", target, *demo))


@pytest.mark.workflow  # five dry runs of the paper take 15 s
def test_held_out_cases_are_locked_until_evaluate_held_out_is_true(fresh: Path) -> None:
    for target in ("results/held_out.csv", "results/wmh-held-out/cases.csv", "results/wmh-held-out/exhibits/fig3_tprime.pdf"):
        message = error(snakemake(fresh, "-n", target, "--config", "scale=paper"))
        assert "`datasets.wmh-held-out`: its cases are held out and locked" in message
        assert "Set `evaluate_held_out: true` once all choices are made" in message
    locked = snakemake(fresh, "-n", FULL, "--config", "scale=paper")
    assert "wmh-held-out" not in locked.stdout + locked.stderr
    (fresh / "open.yaml").write_text("evaluate_held_out: true\n", encoding="utf-8")
    run = snakemake(fresh, "-n", FULL, "--configfile", "open.yaml", "--config", "scale=paper")
    planned, before = jobs(run), jobs(locked)
    assert planned["train"] == before["train"] == 35
    assert planned["sample"] - before["sample"] == 5 * 9
    assert planned.keys() - before.keys() == {"download_wmh-held-out", "publish_held_out"}
    assert planned["table1"] == planned["split"] == 2
    assert "results/wmh-held-out/networks" not in run.stdout + run.stderr


@pytest.mark.workflow  # two dry runs of the demo
def test_dataset_with_networks_of_trains_nothing(fresh: Path) -> None:
    (fresh / "second.yaml").write_text(
        "datasets: {second: {like: phantom, folder: data/second, simulate: {seed: 7}, networks_of: phantom}}\n"
        "splits: [0]\nseeds: [0]\n",
        encoding="utf-8",
    )
    files = ("--configfile", "second.yaml")
    run = snakemake(fresh, "-n", "results/second/exhibits/table1.csv", FULL, *files)
    planned = jobs(run)
    assert (planned["train"], planned["sample"]) == (7, 9)
    assert "results/phantom/networks/denoiser/split-0_seed-0/model.safetensors" in run.stdout + run.stderr
    assert "results/second/networks" not in run.stdout + run.stderr
    message = error(snakemake(fresh, "-n", "results/second/networks/unet/split-0_seed-0/model.json", *files))
    assert "nothing is trained on second, whose networks_of is phantom. Request files in results/phantom/networks" in message


@pytest.mark.workflow  # a dry run of two thousand jobs
def test_leak_configuration_plans_every_denoiser_from_every_start(fresh: Path) -> None:
    targets = ("results/leak.csv", "results/leak.pdf", "results/leak_probe.pdf")
    (fresh / "two.yaml").write_text("seeds: [0]\nsplits: [0, 3]\n", encoding="utf-8")  # seven times as fast
    planned = jobs(snakemake(fresh, "-n", "--configfile", "config/leak.yaml", "two.yaml", "--", *targets))
    runs = 2
    assert (planned["simulate_leak"], planned["leak"], planned["publish_leak"]) == (1, 1, 1)
    assert planned["train"] == runs * (1 + 15 + 8 + 3)  # AttUNet, the denoisers, and one AttUNet without each inner fold
    # Five have no skip and so no reliability; eight have other strategies and fewer starts.
    assert planned["sample"] == runs * (1 + 15 * (4 + 1 + 1) + 10 * 4 + 5 * 2 + 8 * 3)
    assert (planned["reliability"], planned["probe"], planned["leak_probe"]) == (runs, runs * (15 + 8), 1)
    assert planned["average"] == runs * 15 * 2
    assert planned["score"] == planned["sample"] + planned["average"]
    assert not {"gate", "table1", "simulate_phantom"} & planned.keys()


@pytest.mark.workflow  # a run of Snakemake
def test_leak_table_without_its_configuration_names_the_file(fresh: Path) -> None:
    message = error(snakemake(fresh, "-n", "results/leak.csv"))
    assert "`exhibits.leak`: it is null, so this configuration has no leak table" in message
    assert "Add `--configfile config/leak.yaml` after the file to make" in message


@pytest.mark.workflow  # a dry run of a study
def test_study_is_planned_with_its_own_datasets_and_networks(fresh: Path) -> None:
    run = snakemake(fresh, "-n", "results/patchddm/index.html", FULL)
    planned = jobs(run)
    assert all(rule.startswith("patchddm_") for rule in planned)
    assert planned["patchddm_simulate_volumes"] == planned["patchddm_index"] == planned["patchddm_publish_table1"] == 1
    text = run.stdout + run.stderr
    assert "output: results/volumes/networks/patchddm/split-0_seed-0/model.safetensors" in text
    assert "output: results/patchddm/volumes/exhibits/table1.csv" in text
    assert "results/phantom" not in text


@pytest.mark.workflow  # two dry runs and a run
def test_study_at_the_papers_scale_is_planned_without_its_scans(fresh: Path) -> None:
    target = "results/patchddm/table1.csv"
    planned = jobs(snakemake(fresh, "-n", "--cores", "8", "--profile", "slurm", target))
    assert planned["patchddm_train"] >= 3
    assert not any(rule.startswith(("patchddm_simulate", "patchddm_download")) for rule in planned)
    both = jobs(snakemake(fresh, "-n", target, "results/wmh/splits.csv", "--config", "scale=paper"))
    assert planned.items() < both.items()
    assert both["download_wmh"] == both["split"] == both["patchddm_split"] == 1
    message = error(snakemake(fresh, "results/brats/splits.csv", "--config", "scale=paper"))
    assert "patchddm.datasets.brats.folder: data/brats: the folder does not exist. Get the training data of BraTS" in message
    assert "each of which needs an account" in message
    assert "FAILED: list_cases brats" in message


@pytest.mark.workflow
def test_study_whose_scans_are_downloaded_names_the_licence(fresh: Path) -> None:
    run = snakemake(fresh, "-n", "--cores", "8", "--profile", "slurm", "results/recycling/table1.csv")
    assert jobs(run)["recycling_download_muscle"] == 1
    assert "recycling.datasets.muscle.download" in run.stdout + run.stderr


@pytest.mark.parametrize(
    ("overlay", "words"),
    [
        ("trainin: {steps: 3}", ["`trainin`: unknown key", "Did you mean 'training'"]),
        ("methods: {pd-ddpm: {t_start: 3000}}", ["`methods.pd-ddpm.t_start`: T' = 3000", "T = 1000"]),
        ("scale: papers", ["`scale`"]),
        ("patchddm: {training: {stepz: 3}}", ["`patchddm.training.stepz`: unknown key", "Did you mean 'steps'"]),
        ("exhibits: {table1: [ddpm@variance=larg]}", ["ddpm@variance=larg", "'larg' is not valid"]),
    ],
)
def test_invalid_configuration_stops_before_any_job(fresh: Path, overlay: str, words: list[str]) -> None:
    (fresh / "wrong.yaml").write_text(overlay, encoding="utf-8")
    message = error(snakemake(fresh, "-n", "--configfile", "wrong.yaml"))
    for word in words:
        assert word in message
    assert "Traceback" not in message


@pytest.mark.workflow  # two dry runs of the demo
def test_invalid_method_in_target_is_rejected(fresh: Path) -> None:
    target = "results/phantom/predictions/pd-ddpm@t_start=2000/split-0_seed-0/predictions.csv"
    assert "T' = 2000 is above T = 1000" in error(snakemake(fresh, "-n", target))
    target = "results/phantom/predictions/pd-ddpm@tstart=20/split-0_seed-0/predictions.csv"
    assert "Did you mean 't_start'" in error(snakemake(fresh, "-n", target))
