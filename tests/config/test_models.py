"""The types of the configuration's sections: what they accept, reject, and convert."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from pd_ddpm.config import load
from pd_ddpm.config.sections.root import Configuration
from pd_ddpm.config.translation import problems_from
from pd_ddpm.config.validate import validate

REMOVED = object()


PAPER = validate(load.read(None, {"scale": "paper"}))


def changed(key: str, value: Any) -> dict[str, Any]:
    """Return the paper's configuration with one key changed or removed."""
    config = json.loads(json.dumps(PAPER))  # datasets share no sections, which `like` lets them do
    *path, last = [int(part) if part.isdigit() else part for part in key.split("/")]
    section = config
    for part in path:
        section = section[part]
    if value is REMOVED:
        del section[last]
    else:
        section[last] = value
    return config


def messages(config: dict[str, Any]) -> list[str]:
    try:
        Configuration.model_validate(config)
    except ValidationError as error:
        return list(map(str, problems_from(error, Configuration)))
    return []


FAULTS = [
    # Misspelt keys, at every level.
    ("trainin", {}),
    ("training/stepz", 3),
    ("training/like", "unet"),
    ("networks/unet/T", 1000),
    ("networks/attunet/dropout", 0.5),
    ("networks/denoiser/multiplier", [1]),
    ("networks/probabilistic-unet/dice_weight", 1.0),
    ("networks/denoiser/head", "direct"),
    ("sampling/gate/slice", 3),
    ("sampling/gate/forward_error/float64", 0.1),
    ("methods/unet/samples", 3),
    ("methods/bayesian-unet/sampler", "ddim"),
    ("methods/pd-ddpm/tstart", 3),
    ("datasets/wmh/mask", "*"),
    ("datasets/wmh/download/licens", "x"),
    ("grid/spacing", 1.0),
    ("exhibits/table2/presegmentations/0/print", "x"),
    ("exhibits/pareto/reverse_steps/dpm", [3]),
    ("exhibits/claims/pd-ddpm", "pd-ddpm"),
    ("resources/train/memory", 3000),
    # Wrong types.
    ("scale", 3),
    ("splits", "all"),
    ("splits", 0),
    ("seeds/0", "a"),
    ("training", []),
    ("networks", 3),
    ("training/batch", "many"),
    ("training/batch", True),
    ("training/steps", 8.5),
    ("training/learning_rate", "1e-4"),
    ("training/gradient_clip", "none"),
    ("training/crop", 128),
    ("networks/denoiser/scale_shift", "no"),
    ("networks/denoiser/scale_shift", 1),
    ("networks/denoiser/channels", [128]),
    ("networks/unet/channels", 64),
    ("networks/unet/label", "U-Net"),
    ("methods/pd-ddpm/label", 3),
    ("methods/pd-ddpm/network", None),
    ("datasets/wmh/download/version", 1.0),
    ("datasets/wmh/channels", "FLAIR"),
    ("evaluate_held_out", "yes"),
    ("exhibits/fig3_tprime/t_start", 50),
    ("resources/train/gpu", True),
    # Out of range.
    ("training/learning_rate", 0),
    ("training/ema_decay", 1),
    ("training/lesion_share", 1.5),
    ("training/crop", [128]),
    ("training/crop", [128, 128, 3, 3]),
    ("training/crop", [128, 0]),
    ("training/flip", [3]),
    ("training/early_levels", [1.0]),
    ("networks/unet/dropout", 1.0),
    ("networks/unet/spatial_dims", 4),
    ("networks/denoiser/multipliers", []),
    ("sampling/eta", -0.1),
    ("sampling/batch", 0),
    ("sampling/batch", "atuo"),
    ("sampling/checkpoint", "early-0"),
    ("methods/pd-ddpm/t_start", 0),
    ("folds/count", 2),
    ("splits", []),
    ("splits", [0, 0]),
    ("splits", [-1]),
    ("exhibits/table1", ["unet", "unet"]),
    ("exhibits/pareto/reverse_steps", {}),
    ("resources/train/mem_mb", 400),
    ("datasets/wmh/download/connections", 5),
    ("datasets/wmh/download/doi", "doi:10.34894/AECRSD"),
    ("datasets/wmh/channels", ["FLAIR", "T1 "]),
    ("datasets/wmh/lesion_labels", [5]),
    ("datasets/wmh/lesion_labels", []),
    ("datasets", {}),
    ("preparation/orientation", "XYZ"),
    ("device", "gpu"),
    ("retries", -1),
    # Not one of the choices.
    ("scale", "dmo"),
    ("training/weights", "eam"),
    ("training/precision", "float64"),
    ("networks/unet/architecture", "vnet"),
    ("networks/denoiser/skip", "mean"),
    ("networks/denoiser/time_injection", "film"),
    ("training/crop_position", "center"),
    ("training/log_gamma", -0.1),
    ("training/affine", 0.1),
    ("methods/unet/segmenter", "deterministc"),
    ("methods/pd-ddpm/start", "mask"),
    ("datasets/wmh/layout", "nnunett"),
    ("grid/region", "box"),
    ("changed_training", "go_on"),
    # Missing.
    ("dataset", REMOVED),
    ("grid/region", REMOVED),
    ("networks/unet/channels", REMOVED),
    ("networks/unet/architecture", REMOVED),
    ("methods/pd-ddpm/t_start", REMOVED),
    ("methods/pd-ddpm/segmenter", REMOVED),
    ("datasets/wmh/folder", REMOVED),
    ("datasets/wmh/download/licence", REMOVED),
    ("exhibits/claims/tdpm", REMOVED),
    ("resources/sample", REMOVED),
    ("sampling/gate/forward_error/tf32", REMOVED),
]


