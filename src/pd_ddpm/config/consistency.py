"""Check settings of several entries against each other: methods and their networks, datasets, and what exhibits show."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pd_ddpm.config.errors import ConfigError, KeyProblem, suggestion
from pd_ddpm.config.leak import denoiser_labels, leak_methods, table_denoisers
from pd_ddpm.config.methods import (
    adds_noise_over_jumps,
    averaged_methods,
    dataset_classes,
    figure4_methods,
    figure5_chains,
    file_methods,
    is_from_files,
    is_held_out,
    network_grid,
    networks_from,
    pareto_methods,
    pool,
    preparation,
    see_same_pixels,
    step_methods,
    steps_of_chain,
    uses_reliability,
)
from pd_ddpm.config.resolve import (
    ARCHITECTURES,
    NO_PRESEGMENTATION,
    SELF_CONDITIONING,
    Config,
    canonical,
    method,
    network,
)
from pd_ddpm.config.sections.method import Method
from pd_ddpm.config.sections.network import Network
from pd_ddpm.config.translation import problems_from

# What a network may differ in from the one whose trained weights it begins with, in addition to how it is trained.
FREE_AT_THE_START = {
    *("architecture", "dice_weight", "kl_weight", "free_bits", "kl_warm_up", "mask_loss", "t_max", "dropout"),
    *("grid", "micro_batch", "strategy", "strategy_share", "recycled_estimate", "self_conditioned_state"),
    *("focal_weight", "time_sampling", "importance_weights", "training_timesteps"),
    *("presegmented_share", "presegmented_by", "inner_folds"),
    *("validation_chain_steps", "validation_presegmenter", "validation_t_start"),
}

FEWEST_FIGURE3_STEPS = 20  # over T: a chain from T/20, the smallest T' of Fig. 3, then has one whole step


def find_contradictions(config: Config) -> Iterator[KeyProblem]:
    """Yield what entries allow by themselves but not together. The configuration must be canonical."""
    if config["dataset"] not in config["datasets"]:
        name = config["dataset"]
        yield KeyProblem(("dataset",), f"'{name}' is not one of datasets", suggestion(name, config["datasets"]))
    for name, dataset in config["datasets"].items():
        yield from _networks_of_problems(config, name, dataset)
    published = [name for name in config["datasets"] if is_held_out(config, name)]
    published = [name for name in published if networks_from(config, name) == config["dataset"] != name]
    if len(published) > 1:
        finding = f"{' and '.join(published)} would both be shown as held_out.csv"
        yield KeyProblem(("datasets",), finding, f"Let only one of them have `networks_of: {config['dataset']}`")
    yield from _class_problems(config)
    for name in config["networks"]:
        yield from _padding_problems(config, name)
        yield from _gamma_problems(config, name)
        yield from _initialisation_problems(config, name)
        yield from _presegmenter_problems(config, name)
    problems = [problem for name in config["methods"] for problem in method_problems(config, name)]
    yield from problems or _exhibit_problems(config)


def find_doubts(config: Config) -> Iterator[KeyProblem]:
    """Yield settings that can be run, but whose result is doubtful. The configuration must be valid."""
    figure = config["exhibits"]["fig3_tprime"]
    if figure is None:
        return
    name = figure["method"]
    settings = method(config, name)
    if settings["reverse_steps"] < FEWEST_FIGURE3_STEPS:
        T = network(config, settings["network"])["T"]
        problem = (
            f"{settings['reverse_steps']} over T = {T} are too few for Figure 3, because chains from small T' cannot have "
            "steps of that size"
        )
        yield KeyProblem(("methods", name, "reverse_steps"), problem, f"Set at least {FEWEST_FIGURE3_STEPS}")


def _networks_of_problems(config: Config, name: str, dataset: Config) -> Iterator[KeyProblem]:
    """Yield what is wrong with a dataset that is only tested, with the networks of another."""
    source, path = dataset.get("networks_of"), ("datasets", name, "networks_of")
    if source is None:
        if is_held_out(config, name):
            yield KeyProblem(path, "held-out cases are only tested", "Name the dataset whose networks they are tested with")
        return
    if source not in config["datasets"]:
        yield KeyProblem(path, f"'{source}' is not one of datasets", suggestion(source, config["datasets"]))
        return
    trained = config["datasets"][source]
    if trained.get("networks_of") is not None or source == name:
        yield KeyProblem(path, f"nothing is trained on '{source}'", "Name a dataset that has networks of its own")
    elif dataset["channels"] != trained["channels"]:
        finding = f"'{name}' has the channels {dataset['channels']}, but '{source}' has {trained['channels']}"
        yield KeyProblem(path, finding, "Give both the same channels in the same order")
    elif dataset_classes(config, name) != dataset_classes(config, source):
        finding = f"'{name}' and '{source}' do not name the same classes"
        yield KeyProblem(("datasets", name, "classes"), finding, "Give both the same `classes`")
    elif _case_source(dataset) == _case_source(trained):
        finding = f"'{name}' reads the same cases that the networks of '{source}' are trained on"
        yield KeyProblem(path, finding, "Set another `folder` or `part`")


def _class_problems(config: Config) -> Iterator[KeyProblem]:
    """Yield settings that have no meaning if the masks of the active dataset are label maps with several classes."""
    if config["dataset"] not in config["datasets"] or not dataset_classes(config, config["dataset"]):
        return
    has_classes = f"'{config['dataset']}' names classes"
    for name, settings in config["methods"].items():
        if settings.get("start_reliability", "none") != "none":
            finding = f"{has_classes}, but sensitivity and specificity describe masks of one class"
            yield KeyProblem(("methods", name, "start_reliability"), finding, "Set it to none")
        if settings.get("lesion_label") is not None:
            finding = f"{has_classes}, so the files hold these labels"
            yield KeyProblem(("methods", name, "lesion_label"), finding, "Remove it")


def _case_source(dataset: Config) -> tuple:
    """Return the settings that decide which scans a dataset consists of."""
    return Path(dataset["folder"]), dataset.get("part", "training"), *(dataset.get(key) for key in ("table", "masks", "images"))


def _padding_problems(config: Config, name: str) -> Iterator[KeyProblem]:
    """Yield that a network's images are padded to a size of other dimensions."""
    settings, grid = network(config, name), network_grid(config, name)
    if (size := grid["padded_size"]) is not None and len(size) != settings["spatial_dims"]:
        path = ("grid",) if grid == config["grid"] else ("networks", name, "grid")
        finding = f"it has {len(size)} sizes, but '{name}' has {settings['spatial_dims']} spatial dimensions"
        yield KeyProblem((*path, "padded_size"), finding, f"Set another `grid.padded_size` for '{name}', or null")


