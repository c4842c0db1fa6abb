"""Find the networks, methods and variations that the exhibits of a configuration need."""

from typing import Any

from pd_ddpm.config.chain_length import chain_steps
from pd_ddpm.config.resolve import ARCHITECTURES, NO_PRESEGMENTATION, Config, canonical, method, network

PATH_KEYS = ("folder", "pattern", "table")  # where a method with `segmenter: files` finds them


def networks_from(config: Config, dataset: str) -> str:
    """Return the dataset whose networks segment this one: itself, unless it is only tested."""
    return config["datasets"][dataset].get("networks_of") or dataset


def dataset_classes(config: Config, dataset: str) -> dict[int, str]:
    """Return label -> name of each class of a dataset; empty if its masks hold lesions."""
    classes = config["datasets"][dataset].get("classes") or {}
    return {int(label): name for label, name in classes.items()}  # JSON turns labels into text


def networks_before(config: Config, name: str) -> list[str]:
    """Return the networks that are trained before this one.

    These are that of its first weights, its validation's pre-segmenter, and those that segment its training cases.
    """
    settings = network(config, name)
    single = [other for key in ("initialise_from", "validation_presegmenter") if (other := settings.get(key)) is not None]
    return [*(other for other in single if other in config["networks"]), *inner_networks(config, name)]


def inner_networks(config: Config, name: str) -> list[str]:
    """Return the networks whose masks of the training cases a network is trained on, each without one of the inner folds."""
    settings = network(config, name)
    if not settings.get("presegmented_share"):
        return []
    source, count = settings["presegmented_by"], settings["inner_folds"]
    return [f"{source}@inner_fold={index}-of-{count}" for index in range(1, count + 1)]


def held_out(config: Config) -> str | None:
    """Return the dataset of held-out cases whose scores are part of the active dataset's exhibits, if there is one."""
    names = (name for name in config["datasets"] if is_held_out(config, name))
    return next((name for name in names if networks_from(config, name) == config["dataset"]), None)


def locked(config: Config, dataset: str) -> str | None:
    """Return why nothing may be computed from this dataset, or None if it is not locked."""
    if config["evaluate_held_out"] or not is_held_out(config, dataset):
        return None
    return (
        f"`datasets.{dataset}`: its cases are held out and locked, since tuning on them would void them. "
        "Set `evaluate_held_out: true` once all choices are made."
    )


def is_held_out(config: Config, dataset: str) -> bool:
    """Return whether a dataset consists of held-out cases."""
    return config["datasets"][dataset].get("part") == "held_out"


def averaged_methods(config: Config, name: str) -> list[str]:
    """Return the methods whose ensembles this method averages; none if it has a network of its own."""
    settings = method(config, name)
    names = settings.get("mean_of", [])
    if (denoiser := settings.get("denoiser")) is not None:
        is_diffusion = [method(config, part)["segmenter"] == "diffusion" for part in names]
        names = [f"{part}@network={denoiser}" if varies else part for part, varies in zip(names, is_diffusion, strict=True)]
    return [canonical(config, part) for part in names]


def mean_methods(config: Config) -> list[str]:
    """Return the entries of `methods` that average other methods."""
    return [name for name in config["methods"] if method(config, name)["segmenter"] == "mean"]


def file_methods(config: Config) -> list[str]:
    """Return the entries of `methods` whose masks another program has made."""
    return [name for name in config["methods"] if is_from_files(config, name)]


def is_from_files(config: Config, name: str) -> bool:
    """Return whether another program has made the masks of a method."""
    return method(config, name)["segmenter"] == "files"


def sampled_methods(config: Config, name: str) -> list[str]:
    """Return the methods whose networks make the masks of this one: itself, those that it averages, or none."""
    return [part for part in averaged_methods(config, name) or [name] if not is_from_files(config, part)]


def file_settings(config: Config, name: str) -> dict[str, Any]:
    """Return where a method with `segmenter: files` finds its files, and the label of lesions in them."""
    return {key: value for key, value in method(config, name).items() if key in (*PATH_KEYS, "lesion_label")}


