"""Print the work of the workflow and its cost before it runs: `make plan`, and the lines at the start of every run.

No job is run. FLOPs are counted with PyTorch, the speed of the local device is measured within some seconds, and both are
cached in work/plan.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pd_ddpm.config import load, studies, study_names
from pd_ddpm.config.exhibits import measured_network
from pd_ddpm.config.resolve import Config
from pd_ddpm.config.validate import validate
from pd_ddpm.planning import report
from pd_ddpm.planning.case_sizes import CohortSizes, cohort_sizes
from pd_ddpm.planning.device_rates import Rate
from pd_ddpm.planning.jobs import Job, Work, naive_work, planned_work
from pd_ddpm.planning.planned_flops import PlannedFlops, local_rate, network_evaluations

if TYPE_CHECKING:
    from snakemake.settings.types import ConfigSettings

CACHE = Path("work", "plan")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the plan of the workflow, or of the jobs that a run is about to start."""
    parser = argparse.ArgumentParser(description="Print the work of the workflow and its cost. No job is run.")
    parser.add_argument("--scale", choices=("demo", "gpu", "paper"), help="(that of the configuration files, otherwise paper)")
    parser.add_argument(
        "--configfile", type=Path, nargs="*", default=[], help="files laid over the configuration, as by snakemake"
    )
    parser.add_argument("--targets", nargs="*", default=[], help="files to plan (every table and figure)")
    parser.add_argument("--start", action="store_true", help=argparse.SUPPRESS)  # used by the Snakefile: jobs on standard input
    options = parser.parse_args(arguments)
    if options.start:
        request = json.load(sys.stdin)
        jobs = [Job(*job) for job in request["jobs"]]
        print_startup_plan(request["config"], jobs, request["cores"], request["is_local"])
    else:
        for number, plan in enumerate(planned_jobs(options.scale, options.configfile, options.targets).values()):
            print(end="\n" if number else "")
            print_plan(*plan)


class Plan(NamedTuple):
    """Work of one study.

    Attributes:
        config: a canonical configuration.
        jobs: all jobs of the study.
        pending: the jobs that are not up to date.
    """

    config: Config
    jobs: list[Job]
    pending: list[Job]


def planned_jobs(scale: str | None, config_files: Sequence[Path], targets: Sequence[str] = ()) -> dict[str, Plan]:
    """Return the plan of each study that has jobs.

    Args:
        scale: "demo", "gpu" or "paper"; None takes that of the configuration files, or "paper" if they name none.
        config_files: files laid over the configuration.
        targets: files to make; none stands for every table and figure.

    Raises:
        ValueError: Snakemake cannot plan the workflow.
    """
    from snakemake.exceptions import WorkflowError
    from snakemake.settings.types import ConfigSettings

    try:
        named = ConfigSettings(configfiles=config_files).overwrite_config.get("scale", "paper")
        overlay = ConfigSettings(config={"scale": scale or named}, configfiles=config_files)
        jobs, pending = (studies.by_study(_dry_run(overlay, targets, forceall)) for forceall in (True, False))
    except WorkflowError as error:
        raise ValueError(str(error)) from None
    return {study: Plan(_config(study, overlay.overwrite_config), jobs[study], pending.get(study, [])) for study in jobs}


def _config(study: str, user: Config) -> Config:
    """Return the canonical configuration of a study of the clone in this folder."""
    files = Path("config", "config.yaml")
    is_first = study == study_names.FIRST
    return validate(load.read(files, user) if is_first else load.read_study(study, user, files.with_name))


def _dry_run(overlay: "ConfigSettings", targets: Sequence[str], forceall: bool) -> list[Job]:
    """Return the jobs that a dry run reports in its log, in the order of Snakemake's job numbers, the target first."""
    from snakemake.api import SnakemakeApi
    from snakemake.logging import logger
    from snakemake.settings.types import DAGSettings, ExecutionSettings, OutputSettings, Quietness, ResourceSettings
    from snakemake_interface_logger_plugins.common import LogEvent

    log = BufferingHandler(capacity=sys.maxsize)
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL}, enable_file_logging=False)) as api:
        logger.addHandler(log)  # not earlier: SnakemakeApi removes the existing handlers
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=os.cpu_count()), config_settings=overlay, snakefile=Path("Snakefile")
        )
        # A plan is also possible during a run, which holds the lock and has incomplete files.
        during_a_run = ExecutionSettings(lock=False, ignore_incomplete=True)
        workflow.dag(DAGSettings(targets=set(targets), forceall=forceall)).execute_workflow(
            "dryrun", execution_settings=during_a_run
        )
        records = [record for record in log.buffer if getattr(record, "event", None) == LogEvent.JOB_INFO]
    records.sort(key=lambda record: record.jobid)
    return [Job(record.rule_name, dict(record.wildcards), list(record.input)) for record in records]