def _gamma_problems(config: Config, name: str) -> Iterator[KeyProblem]:
    """Yield that a network's intensities are raised to a power although some are negative."""
    if not network(config, name)["log_gamma"] or config["dataset"] not in config["datasets"]:
        return
    trained_on = networks_from(config, config["dataset"])
    if trained_on not in config["datasets"]:
        return
    settings = preparation(config, trained_on)
    if (settings["normalisation"], settings["region"]) != ("unit_range", "scan"):
        finding = f"negative intensities have no power, and `preparation` of '{trained_on}' leaves some"
        remedy = "Set it to 0, or `normalisation: unit_range` and `region: scan`"
        yield KeyProblem(("networks", name, "log_gamma"), finding, remedy)


def _initialisation_problems(config: Config, name: str) -> Iterator[KeyProblem]:
    """Yield what is wrong with the network whose weights another one begins with."""
    settings, path = network(config, name), ("networks", name, "initialise_from")
    first = settings["initialise_from"]
    if first is None:
        return
    if first not in config["networks"]:
        yield KeyProblem(path, f"'{first}' is not one of networks", suggestion(first, config["networks"]))
        return
    source = network(config, first)
    if source["initialise_from"] is not None:
        yield KeyProblem(path, f"'{first}' itself begins with the weights of another network", "Name one that begins at random")
        return
    kinds = (source["architecture"], settings["architecture"])
    if kinds[0] != kinds[1] and kinds != ("denoising_unet", "truncated_denoising_unet"):
        finding = f"the {kinds[1]} '{name}' cannot begin with the weights of the {kinds[0]} '{first}'"
        yield KeyProblem(path, finding, "Name a network of the same architecture")
        return
    shared = (source.keys() & settings.keys()) - set(config["training"]) - FREE_AT_THE_START
    differing = sorted(key for key in shared if source[key] != settings[key])
    if (source.get("strategy") in SELF_CONDITIONING) != (settings.get("strategy") in SELF_CONDITIONING):
        differing.append("strategy")
    if differing:
        finding = f"'{name}' and '{first}' differ in {', '.join(differing)}"
        yield KeyProblem(path, finding, "Set the same values for both")


