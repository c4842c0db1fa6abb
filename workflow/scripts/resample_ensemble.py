"""Dice of smaller ensembles out of one method's pool of members: one row per case and subset of the pool."""

from pathlib import Path

import numpy as np
import pandas as pd

from pd_ddpm.data.prepared import read_ground_truth, read_scan
from pd_ddpm.evaluation.ensemble_curve import curve, subsets
from pd_ddpm.evaluation.metrics import ReferenceMask
from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.prediction_store import read_predictions, read_samples
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.progress import progress
from pd_ddpm.runtime.run_record import with_run_record


def main(cases: str, predictions: str, ensembles: str, identity: dict, most_subsets: int) -> None:
    source, made = Path(cases).parent, Path(predictions).parent
    tables = []
    for drawn in progress(read_predictions(predictions).to_dict("records"), f"ensembles of {identity['method']}"):
        case = drawn["case"]
        reference = ReferenceMask.from_labels(read_ground_truth(source, case), read_scan(source, case).spacing_mm, case)
        members = subsets(drawn["pool"], most_subsets, np.random.default_rng(identity["seed"]))
        rows = curve(read_samples(made, case), reference, members)
        cost = pd.DataFrame([Cost.from_record(drawn).total(size) for size in rows["size"]])
        tables.append(pd.concat([rows.assign(**identity, case=case, pool=drawn["pool"]), cost], axis=1))
    columns = [*identity, "case", "pool", "size", "subset", "dice", "network_evaluations", "seconds"]
    pd.concat(tables)[columns].to_csv(ensembles, index=False)


if __name__ == "__main__":
    parameters = snakemake.params
    with_record = with_run_record(main, snakemake.config, snakemake.params.code, [snakemake.input.predictions])
    run(
        with_record,
        snakemake.log[0],
        **snakemake.input,
        **snakemake.output,
        identity=parameters.identity,
        most_subsets=parameters.subsets,
    )
