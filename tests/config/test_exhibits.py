"""Files, rows, labels and captions of tables and figures, as functions of a configuration."""

from typing import Any

import pytest
from configurations import paper_configuration
from workflow_runs import ROOT

from pd_ddpm.config import exhibits, load, methods
from pd_ddpm.config.errors import ConfigError
from pd_ddpm.config.resolve import Config
from pd_ddpm.config.run import Run
from pd_ddpm.config.validate import validate

TABLE1 = ["unet", "attunet", "unet-plus-plus", "bayesian-unet", "probabilistic-unet", "ddpm", "tdpm", "es-ddpm", "pd-ddpm"]


@pytest.fixture(scope="module")
def paper() -> Config:
    return paper_configuration()


def test_every_exhibit_has_a_record_and_its_own_files(paper: Config) -> None:
    available = exhibits.available_exhibits(paper)
    files = [file for exhibit in available.values() for file in exhibit.files]
    assert len(set(files)) == len(files)
    assert all(exhibit.files[-1] == f"{name}.json" for name, exhibit in available.items())
    assert available["table1"].files == (
        *("table1.html", "table1.csv", "table1.md", "table1.tex", "table1_groups.csv", "table1.json"),
    )
    assert [file.replace("held_out", "table1") for file in available["held_out"].files] == list(available["table1"].files)
    assert {exhibit.category for exhibit in available.values()} == {"Tables", "Figures"}


def test_held_out_cases_are_an_exhibit_only_after_they_are_unlocked(paper: Config) -> None:
    assert "held_out" not in exhibits.default_exhibits(paper)
    assert "held_out" in exhibits.default_exhibits(paper_configuration(evaluate_held_out=True))
    assert "held_out" not in exhibits.available_exhibits(paper_configuration(dataset="wmh-held-out"))


def test_runs_have_every_split_and_seed_once() -> None:
    config = paper_configuration(splits=[0, 2], seeds=[0, 1])
    runs = exhibits.method_runs(config, "wmh", ["pd-ddpm", "pd-ddpm@t_start=300", "pd-ddpm@t_start=50"])
    names = [(run.name, run.split, run.seed) for run in runs]
    pairs = [(0, 0), (0, 1), (2, 0), (2, 1)]
    assert names == [(name, *pair) for name in ("pd-ddpm", "pd-ddpm@t_start=50") for pair in pairs]
    assert {run.dataset for run in runs} == {"wmh"}
    assert exhibits.runs(config, "wmh", ["unet"]) == [Run("wmh", "unet", *pair) for pair in pairs]


def test_first_runs_are_the_rows_of_table_1() -> None:
    config = paper_configuration(splits=[3, 0], seeds=[7, 1])
    assert exhibits.first_runs(config, "wmh") == [Run("wmh", name, 3, 7) for name in TABLE1]


def test_label_of_a_variation_lists_what_it_overrides(paper: Config) -> None:
    names = ["pd-ddpm@t_start=300", "pd-ddpm@t_start=50", "ddpm@sampler=ddim@reverse_steps=20"]
    assert exhibits.labels(paper, names) == {
        "pd-ddpm": "PD-DDPM",
        "pd-ddpm@t_start=50": "PD-DDPM (t_start=50)",
        "ddpm@reverse_steps=20@sampler=ddim": "Vanilla DDPM (reverse_steps=20, sampler=ddim)",
    }


def test_figure_3_has_its_curve_the_presegmentation_and_the_whole_chain(paper: Config) -> None:
    curve = methods.figure3_methods(paper)
    assert len(curve) == 10
    assert exhibits.figure3_methods(paper) == [*curve, "attunet", "ddpm"]
    points = exhibits.figure3_points(paper)
    assert [point["method"] for point in points] == exhibits.figure3_methods(paper)
    assert {point["label"] for point in points[:10]} == {"PD-DDPM"}
    assert [(point["t_start"], point["step_size"]) for point in points[:2]] == [(50, 1.0), (100, 1.0)]
    assert points[10] == {"method": "attunet", "label": "AttUNet", "t_start": None}
    level = {"method": "ddpm", "label": "Vanilla DDPM", "t_start": None, "reverse_steps": 1000, "step_size": 1.0}
    assert points[11] == level