def _presegmenter_problems(config: Config, name: str) -> Iterator[KeyProblem]:
    """Yield what is wrong with the networks whose masks a denoiser is validated from or trained on.

    Only denoisers have such networks, and no denoiser can be one. A circle of trainings is therefore impossible.
    """
    settings = network(config, name)
    is_presegmented = bool(settings.get("presegmented_share"))
    for key in ("validation_presegmenter", *(["presegmented_by"] if is_presegmented else [])):
        presegmenter, path = settings.get(key), ("networks", name, key)
        names = [*config["networks"], *(file_methods(config) if key == "validation_presegmenter" else [])]
        if presegmenter is None:
            continue
        if presegmenter not in names:
            yield KeyProblem(path, f"'{presegmenter}' is not one of networks", suggestion(presegmenter, names))
            continue
        if presegmenter not in config["networks"]:
            continue
        source, deterministic = network(config, presegmenter), ARCHITECTURES["deterministic"]
        if source["architecture"] not in deterministic:
            finding = f"the {source['architecture']} '{presegmenter}' has no deterministic mask"
            yield KeyProblem(path, finding, f"Name a network of architecture {' or '.join(sorted(deterministic))}")
        elif source["spatial_dims"] != settings["spatial_dims"]:
            finding = f"'{presegmenter}' has spatial_dims {source['spatial_dims']}, but '{name}' {settings['spatial_dims']}"
            yield KeyProblem(path, finding, "Name a network of as many dimensions, or null")
        elif not see_same_pixels(config, presegmenter, name):
            finding = f"'{presegmenter}' sees another `grid` than '{name}', whose images it would segment in training"
            yield KeyProblem(path, finding, "Name a network on the same grid, or null")
        elif key == "presegmented_by" and (first := source["initialise_from"]) is not None:
            finding = f"'{presegmenter}' begins with the weights of '{first}', which has seen the cases that it must leave out"
            yield KeyProblem(path, finding, "Name a network with `initialise_from: null`")


def _exhibit_problems(config: Config) -> Iterator[KeyProblem]:
    """Yield what is wrong with the exhibits, and with the variations that they name."""
    exhibits = config["exhibits"]
    starts = [row["method"] for row in exhibits["table2"]["presegmentations"]] if exhibits["table2"] is not None else []
    varied = [name for name in starts if "@" in name]
    if varied:
        path = ("exhibits", "table2", "presegmentations")
        yield KeyProblem(path, f"{', '.join(varied)} has no label", "Make it an entry of `methods` with its own label")
        return
    problems = [problem for name, path in _shown_methods(config).items() for problem in method_problems(config, name, path)]
    problems = problems or list(_pareto_problems(config)) or list(_figure5_problems(config)) or list(_memory_problems(config))
    problems = problems or list(_step_problems(config)) or list(_leak_problems(config))
    yield from problems or _row_problems(config)


def _pareto_problems(config: Config) -> Iterator[KeyProblem]:
    """Yield what is wrong with the Pareto figure, if there is one."""
    figure, path = config["exhibits"]["pareto"], ("exhibits", "pareto")
    if figure is None:
        return
    unchained = sorted({name for name in figure["methods"] if method(config, name)["segmenter"] != "diffusion"})
    if unchained:
        finding = f"{', '.join(unchained)} has no chain of reverse steps to shorten"
        yield KeyProblem((*path, "methods"), finding, "List methods with `segmenter: diffusion`")
    elif config["exhibits"]["fig4_ensemble"] is None:
        finding = "it shows resampled ensembles, whose number `exhibits.fig4_ensemble.subsets` sets, but that section is null"
        yield KeyProblem(path, finding, "Set `exhibits.fig4_ensemble`, or set this to null")
    else:
        for name in pareto_methods(config):
            yield from method_problems(config, name, (*path, "methods"))


