"""Files that jobs read from the runs of other jobs: trained networks, pre-segmentations and metadata."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pd_ddpm.config import exhibits, methods
from pd_ddpm.config.consistency import method_problems
from pd_ddpm.config.errors import ConfigError
from pd_ddpm.config.leak import inner_networks, leak_denoisers, leak_methods
from pd_ddpm.config.resolve import Config, method, network
from pd_ddpm.config.run import Run
from pd_ddpm.runtime.problem import Problem
from pd_ddpm.runtime.sealed import read_sealed_json


def training_inputs(config: Config, run: Run, root: str) -> dict[str, str | list[str]]:
    """Return the trained networks that a training reads.

    These are the one it is initialised from, its validation's pre-segmenter, and those that segment its training cases. If
    another program has made the masks of the validation cases, their list takes the place of the pre-segmenter.

    Args:
        config: a canonical configuration.
        run: the network to train.
        root: folder of all results.

    Raises:
        ConfigError: nothing is trained on this dataset.
    """
    trained = methods.networks_from(config, run.dataset)
    if trained != run.dataset:
        finding = f"nothing is trained on {run.dataset}, whose networks_of is {trained}"
        raise ConfigError(Problem(f"{root}/{run.dataset}/networks", finding, f"Request files in {root}/{trained}/networks"))
    settings, files = network(config, run.name), {}
    for role, key in (("first", "initialise_from"), ("presegmenter", "validation_presegmenter")):
        if (other := settings.get(key)) is not None and other not in config["networks"]:
            listed = f"{Run(run.dataset, other, run.split, run.seed).folder(root, 'masks')}_validation"
            files["validation_masks"] = [f"{listed}.csv", f"{listed}.json"]
        elif other is not None:
            folder = Run(run.dataset, other, run.split, run.seed).folder(root, "networks")
            files |= {f"{role}_weights": f"{folder}/model.safetensors", f"{role}_metadata": f"{folder}/model.json"}
    inner = [Run(run.dataset, name, run.split, run.seed) for name in methods.inner_networks(config, run.name)]
    if folders := [part.folder(root, "networks") for part in inner]:
        files["inner_weights"] = [f"{folder}/model.safetensors" for folder in folders]
        files["inner_metadata"] = [f"{folder}/model.json" for folder in folders]
    return files


def sampling_inputs(config: Config, run: Run, root: str) -> dict[str, str]:
    """Return what a method is sampled from: its network, the network's precision gate, and its pre-segmentation.

    If the first reverse step uses the reliability of the pre-segmentation, that is a file too.

    Args:
        config: a canonical configuration.
        run: the method to sample from.
        root: folder of all results.

    Raises:
        ConfigError: the method's settings are invalid.
    """
    _check_method(config, run.name)
    settings = method(config, run.name)
    trained = Run(methods.networks_from(config, run.dataset), settings["network"], run.split, run.seed)
    folder = trained.folder(root, "networks")
    weights = "model" if settings["checkpoint"] == "selected" else "early"
    files = {"weights": f"{folder}/{weights}.safetensors", "metadata": f"{folder}/model.json"}
    if settings["precision"] != "float32":
        files["gate"] = f"{folder}/precision-{methods.weights_kind(config, run.name)}.json"
    if start := methods.presegmentation_of(config, run.name):
        before = Run(run.dataset, start, run.split, run.seed).folder(root, "predictions")
        files["presegmentation"] = f"{before}/predictions.csv"
        if methods.uses_reliability(config, run.name):
            source = Run(trained.dataset, method(config, start)["network"], run.split, run.seed).folder(root, "networks")
            files["reliability"] = f"{source}/reliability-{methods.weights_kind(config, start)}.json"
    return files


def averaging_inputs(config: Config, run: Run, root: str) -> list[str]:
    """Return the tables of the predictions that a method averages, in the order of its `mean_of`.

    Args:
        config: a canonical configuration.
        run: the method that averages others.
        root: folder of all results.

    Raises:
        ConfigError: the method's settings are invalid.
    """
    _check_method(config, run.name)
    parts = [Run(run.dataset, name, run.split, run.seed) for name in methods.averaged_methods(config, run.name)]
    return [f"{part.folder(root, 'predictions')}/predictions.csv" for part in parts]


def _check_method(config: Config, name: str) -> None:
    if problems := list(method_problems(config, name)):
        raise ConfigError(*problems)


def mask_tables(config: Config, run: Run) -> list[str]:
    """Return the csv that names the files of a method with `segmenter: files`, if it has one.

    Args:
        config: a canonical configuration.
        run: the method.

    Raises:
        ConfigError: the method's settings are invalid.
    """
    _check_method(config, run.name)
    table = method(config, run.name).get("table")
    return [table.format(dataset=run.dataset, split=run.split, seed=run.seed)] if table else []


def probe_inputs(config: Config, dataset: str, root: str) -> list[str]:
    """Return the probes of all denoisers that segment a dataset.

    Args:
        config: a canonical configuration.
        dataset: name of the dataset.
        root: folder of all results.

    Raises:
        ConfigError: the figure of the probes is not configured.
    """
    exhibits.require_exhibit(config, "probe")
    networks = exhibits.runs(config, methods.networks_from(config, dataset), exhibits.probed_networks(config))
    return [f"{run.folder(root, 'networks')}/probe.csv" for run in networks]


def training_histories(config: Config, dataset: str, names: Iterable[str], root: str) -> list[str]:
    """Return the history of each training behind some methods and those that they start from or average, on one dataset.

    Args:
        config: a canonical configuration.
        dataset: name of the dataset that is segmented.
        names: the methods.
        root: folder of all results.
    """
    names = list(names)
    before = (other for name in names for other in methods.methods_before(config, name))
    networks = exhibits.network_users(config, [*names, *before])
    trainings = exhibits.runs(config, methods.networks_from(config, dataset), networks)
    return [f"{run.folder(root, 'networks')}/training.csv" for run in trainings]


def leak_inputs(config: Config, dataset: str, root: str) -> dict[str, Any]:
    """Return the scores of the leak table's methods, the histories of their trainings, and the cases of these trainings.

    Args:
        config: a canonical configuration.
        dataset: name of the dataset.
        root: folder of all results.

    Raises:
        ConfigError: the leak table is not configured.
    """
    exhibits.require_exhibit(config, "leak")
    names = leak_methods(config)
    source = methods.networks_from(config, dataset)
    inner = exhibits.runs(config, source, (name for inner in inner_networks(config).values() for name in inner))
    trained = f"{root}/{source}"
    return {
        "scores": [f"{run.folder(root, 'scores')}.csv" for run in exhibits.method_runs(config, dataset, names)],
        "histories": [
            *training_histories(config, dataset, names, root),
            *(f"{run.folder(root, 'networks')}/training.csv" for run in inner),
        ],
        "cases": f"{trained}/cases/prepared.csv",
        "splits": f"{trained}/splits.csv",
    }


def leak_probe_inputs(config: Config, dataset: str, root: str) -> list[str]:
    """Return the probes of all denoisers of the leak table.

    Args:
        config: a canonical configuration.
        dataset: name of the dataset.
        root: folder of all results.

    Raises:
        ConfigError: the leak table is not configured.
    """
    exhibits.require_exhibit(config, "leak_probe")
    names = [fields["network"] for fields in leak_denoisers(config)]
    networks = exhibits.runs(config, methods.networks_from(config, dataset), names)
    return [f"{run.folder(root, 'networks')}/probe.csv" for run in networks]


def claims_inputs(config: Config, dataset: str) -> dict[str, list[str]]:
    """Return the memory table of a dataset's exhibits, if PatchDDM's claims are tested and there is one."""
    shown = config["exhibits"]
    has_memory = shown["patch_claims"] is not None and shown["memory"] is not None
    return {"memory": [f"{config['results']}/{dataset}/exhibits/memory.csv"]} if has_memory else {}


def grid_dice_inputs(config: Config, dataset: str, name: str, root: str) -> dict[str, str]:
    """Return the table of the ground truth's Dice through a method's working grid; empty if that has the scan's own pixels.

    Args:
        config: a canonical configuration.
        dataset: name of the dataset.
        name: the method.
        root: folder of all results.
    """
    source = methods.sampled_network(config, name)
    if methods.network_grid(config, source)["spacing_mm"] is None:
        return {}
    owner = methods.grid_owner(config, source)
    return {"grid_dice": f"{root}/{dataset}/grid_dice{f'_{owner}' if owner else ''}.csv"}


def cost_inputs(config: Config, dataset: str, root: str) -> dict[str, list[str]]:
    """Return metadata and histories of all networks of a dataset, the metadata of its predictions, and all other exhibits.

    The exhibits are inputs so that the cost is computed last.

    Args:
        config: a canonical configuration.
        dataset: name of the dataset.
        root: folder of all results.
    """
    trained = methods.networks_from(config, dataset) == dataset
    networks = exhibits.runs(config, dataset, exhibits.planned_networks(config) if trained else ())
    predictions = exhibits.runs(config, dataset, exhibits.planned_methods(config))
    return {
        "network_metadata": [f"{run.folder(root, 'networks')}/model.json" for run in networks],
        "histories": [f"{run.folder(root, 'networks')}/training.csv" for run in networks],
        "prediction_metadata": [f"{run.folder(root, 'predictions')}/method.json" for run in predictions],
        "exhibits": [
            f"{config['results']}/{dataset}/exhibits/{exhibit.files[0]}"
            for name, exhibit in exhibits.default_exhibits(config).items()
            if name not in ("cost", "held_out")
        ],
    }


def existing_shards(folder: Path, settings: Mapping[str, Any], code: str, inputs: Iterable[str]) -> int | None:
    """Return in how many shards a finished sampling was computed, or None if there is none that is up to date.

    Another number of shards would give Snakemake other inputs, for which it would repeat a finished sampling.

    Args:
        folder: the predictions of a run.
        settings: settings that the samples must have been computed with.
        code: hash of the code that they must have been computed by.
        inputs: files that must not be newer than the predictions.
    """
    try:
        metadata = read_sealed_json(folder / "method.json")
        finished = (folder / "predictions.csv").stat().st_mtime
        unchanged = metadata["settings"] == settings and metadata["provenance"]["code"] == code
        newer = any(Path(file).stat().st_mtime > finished for file in inputs)
        return metadata["shards"] if unchanged and not newer else None
    except (OSError, ValueError, KeyError):  # not finished, or the metadata of an earlier version
        return None
