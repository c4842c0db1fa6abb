# One job per method, split and seed; it loops over the test cases and keeps those that it has already drawn.


rule sample:
    input:
        unpack(sampling_files),
        cases="results/{dataset}/cases/prepared.csv",
        splits="results/{dataset}/splits.csv",
    output:
        predictions="results/{dataset}/predictions/{method}/split-{split}_seed-{seed}/predictions.csv",
        method_card="results/{dataset}/predictions/{method}/split-{split}_seed-{seed}/method.json",
    log:
        "results/logs/sample/{dataset}/{method}/split-{split}_seed-{seed}.log",
    benchmark:
        "results/benchmarks/sample/{dataset}/{method}/split-{split}_seed-{seed}.tsv"
    retries: RETRIES
    conda:
        "../envs/pd-ddpm.yaml"
    threads: config["resources"]["sample"]["threads"]
    resources:
        gpu=config["resources"]["sample"]["gpu"],
        gpu_jobs=int(config["resources"]["sample"]["gpu"] > 0),
        mem_mb=escalating(config["resources"]["sample"]["mem_mb"]),
        runtime=escalating(config["resources"]["sample"]["runtime"]),
    params:
        name="{method}",
        split=lambda wildcards: int(wildcards.split),
        seed=lambda wildcards: int(wildcards.seed),
        settings=method_parameters,
        code=script_code("sample"),
    script:
        "../workflow/scripts/sample.py"