def _figure5_problems(config: Config) -> Iterator[KeyProblem]:
    """Yield what is wrong with PatchDDM's Figure 5, if there is one, and with the claim about few steps."""
    exhibits = config["exhibits"]
    figure, path = exhibits["fig5"], ("exhibits", "fig5")
    few_steps = (exhibits["patch_claims"] or {}).get("few_steps")
    if figure is None:
        if few_steps is not None:
            finding = "it compares chains of Figure 5, but `exhibits.fig5` is null"
            yield KeyProblem(("exhibits", "patch_claims", "few_steps"), finding, "Set `exhibits.fig5`, or set this to null")
        return
    if (segmenter := method(config, figure["method"])["segmenter"]) != "diffusion":
        finding = f"'{figure['method']}' has the segmenter {segmenter} and no reverse steps"
        yield KeyProblem((*path, "method"), finding, "Name a method with `segmenter: diffusion`")
        return
    steps = [chain["reverse_steps"] for chain in figure["chains"]]
    if steps != sorted(set(steps)):
        yield KeyProblem((*path, "chains"), f"its reverse steps {steps} do not grow", "List each number once, fewest first")
    largest = max(chain["pool"] for chain in figure["chains"])
    if max(figure["members"]) > largest:
        finding = f"{max(figure['members'])} is more than the largest pool ({largest}), so its column would be empty"
        yield KeyProblem((*path, "members"), finding, "Remove it, or raise the `pool` of a chain")
    samples, smallest = method(config, figure["method"])["samples"], min(chain["pool"] for chain in figure["chains"])
    if smallest < samples:
        finding = (
            f"a pool of {smallest} is smaller than the {samples} members of '{figure['method']}', which are sampled anyway"
        )
        yield KeyProblem((*path, "chains"), finding, f"Raise the pool to {samples} or more")
    if few_steps is not None and few_steps not in steps[:-1]:
        finding = f"{few_steps} is no chain of Figure 5 shorter than its longest"
        yield KeyProblem(("exhibits", "patch_claims", "few_steps"), finding, suggestion(few_steps, map(str, steps[:-1])))
    for name in figure5_chains(config):
        yield from method_problems(config, name, (*path, "chains"))


def _step_problems(config: Config) -> Iterator[KeyProblem]:
    """Yield what is wrong with the exhibits of Fu et al., if there are any."""
    exhibits = config["exhibits"]
    if exhibits["table2"] is not None and exhibits["no_diffusion"] is not None:
        finding = "it and `exhibits.table2` would both be shown as table2.csv"
        yield KeyProblem(("exhibits", "no_diffusion"), finding, "Set one of them to null")
    path = ("exhibits", "steps", "methods")
    for name in (exhibits["steps"] or {"methods": ()})["methods"]:
        settings = method(config, name)
        if settings["segmenter"] != "diffusion":
            finding = f"'{name}' has the segmenter {settings['segmenter']} and no reverse steps"
            yield KeyProblem(path, finding, "List methods with `segmenter: diffusion`")
            return
        if settings["stop_after"] is not None:
            yield KeyProblem(path, f"'{name}' ends early itself", "List methods with `stop_after: null`")
            return
    for name in step_methods(config):
        yield from method_problems(config, name, path)


def _memory_problems(config: Config) -> Iterator[KeyProblem]:
    """Yield what is wrong with the networks of the memory table, if there is one."""
    table, path = config["exhibits"]["memory"], ("exhibits", "memory", "rows")
    for row in table["rows"] if table is not None else ():
        try:
            settings = network(config, row["network"])
        except ConfigError as error:
            yield from (problem.at(path) for problem in error.problems)
            continue
        if settings["architecture"] != "denoising_unet" or settings["spatial_dims"] != 3:
            finding = f"'{row['network']}' is no denoiser of volumes"
            yield KeyProblem(path, finding, "Name a network with `architecture: denoising_unet` and `spatial_dims: 3`")
        else:
            yield from _type_problems(Network, settings, ("networks", row["network"]))


