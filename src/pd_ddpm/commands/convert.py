"""`pd-ddpm convert`: predictions in the formats of other programs."""

import argparse
import logging
from pathlib import Path

from pd_ddpm.commands.parsing import Commands, add_command

log = logging.getLogger("pd_ddpm")

DESCRIPTION = """\
Write the predictions of one method in a format that other programs read.

  --to bids         a BIDS derivative: mask, probability and uncertainty of each case, with their sidecars, and
                    dataset_description.json. sub-01_ses-02 keeps its name, of others letters and digits are kept
                    (Utrecht-0: sub-Utrecht0), and the method goes in camel case (pd-ddpm@t_start=50: desc-pdDdpmTStart50).
  --to nnunet       masks as nnUNetv2_predict names them, dataset.json, and splits_final.json: the same folds, for training
                    an nnU-Net to compare with. The scans themselves are not handed over.
  --to submission   CASE/result.nii.gz, 0 and 1, as the evaluation.py of the WMH challenge looks for it.

Masks are those of the ensemble, so many members as the method has. Every image is on the grid and in the axis order of the
case's own FLAIR, also where preparation.orientation had turned it; where that scan is gone it stays on the prepared grid, and
a warning says so.

PREDICTIONS is the folder of a method, with all its splits and the lowest seed unless told otherwise, or one of the
split-I_seed-J in it. DIR has to be new or empty, or to hold the same conversion, which is then brought up to date."""

EXAMPLE = """\
example:
  $ pd-ddpm convert results/phantom/predictions/pd-ddpm --to submission --output submission
  pd-ddpm to submission: 100% 4/4, 00:01 elapsed, 00:00 left
  4 cases of pd-ddpm, split 0, seed 0, written to submission
  $ ls submission/Utrecht-5
  result.nii.gz"""


def add(commands: Commands) -> None:
    """Add the command and its options."""
    convert = add_command(commands, "convert", "write predictions as BIDS, nnU-Net or a submission", DESCRIPTION, EXAMPLE)
    convert.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="such as results/phantom/predictions/pd-ddpm")
    convert.add_argument("--to", choices=("bids", "nnunet", "submission"), required=True, help="the format")
    convert.add_argument("--output", type=Path, metavar="DIR", required=True, help="the folder to write to")
    convert.add_argument("--split", type=int, nargs="+", default=[], metavar="I", help="these splits only")
    convert.add_argument("--seed", type=int, metavar="J", help="this seed, not the lowest")
    convert.add_argument("--label", metavar="NAME", help="bids, nnunet: what the masks show (WMH)")
    source = "bids: DOI or address of the scans; may be repeated"
    convert.add_argument("--source-dataset", action="append", default=[], metavar="DOI", help=source)
    convert.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Convert, and say what was written where."""
    from pd_ddpm.deployment.formats import bids, nnunet, submission
    from pd_ddpm.deployment.formats.conversion import convert
    from pd_ddpm.deployment.formats.predictions import find_predictions

    meant_for = {"label": ("bids", "nnunet"), "source_dataset": ("bids",)}
    if useless := [option for option, formats in meant_for.items() if getattr(given, option) and given.to not in formats]:
        listed = ", ".join(f"--{option.replace('_', '-')}" for option in useless)
        raise ValueError(f"--to {given.to}: {listed} says nothing about it; leave it out.")
    predictions = find_predictions(given.predictions, given.split, given.seed)
    label = given.label or "WMH"
    if given.to == "bids":
        layout = bids.layout(predictions, given.output, label, given.source_dataset)
    elif given.to == "nnunet":
        layout = nnunet.layout(predictions, label)
    else:
        layout = submission.layout(predictions)
    convert(predictions, layout, given.output, given.to)
    if gone := [prediction for prediction in predictions.cases if not prediction.flair.is_file()]:
        log.warning(
            "warning: the scans of %d case(s) are gone, such as %s; their images have the axis order of the prepared cases.",
            *(len(gone), gone[0].flair),
        )
    if given.to == "nnunet" and (lacking := nnunet.splits_without_validation(predictions)):
        log.warning(
            "warning: split %s has no validation cases; nnU-Net needs some in splits_final.json.", ", ".join(map(str, lacking))
        )
    splits = ", ".join(map(str, sorted({prediction.split for prediction in predictions.cases})))
    made = f"{predictions.method}, split {splits}, seed {predictions.seed}"
    print(f"{len(predictions.cases)} cases of {made}, written to {given.output}")
    return 0
