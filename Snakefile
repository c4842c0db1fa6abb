"""PD-DDPM: from raw scans to every table and figure.

results/table1.csv, .html, .md, .tex, table1_groups.csv   the exhibits of the active data set (`dataset` in the configuration)
results/table2.csv, uncertainty.csv, claims.csv           also .html, .md
results/fig2_uncertainty.pdf, fig3_tprime.pdf, fig4_ensemble.pdf, pareto.pdf   also .png and .csv, the numbers that are drawn
results/cost.csv, .html, .md                              what the run took, by rule, network and method, beside the plan
results/held_out.csv, .html, .md, .tex, held_out_groups.csv   Table 1 of held-out cases, locked until evaluate_held_out
results/table1.json, ..., provenance.html, .csv, .md      how each exhibit, and every network and prediction behind it, came about
results/{dataset}/cases.csv                               case, site, paths of its images
results/{dataset}/check.csv                               what is wrong with them: severity, case, file, finding, remedy
results/{dataset}/cases/{case}_image.nii.gz               channels on the FLAIR's grid; also _mask, _brain, _observer-2, -3
results/{dataset}/cases/preparation.json                  how they were prepared
results/{dataset}/splits.csv                              split, role, case, site, fold, patient
results/{dataset}/networks/{network}/split-{i}_seed-{j}/  model.safetensors, early.safetensors, model.json, training.csv;
                                                          precision.json, in which formats it may be sampled from
results/{dataset}/predictions/{method}/split-{i}_seed-{j}/  {case}_samples.nii.gz (all members), _mask, _uncertainty; method.json
results/{dataset}/scores/{method}/split-{i}_seed-{j}.csv  one row per case; .json
results/{dataset}/ensembles/{method}/split-{i}_seed-{j}.csv  one row per case and ensemble of some of its members; .json
results/{dataset}/exhibits/                               tables and figures, each figure with the numbers it shows
results/logs/, results/benchmarks/                        of every job
work/                                                     states of unfinished trainings

{method} and {network} are names in the configuration or variations of them: pd-ddpm@t_start=50.
"""

from snakemake.utils import min_version

min_version("9.20")


configfile: "config/config.yaml"


if config["scale"] == "demo":

    configfile: "config/demo.yaml"


report: "workflow/report/workflow.rst"


# For `snakemake --sdm apptainer`, which is otherwise not looked at: built from envs/pd-ddpm.def (docs/environments.md).
container: "pd-ddpm.sif"


# Jobs with GPUs are counted on this machine only; on a cluster the scheduler counts GPUs.
resource_scopes:
    gpu_jobs="local",


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/train.smk"
include: "rules/predict.smk"
include: "rules/evaluate.smk"
include: "rules/cost.smk"
include: "rules/report.smk"


onstart:
    require_device()
    print_plan()


rule all:
    default_target: True
    input:
        PUBLISHED,
        "results/provenance.html",
