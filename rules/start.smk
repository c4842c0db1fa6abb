# What the start and the end of a run do for all studies. Snakemake ignores the handlers of modules.

import atexit
import json
import subprocess
import sys
from contextlib import suppress

from pd_ddpm.planning import jobs as planning, report as plan_report
from pd_ddpm.runtime import clock

PLAN_SCRIPT = workflow_file("workflow/plan.py")
START_SECONDS = 5  # longest time that the start of a run waits for the plan of a study


def pending_jobs():
    """Return the jobs that will run, those of each study, with the names that rules have in it."""
    pending = workflow.dag.needrun_jobs()
    return studies.by_study([planning.Job(job.rule.name, dict(job.wildcards), list(map(str, job.input))) for job in pending])


def require_device():
    """Stop before anything runs if networks will run on this machine and it lacks the GPU that `device` names.

    The head node of a cluster needs no GPU. PyTorch may be missing outside the jobs' environments; then the jobs check.
    """
    run_networks = {"train", "gate", "probe", "reliability", "sample", "sample_shard"}
    for study, jobs in pending_jobs().items():
        device, pending_rules = CONFIGS[study]["device"], {job.rule for job in jobs}
        if device.startswith("cuda") and workflow.local_exec and run_networks & pending_rules:
            with suppress(ImportError):
                from pd_ddpm.runtime.precision import choose_device

                try:
                    choose_device(device)
                except ValueError as problem:
                    raise WorkflowError(str(problem)) from None


def future_inputs():
    """Return a problem for each input of a planned job that is dated in the future."""
    # After a dry run, all jobs count as finished.
    planned = workflow.dag.needrun_jobs(exclude_finished=False)
    return clock.future_problems(str(file) for job in planned for file in job.input)


def require_past():
    """Stop before anything runs if an input of a job is dated in the future."""
    if problems := future_inputs():
        raise WorkflowError("\n".join(map(str, problems)))


@atexit.register
def name_future_inputs():
    """Name inputs that are dated in the future after a dry run, in which Snakemake calls no handler."""
    if workflow.is_main_process and workflow.output_settings.dryrun and workflow.dag is not None:
        for problem in future_inputs():
            print(f"This run would stop: {problem}", file=sys.stderr)


def require_licences():
    """Stop before anything runs if a licence has not been accepted."""
    names = [
        (study, job.rule.removeprefix("download_"))
        for study, jobs in pending_jobs().items()
        for job in jobs
        if job.rule.startswith("download_")
    ]
    if problems := [problem for study, name in names if (problem := unaccepted_licence(CONFIGS[study], name))]:
        raise WorkflowError("\n".join(map(str, problems)))


def print_plans():
    """Print what will run and what is known of its cost within some seconds; no failure here stops a run."""
    for study, jobs in pending_jobs().items():
        print_plan(CONFIGS[study], jobs)


def print_plan(settings, jobs):
    """Print the plan of a study's jobs. The cost is computed in a process of its own, since it may load PyTorch."""
    work = planning.planned_work(settings, jobs)
    logger.info(f"Plan: {plan_report.jobs_line(jobs, work)}")
    for line in plan_report.doubt_lines(settings, jobs):
        logger.info(f"Plan: {line}")
    if not (work.trainings or work.samplings):
        return
    request = {"config": settings, "jobs": jobs, "cores": workflow.cores or 1, "is_local": workflow.local_exec}
    command = [sys.executable, PLAN_SCRIPT, "--start"]
    try:
        output = subprocess.run(command, input=json.dumps(request).encode(), capture_output=True, timeout=START_SECONDS).stdout
    except subprocess.TimeoutExpired as timeout:
        output = (timeout.stdout or b"") + b"Plan: the rest takes longer to compute; `make plan` prints it.\n"
    except OSError:
        output = b""
    for line in output.decode().splitlines():
        logger.info(line)


def name_start_pages():
    """Name the page to open after a run of all tables and figures of a study, if it made them or lists them as an input."""
    pages = {f"{settings['results']}/index.html" for settings in CONFIGS.values()}
    wanted = {str(file) for job in workflow.dag.jobs for file in (*job.input, *job.output)}
    for page in sorted(pages & wanted):
        logger.info(f"Done. Open {page} in a browser.")
