# The only helper functions: what a rule needs to know of the configuration.

from pathlib import Path

from pd_ddpm import settings
from pd_ddpm.provenance import code_version
from snakemake.exceptions import WorkflowError

try:
    settings.check(config)
except settings.ConfigError as problems:
    raise WorkflowError(str(problems)) from None

# A rule's own retries would be spent again inside each cluster job, which runs a Snakemake of its own.
RETRIES = config["retries"] if workflow.is_main_process else 0


wildcard_constraints:
    dataset="|".join(config["datasets"]),
    method="[^/]+",
    network="[^/]+",
    split=r"\d+",
    seed=r"\d+",


def script_code(name):
    """Hash of a script and the modules it imports, so that a changed constant re-runs and a comment does not."""
    return code_version(f"{workflow.basedir}/workflow/scripts/{name}.py")


def simulated(dataset):
    """The file that the phantom generator writes last, for a data set that it makes."""
    made = config["datasets"][dataset]
    return [f"{made['folder']}/simulated.json"] if "simulate" in made else []


def sampling_files(wildcards):
    """What a method is sampled from: the trained network, and the members of its pre-segmentation."""
    problems = list(settings.method_problems(config, wildcards.method))
    if problems:
        raise WorkflowError("\n".join(problems))
    chosen = settings.method(config, wildcards.method)
    run = f"split-{wildcards.split}_seed-{wildcards.seed}"
    network = f"results/{wildcards.dataset}/networks/{chosen['network']}/{run}"
    files = {"weights": f"{network}/model.safetensors", "card": f"{network}/model.json"}
    if chosen.get("start") == "presegmentation":
        before = settings.canonical(config, chosen["presegmentation"])
        files["presegmentation"] = f"results/{wildcards.dataset}/predictions/{before}/{run}/predictions.csv"
    return files


def method_parameters(wildcards):
    """A method's settings as far as they change a sample or its speed: not its name in tables."""
    return {key: value for key, value in settings.method(config, wildcards.method).items() if key != "label"}


def score_files(dataset, methods):
    """The scores of these methods over all splits and seeds."""
    return [
        f"results/{dataset}/scores/{settings.canonical(config, method)}/split-{split}_seed-{seed}.csv"
        for method in methods
        for split in config["splits"]
        for seed in config["seeds"]
    ]


def figure3_methods():
    """The methods of Fig. 3's curve and the two that it is compared with: the pre-segmentation and the whole chain."""
    figure = config["exhibits"]["fig3_tprime"]
    before = settings.method(config, figure["method"]).get("presegmentation")
    whole = [name for name in config["exhibits"]["table1"] if settings.method(config, name).get("start") == "noise"]
    return [*settings.figure3_methods(config), *([before] if before else []), *whole]


def labels(methods):
    """Names in tables and figures; a variation says in which keys it differs."""
    names = {}
    for method in methods:
        base, *overrides = settings.canonical(config, method).split("@")
        label = settings.method(config, method)["label"]
        names["@".join([base, *overrides])] = f"{label} ({', '.join(overrides)})" if overrides else label
    return names


def figure3_labels():
    """Names in Fig. 3, where the points of the curve are one method."""
    name = config["exhibits"]["fig3_tprime"]["method"]
    return labels(figure3_methods()) | dict.fromkeys(settings.figure3_methods(config), *labels([name]).values())


def case_sources(dataset):
    """Where the scans of a searched folder lie, which tells that it has other cases than before; a csv is an input."""
    source = config["datasets"][dataset]
    if source["layout"] == "table" or "simulate" in source:
        return []
    return sorted(str(mask) for mask in Path(source["folder"]).glob("training/**/wmh.nii.gz"))


def remark(dataset):
    """What must stand beside an exhibit of this data set at this scale."""
    scale = "Demo scale: small networks and few steps." if config["scale"] == "demo" else "The configuration's paper scale."
    simulated = "simulate" in config["datasets"][dataset]
    return scale + (" The scans are simulated: nothing here is a result on patients." if simulated else "")
