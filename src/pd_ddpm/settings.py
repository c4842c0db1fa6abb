"""What the configuration says of one network or one method. Pure Python: Snakemake reads this at every start.

`name@key=value` is a variation of a named network or method: `pd-ddpm@t_start=50` is pd-ddpm in all but T'. The same words
serve in the configuration, in file names and on the command line.
"""

from collections.abc import Iterator
from copy import deepcopy
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

Config = dict[str, Any]
SCHEMA = Path(__file__).parents[2] / "config" / "schema.yaml"
CHAIN_KEYS = {"samples", "reverse_steps", "sampler", "variance", "eta"}  # without meaning where nothing is drawn


class ConfigError(ValueError):
    """The configuration cannot be run; the message names each key, what is wrong and what it may be."""


def network(config: Config, name: str) -> dict[str, Any]:
    """All settings of a network: the common ones of `training`, its own, and those of its name."""
    return _resolved(config, "networks", name)


def method(config: Config, name: str) -> dict[str, Any]:
    """All settings of a method: the common ones of `sampling` that it has a use for, its own, and those of its name."""
    return _resolved(config, "methods", name)


def canonical(config: Config, name: str) -> str:
    """The shortest name of a method: overrides that say what it says anyway are left out, the rest sorted."""
    base, overrides = _parse(config, "methods", name)
    plain = method(config, base)
    kept = sorted(f"@{key}={value}" for key, value in overrides.items() if plain.get(key) != value)
    return base + "".join(kept)


def figure3_methods(config: Config) -> list[str]:
    """The methods of Fig. 3, one for each T' of its grid."""
    figure = config["exhibits"]["fig3_tprime"]
    return [canonical(config, f"{figure['method']}@t_start={t}") for t in figure["t_start"]]


def check(config: Config) -> None:
    """Raise ConfigError with everything that is wrong with a configuration, each with its key and a remedy."""
    schema = _schema()
    problems = [_sentence(error) for error in _errors(schema, config)]
    if not problems:
        resolved = deepcopy(config)
        resolved["networks"] = {name: network(config, name) for name in config["networks"]}
        resolved["methods"] = {name: method(config, name) for name in config["methods"]}
        problems = [_sentence(error) for error in _errors(schema, resolved)]
    if not problems:
        problems = list(_contradictions(config))
    if problems:
        raise ConfigError("the configuration cannot be run:\n" + "\n".join(f"  - {problem}" for problem in problems))


def _resolved(config: Config, section: str, name: str) -> dict[str, Any]:
    base, overrides = _parse(config, section, name)
    return {**_plain(config, section, base), **overrides}


def _plain(config: Config, section: str, base: str) -> dict[str, Any]:
    """A named network or method with the settings that it shares with the others."""
    own = config[section][base]
    common = config[{"networks": "training", "methods": "sampling"}[section]]
    if own.get("segmenter") == "deterministic":
        common = {key: value for key, value in common.items() if key not in CHAIN_KEYS}
    return {**common, **own}


def _parse(config: Config, section: str, name: str) -> tuple[str, dict[str, Any]]:
    """'pd-ddpm@t_start=50' to ('pd-ddpm', {'t_start': 50}); raises ConfigError for names and keys that do not exist."""
    base, *parts = name.split("@")
    if base not in config[section]:
        raise ConfigError(f"'{base}' is not one of {section}{_nearest(base, config[section])}")
    known = sorted(_plain(config, section, base))
    overrides = {}
    for part in parts:
        key, _, value = part.partition("=")
        if key not in known:
            raise ConfigError(f"'{name}' sets '{key}', which '{base}' does not have{_nearest(key, known)}")
        overrides[key] = yaml.safe_load(value)
    return base, overrides


def _errors(schema: dict[str, Any], config: Config) -> list[ValidationError]:
    """Schema errors, most telling first. Keys that only the merged settings must have are looked at then."""
    return sorted(Draft202012Validator(schema).iter_errors(config), key=lambda error: list(map(str, error.absolute_path)))


@cache
def _schema() -> dict[str, Any]:
    return yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))


def _misfits(section: str, settings: dict[str, Any]) -> list[str]:
    """What the schema finds wrong with the resolved settings of one network or method."""
    schema = _schema()
    one = schema["properties"][section]["additionalProperties"] | {"$defs": schema["$defs"]}
    return [_sentence(error) for error in _errors(one, settings)]


