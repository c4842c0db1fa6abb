"""The workflow as a user runs it: a small demo end to end, what re-runs it, and what stops it."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from workflow_runs import ROOT, copy_of_the_repository, jobs, small_cohort, snakemake

from pd_ddpm.runtime.code_version import code_version

pytestmark = pytest.mark.workflow

Run = Callable[..., subprocess.CompletedProcess[str]]


def error(run: subprocess.CompletedProcess[str]) -> str:
    assert run.returncode != 0, run.stdout + run.stderr
    return run.stdout + run.stderr


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    return copy_of_the_repository(tmp_path)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


ROWS = ["U-Net", "AttUNet", "U-Net++", "Bayesian U-Net", "Probabilistic U-Net", "Vanilla DDPM", "TDPM", "ES-DDPM", "PD-DDPM"]
STOCHASTIC = ROWS[3:]


def exhibit(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / "results" / f"{name}.csv")


def test_table1_has_a_row_per_method_beside_the_papers(finished: Path) -> None:
    table = exhibit(finished, "table1").set_index("method")
    assert list(table.index) == ROWS
    assert table["dice"].between(0, 1).all()
    assert table["dice_paper"].tolist() == [0.787, 0.799, 0.798, 0.798, 0.792, 0.796, 0.801, 0.803, 0.812]
    assert (table["cases"] == 2).all()  # six cases over five folds: fold 0 has two
    # Two members. Four steps of the whole chain, one from T' = 300; TDPM's prior is one more for each member, a
    # pre-segmentation one for all, and so is the Probabilistic U-Net however many masks are drawn from it.
    assert table["network_evaluations"].tolist() == [1, 1, 1, 2, 1, 8, 4, 3, 3]
    assert (table["samples"] == [1, 1, 1, *[2] * 6]).all()
    assert (table["seconds_per_case"] > 0).all()
    assert ((table["dice_low"] <= table["dice"]) & (table["dice"] <= table["dice_high"])).all()
    difference = table["dice"] - table.loc["PD-DDPM", "dice"]
    np.testing.assert_allclose(table["dice_difference"].drop("PD-DDPM"), difference.drop("PD-DDPM"), atol=1e-5)
    page = (finished / "results" / "table1.md").read_text(encoding="utf-8")
    assert "Demo scale" in page
    assert "[0.812]" in page
    groups = exhibit(finished, "table1_groups")
    assert set(groups["method"]) == set(ROWS)


def test_table2_starts_from_the_zero_mask_and_early_checkpoints(finished: Path) -> None:
    table = exhibit(finished, "table2")
    assert table["presegmentation"].tolist() == ["No lesion", *(f"AttUNet (early {n})" for n in (1, 2, 3)), "AttUNet"]
    assert table["presegmentation_dice"].iloc[0] == 0
    ours = exhibit(finished, "table1").set_index("method")["dice"]
    assert table["presegmentation_dice"].iloc[-1] == ours["AttUNet"]
    assert table["dice"].iloc[-1] == ours["PD-DDPM"]
    assert table["dice_paper"].tolist() == [0.353, 0.790, 0.795, 0.798, 0.812]
    card = json.loads((finished / "results/phantom/networks/attunet/split-0_seed-0/model.json").read_text(encoding="utf-8"))
    assert [kept["level"] for kept in card["early"]] == [0.944, 0.964, 0.982]


def test_early_checkpoints_are_other_weights_than_the_selected(finished: Path) -> None:
    from pd_ddpm.models.weights import load_weights

    folder = finished / "results/phantom/networks/attunet/split-0_seed-0"
    selected, card = load_weights(folder / "model.safetensors", folder / "model.json")
    for number, kept in enumerate(card["early"], 1):
        early, _ = load_weights(folder / "early.safetensors", folder / "model.json", f"early-{number}")
        assert early.keys() == selected.keys()
        same = all(np.array_equal(early[name], selected[name]) for name in selected)
        assert same == (kept["step"] == card["selected_step"])


def test_uncertainty_and_claims_are_reported_for_what_was_run(finished: Path) -> None:
    table = exhibit(finished, "uncertainty").set_index("method")
    assert list(table.index) == [*ROWS, "Inter-rater"]
    assert table.loc[STOCHASTIC, "error_auroc_variance"].between(0, 1).all()
    assert table.loc[ROWS[:3], "error_auroc_variance"].isna().all()
    assert table.loc[ROWS, "brier"].between(0, 1).all()
    assert (table.loc[ROWS, "raters"] == 2).all()
    assert table.loc[ROWS, "ged_squared"].between(0, 2).all()
    assert 0.4 < table.loc["Inter-rater", "dice"] < 1
    claims = exhibit(finished, "claims")
    assert set(claims["verdict"]) <= {"holds", "does not hold", "undecided at this scale"}
    assert len(claims) >= 10
    # After twelve steps no ensemble finds a lesion: there is no spread that could shrink.
    assert claims.set_index("claim")["effect"].drop("spread_shrinks_with_size").notna().all()


def test_figures_come_with_the_numbers_that_they_show(finished: Path) -> None:
    for name in ("fig2_uncertainty", "fig3_tprime", "fig4_ensemble", "pareto"):
        assert (finished / "results" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (finished / "results" / f"{name}.png").stat().st_size > 10_000
    curve = exhibit(finished, "fig4_ensemble")
    assert curve["size"].tolist() == [1, 2, 3, 4]
    assert curve["subsets"].tolist() == [4, 6, 4, 1]
    ours = exhibit(finished, "table1").set_index("method")
    front = exhibit(finished, "pareto")
    assert front["on_front_evaluations"].any()
    own = front[(front["method"] == "pd-ddpm") & (front["members"] == 2)]
    assert own["network_evaluations"].item() == ours.loc["PD-DDPM", "network_evaluations"]
    pixels = exhibit(finished, "fig2_uncertainty")
    assert pixels["case"].nunique() == 2


def test_every_network_prediction_and_table_says_how_it_came_about(finished: Path) -> None:
    made = exhibit(finished, "provenance")
    shown = {path.stem for path in (finished / "results").glob("*.json")}
    assert set(made.loc[made["kind"] == "exhibit", "name"]) == shown
    assert {"table1", "table2", "uncertainty", "claims", "fig2_uncertainty", "fig3_tprime", "fig4_ensemble", "pareto"} <= shown
    runs = made[made["kind"] != "exhibit"]
    assert runs["kind"].value_counts().to_dict() == {"prediction": 21, "network": 7}
    assert (runs["precision"] == "float32").all()
    assert runs[["config", "code", "device", "seed", "seconds", "torch", "python"]].notna().all(axis=None)
    assert made["config"].nunique() == 1
    for kind, name in (("network", "train"), ("prediction", "sample")):
        assert set(runs.loc[runs["kind"] == kind, "code"]) == {code_version(finished / "workflow/scripts" / f"{name}.py")}
    table = json.loads((finished / "results" / "table1.json").read_text(encoding="utf-8"))
    behind = [run["file"].split("/")[1:3] for run in table["made_from"]["runs"]]
    assert [kind for kind, _ in behind] == ["networks"] * 7 + ["predictions"] * 9
    assert table["made_from"]["summary"]["mixed"] == []
    for record in (finished / "results").rglob("*.json"):
        text = record.read_text(encoding="utf-8")
        assert not [folder for folder in (finished, ROOT) if str(folder) in text], record
    assert "All of one configuration" in (finished / "results" / "provenance.html").read_text(encoding="utf-8")


def test_members_of_the_pool_begin_with_those_of_the_tables(finished: Path, tmp_path: Path) -> None:
    """Fig. 4's pool of four is drawn once; its first two members are what a pool of two would hold."""
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