@pytest.mark.parametrize(("key", "value"), FAULTS, ids=lambda part: part if isinstance(part, str) else None)
def test_a_single_fault_is_named_by_its_key(key: str, value: Any) -> None:
    (message,) = messages(changed(key, value))
    assert message.startswith((f"`{key.replace('/', '.')}`: ", f"`{key.replace('/', '.')}."))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("scale", "dmo", "`scale`: 'dmo' is not valid. Did you mean 'demo'? Valid: demo, gpu, paper."),
        ("grid/spacing", 1, "`grid.spacing`: unknown key. Did you mean 'spacing_mm'? Valid: labels, margin_mm, "),
        ("grid/region", REMOVED, "`grid.region`: missing. Add it (Part of a slice that the networks see: "),
        ("networks/unet/architecture", REMOVED, "`networks.unet.architecture`: missing. Add it. Valid: unet, attention_unet, "),
        (
            "networks/unet/architecture",
            "vnet",
            "`networks.unet.architecture`: 'vnet' is not valid. Did you mean 'unet'? Valid: ",
        ),
        ("training/batch", True, "`training.batch`: true is not a whole number. Set a whole number."),
        (
            "training/gradient_clip",
            "1e-4",
            "`training.gradient_clip`: '1e-4' is not a number. Write it without quotes, and its exponent",
        ),
        ("training/ema_decay", 1, "`training.ema_decay`: 1 is out of range. Set a number below 1."),
        ("training/crop", [8], "`training.crop`: [8] has too few entries. Set at least 2 entries."),
        ("training/learning_rate", float("nan"), "`training.learning_rate`: nan is not a finite number. Set a finite number."),
        ("seeds", [0, 1, 0], "`seeds`: 0 occurs more than once. List each value once."),
        ("device", "gpu", "`device`: 'gpu' does not have the required form. Set text such as 'auto', 'cpu', 'cuda', 'cuda:0'."),
        (
            "preparation/orientation",
            "XYZ",
            "`preparation.orientation`: 'XYZ' does not have the required form. Set text such as ",
        ),
        ("datasets/wmh/download/version", 1.0, "`datasets.wmh.download.version`: 1.0 is not text. Put it in quotes."),
        (
            "sampling/batch",
            "atuo",
            "`sampling.batch`: 'atuo' is not a whole number. Set a whole number of at least 1, or `auto`.",
        ),
        ("methods/zero", PAPER["methods"]["unet"], "`methods.zero`: the name stands for a mask without lesion. Rename the "),
        ("methods/pd-ddpm/harden", REMOVED, "`methods.pd-ddpm.harden`: it must be set, since the chain starts from a "),
        ("networks", {5: {}}, "`networks.5"),
        ("networks/unet", 3, "`networks.unet`: 3 is not a section with keys. Set a section with keys."),
    ],
)
def test_a_message_names_key_problem_and_remedy(key: str, value: Any, message: str) -> None:
    assert messages(changed(key, value))[0].startswith(message)


def test_configuration_converts_numbers_to_the_type_of_their_key() -> None:
    floats = {"weight_decay": 0, "channels": 128.0, "attention_at": [16.0], "spatial_dims": 2.0}
    types = {"weight_decay": 0.0, "channels": 128, "attention_at": [16], "spatial_dims": 2}
    given, expected = changed("training/batch", 12.0), json.loads(json.dumps(PAPER))
    given["networks"]["denoiser"] |= floats
    expected["networks"]["denoiser"] |= types
    values = [Configuration.model_validate(config).model_dump(exclude_unset=True) for config in (given, expected)]
    assert json.dumps(values[0]) == json.dumps(values[1])
    assert json.dumps(values[1]["networks"]["denoiser"] | types) == json.dumps(values[1]["networks"]["denoiser"])
