"""What a reader must know of a trained method before using it: what it was trained on, how good it is, what it is not for."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pd_ddpm.evaluation.metrics import EMPTY_MASK_POLICY
from pd_ddpm.exhibits.document import Document, Part
from pd_ddpm.exhibits.tables.cells import number, summary

INTENDED_USE = (
    "Research only. Not a medical device: no diagnosis, no treatment and no decision about a patient may rest on it. Every "
    "mask has to be looked at by a person who can judge it."
)
METRICS = {
    "dice": ("Dice", 3),
    "hd95_mm": ("HD95 [mm]", 2),
    "lesion_f1": ("lesion F1", 3),
    "lesion_recall": ("lesion recall", 3),
    "avd_percent": ("absolute volume difference [%]", 1),
    "ece": ("expected calibration error, in and near the brain", 4),
    "brier": ("Brier score, in and near the brain", 4),
    "error_auroc_variance": ("errors found by the members' variance, AUROC", 3),
}
WORST_CASES = 3


def summarise_training(prepared: pd.DataFrame) -> dict[str, Any]:
    """What was trained on: cases by site, and the ranges of the scans, from the rows of the manifest of prepared cases."""

    def extent(*columns: str) -> list[float]:
        values = prepared[list(columns)].to_numpy(dtype=float)
        return [round(float(values.min()), 4), round(float(values.max()), 4)]

    return {
        "cases": len(prepared),
        "sites": {str(site): int(count) for site, count in prepared["site"].value_counts().sort_index().items()},
        "in_plane_mm": extent("spacing_x_mm", "spacing_y_mm"),
        "slice_distance_mm": extent("spacing_z_mm"),
        "brain_ml": extent("brain_ml"),
        "lesion_ml": extent("lesion_ml"),
    }


def summarise_scores(scores: pd.DataFrame) -> dict[str, Any]:
    """Scores over test cases: mean, deviation and interval of each metric, Dice by site, and the worst cases.

    Cases are not named: a bundle may go to others. Undefined values are None.
    """

    def plain(value: float) -> float | None:
        return None if pd.isna(value) else round(float(value), 6)

    metrics = {}
    for name in METRICS:
        if name in scores and scores[name].notna().any():
            found = summary(scores[name].dropna(), "mean")
            metrics[name] = {key.removeprefix("mean_"): plain(value) for key, value in found.items()}
            metrics[name]["cases"] = int(scores[name].notna().sum())
    worst = scores.sort_values("dice").head(WORST_CASES)
    columns = ["site", "dice", "lesion_f1", "reference_volume_ml", "predicted_volume_ml"]
    return {
        "cases": len(scores),
        "metrics": metrics,
        "sites": {str(site): {"cases": len(rows), "dice": plain(rows["dice"].mean())} for site, rows in scores.groupby("site")},
        "worst": [
            {key: value if isinstance(value, str) else plain(value) for key, value in row.items()}
            for row in worst[columns].to_dict("records")
        ],
    }


def model_card(about: Mapping[str, Any]) -> Document:
    """The card of a bundle, from the content of its bundle.json."""
    training, scores = about["training"], about["scores"]
    simulated = " The scans are simulated: nothing here says anything of patients." if training["simulated"] else ""
    return Document(
        f"{about['name']}: a model card",
        INTENDED_USE + simulated,
        [
            _what_it_is(about),
            _training_part(training),
            _scores_part(scores),
            _sites_part(scores),
            _worst_part(scores),
            *([_record_part(**about["record"])] if about.get("record") else []),
        ],
    )


def chain_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """The reverse chain of a method's settings as a row for a table of facts; none where there is no chain."""
    if settings["segmenter"] != "diffusion":
        return {}
    return {"Chain": f"T' = {settings['t_start']}, {settings['sampler']}, {settings['reverse_steps']} steps over T"}


def facts(heading: str, rows: Mapping[str, str], notes: Sequence[str] = ()) -> Part:
    """A table of two columns: what it is about, and its value."""
    return Part(heading, pd.DataFrame({"": list(rows), "Value": list(rows.values())}), notes, left=["Value"])


