"""Changes of configuration, code and files after a workflow has run rerun the affected jobs and no others."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import yaml
from configurations import reordered
from workflow_runs import FULL, command, edit, error, jobs, small_cohort, snakemake

from pd_ddpm.config import load

pytestmark = pytest.mark.workflow


def test_smaller_pool_has_the_first_members_of_a_larger_one(finished: Path, tmp_path: Path) -> None:
    """Fig. 4 samples a pool of four members. Its first two members equal a pool of two."""
    folder = tmp_path / "smaller"
    shutil.copytree(finished, folder, symlinks=True)
    (folder / "more.yaml").write_text("exhibits: {fig4_ensemble: {pool: 2}}\n", encoding="utf-8")
    target = "results/phantom/predictions/pd-ddpm/split-0_seed-0/predictions.csv"
    before = {path.name: path for path in (finished / target).parent.glob("*_samples.nii.gz")}
    run = snakemake(folder, target, "--configfile", "small.yaml", "more.yaml")
    assert run.returncode == 0, run.stdout + run.stderr
    for name, path in before.items():
        four, two = nibabel.load(path).get_fdata(), nibabel.load((folder / target).parent / name).get_fdata()
        assert (four.shape[-1], two.shape[-1]) == (4, 2)
        np.testing.assert_array_equal(four[..., :2], two)


def test_additional_method_requires_configuration_only(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tenth"
    shutil.copytree(finished, folder, symlinks=True)
    (folder / "tenth.yaml").write_text(
        "methods:\n  pd-ddpm-unet: {like: pd-ddpm, label: PD-DDPM (U-Net), presegmentation: unet}\n"
        "exhibits:\n  table1: [unet, attunet, ddpm, pd-ddpm, pd-ddpm-unet]\n"
        "  claims: {tdpm: null, es_ddpm: null}\n",
        encoding="utf-8",
    )
    files = ("--configfile", "small.yaml", "tenth.yaml")
    planned = jobs(snakemake(folder, "-n", "results/table1.csv", *files))
    assert planned == {"sample": 1, "score": 1, "table1": 1, "publish_table1": 1}
    run = snakemake(folder, "results/table1.csv", *files)
    assert run.returncode == 0, run.stdout + run.stderr
    table = pd.read_csv(folder / "results/table1.csv").set_index("method")
    assert table.index[-1] == "PD-DDPM (U-Net)"
    assert table.loc["PD-DDPM (U-Net)", "network_evaluations"] == 7


LEAK = """
networks:
  recycled: {like: denoiser, strategy: recycling_noise, strategy_share: 0.5}
  masks: {like: denoiser, presegmented_share: 0.5, inner_folds: 2}
  conditioned: {like: denoiser, strategy: self_conditioning_next, strategy_share: 0.5}
  last: {like: denoiser, strategy: recycling_last, recycled_estimate: soft}
methods:
  mean: {label: Mean of both, segmenter: mean, mean_of: [ddpm, attunet], denoiser: null}
exhibits:
  leak:
    denoisers: [denoiser, recycled, masks]
    strategies: [conditioned, last]
    strategies_t_start: [300]
    presegmenter: attunet
    from_presegmentation: pd-ddpm
    t_start: [300]
    empty_t_start: 300
    from_noise: ddpm
    further: [pd-ddpm@start_reliability=validation]
    means: [mean]