def _leak_problems(config: Config) -> Iterator[KeyProblem]:
    """Yield what is wrong with the leak table, if there is one."""
    table, path = config["exhibits"]["leak"], ("exhibits", "leak")
    if table is None:
        return
    if config["exhibits"]["probe"] is None:
        finding = "its denoisers are probed as `exhibits.probe` says, but that section is null"
        yield KeyProblem(path, finding, "Set `exhibits.probe`, or set this to null")
        return
    for name in table_denoisers(config):
        key = "denoisers" if name in table["denoisers"] else "strategies"
        if name not in config["networks"]:
            finding = f"'{name}' is not one of networks"
            yield KeyProblem((*path, key), finding, suggestion(name, config["networks"]))
            return
        if (architecture := network(config, name)["architecture"]) != "denoising_unet":
            finding = f"'{name}' has the architecture {architecture}"
            yield KeyProblem((*path, key), finding, "List networks of architecture denoising_unet")
            return
    if repeated := [name for name in table["strategies"] if name in table["denoisers"]]:
        finding = f"{', '.join(repeated)} also stands in `exhibits.leak.denoisers`"
        yield KeyProblem((*path, "strategies"), finding, "Remove it from one of the two lists")
        return
    named = [("presegmenter", table["presegmenter"]), *((key, table[key]) for key in ("from_presegmentation", "from_noise"))]
    named += [(key, name) for key in ("means", "further") for name in table[key]]
    problems = [problem for key, name in named for problem in method_problems(config, name, (*path, key))]
    if not problems and is_from_files(config, table["presegmenter"]):
        finding = f"'{table['presegmenter']}' has no network whose training could be compared"
        problems = [KeyProblem((*path, "presegmenter"), finding, "Name a method with a network")]
    yield from problems or _leak_method_problems(config)


def _leak_method_problems(config: Config) -> Iterator[KeyProblem]:
    """Yield what is wrong with the methods of the leak table, whose names are known to exist."""
    table, path = config["exhibits"]["leak"], ("exhibits", "leak")
    for key, start in (("from_presegmentation", "presegmentation"), ("from_noise", "noise")):
        if method(config, table[key]).get("start") != start:
            finding = f"'{table[key]}' does not start from {'noise' if start == 'noise' else 'a pre-segmentation'}"
            yield KeyProblem((*path, key), finding, f"Name a method with `start: {start}`")
            return
    for name in table["further"]:
        if (segmenter := method(config, name)["segmenter"]) != "diffusion":
            finding = f"'{name}' has the segmenter {segmenter} and no denoiser that could vary"
            yield KeyProblem((*path, "further"), finding, "List methods with `segmenter: diffusion`")
            return
    for name in table["means"]:
        kinds = [method(config, part)["segmenter"] for part in averaged_methods(config, name)]
        if "diffusion" not in kinds:
            finding = f"'{name}' is no mean with a diffusion method"
            yield KeyProblem((*path, "means"), finding, "Name a method with `segmenter: mean` that averages one")
            return
    settings = {name: network(config, name) for name in table_denoisers(config)}
    labels = denoiser_labels(config, list(settings))
    rows = [f"{labels[name]}, likelihood_skip {str(settings[name]['likelihood_skip']).lower()}" for name in settings]
    if repeated := sorted({row for row in rows if rows.count(row) > 1}):
        finding = f"{' and '.join(repeated)} stands for two denoisers"
        yield KeyProblem(
            (*path, "denoisers"), finding, "List one of them, or let them differ in strategy, pre-segmentations or raters"
        )
        return
    for name in leak_methods(config):
        yield from method_problems(config, name, path)


def _shown_methods(config: Config) -> dict[str, tuple[str, ...]]:
    """Return the methods that exhibits name, with the key that names each first."""
    exhibits = config["exhibits"]
    table2, figure3, figure4 = (exhibits[name] for name in ("table2", "fig3_tprime", "fig4"))
    roles = {section: exhibits[section] or {} for section in ("claims", "patch_claims", "recycling_claims")}
    single = [name for name in ("table2", "fig3_tprime", "fig4_ensemble", "fig5") if exhibits[name] is not None]
    named = [
        *((("table1",), name) for name in exhibits["table1"]),
        (("compared_with",), exhibits["compared_with"]),
        *((("pareto", "methods"), name) for name in (exhibits["pareto"] or {"methods": ()})["methods"]),
        *(((key, role), name) for key, section in roles.items() for role, name in section.items() if isinstance(name, str)),
        *(((exhibit, "method"), exhibits[exhibit]["method"]) for exhibit in single),
        *((("fig4", "methods"), name) for name in (figure4["methods"] if figure4 is not None else ())),
        *(
            ((key, "methods"), name)
            for key in ("steps", "no_diffusion")
            for name in (exhibits[key] or {"methods": ()})["methods"]
        ),
    ]
    if figure3 is not None:
        named += [(("fig3_tprime", "t_start"), f"{figure3['method']}@t_start={t}") for t in figure3["t_start"]]
    if table2 is not None:
        starts = [f"{table2['method']}@presegmentation={row['method']}" for row in table2["presegmentations"]]
        named += [(("table2", "presegmentations"), name) for name in starts]
    return {name: ("exhibits", *path) for path, name in reversed(named)}


