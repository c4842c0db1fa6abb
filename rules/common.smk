# Settings, constants and input functions that several rules share. What needs no Snakemake is in the package.

import atexit
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

from jinja2 import Template

from pd_ddpm.config import exhibits, inputs, leak, methods, resolve
from pd_ddpm.config.errors import ConfigError
from pd_ddpm.config.run import SLUG, Run
from pd_ddpm.config.sections.resources import Job
from pd_ddpm.config.validate import validate
from pd_ddpm.data.cases import find, mask_files, origin, scan_versions
from pd_ddpm.data.download.settings import DownloadSettings, licence_problem
from pd_ddpm.exhibits.pages.template import templates_version
from pd_ddpm.runtime import clock, sealed
from pd_ddpm.runtime.code_version import code_version
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

try:
    config.update(validate(config))
except ConfigError as error:
    raise WorkflowError(str(error)) from None


# The logger plugin shows the log files of jobs on the terminal. Jobs on a cluster print their messages, too, which Slurm stores.
if workflow.remote_exec:
    os.environ.pop("PD_DDPM_LOGS_ARE_SHOWN", None)

# A changed scan makes its list newer than everything that was computed from it. Jobs must not change what the main process has
# planned.
if workflow.is_main_process:
    try:
        lists = [Path("results", name, "scans.json") for name in config["datasets"]]
        lists += sorted(Path("results").glob("*/masks/*/*.json"))
        for versions in lists:
            for file in scan_versions.update_scan_versions(versions):
                logger.warning(f"{file}: it has changed, so all that depends on it is computed again.")
    except sealed.DamagedFileError as error:
        raise WorkflowError(str(error)) from None


def workflow_file(path):
    """Return a file of this repository, also if it is used from another folder or as a remote module."""
    if "://" in BASE:
        return workflow.source_path(f"../{path}")
    return os.path.relpath(f"{BASE}/{path}")


PLAN_SCRIPT = workflow_file("workflow/plan.py")
PRINTED_VALUES = workflow_file("config/printed_values.csv")
START_SECONDS = 5  # longest time that the start of a run waits for its plan

# Snakemake runs each cluster job in a Snakemake of its own, which would repeat a rule's retries.
RETRIES = config["retries"] if workflow.is_main_process else 0

# Paths of the runs of networks and methods.
NETWORK_RUN = f"{{dataset}}/{{network}}/{SLUG}"
METHOD_RUN = f"{{dataset}}/{{method}}/{SLUG}"
NETWORK = f"results/{{dataset}}/networks/{{network}}/{SLUG}"
PREDICTION = f"results/{{dataset}}/predictions/{{method}}/{SLUG}"
SCORES = f"results/{{dataset}}/scores/{{method}}/{SLUG}"
MASKS = f"results/{{dataset}}/masks/{{method}}/{SLUG}"
ENSEMBLES = f"results/{{dataset}}/ensembles/{{method}}/{SLUG}"

# Exhibits go to the folder that `results` names. Everything else is shared by all experiments.
FOLDER = config["results"]
EXHIBITS_FOLDER = f"{FOLDER}/{{dataset}}/exhibits"

# Methods that average others come from the rule `average`, those from files from `import_masks`, all others from `sample`.
MEANS, FILES = ("|".join(names) for names in (methods.mean_methods(config), methods.file_methods(config)))
AVERAGED_METHOD, FILES_METHOD = (rf"({names})(@[^/]+)?" if names else "(?!)" for names in (MEANS, FILES))
NOT_SAMPLED = "|".join(filter(None, (MEANS, FILES)))
SAMPLED_METHOD = rf"(?!({NOT_SAMPLED})[@/])[^/]+" if NOT_SAMPLED else "[^/]+"

# The dataset whose Table 1 is published next to the exhibits of the active one, because its cases were held out from it.
HELD_OUT = methods.held_out(config)
EXHIBITS = exhibits.available_exhibits(config)
PUBLISHED = [f"{FOLDER}/{file}" for exhibit in exhibits.default_exhibits(config).values() for file in exhibit.files]
START_PAGE = f"{FOLDER}/index.html"  # what a reader opens first

