"""Score the predictions of one method and split against the ground truth: one row per case."""

from pathlib import Path

from pd_ddpm.evaluation.score_cases import score_cases
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.run_record import with_run_record


def main(cases: str, predictions: str, scores: str, identity: dict, settings: dict) -> None:
    score_cases(Path(cases), Path(predictions), identity, settings).to_csv(scores, index=False)


if __name__ == "__main__":
    main_with_record = with_run_record(main, snakemake.config, snakemake.params.code, [snakemake.input.predictions])
    run(
        main_with_record,
        snakemake.log[0],
        **snakemake.input,
        **snakemake.output,
        identity=snakemake.params.identity,
        settings=snakemake.params.settings,
    )