def _row_problems(config: Config) -> Iterator[KeyProblem]:
    """Yield what would stop an exhibit only after everything has been computed."""
    exhibits = config["exhibits"]
    rows = [canonical(config, name) for name in exhibits["table1"]]
    labels = [method(config, name)["label"] for name in rows if "@" not in name]
    for kind, values in (("method", rows), ("label", labels)):
        repeated = sorted({value for value in values if values.count(value) > 1})
        if repeated:
            finding = f"the {kind} {', '.join(repeated)} stands for two rows"
            yield KeyProblem(("exhibits", "table1"), finding, f"Give each row its own {kind}")
    sections = {key: exhibits[key] or {} for key in ("claims", "patch_claims", "recycling_claims")}
    first, *others = [key for key, section in sections.items() if section] or [None]
    for key in others:
        finding = f"it and `exhibits.{first}` would both be shown as claims.csv"
        yield KeyProblem(("exhibits", key), finding, "Set one of them to null")
    compared = {key: [name for name in section.values() if isinstance(name, str)] for key, section in sections.items()}
    compared["recycling_claims"] += sections["recycling_claims"].get("others", [])
    for key, names in {"compared_with": [exhibits["compared_with"]], **compared}.items():
        missing = [name for name in names if canonical(config, name) not in rows]
        if missing:
            yield KeyProblem(("exhibits", key), f"{', '.join(missing)} is not a row of Table 1", "Add it to `exhibits.table1`")
    if exhibits["pareto"] is not None:
        smallest, members = min(pool(config, name) for name in rows), exhibits["pareto"]["members"]
        if min(members) > smallest:
            finding = f"{members} leaves out methods with only {smallest} ensemble members"
            yield KeyProblem(("exhibits", "pareto", "members"), finding, f"Add {smallest}")
    figures = {("fig4_ensemble", "method"): [(exhibits["fig4_ensemble"] or {}).get("method")]}
    figures[("fig4", "methods")] = figure4_methods(config)
    for path, names in figures.items():
        for shown in (name for name in names if name is not None and "samples" not in method(config, name)):
            finding = f"'{shown}' samples no ensemble members"
            yield KeyProblem(("exhibits", *path), finding, "Choose a stochastic method")


def method_problems(config: Config, name: str, reference: Sequence[str] = ()) -> Iterator[KeyProblem]:
    """Yield what is wrong with one method or a variation of one, including its network.

    Args:
        config: a canonical configuration.
        name: the method, such as "pd-ddpm@t_start=50".
        reference: keys that lead to where it is named; a name that does not exist is reported there.
    """
    path = ("methods", name)
    try:
        settings = method(config, name)
    except ConfigError as error:
        yield from (problem.at(reference or path) for problem in error.problems)
        return
    problems = _type_problems(Method, settings, path)
    if not problems and settings["segmenter"] == "mean":
        yield from _mean_problems(config, name, settings)
        return
    if not problems and settings["segmenter"] == "files":
        return
    if not problems:
        try:
            trained = network(config, settings["network"])
        except ConfigError as error:
            problems = [problem.at((*path, "network")) for problem in error.problems]
        else:
            problems = _type_problems(Network, trained, ("networks", settings["network"]))
    yield from problems or _network_problems(config, name, settings, trained)


def _mean_problems(config: Config, name: str, settings: dict[str, Any]) -> Iterator[KeyProblem]:
    """Yield what is wrong with the methods that another one averages."""
    path, denoiser = ("methods", name, "mean_of"), settings["denoiser"]
    kinds = {}
    for part in settings["mean_of"]:
        try:
            kinds[part] = method(config, part)["segmenter"]
        except ConfigError as error:
            yield from (problem.at(path) for problem in error.problems)
            return
    if means := [part for part, kind in kinds.items() if kind == "mean"]:
        yield KeyProblem(path, f"{', '.join(means)} is a mean itself", "List the methods that it averages")
        return
    if denoiser is not None and "diffusion" not in kinds.values():
        finding = f"none of {', '.join(kinds)} samples from a denoiser"
        yield KeyProblem(("methods", name, "denoiser"), finding, "Set it to null, or add a diffusion method to `mean_of`")
        return
    for part in averaged_methods(config, name):
        yield from method_problems(config, part, path)


