# What a rule needs to know of the configuration.

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from pd_ddpm.config import consistency, methods, resolve
from pd_ddpm.config.errors import ConfigError
from pd_ddpm.config.validate import validate
from pd_ddpm.data.cases import find, wmh
from pd_ddpm.runtime.code_version import code_version
from snakemake.exceptions import WorkflowError

try:
    config.update(validate(config))
except ConfigError as error:
    raise WorkflowError(str(error)) from None


def require_device():
    """Stop before anything runs if networks will run on this machine and it lacks the GPU that is asked for by name.

    The head of a cluster needs none. PyTorch is loaded for this question only, and may be in the jobs' environments alone.
    """
    networks = any(job.rule.name in ("train", "gate", "sample", "sample_shard") for job in workflow.dag.needrun_jobs())
    if config["device"].startswith("cuda") and workflow.local_exec and networks:
        with suppress(ImportError):
            from pd_ddpm.runtime.precision import choose_device

            try:
                choose_device(config["device"])
            except ValueError as problem:
                raise WorkflowError(str(problem)) from None


START_SECONDS = 5  # that a run waits for the lines on its cost


def tell_plan():
    """Say what has yet to run and what that costs, as far as it is known in some seconds; nothing here stops a run.

    The cost is asked of a process of its own, since that may load PyTorch.
    """
    from pd_ddpm.planning import jobs as planning, report as plan_report

    jobs = [planning.Job(job.rule.name, dict(job.wildcards), list(map(str, job.input))) for job in workflow.dag.needrun_jobs()]
    work = planning.planned(config, jobs)
    print(f"Plan: {plan_report.jobs_line(jobs, work)}", file=sys.stderr, flush=True)
    if not (work.trainings or work.samplings):
        return
    asked = {"config": config, "jobs": jobs, "cores": workflow.cores or 1, "here": workflow.local_exec}
    command = [sys.executable, f"{workflow.basedir}/workflow/plan.py", "--start"]
    try:
        told = subprocess.run(command, input=json.dumps(asked).encode(), capture_output=True, timeout=START_SECONDS).stdout
    except subprocess.TimeoutExpired as late:
        told = (late.stdout or b"") + b"Plan: what is missing here takes longer; `make plan` tells it, and keeps it.\n"
    except OSError:
        told = b""
    print(told.decode(), end="", file=sys.stderr, flush=True)


# A rule's own retries would be spent again inside each cluster job, which runs a Snakemake of its own.
RETRIES = config["retries"] if workflow.is_main_process else 0


def escalating(amount):
    """What a job asks a cluster for: more with each attempt, to three times the first, since a preemption is one of them."""
    return lambda wildcards, attempt: amount * min(attempt, 3)


# The data set whose Table 1 is published beside the exhibits of the active one, since its cases were held out from them.
HELD_OUT = methods.held_out(config)

# Files of each exhibit, the one for the report first, and where it stands there.
EXHIBITS = {
    "table1": (
        ["table1.html", "table1.csv", "table1.md", "table1.tex", "table1_groups.csv", "table1.json"],
        "Tables",
        "Table 1",
    ),
    "table2": (["table2.html", "table2.csv", "table2.md", "table2.json"], "Tables", "Table 2"),
    "uncertainty": (["uncertainty.html", "uncertainty.csv", "uncertainty.md", "uncertainty.json"], "Tables", "Uncertainty"),
    "claims": (["claims.html", "claims.csv", "claims.md", "claims.json"], "Tables", "The paper's claims"),
    "cost": (["cost.html", "cost.csv", "cost.md", "cost.json"], "Tables", "Cost of the run"),
    "fig2_uncertainty": ([f"fig2_uncertainty.{kind}" for kind in ("png", "pdf", "csv", "json")], "Figures", "Figure 2"),
    "fig3_tprime": ([f"fig3_tprime.{kind}" for kind in ("png", "pdf", "csv", "json")], "Figures", "Figure 3"),
    "fig4_ensemble": ([f"fig4_ensemble.{kind}" for kind in ("png", "pdf", "csv", "json")], "Figures", "Figure 4"),
    "pareto": ([f"pareto.{kind}" for kind in ("png", "pdf", "csv", "json")], "Figures", "Dice against cost"),
}
if HELD_OUT:
    EXHIBITS["held_out"] = (
        [file.replace("table1", "held_out") for file in EXHIBITS["table1"][0]],
        "Tables",
        "Table 1 of the held-out cases",
    )

