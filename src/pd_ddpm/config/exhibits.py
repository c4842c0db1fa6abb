"""Tables and figures of a configuration: their files, rows, labels and captions, and the runs that they show."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pd_ddpm.config import methods
from pd_ddpm.config.errors import ConfigError
from pd_ddpm.config.leak import leak_methods
from pd_ddpm.config.resolve import ARCHITECTURES, NO_PRESEGMENTATION, Config, canonical, method, network
from pd_ddpm.config.run import Run
from pd_ddpm.runtime.problem import Problem

# Roles of methods in PatchDDM's claims.
PATCH_ROLES = ("patch", "full_resolution", "half_resolution")

# Roles of methods in the claims of Fu et al.
RECYCLING_ROLES = ("recycled", "no_diffusion", "both")


@dataclass(frozen=True)
class Exhibit:
    """Files of a table or figure, the one for Snakemake's report first, and its category and title in the report."""

    files: tuple[str, ...]
    category: str
    title: str


def _table(name: str, title: str, further: tuple[str, ...] = ()) -> Exhibit:
    return Exhibit((f"{name}.html", f"{name}.csv", f"{name}.md", *further, f"{name}.json"), "Tables", title)


def _figure(name: str, title: str) -> Exhibit:
    return Exhibit((f"{name}.png", f"{name}.pdf", f"{name}.csv", f"{name}.json"), "Figures", title)


EXHIBITS = {
    "table1": _table("table1", "Table 1: all methods", ("table1.tex", "table1_groups.csv")),
    "table2": _table("table2", "Table 2: quality of the pre-segmentation"),
    "uncertainty": _table("uncertainty", "Uncertainty and calibration"),
    "claims": _table("claims", "The paper's claims"),
    "cost": _table("cost", "Cost of the run"),
    "fig2_uncertainty": _figure("fig2_uncertainty", "Figure 2: masks and uncertainty"),
    "fig3_tprime": _figure("fig3_tprime", "Figure 3: Dice against T'"),
    "fig4_ensemble": _figure("fig4_ensemble", "Figure 4: size of the ensemble"),
    "fig4": _figure("fig4", "Figure 4: Dice and HD95 against ensemble size"),
    "fig5": _figure("fig5", "Figure 5: reverse steps and ensemble size"),
    "fig3": _figure("fig3", "Figure 3: Dice and HD95 of each reverse step"),
    "table4": _table("table4", "Table 4: differences between seeds"),
    "memory": _table("memory", "Memory of patches and whole volumes"),
    "pareto": _figure("pareto", "Dice against cost"),
    "probe": _figure("probe", "Does the denoiser read x_t?"),
    "training": _figure("training", "Training curves"),
    "leak": _table("leak", "Leak of the pre-segmentation", ("leak.pdf", "leak.png")),
    "leak_probe": _figure("leak_probe", "What recycled denoisers read in x_t"),
}

# Exhibits whose sections in the configuration have other names, or which papers have in common.
SECTIONS = {
    "leak_probe": ["leak"],
    "claims": ["claims", "patch_claims", "recycling_claims"],
    "table2": ["table2", "no_diffusion"],
    "fig3": ["steps"],
    "table4": ["steps"],
}
NO_DIFFUSION = _table("table2", "Table 2: with and without diffusion")
HELD_OUT = _table("held_out", "Table 1 of the held-out cases", ("held_out.tex", "held_out_groups.csv"))


def available_exhibits(config: Config) -> dict[str, Exhibit]:
    """Return the exhibits that can be requested: all, and Table 1 of held-out cases if a dataset has them.

    Table 2 is the one that the configuration's paper has.
    """
    table2 = {} if config["exhibits"]["no_diffusion"] is None else {"table2": NO_DIFFUSION}
    return EXHIBITS | table2 | ({"held_out": HELD_OUT} if methods.held_out(config) else {})


def default_exhibits(config: Config) -> dict[str, Exhibit]:
    """Return the exhibits that a run computes by default: all that the configuration has."""
    return {name: exhibit for name, exhibit in available_exhibits(config).items() if has_exhibit(config, name)}


def has_exhibit(config: Config, name: str) -> bool:
    """Return whether a configuration has an exhibit: its key is not null, and held-out cases are unlocked."""
    if name == "held_out":
        return config["evaluate_held_out"]
    return any(config["exhibits"].get(key, {}) is not None for key in SECTIONS.get(name, [name]))