def seen_doubt(config: Config, name: str) -> str | None:
    """Return a sentence if the program behind a method's files may have been trained on test cases, otherwise None.

    Each split has its own files if a path names {split}.
    """
    settings = method(config, name)
    paths = [settings[key] for key in PATH_KEYS if key in settings]
    if settings["segmenter"] != "files" or settings.get("unseen") or any("{split}" in path for path in paths):
        return None
    return f"{settings['label']}: its files are the same for all splits, so their program may have been trained on test cases."


def methods_before(config: Config, name: str) -> list[str]:
    """Return the methods whose predictions must exist before those of this one: averaged ones and pre-segmentations."""
    averaged = averaged_methods(config, name)
    starts = [presegmentation_of(config, part) for part in (name, *averaged)]
    return list(dict.fromkeys([*averaged, *filter(None, starts)]))


def pool(config: Config, name: str) -> int:
    """Return the number of ensemble members of a method that are stored.

    It is `samples`, or the `pool` of the figures that resample the method's ensembles, which is also that of a pre-segmentation
    whose members the method's members start from. A mean of methods has as many members as the largest ensemble that it
    averages.
    """
    if averaged := averaged_methods(config, name):
        return max(method(config, part).get("samples", 1) for part in averaged)
    samples = method(config, name).get("samples", 1)
    return max(samples, _pools(config).get(canonical(config, name), 0))


def _pools(config: Config) -> dict[str, int]:
    """Return the methods whose ensembles a figure resamples from a pool, each with its largest pool.

    A pre-segmentation whose members a method's members start from has as many as that method.
    """
    exhibits = config["exhibits"]
    shown = [(name, exhibits["fig4"]["pool"]) for name in figure4_methods(config)]
    shown += [(name, chain["pool"]) for name, chain in figure5_chains(config).items()]
    if (figure := exhibits["fig4_ensemble"]) is not None:
        shown.append((canonical(config, figure["method"]), figure["pool"]))
    pools: dict[str, int] = {}
    for name, members in shown:
        settings = method(config, name)
        starts = [presegmentation_of(config, name)] if settings.get("presegmentation_members") == "each" else []
        for stored in filter(None, [name, *starts]):
            pools[stored] = max(pools.get(stored, 0), members)
    return pools


def figure4_methods(config: Config) -> list[str]:
    """Return the methods of PatchDDM's Figure 4; none without that figure."""
    figure = config["exhibits"]["fig4"]
    return [] if figure is None else [canonical(config, name) for name in figure["methods"]]


def figure5_chains(config: Config) -> dict[str, dict[str, Any]]:
    """Return the methods of PatchDDM's Figure 5, each with its reverse steps and its pool.

    There are none without that figure, or if its method has no reverse steps, which `consistency` finds.
    """
    figure = config["exhibits"]["fig5"]
    if figure is None or "reverse_steps" not in method(config, figure["method"]):
        return {}
    names = [f"{figure['method']}@reverse_steps={chain['reverse_steps']}" for chain in figure["chains"]]
    return {canonical(config, name): chain for name, chain in zip(names, figure["chains"], strict=True)}


def step_points(config: Config) -> list[dict[str, Any]]:
    """Return the chains of Figure 3 and Table 4 of Fu et al. at each step: method, base and step; none without these."""
    section = config["exhibits"]["steps"]
    points = []
    for base in [] if section is None else section["methods"]:
        whole = f"{base}@samples={section['samples']}"
        count = steps_of_chain(config, whole)
        for step in range(1, count + 1):
            name = whole if step == count else f"{whole}@stop_after={step}"
            points.append({"method": canonical(config, name), "base": base, "step": step})
    return points


def step_methods(config: Config) -> list[str]:
    """Return the methods of `step_points`."""
    return [point["method"] for point in step_points(config)]


def resampling(config: Config, name: str) -> dict[str, Any]:
    """Return how the pool of a method is resampled.

    Returns:
        `subsets`: the largest number of ensembles of a size. `hd95`: whether HD95 is scored. The surfaces of an ensemble's mask
        take longer than its Dice, so they are computed where a figure shows HD95. `largest`: the largest size of ensembles;
        None: the whole pool.
    """
    exhibits = config["exhibits"]
    figures = [exhibits[figure] for figure in ("fig4_ensemble", "fig4", "fig5")]
    curves = {*figure4_methods(config), *figure5_chains(config)}
    if canonical(config, name) in step_methods(config) and canonical(config, name) not in curves:
        return {"subsets": exhibits["steps"]["samples"], "hd95": True, "largest": 1}
    subsets = max((figure["subsets"] for figure in figures if figure is not None), default=1)
    return {"subsets": subsets, "hd95": canonical(config, name) in curves, "largest": None}


