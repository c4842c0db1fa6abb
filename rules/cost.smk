# What the run costs: told when it starts, and what it took when all else is done.

START_SECONDS = 5  # that a run waits for the lines on its cost


def tell_plan():
    """Say what has yet to run and what that costs, as far as it is known in some seconds; nothing here stops a run.

    It is asked of a process of its own, since it may load PyTorch.
    """
    jobs = [(job.rule.name, dict(job.wildcards), list(map(str, job.input))) for job in workflow.dag.needrun_jobs()]
    asked = {"config": config, "jobs": jobs, "cores": workflow.cores or 1, "here": workflow.local_exec}
    command = [sys.executable, f"{workflow.basedir}/workflow/plan.py", "--start"]
    try:
        told = subprocess.run(command, input=json.dumps(asked).encode(), capture_output=True, timeout=START_SECONDS).stdout
    except subprocess.TimeoutExpired as late:
        told = (late.stdout or b"") + b"Plan: what is missing here takes longer; `make plan` tells it, and keeps it.\n"
    except OSError:
        told = b""
    print(told.decode(), end="", file=sys.stderr, flush=True)


def planned_methods():
    """Every method that an exhibit shows, and those whose masks one of them starts from."""
    exhibits = config["exhibits"]
    shown = [*exhibits["table1"], *table2_scores(), *figure3_methods(), *claims_methods(), exhibits["fig4_ensemble"]["method"]]
    shown = [settings.canonical(config, name) for name in shown] + [point["method"] for point in pareto_points()]
    return list(dict.fromkeys([*shown, *filter(None, map(presegmentation_of, shown))]))


def cost_files(wildcards):
    """The cards of all networks and predictions of a data set, and every other exhibit, so that the cost comes last."""
    dataset, methods = wildcards.dataset, planned_methods()
    runs = [f"split-{split}_seed-{seed}" for split in config["splits"] for seed in config["seeds"]]
    networks = dict.fromkeys(settings.method(config, name)["network"] for name in methods)
    trained = settings.networks_from(config, dataset) == dataset
    others = [files[0] for name, (files, *_) in EXHIBITS.items() if name not in ("cost", "held_out")]
    return {
        "cards": [f"results/{dataset}/networks/{name}/{run}/model.json" for name in networks for run in runs if trained],
        "method_cards": [f"results/{dataset}/predictions/{name}/{run}/method.json" for name in methods for run in runs],
        "exhibits": [f"results/{dataset}/exhibits/{file}" for file in others],
    }


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
        remark=lambda wildcards: remark(wildcards.dataset),
        code=script_code("cost"),
    script:
        "../workflow/scripts/cost.py"
