"""Rows of the leak table: the methods that each denoiser samples with, and the methods that they are compared with."""

from collections.abc import Sequence
from typing import Any

from pd_ddpm.config import methods
from pd_ddpm.config.resolve import NO_PRESEGMENTATION, Config, canonical, method, network

# Settings of recycling that distinguish denoisers with the same share, and how a label names their values.
VARIANTS = {
    "recycled_estimate": {"hard": "hard estimate", "soft": "soft estimate", "sampled": "sampled estimate"},
    "strategy": {"recycling_noise": "from noise", "recycling_next": "from t + 1", "recycling_last": "from t_max"},
}

SELF_CONDITIONED_LABELS = {
    "self_conditioning_same": "self-conditioned on x_t",
    "self_conditioning_next": "self-conditioned on x_t+1",
}


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
        }
    ]
    references = {name: _reference(config, table["denoisers"], name) for name in table["denoisers"]}
    for name, label in denoiser_labels(config, table["denoisers"]).items():
        settings = network(config, name)
        starts, reference = _starts(config, name), references[name] and _starts(config, references[name])
        for number, (start, t_start, sampled) in enumerate(starts):
            rows.append(
                {
                    "method": sampled,
                    "network": name,
                    "denoiser": label,
                    "share": recycled_share(settings),
                    "likelihood_skip": settings["likelihood_skip"],
                    "start": start,
                    "t_start": t_start,
                    "reference": reference and reference[number][2],
                    "presegmented_share": settings["presegmented_share"],
                    "raters": settings["raters"],
                }
            )
    return rows


def leak_denoisers(config: Config) -> list[dict[str, Any]]:
    """Return network, label and training of each denoiser of the leak table; none if it is not configured."""
    keys = ("network", "denoiser", "share", "likelihood_skip", "presegmented_share", "raters")
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
    """Return the label of each denoiser, such as "share 0.75", without its likelihood skip.

    It also names the settings of recycling in which the denoisers with a share above 0 differ, self-conditioning, the share of
    patches from pre-segmentations, and random raters.
    """
    recycled = [network(config, name) for name in names if recycled_share(network(config, name))]
    differing = [key for key in VARIANTS if len({settings[key] for settings in recycled}) > 1]
    labels = {}
    for name in names:
        settings = network(config, name)
        share = recycled_share(settings)
        variants = [VARIANTS[key][settings[key]] for key in differing if share]
        if settings["strategy"] in SELF_CONDITIONED_LABELS:
            variants.append(f"{SELF_CONDITIONED_LABELS[settings['strategy']]} in {settings['strategy_share']:g}")
        if settings["presegmented_share"]:
            variants.append(f"pre-segmentations {settings['presegmented_share']:g}")
        if settings["raters"] == "random":
            variants.append("random raters")
        labels[name] = ", ".join([f"share {share:g}", *variants])
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


def _starts(config: Config, denoiser: str) -> list[tuple[str, int | None, str]]:
    """Return start, T' and method of each row of a denoiser."""
    table = config["exhibits"]["leak"]
    base = f"{table['from_presegmentation']}@network={denoiser}"
    noise = canonical(config, f"{table['from_noise']}@network={denoiser}")
    starts: list[tuple[str, int | None, str]] = [
        ("pre-segmentation", t_start, f"{base}@presegmentation={table['presegmenter']}@t_start={t_start}")
        for t_start in table["t_start"]
    ]
    starts.append(
        ("empty mask", table["empty_t_start"], f"{base}@presegmentation={NO_PRESEGMENTATION}@t_start={table['empty_t_start']}")
    )
    starts.append(("noise", method(config, noise)["t_start"], noise))
    for further in table["further"]:
        settings = method(config, further)
        if network(config, denoiser)["likelihood_skip"] or not methods.uses_reliability(config, further):
            starts.append((settings["label"], settings["t_start"], f"{further}@network={denoiser}"))
    starts += [(method(config, mean)["label"], None, f"{mean}@denoiser={denoiser}") for mean in table["means"]]
    return [(start, t_start, canonical(config, name)) for start, t_start, name in starts]