def steps_of_chain(config: Config, name: str) -> int:
    """Return the number of reverse steps of a diffusion method."""
    settings = method(config, name)
    return chain_steps(settings["reverse_steps"], settings["t_start"], network(config, settings["network"])["T"])


def evaluated_steps(config: Config, name: str) -> int:
    """Return the number of reverse steps that a diffusion method takes, which may end before its chain does."""
    return method(config, name)["stop_after"] or steps_of_chain(config, name)


def adds_noise_over_jumps(config: Config, name: str) -> bool:
    """Return whether a diffusion method skips timesteps in a step that adds noise, as all steps but the last do."""
    return 1 < steps_of_chain(config, name) < method(config, name)["t_start"]


def uses_reliability(config: Config, name: str) -> bool:
    """Return whether the first reverse step of a method uses the reliability of its pre-segmentation."""
    return method(config, name).get("start_reliability") == "validation"


def weights_kind(config: Config, name: str) -> str:
    """Return which weights a method samples from, "raw" or "ema"."""
    settings = method(config, name)
    return network(config, settings["network"])["weights"] if settings["weights"] == "selected" else settings["weights"]


def gate_method(config: Config, name: str, weights: str) -> dict[str, Any]:
    """Return a method with a short chain and few members, which tests a network in other precisions than float32.

    Args:
        config: a canonical configuration.
        name: the network.
        weights: "raw" or "ema", the weights that are tested.
    """
    trained, gate = network(config, name), config["sampling"]["gate"]
    settings: dict[str, Any] = {"network": name, "checkpoint": "selected", "weights": weights}
    settings |= {"samples": gate["members"], "pool": gate["members"]}
    architecture = trained["architecture"]
    if architecture not in ARCHITECTURES["diffusion"]:
        segmenters = {"probabilistic_unet": "latent", "unet": "dropout" if trained.get("dropout") else "deterministic"}
        return settings | {"segmenter": segmenters.get(architecture, "deterministic")}
    # A network that is not trained up to T cannot start from noise; it starts from a mask without lesion.
    start = "noise" if trained["t_max"] == trained["T"] else "presegmentation"
    settings |= {"segmenter": "diffusion", "start": start, "t_start": trained["t_max"]}
    if architecture == "truncated_denoising_unet":
        settings["start"] = "learned_prior"
    whole = min(trained["T"], -(-gate["reverse_steps"] * trained["T"] // trained["t_max"]))
    return settings | {"sampler": "ancestral", "variance": "small", "eta": 0.0, "reverse_steps": whole}


def figure3_methods(config: Config) -> list[str]:
    """Return the methods of Fig. 3, one for each T'; none without that figure."""
    figure = config["exhibits"]["fig3_tprime"]
    return [] if figure is None else [canonical(config, f"{figure['method']}@t_start={t}") for t in figure["t_start"]]


def table2_methods(config: Config) -> list[tuple[str, str]]:
    """Return the rows of Table 2: (pre-segmentation, method that starts from it); none without that table."""
    table = config["exhibits"]["table2"]
    if table is None:
        return []
    starts = [row["method"] for row in table["presegmentations"]]
    return [(start, canonical(config, f"{table['method']}@presegmentation={start}")) for start in starts]


def pareto_methods(config: Config) -> list[str]:
    """Return the methods of the Pareto figure: T' x reverse steps x sampler, each number of steps once.

    A chain of one step ends with its first estimate of the mask, so it does not depend on the sampler. There are none without
    that figure.
    """
    figure = config["exhibits"]["pareto"]
    if figure is None:
        return []
    names: dict[tuple, str] = {}
    for base in figure["methods"]:
        plain = method(config, base)
        for t_start in figure["t_start"] if plain["start"] == "presegmentation" else [plain["t_start"]]:
            for sampler, respacings in figure["reverse_steps"].items():
                for steps in respacings:
                    name = f"{base}@reverse_steps={steps}@sampler={sampler}@t_start={t_start}"
                    is_restricted = sampler == "ancestral" and not plain["large_variance_over_jumps"]
                    if is_restricted and adds_noise_over_jumps(config, name):
                        name += "@variance=small"
                    length = steps_of_chain(config, name)
                    names.setdefault((base, t_start, length, sampler if length > 1 else None), canonical(config, name))
    return list(names.values())


def presegmentation_of(config: Config, name: str) -> str | None:
    """Return the method whose masks a method starts from, or None if it starts from none."""
    start = method(config, name).get("presegmentation")
    return None if start in (None, NO_PRESEGMENTATION) else canonical(config, start)


def preparation(config: Config, dataset: str) -> dict[str, Any]:
    """Return how a dataset is preprocessed: the section `preparation` with the keys that the dataset overrides."""
    return config["datasets"][dataset].get("preparation") or config["preparation"]


def training_settings(config: Config, name: str, dataset: str) -> dict[str, Any]:
    """Return the settings of a network on a dataset, without its working grid, see `training_grid`.

    Args:
        config: a canonical configuration.
        name: the network.
        dataset: the dataset that it is trained on. If this names classes, their labels are the setting `labels`.
    """
    settings = {key: value for key, value in network(config, name).items() if key != "grid"}
    classes = dataset_classes(config, dataset)
    return settings | ({"labels": list(classes)} if classes else {})


def training_grid(config: Config, name: str) -> dict[str, Any]:
    """Return the settings of a network's working grid that its training depends on: all but the form of sampled members."""
    return {key: value for key, value in network_grid(config, name).items() if key != "members"}


def network_grid(config: Config, name: str | None) -> dict[str, Any]:
    """Return the settings of a network's working grid: the section `grid` with the keys that the network overrides.

    Args:
        config: a canonical configuration.
        name: the network; None for methods without one, which have the section as it is.
    """
    return config["grid"] if name is None else network(config, name).get("grid") or config["grid"]


def grid_owner(config: Config, name: str | None) -> str | None:
    """Return the first network with the grid and dimensions of this one; None if its grid is the section `grid`."""
    grid = network_grid(config, name)
    if grid == config["grid"]:
        return None
    dims = network(config, name)["spatial_dims"]
    return next(
        other
        for other in config["networks"]
        if network_grid(config, other) == grid and network(config, other)["spatial_dims"] == dims
    )


def sampled_network(config: Config, name: str) -> str | None:
    """Return the network behind the members of a method; None if they come from files or from networks of several grids."""
    names = [method(config, part)["network"] for part in sampled_methods(config, name)]
    return names[0] if len({grid_owner(config, part) for part in names}) == 1 else None


def grid_members(config: Config, name: str | None) -> str:
    """Return `members` of a network's grid; "soft" for "auto" if no working grid is coarser than its scan."""
    grid = network_grid(config, name)
    return "soft" if grid["members"] == "auto" and grid["spacing_mm"] is None else grid["members"]


def starts_from_same_grid(config: Config, name: str) -> bool:
    """Return whether the masks that a method starts from were sampled on the grid of its own network, or are not known to be.

    Masks of other programs count as such, as if their program had seen the same pixels.
    """
    source = presegmentation_of(config, name)
    if source is None or is_from_files(config, source):
        return True
    return see_same_pixels(config, *(method(config, part)["network"] for part in (name, source)))


def see_same_pixels(config: Config, name: str, other: str) -> bool:
    """Return whether two networks see a scan in the same pixels: their grids differ at most in the padding.

    Args:
        config: a canonical configuration.
        name: a network.
        other: another one.
    """
    keys = ("spacing_mm", "region", "margin_mm")
    grids = [[network_grid(config, part)[key] for key in keys] for part in (name, other)]
    return grids[0] == grids[1] and network(config, name)["spatial_dims"] == network(config, other)["spatial_dims"]


def sampling_settings(config: Config, name: str) -> dict[str, Any]:
    """Return the settings of a method that affect its samples: all but its label, permissions and statements."""
    if is_from_files(config, name):
        return {"segmenter": "files"}
    settings = method(config, name) | {"pool": pool(config, name)}
    settings["grid_members"] = grid_members(config, sampled_network(config, name))
    if settings.get("start") == "presegmentation":
        settings["start_from_same_grid"] = starts_from_same_grid(config, name)
    return {key: value for key, value in settings.items() if key not in ("label", "large_variance_over_jumps")}