"""


def test_leak_table_trains_and_samples_only_what_other_exhibits_lack(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "leak"
    shutil.copytree(finished, folder, symlinks=True)
    (folder / "leak.yaml").write_text(LEAK, encoding="utf-8")
    targets = [f"results/{name}" for name in ("leak.csv", "leak.pdf", "leak_probe.pdf")]
    files = ("--configfile", "small.yaml", "leak.yaml")
    planned = jobs(snakemake(folder, "-n", *targets, *files))
    # Of the trainings, two are AttUNets without an inner fold. The denoiser itself lacks the start with reliability only.
    sampled = {"sample": 1 + 2 * 4 + 2 * 2, "average": 3, "score": 13 + 3}
    figures = {"leak": 1, "publish_leak": 1, "leak_probe": 1, "publish_leak_probe": 1}
    assert planned == {"train": 2 + 2 + 2, "reliability": 1, "probe": 2 + 2, **sampled, **figures}
    run = snakemake(folder, *targets, *files)
    assert run.returncode == 0, run.stdout + run.stderr
    table = pd.read_csv(folder / "results/leak.csv")
    assert table["network"].tolist() == [
        *("attunet", *["denoiser"] * 5, *["recycled"] * 5, *["masks"] * 5),
        *(*["conditioned"] * 2, *["last"] * 2),
    ]
    # Two members of three or ten steps, and one pass of AttUNet if the chain starts from it or is averaged with it.
    assert table["network_evaluations"].tolist() == [1, *[7, 6, 20, 7, 21] * 3, *[7, 20] * 2]
    flops = table.groupby("network")["training_flops"].first()
    assert flops["masks"] == pytest.approx(flops["denoiser"] + 2 * flops["attunet"])
    assert flops["last"] > flops["recycled"] > flops["denoiser"]
    assert flops["conditioned"] > flops["denoiser"]
    inner = [folder / f"results/phantom/networks/attunet@inner_fold={index}-of-2/split-0_seed-0/model.json" for index in (1, 2)]
    splits = pd.read_csv(folder / "results/phantom/splits.csv")
    training = sorted(splits[(splits["split"] == 0) & (splits["role"] == "train")]["case"])
    seen = [json.loads(path.read_text(encoding="utf-8"))["training_cases"] for path in inner]
    assert sorted(case for cases in seen for case in cases) == training  # two folds: each case is left out once
    probed = pd.read_csv(folder / "results/leak_probe.csv")
    assert probed["network"].unique().tolist() == ["denoiser", "recycled", "masks", "conditioned", "last"]
    assert set(probed["start"]) == {"truth", "other_slice", "empty", "trust"}
    assert (folder / "results/leak.pdf").read_bytes().startswith(b"%PDF")
    assert "Training compute of attunet: " in (folder / "results/leak.md").read_text(encoding="utf-8")
    record = json.loads((folder / "results/leak.json").read_text(encoding="utf-8"))
    assert record["made_from"]["summary"]["runs"] == 6 + 2 + 1 + 3 * 5 + 2 * 2
    assert "device" not in record["made_from"]["summary"]["mixed"]
    single = folder / "results/phantom/predictions/mean@denoiser=denoiser/split-0_seed-0"
    for case in pd.read_csv(single / "predictions.csv")["case"]:
        parts = [
            nibabel.load(single.parents[1] / name / single.name / f"{case}_samples.nii.gz") for name in ("ddpm", "attunet")
        ]
        chains, mask = (part.get_fdata().reshape(*part.shape[:3], -1)[..., :2].mean(axis=-1) for part in parts)
        mean = nibabel.load(single / f"{case}_samples.nii.gz").get_fdata().mean(axis=-1)
        np.testing.assert_allclose(mean, (chains + mask) / 2, atol=1 / 255)
    assert jobs(snakemake(folder, "-n", *targets, *files)) == {}


def test_second_run_has_nothing_to_do(finished: Path) -> None:
    assert jobs(snakemake(finished, "-n", "--configfile", "small.yaml")) == {}


def test_changed_comment_reruns_nothing_and_changed_constant_its_users(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(finished, folder, symlinks=True)
    for path in (
        folder / "src/pd_ddpm/diffusion/samplers.py",
        folder / "workflow/scripts/sample.py",
        folder / "workflow/scripts/train.py",
    ):
        path.write_text(path.read_text(encoding="utf-8") + "\n# a comment\n", encoding="utf-8")
    assert jobs(snakemake(folder, "-n", "--configfile", "small.yaml")) == {}

    edit(folder / "src/pd_ddpm/inference/segmenters.py", "evaluations_shared: int = 0", "evaluations_shared: int = 2")
    after = jobs(snakemake(folder, "-n", "--configfile", "small.yaml"))
    assert after["sample"] == 21
    assert "train" not in after
    assert "prepare" not in after


def case_record(path: Path) -> dict[str, Any]:
    """Read a case's record without the git commit, which copies of the repository do not have."""
    record = json.loads(path.read_text(encoding="utf-8"))
    for key in ("git_commit", "git_changed"):
        del record["provenance"][key]
    return record