def test_a_tenth_method_is_a_line_of_configuration(finished: Path, tmp_path: Path) -> None:
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
    table = exhibit(folder, "table1").set_index("method")
    assert table.index[-1] == "PD-DDPM (U-Net)"
    assert table.loc["PD-DDPM (U-Net)", "network_evaluations"] == 3


def test_figure_3_shows_the_grid_and_its_numbers(finished: Path) -> None:
    numbers = exhibit(finished, "fig3_tprime")
    assert sorted(numbers["t_start"].dropna()) == [100, 300, 500, 1000]
    assert set(numbers.loc[numbers["t_start"].isna(), "label"]) == {"AttUNet", "Vanilla DDPM"}


def test_predictions_lie_on_the_scans_own_grid(finished: Path) -> None:
    splits = pd.read_csv(finished / "results/phantom/splits.csv")
    case = splits.query("role == 'test'")["case"].iloc[0]
    cases = pd.read_csv(finished / "results/phantom/cases.csv").set_index("case")
    flair = nibabel.load(finished / cases.loc[case, "FLAIR"])
    for method, members in (("attunet", 1), ("pd-ddpm", 4)):
        folder = finished / "results/phantom/predictions" / method / "split-0_seed-0"
        for name, shape in (("samples", (*flair.shape, members)), ("mask", flair.shape), ("uncertainty", flair.shape)):
            image = nibabel.load(folder / f"{case}_{name}.nii.gz")
            assert image.shape in (shape, flair.shape if members == 1 else shape)
            np.testing.assert_allclose(image.affine, flair.affine, atol=1e-4)
        samples = nibabel.load(folder / f"{case}_samples.nii.gz").get_fdata()
        assert 0 <= samples.min() <= samples.max() <= 1


