"""What the configuration says of one network or one method. Pure Python: Snakemake reads this at every start.

`name@key=value` is a variation of a named network or method: `pd-ddpm@t_start=50` is pd-ddpm in all but T'. The same words
serve in the configuration, in file names and on the command line. An entry of networks, methods or datasets with
`like: other` has the settings of that other one wherever it says nothing itself.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from pd_ddpm.respacing import chain_steps

Config = dict[str, Any]
SCHEMA = Path(__file__).parents[2] / "config" / "schema.yaml"
CHAIN_KEYS = {"reverse_steps", "sampler", "variance", "eta"}  # without meaning where there is no chain
JOB_KEYS = {"batch", "shards", "gate"}  # of sampling, without influence on what is drawn
NO_PRESEGMENTATION = "zero"  # the pre-segmentation that finds no lesion anywhere (Table 2)

# What a network may differ in from the one whose trained weights it begins with, beside how it is trained.
FREE_AT_THE_START = {"architecture", "dice_weight", "kl_weight", "mask_loss", "t_max", "dropout"}

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
    return _expanded(config, "datasets")


def networks_from(config: Config, dataset: str) -> str:
    """The data set whose networks are asked for the masks of this one: itself, unless it is only tested."""
    return config["datasets"][dataset].get("networks_of") or dataset


def held_out(config: Config) -> str | None:
    """The data set of held-out cases whose scores are published beside the exhibits of the active data set, if there is one."""
    chosen = (name for name in config["datasets"] if _is_held_out(config, name))
    return next((name for name in chosen if networks_from(config, name) == config["dataset"]), None)


def locked(config: Config, dataset: str) -> str | None:
    """Why nothing may be computed of this data set, if so."""
    if config["evaluate_held_out"] or not _is_held_out(config, dataset):
        return None
    return (
        f"datasets.{dataset}: its cases are held out and locked; set evaluate_held_out: true once all choices are made, since "
        "tuning on them would void them."
    )


def _is_held_out(config: Config, dataset: str) -> bool:
    return config["datasets"][dataset].get("part") == "held_out"


def canonical(config: Config, name: str) -> str:
    """The shortest name of a method: overrides that say what it says anyway are left out, the rest sorted."""
    base, overrides = _parse(config, "methods", name)
    plain = method(config, base)
    kept = sorted(f"@{key}={value}" for key, value in overrides.items() if plain.get(key) != value)
    return base + "".join(kept)


def pool(config: Config, name: str) -> int:
    """Members of a method that are drawn and stored: its samples, or as many as Fig. 4 needs to resample.

    Fig. 4 needs more of its own method, and of the pre-segmentation that each of that method's members starts from.
    """
    samples = method(config, name).get("samples", 1)
    figure = config["exhibits"]["fig4_ensemble"]
    shown = method(config, figure["method"])
    needed = {canonical(config, figure["method"])}
    if shown.get("presegmentation_members") == "each" and shown["presegmentation"] != NO_PRESEGMENTATION:
        needed.add(canonical(config, shown["presegmentation"]))
    return max(samples, figure["pool"]) if canonical(config, name) in needed else samples


def steps_of_chain(config: Config, name: str) -> int:
    """Reverse steps of a diffusion method."""
    chosen = method(config, name)
    return chain_steps(chosen["reverse_steps"], chosen["t_start"], network(config, chosen["network"])["T"])


def gate_method(config: Config, name: str) -> dict[str, Any]:
    """The settings of a method with a short chain and few members, by which a network's number formats are tested."""
    trained, gate = network(config, name), config["sampling"]["gate"]
    settings: dict[str, Any] = {"network": name, "checkpoint": "selected", "samples": gate["members"], "pool": gate["members"]}
    architecture = trained["architecture"]
    if architecture not in ARCHITECTURES["diffusion"]:
        drawn = {"probabilistic_unet": "latent", "unet": "dropout" if trained.get("dropout") else "deterministic"}
        return settings | {"segmenter": drawn.get(architecture, "deterministic")}
    # From a mask without lesion where the network does not know the noise of T.
    start = "noise" if trained["t_max"] == trained["T"] else "presegmentation"
    settings |= {"segmenter": "diffusion", "start": start, "t_start": trained["t_max"]}
    if architecture == "truncated_denoising_unet":
        settings["start"] = "learned_prior"
    whole = min(trained["T"], -(-gate["reverse_steps"] * trained["T"] // trained["t_max"]))
    return settings | {"sampler": "ancestral", "variance": "small", "eta": 0.0, "reverse_steps": whole}


def figure3_methods(config: Config) -> list[str]:
    """The methods of Fig. 3, one for each T' of its grid."""
    figure = config["exhibits"]["fig3_tprime"]
    return [canonical(config, f"{figure['method']}@t_start={t}") for t in figure["t_start"]]


def table2_methods(config: Config) -> list[tuple[str, str]]:
    """The rows of Table 2: (pre-segmentation, the method that starts from it)."""
    table = config["exhibits"]["table2"]
    starts = [row["method"] for row in table["presegmentations"]]
    return [(before, canonical(config, f"{table['method']}@presegmentation={before}")) for before in starts]


def pareto_methods(config: Config) -> list[str]:
    """The methods of the Pareto figure: T' x respacing x sampler, each number of steps once.

    A chain of one step ends where it begins in the estimate of the mask, so the sampler makes no difference to it.
    """
    figure = config["exhibits"]["pareto"]
    found: dict[tuple, str] = {}
    for base in figure["methods"]:
        plain = method(config, base)
        for t_start in figure["t_start"] if plain["start"] == "presegmentation" else [plain["t_start"]]:
            for sampler, respacings in figure["reverse_steps"].items():
                for steps in respacings:
                    name = f"{base}@reverse_steps={steps}@sampler={sampler}@t_start={t_start}"
                    if sampler == "ancestral" and steps != plain["reverse_steps"]:
                        name += f"@variance={figure['variance']}"
                    taken = steps_of_chain(config, name)
                    found.setdefault((base, t_start, taken, sampler if taken > 1 else None), canonical(config, name))
    return list(found.values())


def read(path: Path | None, changes: Config) -> Config:
    """A configuration as the Snakefile puts it together: config.yaml, at demo scale demo.yaml over it, then the file, then
    the changes. A file of the name config.yaml beside a demo.yaml is a whole configuration and stands in the first place.

    Raises ConfigError if the file is not there or is no yaml with keys.
    """
    whole = path is not None and path.name == "config.yaml" and path.with_name("demo.yaml").is_file()
    first = path if whole else SCHEMA.with_name("config.yaml")
    over = _laid_over({} if path is None or whole else _yaml(path), changes)
    config = _laid_over(_yaml(first), over)
    if config.get("scale") == "demo":
        config = _laid_over(_laid_over(config, _yaml(first.with_name("demo.yaml"))), over)
    return config


def check(config: Config) -> None:
    """Raise ConfigError with everything that is wrong with a configuration, each with its key and a remedy."""
    schema = _schema()
    sections = ("datasets", "networks", "methods")
    whole = config | {section: _expanded(config, section) for section in sections if section in config}
    problems = [_sentence(error) for error in _errors(schema, whole)]
    if not problems:
        config = config | {"datasets": whole["datasets"]}
        resolved = deepcopy(config)
        resolved["networks"] = {name: network(config, name) for name in config["networks"]}
        resolved["methods"] = {name: method(config, name) for name in config["methods"]}
        problems = [_sentence(error) for error in _errors(schema, resolved)]
    if not problems:
        problems = list(_contradictions(config))
    if problems:
        raise ConfigError("the configuration cannot be run:\n" + "\n".join(f"  - {problem}" for problem in problems))


def _yaml(path: Path) -> Config:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as a configuration ({error}); correct the path or the file") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds no keys; see config/config.yaml for what a configuration is made of")
    return content


def _laid_over(base: Config, over: Config) -> Config:
    """As Snakemake lays configurations over each other: sections key by key, everything else, lists too, as a whole."""
    both = {
        key: _laid_over(base[key], over[key])
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
        raise ConfigError(f"key '{section}.{base}.like': '{model}' is not one of {section}{_nearest(model, config[section])}")
    if model in (base, *seen):
        raise ConfigError(f"key '{section}.{base}.like': {' is like '.join([*seen, base, model])} leads back to itself")
    return _laid_over(_own(config, section, model, (*seen, base)), {key: value for key, value in own.items() if key != "like"})


def _expanded(config: Config, section: str) -> Any:
    """The entries of a section with every `like` written out."""
    entries = config[section]
    return {name: _own(config, section, name) for name in entries} if isinstance(entries, dict) else entries


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
        yield from _networks_of_problems(config, name, dataset)
        if "part" in dataset and (dataset["layout"] != "wmh_challenge" or "simulate" in dataset):
            yield f"key 'datasets.{name}.part': goes with layout 'wmh_challenge' and without simulate"
        if (dataset["layout"] == "table") != ("table" in dataset):
            yield f"key 'datasets.{name}.table': it names the csv of the layout 'table' and goes with that layout only"
        for key in ("masks", "images"):
            if key in dataset and dataset["layout"] != "bids":
                yield f"key 'datasets.{name}.{key}': it goes with the layout 'bids' only"
        for channel in sorted(set(dataset.get("images", ())) - set(dataset["channels"])):
            yield f"key 'datasets.{name}.images': '{channel}' is not one of channels{_nearest(channel, dataset['channels'])}"
        if dataset.get("download") and (dataset["layout"] != "wmh_challenge" or "simulate" in dataset):
            yield f"key 'datasets.{name}.download': goes with layout 'wmh_challenge' and without simulate; else set it to null"
    beside = [name for name in config["datasets"] if _is_held_out(config, name)]
    beside = [name for name in beside if networks_from(config, name) == config["dataset"] != name]
    if len(beside) > 1:
        yield f"key 'datasets': {' and '.join(beside)} would both be shown as held_out.csv; let only one have these networks_of"
    too_high = [split for split in config["splits"] if split >= config["folds"]["count"]]
    if too_high:
        yield f"key 'splits': {too_high} are not among the {config['folds']['count']} folds, which count from 0"
    gpus = config["resources"]["train"]["gpu"]
    if gpus > 1:
        yield f"key 'resources.train.gpu': it is {gpus}, but a training uses one GPU; set it to 1: trainings run side by side"
    for name in config["networks"]:
        settings = network(config, name)
        if settings.get("t_max", 0) > settings.get("T", 0):
            yield f"key 'networks.{name}.t_max': {settings['t_max']} is above T = {settings['T']}"
        yield from _initialisation_problems(config, name, settings)
    wrong = [problem for name in config["methods"] for problem in method_problems(config, name)]
    yield from wrong or _exhibit_problems(config)


def _networks_of_problems(config: Config, name: str, dataset: Config) -> Iterator[str]:
    """What is wrong with a data set that is only tested, by the networks of another."""
    other, key = dataset.get("networks_of"), f"key 'datasets.{name}.networks_of'"
    if other is None:
        if _is_held_out(config, name):
            yield f"{key}: held-out cases are only tested; name the data set whose networks they are tested with"
        return
    if other not in config["datasets"]:
        yield f"{key}: '{other}' is not one of datasets{_nearest(other, config['datasets'])}"
        return
    trained = config["datasets"][other]
    if trained.get("networks_of") is not None or other == name:
        yield f"{key}: nothing is trained on '{other}'; name the data set that has networks of its own"
    elif dataset["channels"] != trained["channels"]:
        channels = " and ".join(str(one["channels"]) for one in (dataset, trained))
        yield f"{key}: '{name}' and '{other}' must have the same channels in the same order, not {channels}"
    elif _source(dataset) == _source(trained):
        yield f"{key}: '{name}' reads the very cases that the networks of '{other}' are trained on; name another folder or part"


def _source(dataset: Config) -> tuple:
    """What tells which scans a data set consists of."""
    return Path(dataset["folder"]), dataset.get("part", "training"), *(dataset.get(key) for key in ("table", "masks", "images"))


def _initialisation_problems(config: Config, name: str, settings: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the network that another one begins with."""
    first, key = settings["initialise_from"], f"key 'networks.{name}.initialise_from'"
    if first is None:
        return
    if first not in config["networks"] or network(config, first)["initialise_from"] is not None:
        yield f"{key}: '{first}' must be one of networks that starts at random{_nearest(first, config['networks'])}"
        return
    other = network(config, first)
    kinds = (other["architecture"], settings["architecture"])
    if kinds[0] != kinds[1] and kinds != ("denoising_unet", "truncated_denoising_unet"):
        yield f"{key}: a {kinds[1]} cannot begin with the weights of a {kinds[0]}"
        return
    shared = (other.keys() & settings.keys()) - set(config["training"]) - FREE_AT_THE_START
    differing = sorted(key for key in shared if other[key] != settings[key])
    if differing:
        yield f"{key}: '{name}' and '{first}' must agree in {', '.join(differing)}"


def _exhibit_problems(config: Config) -> Iterator[str]:
    """What is wrong with the exhibits, and with the variations that they name."""
    exhibits = config["exhibits"]
    claims = [name for name in exhibits["claims"].values() if name is not None]
    starts = [row["method"] for row in exhibits["table2"]["presegmentations"]]
    varied = [name for name in starts if "@" in name]
    if varied:
        yield f"key 'exhibits.table2.presegmentations': make {', '.join(varied)} an entry of methods with its own label"
        return
    named = [*exhibits["table1"], exhibits["compared_with"], *exhibits["pareto"]["methods"], *claims]
    named += [exhibits[key]["method"] for key in ("table2", "fig3_tprime", "fig4_ensemble")]
    named += [f"{exhibits['fig3_tprime']['method']}@t_start={t}" for t in exhibits["fig3_tprime"]["t_start"]]
    named += [f"{exhibits['table2']['method']}@presegmentation={name}" for name in starts]
    found = [problem for name in dict.fromkeys(named) for problem in method_problems(config, name)]
    chains = {name for name in exhibits["pareto"]["methods"] if not found and method(config, name)["segmenter"] != "diffusion"}
    if chains:
        found = [f"key 'exhibits.pareto.methods': {', '.join(sorted(chains))} has no chain to shorten"]
    if not found:
        found = [problem for name in pareto_methods(config) for problem in method_problems(config, name)]
    yield from found or _rows_problems(config, claims)


def _rows_problems(config: Config, claims: Sequence[str]) -> Iterator[str]:
    """What would stop an exhibit only after everything has been computed."""
    exhibits = config["exhibits"]
    rows = [canonical(config, name) for name in exhibits["table1"]]
    labels = [method(config, name)["label"] for name in rows if "@" not in name]
    for what, values in (("method", rows), ("label", labels)):
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            yield f"key 'exhibits.table1': the {what} {', '.join(twice)} stands for two rows; each needs its own"
    for key, names in (("compared_with", [exhibits["compared_with"]]), ("claims", claims)):
        missing = [name for name in names if canonical(config, name) not in rows]
        if missing:
            yield f"key 'exhibits.{key}': {', '.join(missing)} must be among the rows of exhibits.table1"
    smallest, members = min(pool(config, name) for name in rows), exhibits["pareto"]["members"]
    if min(members) > smallest:
        yield f"key 'exhibits.pareto.members': {members} leaves out methods of which only {smallest} is drawn; add {smallest}"
    if "samples" not in method(config, exhibits["fig4_ensemble"]["method"]):
        yield f"key 'exhibits.fig4_ensemble.method': of '{exhibits['fig4_ensemble']['method']}' nothing is drawn"


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
    segmenter, architecture = settings["segmenter"], trained["architecture"]
    if architecture not in ARCHITECTURES[segmenter]:
        yield f"method '{name}': segmenter '{segmenter}' cannot use the {architecture} '{settings['network']}'"
        return
    early = settings["checkpoint"].removeprefix("early-")
    kept = len(trained["early_levels"])
    if early != "selected" and int(early) > kept:
        yield (
            f"method '{name}': checkpoint is early-{early}, but '{settings['network']}' keeps {kept} early checkpoints; "
            "add a level to its early_levels"
        )
    if segmenter == "dropout" and not trained["dropout"]:
        yield f"method '{name}': segmenter 'dropout' needs a network with dropout, but that of '{settings['network']}' is 0"
    if segmenter == "diffusion":
        yield from _chain_problems(config, name, settings, trained)


def _chain_problems(config: Config, name: str, settings: dict[str, Any], trained: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the reverse chain of a diffusion method."""
    t_start, has_prior = settings["t_start"], trained["architecture"] == "truncated_denoising_unet"
    if not isinstance(t_start, int) or not 1 <= t_start <= trained["T"]:
        yield f"method '{name}': t_start (T') is {t_start}; it must be a whole number from 1 to T = {trained['T']}"
    elif t_start > trained["t_max"]:
        yield (
            f"method '{name}': t_start (T') is {t_start}, but '{settings['network']}' is trained up to "
            f"t_max = {trained['t_max']} only"
        )
    elif settings["start"] == "noise" and t_start != trained["T"]:
        yield f"method '{name}': a chain from noise begins at T = {trained['T']}, not at t_start = {t_start}"
    elif settings["start"] == "learned_prior" and not (has_prior and t_start == trained["t_max"]):
        yield (
            f"method '{name}': the start learned_prior needs a truncated_denoising_unet whose t_max is t_start = {t_start}; "
            f"'{settings['network']}' is a {trained['architecture']} with t_max = {trained['t_max']}"
        )
    if settings["reverse_steps"] > trained["T"]:
        yield f"method '{name}': reverse_steps is {settings['reverse_steps']}, more than the T = {trained['T']} steps there are"
    if settings["start"] == "presegmentation":
        yield from _presegmentation_problems(config, name, settings)


def _presegmentation_problems(config: Config, name: str, settings: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the mask that a chain starts from."""
    missing = [key for key in ("presegmentation", "presegmentation_members", "harden") if key not in settings]
    if missing:
        yield f"method '{name}': {', '.join(missing)} must be set, since its chain starts from a pre-segmentation"
        return
    before = settings["presegmentation"]
    if before == NO_PRESEGMENTATION:
        return
    if before.split("@")[0] not in config["methods"]:
        yield f"method '{name}': presegmentation '{before}' is not one of methods" + _nearest(before, config["methods"])
    elif method(config, before).get("start") == "presegmentation":
        yield f"method '{name}': presegmentation '{before}' starts from a pre-segmentation itself"
    elif settings["presegmentation_members"] == "each" and pool(config, before) < pool(config, name):
        yield (
            f"method '{name}': each of its {pool(config, name)} members starts from a member of '{before}', which has "
            f"{pool(config, before)}; raise samples of '{before}', or set presegmentation_members to mean"
        )
