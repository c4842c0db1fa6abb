"""Train one network on the training cases of one split; a killed training goes on where it stopped."""

from pathlib import Path

import pandas as pd
import torch

from pd_ddpm.data.splits import cases_by_role
from pd_ddpm.data.working_grid import GridSettings
from pd_ddpm.models.factory import build_model
from pd_ddpm.models.weights import architecture_settings, assign_weights, load_weights, save_early, save_metadata, save_weights
from pd_ddpm.runtime.files import atomic_write, file_sha256, remove_partial_files
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.precision import choose_device, choose_precision, device_name
from pd_ddpm.runtime.run_record import run_record
from pd_ddpm.training.factory import objective, training_settings
from pd_ddpm.training.patches import TrainingSlices, read_slices
from pd_ddpm.training.resume import TrainingStates
from pd_ddpm.training.trainer import Training


def main(
    cases: str,
    splits: str,
    weights: str,
    early: str,
    card: str,
    history: str,
    state: str,
    name: str,
    split: int,
    seed: int,
    settings: dict,
    grid: dict,
    device: str,
    code: str,
    save_every_seconds: float,
    changed_training: str,
    threads: int,
    config: dict,
    first_weights: str | None = None,
    first_card: str | None = None,
) -> None:
    torch.set_num_threads(threads)
    roles = cases_by_role(splits, split)
    folder, grid_settings = Path(cases).parent, GridSettings(**grid)
    training = [read_slices(folder, case, grid_settings) for case in roles["train"]]
    validation = [read_slices(folder, case, grid_settings) for case in roles.get("validation", [])]
    where = choose_device(device)
    precision = choose_precision(settings["precision"], where)
    torch.manual_seed(seed)
    own = settings | {"image_channels": training[0].image.shape[1]}
    network = build_model(settings, own["image_channels"])
    if first_weights:
        tensors, first = load_weights(Path(first_weights), Path(first_card))
        assign_weights(network, tensors, Path(first_weights), own, architecture_settings(first))
    data = {"cases": file_sha256(Path(cases)), "first_weights": first_weights and file_sha256(Path(first_weights))} | roles
    depends_on = settings | {"grid": grid, "seed": seed, "code": code, "data": data}
    depends_on |= {"number_format": str(precision), "device": where.type}
    fitted = Training(
        network,
        objective(settings),
        TrainingSlices(training),
        validation,
        training_settings(settings),
        seed=seed,
        dependencies=depends_on,
        device=where,
        precision=precision,
        save_every_seconds=save_every_seconds,
        changed=changed_training,
    ).fit(Path(state), f"{name}, split {split}, seed {seed}")
    remove_partial_files(Path(history).parent)
    with atomic_write(Path(history)) as table:
        pd.DataFrame(fitted.history).to_csv(table, index=False)
    save_weights(Path(weights), fitted.selected, own)
    save_early(Path(early), [kept.weights for kept in fitted.early], own)
    description = {"network": name, "settings": settings, "grid": grid, "image_channels": own["image_channels"]}
    description |= {"split": split, "seed": seed, "training_cases": roles["train"], **fitted.described()}
    description |= {"threads": threads, "device_type": where.type}
    how = {"seed": seed, "device": device_name(where), "precision": precision, "seconds": fitted.history[-1]["seconds"]}
    description |= run_record(config, code, **how, made_from=[first_card])
    save_metadata(Path(card), [Path(weights), Path(early)], description)
    TrainingStates(Path(state), depends_on).finish()


if __name__ == "__main__":
    config = snakemake.config
    free = {key: config[key] for key in ("device", "save_every_seconds", "changed_training")}  # they re-run nothing
    arguments = {**snakemake.input, **snakemake.output, **snakemake.params, **free}
    arguments |= {"threads": snakemake.threads, "config": config}
    run(main, snakemake.log[0], **arguments)
