"""Resolve the configuration: all settings of one network, method or dataset.

`name@key=value` is a variation of a named network or method: `pd-ddpm@t_start=50` is pd-ddpm with another T'. The same
names serve in the configuration, in file names and on the command line. An entry of networks, methods or datasets with
`like: other` inherits every setting that it does not override. Pure Python: Snakemake imports this at every start.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

Config = dict[str, Any]

CHAIN_KEYS = {"reverse_steps", "sampler", "variance", "eta"}  # without meaning where there is no chain

JOB_KEYS = {"batch", "shards", "gate"}  # of sampling, without influence on what is drawn

NO_PRESEGMENTATION = "zero"  # the pre-segmentation that finds no lesion anywhere (Table 2)

# Which networks a segmenter can draw from.
ARCHITECTURES = {
    "deterministic": {"unet", "attention_unet", "unet_plus_plus"},
    "dropout": {"unet"},
    "latent": {"probabilistic_unet"},
    "diffusion": {"denoising_unet", "truncated_denoising_unet"},
}


class ConfigError(ValueError):
    """The configuration cannot be run; the message names each key, what is wrong and what it may be."""


def network(config: Config, name: str) -> dict[str, Any]:
    """All settings of a network: the common ones of `training`, its own, and those of its name."""
    return _resolved(config, "networks", name)


def method(config: Config, name: str) -> dict[str, Any]:
    """All settings of a method: the common ones of `sampling` that it has a use for, its own, and those of its name."""
    return _resolved(config, "methods", name)


def datasets(config: Config) -> dict[str, dict[str, Any]]:
    """All data sets, every `like` written out; what reads a configuration's data sets reads these in their place."""
    return expand_likes(config, "datasets")


def canonical(config: Config, name: str) -> str:
    """The shortest name of a method: overrides that say what it says anyway are left out, the rest sorted."""
    base, overrides = _parse(config, "methods", name)
    plain = method(config, base)
    kept = sorted(f"@{key}={value}" for key, value in overrides.items() if plain.get(key) != value)
    return base + "".join(kept)


def overlay(base: Config, over: Config) -> Config:
    """As Snakemake lays configurations over each other: sections key by key, everything else, lists too, as a whole."""
    both = {
        key: overlay(base[key], over[key])
        for key in base.keys() & over.keys()
        if isinstance(over[key], dict) and isinstance(base[key], dict)
    }
    return base | over | both


def _resolved(config: Config, section: str, name: str) -> dict[str, Any]:
    base, overrides = _parse(config, section, name)
    return {**_plain(config, section, base), **overrides}


def _plain(config: Config, section: str, base: str) -> dict[str, Any]:
    """A named network or method with the settings that it shares with the others."""
    own = _own(config, section, base)
    common = config[{"networks": "training", "methods": "sampling"}[section]]
    useless = {"deterministic": CHAIN_KEYS | {"samples"}, "dropout": CHAIN_KEYS, "latent": CHAIN_KEYS}
    left_out = useless.get(own.get("segmenter"), set()) | (JOB_KEYS if section == "methods" else set())
    return {**{key: value for key, value in common.items() if key not in left_out}, **own}


def _own(config: Config, section: str, base: str, seen: Sequence[str] = ()) -> dict[str, Any]:
    """What an entry says itself, and what the entry says that it is `like`."""
    own = config[section][base]
    if not isinstance(own, dict) or "like" not in own:
        return own
    model = own["like"]
    if model not in config[section]:
        raise ConfigError(f"key '{section}.{base}.like': '{model}' is not one of {section}{suggestion(model, config[section])}")
    if model in (base, *seen):
        raise ConfigError(f"key '{section}.{base}.like': {' is like '.join([*seen, base, model])} leads back to itself")
    return overlay(_own(config, section, model, (*seen, base)), {key: value for key, value in own.items() if key != "like"})


def expand_likes(config: Config, section: str) -> Any:
    """The entries of a section with every `like` written out."""
    entries = config[section]
    return {name: _own(config, section, name) for name in entries} if isinstance(entries, dict) else entries


def _parse(config: Config, section: str, name: str) -> tuple[str, dict[str, Any]]:
    """'pd-ddpm@t_start=50' to ('pd-ddpm', {'t_start': 50}); raises ConfigError for names and keys that do not exist."""
    base, *parts = name.split("@")
    if base not in config[section]:
        raise ConfigError(f"'{base}' is not one of {section}{suggestion(base, config[section])}")
    known = sorted(_plain(config, section, base))
    overrides = {}
    for part in parts:
        key, _, value = part.partition("=")
        if key not in known:
            raise ConfigError(f"'{name}' sets '{key}', which '{base}' does not have{suggestion(key, known)}")
        overrides[key] = yaml.safe_load(value)
    return base, overrides


def suggestion(name: str, known: list[str] | dict[str, Any]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return (f"; did you mean '{close[0]}'?" if close else "") + f" (there are: {', '.join(known)})"


def case_source(dataset: Config) -> tuple:
    """What tells which scans a data set consists of."""
    return Path(dataset["folder"]), dataset.get("part", "training"), *(dataset.get(key) for key in ("table", "masks", "images"))
