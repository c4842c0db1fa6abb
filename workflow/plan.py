"""What the workflow does and what that costs, before it runs: `make plan`, and the lines at the start of every run.

Nothing is run. FLOPs are counted with PyTorch, the device at hand is timed for some seconds, and both are kept in work/plan.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import TYPE_CHECKING

from pd_ddpm.config import load
from pd_ddpm.config.resolve import Config, method
from pd_ddpm.config.validate import validate
from pd_ddpm.planning import report
from pd_ddpm.planning.case_sizes import CohortSizes, cohort_sizes
from pd_ddpm.planning.device_rates import Rate
from pd_ddpm.planning.jobs import Job, Work, naive, planned
from pd_ddpm.planning.planned_flops import PlannedFlops, network_evaluations, rate_at_hand

if TYPE_CHECKING:
    from snakemake.settings.types import ConfigSettings

KEPT = Path("work", "plan")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the plan of the workflow, or of the jobs that a run is about to start."""
    parser = argparse.ArgumentParser(description="What the workflow does and what that costs; nothing is run.")
    parser.add_argument("--scale", choices=("demo", "paper"), default="paper", help="(%(default)s)")
    parser.add_argument("--configfile", type=Path, nargs="*", default=[], help="laid over the configuration, as by snakemake")
    parser.add_argument("--start", action="store_true", help=argparse.SUPPRESS)  # the Snakefile's question, on standard input
    given = parser.parse_args(arguments)
    if given.start:
        asked = json.load(sys.stdin)
        tell_start(asked["config"], [Job(*job) for job in asked["jobs"]], asked["cores"], asked["here"])
    else:
        tell_plan(*planned_jobs(given.scale, given.configfile))


def planned_jobs(scale: str, config_files: Sequence[Path]) -> tuple[Config, list[Job], list[Job]]:
    """Return the configuration, all jobs of the workflow, and those of them that are not up to date.

    Raises:
        ValueError: Snakemake cannot plan the workflow.
    """
    from snakemake.exceptions import WorkflowError
    from snakemake.settings.types import ConfigSettings

    try:
        overlay = ConfigSettings(config={"scale": scale}, configfiles=config_files)
        jobs, pending = _dry_run(overlay, forceall=True), _dry_run(overlay, forceall=False)
    except WorkflowError as error:
        raise ValueError(str(error)) from None
    return validate(load.read(Path("config", "config.yaml"), overlay.overwrite_config)), jobs, pending


def _dry_run(overlay: "ConfigSettings", forceall: bool) -> list[Job]:
    """Return the jobs that a dry run reports in its log, by Snakemake's number of each, the target first."""
    from snakemake.api import SnakemakeApi
    from snakemake.logging import logger
    from snakemake.settings.types import DAGSettings, ExecutionSettings, OutputSettings, Quietness, ResourceSettings
    from snakemake_interface_logger_plugins.common import LogEvent

    log = BufferingHandler(capacity=sys.maxsize)
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL}, enable_file_logging=False)) as api:
        logger.addHandler(log)  # not earlier: SnakemakeApi removes the handlers that it finds
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=os.cpu_count()), config_settings=overlay, snakefile=Path("Snakefile")
        )
        # A plan is also possible during a run, which holds the lock and has incomplete files.
        during_a_run = ExecutionSettings(lock=False, ignore_incomplete=True)
        workflow.dag(DAGSettings(forceall=forceall)).execute_workflow("dryrun", execution_settings=during_a_run)
        records = [record for record in log.buffer if getattr(record, "event", None) == LogEvent.JOB_INFO]
    records.sort(key=lambda record: record.jobid)
    return [Job(record.rule_name, dict(record.wildcards), list(record.input)) for record in records]


