"""A submission to the WMH Segmentation Challenge: one folder for each case, with the mask in it and nothing else.

Its evaluation script takes the file `result.nii.gz` of a folder, or else whichever name is most like it.
"""

from pd_ddpm.deployment.formats.layout import Layout
from pd_ddpm.deployment.formats.predictions import Predictions


def layout(predictions: Predictions) -> Layout:
    """`{case}/result.nii.gz`: 1 lesion, 0 all else."""
    return Layout({prediction.case: {f"{prediction.case}/result.nii.gz": "mask"} for prediction in predictions.cases})