@pytest.mark.parametrize(("reverse_steps", "sizes"), [(20, [50, 50, 50, 50]), (8, [50, 150, 125, 125])])
def test_figure_3_names_the_step_size_of_each_chain(reverse_steps: int, sizes: list[float]) -> None:
    grid = [50, 300, 500, 1000]
    shown = {"fig3_tprime": {"t_start": grid}, "pareto": {"reverse_steps": {"ancestral": [4], "ddim": [2]}}}
    config = paper_configuration(sampling={"reverse_steps": reverse_steps, "variance": "small"}, exhibits=shown)
    curve = [point for point in exhibits.figure3_points(config) if point["t_start"]]
    assert [point["step_size"] for point in curve] == sizes
    assert [point["reverse_steps"] * point["step_size"] for point in curve] == grid
    assert exhibits.claims_roles(config)["step_sizes"] == dict(zip(grid, sizes, strict=True))


def test_table_2_has_a_row_for_each_presegmentation(paper: Config) -> None:
    rows = [tuple(row.values()) for row in exhibits.table2_rows(paper)]
    assert rows[0] == ("No lesion", "pd-ddpm@presegmentation=zero", None, "Zero")
    assert rows[1] == ("AttUNet (early 1)", "pd-ddpm@presegmentation=attunet-early-1", "attunet-early-1", "0.754")
    assert rows[-1] == ("AttUNet", "pd-ddpm", "attunet", "0.799")
    names = exhibits.table2_methods(paper)
    assert set(names) == {name for _, *pair, _ in rows for name in pair} - {None}


def test_pareto_points_describe_the_chains_of_diffusion_methods_only(paper: Config) -> None:
    points = {point["method"]: point for point in exhibits.pareto_points(paper)}
    assert set(TABLE1) <= set(points)
    assert points["unet"] == {"method": "unet", "label": "U-Net"}
    assert points["pd-ddpm"] == {
        **{"method": "pd-ddpm", "label": "PD-DDPM", "t_start": 300, "sampler": "ancestral", "reverse_steps": 300},
    }


def test_roles_of_the_claims_are_canonical_names() -> None:
    config = paper_configuration(exhibits={"claims": {"pd_ddpm": "pd-ddpm@t_start=300", "tdpm": None}})
    roles = exhibits.claims_roles(config)
    assert (roles["pd_ddpm"], roles["vanilla"], roles["tdpm"], roles["es_ddpm"]) == ("pd-ddpm", "ddpm", None, "es-ddpm")
    assert (roles["presegmentation"], roles["ensemble"]) == ("attunet", "pd-ddpm")
    assert roles["grid"][300] == "pd-ddpm"
    assert roles["grid"][50] == "pd-ddpm@t_start=50"
    assert roles["table2"] == exhibits.table2_rows(config)
    compared = exhibits.claims_methods(config)
    assert {"pd-ddpm", "ddpm", "attunet", "es-ddpm", "pd-ddpm@presegmentation=zero"} <= set(compared)
    assert "tdpm" not in compared


def test_planned_methods_include_the_presegmentations_of_all_that_is_shown(paper: Config) -> None:
    planned = exhibits.planned_methods(paper)
    assert len(set(planned)) == len(planned) == 49
    starts = {methods.presegmentation_of(paper, name) for name in planned} - {None}
    assert starts == {"attunet", "probabilistic-unet", "attunet-early-1", "attunet-early-2", "attunet-early-3"}
    assert starts <= set(planned)
    assert exhibits.planned_networks(paper) == [
        *("unet", "attunet", "unet-plus-plus", "bayesian-unet", "probabilistic-unet", "denoiser", "truncated-denoiser"),
    ]


def test_probed_networks_are_all_denoisers_with_the_methods_that_use_them() -> None:
    assert exhibits.probed_networks(paper_configuration()) == {
        "denoiser": "Vanilla DDPM, ES-DDPM, PD-DDPM",
        "truncated-denoiser": "TDPM",
    }
    config = paper_configuration(exhibits={"table1": ["pd-ddpm"], "claims": dict.fromkeys(("vanilla", "tdpm", "es_ddpm"))})
    assert exhibits.probed_networks(config) == {"denoiser": "PD-DDPM, Vanilla DDPM"}  # the Pareto figure shows vanilla DDPM


def test_network_users_are_the_labels_of_the_methods_that_sample_from_it(paper: Config) -> None:
    names = ["attunet", "ddpm", "pd-ddpm", "pd-ddpm@t_start=50"]
    assert exhibits.network_users(paper, names) == {"attunet": "AttUNet", "denoiser": "Vanilla DDPM, PD-DDPM"}