def require_exhibit(config: Config, name: str) -> None:
    """Raise ConfigError if a configuration does not have an exhibit."""
    if not has_exhibit(config, name):
        key, shown = ("leak", "leak table") if name in ("leak", "leak_probe") else (SECTIONS.get(name, [name])[0], name)
        remedy = "Add `--configfile config/leak.yaml` after the file to make" if key == "leak" else "Set it"
        raise ConfigError(Problem(f"`exhibits.{key}`", f"it is null, so this configuration has no {shown}", remedy))


def runs(config: Config, dataset: str, names: Iterable[str]) -> list[Run]:
    """Return the runs of networks or methods with every split and seed.

    Args:
        config: a canonical configuration.
        dataset: name of the dataset.
        names: networks or methods; a method that occurs under several names has one run.
    """
    splits, seeds = config["splits"], config["seeds"]
    return [Run(dataset, name, split, seed) for name in dict.fromkeys(names) for split in splits for seed in seeds]


def method_runs(config: Config, dataset: str, names: Iterable[str]) -> list[Run]:
    """Return the runs of methods with every split and seed, each once if a method occurs under several names."""
    return runs(config, dataset, (canonical(config, name) for name in names))


def first_runs(config: Config, dataset: str) -> list[Run]:
    """Return the runs of Table 1's methods with the first split and seed, in the order of the rows."""
    rows = (canonical(config, name) for name in config["exhibits"]["table1"])
    return [Run(dataset, name, config["splits"][0], config["seeds"][0]) for name in rows]


def browser_runs(config: Config, dataset: str) -> list[Run]:
    """Return the runs of Table 1's methods with every split and the first seed: together they have all test cases."""
    return [run for run in method_runs(config, dataset, config["exhibits"]["table1"]) if run.seed == config["seeds"][0]]


def labels(config: Config, names: Iterable[str]) -> dict[str, str]:
    """Return the label of each method in tables and figures; that of a variation lists the keys that it overrides."""
    result = {}
    for name in names:
        key = canonical(config, name)
        _, *overrides = key.split("@")
        label = method(config, name)["label"]
        result[key] = f"{label} ({', '.join(overrides)})" if overrides else label
    return result


def figure3_points(config: Config) -> list[dict[str, Any]]:
    """Return the methods of Fig. 3, each with its label and its reverse chain.

    All points of the curve have the label of one method. Only they have a T' (`t_start`). The step size is in timesteps. There
    are none without that figure.
    """
    if config["exhibits"]["fig3_tprime"] is None:
        return []
    (curve_label,) = labels(config, [config["exhibits"]["fig3_tprime"]["method"]]).values()
    curve = dict(zip(methods.figure3_methods(config), config["exhibits"]["fig3_tprime"]["t_start"], strict=True))
    points = []
    for name, label in labels(config, figure3_methods(config)).items():
        point = {"method": name, "label": curve_label if name in curve else label, "t_start": curve.get(name)}
        if method(config, name)["segmenter"] == "diffusion":
            steps = methods.steps_of_chain(config, name)
            point |= {"reverse_steps": steps, "step_size": method(config, name)["t_start"] / steps}
        points.append(point)
    return points


def figure3_methods(config: Config) -> list[str]:
    """Return the methods of Fig. 3: those of its curve, their pre-segmentation, and Table 1's chains from pure noise.

    Empty without that figure.
    """
    if config["exhibits"]["fig3_tprime"] is None:
        return []
    start = methods.presegmentation_of(config, config["exhibits"]["fig3_tprime"]["method"])
    whole = [name for name in config["exhibits"]["table1"] if method(config, name).get("start") == "noise"]
    return [*methods.figure3_methods(config), *([start] if start else []), *whole]


def table2_rows(config: Config) -> list[dict[str, str | None]]:
    """Return the rows of Table 2 as the fields of `Table2Row`; none without that table."""
    if config["exhibits"]["table2"] is None:
        return []
    printed = {row["method"]: row["printed"] for row in config["exhibits"]["table2"]["presegmentations"]}
    rows = []
    for start, name in methods.table2_methods(config):
        label = "No lesion" if start == NO_PRESEGMENTATION else method(config, start)["label"]
        presegmentation = methods.presegmentation_of(config, name)
        rows.append({"label": label, "method": name, "presegmentation": presegmentation, "printed_row": printed[start]})
    return rows


