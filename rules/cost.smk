# Cost of the run, after everything else.


# The benchmark files are no inputs, because Snakemake does not treat them as outputs of rules.
rule cost:
    input:
        unpack(lambda wildcards: inputs.cost_inputs(config, wildcards.dataset, "results")),
        cases="results/{dataset}/cases/prepared.csv",
        splits="results/{dataset}/splits.csv",
    output:
        table=f"{EXHIBITS_FOLDER}/cost.csv",
        page=f"{EXHIBITS_FOLDER}/cost.html",
        markdown=f"{EXHIBITS_FOLDER}/cost.md",
        record=f"{EXHIBITS_FOLDER}/cost.json",
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