def print_plan(config: Config, jobs: Sequence[Job], pending: Sequence[Job]) -> None:
    """Print the whole plan: work, hours, disk space, and the naive plan for comparison.

    Args:
        config: a canonical configuration.
        jobs: all jobs of the workflow.
        pending: the jobs that are not up to date.
    """
    work, cohorts = planned_work(config, jobs), sampled_cohorts(config, jobs)
    runs = f"splits {config['splits']}, seeds {config['seeds']}"
    print(f"Plan of the study {config['study']}, {config['scale']} scale, dataset {config['dataset']}, {runs}")
    print(f"  {report.jobs_line(jobs, work)}\n  {report.rules_line(jobs)}")
    for cohort in cohorts.values():
        if cohort.assumed:
            print(f"  assumed for {cohort.assumed}")
    planned_flops = PlannedFlops(config, cohorts, CACHE / "flops.json")
    flops = total_flops(work, planned_flops)
    print("  " + report.evaluations_line(total_evaluations(config, cohorts, work)))
    print("  " + report.flops_line(flops))
    for line in (*report.patience_lines(config, work), *report.doubt_lines(config, jobs)):
        print(f"  {line}")
    if len(pending) < len(jobs):
        pending_work = planned_work(config, pending)
        print("Still to run\n  " + report.jobs_line(pending, pending_work))
        print("  " + report.evaluations_line(total_evaluations(config, cohorts, pending_work)))
        print("  " + report.flops_line(total_flops(pending_work, planned_flops)))
    print_lines("Hours", report.hours_lines(flops, *measured_speed(config, os.cpu_count() or 1)))
    print("  The start of jobs, scores and figures take more time. Small networks such as the demo's are far slower on a GPU.")
    naive = naive_work(config, jobs)
    naive_samplings = [planned_flops.sampling(sampling) for sampling in naive.samplings]
    naive_flops = report.Flops(sum(map(planned_flops.training, naive.trainings)), sum(naive_samplings))
    if naive_flops.total:
        by_exhibit = report.exhibit_flops(naive.samplings, naive_samplings)
        print_lines("Without sharing", report.naive_lines(flops, naive_flops, by_exhibit))
    parameters = {training: planned_flops.parameters(training) for training in work.trainings}
    print_lines("Disk", report.disk_lines(config, work, cohorts, parameters))


def print_startup_plan(config: Config, jobs: Sequence[Job], cores: int, is_local: bool) -> None:
    """Print the cost of the jobs that a run starts, the fastest line first: the run waits for some seconds only.

    Args:
        config: a canonical configuration.
        jobs: the jobs that will run.
        cores: CPU cores of the run.
        is_local: whether networks run on this machine.
    """
    work, cohorts = planned_work(config, jobs), sampled_cohorts(config, jobs)
    print("Plan: " + report.evaluations_line(total_evaluations(config, cohorts, work)), flush=True)
    flops = total_flops(work, PlannedFlops(config, cohorts, CACHE / "flops.json"))
    print("Plan: " + report.flops_line(flops), flush=True)
    print("Plan: " + report.hours_phrase(flops, *measured_speed(config, cores) if is_local else (None, 1)), flush=True)


def print_lines(heading: str, lines: Sequence[str]) -> None:
    print("\n".join([heading, *(f"  {line}" for line in lines)]))


def sampled_cohorts(config: Config, jobs: Sequence[Job]) -> dict[str, CohortSizes]:
    """Return the sizes of the cases of every dataset that is trained on or sampled from."""
    names = dict.fromkeys(job.wildcards["dataset"] for job in jobs if job.rule in ("train", "sample"))
    return {name: cohort_sizes(config, name, Path("results", name)) for name in names}


def total_flops(work: Work, planned_flops: PlannedFlops) -> report.Flops:
    """Return the operations of all trainings and all samplings."""
    return report.Flops(sum(map(planned_flops.training, work.trainings)), sum(map(planned_flops.sampling, work.samplings)))


def total_evaluations(config: Config, cohorts: dict[str, CohortSizes], work: Work) -> int:
    """Return the network evaluations of all samplings."""
    return sum(network_evaluations(config, cohorts, sampling) for sampling in work.samplings)


def measured_speed(config: Config, cores: int) -> tuple[Rate | None, int]:
    """Return the speed of the local device for one network, and the number of jobs that run at the same time."""
    threads = config["resources"]["train"]["threads"]
    try:
        rate = local_rate(config, measured_network(config), min(threads, cores), CACHE / "rates.json")
    except (ImportError, ValueError) as reason:
        print(f"Plan: the speed of the local device is unknown: {reason}", flush=True)
        return None, 1
    return rate, max(1, cores // threads) if rate.device == "CPU" else 1


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, ImportError) as problem:
        sys.exit(f"plan: {problem}")