# What `rule all` makes, and of what the page of provenance tells.
SHOWN = [exhibit for exhibit in EXHIBITS if exhibit != "held_out" or config["evaluate_held_out"]]
PUBLISHED = [f"results/{file}" for exhibit in SHOWN for file in EXHIBITS[exhibit][0]]


wildcard_constraints:
    dataset="|".join(config["datasets"]),
    method="[^/]+",
    network="[^/]+",
    split=r"\d+",
    seed=r"\d+",
    shard=r"\d+",
    shards=r"\d+",


def script_code(name):
    """Hash of a script and the modules it imports, so that a changed constant re-runs and a comment does not."""
    return code_version(f"{workflow.basedir}/workflow/scripts/{name}.py")


def fetched(dataset):
    """Whether the workflow fetches this data set; scans that somebody else has put into its folder are left alone."""
    source = config["datasets"][dataset]
    if not source.get("download"):
        return False
    folder = Path(source["folder"])
    begun = any((folder / name).is_file() for name in ("dataverse.json", "downloaded.json"))
    return begun or next(wmh.wmh_masks(folder, source.get("part", "training")), None) is None


def made_by_workflow(dataset):
    """The file that is written last where the workflow simulates or fetches the data set itself."""
    source = config["datasets"][dataset]
    if "simulate" in source:
        return [f"{source['folder']}/simulated.json"]
    return [f"{source['folder']}/downloaded.json"] if fetched(dataset) else []


def tables_of_cases(wildcards):
    """What rule list_cases reads beside the names of the scans; here ends whatever is asked of cases that are locked."""
    if reason := methods.locked(config, wildcards.dataset):
        raise WorkflowError(reason)
    return find.tables_of_cases(config["datasets"][wildcards.dataset])


def training_files(wildcards):
    """The trained network that another one begins with, where it does."""
    trained = methods.networks_from(config, wildcards.dataset)
    if trained != wildcards.dataset:
        raise WorkflowError(
            f"results/{wildcards.dataset}/networks: nothing is trained on {wildcards.dataset}, whose networks_of is {trained}; "
            f"ask for results/{trained}/networks."
        )
    first = resolve.network(config, wildcards.network)["initialise_from"]
    folder = f"results/{wildcards.dataset}/networks/{first}/split-{wildcards.split}_seed-{wildcards.seed}"
    return {"first_weights": f"{folder}/model.safetensors", "first_card": f"{folder}/model.json"} if first else {}


def drawing_files(wildcards):
    """What a method is sampled from: the trained network, how it passed its gate, and the members of its pre-segmentation."""
    problems = list(consistency.method_problems(config, wildcards.method))
    if problems:
        raise WorkflowError("\n".join(map(str, problems)))
    chosen = resolve.method(config, wildcards.method)
    run = f"split-{wildcards.split}_seed-{wildcards.seed}"
    trained = methods.networks_from(config, wildcards.dataset)
    network = f"results/{trained}/networks/{chosen['network']}/{run}"
    weights = "model" if chosen["checkpoint"] == "selected" else "early"
    files = {"weights": f"{network}/{weights}.safetensors", "card": f"{network}/model.json"}
    if chosen["precision"] != "float32":
        files["gate"] = f"{network}/precision.json"
    if chosen.get("start") == "presegmentation" and chosen["presegmentation"] != resolve.NO_PRESEGMENTATION:
        before = resolve.canonical(config, chosen["presegmentation"])
        files["presegmentation"] = f"results/{wildcards.dataset}/predictions/{before}/{run}/predictions.csv"
    return files


def sampling_files(wildcards):
    """The same, and the shards in which its cases are drawn, if there are several."""
    files = drawing_files(wildcards)
    folder = f"results/{wildcards.dataset}/predictions/{wildcards.method}/split-{wildcards.split}_seed-{wildcards.seed}"
    shards = shards_of(wildcards, Path(folder), files)
    if shards > 1:
        files["shards"] = [f"{folder}/shards/{shard}-of-{shards}.json" for shard in range(1, shards + 1)]
    return files


