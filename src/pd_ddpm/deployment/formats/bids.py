"""Predictions as a BIDS derivative.

BIDS has no suffix for variance maps. The suffix for maps of values from 0 to 1 is `probseg`, so the variance gets it, too. Its
`desc` distinguishes it from the probability, and it has no `label`.

Reference: Brain Imaging Data Structure 1.10, derivatives (masks, probabilistic segmentations, spatial references).
"""

import os
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pd_ddpm.deployment.formats.errors import ConversionError
from pd_ddpm.deployment.formats.layout import Layout, Part
from pd_ddpm.deployment.formats.predictions import Prediction, Predictions
from pd_ddpm.runtime.problem import Problem

_BIDS_VERSION = "1.10.0"
_PROGRAM = "pd-ddpm"
_SOURCE = "source"  # name of the scans' folder in BIDS URIs
_SUBJECT_AND_SESSION = re.compile(r"sub-[A-Za-z0-9]+(_ses-[A-Za-z0-9]+)?")
_WORDS = re.compile(r"[A-Za-z0-9]+")


def layout(predictions: Predictions, output: Path, label: str, source_datasets: Sequence[str] = ()) -> Layout:
    """Return the layout, with a sidecar for each image.

    File names are `sub-X/[ses-Y/]anat/sub-X[_ses-Y]_space-orig_label-WMH_desc-{method}_mask.nii.gz`, the same with `_probseg`
    for the probability, and `..._desc-{method}Uncertainty_probseg.nii.gz` without label for the variance.

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
    names = _distinct_names([prediction.case for prediction in predictions.cases])
    root = _scans_root([prediction.flair for prediction in predictions.cases])
    images: dict[str, dict[str, Part]] = {}
    documents: dict[str, Any] = {"dataset_description.json": _dataset_description(predictions, root, output, source_datasets)}
    for prediction in predictions.cases:
        files = _files(names[prediction.case], label, description_label(predictions.method))
        images[prediction.case] = {f"{name}.nii.gz": part for part, name in files.items()}
        source = f"bids:{_SOURCE}:{prediction.flair.relative_to(root).as_posix()}"
        for part, name in files.items():
            documents[f"{name}.json"] = _sidecar(part, predictions, prediction, source)
    return Layout(images, documents)


def subject_and_session(case: str) -> str:
    """Return the BIDS name of a case.

    sub-01 and sub-01_ses-02 are kept. Other names keep their letters and digits: Utrecht-0 becomes sub-Utrecht0.
    """
    return case if _SUBJECT_AND_SESSION.fullmatch(case) else "sub-" + "".join(_WORDS.findall(case))


def description_label(method: str) -> str:
    """Return the name of a method in camel case: pd-ddpm@t_start=50 becomes pdDdpmTStart50."""
    first, *others = _WORDS.findall(method)
    return first + "".join(word[0].upper() + word[1:] for word in others)


def _distinct_names(cases: Sequence[str]) -> dict[str, str]:
    names = {case: subject_and_session(case) for case in cases}
    for case, name in names.items():
        if duplicates := [other for other in cases if names[other] == name and other != case]:
            location = f"cases {case}, {', '.join(duplicates)}"
            raise ConversionError(Problem(location, f"all would be {name} in BIDS", "Rename them in the case table"))
    return names


def _scans_root(scans: Sequence[Path]) -> Path:
    """Return the BIDS dataset that holds all scans, otherwise the innermost folder that holds them."""
    common = Path(os.path.commonpath([scan.parent for scan in scans]))
    return next((folder for folder in (common, *common.parents) if (folder / "dataset_description.json").is_file()), common)


def _files(name: str, label: str, description: str) -> dict[Part, str]:
    """Return the file names of all parts, without suffix."""
    stem = f"{'/'.join(name.split('_'))}/anat/{name}_space-orig"
    return {
        "mask": f"{stem}_label-{label}_desc-{description}_mask",
        "probability": f"{stem}_label-{label}_desc-{description}_probseg",
        "uncertainty": f"{stem}_desc-{description}Uncertainty_probseg",
    }


def _dataset_description(predictions: Predictions, root: Path, output: Path, source_datasets: Sequence[str]) -> dict[str, Any]:
    content = {
        "Name": f"Lesions of {predictions.dataset}, segmented by {predictions.method}",
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
    descriptions = {
        "mask": "Lesion (1): the mean of the members is 0.5 or more.",
        "probability": "Probability of lesion: the mean of the members.",
        "uncertainty": "Not a probability: variance of the members (unbiased) at each voxel; 0 for a single member.",
    }
    return {
        "Description": descriptions[part],
        **({"Type": "Lesion", "Threshold": 0.5} if part == "mask" else {}),
        "Manual": False,
        "SpatialReference": source,
        "Sources": [source],
        "Method": predictions.method,
        "Members": prediction.num_members,
        "Case": prediction.case,
        "Split": prediction.split,
        "Seed": predictions.seed,
    }
