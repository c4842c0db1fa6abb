"""Compare the masks of one method and split with the truth: one row per case."""

from pathlib import Path

import pandas as pd

from pd_ddpm.console import progress, run
from pd_ddpm.images import read_array
from pd_ddpm.metrics import ReferenceMask, score
from pd_ddpm.prepared import read_scan, read_truth


def main(cases: str, predictions: str, scores: str, identity: dict) -> None:
    sites = pd.read_csv(cases, dtype={"case": str}).set_index("case")["site"]
    rows = []
    for drawn in progress(pd.read_csv(predictions, dtype={"case": str}).to_dict("records"), f"scores of {identity['method']}"):
        case, source, made = drawn["case"], Path(cases).parent, Path(predictions).parent
        scan = read_scan(source, case)
        reference = ReferenceMask.from_labels(read_truth(source, case), scan.spacing_mm, case)
        mask = read_array(made / f"{case}_mask.nii.gz", mask=True) > 0
        uncertain = read_array(made / f"{case}_uncertainty.nii.gz", mask=True)
        row = identity | {"case": case, "site": sites[case], "samples": drawn["samples"]} | score(reference, mask)
        row["uncertainty"] = float(uncertain[scan.brain].mean()) if drawn["samples"] > 1 else None
        rows.append(row | {"network_evaluations": drawn["network_evaluations"], "seconds": drawn["seconds"]})
    pd.DataFrame(rows).to_csv(scores, index=False)


if __name__ == "__main__":
    run(main, snakemake.log[0], **snakemake.input, **snakemake.output, identity=snakemake.params.identity)
