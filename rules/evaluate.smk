# Scores of predictions against the ground truth, in millimetres on the scan's own grid. These jobs take seconds. They run where
# Snakemake runs, also with a cluster: in the queue, a group of them would wait for the slowest of its predictions.


# Only if a working grid is configured, for the section `grid` and for each network with a grid of its own. It needs PyTorch,
# which resamples to the grid.
rule grid_dice:
    input:
        cases="results/{dataset}/cases/prepared.csv",
    output:
        table="results/{dataset}/grid_dice.csv",
    log:
        "results/logs/grid_dice/{dataset}.log",
    benchmark:
        "results/benchmarks/grid_dice/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/networks.yaml"
    params:
        grid=exhibits.scored_grid(config),
        classes=dataset_classes,
        code=script_code("grid_dice"),
    script:
        "../workflow/scripts/grid_dice.py"


use rule grid_dice as grid_dice_of_network with:
    output:
        table="results/{dataset}/grid_dice_{network}.csv",
    log:
        "results/logs/grid_dice/{dataset}_{network}.log",
    benchmark:
        "results/benchmarks/grid_dice/{dataset}_{network}.tsv"
    params:
        grid=lambda wildcards: exhibits.scored_grid(config, wildcards.network),
        code=script_code("grid_dice"),


rule score:
    input:
        unpack(grid_dice_files),
        cases="results/{dataset}/cases/prepared.csv",
        predictions=f"{PREDICTION}/predictions.csv",
        method_metadata=f"{PREDICTION}/method.json",
    output:
        scores=f"{SCORES}.csv",
        record=f"{SCORES}.json",
    log:
        f"results/logs/score/{METHOD_RUN}.log",
    benchmark:
        f"results/benchmarks/score/{METHOD_RUN}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        identity=result_identity,
        settings=config["evaluation"],
        classes=dataset_classes,
        code=script_code("score"),
    script:
        "../workflow/scripts/score.py"


rule resample_ensemble:
    input:
        unpack(grid_dice_files),
        cases="results/{dataset}/cases/prepared.csv",
        predictions=f"{PREDICTION}/predictions.csv",
    output:
        ensembles=f"{ENSEMBLES}.csv",
        record=f"{ENSEMBLES}.json",
    log:
        f"results/logs/resample_ensemble/{METHOD_RUN}.log",
    benchmark:
        f"results/benchmarks/resample_ensemble/{METHOD_RUN}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        identity=result_identity,
        resampling=lambda wildcards: methods.resampling(config, wildcards.method),
        classes=dataset_classes,
        code=script_code("resample_ensemble"),
    script:
        "../workflow/scripts/resample_ensemble.py"
