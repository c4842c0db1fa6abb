"""Predictions as a BIDS derivative.

BIDS has no suffix for variance maps. The suffix for maps of values from 0 to 1 is `probseg`, so the variance gets it, too. Its
`desc` distinguishes it from the probability, and it has no `label`.

Reference: Brain Imaging Data Structure 1.10, derivatives (masks, probabilistic segmentations, spatial references).
"""

import os
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pd_ddpm.deployment.formats.errors import ConversionError
from pd_ddpm.deployment.formats.layout import ClassProbability, Layout, Part
from pd_ddpm.deployment.formats.predictions import Prediction, Predictions
from pd_ddpm.runtime.problem import Problem

_BIDS_VERSION = "1.10.0"
_PROGRAM = "pd-ddpm"
_SOURCE = "source"  # name of the scans' folder in BIDS URIs
# Entities of a scan's name that stand before `space`, in the order of the standard.
_ENTITIES = (
    *(
        "sub",
        "ses",
        "sample",
        "task",
        "tracksys",
        "acq",
        "nuc",
        "voi",
        "ce",
        "trc",
        "stain",
        "rec",
        "dir",
        "run",
        "mod",
        "echo",
    ),
    *("flip", "inv", "mt", "part", "proc", "hemi"),
)
_ENTITY = re.compile(r"([a-z]+)-([A-Za-z0-9]+)")
_WORDS = re.compile(r"[A-Za-z0-9]+")


def layout(predictions: Predictions, output: Path, label: str, source_datasets: Sequence[str] = ()) -> Layout:
    """Return the layout, with a sidecar for each image.

    File names are `sub-X/[ses-Y/]anat/sub-X[_ses-Y]_space-orig_label-WMH_desc-{method}_mask.nii.gz`, the same with `_probseg`
    for the probability, and `..._desc-{method}Uncertainty_probseg.nii.gz` without label for the variance. Further entities of a
    case's name, such as run-1, stand before `space`.

    Classes have one label map `..._space-orig_desc-{method}_dseg.nii.gz` with a table of its labels, and one `_probseg` each,
    whose label is the name of the class without other characters than letters and digits.

    Args:
        predictions: the predictions.
        output: folder of the conversion, from which links to the scans start.
        label: structure that the masks show.
        source_datasets: DOIs or addresses of the segmented datasets.

    Raises:
        ConversionError: the label has other characters than letters and digits, or two cases get the same name.
    """
    if not _WORDS.fullmatch(label):
        raise ConversionError(Problem(f"--label {label}", "BIDS allows letters and digits only", "Remove other characters"))
    names = _distinct_names(predictions.cases)
    root = _scans_root([prediction.flair for prediction in predictions.cases])
    class_labels = _class_labels(predictions.classes)
    images: dict[str, dict[str, Part]] = {}
    tables: dict[str, str] = {}
    documents: dict[str, Any] = {"dataset_description.json": _dataset_description(predictions, root, output, source_datasets)}
    for prediction in predictions.cases:
        description = description_label(predictions.method)
        files = _files(names[prediction.case], label, description)
        if predictions.classes:
            files = _class_files(names[prediction.case], class_labels, description)
            tables[f"{files['mask']}.tsv"] = _label_table(predictions.classes)
        images[prediction.case] = {f"{name}.nii.gz": part for part, name in files.items()}
        source = f"bids:{_SOURCE}:{prediction.flair.relative_to(root).as_posix()}"
        for part, name in files.items():
            documents[f"{name}.json"] = _sidecar(part, predictions, prediction, source)
    return Layout(images, documents, tables)


def bids_name(case: str, patient: str = "") -> str:
    """Return the BIDS name of a case: subject, session and the other entities that stand before `space`.

    Names of BIDS such as sub-01_ses-02_run-1 are kept, with their entities in the order of the standard. Of other names, the
    letters and digits are kept: Utrecht-0 becomes sub-Utrecht0, and P7_TP1 of patient P7 becomes sub-P7_ses-TP1.

    Args:
        case: name of the case.
        patient: its patient; "" if the case is the only one of its patient.
    """
    if (entities := _entities(case)) is not None:
        return "_".join(f"{key}-{entities[key]}" for key in _ENTITIES if key in entities)
    session = _letters_and_digits(case.removeprefix(patient))
    if patient and session:
        return f"sub-{_letters_and_digits(patient.removeprefix('sub-'))}_ses-{session}"
    return f"sub-{_letters_and_digits(case)}"


def cases_with_unknown_entities(predictions: Predictions) -> list[str]:
    """Return the cases whose names begin as in BIDS but hold parts that are no entities, so that subjects are made of them."""
    return [
        prediction.case
        for prediction in predictions.cases
        if prediction.case.startswith("sub-") and not prediction.patient and _entities(prediction.case) is None
    ]


def _entities(case: str) -> dict[str, str] | None:
    """Return the entities of a BIDS name, or None if it is no such name."""
    matches = [_ENTITY.fullmatch(part) for part in case.split("_")]
    if not all(matches):
        return None
    entities = {match[1]: match[2] for match in matches}
    is_valid = len(entities) == len(matches) and matches[0][1] == "sub" and entities.keys() <= set(_ENTITIES)
    return entities if is_valid else None


