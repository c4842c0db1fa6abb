"""PD-DDPM: from raw scans to every table and figure.

results/table1.csv, .html, .md, .tex, table1_groups.csv   exhibits of the active dataset (config key `dataset`)
results/table2.csv, uncertainty.csv, claims.csv           also .html, .md
results/fig2_uncertainty.pdf, fig3_tprime.pdf, fig4_ensemble.pdf, pareto.pdf, probe.pdf   also .png and .csv with the numbers
results/leak.csv, .html, .md, .pdf, .png                      denoisers with recycling, with config/leak.yaml only
results/leak_probe.pdf, .png, .csv                        what these denoisers read in x_t
results/training.pdf                                      also .png and .csv: training curves of every network
results/index.html, index_files/                          one page: all of these, and a browser of all test cases
results/cost.csv, .html, .md                              cost by rule, network and method, next to the planned cost
results/held_out.csv, .html, .md, .tex, held_out_groups.csv   Table 1 of held-out cases, locked until evaluate_held_out
results/table1.json, ..., provenance.html, .csv, .md      how each exhibit, network and prediction was made
results/{dataset}/cases.csv                               case, site, paths of its images
results/{dataset}/scans.json                              size, time and SHA-256 of each scan
results/{dataset}/check.csv                               problems of the scans: severity, case, file, finding, remedy
results/{dataset}/cases/{case}_image.nii.gz               channels on the FLAIR's grid; also _mask, _brain, _observer-2, -3
results/{dataset}/cases/preparation.json                  settings of the preprocessing
results/{dataset}/splits.csv                              split, role, case, site, fold, patient
results/{dataset}/grid_dice.csv                           Dice of the ground truth through a working grid and back
results/{dataset}/grid_dice_{network}.csv                 the same for the first network with a grid of its own
results/{dataset}/networks/{network}/split-{i}_seed-{j}/  model.safetensors, early.safetensors, model.json, training.csv;
                                                          precision-raw.json, -ema: precisions that passed the gate;
                                                          probe.csv, .json: whether a denoiser reads x_t;
                                                          reliability-raw.json, -ema: sensitivity and specificity of masks
results/{dataset}/predictions/{method}/split-{i}_seed-{j}/  {case}_samples.nii.gz (all members), _mask, _uncertainty; method.json
results/{dataset}/masks/{method}/split-{i}_seed-{j}.csv   files of a method that another program has made; .json has their versions
results/{dataset}/scores/{method}/split-{i}_seed-{j}.csv  one row per case; .json
results/{dataset}/ensembles/{method}/split-{i}_seed-{j}.csv  one row per case and ensemble of some of its members; .json
results/{dataset}/exhibits/                               tables and figures, each figure with its numbers
results/logs/, results/benchmarks/                        log, time and memory of every job
work/                                                     checkpoints of unfinished trainings, compiled code, the cache of `make plan`

results/patchddm/                                         exhibits of the study PatchDDM (docs/studies.md), whose datasets have names
                                                          of their own; index.html is the page of all of them
results/recycling/                                        exhibits of the study recycling, likewise

The exhibits, here in results/ and results/{dataset}/exhibits/, go to the folder that the config key `results` names.
{method} and {network} are names in the configuration, or variations such as pd-ddpm@t_start=50.
"""

import copy

from pd_ddpm.config import load, studies, study_names
from pd_ddpm.config.errors import ConfigError
from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.20")

USER_CONFIG = copy.deepcopy(config)
CONFIG_FOLDER = f"{workflow.current_basedir.get_path_or_uri(secret_free=True)}/config"


configfile: f"{CONFIG_FOLDER}/config.yaml"


if config["scale"] in ("demo", "gpu"):

    configfile: f"{CONFIG_FOLDER}/{config['scale']}.yaml"


for study in study_names.FURTHER:
    config.pop(study, None)


report: "workflow/report/workflow.rst"


# The limit on jobs with GPUs holds on this machine only; on a cluster the scheduler assigns GPUs.
resource_scopes:
    gpu_jobs="local",


include: "rules/study.smk"


# Each further study is the same rules with a configuration of its own. Its name precedes those of its rules.
CONFIGS = {study_names.FIRST: config}
for study in study_names.FURTHER:
    try:
        CONFIGS[study] = load.read_study(study, USER_CONFIG, lambda file: workflow_file(f"config/{file}"))
    except ConfigError as error:
        raise WorkflowError(str(error)) from None
    rule_prefix = f"{study}_"

    module:
        name: study
        snakefile:
            "rules/study.smk"
        config:
            CONFIGS[study]

    use rule * from study as rule_prefix*


try:
    studies.check_studies(CONFIGS)
except ConfigError as error:
    raise WorkflowError(str(error)) from None


include: "rules/start.smk"


onstart:
    require_device()
    require_past()
    require_licences()
    print_plans()
    logger.info(f"Log: {' '.join(log)}")


# Snakemake writes the benchmarks, which the table of costs reads.
onsuccess:
    sealed.seal_foreign_files(Path("results", "benchmarks"), "*.tsv")
    name_start_pages()


onerror:
    sealed.seal_foreign_files(Path("results", "benchmarks"), "*.tsv")


rule all:
    default_target: True
    input:
        PUBLISHED,
        f"{FOLDER}/provenance.html",
        f"{FOLDER}/index.html",