def shards_of(wildcards, folder, files):
    """In how many shards a method is drawn: as many as it was drawn in where that is up to date, else as are configured.

    Other inputs would make Snakemake gather again what is finished, and draw shards for it.
    """
    with suppress(OSError, ValueError, KeyError):  # a card of an earlier version, too
        card = json.loads((folder / "method.json").read_text(encoding="utf-8"))
        made = (folder / "predictions.csv").stat().st_mtime
        same = (card["settings"], card["provenance"]["code"]) == (method_parameters(wildcards), script_code("sample"))
        cases = f"results/{wildcards.dataset}/cases/prepared.csv", f"results/{wildcards.dataset}/splits.csv"
        if same and all(Path(file).stat().st_mtime <= made for file in (*files.values(), *cases)):
            return card["shards"]
    return config["sampling"]["shards"]


def method_parameters(wildcards):
    """A method's settings as far as they change a sample, which its name in tables does not."""
    chosen = resolve.method(config, wildcards.method) | {"pool": methods.pool(config, wildcards.method)}
    return {key: value for key, value in chosen.items() if key != "label"}


def result_files(kind, dataset, methods):
    """The scores or ensembles (`kind`) of these methods over all splits and seeds."""
    return [
        f"results/{dataset}/{kind}/{name}/split-{split}_seed-{seed}.csv"
        for name in dict.fromkeys(resolve.canonical(config, method) for method in methods)
        for split in config["splits"]
        for seed in config["seeds"]
    ]


def result_identity(wildcards):
    """The columns that say whose scores these are."""
    return dict(
        dataset=wildcards.dataset,
        method=wildcards.method,
        split=int(wildcards.split),
        seed=int(wildcards.seed),
    )


def presegmentation_of(name):
    """The method whose masks another one starts from, if there is one."""
    before = resolve.method(config, name).get("presegmentation")
    return None if before in (None, resolve.NO_PRESEGMENTATION) else resolve.canonical(config, before)


def figure3_methods():
    """The methods of Fig. 3's curve and the two that it is compared with: the pre-segmentation and the whole chain."""
    figure = config["exhibits"]["fig3_tprime"]
    before = presegmentation_of(figure["method"])
    whole = [name for name in config["exhibits"]["table1"] if resolve.method(config, name).get("start") == "noise"]
    return [*methods.figure3_methods(config), *([before] if before else []), *whole]


def table2_rows():
    """Return the rows of Table 2 as the fields of `Table2Row`."""
    printed = {row["method"]: row["printed"] for row in config["exhibits"]["table2"]["presegmentations"]}
    rows = []
    for before, method in methods.table2_methods(config):
        label = "No lesion" if before == resolve.NO_PRESEGMENTATION else resolve.method(config, before)["label"]
        row = dict(label=label, method=method, presegmentation=presegmentation_of(method), printed_row=printed[before])
        rows.append(row)
    return rows


def table2_scores():
    """The methods whose scores Table 2 needs: those of its rows, and their pre-segmentations."""
    rows = methods.table2_methods(config)
    return [name for row in rows for name in row if name != resolve.NO_PRESEGMENTATION]


def first_results(pattern, dataset):
    """Files of Table 1's methods for the first split and seed, in the order of its rows."""
    run = f"split-{config['splits'][0]}_seed-{config['seeds'][0]}"
    rows = (resolve.canonical(config, method) for method in config["exhibits"]["table1"])
    return [pattern.format(dataset=dataset, method=method, run=run) for method in rows]


def pareto_points():
    """The methods of the Pareto figure and what they are: those that are sampled for it, and Table 1's own."""
    points = []
    rows = (resolve.canonical(config, name) for name in config["exhibits"]["table1"])
    for name in dict.fromkeys([*methods.pareto_methods(config), *rows]):
        chosen = resolve.method(config, name)
        point = {"method": name, "label": chosen["label"]}
        if chosen["segmenter"] == "diffusion":
            point |= {key: chosen[key] for key in ("t_start", "sampler")}
            point["reverse_steps"] = methods.steps_of_chain(config, name)
        points.append(point)
    return points


