"""Resolve the configuration: all settings of one network, method or dataset.

`name@key=value` is a variation of a named network or method: `pd-ddpm@t_start=50` is pd-ddpm with another T'. The same
names serve in the configuration, in file names and on the command line. An entry of networks, methods or datasets with
`like: other` inherits every setting that it does not override. Pure Python: Snakemake imports this at every start.
"""

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

import yaml

from pd_ddpm.config.errors import ConfigError, KeyProblem, suggestion

Config = dict[str, Any]

# Used by methods with a chain of reverse steps only.
CHAIN_KEYS = {"reverse_steps", "sampler", "variance", "large_variance_over_jumps", "step_spacing", "stop_after", "eta"}

COMMON = {"networks": "training", "methods": "sampling"}  # the settings that the entries of a section share

JOB_KEYS = {"batch", "shards", "gate"}  # of sampling; they do not influence the samples

NO_PRESEGMENTATION = "zero"  # the pre-segmentation that finds no lesion anywhere (Table 2)

# Settings that methods share, but not those that average other methods or come from files.
SAMPLING_KEYS = CHAIN_KEYS | {"samples", "checkpoint", "weights", "precision"}

# Training strategies whose networks also see the estimate of the step before.
SELF_CONDITIONING = {"self_conditioning_same", "self_conditioning_next"}

# Architectures that each segmenter can use.
ARCHITECTURES = {
    "deterministic": {"unet", "attention_unet", "unet_plus_plus", "imgx_unet"},
    "dropout": {"unet"},
    "latent": {"probabilistic_unet"},
    "diffusion": {"denoising_unet", "truncated_denoising_unet"},
}


def network(config: Config, name: str) -> dict[str, Any]:
    """Return all settings of a network: common ones of `training`, its own, and those of its name."""
    return _resolved(config, "networks", name)


def method(config: Config, name: str) -> dict[str, Any]:
    """Return all settings of a method: common ones of `sampling` that it uses, its own, and those of its name."""
    return _resolved(config, "methods", name)


def base_name(name: str) -> str:
    """Return the name without overrides: "pd-ddpm" of "pd-ddpm@t_start=50"."""
    return name.partition("@")[0]


def canonical(config: Config, name: str) -> str:
    """Return the shortest name of a method: without overrides that equal its own settings, the rest sorted."""
    base, overrides = _parse(config, "methods", name)
    plain = method(config, base)
    kept = sorted(f"@{key}={value}" for key, value in overrides.items() if plain.get(key) != value)
    return base + "".join(kept)


def overlay(base: Config, over: Config) -> Config:
    """Lay a configuration over another as Snakemake does: sections key by key, everything else, also lists, as a whole."""
    both = {
        key: overlay(base[key], over[key])
        for key in base.keys() & over.keys()
        if isinstance(over[key], dict) and isinstance(base[key], dict)
    }
    return base | over | both


def _resolved(config: Config, section: str, name: str) -> dict[str, Any]:
    base, overrides = _parse(config, section, name)
    return {**plain_settings(config, section, base), **overrides}


def plain_settings(config: Config, section: str, base: str) -> Any:
    """Return a named dataset, network or method with its inherited and common settings, or what stands in place of keys."""
    own = _own(config, section, base)
    if section == "datasets" and isinstance(own, dict) and isinstance(own.get("preparation"), dict):
        return own | {"preparation": overlay(config["preparation"], own["preparation"])}
    common = config.get(COMMON.get(section))
    if not isinstance(own, dict) or not isinstance(common, dict):
        return own
    useless = {"deterministic": CHAIN_KEYS | {"samples"}, "dropout": CHAIN_KEYS, "latent": CHAIN_KEYS}
    useless |= {"mean": SAMPLING_KEYS, "files": SAMPLING_KEYS}
    left_out = useless.get(str(own.get("segmenter")), set()) | (JOB_KEYS if section == "methods" else set())
    settings = {**{key: value for key, value in common.items() if key not in left_out}, **own}
    if section == "networks" and isinstance(own.get("grid"), dict) and isinstance(config.get("grid"), dict):
        settings["grid"] = overlay(config["grid"], own["grid"])
    return settings


def _own(config: Config, section: str, base: str, seen: Sequence[str] = ()) -> dict[str, Any]:
    """Return the settings of an entry and those that it inherits with `like`."""
    own = config[section][base]
    if not isinstance(own, dict) or "like" not in own:
        return own
    model = own["like"]
    path = (section, base, "like")
    if not isinstance(model, str) or model not in config[section]:
        raise ConfigError(KeyProblem(path, f"'{model}' is not one of {section}", suggestion(model, config[section])))
    if model in (base, *seen):
        chain = [*seen, base, model]
        circle = " -> ".join(chain[chain.index(model) :])
        raise ConfigError(KeyProblem(path, f"{circle} leads back to itself", "Let one of them have no `like`"))
    return overlay(_own(config, section, model, (*seen, base)), {key: value for key, value in own.items() if key != "like"})


def _parse(config: Config, section: str, name: str) -> tuple[str, dict[str, Any]]:
    """Split 'pd-ddpm@t_start=50' into 'pd-ddpm' and {'t_start': 50}.

    Raises:
        ConfigError: a name or key does not exist.
    """
    base, *parts = name.split("@")
    if base not in config[section]:
        raise ConfigError(KeyProblem((section, name), f"'{base}' is not one of {section}", suggestion(base, config[section])))
    plain = plain_settings(config, section, base)
    overrides = {}
    for part in parts:
        key, _, text = part.partition("=")
        if key not in plain:
            finding = f"'{name}' sets '{key}', which '{base}' does not have"
            raise ConfigError(KeyProblem((section, name), finding, suggestion(key, sorted(plain))))
        overrides[key] = _as_type_of(plain[key], copy.deepcopy(_parse_value(text)))
    return base, overrides


@cache
def _parse_value(text: str) -> Any:
    """Return the value of an override. The parser is slow, and each start of a run resolves thousands of names."""
    return yaml.safe_load(text)


def _as_type_of(reference: Any, value: Any) -> Any:
    """Return 8 for 8.0 if the reference is a whole number, 8.0 for 8 if it is not, and any other value unchanged."""
    if type(reference) is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return float(value) if type(reference) is float and type(value) is int else value
