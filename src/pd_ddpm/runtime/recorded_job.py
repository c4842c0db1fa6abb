"""Run a script as a workflow job that writes a run record next to its results."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.run_record import run_record
from pd_ddpm.runtime.sealed import write_sealed_json


def run_with_record(main: Callable[[Any], None], snakemake: Any, made_from: Iterable[str | Path]) -> None:
    """Run `main(snakemake)` as a workflow job, then write its run record to `snakemake.output.record`.

    If `main` fails, no record is written.

    Args:
        main: reads `snakemake.input` and `snakemake.params`, and writes `snakemake.output` except for the record.
        snakemake: the object of this name in a script, with `config` and the parameter `code`.
        made_from: input files that have a run record next to them.
    """

    def recorded_main() -> None:
        main(snakemake)
        write_sealed_json(snakemake.output.record, run_record(snakemake.config, snakemake.params.code, made_from=made_from))

    run(recorded_main, snakemake.log[0])
