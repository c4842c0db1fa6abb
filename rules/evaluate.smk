# Predictions against the truth, in millimetres on the scan's own grid. Also with a cluster they are scored beside Snakemake, in
# seconds each and at once: in the queue, a group of these jobs would wait for the slowest of its predictions.


rule score:
    input:
        cases="results/{dataset}/cases/prepared.csv",
        predictions="results/{dataset}/predictions/{method}/split-{split}_seed-{seed}/predictions.csv",
    output:
        scores="results/{dataset}/scores/{method}/split-{split}_seed-{seed}.csv",
        record="results/{dataset}/scores/{method}/split-{split}_seed-{seed}.json",
    log:
        "results/logs/score/{dataset}/{method}/split-{split}_seed-{seed}.log",
    benchmark:
        "results/benchmarks/score/{dataset}/{method}/split-{split}_seed-{seed}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        identity=result_identity,
        settings=config["evaluation"],
        code=script_code("score"),
    script:
        "../workflow/scripts/score.py"


rule resample_ensemble:
    input:
        cases="results/{dataset}/cases/prepared.csv",
        predictions="results/{dataset}/predictions/{method}/split-{split}_seed-{seed}/predictions.csv",
    output:
        ensembles="results/{dataset}/ensembles/{method}/split-{split}_seed-{seed}.csv",
        record="results/{dataset}/ensembles/{method}/split-{split}_seed-{seed}.json",
    log:
        "results/logs/resample_ensemble/{dataset}/{method}/split-{split}_seed-{seed}.log",
    benchmark:
        "results/benchmarks/resample_ensemble/{dataset}/{method}/split-{split}_seed-{seed}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        identity=result_identity,
        subsets=config["exhibits"]["fig4_ensemble"]["subsets"],
        code=script_code("resample_ensemble"),
    script:
        "../workflow/scripts/resample_ensemble.py"