def test_captions_name_scale_simulation_and_the_source_of_the_networks(paper: Config) -> None:
    demo = validate(load.read(None, {"scale": "demo", "grid": {"spacing_mm": None}}))
    note = exhibits.caption_note(demo, "phantom")
    assert note.startswith("Demo scale: ")
    assert note.endswith("nothing here is a result on patients.")
    assert exhibits.figure_note(demo, "phantom") == "phantom (simulated), demo scale"
    assert exhibits.caption_note(paper, "wmh") == "The configuration's paper scale."
    assert exhibits.figure_note(paper, "wmh") == "wmh, paper scale"
    note = exhibits.caption_note(paper, "wmh-held-out")
    assert "held-out cases of the WMH challenge, on which nothing was trained" in note
    assert "trained on the dataset wmh. Each case is segmented by the networks of splits 0, 1, 2, 3, 4 and every seed" in note
    assert "of split 1 and every seed" in exhibits.caption_note(paper_configuration(splits=[1]), "wmh-held-out")


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ("auto", "On larger pixels than the scan's, the members of all methods are made binary."),
        ("binary", "On them, the members of all methods are made binary."),
        ("soft", "this favours networks of a single pass"),
    ],
)
def test_captions_name_the_form_of_members_on_a_working_grid(members: str, words: str) -> None:
    note = exhibits.caption_note(paper_configuration(grid={"spacing_mm": 2.5, "members": members}), "wmh")
    assert "The networks see pixels of 2.5 mm." in note
    assert words in note


def test_captions_name_the_pixels_and_members_of_networks_with_a_grid_of_their_own() -> None:
    """Every network with other pixels is named once, with the methods that use it."""
    grid = {"spacing_mm": 2.5, "members": "binary"}
    networks = {"unet": {"grid": {"spacing_mm": None}}, "attunet": {"grid": {"members": "soft"}}}
    networks |= {name: {"validation_presegmenter": None} for name in ("denoiser", "truncated-denoiser")}
    config = paper_configuration(grid=grid, networks=networks)
    note = exhibits.caption_note(config, "wmh")
    assert " The networks see pixels of 2.5 mm. On them, the members of all methods are made binary." in note
    assert " The network of U-Net sees the scan's own pixels." in note
    assert " The network of Bayesian U-Net sees the scan's own pixels." in note
    assert " The members of AttUNet, AttUNet (early 1), AttUNet (early 2), AttUNet (early 3) keep their probabilities." in note
    assert note.count("sees") == 2
    assert exhibits.scored_grid(config) == methods.training_grid(config, "denoiser")
    assert exhibits.scored_grid(config, "unet") == methods.training_grid(config, "unet")
    volumes = {"spatial_dims": 3, "crop": [16, 16, 16], "grid": {"spacing_mm": 3.0}}
    config = paper_configuration(networks={"unet": volumes})
    assert exhibits.scored_grid(config, "unet") == methods.training_grid(config, "unet") | {"spatial_dims": 3}


# The exhibits of PatchDDM in place of PD-DDPM's, with methods of slices.
PATCH_EXHIBITS = {
    **dict.fromkeys(("table2", "fig3_tprime", "fig4_ensemble", "pareto", "probe", "claims")),
    "table1": ["ddpm", "pd-ddpm", "tdpm"],
    "fig4": {"methods": ["ddpm", "pd-ddpm"], "pool": 6, "subsets": 20},
    "fig5": {
        "method": "ddpm",
        "chains": [{"reverse_steps": 5, "pool": 8}, {"reverse_steps": 20, "pool": 5}],
        "members": [1, 2, 8],
        "subsets": 30,
    },
    "patch_claims": {"patch": "ddpm", "full_resolution": "pd-ddpm", "half_resolution": None, "few_steps": 5},
}
MEMORY = {
    "rows": [{"label": "Patches", "network": "denoiser", "trained_share": 0.5, "sampled_share": None}],
    **{"edges": [64], "image_channels": 4, "batch": 1, "measured_seconds": 1, "limit_gb": 24.0},
}
SMALL = {"variance": "small", "reverse_steps": 20}


def test_exhibits_that_are_null_are_not_computed_and_need_no_method() -> None:
    config = paper_configuration(sampling=SMALL, exhibits=PATCH_EXHIBITS)
    shown = exhibits.default_exhibits(config)
    assert list(shown) == ["table1", "uncertainty", "claims", "cost", "fig2_uncertainty", "fig4", "fig5", "training"]
    assert exhibits.planned_methods(config) == ["ddpm", "pd-ddpm", "tdpm", "ddpm@reverse_steps=5", "attunet"]
    assert (exhibits.table2_rows(config), exhibits.pareto_points(config), exhibits.figure3_points(config)) == ([], [], [])
    assert exhibits.probed_networks(config) == {}
    assert exhibits.measured_network(config) == "denoiser"
    with pytest.raises(ConfigError, match=r"`exhibits\.pareto`: it is null, so this configuration has no pareto"):
        exhibits.require_exhibit(config, "pareto")


