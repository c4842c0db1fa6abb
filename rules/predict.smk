# One job per method, split and seed, or `sampling.shards` jobs. Each samples its test cases and keeps those that are finished.
# If the precision is not float32, one job per network tests it first, on the weights that are sampled. Another job per denoiser tests whether it reads x_t.


rule gate:
    input:
        cases="results/{dataset}/cases/prepared.csv",
        splits="results/{dataset}/splits.csv",
        weights=f"{NETWORK}/model.safetensors",
        metadata=f"{NETWORK}/model.json",
    output:
        verdict=f"{NETWORK}/precision-{{weights}}.json",
    log:
        f"results/logs/gate/{NETWORK_RUN}/{{weights}}.log",
    benchmark:
        f"results/benchmarks/gate/{NETWORK_RUN}/{{weights}}.tsv"
    retries: RETRIES
    conda:
        "../envs/networks.yaml"
    threads: config["resources"]["sample"]["threads"]
    resources:
        gpu=config["resources"]["sample"]["gpu"],
        gpu_jobs=int(config["resources"]["sample"]["gpu"] > 0),
        mem_mb=memory("sample"),
        runtime=escalating(30),
    params:
        settings=lambda wildcards: methods.gate_method(config, wildcards.network, wildcards.weights),
        gate=config["sampling"]["gate"],
        code=script_code("gate"),
    script:
        "../workflow/scripts/gate.py"


rule probe:
    input:
        cases="results/{dataset}/cases/prepared.csv",
        splits="results/{dataset}/splits.csv",
        weights=f"{NETWORK}/model.safetensors",
        metadata=f"{NETWORK}/model.json",
    output:
        table=f"{NETWORK}/probe.csv",
        record=f"{NETWORK}/probe.json",
    log:
        f"results/logs/probe/{NETWORK_RUN}.log",
    benchmark:
        f"results/benchmarks/probe/{NETWORK_RUN}.tsv"
    retries: RETRIES
    conda:
        "../envs/networks.yaml"
    threads: config["resources"]["sample"]["threads"]
    resources:
        gpu=config["resources"]["sample"]["gpu"],
        gpu_jobs=int(config["resources"]["sample"]["gpu"] > 0),
        mem_mb=memory("sample"),
        runtime=escalating(30),
    params:
        settings=config["exhibits"]["probe"],
        code=script_code("probe"),
    script:
        "../workflow/scripts/probe.py"


rule reliability:
    input:
        cases="results/{dataset}/cases/prepared.csv",
        splits="results/{dataset}/splits.csv",
        weights=f"{NETWORK}/model.safetensors",
        metadata=f"{NETWORK}/model.json",
    output:
        record=f"{NETWORK}/reliability-{{weights}}.json",
    log:
        f"results/logs/reliability/{NETWORK_RUN}/{{weights}}.log",
    benchmark:
        f"results/benchmarks/reliability/{NETWORK_RUN}/{{weights}}.tsv"
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
        settings=lambda wildcards: {"weights": wildcards.weights},
        code=script_code("reliability"),
    script:
        "../workflow/scripts/reliability.py"


rule sample_shard:
    input:
        unpack(shard_files),
        cases="results/{dataset}/cases/prepared.csv",
        splits="results/{dataset}/splits.csv",
    output:
        shard_record=f"{PREDICTION}/shards/{{shard}}-of-{{shards}}.json",
    log:
        f"results/logs/sample/{METHOD_RUN}/shard-{{shard}}-of-{{shards}}.log",
    benchmark:
        f"results/benchmarks/sample/{METHOD_RUN}/shard-{{shard}}-of-{{shards}}.tsv"
    wildcard_constraints:
        method=SAMPLED_METHOD,
    retries: RETRIES
    conda:
        "../envs/networks.yaml"
    threads: config["resources"]["sample"]["threads"]
    resources:
        gpu=config["resources"]["sample"]["gpu"],
        gpu_jobs=int(config["resources"]["sample"]["gpu"] > 0),
        mem_mb=memory("sample"),
        runtime=time_limit("sample"),
    params:
        settings=lambda wildcards: methods.sampling_settings(config, wildcards.method),
        code=script_code("sample"),
    script:
        "../workflow/scripts/sample.py"


