"""Cross-checks: settings that are valid by themselves but contradict each other."""

from collections.abc import Iterator, Sequence
from typing import Any

from pd_ddpm.config.methods import is_held_out, networks_from, pareto_methods, pool
from pd_ddpm.config.resolve import (
    ARCHITECTURES,
    NO_PRESEGMENTATION,
    Config,
    ConfigError,
    canonical,
    case_source,
    method,
    network,
    suggestion,
)
from pd_ddpm.config.schema import schema_problems

# What a network may differ in from the one whose trained weights it begins with, beside how it is trained.
FREE_AT_THE_START = {"architecture", "dice_weight", "kl_weight", "mask_loss", "t_max", "dropout"}


def find_contradictions(config: Config) -> Iterator[str]:
    """What each key allows by itself but not together with the others."""
    if config["dataset"] not in config["datasets"]:
        yield f"key 'dataset': '{config['dataset']}' is not one of datasets{suggestion(config['dataset'], config['datasets'])}"
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
            yield f"key 'datasets.{name}.images': '{channel}' is not one of channels{suggestion(channel, dataset['channels'])}"
        if dataset.get("download") and (dataset["layout"] != "wmh_challenge" or "simulate" in dataset):
            yield f"key 'datasets.{name}.download': goes with layout 'wmh_challenge' and without simulate; else set it to null"
    beside = [name for name in config["datasets"] if is_held_out(config, name)]
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
        if is_held_out(config, name):
            yield f"{key}: held-out cases are only tested; name the data set whose networks they are tested with"
        return
    if other not in config["datasets"]:
        yield f"{key}: '{other}' is not one of datasets{suggestion(other, config['datasets'])}"
        return
    trained = config["datasets"][other]
    if trained.get("networks_of") is not None or other == name:
        yield f"{key}: nothing is trained on '{other}'; name the data set that has networks of its own"
    elif dataset["channels"] != trained["channels"]:
        channels = " and ".join(str(one["channels"]) for one in (dataset, trained))
        yield f"{key}: '{name}' and '{other}' must have the same channels in the same order, not {channels}"
    elif case_source(dataset) == case_source(trained):
        yield f"{key}: '{name}' reads the very cases that the networks of '{other}' are trained on; name another folder or part"


def _initialisation_problems(config: Config, name: str, settings: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the network that another one begins with."""
    first, key = settings["initialise_from"], f"key 'networks.{name}.initialise_from'"
    if first is None:
        return
    if first not in config["networks"] or network(config, first)["initialise_from"] is not None:
        yield f"{key}: '{first}' must be one of networks that starts at random{suggestion(first, config['networks'])}"
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
        wrong = [f"method '{name}': {problem}" for problem in schema_problems("methods", settings)]
        if not wrong:
            trained = network(config, settings["network"])
            wrong = [f"network '{settings['network']}': {problem}" for problem in schema_problems("networks", trained)]
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
        yield f"method '{name}': presegmentation '{before}' is not one of methods" + suggestion(before, config["methods"])
    elif method(config, before).get("start") == "presegmentation":
        yield f"method '{name}': presegmentation '{before}' starts from a pre-segmentation itself"
    elif settings["presegmentation_members"] == "each" and pool(config, before) < pool(config, name):
        yield (
            f"method '{name}': each of its {pool(config, name)} members starts from a member of '{before}', which has "
            f"{pool(config, before)}; raise samples of '{before}', or set presegmentation_members to mean"
        )
