"""Results of a small demo that has run end to end."""

import json
import re
from pathlib import Path
from urllib.parse import unquote

import nibabel
import numpy as np
import pandas as pd
import pytest
from workflow_runs import ROOT

from pd_ddpm.runtime.code_version import code_version

pytestmark = pytest.mark.workflow

ROWS = ["U-Net", "AttUNet", "U-Net++", "Bayesian U-Net", "Probabilistic U-Net", "Vanilla DDPM", "TDPM", "ES-DDPM", "PD-DDPM"]
STOCHASTIC = ROWS[3:]


def exhibit(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / "results" / f"{name}.csv")


def test_table1_has_a_row_per_method_and_the_printed_values(finished: Path) -> None:
    table = exhibit(finished, "table1").set_index("method")
    assert list(table.index) == ROWS
    assert table["dice"].between(0, 1).all()
    assert table["dice_paper"].tolist() == [0.787, 0.799, 0.798, 0.798, 0.792, 0.796, 0.801, 0.803, 0.812]
    assert (table["cases"] == 2).all()  # six cases over five folds: fold 0 has two
    # Two members. The whole chain has ten steps, and three from T' = 300. TDPM's prior adds one evaluation per member, and a
    # pre-segmentation one for all members. The Probabilistic U-Net has one evaluation for any number of masks.
    assert table["network_evaluations"].tolist() == [1, 1, 1, 2, 1, 20, 8, 7, 7]
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
    metadata = json.loads((finished / "results/phantom/networks/attunet/split-0_seed-0/model.json").read_text(encoding="utf-8"))
    assert [early["level"] for early in metadata["early"]] == [0.944, 0.964, 0.982]


def test_early_checkpoints_differ_from_selected_weights(finished: Path) -> None:
    from pd_ddpm.models.weights import load_weights

    folder = finished / "results/phantom/networks/attunet/split-0_seed-0"
    selected, metadata = load_weights(folder / "model.safetensors", folder / "model.json")
    for number, record in enumerate(metadata["early"], 1):
        early, _ = load_weights(folder / "early.safetensors", folder / "model.json", f"early-{number}")
        assert early.keys() == selected.keys()
        same = all(np.array_equal(early[name], selected[name]) for name in selected)
        assert same == (record["step"] == metadata["selected_step"])


def test_uncertainty_and_claims_cover_all_methods(finished: Path) -> None:
    table = exhibit(finished, "uncertainty").set_index("method")
    assert list(table.index) == [*ROWS, "Inter-rater"]
    assert table.loc[STOCHASTIC, "error_auroc_variance"].between(0, 1).all()
    assert table.loc[ROWS[:3], "error_auroc_variance"].isna().all()
    assert table.loc[ROWS, "brier"].between(0, 1).all()
    assert (table.loc[ROWS, "raters"] == 2).all()
    assert table.loc[ROWS, "ged_squared"].between(0, 2).all()
    assert 0.4 < table.loc["Inter-rater", "dice"] < 1
    claims = exhibit(finished, "claims")
    # After twelve training steps no network finds a lesion. The pre-segmentations are then equal, and no spread can shrink.
    not_run = claims[claims["verdict"] == "not run"]
    assert set(not_run["detail"]) <= {"All pre-segmentations of Table 2 have the same Dice."}
    assert set(claims["verdict"].drop(not_run.index)) <= {"holds", "does not hold", "undecided at this scale"}
    assert len(claims) >= 10
    effects = claims.drop(not_run.index).set_index("claim")["effect"]
    assert effects.drop("spread_shrinks_with_size").notna().all()