def tell_plan(config: Config, jobs: Sequence[Job], pending: Sequence[Job]) -> None:
    """All of the plan: work, hours, disk, and the naive plan beside it."""
    work, cohorts = planned(config, jobs), cohorts_of(config, jobs)
    runs = f"splits {config['splits']}, seeds {config['seeds']}"
    print(f"Plan of the {config['scale']} scale, data set {config['dataset']}, {runs}")
    print(f"  {report.jobs_line(jobs, work)}\n  {report.rules_line(jobs)}")
    for cohort in cohorts.values():
        if cohort.assumed:
            print(f"  assumed of {cohort.assumed}")
    prices = PlannedFlops(config, cohorts, KEPT / "flops.json")
    flops = flops_of(work, prices)
    print("  " + report.evaluations_line(evaluations_of(config, cohorts, work)))
    print("  " + report.flops_line(flops))
    if len(pending) < len(jobs):
        left = planned(config, pending)
        print("Still to run\n  " + report.jobs_line(pending, left))
        print("  " + report.evaluations_line(evaluations_of(config, cohorts, left)))
        print("  " + report.flops_line(flops_of(left, prices)))
    print("\n".join(["Hours", *(f"  {line}" for line in report.hours_lines(flops, *at_hand(config, os.cpu_count())))]))
    print("  Start of jobs, scores and figures come besides. Networks as small as the demo's are far slower on a GPU.")
    unshared = naive(config, jobs)
    drawn = [prices.sampling(one) for one in unshared.samplings]
    without = report.Flops(sum(map(prices.training, unshared.trainings)), sum(drawn))
    by_exhibit = report.exhibit_flops(unshared.samplings, drawn)
    print("\n".join(["Without sharing", *(f"  {line}" for line in report.naive_lines(flops, without, by_exhibit))]))
    parameters = {training: prices.parameters(training) for training in work.trainings}
    print("\n".join(["Disk", *(f"  {line}" for line in report.disk_lines(config, work, cohorts, parameters))]))


def tell_start(config: Config, jobs: Sequence[Job], cores: int, here: bool) -> None:
    """Line by line, the quickest first: whoever asks may stop listening. here: networks run on this machine."""
    work, cohorts = planned(config, jobs), cohorts_of(config, jobs)
    print("Plan: " + report.evaluations_line(evaluations_of(config, cohorts, work)), flush=True)
    flops = flops_of(work, PlannedFlops(config, cohorts, KEPT / "flops.json"))
    print("Plan: " + report.flops_line(flops), flush=True)
    print("Plan: " + report.hours_phrase(flops, *at_hand(config, cores) if here else (None, 1)), flush=True)


def cohorts_of(config: Config, jobs: Sequence[Job]) -> dict[str, CohortSizes]:
    """The cases of every data set whose cases networks see."""
    names = dict.fromkeys(job.wildcards["dataset"] for job in jobs if job.rule in ("train", "sample"))
    return {name: cohort_sizes(config, name, Path("results", name)) for name in names}


def flops_of(work: Work, prices: PlannedFlops) -> report.Flops:
    """Operations of all trainings and all samplings."""
    return report.Flops(sum(map(prices.training, work.trainings)), sum(map(prices.sampling, work.samplings)))


def evaluations_of(config: Config, cohorts: dict[str, CohortSizes], work: Work) -> int:
    """Network evaluations of all samplings."""
    return sum(network_evaluations(config, cohorts, sampling) for sampling in work.samplings)


def at_hand(config: Config, cores: int) -> tuple[Rate | None, int]:
    """The rate of the device at hand with the network of Fig. 3's chain, and how many jobs it runs side by side."""
    threads = config["resources"]["train"]["threads"]
    try:
        network = method(config, config["exhibits"]["fig3_tprime"]["method"])["network"]
        rate = rate_at_hand(config, network, min(threads, cores), KEPT / "rates.json")
    except (ImportError, ValueError) as reason:
        print(f"Plan: how fast the device at hand is, is not known: {reason}", flush=True)
        return None, 1
    return rate, max(1, cores // threads) if rate.device == "CPU" else 1


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, ImportError) as problem:
        sys.exit(f"plan: {problem}")