def table2_methods(config: Config) -> list[str]:
    """Return the methods whose scores Table 2 needs: those of its rows, and their pre-segmentations."""
    return [name for row in methods.table2_methods(config) for name in row if name != NO_PRESEGMENTATION]


def pareto_points(config: Config) -> list[dict[str, Any]]:
    """Return the methods of the Pareto figure, which include Table 1's, each with its label and its reverse chain.

    Empty without that figure.
    """
    if config["exhibits"]["pareto"] is None:
        return []
    points = []
    rows = (canonical(config, name) for name in config["exhibits"]["table1"])
    for name in dict.fromkeys([*methods.pareto_methods(config), *rows]):
        settings = method(config, name)
        point = {"method": name, "label": settings["label"]}
        if settings["segmenter"] == "diffusion":
            point |= {key: settings[key] for key in ("t_start", "sampler")}
            point["reverse_steps"] = methods.steps_of_chain(config, name)
        points.append(point)
    return points


def figure4_labels(config: Config) -> dict[str, str]:
    """Return the method of PD-DDPM's Figure 4 with its label; none without that figure."""
    figure = config["exhibits"]["fig4_ensemble"]
    return {} if figure is None else labels(config, [figure["method"]])


def figure_samples(config: Config, names: Iterable[str]) -> list[int]:
    """Return the ensemble sizes that these methods have in tables."""
    return sorted({method(config, name)["samples"] for name in names})


def figure5_points(config: Config) -> list[dict[str, Any]]:
    """Return the methods of PatchDDM's Figure 5, each with its reverse steps and its pool; none without that figure."""
    return [{"method": name, **chain} for name, chain in methods.figure5_chains(config).items()]


def memory_networks(config: Config) -> dict[str, dict[str, Any]]:
    """Return the settings of the memory table's networks that its numbers depend on: all but how long they are trained."""
    table = config["exhibits"]["memory"]
    names = [] if table is None else [row["network"] for row in table["rows"]]
    left_out = config["training"].keys() - {"coordinates"} | {"grid"}
    return {name: {key: value for key, value in network(config, name).items() if key not in left_out} for name in names}


def memory_note(config: Config) -> str:
    """Return what the caption of the memory table says about the input of its networks."""
    table = config["exhibits"]["memory"] or {}
    return f"{table.get('image_channels')} image channels, {table.get('batch')} in a batch of training"


def step_points(config: Config) -> list[dict[str, Any]]:
    """Return the chains of Figure 3 and Table 4 of Fu et al. at each step: method, label and step; none without these."""
    return [
        {"method": point["method"], "label": method(config, point["base"])["label"], "step": point["step"]}
        for point in methods.step_points(config)
    ]


def no_diffusion_labels(config: Config) -> dict[str, str]:
    """Return the methods of Table 2 of Fu et al. with their labels; none without that table."""
    section = config["exhibits"]["no_diffusion"]
    return {} if section is None else labels(config, section["methods"])


def claims_roles(config: Config) -> dict[str, Any]:
    """Return what the claims of the configuration's paper compare, as the fields of its roles."""
    exhibits = config["exhibits"]
    if exhibits["patch_claims"] is not None:
        return _patch_roles(config)
    if exhibits["recycling_claims"] is not None:
        return _recycling_roles(config)
    if exhibits["claims"] is None:
        return {}
    roles = {role: name and canonical(config, name) for role, name in exhibits["claims"].items()}
    curve = [point for point in figure3_points(config) if point["t_start"] is not None]
    return roles | {
        "presegmentation": methods.presegmentation_of(config, roles["pd_ddpm"]),
        "ensemble": next(iter(figure4_labels(config)), None),
        "grid": {point["t_start"]: point["method"] for point in curve},
        "step_sizes": {point["t_start"]: point["step_size"] for point in curve},
        "table2": table2_rows(config),
    }


def _patch_roles(config: Config) -> dict[str, Any]:
    """Return the roles in PatchDDM's claims: methods of Table 1, and the chains of Figure 5 with their reverse steps."""
    claims = config["exhibits"]["patch_claims"]
    roles = {role: claims[role] and canonical(config, claims[role]) for role in PATCH_ROLES}
    chains = {point["reverse_steps"]: point["method"] for point in figure5_points(config)}
    return roles | {"chains": chains, "few_steps": claims["few_steps"]}