def test_figures_4_and_5_set_how_many_members_are_stored_and_how_they_are_resampled() -> None:
    config = paper_configuration(sampling=SMALL, exhibits=PATCH_EXHIBITS)
    names = ("ddpm", "ddpm@reverse_steps=5", "pd-ddpm", "tdpm")
    assert [methods.pool(config, name) for name in names] == [6, 8, 6, 5]
    assert [methods.resampling(config, name)["hd95"] for name in names] == [True, True, True, False]
    assert methods.resampling(config, "ddpm")["subsets"] == 30
    chains = {"ddpm@reverse_steps=5": 5, "ddpm": 20}
    assert {point["method"]: point["reverse_steps"] for point in exhibits.figure5_points(config)} == chains


def test_roles_of_patchddm_are_rows_of_table_1_and_chains_of_figure_5() -> None:
    config = paper_configuration(sampling=SMALL, exhibits=PATCH_EXHIBITS)
    roles = exhibits.claims_roles(config)
    assert (roles["patch"], roles["full_resolution"], roles["half_resolution"]) == ("ddpm", "pd-ddpm", None)
    assert (roles["chains"], roles["few_steps"]) == ({5: "ddpm@reverse_steps=5", 20: "ddpm"}, 5)
    assert exhibits.claims_methods(config) == ["ddpm", "pd-ddpm"]
    assert exhibits.claims_ensembles(config) == ["ddpm", "pd-ddpm", "ddpm@reverse_steps=5"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pareto": load.read(None, {})["exhibits"]["pareto"]}, "`exhibits.pareto`: it shows resampled ensembles"),
        ({"claims": {"pd_ddpm": "pd-ddpm", "vanilla": None, "tdpm": None, "es_ddpm": None}}, "both be shown as claims.csv"),
        ({"patch_claims": PATCH_EXHIBITS["patch_claims"] | {"few_steps": 7}}, "7 is no chain of Figure 5 shorter"),
        ({"patch_claims": PATCH_EXHIBITS["patch_claims"] | {"patch": "es-ddpm"}}, "es-ddpm is not a row of Table 1"),
        ({"fig4": PATCH_EXHIBITS["fig4"] | {"methods": ["attunet"]}}, "'attunet' samples no ensemble members"),
        ({"fig5": PATCH_EXHIBITS["fig5"] | {"members": [9]}}, "9 is more than the largest pool"),
        ({"fig5": PATCH_EXHIBITS["fig5"] | {"method": "attunet"}}, "`exhibits.fig5.method`"),
        ({"fig5": PATCH_EXHIBITS["fig5"] | {"chains": [{"reverse_steps": 20, "pool": 8}] * 2}}, "[20, 20] do not grow"),
        ({"fig5": PATCH_EXHIBITS["fig5"] | {"chains": [{"reverse_steps": 20, "pool": 2}]}}, "Raise the pool to 5 or more"),
        ({"memory": MEMORY}, "`exhibits.memory.rows`: 'denoiser' is no denoiser of volumes"),
        ({"memory": MEMORY | {"rows": [MEMORY["rows"][0] | {"network": "denoise"}]}}, "Did you mean 'denoiser'"),
        (
            {"leak": load.read(ROOT / "config" / "leak.yaml", {})["exhibits"]["leak"]},
            "`exhibits.leak`: its denoisers are probed",
        ),
        ({"fig5": None}, "`exhibits.patch_claims.few_steps`: it compares chains of Figure 5"),
    ],
)
def test_contradictions_of_patchddm_exhibits_name_their_key(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        paper_configuration(sampling=SMALL, exhibits=PATCH_EXHIBITS | change)
    assert words in str(error.value)


def test_memory_table_does_not_depend_on_how_long_networks_are_trained() -> None:
    volumes = {"denoiser": {"spatial_dims": 3, "crop": [64, 64, 64], "validation_presegmenter": None, "coordinates": True}}
    only = {"table1": ["unet", "attunet"], "compared_with": "unet", "memory": MEMORY, "patch_claims": None}
    nothing = dict.fromkeys(("table2", "fig3_tprime", "fig4_ensemble", "pareto", "probe", "claims"))
    configs = [
        paper_configuration(networks={"denoiser": volumes["denoiser"] | changes}, exhibits=nothing | only)
        for changes in ({}, {"steps": 7, "learning_rate": 0.5}, {"channels": 64})
    ]
    settings, longer, narrower = (exhibits.memory_networks(config)["denoiser"] for config in configs)
    assert settings == longer
    assert settings != narrower
    assert settings["coordinates"]
    assert list(exhibits.default_exhibits(configs[0])) == [
        "table1",
        "uncertainty",
        "cost",
        "fig2_uncertainty",
        "memory",
        "training",
    ]