def _letters_and_digits(name: str) -> str:
    return "".join(_WORDS.findall(name))


def description_label(method: str) -> str:
    """Return the name of a method in camel case: pd-ddpm@t_start=50 becomes pdDdpmTStart50."""
    first, *others = _WORDS.findall(method)
    return first + "".join(word[0].upper() + word[1:] for word in others)


def _distinct_names(predictions: Sequence[Prediction]) -> dict[str, str]:
    names = {prediction.case: bids_name(prediction.case, prediction.patient) for prediction in predictions}
    for case, name in names.items():
        if duplicates := [other for other in names if names[other] == name and other != case]:
            location = f"cases {case}, {', '.join(duplicates)}"
            raise ConversionError(Problem(location, f"all would be {name} in BIDS", "Rename them in the case table"))
    return names


def _scans_root(scans: Sequence[Path]) -> Path:
    """Return the BIDS dataset that holds all scans, otherwise the innermost folder that holds them."""
    common = Path(os.path.commonpath([scan.parent for scan in scans]))
    return next((folder for folder in (common, *common.parents) if (folder / "dataset_description.json").is_file()), common)


def _files(name: str, label: str, description: str) -> dict[Part, str]:
    """Return the file names of all parts, without suffix."""
    folders = [part for part in name.split("_") if part.startswith(("sub-", "ses-"))]
    stem = f"{'/'.join(folders)}/anat/{name}_space-orig"
    return {
        "mask": f"{stem}_label-{label}_desc-{description}_mask",
        "probability": f"{stem}_label-{label}_desc-{description}_probseg",
        "uncertainty": f"{stem}_desc-{description}Uncertainty_probseg",
    }


def _class_files(name: str, class_labels: Sequence[str], description: str) -> dict[Part, str]:
    """Return the file names of all parts of a prediction of classes, without suffix; see `_files`."""
    stem = _files(name, "", description)["uncertainty"].rpartition("_desc-")[0]
    probabilities = {
        ClassProbability(number): f"{stem}_label-{class_label}_desc-{description}_probseg"
        for number, class_label in enumerate(class_labels, start=1)
    }
    uncertainty = f"{stem}_desc-{description}Uncertainty_probseg"
    return {"mask": f"{stem}_desc-{description}_dseg", **probabilities, "uncertainty": uncertainty}


def _class_labels(classes: Mapping[int, str]) -> list[str]:
    """Return the names of classes as labels of BIDS, such as greyMatter.

    Raises:
        ConversionError: two classes have the same label.
    """
    labels = [description_label(name) for name in classes.values()]
    if repeated := sorted({label for label in labels if labels.count(label) > 1}):
        problem = f"several classes would have the label {repeated[0]} in BIDS"
        raise ConversionError(Problem("`classes`", problem, "Rename one of them"))
    return labels


def _label_table(classes: Mapping[int, str]) -> str:
    """Return the table of the labels of a label map, as BIDS defines it."""
    rows = [("index", "name"), (0, "background"), *classes.items()]
    return "".join(f"{label}\t{name}\n" for label, name in rows)


def _dataset_description(predictions: Predictions, root: Path, output: Path, source_datasets: Sequence[str]) -> dict[str, Any]:
    marked = "Classes" if predictions.classes else "Lesions"
    content = {
        "Name": f"{marked} of {predictions.dataset}, segmented by {predictions.method}",
        "BIDSVersion": _BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": _PROGRAM, "Version": version(_PROGRAM), "Description": f"method {predictions.method}"}],
        "DatasetLinks": {_SOURCE: Path(os.path.relpath(root, output.absolute())).as_posix()},
    }
    if source_datasets:
        content["SourceDatasets"] = [_source_dataset(text) for text in source_datasets]
    return content


def _source_dataset(text: str) -> dict[str, str]:
    doi = re.fullmatch(r"(?:doi:|https?://(?:dx\.)?doi\.org/)?(10\.\d{4,}/\S+)", text)
    return {"DOI": f"doi:{doi[1]}"} if doi else {"URL": text}


def _sidecar(part: Part, predictions: Predictions, prediction: Prediction, source: str) -> dict[str, Any]:
    names = list(predictions.classes.values())
    descriptions = {
        **{ClassProbability(n): f"Probability of {name}: the mean of the members." for n, name in enumerate(names, start=1)},
        "mask": "Lesion (1): the mean of the members is 0.5 or more.",
        "probability": "Probability of lesion: the mean of the members.",
        "uncertainty": "Not a probability: variance of the members (unbiased) at each voxel; 0 for a single member.",
    }
    if names:
        descriptions["mask"] = "Label of the class with the largest mean probability of the members."
        descriptions["uncertainty"] = (
            "Not a probability: half the sum of the variances of all classes over the members (unbiased) at each voxel; 0 for "
            "a single member."
        )
    return {
        "Description": descriptions[part],
        **({"Type": "Lesion", "Threshold": 0.5} if part == "mask" and not names else {}),
        "Manual": False,
        "SpatialReference": source,
        "Sources": [source],
        "Method": predictions.method,
        "Members": prediction.num_members,
        "Case": prediction.case,
        **({} if prediction.split is None else {"Split": prediction.split}),
        "Seed": predictions.seed,
    }
