"""Compare the masks and probabilities of one method and split with the truth: one row per case."""

from pathlib import Path

import pandas as pd

from pd_ddpm.data.prepared import read_ground_truth, read_observer_masks, read_scan
from pd_ddpm.evaluation.metrics import ReferenceMask, score
from pd_ddpm.evaluation.probability_scores import band, probability_scores, rater_scores
from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.ensemble import Segmentation
from pd_ddpm.inference.prediction_store import read_predictions, read_samples
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.progress import progress
from pd_ddpm.runtime.run_record import with_run_record


def main(cases: str, predictions: str, scores: str, identity: dict, settings: dict) -> None:
    sites = pd.read_csv(cases, dtype={"case": str}).set_index("case")["site"]
    source, made = Path(cases).parent, Path(predictions).parent
    rows = []
    for drawn in progress(read_predictions(predictions).to_dict("records"), f"scores of {identity['method']}"):
        case = drawn["case"]
        scan, labels = read_scan(source, case), read_ground_truth(source, case)
        segmentation = Segmentation.from_members(read_samples(made, case)[..., : drawn["samples"]])
        reference = ReferenceMask.from_labels(labels, scan.spacing_mm, case)
        region = band(scan.brain, scan.spacing_mm, settings["band_mm"])
        row = identity | {"case": case, "site": sites[case], "samples": drawn["samples"]}
        row |= score(reference, segmentation.mask)
        row["uncertainty"] = float(segmentation.variance[scan.brain].mean()) if drawn["samples"] > 1 else None
        row |= probability_scores(segmentation.samples, labels, region, settings["calibration_bins"])
        row |= rater_scores(segmentation.samples, [labels, *read_observer_masks(source, case)])
        rows.append(row | Cost.from_record(drawn).total(drawn["samples"]))
    pd.DataFrame(rows).to_csv(scores, index=False)


if __name__ == "__main__":
    parameters = snakemake.params
    with_record = with_run_record(main, snakemake.config, snakemake.params.code, [snakemake.input.predictions])
    run(
        with_record,
        snakemake.log[0],
        **snakemake.input,
        **snakemake.output,
        identity=parameters.identity,
        settings=parameters.settings,
    )
