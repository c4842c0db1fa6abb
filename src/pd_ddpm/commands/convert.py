"""`pd-ddpm convert`: write predictions in the formats of other programs."""

import argparse
import logging
from typing import TYPE_CHECKING

from pd_ddpm.commands.parsing import Commands, add_command, user_path

if TYPE_CHECKING:
    from pd_ddpm.deployment.formats.layout import Layout
    from pd_ddpm.deployment.formats.predictions import Predictions

log = logging.getLogger("pd_ddpm")

DESCRIPTION = """\
Write the predictions of one method in a format that other programs read.

  --to bids         a BIDS derivative: mask, probability and uncertainty of each case with their sidecars, and
                    dataset_description.json. Cases such as sub-01_ses-02_run-1 keep their names; other names keep their
                    letters and digits (Utrecht-0: sub-Utrecht0; P7_TP1 of patient P7: sub-P7_ses-TP1). The method is written
                    in camel case (pd-ddpm@t_start=50: desc-pdDdpmTStart50).
  --to nnunet       masks with the file names of nnUNetv2_predict, dataset.json, and splits_final.json with the same folds, to
                    train nnU-Net for a comparison. Scans are not copied. Datasets that are only tested have no folds.
  --to submission   CASE/result.nii.gz with labels 0 and 1, as evaluation.py of the WMH challenge requires.

Masks are those of the ensemble, with the method's number of members. Each image has the grid and the axis order of the case's
FLAIR, even if preparation.orientation changed that order. If a FLAIR no longer exists, its images keep the preprocessed grid,
and a warning says so.

PREDICTIONS is the folder of a method, one of the folders split-I_seed-J in it, or an output folder of `pd-ddpm predict`. The
folder of a method stands for all its splits with the lowest seed, unless --split or --seed select others. DIR must be new or
empty, or hold the same conversion, which is then updated."""

EXAMPLE = """\
example:
  $ pd-ddpm convert results/phantom/predictions/pd-ddpm --to submission --output submission
  pd-ddpm to submission: 100% 4/4, 00:01 elapsed, 00:00 left
  4 cases of pd-ddpm, split 0, seed 0, written to submission
  $ ls submission/Utrecht-5
  result.nii.gz"""

# Options that only some of the formats have.
FORMATS_WITH_OPTION = {"label": ("bids", "nnunet"), "source_dataset": ("bids",)}


def add(commands: Commands) -> None:
    """Add the command and its options."""
    convert = add_command(commands, "convert", "write predictions as BIDS, nnU-Net or a submission", DESCRIPTION, EXAMPLE)
    convert.add_argument("predictions", type=user_path, metavar="PREDICTIONS", help="such as results/wmh/predictions/pd-ddpm")
    convert.add_argument("--to", choices=("bids", "nnunet", "submission"), required=True, help="the format")
    convert.add_argument("--output", type=user_path, metavar="DIR", required=True, help="folder to write")
    convert.add_argument("--split", type=int, nargs="+", default=[], metavar="I", help="only these splits")
    convert.add_argument("--seed", type=int, metavar="J", help="this seed; default: the lowest")
    convert.add_argument("--label", metavar="NAME", help="bids, nnunet: structure that the masks show; default: WMH")
    source = "bids: DOI or address of the scans; may be repeated"
    convert.add_argument("--source-dataset", action="append", default=[], metavar="DOI", help=source)
    convert.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Convert the predictions, print a summary, and return 0."""
    from pd_ddpm.deployment.formats.conversion import convert
    from pd_ddpm.deployment.formats.predictions import find_predictions

    _check_options(options)
    predictions = find_predictions(options.predictions, options.split, options.seed)
    convert(predictions, _layout(options, predictions), options.output, options.to)
    _log_warnings(options, predictions)
    splits = ", ".join(map(str, sorted({prediction.split for prediction in predictions.cases} - {None})))
    source = f"{predictions.method}, {f'split {splits}, ' if splits else ''}seed {predictions.seed}"
    print(f"{len(predictions.cases)} cases of {source}, written to {options.output}")
    return 0


def _check_options(options: argparse.Namespace) -> None:
    from pd_ddpm.runtime.problem import Problem, ProblemError

    unsupported = [
        f"--{option.replace('_', '-')}"
        for option, formats in FORMATS_WITH_OPTION.items()
        if getattr(options, option) and options.to not in formats
    ]
    if unsupported:
        problem = f"the format does not use {', '.join(unsupported)}"
        raise ProblemError(Problem(f"--to {options.to}", problem, "Omit the option"))


def _layout(options: argparse.Namespace, predictions: "Predictions") -> "Layout":
    from pd_ddpm.deployment.formats import bids, nnunet, submission

    label = options.label or "WMH"
    if options.to == "bids":
        return bids.layout(predictions, options.output, label, options.source_dataset)
    if options.to == "nnunet":
        return nnunet.layout(predictions, label)
    return submission.layout(predictions)


def _log_warnings(options: argparse.Namespace, predictions: "Predictions") -> None:
    from pd_ddpm.deployment.formats import bids, nnunet

    if missing := [prediction.flair for prediction in predictions.cases if not prediction.flair.is_file()]:
        log.warning(
            "warning: the scans of %d case(s) do not exist any more, such as %s. Their images have the axis order of the "
            "preprocessed cases.",
            len(missing),
            missing[0],
        )
    if options.to == "nnunet" and (splits := nnunet.splits_without_validation(predictions)):
        log.warning(
            "warning: split %s has no validation cases, which nnU-Net needs in splits_final.json.", ", ".join(map(str, splits))
        )
    if options.to == "bids" and (cases := bids.cases_with_unknown_entities(predictions)):
        log.warning(
            "warning: the names of %d case(s) begin with sub- but are not BIDS names, such as %s. Each becomes a subject. "
            "Enter their patients in the case table to group them.",
            len(cases),
            cases[0],
        )
