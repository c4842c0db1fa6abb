"""Model card of a bundle: training data, performance, provenance and intended use."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pd_ddpm.evaluation.metrics import EMPTY_MASK_POLICY
from pd_ddpm.evaluation.scores import CLASS_POLICY, name_trainings
from pd_ddpm.evaluation.statistics import CASE, TRAINING
from pd_ddpm.exhibits.document import Document, Part
from pd_ddpm.exhibits.tables.cells import interval_note, number, summary

INTENDED_USE = (
    "Research only. Not a medical device: do not use it for diagnosis, for treatment, or for any decision about a patient. "
    "Every mask must be reviewed by a qualified person."
)
METRICS = {
    "dice": ("Dice", 3),
    "hd95_mm": ("HD95 [mm]", 2),
    "lesion_f1": ("lesion F1", 3),
    "lesion_recall": ("lesion recall", 3),
    "avd_percent": ("absolute volume difference [%]", 1),
    "ece": ("expected calibration error, in and near the brain", 4),
    "brier": ("Brier score, in and near the brain", 4),
    "error_auroc_variance": ("AUROC of the members' variance for errors of the mask", 3),
}
WORST_CASES = 3


def summarise_training(training_cases: pd.DataFrame) -> dict[str, Any]:
    """Return the number of training cases by site and the ranges of their scans, from rows of the manifest of cases."""

    def extent(*columns: str) -> list[float]:
        values = training_cases[list(columns)].to_numpy(dtype=float)
        return [round(float(values.min()), 4), round(float(values.max()), 4)]

    return {
        "cases": len(training_cases),
        "sites": {str(site): int(count) for site, count in training_cases["site"].value_counts().sort_index().items()},
        "in_plane_mm": extent("spacing_x_mm", "spacing_y_mm"),
        "slice_distance_mm": extent("spacing_z_mm"),
        "brain_ml": extent("brain_ml"),
        # A dataset that names classes has the volume of all of them.
        **{name: extent(name) for name in ("lesion_ml", "foreground_ml") if name in training_cases},
    }


def summarise_scores(scores: pd.DataFrame) -> dict[str, Any]:
    """Return mean, deviation and interval of each metric over test cases, Dice by site, and the worst cases.

    Undefined values are None. Cases are not named, because bundles may be shared.
    """

    def to_number(value: float) -> float | None:
        return None if pd.isna(value) else round(float(value), 6)

    metrics, by_case = {}, name_trainings(scores).set_index([TRAINING, CASE])
    for name in METRICS:
        if name in scores and scores[name].notna().any():
            statistics = summary(by_case[name], "mean")
            metrics[name] = {key.removeprefix("mean_"): to_number(value) for key, value in statistics.items()}
            metrics[name]["cases"] = int(scores[name].notna().sum())
    worst = scores.sort_values("dice").head(WORST_CASES)
    columns = ["site", "dice", "lesion_f1", "reference_volume_ml", "predicted_volume_ml"]
    return {
        "cases": len(scores),
        "metrics": metrics,
        "sites": {
            str(site): {"cases": len(rows), "dice": to_number(rows["dice"].mean())} for site, rows in scores.groupby("site")
        },
        "worst": [
            {key: value if isinstance(value, str) else to_number(value) for key, value in row.items()}
            for row in worst[columns].to_dict("records")
        ],
    }


def model_card(description: Mapping[str, Any]) -> Document:
    """Return the model card of a bundle, from the content of its bundle.json."""
    training, scores = description["training"], description["scores"]
    return Document(
        f"{description['name']}: a model card",
        warning(description),
        [
            _overview_part(description),
            _training_part(training),
            _scores_part(scores, bool(description.get("classes"))),
            _sites_part(scores),
            _worst_cases_part(scores),
            *([_provenance_part(**description["record"])] if description.get("record") else []),
        ],
    )


def warning(description: Mapping[str, Any]) -> str:
    """Return the intended use, with a warning if the training scans were simulated."""
    simulated = " The networks were trained on simulated scans, so no result applies to patients."
    return INTENDED_USE + (simulated if description["training"]["simulated"] else "")


def chain_row(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return a row for `facts_part` that describes the reverse chain of a method; empty if it has none."""
    if settings["segmenter"] != "diffusion":
        return {}
    return {"Chain": f"T' = {settings['t_start']}, {settings['sampler']}, {settings['reverse_steps']} steps over T"}


def facts_part(heading: str, rows: Mapping[str, str], notes: Sequence[str] = ()) -> Part:
    """Return a section with a table of labels and values.

    Args:
        heading: title of the section.
        rows: values by their labels.
        notes: paragraphs below the table.
    """
    return Part(heading, pd.DataFrame({"": list(rows), "Value": list(rows.values())}), notes, left=["Value"])


def _overview_part(description: Mapping[str, Any]) -> Part:
    preparation, settings = description["preparation"], description["stages"][-1]["settings"]
    methods = [f"{stage['method']} (network {stage['network']})" for stage in description["stages"]]
    if source := description.get("presegmentation_from_file"):
        methods.insert(0, f"masks of {source}, which another program makes (--presegmentation)")
    rows = {
        "Task": _task(description),
        "Scans": f"{', '.join(preparation['channels'])}, slice by slice, axes reoriented to {description['orientation']}",
        "Method": " → ".join(methods),
        "Members": str(settings.get("samples", 1)),
        "Preprocessing": (
            f"{preparation['interpolator']} interpolation onto the first channel, bias correction "
            f"{preparation.get('bias_correction', 'none')}, normalisation {preparation['normalisation']}"
        ),
        **_images_row(preparation),
        "Made by": description["made_by"],
        "Licence of the data": description["licence"],
        **chain_row(settings),
    }
    note = (
        "If the data are for non-commercial use only, treat the weights likewise. The spread of the members measures the "
        "model's uncertainty on scans similar to its training scans. On other scans it may be confident and wrong."
    )
    return facts_part("Overview", rows, [note])


