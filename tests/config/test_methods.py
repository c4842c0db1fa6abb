"""What the exhibits need of methods: ensemble sizes, variations, datasets of held-out cases."""

from configurations import paper_configuration

from pd_ddpm.config import exhibits, methods, resolve
from pd_ddpm.config.resolve import overlay
from pd_ddpm.config.validate import validate


def test_pool_is_that_of_figure_4_for_its_method_only(paper: dict) -> None:
    assert methods.pool(paper, "pd-ddpm") == paper["exhibits"]["fig4_ensemble"]["pool"]
    assert methods.pool(paper, "pd-ddpm@t_start=300") == methods.pool(paper, "pd-ddpm")
    assert methods.pool(paper, "pd-ddpm@t_start=50") == 5
    assert methods.pool(paper, "attunet") == 1
    assert methods.pool(paper, "pd-ddpm@samples=20") == 20


def test_pareto_methods_have_each_number_of_steps_once(paper: dict) -> None:
    figure = {"t_start": [10, 300], "reverse_steps": {"ancestral": [1000, 100, 90], "ddim": [100]}}
    names = methods.pareto_methods(overlay(paper, {"exhibits": {"pareto": figure}}))
    small = "@variance=small"  # a long jump with the large variance is no fair rival
    respaced = [f"ddpm@reverse_steps={steps}{small}" for steps in (100, 90)]
    assert names[:4] == ["ddpm", *respaced, "ddpm@reverse_steps=100@sampler=ddim"]
    # From T' = 10, 100 and 90 steps are one step both, which ddim takes as well, and which adds no noise.
    assert [name for name in names if "t_start=10" in name] == ["pd-ddpm@t_start=10", "pd-ddpm@reverse_steps=100@t_start=10"]
    assert "pd-ddpm" in names
    permitted = overlay(paper, {"exhibits": {"pareto": figure}, "sampling": {"large_variance_over_jumps": True}})
    assert not [name for name in methods.pareto_methods(permitted) if small in name]


def test_grid_members_concern_samplings_only(paper: dict) -> None:
    coarse = overlay(paper, {"grid": {"spacing_mm": 2.0}})
    soft = overlay(coarse, {"grid": {"members": "soft"}})
    assert methods.training_grid(coarse, "unet") == methods.training_grid(soft, "unet")
    assert "members" not in methods.training_grid(coarse, "unet")
    for name in ("unet", "ddpm", "pd-ddpm"):
        assert methods.sampling_settings(coarse, name)["grid_members"] == "auto"
        assert methods.sampling_settings(soft, name)["grid_members"] == "soft"


def test_grid_members_are_soft_by_default_on_the_pixels_of_the_scan(paper: dict) -> None:
    soft, binary = (overlay(paper, {"grid": {"members": members}}) for members in ("soft", "binary"))
    assert methods.grid_members(paper, "unet") == methods.grid_members(soft, "unet") == "soft"
    assert methods.grid_members(binary, "unet") == "binary"


def test_a_network_overrides_single_keys_of_the_grid() -> None:
    """Only what depends on this network changes: its training, its sampling, and samplings that start from its masks."""
    networks = {"denoiser": {"validation_presegmenter": None}}  # whose images 'attunet' would segment in training
    plain = paper_configuration(networks=networks)
    config = paper_configuration(networks=networks | {"attunet": {"grid": {"spacing_mm": 2}}})
    assert methods.network_grid(config, "attunet") == plain["grid"] | {"spacing_mm": 2.0}
    assert methods.training_grid(config, "attunet") == methods.training_grid(plain, "unet") | {"spacing_mm": 2.0}
    assert methods.training_settings(config, "attunet", "wmh") == methods.training_settings(plain, "attunet", "wmh")
    assert methods.training_grid(config, "unet") == methods.training_grid(plain, "unet")
    changed = {"attunet": {"grid_members": "auto"}, "pd-ddpm": {"start_from_same_grid": False}, "es-ddpm": {}, "unet": {}}
    for name, keys in changed.items():
        assert methods.sampling_settings(config, name) == methods.sampling_settings(plain, name) | keys
    assert methods.sampling_settings(plain, "pd-ddpm")["start_from_same_grid"]
    padded = paper_configuration(networks={"attunet": {"grid": {"padded_size": [256, 256]}}})
    assert methods.sampling_settings(padded, "pd-ddpm") == methods.sampling_settings(paper_configuration(), "pd-ddpm")


