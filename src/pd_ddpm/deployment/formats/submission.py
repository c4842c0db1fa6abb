"""Submission to the WMH Segmentation Challenge: one folder per case that holds nothing but the mask.

The challenge's evaluation script looks for `result.nii.gz` in a folder. Without it, the script takes the file with the most
similar name.
"""

from pd_ddpm.deployment.formats.errors import ConversionError
from pd_ddpm.deployment.formats.layout import Layout
from pd_ddpm.deployment.formats.predictions import Predictions
from pd_ddpm.runtime.problem import Problem


def layout(predictions: Predictions) -> Layout:
    """Return the layout `{case}/result.nii.gz`, where 1 is lesion and 0 everything else.

    Raises:
        ConversionError: the masks hold classes.
    """
    if predictions.classes:
        problem = f"the masks hold the classes {', '.join(predictions.classes.values())}, but the challenge scores lesions"
        raise ConversionError(Problem("--to submission", problem, "Choose bids or nnunet"))
    return Layout({prediction.case: {f"{prediction.case}/result.nii.gz": "mask"} for prediction in predictions.cases})
