"""Rows of the leak table: the methods that each denoiser samples with, and the methods that they are compared with."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from pd_ddpm.config import methods
from pd_ddpm.config.resolve import NO_PRESEGMENTATION, Config, canonical, method, network

# Names of the strategies of Fu et al. 2024. A label names all others by their share of recycled patches.
STRATEGY_LABELS = {
    "self_conditioning_same": "self-conditioned on x_t",
    "self_conditioning_next": "self-conditioned on x_t+1",
    "recycling_next": "recycled from x_t+1",
    "recycling_last": "recycled from x_T",
}


class _Start(NamedTuple):
    """What the chains of a row start from.

    Attributes:
        label: its name in the table, or that of the mean that contains the chains.
        t_start: start timestep T'; None for a mean.
        template: the method, for any denoiser.
    """

    label: str
    t_start: int | None
    template: str

    def method_of(self, config: Config, denoiser: str) -> str:
        """Return the method with this denoiser."""
        return canonical(config, f"{self.template}@{'denoiser' if self.t_start is None else 'network'}={denoiser}")


def leak_rows(config: Config) -> list[dict[str, Any]]:
    """Return the rows of the leak table as the fields of `LeakRow`; none if the table is not configured.

    The pre-segmenter is the first row. It has neither a denoiser nor a reference.
    """
    table = config["exhibits"]["leak"]
    if table is None:
        return []
    presegmenter = canonical(config, table["presegmenter"])
    rows = [
        {
            "method": presegmenter,
            "network": method(config, presegmenter)["network"],
            "denoiser": method(config, presegmenter)["label"],
            "share": None,
            "likelihood_skip": None,
            "start": "pre-segmenter",
            "t_start": None,
            "reference": None,
            "presegmented_share": None,
            "raters": None,
            "strategy": None,
        }
    ]
    names = table_denoisers(config)
    for name, label in denoiser_labels(config, names).items():
        settings, reference = network(config, name), _reference(config, names, name)
        compared = _starts(config, reference) if reference else []
        for start in _starts(config, name):
            rows.append(
                {
                    "method": start.method_of(config, name),
                    "network": name,
                    "denoiser": label,
                    "share": recycled_share(settings),
                    "likelihood_skip": settings["likelihood_skip"],
                    "start": start.label,
                    "t_start": start.t_start,
                    "reference": start.method_of(config, reference) if start in compared else None,
                    "presegmented_share": settings["presegmented_share"],
                    "raters": settings["raters"],
                    "strategy": settings["strategy"],
                }
            )
    return rows


def table_denoisers(config: Config) -> list[str]:
    """Return the names of all denoisers of the leak table, which must be configured."""
    table = config["exhibits"]["leak"]
    return [*table["denoisers"], *table["strategies"]]


def leak_denoisers(config: Config) -> list[dict[str, Any]]:
    """Return network, label and training of each denoiser of the leak table; none if it is not configured."""
    keys = ("network", "denoiser", "share", "likelihood_skip", "presegmented_share", "raters", "strategy")
    rows = {row["network"]: {key: row[key] for key in keys} for row in leak_rows(config)[1:]}
    return list(rows.values())


def leak_methods(config: Config) -> list[str]:
    """Return all methods of the leak table; none if it is not configured."""
    return [row["method"] for row in leak_rows(config)]


def network_labels(config: Config) -> dict[str, str]:
    """Return network -> label of the pre-segmenter or denoiser; a denoiser's label says whether it has the likelihood skip."""
    return {row["network"]: _label(row) for row in leak_rows(config)}


def noise_labels(config: Config) -> dict[str, str]:
    """Return the methods that start from noise, each with the label of its denoiser."""
    return {row["method"]: f"{_label(row)}, from noise" for row in leak_rows(config) if row["start"] == "noise"}


def inner_networks(config: Config) -> dict[str, list[str]]:
    """Return each network of the leak table with those that segment its training cases, which are trained for it."""
    return {name: methods.inner_networks(config, name) for name in network_labels(config)}


def _label(row: dict[str, Any]) -> str:
    if row["likelihood_skip"] is None:
        return row["denoiser"]
    return f"{row['denoiser']}, {'skip' if row['likelihood_skip'] else 'no skip'}"


def denoiser_labels(config: Config, names: Sequence[str]) -> dict[str, str]:
    """Return the label of each denoiser, such as "share 0.75" or "recycled from x_T", without its likelihood skip.

    It also names the estimate if recycled denoisers of one strategy differ in it, the share of patches from
    pre-segmentations, and random raters.
    """
    settings_of = {name: network(config, name) for name in names}
    labels = {}
    for name, settings in settings_of.items():
        share, variants = settings["strategy_share"], []
        if settings["strategy"] in STRATEGY_LABELS:
            label = STRATEGY_LABELS[settings["strategy"]] + (f" in {share:g}" if share < 1 else "")
        else:
            label = f"share {recycled_share(settings):g}"
        alike = [other for other in settings_of.values() if other["strategy"] == settings["strategy"]]
        if recycled_share(settings) and len({other["recycled_estimate"] for other in alike}) > 1:
            variants.append(f"{settings['recycled_estimate']} estimate")
        if settings["presegmented_share"]:
            variants.append(f"pre-segmentations {settings['presegmented_share']:g}")
        if settings["raters"] == "random":
            variants.append("random raters")
        labels[name] = ", ".join([label, *variants])
    return labels


def recycled_share(settings: dict[str, Any]) -> float:
    """Return the share of the patches of a network's training whose x_t is made from its own estimate."""
    return settings["strategy_share"] if settings["strategy"].startswith("recycling") else 0.0


def _reference(config: Config, names: Sequence[str], name: str) -> str | None:
    """Return the denoiser of plain diffusion with the same likelihood skip; None for that denoiser itself, or without one.

    One that is trained on the ground truth precedes one that is trained on random raters.
    """
    skip = network(config, name)["likelihood_skip"]
    settings = {other: network(config, other) for other in names}
    plain = [other for other in names if settings[other]["likelihood_skip"] == skip]
    plain = [other for other in plain if settings[other]["strategy"] == "diffusion"]
    plain = [other for other in plain if not settings[other]["presegmented_share"]]
    plain.sort(key=lambda other: settings[other]["raters"] != "first")
    return plain[0] if plain and plain[0] != name else None


def _starts(config: Config, denoiser: str) -> list[_Start]:
    """Return the starts of the rows of a denoiser."""
    table = config["exhibits"]["leak"]
    is_strategy = denoiser in table["strategies"]
    masks = f"{table['from_presegmentation']}@presegmentation"
    starts = [
        _Start("pre-segmentation", t_start, f"{masks}={table['presegmenter']}@t_start={t_start}")
        for t_start in table["strategies_t_start" if is_strategy else "t_start"]
    ]
    noise = _Start("noise", method(config, table["from_noise"])["t_start"], table["from_noise"])
    if is_strategy:
        return [*starts, noise]
    t_start = table["empty_t_start"]
    starts += [_Start("empty mask", t_start, f"{masks}={NO_PRESEGMENTATION}@t_start={t_start}"), noise]
    for further in table["further"]:
        settings = method(config, further)
        if network(config, denoiser)["likelihood_skip"] or not methods.uses_reliability(config, further):
            starts.append(_Start(settings["label"], settings["t_start"], further))
    return starts + [_Start(method(config, mean)["label"], None, mean) for mean in table["means"]]
