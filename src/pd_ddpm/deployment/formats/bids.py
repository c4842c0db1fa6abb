"""Predictions as a BIDS derivative.

Source: Brain Imaging Data Structure 1.10, derivatives: masks, probabilistic segmentations, spatial references.

BIDS has no suffix for a map of variances yet. The one that may hold a number from 0 to 1 at every voxel is `probseg`, so
the map is one, told from the probabilities by its `desc` and by having no `label`.
"""

import os
import re
from collections.abc import Sequence
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from pd_ddpm.deployment.formats.layout import Layout, Part
from pd_ddpm.deployment.formats.predictions import Prediction, Predictions

_BIDS_VERSION = "1.10.0"
_PROGRAM = "pd-ddpm"
_SOURCE = "source"  # the name under which the scans' folder goes in BIDS URIs
_NAMED = re.compile(r"sub-[A-Za-z0-9]+(_ses-[A-Za-z0-9]+)?")
_WORDS = re.compile(r"[A-Za-z0-9]+")


def layout(predictions: Predictions, output: Path, label: str, source_datasets: Sequence[str] = ()) -> Layout:
    """`sub-X/[ses-Y/]anat/sub-X[_ses-Y]_space-orig_label-WMH_desc-{method}_mask.nii.gz`, `_probseg` and the variance.

    Each has its sidecar. `output`, where it is written, is needed to say where the scans are from there; source_datasets:
    DOIs or addresses of what was segmented.

    Raises ValueError if the label is not of letters and digits, or if two cases would get the same name.
    """
    if not _WORDS.fullmatch(label):
        raise ValueError(f"--label {label}: BIDS allows letters and digits only; leave the others out.")
    names = _distinct_names([prediction.case for prediction in predictions.cases])
    root = _folder_of_scans([prediction.flair for prediction in predictions.cases])
    images: dict[str, dict[str, Part]] = {}
    documents: dict[str, Any] = {"dataset_description.json": _description(predictions, root, output, source_datasets)}
    for prediction in predictions.cases:
        files = _files(names[prediction.case], label, description_label(predictions.method))
        images[prediction.case] = {f"{name}.nii.gz": part for part, name in files.items()}
        source = f"bids:{_SOURCE}:{prediction.flair.relative_to(root).as_posix()}"
        for part, name in files.items():
            documents[f"{name}.json"] = _sidecar(part, predictions, prediction, source)
    return Layout(images, documents)


def subject_and_session(case: str) -> str:
    """A case's name in BIDS: sub-01 and sub-01_ses-02 as they are; of others letters and digits, Utrecht-0 to sub-Utrecht0."""
    return case if _NAMED.fullmatch(case) else "sub-" + "".join(_WORDS.findall(case))


def description_label(method: str) -> str:
    """A method's name in camel case, as BIDS allows letters and digits only: pd-ddpm@t_start=50 to pdDdpmTStart50."""
    first, *others = _WORDS.findall(method)
    return first + "".join(word[0].upper() + word[1:] for word in others)


def _distinct_names(cases: Sequence[str]) -> dict[str, str]:
    names = {case: subject_and_session(case) for case in cases}
    for case, name in names.items():
        if same := [other for other in cases if names[other] == name and other != case]:
            raise ValueError(f"cases {case}, {', '.join(same)}: would all be {name} in BIDS; rename them in the table.")
    return names


def _folder_of_scans(scans: Sequence[Path]) -> Path:
    """The BIDS data set in which all scans lie, or else the innermost folder in which they do."""
    common = Path(os.path.commonpath([scan.parent for scan in scans]))
    return next((folder for folder in (common, *common.parents) if (folder / "dataset_description.json").is_file()), common)


def _files(name: str, label: str, description: str) -> dict[Part, str]:
    """Part -> name of its files, without an ending."""
    stem = f"{'/'.join(name.split('_'))}/anat/{name}_space-orig"
    return {
        "mask": f"{stem}_label-{label}_desc-{description}_mask",
        "probability": f"{stem}_label-{label}_desc-{description}_probseg",
        "uncertainty": f"{stem}_desc-{description}Uncertainty_probseg",
    }


def _description(predictions: Predictions, root: Path, output: Path, source_datasets: Sequence[str]) -> dict[str, Any]:
    content = {
        "Name": f"Lesions of {predictions.dataset}, segmented by {predictions.method}",
        "BIDSVersion": _BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": _PROGRAM, "Version": version_of(_PROGRAM), "Description": f"method {predictions.method}"}],
        "DatasetLinks": {_SOURCE: Path(os.path.relpath(root, output.absolute())).as_posix()},
    }
    if source_datasets:
        content["SourceDatasets"] = [_source_dataset(text) for text in source_datasets]
    return content


def _source_dataset(text: str) -> dict[str, str]:
    doi = re.fullmatch(r"(?:doi:|https?://(?:dx\.)?doi\.org/)?(10\.\d{4,}/\S+)", text)
    return {"DOI": f"doi:{doi[1]}"} if doi else {"URL": text}


def _sidecar(part: Part, predictions: Predictions, prediction: Prediction, source: str) -> dict[str, Any]:
    meaning = {
        "mask": "Lesion (1): the mean of the members is 0.5 or more.",
        "probability": "Probability of lesion: the mean of the members.",
        "uncertainty": "Not a probability: variance of the members (unbiased) at each voxel; 0 for a single member.",
    }
    return {
        "Description": meaning[part],
        **({"Type": "Lesion", "Threshold": 0.5} if part == "mask" else {}),
        "Manual": False,
        "SpatialReference": source,
        "Sources": [source],
        "Method": predictions.method,
        "Members": prediction.members,
        "Case": prediction.case,
        "Split": prediction.split,
        "Seed": predictions.seed,
    }
