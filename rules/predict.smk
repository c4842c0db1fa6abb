# One job per method, split and seed, or as many as sampling.shards says; each loops over its test cases and keeps those that
# are already drawn. Where sampling is in another format than float32, a job per network tests that beforehand.


rule gate:
    input:
        cases="results/{dataset}/cases/prepared.csv",
        splits="results/{dataset}/splits.csv",
        weights="results/{dataset}/networks/{network}/split-{split}_seed-{seed}/model.safetensors",
        card="results/{dataset}/networks/{network}/split-{split}_seed-{seed}/model.json",
    output:
        verdict="results/{dataset}/networks/{network}/split-{split}_seed-{seed}/precision.json",
    log:
        "results/logs/gate/{dataset}/{network}/split-{split}_seed-{seed}.log",
    benchmark:
        "results/benchmarks/gate/{dataset}/{network}/split-{split}_seed-{seed}.tsv"
    retries: RETRIES
    conda:
        "../envs/networks.yaml"
    threads: config["resources"]["sample"]["threads"]
    resources:
        gpu=config["resources"]["sample"]["gpu"],
        gpu_jobs=int(config["resources"]["sample"]["gpu"] > 0),
        mem_mb=escalating(config["resources"]["sample"]["mem_mb"]),
        runtime=escalating(30),
    params:
        name="{network}",
        split=lambda wildcards: int(wildcards.split),
        settings=lambda wildcards: methods.gate_method(config, wildcards.network),
        gate=config["sampling"]["gate"],
        code=script_code("gate"),
    script:
        "../workflow/scripts/gate.py"


rule sample_shard:
    input:
        unpack(drawing_files),
        cases="results/{dataset}/cases/prepared.csv",
        splits="results/{dataset}/splits.csv",
    output:
        shard_card="results/{dataset}/predictions/{method}/split-{split}_seed-{seed}/shards/{shard}-of-{shards}.json",
    log:
        "results/logs/sample/{dataset}/{method}/split-{split}_seed-{seed}/shard-{shard}-of-{shards}.log",
    benchmark:
        "results/benchmarks/sample/{dataset}/{method}/split-{split}_seed-{seed}/shard-{shard}-of-{shards}.tsv"
    retries: RETRIES
    conda:
        "../envs/networks.yaml"
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


# With shards it only gathers what they have drawn, and needs no GPU for that.
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
        "../envs/networks.yaml"
    threads: config["resources"]["sample"]["threads"]
    resources:
        gpu=lambda wildcards, input: 0 if "shards" in input.keys() else config["resources"]["sample"]["gpu"],
        gpu_jobs=lambda wildcards, input: int("shards" not in input.keys() and config["resources"]["sample"]["gpu"] > 0),
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