@cache
def _adapter(annotation: Any) -> TypeAdapter:
    return TypeAdapter(annotation)


def _type_problems(annotation: Any, settings: dict[str, Any], path: Sequence[str]) -> list[KeyProblem]:
    """Return what the types of a method's or network's keys reject."""
    try:
        _adapter(annotation).validate_python(settings)
    except ValidationError as error:
        return problems_from(error, annotation, path)
    return []


def _network_problems(config: Config, name: str, settings: dict[str, Any], trained: dict[str, Any]) -> Iterator[KeyProblem]:
    """Yield why a method cannot use its network."""
    path, model = ("methods", name), settings["network"]
    if "@" in model:
        yield from _initialisation_problems(config, model)
        yield from _presegmenter_problems(config, model)
    segmenter, architecture = settings["segmenter"], trained["architecture"]
    if architecture not in ARCHITECTURES[segmenter]:
        finding = f"segmenter '{segmenter}' cannot use the {architecture} '{model}'"
        yield KeyProblem(
            (*path, "network"), finding, f"Choose one of architecture {' or '.join(sorted(ARCHITECTURES[segmenter]))}"
        )
        return
    early = settings["checkpoint"].removeprefix("early-")
    kept = len(trained["early_levels"])
    if early != "selected" and int(early) > kept:
        finding = f"it is early-{early}, but '{model}' keeps {kept} early checkpoints"
        yield KeyProblem((*path, "checkpoint"), finding, f"Add a level to `early_levels` of '{model}'")
    if segmenter == "dropout" and not trained["dropout"]:
        finding = f"segmenter 'dropout' needs a network with dropout, but that of '{model}' is 0"
        yield KeyProblem((*path, "network"), finding, f"Raise `dropout` of '{model}' or choose another network")
    if segmenter == "diffusion":
        yield from _chain_problems(config, name, settings, trained)


def _chain_problems(config: Config, name: str, settings: dict[str, Any], trained: dict[str, Any]) -> Iterator[KeyProblem]:
    """Yield what is wrong with the reverse chain of a diffusion method."""
    path, model = ("methods", name, "t_start"), settings["network"]
    t_start, T = settings["t_start"], trained["T"]
    has_prior = trained["architecture"] == "truncated_denoising_unet"
    if t_start > T:
        yield KeyProblem(path, f"T' = {t_start} is above T = {T} of '{model}'", f"Set a whole number from 1 to {T}")
    elif t_start > trained["t_max"]:
        finding = f"T' = {t_start}, but '{model}' is trained up to t_max = {trained['t_max']} only"
        yield KeyProblem(path, finding, f"Lower it, or raise `t_max` of '{model}'")
    elif settings["start"] == "noise" and t_start != T:
        yield KeyProblem(path, f"a chain from noise starts at T = {T}, not at {t_start}", f"Set it to {T}")
    elif settings["start"] == "learned_prior" and not (has_prior and t_start == trained["t_max"]):
        finding = f"the start learned_prior needs a truncated_denoising_unet whose t_max is {t_start}"
        reason = f"'{model}' is a {trained['architecture']} with t_max = {trained['t_max']}"
        yield KeyProblem(path, f"{finding}, but {reason}", "Change `network` or `t_start`")
    count = trained["training_timesteps"]
    if count is not None and (t_start, settings["reverse_steps"], settings["step_spacing"]) != (
        trained["t_max"],
        count,
        "linspace",
    ):
        finding = f"'{model}' is trained at {count} timesteps, and chains of others are not meaningful"
        remedy = f"Set {count} `reverse_steps`, `step_spacing: linspace` and `t_start: {trained['t_max']}`"
        yield KeyProblem(("methods", name, "reverse_steps"), finding, remedy)
    elif settings["reverse_steps"] > T:
        finding = f"{settings['reverse_steps']} is more than the T = {T} steps of '{model}'"
        yield KeyProblem(("methods", name, "reverse_steps"), finding, f"Set {T} or fewer")
    elif settings["stop_after"] is not None and settings["stop_after"] > steps_of_chain(config, name):
        finding = f"{settings['stop_after']} is more than the {steps_of_chain(config, name)} steps of the chain"
        yield KeyProblem(("methods", name, "stop_after"), finding, "Lower it, or set it to null")
    elif settings["stop_after"] is not None and uses_reliability(config, name):
        finding = "the first step of a chain with `start_reliability: validation` is part of its start"
        yield KeyProblem(("methods", name, "stop_after"), finding, "Set it to null, or `start_reliability: none`")
    elif (settings["sampler"], settings["variance"], settings["large_variance_over_jumps"]) == ("ancestral", "large", False):
        yield from _jump_problems(config, name)
    if settings["start"] == "presegmentation":
        problems = list(_presegmentation_problems(config, name, settings))
        if not problems and uses_reliability(config, name):
            problems = list(_reliability_problems(config, name, trained))
        yield from problems


