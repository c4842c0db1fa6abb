"""Equal settings give equal parameters of rules, whatever the order of keys and the types of numbers."""

import json
from typing import Any

import pytest
from configurations import reordered

from pd_ddpm.config import exhibits, load, methods, resolve
from pd_ddpm.config.inputs import cost_inputs, sampling_inputs
from pd_ddpm.config.resolve import Config, overlay
from pd_ddpm.config.run import Run
from pd_ddpm.config.validate import validate

SECTIONS = sorted(load.read(None, {"scale": "demo"}))


_PARAMETERS: dict[str, dict[str, str]] = {}


def rule_parameters(config: Config) -> dict[str, str]:
    """Return what rules take from a canonical configuration, as text in which the order of keys and 8 or 8.0 differ.

    Configurations whose own texts are equal share the result.
    """
    text = json.dumps(config)
    if text not in _PARAMETERS:
        _PARAMETERS[text] = _compute_rule_parameters(config)
    return _PARAMETERS[text]


def _compute_rule_parameters(config: Config) -> dict[str, str]:
    dataset = config["dataset"]
    planned = exhibits.planned_methods(config)
    parameters = {
        **{f"network {name}": resolve.network(config, name) for name in exhibits.planned_networks(config)},
        **{f"gate {name}": methods.gate_method(config, name, "ema") for name in exhibits.planned_networks(config)},
        **{f"method {name}": methods.sampling_settings(config, name) for name in planned},
        **{f"inputs {name}": sampling_inputs(config, Run(dataset, name, 0, 0), "out") for name in planned},
        **{f"dataset {name}": settings for name, settings in config["datasets"].items()},
        **{section: config[section] for section in ("grid", "folds", "preparation", "evaluation", "resources", "sampling")},
        **{f"exhibit {name}": config["exhibits"][name] for name in config["exhibits"]},
        "labels": exhibits.labels(config, planned),
        "figure3_points": exhibits.figure3_points(config),
        "table2_rows": exhibits.table2_rows(config),
        "pareto_points": exhibits.pareto_points(config),
        "probed_networks": exhibits.probed_networks(config),
        "claims_roles": exhibits.claims_roles(config),
        "captions": [exhibits.caption_note(config, dataset), exhibits.figure_note(config, dataset)],
        "cost": cost_inputs(config, dataset, "out"),
    }
    return {name: json.dumps(value) for name, value in parameters.items()}


def overlaid(over: Config) -> Config:
    """Return the demo's configuration below a file, in the order that Snakemake gives the keys: those of the file first."""
    config = load.read(None, {"scale": "demo"})
    return validate(overlay(overlay(over, config), over))


@pytest.fixture(scope="module")
def demo() -> dict[str, str]:
    return rule_parameters(overlaid({}))


@pytest.mark.parametrize("section", SECTIONS)
def test_equal_values_of_a_section_change_no_parameter(demo: dict[str, str], section: str) -> None:
    value = load.read(None, {"scale": "demo"})[section]
    assert rule_parameters(overlaid({section: value})) == demo
    assert rule_parameters(overlaid({section: reordered(value)})) == demo
    if isinstance(value, dict):
        for key in value:
            assert rule_parameters(overlaid({section: {key: reordered(value[key])}})) == demo, key


@pytest.mark.parametrize("path", ["training.batch", "grid.margin_mm", "networks.unet.steps", "networks.denoiser.learning_rate"])
def test_a_changed_number_changes_parameters(demo: dict[str, str], path: str) -> None:
    value = load.read(None, {"scale": "demo"})
    for key in path.split("."):
        value = value[key]
    over: Any = 2 * value
    for key in reversed(path.split(".")):
        over = {key: over}
    assert rule_parameters(overlaid(over)) != demo


def test_a_changed_label_changes_parameters_of_tables_and_figures_only(demo: dict[str, str]) -> None:
    renamed = rule_parameters(overlaid({"methods": {"unet": {"label": "Ours"}}}))
    assert {name for name in demo if renamed[name] != demo[name]} == {"labels", "pareto_points"}
