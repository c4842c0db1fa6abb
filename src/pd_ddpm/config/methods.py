"""Which networks, methods and variations the exhibits of a configuration need."""

from typing import Any

from pd_ddpm.config.resolve import ARCHITECTURES, NO_PRESEGMENTATION, Config, canonical, method, network


def networks_from(config: Config, dataset: str) -> str:
    """The data set whose networks are asked for the masks of this one: itself, unless it is only tested."""
    return config["datasets"][dataset].get("networks_of") or dataset


def held_out(config: Config) -> str | None:
    """The data set of held-out cases whose scores are published beside the exhibits of the active data set, if there is one."""
    chosen = (name for name in config["datasets"] if is_held_out(config, name))
    return next((name for name in chosen if networks_from(config, name) == config["dataset"]), None)


def locked(config: Config, dataset: str) -> str | None:
    """Why nothing may be computed of this data set, if so."""
    if config["evaluate_held_out"] or not is_held_out(config, dataset):
        return None
    return (
        f"datasets.{dataset}: its cases are held out and locked; set evaluate_held_out: true once all choices are made, since "
        "tuning on them would void them."
    )


def is_held_out(config: Config, dataset: str) -> bool:
    return config["datasets"][dataset].get("part") == "held_out"


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


def chain_steps(reverse_steps: int, t_start: int, T: int) -> int:
    """Steps of a chain from `t_start`: its share t_start/T of the `reverse_steps` of a whole chain, at least one."""
    return max(1, round(reverse_steps * t_start / T))


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