def claims_roles():
    """Who is who in the paper's claims."""
    named = {role: name and resolve.canonical(config, name) for role, name in config["exhibits"]["claims"].items()}
    return named | dict(
        presegmentation=presegmentation_of(named["pd_ddpm"]),
        ensemble=resolve.canonical(config, config["exhibits"]["fig4_ensemble"]["method"]),
        grid=dict(zip(config["exhibits"]["fig3_tprime"]["t_start"], methods.figure3_methods(config), strict=True)),
        table2=table2_rows(),
    )


def claims_methods():
    """The methods that the claims compare."""
    roles = claims_roles()
    one = [roles[role] for role in ("pd_ddpm", "vanilla", "presegmentation", "tdpm", "es_ddpm") if roles[role]]
    return [*one, *roles["grid"].values(), *table2_scores()]


def labels(methods):
    """Names in tables and figures; a variation says in which keys it differs."""
    names = {}
    for method in methods:
        base, *overrides = resolve.canonical(config, method).split("@")
        label = resolve.method(config, method)["label"]
        names["@".join([base, *overrides])] = f"{label} ({', '.join(overrides)})" if overrides else label
    return names


def figure3_labels():
    """Names in Fig. 3, where the points of the curve are one method."""
    name = config["exhibits"]["fig3_tprime"]["method"]
    return labels(figure3_methods()) | dict.fromkeys(methods.figure3_methods(config), *labels([name]).values())


def case_sources(dataset):
    """Where the scans of a searched folder lie, which tells that it has other cases than before; a csv is an input."""
    return [] if made_by_workflow(dataset) else find.case_files(config["datasets"][dataset])


def remark(dataset):
    """What must stand beside an exhibit of this data set at this scale."""
    demo = "Demo scale: small networks and few steps, too few for TDPM's discriminator to learn."
    source = config["datasets"][dataset]
    text = demo if config["scale"] == "demo" else "The configuration's paper scale."
    if "simulate" in source:
        text += " The scans are simulated: nothing here is a result on patients."
    if source.get("part") == "held_out":
        text += (
            " These are the held-out cases of the WMH challenge, on which nothing was trained; what the "
            "paper prints is of other cases."
        )
    if source.get("networks_of"):
        splits = f"split{'s' if len(config['splits']) > 1 else ''} {', '.join(map(str, config['splits']))}"
        text += (
            f" The networks were trained on the data set {source['networks_of']}. Each case is scored by those of {splits} "
            "and every seed, and counts once, by the mean of its scores (of HD95 by that of the defined ones)."
        )
    return text


def figure_remark(wildcards):
    """The same in a few words, for a figure's title."""
    simulated = " (simulated)" if "simulate" in config["datasets"][wildcards.dataset] else ""
    return f"{wildcards.dataset}{simulated}, {config['scale']} scale"


def planned_methods():
    """Every method that an exhibit shows, and those whose masks one of them starts from."""
    exhibits = config["exhibits"]
    shown = [*exhibits["table1"], *table2_scores(), *figure3_methods(), *claims_methods(), exhibits["fig4_ensemble"]["method"]]
    shown = [resolve.canonical(config, name) for name in shown] + [point["method"] for point in pareto_points()]
    return list(dict.fromkeys([*shown, *filter(None, map(presegmentation_of, shown))]))


def cost_files(wildcards):
    """Return the metadata of all networks and predictions, and every other exhibit, so that the cost comes last."""
    dataset, planned = wildcards.dataset, planned_methods()
    runs = [f"split-{split}_seed-{seed}" for split in config["splits"] for seed in config["seeds"]]
    networks = dict.fromkeys(resolve.method(config, name)["network"] for name in planned)
    trained = methods.networks_from(config, dataset) == dataset
    others = [files[0] for name, (files, *_) in EXHIBITS.items() if name not in ("cost", "held_out")]
    return {
        "network_metadata": [
            f"results/{dataset}/networks/{name}/{run}/model.json" for name in networks for run in runs if trained
        ],
        "prediction_metadata": [f"results/{dataset}/predictions/{name}/{run}/method.json" for name in planned for run in runs],
        "exhibits": [f"results/{dataset}/exhibits/{file}" for file in others],
    }
