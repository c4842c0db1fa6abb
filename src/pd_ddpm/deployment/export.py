"""From the results of a data set to a bundle of one of its methods."""

import json
import shutil
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from pd_ddpm.config.run import Run
from pd_ddpm.data.splits import cases_by_role
from pd_ddpm.deployment import bundle as bundles
from pd_ddpm.deployment.bundle import Bundle, BundleError, Stage, network_files, read_bundle
from pd_ddpm.deployment.model_card import INTENDED_USE, model_card, summarise_scores, summarise_training
from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.models.weights import architecture_settings, load_weights, save_weights
from pd_ddpm.runtime.files import atomic_write, file_sha256, write_json


def export(
    results: str | Path,
    output: str | Path,
    *,
    method: str,
    split: int,
    seed: int,
    licence: str | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Write the bundle of a method, one split and one seed, from a data set's folder among the results; returns it, verified.

    licence: of the scans that were trained on, where the configuration did not name it. The folder appears under its name only
    when it is whole.

    Raises BundleError if the method has not been trained, drawn and scored there, or if `output` holds something else.
    """
    results, output = Path(results), Path(output)
    run = Run(results.name, method, split, seed).slug
    _check_output(output, overwrite)
    stages = _stages(results, method, run)
    preparation = _read_json(results / "cases" / "preparation.json", "the prepared cases")
    source = preparation.pop("dataset")
    preparation.pop("provenance", None)
    made = _read_json(results / "predictions" / method / run / "method.json", f"the predictions of '{method}'")
    scores = results / "scores" / method / f"{run}.csv"
    if not scores.is_file():
        raise BundleError(f"{scores}: there are no scores for the model card; make them first: snakemake {scores}")
    manifest = pd.read_csv(results / "cases" / "prepared.csv", dtype={"case": str})
    trained_on = manifest[manifest["case"].isin(cases_by_role(results / "splits.csv", split)["train"])]
    about = bundles.describe(
        method,
        stages,
        made_by=f"pd-ddpm {version('pd-ddpm')}",
        intended_use=INTENDED_USE,
        licence=licence or source["licence"] or "not stated; ask whoever gave you the scans",
        preparation=preparation,
        # Networks see scans as those that they were trained on lie, whether or not the configuration had them turned.
        orientation=trained_on["orientation"].iloc[0],
        training=summarise_training(trained_on)
        | {"dataset": source["name"], "simulated": source["simulated"], "split": split, "seed": seed},
        scores=summarise_scores(read_scores([scores])),
        record={key: made[key] for key in ("provenance", "made_from") if key in made},
    )
    partial = output.with_name(f".partial.{output.name}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for stage in stages:
            _copy_network(results, run, stage, partial)
        write_json(partial / bundles.DESCRIPTION, about)
        with atomic_write(partial / bundles.CARD) as temporary:
            temporary.write_text(model_card(about).markdown(), encoding="utf-8")
        bundles.write_checksums(partial)
        bundle = read_bundle(partial)
        if output.exists():
            shutil.rmtree(output)
        partial.replace(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return replace(bundle, folder=output)


def _check_output(output: Path, overwrite: bool) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / bundles.CHECKSUMS).is_file():
        raise BundleError(f"{output}: holds something else than a bundle; name another folder.")
    if not overwrite:
        raise BundleError(f"{output}: holds a bundle already; name another folder, or give --overwrite to replace it.")


def _stages(results: Path, method: str, run: str, members: int = 1) -> list[Stage]:
    """The method, of which at least so many members are drawn, and, before it, the one that it starts from."""
    folder = results / "predictions" / method / run
    if not folder.is_dir():
        drawn = sorted(path.parent.name for path in (results / "predictions").glob(f"*/{run}") if "@" not in path.parent.name)
        there = f"there are: {', '.join(drawn)}" if drawn else "nothing has been drawn there"
        raise BundleError(f"{folder}: there are no predictions of '{method}' ({there}); make them with snakemake first.")
    card = _read_json(folder / "method.json", f"the predictions of '{method}'")
    before = card["presegmentation"]
    # The figures' pool of members is larger than the ensemble that is used.
    pool = max(members, card["settings"].get("samples", 1))
    settings = card["settings"] | {"pool": pool}
    needed = pool if settings.get("presegmentation_members") == "each" else 1
    network = card["network"] if settings["checkpoint"] == "selected" else f"{card['network']}_{settings['checkpoint']}"
    own = Stage(method, settings, network, card["seed"], before)
    return [*(_stages(results, before, run, needed) if before else []), own]


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read ({error}); make {what} again with snakemake.") from error


def _copy_network(results: Path, run: str, stage: Stage, bundle: Path) -> None:
    """The weights that the stage uses, and their card with the hash of that file alone."""
    which = stage.settings["checkpoint"]
    folder = results / "networks" / stage.network.removesuffix(f"_{which}") / run
    file = "model.safetensors" if which == "selected" else "early.safetensors"
    tensors, card = load_weights(folder / file, folder / "model.json", which)
    weights, own_card = network_files(bundle, stage.network)
    save_weights(weights, tensors, architecture_settings(card))
    # The names of the cases stay here: a bundle may go to others.
    kept = {key: value for key, value in card.items() if key not in ("training_cases", "early")}
    if (folder / "precision.json").is_file():
        verdict = _read_json(folder / "precision.json", "the test of its number formats")
        kept["gate"] = {key: verdict[key] for key in ("device", "formats")}
    write_json(own_card, kept | {"sha256": {weights.name: file_sha256(weights)}})