# A sampling without shards, or the collection of the samples of all shards, which needs no GPU.
use rule sample_shard as sample with:
    input:
        unpack(sampling_files),
        cases="results/{dataset}/cases/prepared.csv",
        splits="results/{dataset}/splits.csv",
    output:
        predictions=f"{PREDICTION}/predictions.csv",
        method_metadata=f"{PREDICTION}/method.json",
    log:
        f"results/logs/sample/{METHOD_RUN}.log",
    benchmark:
        f"results/benchmarks/sample/{METHOD_RUN}.tsv"
    resources:
        gpu=lambda wildcards, input: 0 if "shards" in input.keys() else config["resources"]["sample"]["gpu"],
        gpu_jobs=lambda wildcards, input: int("shards" not in input.keys() and config["resources"]["sample"]["gpu"] > 0),
        mem_mb=memory("sample"),
        runtime=time_limit("sample"),


# The mean of the predictions of other methods. No network runs.
rule average:
    input:
        averaged=lambda wildcards: inputs.averaging_inputs(config, method_run(wildcards), "results"),
        cases="results/{dataset}/cases/prepared.csv",
    output:
        predictions=f"{PREDICTION}/predictions.csv",
        method_metadata=f"{PREDICTION}/method.json",
    log:
        f"results/logs/average/{METHOD_RUN}.log",
    benchmark:
        f"results/benchmarks/average/{METHOD_RUN}.tsv"
    wildcard_constraints:
        method=AVERAGED_METHOD,
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        settings=lambda wildcards: methods.sampling_settings(config, wildcards.method)
        | {"mean_of": methods.averaged_methods(config, wildcards.method)},
        code=script_code("average"),
    script:
        "../workflow/scripts/average.py"


# Masks that another program has made. The files are no inputs, since their names are unknown until the cases are assigned to
# splits. Each start of Snakemake compares them with the list of their versions instead.
rule list_masks:
    input:
        splits="results/{dataset}/splits.csv",
        source=lambda wildcards: inputs.mask_tables(config, method_run(wildcards)),
    output:
        table=f"{MASKS}.csv",
        versions=f"{MASKS}.json",
    log:
        f"results/logs/list_masks/{METHOD_RUN}.log",
    benchmark:
        f"results/benchmarks/list_masks/{METHOD_RUN}.tsv"
    wildcard_constraints:
        method=FILES_METHOD,
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        role="test",
        settings=lambda wildcards: methods.file_settings(config, wildcards.method),
        code=code_version(mask_files.__file__),
    script:
        "../workflow/scripts/list_masks.py"


# Masks from which a denoiser is validated. Those of some cases may be missing.
use rule list_masks as list_validation_masks with:
    output:
        table=f"{MASKS}_validation.csv",
        versions=f"{MASKS}_validation.json",
    log:
        f"results/logs/list_masks/{METHOD_RUN}_validation.log",
    benchmark:
        f"results/benchmarks/list_masks/{METHOD_RUN}_validation.tsv"
    params:
        role="validation",
        settings=lambda wildcards: methods.file_settings(config, wildcards.method),
        code=code_version(mask_files.__file__),


rule import_masks:
    input:
        table=f"{MASKS}.csv",
        versions=f"{MASKS}.json",
        cases="results/{dataset}/cases/prepared.csv",
    output:
        predictions=f"{PREDICTION}/predictions.csv",
        method_metadata=f"{PREDICTION}/method.json",
    log:
        f"results/logs/import_masks/{METHOD_RUN}.log",
    benchmark:
        f"results/benchmarks/import_masks/{METHOD_RUN}.tsv"
    wildcard_constraints:
        method=FILES_METHOD,
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        settings=lambda wildcards: methods.sampling_settings(config, wildcards.method),
        grid_tolerance_voxels=lambda wildcards: methods.preparation(config, wildcards.dataset)["grid_tolerance_voxels"],
        labels=lambda wildcards: list(dataset_classes(wildcards)),
        code=script_code("import_masks"),
    script:
        "../workflow/scripts/import_masks.py"