def _task(description: Mapping[str, Any]) -> str:
    """Return what the bundle segments."""
    if not (classes := description.get("classes")):
        return "Segment white matter hyperintensities (lesions) in brain MR, with uncertainty"
    listed = ", ".join(f"{entry['name']} (label {entry['label']})" for entry in classes)
    return f"Segment {listed}, with uncertainty"


def _images_row(preparation: Mapping[str, Any]) -> dict[str, str]:
    """Return a row with the versions of the WMH challenge's images that the training scans are; empty for other data."""
    versions = preparation.get("images", {})
    names = [f"{channel} {', '.join(counts)}" for channel, counts in versions.items()]
    return {"Training images": "; ".join(names)} if names else {}


def _training_part(training: Mapping[str, Any]) -> Part:
    def interval(name: str, unit: str, digits: int) -> str:
        low, high = training[name]
        return f"{low:.{digits}f} to {high:.{digits}f} {unit}"

    rows = {
        "Dataset": training["dataset"] + (" (simulated)" if training["simulated"] else ""),
        "Training cases": f"{training['cases']}: " + ", ".join(f"{site} {n}" for site, n in training["sites"].items()),
        "Split, seed": f"{training['split']}, {training['seed']}",
        "Pixel size": interval("in_plane_mm", "mm", 2),
        "Slice distance": interval("slice_distance_mm", "mm", 2),
        **({"Lesion volume": interval("lesion_ml", "ml", 1)} if training.get("lesion_ml") else {}),
        **({"Volume of all classes": interval("foreground_ml", "ml", 1)} if training.get("foreground_ml") else {}),
        "Brain volume": interval("brain_ml", "ml", 0),
        **({"Skull-stripped": f"{training['skull_stripped']} of {training['cases']}"} if "skull_stripped" in training else {}),
    }
    return facts_part("Training data", rows)


def _scores_part(scores: Mapping[str, Any], of_classes: bool) -> Part:
    rows = []
    for name, (label, digits) in METRICS.items():
        if name in scores["metrics"]:
            statistics = scores["metrics"][name]
            rows.append(
                {
                    "Metric": label,
                    "Mean": number(statistics["mean"], digits),
                    "SD": number(statistics["sd"], digits),
                    "95 % interval": f"{number(statistics['low'], digits)} to {number(statistics['high'], digits)}",
                    "Cases": str(statistics["cases"]),
                }
            )
    note = (
        f"Scores on the {scores['cases']} test cases of this split, which no network has seen. Metrics are defined as in the "
        "WMH challenge. "
        f"{interval_note(1)} {f'Each is the mean over the classes. {CLASS_POLICY}' if of_classes else EMPTY_MASK_POLICY}"
    )
    return Part("Performance", pd.DataFrame(rows), [note])


def _provenance_part(provenance: Mapping[str, Any], made_from: Mapping[str, Any]) -> Part:
    """Return the provenance of the scored predictions and of the networks that they need."""
    upstream = made_from["summary"]
    changed = provenance["git_changed"] or upstream["git_changed"]
    commits = sorted({provenance["git_commit"], *upstream["git_commit"]} - {None})
    rows = {
        "Made from": f"{upstream['runs']} networks and predictions of other methods",
        "Seeds": ", ".join(map(str, sorted({provenance["seed"], *upstream["seed"]}))),
        "Devices": ", ".join(sorted({provenance["device"], *upstream["device"]})),
        "Precision": ", ".join(sorted({provenance["precision"], *upstream["precision"]})),
        "Wall time": f"{provenance['seconds'] + upstream['seconds']:.0f} s",
        "Git commit": (", ".join(commits) or "none") + (", with uncommitted changes" if changed else ""),
        "Code of the sampling": provenance["code"],
        "Configuration": provenance["config"],
        "Software": ", ".join(f"{package} {version}" for package, version in provenance["versions"].items()),
    }
    return facts_part("Provenance", rows)


def _sites_part(scores: Mapping[str, Any]) -> Part:
    rows = [
        {"Scanner": site, "Cases": str(site_scores["cases"]), "Dice": number(site_scores["dice"], 3)}
        for site, site_scores in scores["sites"].items()
    ]
    return Part("Performance by scanner", pd.DataFrame(rows), ["Other scanners, sequences and patients were not tested."])


def _worst_cases_part(scores: Mapping[str, Any]) -> Part:
    rows = [
        {
            "Scanner": row["site"],
            "Dice": number(row["dice"], 3),
            "Lesion F1": number(row["lesion_f1"], 3),
            "Reference [ml]": number(row["reference_volume_ml"], 1),
            "Predicted [ml]": number(row["predicted_volume_ml"], 1),
        }
        for row in scores["worst"]
    ]
    return Part("Worst cases", pd.DataFrame(rows))