def _recycling_roles(config: Config) -> dict[str, Any]:
    """Return the roles in the claims of Fu et al.: methods of Table 1, and recycling at each reverse step."""
    claims = config["exhibits"]["recycling_claims"]
    roles = {role: claims[role] and canonical(config, claims[role]) for role in RECYCLING_ROLES}
    steps = [point | {"label": ""} for point in methods.step_points(config) if point["base"] == claims["recycled"]]
    return roles | {"others": labels(config, claims["others"]), "steps": steps}


def claims_methods(config: Config) -> list[str]:
    """Return all methods whose scores the claims need."""
    if config["exhibits"]["claims"] is None:
        return compared_methods(config)
    return [*compared_methods(config), *claims_roles(config)["grid"].values(), *table2_methods(config)]


def compared_methods(config: Config) -> list[str]:
    """Return the methods that the claims compare by their roles, without those of Table 2 and of curves."""
    roles = claims_roles(config)
    names = ("pd_ddpm", "vanilla", "presegmentation", "tdpm", "es_ddpm", *PATCH_ROLES, *RECYCLING_ROLES)
    return [*(roles[role] for role in names if roles.get(role)), *roles.get("others", ())]


def claims_ensembles(config: Config) -> list[str]:
    """Return the methods whose ensembles of several sizes the claims need."""
    if config["exhibits"]["patch_claims"] is not None:
        return list(dict.fromkeys([*methods.figure4_methods(config), *methods.figure5_chains(config)]))
    if config["exhibits"]["recycling_claims"] is not None:
        return [point["method"] for point in claims_roles(config)["steps"]]
    return list(figure4_labels(config))


def resampled_methods(config: Config) -> list[str]:
    """Return the methods whose ensembles figures and Table 4 of Fu et al. resample."""
    curves = [*figure4_labels(config), *methods.figure4_methods(config), *methods.figure5_chains(config)]
    return list(dict.fromkeys([*curves, *methods.step_methods(config)]))


def planned_methods(config: Config) -> list[str]:
    """Return every method that an exhibit shows, and the methods whose predictions these need."""
    shown = [*config["exhibits"]["table1"], *table2_methods(config), *figure3_methods(config), *claims_methods(config)]
    shown = [canonical(config, name) for name in [*shown, *no_diffusion_labels(config), *resampled_methods(config)]]
    shown += [*(point["method"] for point in pareto_points(config)), *leak_methods(config)]
    before = [other for name in shown for other in methods.methods_before(config, name)]
    return list(dict.fromkeys([*shown, *before]))


def planned_networks(config: Config) -> list[str]:
    """Return the networks of all methods that the exhibits need, and the networks that the trainings of these need."""
    names = list(network_users(config, planned_methods(config)))
    before = {name: methods.networks_before(config, name) for name in names}
    while missing := [other for others in before.values() for other in others if other not in before]:
        before |= {name: methods.networks_before(config, name) for name in missing}
    return list(before)


def scored_grid(config: Config, owner: str | None = None) -> dict[str, Any]:
    """Return a working grid through which captions give the ground truth's Dice.

    Args:
        config: a canonical configuration.
        owner: a network with a grid of its own; None for the section `grid`. That is the grid of slices, or of volumes if no
            network of the exhibits sees slices on it.
    """
    grid = {key: value for key, value in methods.network_grid(config, owner).items() if key != "members"}
    names = [owner] if owner else [name for name in planned_networks(config) if methods.grid_owner(config, name) is None]
    sees_slices = any(network(config, name)["spatial_dims"] == 2 for name in names)
    return grid if sees_slices else grid | {"spatial_dims": 3}


def measured_network(config: Config) -> str:
    """Return the network whose speed is measured before a run: that of Fig. 3, or the first denoiser that is planned."""
    if (figure := config["exhibits"]["fig3_tprime"]) is not None:
        return method(config, figure["method"])["network"]
    names = planned_networks(config)
    denoisers = [name for name in names if network(config, name)["architecture"] in ARCHITECTURES["diffusion"]]
    return (denoisers or names)[0]