def test_figures_have_tables_of_their_values(finished: Path) -> None:
    for name in ("fig2_uncertainty", "fig3_tprime", "fig4_ensemble", "pareto", "probe", "training"):
        assert (finished / "results" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (finished / "results" / f"{name}.png").stat().st_size > 10_000
    curve = exhibit(finished, "fig4_ensemble")
    assert curve["size"].tolist() == [1, 2, 3, 4]
    assert curve["subsets"].tolist() == [4, 6, 4, 1]
    ours = exhibit(finished, "table1").set_index("method")
    front = exhibit(finished, "pareto")
    assert front["on_front_evaluations"].any()
    point = front[(front["method"] == "pd-ddpm") & (front["members"] == 2)]
    assert point["network_evaluations"].item() == ours.loc["PD-DDPM", "network_evaluations"]
    pixels = exhibit(finished, "fig2_uncertainty")
    assert pixels["case"].nunique() == 2
    probes = exhibit(finished, "probe")
    assert probes.groupby("network", sort=False)["t"].unique().map(list).to_dict() == {
        "denoiser": [1, 300, 1000],
        "truncated-denoiser": [1, 300],
    }
    assert (probes["role"] == "validation").all()
    # The likelihood skip reads the mask off x_1, however little the networks have learnt.
    first = probes[probes["t"] == 1].groupby("start")["dice"].mean()
    assert first["truth"] > 0.99
    assert first["empty"] < 0.05


def test_index_shows_every_exhibit_method_and_test_case(finished: Path) -> None:
    results = finished / "results"
    page = (results / "index.html").read_text(encoding="utf-8")
    for record in results.glob("*.json"):
        assert f'id="{record.stem}"' in page
        assert f'href="{record.name}"' in page
    addresses = set(re.findall(r'(?:href|src)="([^"#]+)"', page))
    assert all((results / address).is_file() for address in addresses)
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)[1])
    splits = pd.read_csv(results / "phantom" / "splits.csv")
    assert sorted(case["name"] for case in data["cases"]) == sorted(splits.query("split == 0 and role == 'test'")["case"])
    assert [panel["heading"] for panel in data["panels"]] == ["FLAIR", *ROWS]
    sheets = {address for case in data["cases"] for view in case["views"] for address in view["sheets"].values()}
    images = {unquote(address) for address in sheets}
    assert images == {path.relative_to(results).as_posix() for path in (results / "index_files").rglob("*.[jp][pn]g")}
    assert "http" not in page


def test_every_result_has_a_provenance_record(finished: Path) -> None:
    provenance = exhibit(finished, "provenance")
    published = {path.stem for path in (finished / "results").glob("*.json")}
    assert set(provenance.loc[provenance["kind"] == "exhibit", "name"]) == published
    assert {
        "table1",
        "table2",
        "uncertainty",
        "claims",
        "fig2_uncertainty",
        "fig3_tprime",
        "fig4_ensemble",
        "pareto",
        "probe",
        "training",
    } <= published
    runs = provenance[provenance["kind"] != "exhibit"]
    assert runs["kind"].value_counts().to_dict() == {"prediction": 21, "network": 7}
    assert (runs["precision"] == "float32").all()
    assert runs[["config", "code", "device", "seed", "seconds", "torch", "python"]].notna().all(axis=None)
    assert provenance["config"].nunique() == 1
    for kind, name in (("network", "train"), ("prediction", "sample")):
        assert set(runs.loc[runs["kind"] == kind, "code"]) == {code_version(finished / "workflow/scripts" / f"{name}.py")}
    table = json.loads((finished / "results" / "table1.json").read_text(encoding="utf-8"))
    inputs = [run["file"].split("/")[1:3] for run in table["made_from"]["runs"]]
    assert [kind for kind, _ in inputs] == ["networks"] * 7 + ["predictions"] * 9
    assert table["made_from"]["summary"]["mixed"] == []
    for record in (finished / "results").rglob("*.json"):
        text = record.read_text(encoding="utf-8")
        assert not [folder for folder in (finished, ROOT) if str(folder) in text], record
    assert "All of one configuration" in (finished / "results" / "provenance.html").read_text(encoding="utf-8")


def test_figure_3_shows_the_configured_start_timesteps(finished: Path) -> None:
    numbers = exhibit(finished, "fig3_tprime")
    assert sorted(numbers["t_start"].dropna()) == [100, 300, 500, 1000]
    assert set(numbers.loc[numbers["t_start"].isna(), "label"]) == {"AttUNet", "Vanilla DDPM"}


def test_tables_state_the_dice_of_the_ground_truth_through_the_grid(finished: Path) -> None:
    splits = pd.read_csv(finished / "results/phantom/splits.csv")
    tested = set(splits.query("split == 0 and role == 'test'")["case"])
    table = pd.read_csv(finished / "results/phantom/grid_dice.csv").set_index("case")
    soft, hard = (table.loc[sorted(tested), f"grid_dice_{kind}"].mean() for kind in ("soft", "hard"))
    for name in ("table1", "table2", "uncertainty", "claims"):
        text = (finished / "results" / f"{name}.md").read_text(encoding="utf-8")
        assert f"has a Dice of {soft:.3f}, or {hard:.3f} if it is made binary on them first." in text


def test_predictions_are_on_the_grid_of_the_scan(finished: Path) -> None:
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