def test_a_second_run_finds_nothing_to_do(finished: Path) -> None:
    assert jobs(snakemake(finished, "-n", "--configfile", "small.yaml")) == {}


def test_comments_re_run_nothing_and_constants_what_uses_them(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(finished, folder, symlinks=True)
    for path in (
        folder / "src/pd_ddpm/samplers.py",
        folder / "workflow/scripts/sample.py",
        folder / "workflow/scripts/train.py",
    ):
        path.write_text(path.read_text(encoding="utf-8") + "\n# a remark\n", encoding="utf-8")
    assert jobs(snakemake(folder, "-n", "--configfile", "small.yaml")) == {}

    edit(folder / "src/pd_ddpm/samplers.py", "if s > 0 and", "if s > 1 and")
    after = jobs(snakemake(folder, "-n", "--configfile", "small.yaml"))
    assert after["sample"] == 21
    assert "train" not in after
    assert "prepare" not in after


def test_a_lost_prediction_is_the_only_one_drawn_again(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lost"
    shutil.copytree(finished, folder, symlinks=True)
    drawn = folder / "results/phantom/predictions/ddpm/split-0_seed-0"
    record = next(drawn.glob("*.json"))
    before = json.loads(record.read_text(encoding="utf-8"))
    (drawn / "predictions.csv").unlink()
    run = snakemake(folder, str((drawn / "predictions.csv").relative_to(folder)), "--configfile", "small.yaml")
    assert run.returncode == 0, run.stdout + run.stderr
    assert json.loads(record.read_text(encoding="utf-8")) == before  # taken up, its time included


def test_a_damaged_prediction_is_drawn_again(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(finished, folder, symlinks=True)
    drawn = folder / "results/phantom/predictions/attunet/split-0_seed-0"
    mask = next(drawn.glob("*_mask.nii.gz"))
    whole = mask.read_bytes()
    mask.write_bytes(whole[:100])
    (drawn / "predictions.csv").unlink()
    run = snakemake(folder, str((drawn / "predictions.csv").relative_to(folder)), "--configfile", "small.yaml")
    assert run.returncode == 0, run.stdout + run.stderr
    assert mask.read_bytes() == whole


def test_what_changes_no_result_re_runs_nothing_and_a_further_split_leaves_the_first(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "further"
    shutil.copytree(finished, folder, symlinks=True)
    for harmless in ("save_every_seconds: 9\n", "device: auto\n", "changed_training: restart\n"):
        (folder / "more.yaml").write_text(harmless, encoding="utf-8")
        assert jobs(snakemake(folder, "-n", "--configfile", "small.yaml", "more.yaml")) == {}
    (folder / "more.yaml").write_text("splits: [0, 1]\n", encoding="utf-8")
    run = snakemake(folder, "-n", "--configfile", "small.yaml", "more.yaml")
    planned = jobs(run)
    assert (planned["train"], planned["sample"]) == (7, 21)
    assert "split" not in planned
    assert "networks/denoiser/split-1_seed-0" in run.stdout + run.stderr


def test_number_formats_are_tested_once_for_each_network_where_they_may_be_used(finished: Path, fresh: Path) -> None:
    target = "results/table1.csv"
    planned = jobs(snakemake(finished, "-n", "--forceall", target, "--configfile", "small.yaml"))  # precision: float32
    assert "gate" not in planned
    (fresh / "auto.yaml").write_text("sampling: {precision: auto}\n", encoding="utf-8")
    planned = jobs(snakemake(fresh, "-n", target, "--configfile", "small.yaml", "auto.yaml"))
    assert (planned["gate"], planned["train"], planned["sample"]) == (7, 7, 9)
    assert "sample_shard" not in planned


def test_cases_are_dealt_out_among_shards_and_another_number_re_runs_nothing(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(finished, folder, symlinks=True)
    (folder / "more.yaml").write_text("sampling: {shards: 3}\n", encoding="utf-8")
    files = ("--configfile", "small.yaml", "more.yaml")
    assert jobs(snakemake(folder, "-n", *files)) == {}  # it was drawn in one

    drawn = "results/phantom/predictions/pd-ddpm/split-0_seed-0"
    shutil.rmtree(folder / drawn)
    run = snakemake(folder, f"{drawn}/predictions.csv", *files)
    assert run.returncode == 0, run.stdout + run.stderr
    images = [path.name for path in (finished / drawn).glob("*.nii.gz")]
    assert len(images) == 2 * 3
    for name in images:
        assert (folder / drawn / name).read_bytes() == (finished / drawn / name).read_bytes()
    times = folder / "results/benchmarks/sample/phantom/pd-ddpm/split-0_seed-0"
    assert sorted(path.name for path in times.iterdir()) == [f"shard-{shard}-of-3.tsv" for shard in (1, 2, 3)]
    for number in (1, 2, 3):
        (folder / "more.yaml").write_text(f"sampling: {{shards: {number}}}\n", encoding="utf-8")
        assert jobs(snakemake(folder, "-n", f"{drawn}/predictions.csv", *files)) == {}


def test_an_edited_case_table_is_read_again(fresh: Path) -> None:
    small_cohort(fresh)
    target = "results/own/splits.csv"
    assert snakemake(fresh, target, "--configfile", "own.yaml").returncode == 0
    assert jobs(snakemake(fresh, "-n", target, "--configfile", "own.yaml")) == {}
    assert (fresh / "results/own/check.csv").read_text(encoding="utf-8").startswith("severity,case,file,finding,remedy")
    edit(fresh / "src/pd_ddpm/check.py", "_LISTED = 8", "_LISTED = 9")
    assert jobs(snakemake(fresh, "-n", target, "--configfile", "own.yaml")) == {"check": 1}  # and nothing after it
    edit(fresh / "own.csv", "p0,s,", "p0,elsewhere,")
    assert jobs(snakemake(fresh, "-n", target, "--configfile", "own.yaml")) == {"list_cases": 1, "check": 1, "split": 1}


def test_demo_is_what_a_bare_snakemake_plans(fresh: Path) -> None:
    run = snakemake(fresh, "-n")
    planned = jobs(run)
    assert planned["simulate_phantom"] == 1
    assert planned["train"] == 7
    for name in ("table1", "table2", "fig2_uncertainty", "fig3_tprime", "fig4_ensemble", "pareto", "uncertainty", "claims"):
        assert (planned[name], planned[f"publish_{name}"]) == (1, 1)


def outputs(run: subprocess.CompletedProcess[str], kind: str) -> list[str]:
    """Where a dry run would make networks or predictions, "networks/denoiser/split-0_seed-0", as often as it is planned."""
    lines = [line.strip() for line in (run.stdout + run.stderr).splitlines() if line.strip().startswith("output: ")]
    made = [line.removeprefix("output: ").split(",")[0].strip() for line in lines]
    made = [path for path in made if not path.endswith("precision.json")]  # a verdict on a network is none
    return [str(Path(path).parent).split("/", 2)[2] for path in made if f"/{kind}/" in path]


def test_the_slurm_profile_plans_the_paper_and_shares_what_can_be_shared(fresh: Path) -> None:
    run = snakemake(fresh, "-n", "--cores", "8", "--profile", "slurm")
    planned = jobs(run)
    assert "simulate_phantom" not in planned
    # Seven networks for nine methods and five splits. One denoiser for vanilla DDPM, ES-DDPM and PD-DDPM at every T'.
    assert planned["train"] == len(outputs(run, "networks")) == len(set(outputs(run, "networks"))) == 35
    denoisers = [path for path in outputs(run, "networks") if "denoiser" in path]
    assert len([path for path in denoisers if path.startswith("networks/denoiser/")]) == 5
    assert len(denoisers) == 10  # and TDPM's own
    # Table 1: 9. Fig. 3: 9 more, since T' = 300 is Table 1's. Table 2: 3 early AttUNets and 4 chains, the best is Table 1's.
    # Pareto: 6 respaced chains from noise and 6 from each of three T'; the others are there. Fig. 4 and Fig. 2: none.
    assert planned["sample"] == 5 * (9 + 9 + 7 + 24)
    drawn = outputs(run, "predictions")
    assert len(drawn) == len(set(drawn)) == planned["sample"]
    for split in range(5):
        assert drawn.count(f"predictions/pd-ddpm/split-{split}_seed-0") == 1
    assert "results/wmh/" in run.stdout + run.stderr
    keys = {line.split(":")[0] for line in (ROOT / "profiles/default/config.yaml").read_text(encoding="utf-8").splitlines()}
    own = {line.split(":")[0] for line in (ROOT / "slurm/config.yaml").read_text(encoding="utf-8").splitlines()}
    assert {key for key in keys & own if key.strip() and not key.startswith("#")} == set()


def test_no_limit_of_this_machine_cuts_what_a_cluster_is_asked_for(fresh: Path) -> None:
    (fresh / "two.yaml").write_text("resources: {sample: {gpu: 2}}\n", encoding="utf-8")
    target = "results/phantom/scores/unet/split-0_seed-0.csv"
    arguments = ("--cores", "8", "--profile", "slurm", "--config", "scale=demo", "--configfile", "two.yaml")
    run = snakemake(fresh, "-n", target, *arguments)
    assert "gpu=2, gpu_jobs=1" in run.stdout + run.stderr


def test_scale_is_said_on_the_command_line_too(fresh: Path) -> None:
    assert "simulate_phantom" not in jobs(snakemake(fresh, "-n", "--config", "scale=paper"))
    assert "simulate_phantom" in jobs(snakemake(fresh, "-n", "--cores", "8", "--profile", "slurm", "--config", "scale=demo"))


def test_held_out_cases_are_locked_until_all_choices_are_made(fresh: Path) -> None:
    for target in ("results/held_out.csv", "results/wmh-held-out/cases.csv", "results/wmh-held-out/exhibits/fig3_tprime.pdf"):
        message = error(snakemake(fresh, "-n", target, "--config", "scale=paper"))
        assert "`datasets.wmh-held-out`: its cases are held out and locked" in message
        assert "Set `evaluate_held_out: true` once all choices are made" in message
    locked = snakemake(fresh, "-n", "--config", "scale=paper")
    assert "wmh-held-out" not in locked.stdout + locked.stderr
    (fresh / "open.yaml").write_text("evaluate_held_out: true\n", encoding="utf-8")
    run = snakemake(fresh, "-n", "--configfile", "open.yaml", "--config", "scale=paper")
    planned, before = jobs(run), jobs(locked)
    assert planned["train"] == before["train"] == 35
    assert planned["sample"] - before["sample"] == 5 * 9
    more = {"download_wmh-held-out", "publish_held_out"}
    assert planned.keys() - before.keys() == more
    assert planned["table1"] == planned["split"] == 2
    assert "results/wmh-held-out/networks" not in run.stdout + run.stderr


def test_a_second_cohort_is_tested_by_the_networks_of_the_first(fresh: Path) -> None:
    (fresh / "second.yaml").write_text(
        "datasets: {second: {like: phantom, folder: data/second, simulate: {seed: 7}, networks_of: phantom}}\n",
        encoding="utf-8",
    )
    files = ("--configfile", "second.yaml")
    run = snakemake(fresh, "-n", "results/second/exhibits/table1.csv", *files)
    planned = jobs(run)
    assert (planned["train"], planned["sample"]) == (7, 9)
    assert "results/phantom/networks/denoiser/split-0_seed-0/model.safetensors" in run.stdout + run.stderr
    assert "results/second/networks" not in run.stdout + run.stderr
    message = error(snakemake(fresh, "-n", "results/second/networks/unet/split-0_seed-0/model.json", *files))
    assert "nothing is trained on second, whose networks_of is phantom; ask for results/phantom/networks" in message


@pytest.mark.parametrize(
    ("overlay", "words"),
    [
        ("trainin: {steps: 3}", ["`trainin`: unknown key", "Did you mean 'training'"]),
        ("methods: {pd-ddpm: {t_start: 3000}}", ["`methods.pd-ddpm.t_start`: T' = 3000", "T = 1000"]),
        ("scale: papers", ["`scale`"]),
        ("exhibits: {table1: [ddpm@variance=larg]}", ["ddpm@variance=larg", "'larg' is not valid"]),
    ],
)
def test_a_wrong_configuration_stops_before_anything_runs(fresh: Path, overlay: str, words: list[str]) -> None:
    (fresh / "wrong.yaml").write_text(overlay, encoding="utf-8")
    message = error(snakemake(fresh, "-n", "--configfile", "wrong.yaml"))
    for word in words:
        assert word in message
    assert "Traceback" not in message


def test_a_method_that_cannot_be_is_refused_by_name(fresh: Path) -> None:
    target = "results/phantom/predictions/pd-ddpm@t_start=2000/split-0_seed-0/predictions.csv"
    assert "T' = 2000 is above T = 1000" in error(snakemake(fresh, "-n", target))
    target = "results/phantom/predictions/pd-ddpm@tstart=20/split-0_seed-0/predictions.csv"
    assert "Did you mean 't_start'" in error(snakemake(fresh, "-n", target))


def test_the_missing_wmh_data_say_where_to_get_them(fresh: Path) -> None:
    message = error(snakemake(fresh, "results/wmh/cases.csv", "--config", "scale=paper"))
    assert "datasets.wmh.folder" in message
    assert "10.34894/AECRSD" in message
    assert not (fresh / "results/wmh/cases.csv").exists()


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(change(np.asarray(image.dataobj).copy()), image.affine), path)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda case: (case / "T1.nii.gz").unlink(), ["p3/T1.nii.gz"]),
        (lambda case: flip_a_bit(case / "FLAIR.nii.gz"), ["p3/FLAIR.nii.gz"]),
        (lambda case: rewrite(case / "FLAIR.nii.gz", lambda a: np.where(a > 150, np.nan, a)), ["p3/FLAIR.nii.gz", "NaN"]),
        (
            lambda case: rewrite(case / "mask.nii.gz", lambda a: a[:-2]),
            ["p3/mask.nii.gz", "shape", "(68, 84, 24)", "(70, 84, 24)"],
        ),
        (lambda case: rewrite(case / "mask.nii.gz", lambda a: a * 3), ["p3/mask.nii.gz", "3"]),
    ],
    ids=["missing", "corrupt gzip", "NaN", "shape", "label"],
)
def test_a_bad_scan_stops_the_run_and_is_named(fresh: Path, damage: Callable[[Path], None], words: list[str]) -> None:
    small_cohort(fresh, damage)
    message = error(snakemake(fresh, "results/own/cases/prepared.csv", "--configfile", "own.yaml"))
    for word in words:
        assert word in message
    assert "Traceback" not in message


SMALL_TRAINING = """\
splits: [0]
seeds: [0]
device: cpu
grid: {spacing_mm: 4.0}
folds: {count: 5}
training: {batch: 2, crop: [16, 16], validate_every: 5, validation_slices: 4, precision: float32}
networks: {unet: {channels: [4, 4, 4, 4, 4], steps: 10}}
save_every_seconds: 0.1
resources: {train: {gpu: 0, mem_mb: 2000, runtime: 30, threads: 1}}
"""

# What the interpreter of each job runs at its start: the disk is full once, when the card of the network is put in place.
FULL_ONCE = """\
import os
whole = os.replace
def replace(source, target, **more):
    if str(target).endswith("model.json") and os.path.exists("full"):
        os.unlink("full")
        raise OSError(28, "No space left on device")
    return whole(source, target, **more)
os.replace = replace
"""


def test_a_training_that_fails_loses_its_outputs_but_not_its_state_and_the_retry_goes_on(fresh: Path) -> None:
    small_cohort(fresh)
    (fresh / "training.yaml").write_text(SMALL_TRAINING + "retries: 1\n", encoding="utf-8")
    (fresh / "src" / "sitecustomize.py").write_text(FULL_ONCE, encoding="utf-8")
    (fresh / "full").touch()
    run = "networks/unet/split-0_seed-0"
    target = f"results/own/{run}/model.safetensors"
    done = snakemake(fresh, target, "--configfile", "own.yaml", "training.yaml", "--config", "scale=paper")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "model.json: there is no room for it" in said
    assert "Removing output files of failed job train" in said  # the weights among them, which were written
    assert target in said.split("Removing output files of failed job train")[1].split("\n\n")[0]
    log = (fresh / "results/logs/train/own" / f"{run.removeprefix('networks/')}.log").read_text(encoding="utf-8")
    assert f"continuing after step 10 of 10 from work/own/{run}" in log
    assert not (fresh / "full").exists()
    assert (fresh / target).exists()
    assert len(list((fresh / "work/own" / run).glob("*/finished.json"))) == 1


def test_a_gpu_that_is_not_there_is_missed_before_data_are_prepared(fresh: Path) -> None:
    small_cohort(fresh)
    arguments = ("--configfile", "own.yaml", "--config", "device=cuda:7")
    message = error(snakemake(fresh, "results/own/networks/unet/split-0_seed-0/model.json", *arguments))
    assert "config key 'device' is 'cuda:7', but" in message
    assert not (fresh / "results/own/cases.csv").exists()
    table = snakemake(fresh, "results/own/cases.csv", *arguments)  # which needs no network
    assert table.returncode == 0, table.stdout + table.stderr
