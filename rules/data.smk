# From a folder of scans to prepared cases and splits.

for name, made in config["datasets"].items():
    if "simulate" in made:

        rule:
            name:
                f"simulate_{name}"
            output:
                done=f"{made['folder']}/simulated.json",
            log:
                f"results/logs/simulate/{name}.log",
            benchmark:
                f"results/benchmarks/simulate/{name}.tsv"
            retries: RETRIES
            conda:
                "../envs/scans-and-tables.yaml"
            threads: 2
            resources:
                mem_mb=escalating(6000),
                runtime=escalating(60),
            params:
                settings=made["simulate"],
                code=script_code("simulate"),
            script:
                "../workflow/scripts/simulate.py"

    if origin.is_downloaded(made):

        # The hash of the code is no parameter: the published files do not depend on it, and a new record would re-run every
        # training.
        rule:
            name:
                f"download_{name}"
            input:
                licence=licence_check(name),
            output:
                record=f"{made['folder']}/downloaded.json",
            log:
                f"results/logs/download/{name}.log",
            benchmark:
                f"results/benchmarks/download/{name}.tsv"
            localrule: True
            conda:
                "../envs/scans-and-tables.yaml"
            params:
                dataset=name,
                published={key: made["download"].get(key) for key in ("doi", "version", "files")},
                part=made.get("part", "training"),
            script:
                "../workflow/scripts/download.py"


# The hash is that of the search alone. The script also runs the whole check before it fails, which does not affect the table.
rule list_cases:
    input:
        made=lambda wildcards: origin.completion_files(config["datasets"][wildcards.dataset]),
        source=case_tables,
    output:
        table="results/{dataset}/cases.csv",
        versions="results/{dataset}/scans.json",
    log:
        "results/logs/list_cases/{dataset}.log",
    benchmark:
        "results/benchmarks/list_cases/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    threads: 2
    params:
        dataset="{dataset}",
        settings=lambda wildcards: {
            key: value
            for key, value in config["datasets"][wildcards.dataset].items()
            if key not in ("simulate", "download", "networks_of", "preparation")
        },
        sources=lambda wildcards: origin.user_files(config["datasets"][wildcards.dataset]),
        code=code_version(find.__file__),
    script:
        "../workflow/scripts/list_cases.py"


# The hash of the code is no parameter, nor are crop and pixel size: a new finding must neither require raw scans that have been
# archived, nor re-run a training. Nor is `folds` a parameter: rule `split` checks it again. There are no retries, because most
# failures are problems of the data.
# The next rules do not take the findings as ancient. Snakemake does not examine the jobs below a job that must run, since it
# assumes that they follow from it. Below an ancient input they do not follow, and would stay stale or missing without a message.
rule check:
    input:
        made=lambda wildcards: origin.completion_files(config["datasets"][wildcards.dataset]),
        table="results/{dataset}/cases.csv",
        versions="results/{dataset}/scans.json",
    output:
        findings="results/{dataset}/check.csv",
    log:
        "results/logs/check/{dataset}.log",
    benchmark:
        "results/benchmarks/check/{dataset}.tsv"
    conda:
        "../envs/scans-and-tables.yaml"
    threads: 2
    resources:
        mem_mb=escalating(3000),
        runtime=escalating(60),
    params:
        orientation=lambda wildcards: methods.preparation(config, wildcards.dataset)["orientation"],
        grid_tolerance_voxels=lambda wildcards: methods.preparation(config, wildcards.dataset)["grid_tolerance_voxels"],
    script:
        "../workflow/scripts/check.py"


rule prepare:
    input:
        made=lambda wildcards: origin.completion_files(config["datasets"][wildcards.dataset]),
        findings="results/{dataset}/check.csv",
        table="results/{dataset}/cases.csv",
        versions="results/{dataset}/scans.json",
    output:
        cases="results/{dataset}/cases/prepared.csv",
        metadata="results/{dataset}/cases/preparation.json",
    log:
        "results/logs/prepare/{dataset}.log",
    benchmark:
        "results/benchmarks/prepare/{dataset}.tsv"
    retries: RETRIES
    conda:
        "../envs/scans-and-tables.yaml"
    threads: 2
    resources:
        mem_mb=escalating(6000),
        runtime=escalating(120),
    params:
        channels=lambda wildcards: config["datasets"][wildcards.dataset]["channels"],
        settings=lambda wildcards: methods.preparation(config, wildcards.dataset),
        code=script_code("prepare"),
    script:
        "../workflow/scripts/prepare.py"


rule split:
    input:
        findings="results/{dataset}/check.csv",
        table="results/{dataset}/cases.csv",
    output:
        splits="results/{dataset}/splits.csv",
    log:
        "results/logs/split/{dataset}.log",
    benchmark:
        "results/benchmarks/split/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        folds=config["folds"],
        no_training=lambda wildcards: methods.networks_from(config, wildcards.dataset) != wildcards.dataset,
        code=script_code("split"),
    script:
        "../workflow/scripts/split.py"