# The logger plugin names the nearest of these for a target that no rule makes.
if workflow.is_main_process:
    logger.info(None, extra={"targets": [*PUBLISHED, f"{FOLDER}/provenance.html"]})


wildcard_constraints:
    dataset="|".join(config["datasets"]),
    method="[^/]+",
    network="[^/]+",
    split=r"\d+",
    seed=r"\d+",
    shard=r"\d+",
    shards=r"\d+",
    weights="raw|ema",


def require_device():
    """Stop before anything runs if networks will run on this machine and it lacks the GPU that `device` names.

    The head node of a cluster needs no GPU. PyTorch may be missing outside the jobs' environments; then the jobs check.
    """
    rules = ("train", "gate", "probe", "reliability", "sample", "sample_shard")
    networks = any(job.rule.name in rules for job in workflow.dag.needrun_jobs())
    if config["device"].startswith("cuda") and workflow.local_exec and networks:
        with suppress(ImportError):
            from pd_ddpm.runtime.precision import choose_device

            try:
                choose_device(config["device"])
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


def unaccepted_licence(name):
    """Return why a dataset may not be downloaded, or None if its licence is accepted."""
    source = config["datasets"][name]
    return licence_problem(DownloadSettings(**source["download"]), Path(source["folder"]), f"datasets.{name}")


def licence_check(name):
    """Return an input function without files. In a dry run it names a licence that must be accepted for a download."""

    def check_licence(wildcards):
        is_there = Path(config["datasets"][name]["folder"], "downloaded.json").exists()
        if workflow.output_settings.dryrun and not is_there and (problem := unaccepted_licence(name)):
            logger.warning(f"This run would stop: {problem}")
        return []

    return check_licence


def require_licences():
    """Stop before anything runs if a licence has not been accepted."""
    names = [
        job.rule.name.removeprefix("download_") for job in workflow.dag.needrun_jobs() if job.rule.name.startswith("download_")
    ]
    if problems := [problem for name in names if (problem := unaccepted_licence(name))]:
        raise WorkflowError("\n".join(map(str, problems)))


def print_plan():
    """Print what will run and what is known of its cost within some seconds; no failure here stops a run.

    The cost is computed in a process of its own, since it may load PyTorch.
    """
    from pd_ddpm.planning import jobs as planning, report

    jobs = [planning.Job(job.rule.name, dict(job.wildcards), list(map(str, job.input))) for job in workflow.dag.needrun_jobs()]
    work = planning.planned_work(config, jobs)
    logger.info(f"Plan: {report.jobs_line(jobs, work)}")
    for line in report.doubt_lines(config, jobs):
        logger.info(f"Plan: {line}")
    if not (work.trainings or work.samplings):
        return
    request = {"config": config, "jobs": jobs, "cores": workflow.cores or 1, "is_local": workflow.local_exec}
    command = [sys.executable, PLAN_SCRIPT, "--start"]
    try:
        output = subprocess.run(command, input=json.dumps(request).encode(), capture_output=True, timeout=START_SECONDS).stdout
    except subprocess.TimeoutExpired as timeout:
        output = (timeout.stdout or b"") + b"Plan: the rest takes longer to compute; `make plan` prints it.\n"
    except OSError:
        output = b""
    for line in output.decode().splitlines():
        logger.info(line)


def name_start_page():
    """Name the page to open after a run of all tables and figures."""
    if any(START_PAGE in job.input for job in workflow.dag.jobs):
        logger.info(f"Done. Open {START_PAGE} in a browser.")


def escalating(amount):
    """Return a resource that grows with each attempt, to three times the first, since an attempt may also be preempted."""
    return lambda wildcards, attempt: amount * min(attempt, 3)


def memory(job):
    """Return the memory of `train` or `sample`, which grows with each attempt up to `max_mem_mb`."""
    request = Job(**config["resources"][job])
    return lambda wildcards, attempt: request.memory(attempt)


def time_limit(job):
    """Return the time limit of `train` or `sample`; attempts resume, so it grows only if `max_runtime` allows it."""
    request = Job(**config["resources"][job])
    return lambda wildcards, attempt: request.time_limit(attempt)


def script_code(name):
    """Return a hash of a script and the modules that it imports: a changed constant re-runs its rule, a comment does not."""
    return code_version(workflow_file(f"workflow/scripts/{name}.py"))