def _jump_problems(config: Config, name: str) -> Iterator[KeyProblem]:
    """Yield a problem if a chain with the large variance skips timesteps."""
    if adds_noise_over_jumps(config, name):
        chain = f"{steps_of_chain(config, name)} steps from T' = {method(config, name)['t_start']}"
        finding = f"'large' is meant for single steps, and over the jumps of a chain of {chain} it adds too much noise"
        small = f"Write '{name}@variance=small'" if "@" in name else "Set it or `sampling.variance` to `small`"
        yield KeyProblem(("methods", name, "variance"), finding, f"{small}, or set `large_variance_over_jumps: true`")


def _presegmentation_problems(config: Config, name: str, settings: dict[str, Any]) -> Iterator[KeyProblem]:
    """Yield what is wrong with the mask that a chain starts from."""
    source, path = settings["presegmentation"], ("methods", name, "presegmentation")
    if source == NO_PRESEGMENTATION:
        return
    try:
        other = method(config, source)
    except ConfigError as error:
        yield from (problem.at(path) for problem in error.problems)
        return
    if other["segmenter"] == "mean":
        yield KeyProblem(path, f"'{source}' is a mean of other methods", "Choose a method with a network of its own")
    elif other.get("start") == "presegmentation":
        finding = f"'{source}' starts from a pre-segmentation itself"
        yield KeyProblem(path, finding, "Choose a method that does not")
    elif settings["presegmentation_members"] == "each" and pool(config, source) < pool(config, name):
        members = pool(config, name)
        finding = f"each of {members} members starts from a member of '{source}', which has {pool(config, source)}"
        remedy = "Set `presegmentation_members: mean`"
        if "samples" in other:
            remedy = f"Raise `samples` of '{source}', or set `presegmentation_members: mean`"
        yield KeyProblem(path, finding, remedy)


def _reliability_problems(config: Config, name: str, trained: dict[str, Any]) -> Iterator[KeyProblem]:
    """Yield why the reliability of a method's pre-segmentation cannot be measured or used."""
    settings, path = method(config, name), ("methods", name, "start_reliability")
    source, remedy = settings["presegmentation"], "or set `start_reliability: none`"
    if not trained["likelihood_skip"]:
        finding = f"'{settings['network']}' has no likelihood skip, whose evidence the reliability would scale"
        yield KeyProblem(path, finding, f"Choose a network with `likelihood_skip: true`, {remedy}")
    elif source == NO_PRESEGMENTATION or method(config, source)["segmenter"] != "deterministic" or not settings["harden"]:
        finding = f"'{source}' with harden {str(settings['harden']).lower()} is no single mask of a trained network"
        yield KeyProblem(path, finding, f"Set a deterministic `presegmentation` and `harden: true`, {remedy}")
    elif method(config, source)["checkpoint"] != "selected":
        finding = f"the reliability is that of selected weights, but '{source}' uses {method(config, source)['checkpoint']}"
        yield KeyProblem(path, finding, f"Choose a `presegmentation` with `checkpoint: selected`, {remedy}")
    elif steps_of_chain(config, name) < 2:
        finding = "the chain has one step, after which no state is left that could be diffused again"
        yield KeyProblem(path, finding, f"Raise `reverse_steps`, {remedy}")
