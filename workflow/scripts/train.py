"""Train one network on the training cases of one split; a killed training goes on where it stopped."""

from pathlib import Path

import pandas as pd
import torch

from pd_ddpm import checkpoint
from pd_ddpm.build.network import model
from pd_ddpm.build.objective import objective, training_settings
from pd_ddpm.console import run
from pd_ddpm.files import file_sha256, fingerprint
from pd_ddpm.precision import choose_device, choose_format
from pd_ddpm.prepared import cases_of_split
from pd_ddpm.training import Training
from pd_ddpm.training_data import TrainingSlices, read_slices
from pd_ddpm.working_grid import GridSettings


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
    threads: int,
    first_weights: str | None = None,
    first_card: str | None = None,
) -> None:
    torch.set_num_threads(threads)
    roles = cases_of_split(splits, split)
    folder, grid_settings = Path(cases).parent, GridSettings(**grid)
    training = [read_slices(folder, case, grid_settings) for case in roles["train"]]
    validation = [read_slices(folder, case, grid_settings) for case in roles.get("validation", [])]
    where = choose_device(device)
    number_format = choose_format(settings["precision"], where)
    torch.manual_seed(seed)
    network = model(settings, image_channels=training[0].image.shape[1])
    if first_weights:
        checkpoint.fill(network, checkpoint.load_weights(Path(first_weights), Path(first_card))[0], Path(first_weights))
    files = [file_sha256(Path(file)) for file in (cases, first_weights) if file]
    depends_on = [settings, grid, seed, code, files, roles, str(number_format), where.type]
    fitted = Training(
        network,
        objective(settings),
        TrainingSlices(training),
        validation,
        training_settings(settings),
        seed=seed,
        dependencies=fingerprint(depends_on),
        device=where,
        number_format=number_format,
        save_every_seconds=save_every_seconds,
    ).fit(Path(state), f"{name}, split {split}, seed {seed}")

    pd.DataFrame(fitted.history).to_csv(history, index=False)
    checkpoint.save_weights(Path(weights), fitted.selected)
    checkpoint.save_early(Path(early), [kept.weights for kept in fitted.early])
    description = {
        "network": name,
        "settings": settings,
        "grid": grid,
        "image_channels": training[0].image.shape[1],
        "split": split,
        "seed": seed,
        "selected_step": fitted.selected_step,
        "early": [{"level": kept.level, "step": kept.step, "validation_dice": kept.validation_dice} for kept in fitted.early],
        "training_cases": roles["train"],
        "code": code,
        "device": str(where),
        "number_format": str(number_format),
        "seconds": fitted.history[-1]["seconds"],
    }
    checkpoint.save_card(Path(card), [Path(weights), Path(early)], description)


if __name__ == "__main__":
    run(
        main,
        snakemake.log[0],
        **snakemake.input,
        **snakemake.output,
        **snakemake.params,
        **{key: snakemake.config[key] for key in ("device", "save_every_seconds")},  # no parameters: they re-run nothing
        threads=snakemake.threads,
    )
