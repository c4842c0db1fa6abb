# One job per network, split and seed. The state of an unfinished training is in work/ and is no output, because Snakemake
# deletes the outputs of a job that fails.


rule train:
    input:
        unpack(training_files),
        cases="results/{dataset}/cases/prepared.csv",
        splits="results/{dataset}/splits.csv",
    output:
        weights=f"{NETWORK}/model.safetensors",
        early=f"{NETWORK}/early.safetensors",
        metadata=f"{NETWORK}/model.json",
        history=f"{NETWORK}/training.csv",
    log:
        f"results/logs/train/{NETWORK_RUN}.log",
    benchmark:
        f"results/benchmarks/train/{NETWORK_RUN}.tsv"
    retries: RETRIES
    conda:
        "../envs/networks.yaml"
    threads: config["resources"]["train"]["threads"]
    resources:
        gpu=config["resources"]["train"]["gpu"],
        gpu_jobs=int(config["resources"]["train"]["gpu"] > 0),
        mem_mb=memory("train"),
        runtime=time_limit("train"),
        slurm_extra="--signal=TERM@300",
    params:
        state=f"work/{{dataset}}/networks/{{network}}/{SLUG}",
        name="{network}",
        split=lambda wildcards: int(wildcards.split),
        seed=lambda wildcards: int(wildcards.seed),
        settings=lambda wildcards: methods.training_settings(config, wildcards.network, wildcards.dataset),
        grid=lambda wildcards: methods.training_grid(config, wildcards.network),
        code=script_code("train"),
    script:
        "../workflow/scripts/train.py"