def test_grids_that_equal_the_section_belong_to_no_network() -> None:
    denoiser = {"grid": {"margin_mm": 3}, "validation_presegmenter": None}
    networks = {"unet": {"grid": {"spacing_mm": None}}, "attunet": {"grid": None}, "denoiser": denoiser}
    config = paper_configuration(networks=networks)
    owners = {name: methods.grid_owner(config, name) for name in config["networks"]}
    assert owners == dict.fromkeys(config["networks"]) | {"denoiser": "denoiser", "truncated-denoiser": "denoiser"}


def test_sampling_settings_hold_no_permission(paper: dict) -> None:
    permitted = overlay(paper, {"sampling": {"large_variance_over_jumps": True}})
    assert methods.sampling_settings(permitted, "pd-ddpm") == methods.sampling_settings(paper, "pd-ddpm")
    assert methods.sampling_settings(paper, "pd-ddpm")["variance"] == "large"


def test_pool_of_a_presegmentation_follows_the_members_that_start_from_it(paper: dict) -> None:
    config = overlay(paper, {"exhibits": {"fig4_ensemble": {"method": "es-ddpm", "pool": 12}}})
    validate(config)
    assert methods.pool(config, "es-ddpm") == methods.pool(config, "probabilistic-unet") == 12
    assert resolve.method(config, "probabilistic-unet")["samples"] == 5


def test_table2_methods_go_from_no_lesion_to_the_papers_presegmentation(paper: dict) -> None:
    rows = methods.table2_methods(paper)
    assert rows[0] == ("zero", "pd-ddpm@presegmentation=zero")
    assert rows[-1] == ("attunet", "pd-ddpm")
    assert len(rows) == 5


def test_locked_gives_a_reason_until_evaluate_held_out_is_true(paper: dict) -> None:
    config = validate(paper)
    assert methods.networks_from(config, "wmh-held-out") == methods.networks_from(config, "wmh") == "wmh"
    assert methods.held_out(config) == "wmh-held-out"
    assert methods.held_out(config | {"dataset": "wmh-held-out"}) is None
    assert methods.locked(config, "wmh") is None
    assert "Set `evaluate_held_out: true` once all choices are made" in methods.locked(config, "wmh-held-out")
    assert methods.locked(config | {"evaluate_held_out": True}, "wmh-held-out") is None


def with_means(**changes: object) -> dict:
    mean = {"label": "Mean of both", "segmenter": "mean", "mean_of": ["pd-ddpm@t_start=500", "attunet"], "denoiser": None}
    return paper_configuration(networks={"other": {"like": "denoiser"}}, methods={"mean": mean | changes})


def test_averaged_methods_sample_from_the_denoiser_that_the_name_of_the_mean_gives() -> None:
    config = with_means()
    assert methods.averaged_methods(config, "mean") == ["pd-ddpm@t_start=500", "attunet"]
    varied = methods.averaged_methods(config, "mean@denoiser=other")
    assert varied == ["pd-ddpm@network=other@t_start=500", "attunet"]
    assert methods.averaged_methods(config, "pd-ddpm") == []
    assert methods.mean_methods(config) == ["mean"]
    assert resolve.canonical(config, "mean@denoiser=null") == "mean"


def test_methods_before_are_averaged_ones_and_their_presegmentations() -> None:
    config = with_means(mean_of=["pd-ddpm", "unet"])
    assert methods.methods_before(config, "mean") == ["pd-ddpm", "unet", "attunet"]
    assert methods.methods_before(config, "pd-ddpm") == ["attunet"]
    assert methods.methods_before(config, "unet") == []


def test_pool_of_a_mean_is_that_of_its_largest_ensemble() -> None:
    assert methods.pool(with_means(), "mean") == 5
    assert methods.pool(with_means(mean_of=["pd-ddpm@samples=7", "attunet"]), "mean") == 7
    assert methods.pool(with_means(mean_of=["unet", "attunet"]), "mean") == 1


def test_networks_of_a_mean_are_those_of_the_methods_that_it_averages() -> None:
    config = with_means()
    users = exhibits.network_users(config, ["pd-ddpm", "mean@denoiser=other"])
    assert users == {"denoiser": "PD-DDPM", "other": "Mean of both", "attunet": "Mean of both"}
    shown = config["exhibits"] | {"table1": [*config["exhibits"]["table1"], "mean"]}
    planned = exhibits.planned_methods(config | {"exhibits": shown})
    assert {"mean", "pd-ddpm@t_start=500", "attunet"} <= set(planned)