def _what_it_is(about: Mapping[str, Any]) -> Part:
    preparation, last = about["preparation"], about["stages"][-1]
    chain = " → ".join(f"{stage['method']} (network {stage['network']})" for stage in about["stages"])
    rows = {
        "Task": "Lesions (white matter hyperintensities) in brain MR, a mask with its uncertainty",
        "Scans": f"{', '.join(preparation['channels'])}, slice by slice, axes turned to {about['orientation']}",
        "Method": chain,
        "Members": str(last["settings"].get("samples", 1)),
        "Preparation": f"{preparation['interpolator']} interpolation onto the first, {preparation['normalisation']}",
        "Made by": about["made_by"],
        "Licence of the data": about["licence"],
        **chain_of(last["settings"]),
    }
    note = (
        "Where the data are for non-commercial use, take the weights to be so, too. The spread of the members tells of the "
        "model's own doubt on scans like those it was trained on; on others it may be sure and wrong."
    )
    return facts("What it is", rows, [note])


def _training_part(training: Mapping[str, Any]) -> Part:
    def between(name: str, unit: str, digits: int) -> str:
        low, high = training[name]
        return f"{low:.{digits}f} to {high:.{digits}f} {unit}"

    rows = {
        "Data set": training["dataset"] + (" (simulated)" if training["simulated"] else ""),
        "Training cases": f"{training['cases']}: " + ", ".join(f"{site} {n}" for site, n in training["sites"].items()),
        "Split, seed": f"{training['split']}, {training['seed']}",
        "Pixel size": between("in_plane_mm", "mm", 2),
        "Distance of slices": between("slice_distance_mm", "mm", 2),
        "Lesion volume": between("lesion_ml", "ml", 1),
        "Brain mask": between("brain_ml", "ml", 0),
    }
    return facts("What it was trained on", rows)


def _scores_part(scores: Mapping[str, Any]) -> Part:
    rows = []
    for name, (label, digits) in METRICS.items():
        if name in scores["metrics"]:
            found = scores["metrics"][name]
            rows.append(
                {
                    "Metric": label,
                    "Mean": number(found["mean"], digits),
                    "SD": number(found["sd"], digits),
                    "95 % interval": f"{number(found['low'], digits)} to {number(found['high'], digits)}",
                    "Cases": str(found["cases"]),
                }
            )
    note = (
        f"On the {scores['cases']} test cases of this split, which no network has seen; definitions of the WMH challenge; "
        f"bootstrap interval over cases. With few cases the interval is too narrow. {EMPTY_MASK_POLICY}"
    )
    return Part("How good it is", pd.DataFrame(rows), [note])


def _record_part(provenance: Mapping[str, Any], made_from: Mapping[str, Any]) -> Part:
    """How the networks came about, and the masks that were scored."""
    behind = made_from["summary"]
    changed = provenance["git_changed"] or behind["git_changed"]
    commits = sorted({provenance["git_commit"], *behind["git_commit"]} - {None})
    rows = {
        "Made from": f"{behind['runs']} networks and predictions of other methods",
        "Seeds": ", ".join(map(str, sorted({provenance["seed"], *behind["seed"]}))),
        "Devices": ", ".join(sorted({provenance["device"], *behind["device"]})),
        "Precision": ", ".join(sorted({provenance["precision"], *behind["precision"]})),
        "Wall time": f"{provenance['seconds'] + behind['seconds']:.0f} s",
        "Git commit": (", ".join(commits) or "none") + (", files of the checkout were changed" if changed else ""),
        "Code of the sampling": provenance["code"],
        "Configuration": provenance["config"],
        "Software": ", ".join(f"{package} {version}" for package, version in provenance["versions"].items()),
    }
    return facts("How it was made", rows)


def _sites_part(scores: Mapping[str, Any]) -> Part:
    rows = [
        {"Scanner": site, "Cases": str(found["cases"]), "Dice": number(found["dice"], 3)}
        for site, found in scores["sites"].items()
    ]
    return Part("By scanner", pd.DataFrame(rows), ["Other scanners, sequences and patients were not tested."])


def _worst_part(scores: Mapping[str, Any]) -> Part:
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
    return Part("Where it was worst", pd.DataFrame(rows))