def network_users(config: Config, names: Iterable[str]) -> dict[str, str]:
    """Return the networks of methods, each with the labels of these methods that sample from it or average its samples."""
    users: dict[str, dict[str, None]] = {}
    for name in names:
        for sampled in methods.sampled_methods(config, name):
            users.setdefault(method(config, sampled)["network"], {})[method(config, name)["label"]] = None
    return {network: ", ".join(labels) for network, labels in users.items()}


def probed_networks(config: Config) -> dict[str, str]:
    """Return the denoisers of all methods that the exhibits need, each with the labels of the methods that use it.

    Empty without the figure of their probes.
    """
    if config["exhibits"]["probe"] is None:
        return {}
    diffusion = [name for name in planned_methods(config) if method(config, name)["segmenter"] == "diffusion"]
    return network_users(config, diffusion)


def caption_note(config: Config, dataset: str) -> str:
    """Return what a table's caption says about scale, simulation and held-out cases."""
    scales = {
        "demo": ("Demo scale: small networks and few steps", ", too few for TDPM's discriminator to learn"),
        "gpu": ("GPU scale: the paper's networks, trained for minutes", ", too short for TDPM's discriminator to learn"),
        "paper": ("The configuration's paper scale", ""),
    }
    scale, limit_of_tdpm = scales[config["scale"]]
    has_tdpm = any(method(config, name).get("start") == "learned_prior" for name in planned_methods(config))
    text = f"{scale}{limit_of_tdpm if has_tdpm else ''}."
    source = config["datasets"][dataset]
    if "simulate" in source:
        text += " The scans are simulated: nothing here is a result on patients."
    text += _grid_sentence(config["grid"]) + _own_grid_sentences(config) + _files_sentences(config)
    if source.get("part") == "held_out":
        text += (
            " These are the held-out cases of the WMH challenge, on which nothing was trained. The values that the paper "
            "prints are those of other cases."
        )
    if source.get("networks_of"):
        splits = f"split{'s' if len(config['splits']) > 1 else ''} {', '.join(map(str, config['splits']))}"
        text += (
            f" The networks were trained on the dataset {source['networks_of']}. Each case is segmented by the networks of "
            f"{splits} and every seed. It counts once, with the mean of its scores (for HD95, of the defined ones)."
        )
    return text


def _grid_sentence(grid: Config) -> str:
    """Return what a caption says about the form of the members on a working grid; no text on the scan's own pixels."""
    if grid["spacing_mm"] is None:
        return ""
    members = {
        "auto": "On larger pixels than the scan's, the members of all methods are made binary.",
        "binary": "On them, the members of all methods are made binary.",
        "soft": (
            "The members of all methods keep their probabilities on them. If these pixels are larger than the scan's, this "
            "favours networks of a single pass, whose probabilities hold partial volumes, over reverse chains, which end "
            "nearly binary."
        ),
    }
    return f" The networks see pixels of {grid['spacing_mm']:g} mm. {members[grid['members']]}"


def _own_grid_sentences(config: Config) -> str:
    """Return what a caption says about networks with pixels or members of their own."""
    users = network_users(config, planned_methods(config))
    text = ""
    for name, labels in users.items():
        own, common = methods.network_grid(config, name), config["grid"]
        if own["spacing_mm"] != common["spacing_mm"]:
            pixels = "the scan's own pixels" if own["spacing_mm"] is None else f"pixels of {own['spacing_mm']:g} mm"
            text += f" The network of {labels} sees {pixels}."
        if (members := methods.grid_members(config, name)) != methods.grid_members(config, None):
            form = {"auto": "are made binary on pixels larger than the scan's", "binary": "are made binary on them"}
            text += f" The members of {labels} {form.get(members, 'keep their probabilities')}."
    return text


def _files_sentences(config: Config) -> str:
    """Return what a caption says about methods whose masks another program has made."""
    names = [name for name in planned_methods(config) if methods.is_from_files(config, name)]
    if not names:
        return ""
    listed = " and ".join(labels(config, names).values())
    cost = f" The masks of {listed} are files, whose cost is not known: that of methods that start from them is without it."
    doubts = dict.fromkeys(filter(None, (methods.seen_doubt(config, name) for name in names)))
    return "".join([cost, *(f" {doubt}" for doubt in doubts)])


def figure_note(config: Config, dataset: str) -> str:
    """Return the short form of `caption_note` for the title of a figure."""
    simulated = " (simulated)" if "simulate" in config["datasets"][dataset] else ""
    return f"{dataset}{simulated}, {config['scale']} scale"