def test_missing_predictions_table_is_restored_without_sampling(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lost"
    shutil.copytree(finished, folder, symlinks=True)
    predictions = folder / "results/phantom/predictions/ddpm/split-0_seed-0"
    record = next(predictions.glob("*.json"))
    before = case_record(record)
    (predictions / "predictions.csv").unlink()
    run = snakemake(folder, str((predictions / "predictions.csv").relative_to(folder)), "--configfile", "small.yaml")
    assert run.returncode == 0, run.stdout + run.stderr
    assert case_record(record) == before  # the case is reused, including its time


def test_damaged_prediction_is_sampled_again(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(finished, folder, symlinks=True)
    predictions = folder / "results/phantom/predictions/attunet/split-0_seed-0"
    mask = next(predictions.glob("*_mask.nii.gz"))
    content = mask.read_bytes()
    mask.write_bytes(content[:100])
    (predictions / "predictions.csv").unlink()
    run = snakemake(folder, str((predictions / "predictions.csv").relative_to(folder)), "--configfile", "small.yaml")
    assert run.returncode == 0, run.stdout + run.stderr
    assert mask.read_bytes() == content


def test_settings_without_effect_rerun_nothing_and_new_split_keeps_the_first(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "further"
    shutil.copytree(finished, folder, symlinks=True)
    for harmless in ("save_every_seconds: 9\n", "device: auto\n", "changed_training: restart\n"):
        (folder / "more.yaml").write_text(harmless, encoding="utf-8")
        assert jobs(snakemake(folder, "-n", "--configfile", "small.yaml", "more.yaml")) == {}
    (folder / "more.yaml").write_text("splits: [0, 1]\n", encoding="utf-8")
    run = snakemake(folder, "-n", FULL, "--configfile", "small.yaml", "more.yaml")
    planned = jobs(run)
    assert (planned["train"], planned["sample"]) == (7, 21)
    assert "split" not in planned
    assert "networks/denoiser/split-1_seed-0" in run.stdout + run.stderr


def test_equal_settings_in_another_order_and_other_number_types_rerun_nothing(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "equal"
    shutil.copytree(finished, folder, symlinks=True)
    all_settings = reordered(load.read(finished / "small.yaml", {"scale": "demo"}))
    examples = [{"training": {"validate_every": 3}}, {"training": {"batch": 4.0}}, {"grid": {"margin_mm": 2.0}}]
    for overlay in (all_settings, *examples):
        (folder / "equal.yaml").write_text(yaml.safe_dump(overlay, sort_keys=False), encoding="utf-8")
        assert jobs(snakemake(folder, "-n", "--configfile", "small.yaml", "equal.yaml")) == {}, overlay


def test_changed_label_reruns_tables_and_figures_only(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "renamed"
    shutil.copytree(finished, folder, symlinks=True)
    (folder / "renamed.yaml").write_text("methods: {unet: {label: Ours}}\n", encoding="utf-8")
    exhibits = ("table1", "uncertainty", "cost", "fig2_uncertainty", "pareto")
    expected = {"all", "provenance", "index", *exhibits, *(f"publish_{name}" for name in exhibits)}
    assert jobs(snakemake(folder, "-n", "--configfile", "small.yaml", "renamed.yaml")) == dict.fromkeys(expected, 1)


def test_second_experiment_shares_everything_but_its_exhibits(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "second"
    shutil.copytree(finished, folder, symlinks=True)
    before = (folder / "results/fig3_tprime.csv").read_bytes()
    (folder / "second.yaml").write_text(
        "results: results-2\nexhibits: {fig3_tprime: {t_start: [100, 300]}}\n", encoding="utf-8"
    )
    files = ("--configfile", "small.yaml", "second.yaml")
    assert not {"train", "sample", "score", "prepare"} & set(jobs(snakemake(folder, "-n", *files)))
    run = snakemake(folder, "results-2/fig3_tprime.csv", *files)
    assert run.returncode == 0, run.stdout + run.stderr
    assert pd.read_csv(folder / "results-2/fig3_tprime.csv")["t_start"].nunique() == 2
    assert (folder / "results/fig3_tprime.csv").read_bytes() == before
    assert jobs(snakemake(folder, "-n", "--configfile", "small.yaml")) == {}


def test_changed_method_resamples_no_other(finished: Path, tmp_path: Path) -> None:
    """ES-DDPM inherits all that it does not set from PD-DDPM, but sets its own pre-segmentation."""
    folder = tmp_path / "changed"
    shutil.copytree(finished, folder, symlinks=True)
    (folder / "changed.yaml").write_text("methods: {pd-ddpm: {presegmentation: unet}}\n", encoding="utf-8")
    run = snakemake(folder, "-n", FULL, "--configfile", "small.yaml", "changed.yaml")
    outputs = [line.split()[1] for line in (run.stdout + run.stderr).splitlines() if line.startswith("    output: ")]
    sampled = {path.split("/")[3] for path in outputs if "/predictions/" in path}
    assert "pd-ddpm" in sampled
    assert {name.partition("@")[0] for name in sampled} == {"pd-ddpm"}


def test_changed_form_of_members_reruns_samplings_only(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "soft"
    shutil.copytree(finished, folder, symlinks=True)
    (folder / "soft.yaml").write_text("grid: {members: soft}\n", encoding="utf-8")
    planned = jobs(snakemake(folder, "-n", "--configfile", "small.yaml", "soft.yaml"))
    assert planned["sample"] == 21
    assert not {"train", "probe", "grid_dice", "prepare"} & set(planned)


def test_precision_gate_runs_once_per_network_if_precision_is_auto(finished: Path, fresh: Path) -> None:
    target = "results/table1.csv"
    planned = jobs(snakemake(finished, "-n", "--forceall", target, "--configfile", "small.yaml"))  # precision: float32
    assert "gate" not in planned
    (fresh / "auto.yaml").write_text("sampling: {precision: auto}\n", encoding="utf-8")
    planned = jobs(snakemake(fresh, "-n", target, "--configfile", "small.yaml", "auto.yaml"))
    assert (planned["gate"], planned["train"], planned["sample"]) == (7, 7, 9)
    assert "sample_shard" not in planned


def test_shards_write_identical_files_and_their_number_reruns_nothing(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(finished, folder, symlinks=True)
    (folder / "more.yaml").write_text("sampling: {shards: 3}\n", encoding="utf-8")
    files = ("--configfile", "small.yaml", "more.yaml")
    assert jobs(snakemake(folder, "-n", *files)) == {}  # it was sampled in one shard

    predictions = "results/phantom/predictions/pd-ddpm/split-0_seed-0"
    shutil.rmtree(folder / predictions)
    run = snakemake(folder, f"{predictions}/predictions.csv", *files)
    assert run.returncode == 0, run.stdout + run.stderr
    images = [path.name for path in (finished / predictions).glob("*.nii.gz")]
    assert len(images) == 2 * 3
    for name in images:
        assert (folder / predictions / name).read_bytes() == (finished / predictions / name).read_bytes()
    times = folder / "results/benchmarks/sample/phantom/pd-ddpm/split-0_seed-0"
    assert sorted(path.name for path in times.glob("*.tsv")) == [f"shard-{shard}-of-3.tsv" for shard in (1, 2, 3)]
    for number in (1, 2, 3):
        (folder / "more.yaml").write_text(f"sampling: {{shards: {number}}}\n", encoding="utf-8")
        assert jobs(snakemake(folder, "-n", f"{predictions}/predictions.csv", *files)) == {}


def test_changed_folds_rerun_split_and_all_that_follows_in_one_invocation(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folds"
    shutil.copytree(finished, folder, symlinks=True)
    (folder / "folds.yaml").write_text("folds: {seed: 1}\n", encoding="utf-8")
    planned = jobs(snakemake(folder, "-n", "--configfile", "small.yaml", "folds.yaml"))
    assert (planned["split"], planned["train"], planned["probe"], planned["sample"]) == (1, 7, 2, 21)
    assert {"score", "table1", "claims"} <= set(planned)
    assert not {"list_cases", "check", "prepare"} & set(planned)


def test_changed_orientation_reruns_check_and_all_that_follows_in_one_invocation(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "orientation"
    shutil.copytree(finished, folder, symlinks=True)
    (folder / "orientation.yaml").write_text("preparation: {orientation: PIR}\n", encoding="utf-8")
    planned = jobs(snakemake(folder, "-n", "--configfile", "small.yaml", "orientation.yaml"))
    assert (planned["check"], planned["prepare"], planned["train"], planned["sample"]) == (1, 1, 7, 21)
    assert "list_cases" not in planned


def test_changed_code_of_check_reruns_nothing_and_missing_network_is_trained(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stricter"
    shutil.copytree(finished, folder, symlinks=True)
    edit(folder / "src/pd_ddpm/data/check/report.py", "_MAX_LISTED_CASES = 8", "_MAX_LISTED_CASES = 9")
    assert jobs(snakemake(folder, "-n", "--configfile", "small.yaml")) == {}
    target = "results/phantom/networks/unet/split-0_seed-0/model.json"
    (folder / target).unlink()
    assert jobs(snakemake(folder, "-n", target, "--configfile", "small.yaml")) == {"train": 1}


def test_edited_case_table_reruns_check_and_split(fresh: Path) -> None:
    small_cohort(fresh)
    target, files = "results/own/splits.csv", ("--configfile", "own.yaml")
    assert snakemake(fresh, target, *files).returncode == 0
    assert jobs(snakemake(fresh, "-n", target, *files)) == {}
    assert (fresh / "results/own/check.csv").read_text(encoding="utf-8").startswith("severity,case,file,finding,remedy")
    edit(fresh / "own.csv", "p0,s,", "p0,elsewhere,")
    assert jobs(snakemake(fresh, "-n", target, *files)) == {"list_cases": 1, "check": 1, "split": 1}
    # A run that is killed after `list_cases` leaves findings that are older than the table.
    assert snakemake(fresh, "results/own/cases.csv", *files).returncode == 0
    assert jobs(snakemake(fresh, "-n", target, *files)) == {"check": 1, "split": 1}


def test_forced_check_leaves_no_requested_file_missing(fresh: Path) -> None:
    small_cohort(fresh)
    target, files = "results/own/networks/unet/split-0_seed-0/model.json", ("--configfile", "own.yaml")
    assert snakemake(fresh, "results/own/splits.csv", *files).returncode == 0
    planned = jobs(snakemake(fresh, "-n", target, "--forcerun", "check", *files))
    assert planned == {"check": 1, "prepare": 1, "split": 1, "train": 1}


def test_too_many_folds_stop_split_without_another_check(fresh: Path) -> None:
    small_cohort(fresh)
    target = "results/own/splits.csv"
    assert snakemake(fresh, target, "--configfile", "own.yaml").returncode == 0
    (fresh / "folds.yaml").write_text("folds: {count: 6}\n", encoding="utf-8")
    files = ("--configfile", "own.yaml", "folds.yaml")
    assert jobs(snakemake(fresh, "-n", target, *files)) == {"split": 1}
    assert "`folds.count`: 6 folds need at least 6 patients, but there are 5" in error(snakemake(fresh, target, *files))


def scale_flair(folder: Path, case: str) -> None:
    """Multiply the FLAIR of a case by 1.1."""
    path = folder / "scans" / case / "FLAIR.nii.gz"
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(image.get_fdata(dtype=np.float32) * 1.1, image.affine), path)


def test_changed_scan_reruns_all_that_depends_on_it(fresh: Path) -> None:
    small_cohort(fresh)
    target, files = "results/own/cases/prepared.csv", ("--configfile", "own.yaml")
    assert snakemake(fresh, target, *files).returncode == 0
    assert jobs(snakemake(fresh, "-n", target, *files)) == {}
    before = pd.read_csv(fresh / target).set_index("case")["prepared_sha256"]
    os.utime(fresh / "scans" / "p1" / "T1.nii.gz")
    assert jobs(snakemake(fresh, "-n", target, *files)) == {}

    scale_flair(fresh, "p0")
    planned = jobs(snakemake(fresh, "-n", "results/own/networks/unet/split-0_seed-0/model.json", *files))
    assert planned == {"check": 1, "prepare": 1, "split": 1, "train": 1}
    run = snakemake(fresh, target, *files)
    assert run.returncode == 0, run.stdout + run.stderr
    after = pd.read_csv(fresh / target).set_index("case")["prepared_sha256"]
    # After the normalisation the scaled scan differs by rounding only.
    assert after.index[before != after].tolist() == ["p0"]
    assert jobs(snakemake(fresh, "-n", target, *files)) == {}
    shutil.rmtree(fresh / "scans")  # archived
    assert jobs(snakemake(fresh, "-n", target, *files)) == {}


def test_file_of_the_future_stops_the_run(fresh: Path) -> None:
    small_cohort(fresh)
    # Snakemake compares the content of small files too; networks and images are larger than its limit.
    target, options = "results/own/splits.csv", ("--configfile", "own.yaml", "--max-checksum-file-size", "0")
    assert snakemake(fresh, target, *options).returncode == 0
    tomorrow = time.time() + 86400
    os.utime(fresh / "results/own/cases.csv", (tomorrow, tomorrow))
    assert "results/own/cases.csv: it is dated in the future" in error(snakemake(fresh, target, *options))
    dry_run = snakemake(fresh, "-n", target, *options)
    assert "This run would stop: results/own/cases.csv: it is dated in the future" in dry_run.stderr
    (fresh / "results/own/cases.csv").touch()
    assert snakemake(fresh, target, "--touch", *options).returncode == 0
    assert jobs(snakemake(fresh, "-n", target, *options)) == {}


def test_killed_run_needs_unlock_only(fresh: Path) -> None:
    small_cohort(fresh)
    target, files = "results/own/cases/prepared.csv", ("--configfile", "own.yaml")
    process = subprocess.Popen(**command(fresh, target, *files), start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (fresh / "results/logs/prepare/own.log").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert any((fresh / ".snakemake" / "incomplete").iterdir())
    assert "unlock" in error(snakemake(fresh, target, *files))
    assert snakemake(fresh, target, "--unlock", *files).returncode == 0
    run = snakemake(fresh, target, *files)
    assert run.returncode == 0, run.stdout + run.stderr


STUDY = """
patchddm:
  datasets:
    volumes:
      simulate: {cases_per_site: 1, seed: 0, resolution_mm: 4, coarsening: 4, slice_mm: 8, smallest_lesion_ml: 1}
  folds: {count: 3}
  networks:
    half-resolution: {channels: 4, multipliers: [1, 2], crop: [8, 8, 8], grid: {spacing_mm: 12}, steps: 2, validate_every: 1}
"""


def test_changed_key_of_a_study_reruns_its_jobs_only(fresh: Path) -> None:
    """A network of the study is trained. Keys below its name concern it, and others only if they are about the machine."""
    target = "results/volumes/networks/half-resolution/split-0_seed-0/model.safetensors"
    (fresh / "study.yaml").write_text(STUDY, encoding="utf-8")
    run = snakemake(fresh, target, "--configfile", "study.yaml")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "patchddm_" not in run.stdout + run.stderr
    changes = {
        "training: {steps: 3}": {},
        "device: auto": {},
        "patchddm: {evaluation: {band_mm: 3}}": {},
        "patchddm: {networks: {half-resolution: {steps: 3}}}": {"patchddm_train": 1},
        "patchddm: {preparation: {normalisation: percentile}}": {"patchddm_prepare": 1, "patchddm_train": 1},
    }
    for change, expected in changes.items():
        (fresh / "change.yaml").write_text(change, encoding="utf-8")
        planned = jobs(
            snakemake(fresh, "-n", target, "results/phantom/splits.csv", "--configfile", "study.yaml", "change.yaml")
        )
        first = {"simulate_phantom": 1, "list_cases": 1, "check": 1, "split": 1}
        assert planned == first | expected, change