def case_tables(wildcards):
    """Inputs of `list_cases` in addition to the scans. Locked cases stop a run here."""
    if reason := methods.locked(config, wildcards.dataset):
        raise WorkflowError(reason)
    return find.tables_of_cases(config["datasets"][wildcards.dataset])


def network_run(wildcards):
    return Run.from_wildcards(wildcards, "network")


def method_run(wildcards):
    return Run.from_wildcards(wildcards, "method")


def training_files(wildcards):
    """Inputs of `train` in addition to the cases: the trained networks that it reads."""
    return inputs.training_inputs(config, network_run(wildcards), "results")


def shard_files(wildcards):
    """Inputs of `sample_shard` in addition to the cases: network, precision gate, pre-segmentation and its reliability."""
    return inputs.sampling_inputs(config, method_run(wildcards), "results")


def sampling_files(wildcards):
    """Inputs of `sample`: those of `sample_shard` and, if there are several shards, one metadata file for each."""
    files = shard_files(wildcards)
    folder = method_run(wildcards).folder("results", "predictions")
    cases = [f"results/{wildcards.dataset}/cases/prepared.csv", f"results/{wildcards.dataset}/splits.csv"]
    settings = methods.sampling_settings(config, wildcards.method)
    existing = inputs.existing_shards(folder, settings, script_code("sample"), [*files.values(), *cases])
    shards = existing or config["sampling"]["shards"]
    if shards > 1:
        files["shards"] = [f"{folder}/shards/{shard}-of-{shards}.json" for shard in range(1, shards + 1)]
    return files


def grid_dice_files(wildcards):
    """Inputs of `score` and `resample_ensemble` in addition to cases and predictions."""
    return inputs.grid_dice_inputs(config, wildcards.dataset, wildcards.method, "results")


def scores_of(names, exhibit):
    """Return an input function: the scores of these methods for all splits and seeds, if the configuration has the exhibit."""

    def scores(wildcards):
        exhibits.require_exhibit(config, exhibit)
        return [f"{run.folder('results', 'scores')}.csv" for run in exhibits.method_runs(config, wildcards.dataset, names)]

    return scores


def histories_of(names):
    """Return an input function: the histories of all trainings behind these methods."""
    return lambda wildcards: inputs.training_histories(config, wildcards.dataset, names, "results")


def ensembles_of(names, exhibit):
    """Return an input function: the scores of ensembles of these methods, if the configuration has the exhibit."""

    def ensembles(wildcards):
        exhibits.require_exhibit(config, exhibit)
        return [f"{run.folder('results', 'ensembles')}.csv" for run in exhibits.method_runs(config, wildcards.dataset, names)]

    return ensembles


def figure2_files(wildcards):
    """Inputs of `fig2_uncertainty` in addition to the cases: scores and predictions of one run of each method."""
    runs = exhibits.first_runs(config, wildcards.dataset)
    return {
        "scores": [f"{run.folder('results', 'scores')}.csv" for run in runs],
        "predictions": [f"{run.folder('results', 'predictions')}/predictions.csv" for run in runs],
    }


def index_files(wildcards):
    """Inputs of `index` in addition to the exhibits: scores and predictions of all test cases by the methods of Table 1."""
    runs = exhibits.browser_runs(config, config["dataset"])
    return {
        "scores": [f"{run.folder('results', 'scores')}.csv" for run in runs],
        "predictions": [f"{run.folder('results', 'predictions')}/predictions.csv" for run in runs],
    }


def report_text(name):
    """Return a caption of Snakemake's report, which the index shows, too."""
    text = Path(workflow_file(f"workflow/report/{name}.rst")).read_text(encoding="utf-8")
    return Template(text).render(snakemake=SimpleNamespace(config=config))


def result_identity(wildcards):
    """Return the columns that identify the run of a row of scores."""
    return {
        "dataset": wildcards.dataset,
        "method": wildcards.method,
        "split": int(wildcards.split),
        "seed": int(wildcards.seed),
    }


def caption_note(wildcards):
    return exhibits.caption_note(config, wildcards.dataset)


def figure_note(wildcards):
    return exhibits.figure_note(config, wildcards.dataset)
