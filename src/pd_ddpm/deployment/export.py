"""Export a trained method from the results of a dataset as a bundle."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pd_ddpm.config.run import Run
from pd_ddpm.data.cases.table import read_table
from pd_ddpm.data.label_maps import CLASSES_COLUMN, parse_classes
from pd_ddpm.data.prepared import cases_by_role, read_scan
from pd_ddpm.data.skull_stripping import is_skull_stripped
from pd_ddpm.deployment import bundle as bundles
from pd_ddpm.deployment.bundle import Bundle, BundleError, Stage
from pd_ddpm.deployment.model_card import INTENDED_USE, model_card, summarise_scores, summarise_training
from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.models.weights import architecture_settings, load_weights, save_metadata, save_weights
from pd_ddpm.runtime.files import atomic_write, write_json
from pd_ddpm.runtime.problem import Problem
from pd_ddpm.runtime.sealed import read_sealed_json
from pd_ddpm.runtime.sealed_tables import read_sealed_csv

# Keys of a network's metadata that are not exported: names of cases must not leave the site, and a bundle holds one checkpoint.
_NOT_EXPORTED = ("training_cases", "early")


def export_bundle(
    results: str | Path,
    output: str | Path,
    *,
    method: str,
    split: int,
    seed: int,
    licence: str | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Write the bundle of a method, and verify it.

    The bundle is written under a temporary name, which becomes `output` once it is complete.

    Args:
        results: folder of a dataset among the results.
        output: folder to write.
        method: name of the method, as its predictions are named.
        split: split of the run.
        seed: seed of the run.
        licence: licence of the training scans, if the configuration did not name it.
        overwrite: whether an existing bundle in `output` is replaced.

    Returns:
        The bundle.

    Raises:
        BundleError: the method has not been trained, sampled or scored there, or `output` is in use.
    """
    results, output = Path(results), Path(output)
    run = Run(results.name, method, split, seed)
    _check_output(output, overwrite)
    stages = _stages(results, run)
    description = _description(results, run, stages, licence)
    partial = output.with_name(f".partial.{output.name}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for stage in stages:
            _copy_network(results, run, stage, partial)
        write_json(partial / bundles.DESCRIPTION, description)
        with atomic_write(partial / bundles.MODEL_CARD) as temporary:
            temporary.write_text(model_card(description).markdown(), encoding="utf-8")
        bundles.write_checksums(partial)
        bundle = bundles.read_bundle(partial)
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
        raise BundleError(Problem(output, "it holds files that are not a bundle", "Choose another folder"))
    if not overwrite:
        raise BundleError(
            Problem(output, "it holds a bundle", "Choose another folder, or replace the bundle with `--overwrite`")
        )


def _description(results: Path, run: Run, stages: list[Stage], licence: str | None) -> dict[str, Any]:
    """Return the content of bundle.json."""
    preparation = _read_json(results / "cases" / "preparation.json", "the preprocessed cases")
    source = preparation.pop("dataset")
    preparation.pop("provenance", None)
    metadata = _read_json(_run_folder(results, "predictions", run) / "method.json", f"the predictions of '{run.name}'")
    scores = _run_folder(results, "scores", run).with_suffix(".csv")
    if not scores.is_file():
        raise BundleError(Problem(scores, "the model card needs these scores", f"Run `snakemake {scores}`"))
    manifest = read_sealed_csv(results / "cases" / "prepared.csv")
    training_cases = manifest[manifest["case"].isin(cases_by_role(results / "splits.csv", run.split)["train"])]
    return bundles.make_description(
        run.name,
        stages,
        made_by=f"pd-ddpm {version('pd-ddpm')}",
        intended_use=INTENDED_USE,
        licence=licence or source["licence"] or "not stated; ask the provider of the scans",
        preparation=preparation,
        # Networks need scans in the orientation of their training scans, whether or not the configuration reoriented those.
        orientation=training_cases["orientation"].iloc[0],
        **_presegmentation_from_file(stages),
        **_classes(results),
        training=summarise_training(training_cases)
        | {"dataset": source["name"], "simulated": source["simulated"], "split": run.split, "seed": run.seed}
        | {"skull_stripped": _num_skull_stripped(results / "cases", training_cases["case"])},
        scores=summarise_scores(read_scores([scores])),
        record={key: metadata[key] for key in ("provenance", "made_from") if key in metadata},
    )


def _classes(results: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the key of bundle.json that names the classes of the dataset, if it names classes."""
    table = read_table(results / "cases.csv") if (results / "cases.csv").is_file() else {}
    classes = parse_classes(next(iter(table.get(CLASSES_COLUMN, [])), ""))
    return {"classes": [{"label": label, "name": name} for label, name in classes.items()]} if classes else {}


def _num_skull_stripped(folder: Path, cases: Iterable[str]) -> int:
    """Return how many of these prepared cases are skull-stripped."""
    scans = (read_scan(folder, str(case)) for case in cases)
    return sum(is_skull_stripped(scan.image[..., 0], scan.brain, scan.spacing_mm) is True for scan in scans)


def _presegmentation_from_file(stages: list[Stage]) -> dict[str, str]:
    """Return the key of bundle.json that names the method whose masks must be given as a file, if there is one."""
    methods = {stage.method for stage in stages}
    missing = [stage.presegmentation for stage in stages if stage.presegmentation and stage.presegmentation not in methods]
    return {"presegmentation_from_file": missing[0]} if missing else {}


def _stages(results: Path, run: Run, min_members: int = 1) -> list[Stage]:
    """Return the stage of a method, with at least `min_members` members, after the stages that it starts from.

    Masks that another program has made are no stage.
    """
    folder = _run_folder(results, "predictions", run)
    if not folder.is_dir():
        methods = sorted(
            path.parent.name for path in (results / "predictions").glob(f"*/{run.slug}") if "@" not in path.parent.name
        )
        available = f"available methods: {', '.join(methods)}" if methods else "no method has been sampled there"
        problem = f"there are no predictions of '{run.name}' ({available})"
        raise BundleError(Problem(folder, problem, "Make them with `snakemake` first"))
    metadata = _read_json(folder / "method.json", f"the predictions of '{run.name}'")
    if averaged := metadata["settings"].get("mean_of"):
        problem = f"'{run.name}' is a mean of other methods, which a bundle cannot hold"
        raise BundleError(Problem(folder, problem, f"Export one of them: {', '.join(averaged)}"))
    if metadata["settings"].get("start_reliability") == "validation":
        problem = f"'{run.name}' uses the reliability of its pre-segmentation, which a bundle cannot hold"
        raise BundleError(Problem(folder, problem, f"Export {run.name}@start_reliability=none"))
    if metadata["settings"]["segmenter"] == "files":
        problem = f"the masks of '{run.name}' are files of another program, so there is no network to export"
        raise BundleError(Problem(folder, problem, "Export a method that starts from them"))
    # The pool of members that the figures need is larger than the ensemble.
    pool = max(min_members, metadata["settings"].get("samples", 1))
    settings = metadata["settings"] | {"pool": pool}
    network = metadata["network"] + _checkpoint_suffix(settings)
    presegmentation = metadata["presegmentation"]
    stage = Stage(run.name, settings, network, metadata["seed"], presegmentation)
    if not presegmentation or _is_from_files(results, replace(run, name=presegmentation)):
        return [stage]
    earlier_members = pool if settings.get("presegmentation_members") == "each" else 1
    return [*_stages(results, replace(run, name=presegmentation), earlier_members), stage]


def _is_from_files(results: Path, run: Run) -> bool:
    file = _run_folder(results, "predictions", run) / "method.json"
    return _read_json(file, f"the predictions of '{run.name}'")["settings"]["segmenter"] == "files"


def _checkpoint_suffix(settings: Mapping[str, Any]) -> str:
    """Return what the name of a network's files in a bundle says about checkpoint and weights; nothing by default."""
    return "".join(f"_{settings[key]}" for key in ("checkpoint", "weights") if settings[key] != "selected")


def _run_folder(results: Path, kind: str, run: Run) -> Path:
    return results / kind / run.name / run.slug


def _read_json(path: Path, source: str) -> dict[str, Any]:
    try:
        return read_sealed_json(path)
    except OSError as error:
        raise BundleError(Problem(path, f"it cannot be read ({error})", f"Make {source} again with `snakemake`")) from error


def _copy_network(results: Path, run: Run, stage: Stage, bundle: Path) -> None:
    """Copy the checkpoint that a stage uses into a bundle, with metadata that hold the hash of the new weights file."""
    checkpoint, kind = stage.settings["checkpoint"], stage.settings["weights"]
    name = stage.network.removesuffix(_checkpoint_suffix(stage.settings))
    folder = _run_folder(results, "networks", replace(run, name=name))
    file = "model.safetensors" if checkpoint == "selected" else "early.safetensors"
    tensors, metadata = load_weights(folder / file, folder / "model.json", checkpoint, kind)
    weights_file, metadata_file = bundles.network_files(bundle, stage.network)
    save_weights(weights_file, tensors, architecture_settings(metadata))
    exported = {key: value for key, value in metadata.items() if key not in _NOT_EXPORTED}
    if kind != "selected":
        exported["settings"] = metadata["settings"] | {"weights": kind}
    verdict = folder / f"precision-{exported['settings']['weights']}.json"
    if verdict.is_file():
        gate = _read_json(verdict, "the test of the network's precisions")
        exported["gate"] = {key: gate[key] for key in ("device", "formats")}
    save_metadata(metadata_file, [weights_file], exported)
