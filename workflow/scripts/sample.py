"""Draw the members of every test case of one split by one method; a killed job goes on with the next case."""

import time
from pathlib import Path

import pandas as pd
import torch

from pd_ddpm.build.network import trained_model
from pd_ddpm.build.segmenter import segmenter
from pd_ddpm.console import progress, run
from pd_ddpm.cost import Cost
from pd_ddpm.files import file_sha256, fingerprint, replacing, sweep, write_json
from pd_ddpm.memory import enough_memory
from pd_ddpm.precision import choose_device, choose_format, device_name, place
from pd_ddpm.prediction import segment_case
from pd_ddpm.prediction_files import PredictionFolder, Presegmentations, drawing_seconds
from pd_ddpm.prepared import cases_of_split, read_scan
from pd_ddpm.run_record import run_record
from pd_ddpm.working_grid import GridSettings

KEPT = "The cases that are finished are kept, and a lower batch changes no result"


def main(
    cases: str,
    splits: str,
    weights: str,
    card: str,
    predictions: str,
    method_card: str,
    name: str,
    split: int,
    seed: int,
    settings: dict,
    device: str,
    code: str,
    batch: int,
    threads: int,
    config: dict,
    presegmentation: str | None = None,
) -> None:
    torch.set_num_threads(threads)
    where = choose_device(device)
    number_format = choose_format(settings["precision"], where)
    network, trained = trained_model(Path(weights), Path(card), settings["checkpoint"])
    draw = segmenter(settings, place(network, where, number_format))
    grid = GridSettings(**trained["grid"])
    given = Presegmentations.of_method(settings, presegmentation)

    depends_on = [file_sha256(Path(cases)), given and given.version()]
    stamp = [settings, seed, code, trained["sha256"], trained["grid"], depends_on, str(number_format), where.type]
    folder = PredictionFolder(Path(predictions).parent, fingerprint(stamp))
    sweep(folder.folder)
    records = []
    for case in progress(cases_of_split(splits, split)["test"], f"{name}, split {split}, seed {seed}"):
        record = folder.finished(case)
        if record is None:
            started = time.perf_counter()
            scan = read_scan(Path(cases).parent, case)
            with enough_memory(f"{name}, case {case}", {"sampling.batch": batch}, number_format, KEPT):
                drawn = segment_case(
                    draw,
                    scan.image,
                    scan.brain,
                    scan.spacing_mm,
                    grid,
                    case=case,
                    seed=seed,
                    batch=batch,
                    device=where,
                    number_format=number_format,
                    presegmentation=given and given.of_case(case, scan.brain.shape, draw.members),
                )
            evaluated = draw.evaluations_shared, draw.evaluations_per_member
            cost = Cost.of_drawing(draw.members, *evaluated, drawn.seconds, time.perf_counter() - started)
            cost += given.cost(case) if given else Cost()
            record = folder.write(case, drawn.samples, settings.get("samples", 1), scan.template, cost)
        records.append(record)
    description = {"method": name, "settings": settings, "split": split, "seed": seed, "threads": threads}
    description |= {"network": Path(weights).parents[1].name, "network_sha256": trained["sha256"][Path(weights).name]}
    description["presegmentation"] = presegmentation and Path(presegmentation).parents[1].name
    how = {"seed": seed, "device": device_name(where), "precision": number_format, "seconds": drawing_seconds(records, given)}
    write_json(Path(method_card), description | run_record(config, code, **how, made_from=[card, presegmentation]))
    with replacing(Path(predictions)) as table:
        pd.DataFrame(records).to_csv(table, index=False)


if __name__ == "__main__":
    run(
        main,
        snakemake.log[0],
        **snakemake.input,
        **snakemake.output,
        **snakemake.params,
        device=snakemake.config["device"],  # no parameters: another device or batch re-runs nothing
        batch=snakemake.config["sampling"]["batch"],
        threads=snakemake.threads,
        config=snakemake.config,
    )
