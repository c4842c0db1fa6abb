"""Draw the members of every test case of one split by one method; a killed job goes on with the next case."""

import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pd_ddpm import checkpoint
from pd_ddpm.build.network import model
from pd_ddpm.build.segmenter import segmenter
from pd_ddpm.console import progress, run
from pd_ddpm.ensemble import ensemble_mask, uncertainty
from pd_ddpm.files import file_sha256, fingerprint, write_json
from pd_ddpm.images import PROBABILITY_SLOPE, read_array, write_image
from pd_ddpm.precision import choose_device, choose_format
from pd_ddpm.prediction import segment_case
from pd_ddpm.prepared import read_scan
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
    tensors, description = checkpoint.load_weights(Path(weights), Path(card))
    network = model(description["settings"], description["image_channels"])
    network.load_state_dict(tensors)
    draw = segmenter(settings, network.to(where).eval())
    depends_on = [
        {key: value for key, value in settings.items() if key != "batch"},  # changes the speed and no result
        seed,
        code,
        description["weights_sha256"],
        description["grid"],
        file_sha256(Path(cases)),
        file_sha256(Path(presegmentation)) if presegmentation else None,
    ]
    stamp = fingerprint(depends_on)
    before = None if presegmentation is None else pd.read_csv(presegmentation, index_col="case", dtype={"case": str})

    roles = pd.read_csv(splits, dtype={"case": str}).query("split == @split and role == 'test'")
    rows, folder = [], Path(predictions).parent
    for case in progress(roles["case"].tolist(), f"{name}, split {split}, seed {seed}"):
        record = folder / f"{case}.json"
        row = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
        if row.get("stamp") != stamp:
            started = time.perf_counter()
            scan = read_scan(Path(cases).parent, case)
            first_guess = None
            if presegmentation is not None:
                first_guess = read_array(Path(presegmentation).parent / f"{case}_samples.nii.gz", mask=True, allow_4d=True)
                first_guess = first_guess.reshape(*scan.brain.shape, -1).mean(axis=-1)
            samples = segment_case(
                draw,
                scan.image,
                scan.brain,
                scan.spacing_mm,
                GridSettings(**description["grid"]),
                case=case,
                seed=seed,
                batch=settings["batch"],
                device=where,
                number_format=choose_format(settings["precision"], where),
                presegmentation=first_guess,
                harden=settings.get("harden", True),
            )
            row = {
                "case": case,
                "samples": samples.shape[-1],
                "network_evaluations": draw.evaluations,
                "seconds": time.perf_counter() - started,
                "stamp": stamp,
            }
            if before is not None:  # the chain's cost includes that of the mask it starts from
                row["network_evaluations"] += int(before.loc[case, "network_evaluations"])
                row["seconds"] += float(before.loc[case, "seconds"])
            samples = np.round(samples * 255).astype(np.float32) * np.float32(PROBABILITY_SLOPE)
            write_image(folder / f"{case}_samples.nii.gz", samples, scan.template, np.uint8, PROBABILITY_SLOPE)
            write_image(folder / f"{case}_mask.nii.gz", ensemble_mask(samples), scan.template, np.uint8)
            write_image(folder / f"{case}_uncertainty.nii.gz", uncertainty(samples), scan.template)
            write_json(record, row)
        rows.append(row)
    pd.DataFrame(rows).to_csv(predictions, index=False)


if __name__ == "__main__":
    run(main, snakemake.log[0], **snakemake.input, **snakemake.output, **snakemake.params, threads=snakemake.threads)
