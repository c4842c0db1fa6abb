"""Dice of the ground truth of every case through the working grid and back."""

from pathlib import Path

from pd_ddpm.evaluation.grid_dice import grid_dice_table
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.sealed_tables import write_sealed_csv


def main(job) -> None:
    write_sealed_csv(grid_dice_table(Path(job.input.cases), job.params.grid, job.params.classes), job.output.table)


if __name__ == "__main__":
    run(main, snakemake.log[0], job=snakemake)
