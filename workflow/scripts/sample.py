"""Draw the members of the test cases of one split by one method, or gather those that shards have drawn.

A killed job goes on with the next case.
"""

import json
from pathlib import Path

from pd_ddpm.data.splits import cases_by_role
from pd_ddpm.inference.prediction_store import PredictionFolder, Presegmentations, sampling_seconds, write_manifest
from pd_ddpm.runtime.files import file_sha256, fingerprint, write_json
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.progress import progress
from pd_ddpm.runtime.run_record import run_record


def main(
    cases: str,
    splits: str,
    weights: str,
    card: str,
    name: str,
    split: int,
    seed: int,
    settings: dict,
    device: str,
    code: str,
    batch: int | str,
    threads: int,
    config: dict,
    predictions: str | None = None,
    method_card: str | None = None,
    shard_card: str | None = None,
    shard: int = 1,
    of: int = 1,
    shards: list[str] = (),
    presegmentation: str | None = None,
    gate: str | None = None,
) -> None:
    tested = cases_by_role(splits, split)["test"]
    if shards:
        write_manifest(
            Path(predictions), Path(method_card), tested, [json.loads(Path(one).read_text("utf-8")) for one in shards]
        )
        return

    import torch  # gathering is spared the seconds that it takes to load

    from pd_ddpm.data.working_grid import GridSettings
    from pd_ddpm.inference.factory import build_segmenter
    from pd_ddpm.inference.precision_gate import gated_precision
    from pd_ddpm.inference.sample_cases import CaseSampling
    from pd_ddpm.models.factory import load_model
    from pd_ddpm.runtime.precision import choose_device, device_name, prepare_for_inference

    torch.set_num_threads(threads)
    where = choose_device(device)
    verdict = json.loads(Path(gate).read_text("utf-8")) if gate else None
    precision, not_shorter = gated_precision(settings["precision"], where, verdict)
    network, trained = load_model(Path(weights), Path(card), settings["checkpoint"])
    draw = build_segmenter(settings, prepare_for_inference(network, where, precision))
    given = Presegmentations.from_settings(settings, presegmentation)

    depends_on = [file_sha256(Path(cases)), given and given.version()]
    stamp = fingerprint([settings, seed, code, trained["sha256"], trained["grid"], depends_on, str(precision), where.type])
    folder = PredictionFolder(Path(shard_card).parents[1] if shard_card else Path(predictions).parent, stamp)
    grid, samples = GridSettings(**trained["grid"]), settings.get("samples", 1)
    found = (name, draw, grid, Path(cases).parent, folder, given, samples, seed, batch, where, precision)
    sampling, own = CaseSampling(*found), tested[shard - 1 :: of]
    named = f"{name}, split {split}, seed {seed}" + (f", shard {shard} of {of}" if of > 1 else "")
    seconds = sampling_seconds([sampling.draw(case) for case in progress(own, named)], given)
    description = {"method": name, "settings": settings, "split": split, "seed": seed, "threads": threads}
    description |= {"network": Path(weights).parents[1].name, "network_sha256": trained["sha256"][Path(weights).name]}
    description["presegmentation"] = presegmentation and Path(presegmentation).parents[1].name
    description |= {"device_type": where.type, "float32_because": not_shorter}
    how = {"seed": seed, "device": device_name(where), "precision": precision, "seconds": seconds}
    description |= run_record(config, code, **how, made_from=[card, presegmentation])
    drawn = {"stamp": stamp, "cases": own, "method": description}
    if shard_card:
        write_json(Path(shard_card), drawn)
    else:
        write_manifest(Path(predictions), Path(method_card), tested, [drawn])


if __name__ == "__main__":
    run(
        main,
        snakemake.log[0],
        **snakemake.input,
        **snakemake.output,
        **snakemake.params,
        device=snakemake.config["device"],  # no parameters: another device, batch or number of shards re-runs nothing
        batch=snakemake.config["sampling"]["batch"],
        shard=int(snakemake.wildcards.get("shard", 1)),
        of=int(snakemake.wildcards.get("shards", 1)),
        threads=snakemake.threads,
        config=snakemake.config,
    )
