"""PD-DDPM: from raw scans to every table and figure.

results/table1.csv, .html, .md                            the exhibits of the active data set (`dataset` in the configuration)
results/fig3_tprime.pdf, .png, .csv
results/{dataset}/cases.csv                               case, site, paths of its images
results/{dataset}/cases/{case}_image.nii.gz               channels on the FLAIR's grid; also _mask, _brain, _observer-2
results/{dataset}/splits.csv                              split, role, case, site, fold
results/{dataset}/networks/{network}/split-{i}_seed-{j}/  model.safetensors, last.safetensors, model.json, training.csv
results/{dataset}/predictions/{method}/split-{i}_seed-{j}/  {case}_samples.nii.gz (K probabilities), _mask, _uncertainty
results/{dataset}/scores/{method}/split-{i}_seed-{j}.csv  one row per case
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


# GPUs are counted on this machine only; on a cluster the scheduler counts them.
resource_scopes:
    gpu="local",


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/train.smk"
include: "rules/predict.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        multiext("results/table1", ".csv", ".html", ".md"),
        multiext("results/fig3_tprime", ".pdf", ".png", ".csv"),
