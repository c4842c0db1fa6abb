# Cost of the run, after everything else.


# The benchmark files are no inputs, because Snakemake does not treat them as outputs of rules.
rule cost:
    input:
        unpack(lambda wildcards: inputs.cost_inputs(config, wildcards.dataset, "results")),
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
        labels=exhibits.labels(config, exhibits.planned_methods(config)),
        users=exhibits.network_users(config, config["exhibits"]["table1"]),
        caption_note=caption_note,
        code=script_code("cost"),
    script:
        "../workflow/scripts/cost.py"
