# What the run took, when all else is done.


# The files that Snakemake's benchmarks are in are no inputs, as it does not know them for files that rules make.
rule cost:
    input:
        unpack(cost_files),
        cases="results/{dataset}/cases/prepared.csv",
        splits="results/{dataset}/splits.csv",
    output:
        table="results/{dataset}/exhibits/cost.csv",
        page="results/{dataset}/exhibits/cost.html",
        markdown="results/{dataset}/exhibits/cost.md",
    log:
        "results/logs/cost/{dataset}.log",
    benchmark:
        "results/benchmarks/cost/{dataset}.tsv"
    conda:
        "../envs/pd-ddpm.yaml"
    params:
        labels=lambda wildcards: labels(planned_methods()),
        remark=lambda wildcards: remark(wildcards.dataset),
        code=script_code("cost"),
    script:
        "../workflow/scripts/cost.py"
