"""Draw the members of every test case of one split by one method; a killed job goes on with the next case."""

import time
from pathlib import Path

import pandas as pd
import torch

from pd_ddpm import checkpoint
from pd_ddpm.build.network import model
from pd_ddpm.build.segmenter import segmenter
from pd_ddpm.console import progress, run
from pd_ddpm.files import file_sha256, fingerprint
from pd_ddpm.precision import choose_device, choose_format, place
from pd_ddpm.prediction import segment_case
from pd_ddpm.prediction_files import PredictionFolder, read_probability
from pd_ddpm.prepared import cases_of_split, read_scan
from pd_ddpm.working_grid import GridSettings


def main(
    cases: str,
    splits: str,
    weights: str,
    card: str,
    predictions: str,
    name: str,
    split: int,
    seed: int,
    settings: dict,
    device: str,
    code: str,
    threads: int,
    presegmentation: str | None = None,
) -> None:
    torch.set_num_threads(threads)
    where = choose_device(device)
    number_format = choose_format(settings["precision"], where)
    tensors, trained = checkpoint.load_weights(Path(weights), Path(card))
    network = model(trained["settings"], trained["image_channels"])
    network.load_state_dict(tensors)
    draw = segmenter(settings, place(network, where, number_format))

    before = pd.read_csv(presegmentation, index_col="case", dtype={"case": str}) if presegmentation else None
    given = [file_sha256(Path(file)) for file in (cases, presegmentation) if file]
    lasting = {key: value for key, value in settings.items() if key != "batch"}  # it changes the speed and no result
    stamp = fingerprint(
        [lasting, seed, code, trained["weights_sha256"], trained["grid"], given, str(number_format), where.type]
    )
    folder = PredictionFolder(Path(predictions).parent, stamp)

    records = []
    for case in progress(cases_of_split(splits, split)["test"], f"{name}, split {split}, seed {seed}"):
        record = folder.finished(case)
        if record is None:
            started = time.perf_counter()
            scan = read_scan(Path(cases).parent, case)
            samples = segment_case(
                draw,
                scan.image,
                scan.brain,
                scan.spacing_mm,
                GridSettings(**trained["grid"]),
                case=case,
                seed=seed,
                batch=settings["batch"],
                device=where,
                number_format=number_format,
                presegmentation=read_probability(Path(presegmentation).parent, case) if presegmentation else None,
                harden=settings.get("harden", True),
            )
            cost = {"network_evaluations": draw.evaluations, "seconds": time.perf_counter() - started}
            if before is not None:  # the cost of a chain includes that of the mask it starts from
                cost = {key: value + before.loc[case, key].item() for key, value in cost.items()}
            record = folder.write(case, samples, scan.template, cost)
        records.append(record)
    pd.DataFrame(records).to_csv(predictions, index=False)


if __name__ == "__main__":
    run(
        main,
        snakemake.log[0],
        **snakemake.input,
        **snakemake.output,
        **snakemake.params,
        device=snakemake.config["device"],  # no parameter: another device re-runs nothing
        threads=snakemake.threads,
    )