def _sentence(error: ValidationError) -> str:
    key = ".".join(map(str, error.absolute_path))
    if error.validator == "additionalProperties":
        known = sorted(error.schema["properties"])
        unknown = sorted(set(error.instance) - set(known))
        return "; ".join(f"unknown key '{'.'.join(filter(None, [key, name]))}'{_nearest(name, known)}" for name in unknown)
    return f"key '{key}': {error.message}" if key else error.message


def _nearest(name: str, known: list[str] | dict[str, Any]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return (f"; did you mean '{close[0]}'?" if close else "") + f" (there are: {', '.join(known)})"


def _contradictions(config: Config) -> Iterator[str]:
    """What each key allows by itself but not together with the others."""
    if config["dataset"] not in config["datasets"]:
        yield f"key 'dataset': '{config['dataset']}' is not one of datasets{_nearest(config['dataset'], config['datasets'])}"
    for name, dataset in config["datasets"].items():
        if (dataset["layout"] == "table") != ("table" in dataset):
            yield f"key 'datasets.{name}.table': it names the csv of the layout 'table' and goes with that layout only"
    too_high = [split for split in config["splits"] if split >= config["folds"]["count"]]
    if too_high:
        yield f"key 'splits': {too_high} are not among the {config['folds']['count']} folds, which count from 0"
    for name in config["networks"]:
        settings = network(config, name)
        if settings.get("t_max", 0) > settings.get("T", 0):
            yield f"key 'networks.{name}.t_max': {settings['t_max']} is above T = {settings['T']}"
    figure = config["exhibits"]["fig3_tprime"]
    exhibited = [*config["exhibits"]["table1"], *(f"{figure['method']}@t_start={t}" for t in figure["t_start"])]
    for name in dict.fromkeys([*config["methods"], *exhibited]):
        yield from method_problems(config, name)


def method_problems(config: Config, name: str) -> Iterator[str]:
    """What is wrong with one method or variation of one, its network included."""
    try:
        settings = method(config, name)
        wrong = [f"method '{name}': {problem}" for problem in _misfits("methods", settings)]
        if not wrong:
            trained = network(config, settings["network"])
            wrong = [f"network '{settings['network']}': {problem}" for problem in _misfits("networks", trained)]
    except ConfigError as error:
        wrong = [f"method '{name}': {error}"]
    if wrong:
        yield from wrong
        return
    is_denoiser = trained["architecture"] == "denoising_unet"
    if is_denoiser != (settings["segmenter"] == "diffusion"):
        architecture = trained["architecture"]
        yield f"method '{name}': segmenter '{settings['segmenter']}' cannot use the {architecture} '{settings['network']}'"
        return
    if not is_denoiser:
        return
    if not isinstance(settings["t_start"], int) or not 1 <= settings["t_start"] <= trained["T"]:
        yield f"method '{name}': t_start (T') is {settings['t_start']}; it must be a whole number from 1 to T = {trained['T']}"
    elif settings["t_start"] > trained["t_max"]:
        yield (
            f"method '{name}': t_start (T') is {settings['t_start']}, but '{settings['network']}' is trained up to "
            f"t_max = {trained['t_max']} only"
        )
    elif settings["start"] == "noise" and settings["t_start"] != trained["T"]:
        yield f"method '{name}': a chain from noise begins at T = {trained['T']}, not at t_start = {settings['t_start']}"
    if settings["reverse_steps"] > trained["T"]:
        yield f"method '{name}': reverse_steps is {settings['reverse_steps']}, more than the T = {trained['T']} steps there are"
    if settings["start"] == "presegmentation":
        before = settings.get("presegmentation")
        if before is None or before.split("@")[0] not in config["methods"]:
            yield f"method '{name}': presegmentation '{before}' is not one of methods" + _nearest(
                str(before), config["methods"]
            )
        elif method(config, before).get("start") == "presegmentation":
            yield f"method '{name}': presegmentation '{before}' starts from a pre-segmentation itself"
        if "harden" not in settings:
            yield f"method '{name}': the key 'harden' is missing; it says whether the pre-segmentation is cut at 0.5"
