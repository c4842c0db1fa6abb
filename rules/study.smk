# All rules of one study. The Snakefile includes this file for the first study and uses it as a module for each other one.

# Folder of the Snakefile, which may differ from that of the results, and from that of a workflow that uses this one as a module.
BASE = workflow.current_basedir.get_basedir().get_path_or_uri(secret_free=True)


# Used by `snakemake --sdm apptainer` only. Built from envs/pd-ddpm.def, see docs/environments.md.
container: "pd-ddpm.sif"


include: "common.smk"
include: "data.smk"
include: "train.smk"
include: "predict.smk"
include: "evaluate.smk"
include: "cost.smk"
include: "report.smk"
