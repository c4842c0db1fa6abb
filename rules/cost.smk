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
        record="results/{dataset}/exhibits/cost.json",
    log:
        "results/logs/cost/{dataset}.log",
    benchmark:
        "results/benchmarks/cost/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/networks.yaml"
    params:
        labels=lambda wildcards: labels(planned_methods()),
        caption_note=lambda wildcards: remark(wildcards.dataset),
        code=script_code("cost"),
    script:
        "../workflow/scripts/cost.py"
