# Settings, constants and input functions that several rules share. What needs no Snakemake is in the package.

import os
from pathlib import Path
from types import SimpleNamespace

from jinja2 import Template

from pd_ddpm.config import exhibits, inputs, leak, methods, resolve, study_names
from pd_ddpm.config.errors import ConfigError
from pd_ddpm.config.run import SLUG, Run
from pd_ddpm.config.sections.resources import Job
from pd_ddpm.config.validate import validate
from pd_ddpm.data.cases import find, mask_files, origin, scan_versions
from pd_ddpm.data.download.settings import DownloadSettings, licence_problem
from pd_ddpm.exhibits.pages.template import templates_version
from pd_ddpm.runtime import sealed
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
        lists += [file for name in config["datasets"] for file in sorted(Path("results", name).glob("masks/*/*.json"))]
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


PRINTED_VALUES = workflow_file(f"config/{config['exhibits']['printed_values']}")

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

# The logger plugin names the nearest of these for a target that no rule makes, and leaves the study out of the names of jobs.
if workflow.is_main_process:
    extra = {"targets": [*PUBLISHED, f"{FOLDER}/provenance.html", f"{FOLDER}/index.html"], "prefix": f"{config['study']}_"}
    logger.info(None, extra=extra)


wildcard_constraints:
    dataset="|".join(config["datasets"]),
    method="[^/]+",
    network="[^/]+",
    split=r"\d+",
    seed=r"\d+",
    shard=r"\d+",
    shards=r"\d+",
    weights="raw|ema",


def unaccepted_licence(settings, name):
    """Return why a dataset of a study may not be downloaded, or None if its licence is accepted."""
    source, key = settings["datasets"][name], study_names.dataset_key(settings, name)
    return licence_problem(DownloadSettings(**source["download"]), Path(source["folder"]), key)


def licence_check(name):
    """Return an input function without files. In a dry run it names a licence that must be accepted for a download."""

    def check_licence(wildcards):
        is_there = Path(config["datasets"][name]["folder"], "downloaded.json").exists()
        if workflow.output_settings.dryrun and not is_there and (problem := unaccepted_licence(config, name)):
            logger.warning(f"This run would stop: {problem}")
        return []

    return check_licence


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


def required_exhibit(name):
    """Return an input function without files, which stops if the configuration does not have an exhibit."""

    def no_files(wildcards):
        exhibits.require_exhibit(config, name)
        return []

    return no_files


def claims_files(wildcards):
    """Inputs of `claims` in addition to scores: the memory table, for claims of PatchDDM."""
    return inputs.claims_inputs(config, wildcards.dataset)


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


def dataset_classes(wildcards):
    """Return label -> name of each class of a dataset, as a parameter of rules."""
    return methods.dataset_classes(config, wildcards.dataset)


def caption_note(wildcards):
    return exhibits.caption_note(config, wildcards.dataset)


def figure_note(wildcards):
    return exhibits.figure_note(config, wildcards.dataset)
