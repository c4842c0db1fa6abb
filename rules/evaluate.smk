# Predictions against the truth, in millimetres on the scan's own grid.


rule score:
    input:
        cases="results/{dataset}/cases/prepared.csv",
        predictions="results/{dataset}/predictions/{method}/split-{split}_seed-{seed}/predictions.csv",
    output:
        scores="results/{dataset}/scores/{method}/split-{split}_seed-{seed}.csv",
    log:
        "results/logs/score/{dataset}/{method}/split-{split}_seed-{seed}.log",
    conda:
        "../envs/pd-ddpm.yaml"
    params:
        identity=lambda wildcards: dict(
            dataset=wildcards.dataset, method=wildcards.method, split=int(wildcards.split), seed=int(wildcards.seed)
        ),
        code=script_code("score"),
    script:
        "../workflow/scripts/score.py"
