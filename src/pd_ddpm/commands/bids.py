"""`pd-ddpm bids`: segment a BIDS dataset with the arguments of a BIDS app."""

import argparse
from pathlib import Path

from pd_ddpm.commands import predict
from pd_ddpm.commands.parsing import Commands, add_command, user_path

DESCRIPTION = """\
Segment all scans of a BIDS dataset with a bundle, and write a BIDS derivative: mask, probability and uncertainty of each scan
with their sidecars. The arguments are those of BIDS apps. Research only: not a medical device.

The command does what `pd-ddpm predict BIDS_DIR` and `pd-ddpm convert --to bids` do. The review pages, tables of lesions and
everything that an interrupted run needs are in the work folder. Repeat the command to resume; finished scans are skipped.
There is no level "group", since the scans do not depend on each other."""

EXAMPLE = """\
example:
  $ pd-ddpm bids data/study data/study/derivatives/pd-ddpm participant --participant-label 01 02 --model bundle
  2 of 2 scans are segmented in data/study/derivatives/pd-ddpm_work.
  2 cases of pd-ddpm, written to data/study/derivatives/pd-ddpm"""


def add(commands: Commands) -> None:
    """Add the command and its options."""
    bids = add_command(commands, "bids", "segment a BIDS dataset as a BIDS app", DESCRIPTION, EXAMPLE)
    bids.add_argument("bids_dir", type=user_path, help="the BIDS dataset")
    bids.add_argument("output_dir", type=user_path, help="folder of the derivative")
    bids.add_argument("analysis_level", choices=("participant",), help="participant: scan after scan")
    bids.add_argument(
        *("--participant-label", "--participant_label"),
        nargs="+",
        type=predict.participant_label,
        default=[],
        metavar="LABEL",
        help="only sub-LABEL",
    )
    bids.add_argument("--model", type=user_path, required=True, metavar="BUNDLE", help="folder made by `pd-ddpm export`")
    bids.add_argument("-w", "--work-dir", type=user_path, metavar="DIR", help="work folder; default: OUTPUT_DIR_work")
    bids.add_argument("--label", default="WMH", metavar="NAME", help="structure that the masks show (%(default)s)")
    predict.add_sampling_options(bids)
    bids.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Segment the scans, write the derivative, and return 0 if no scan has failed."""
    from pd_ddpm.deployment.formats import bids
    from pd_ddpm.deployment.formats.conversion import convert
    from pd_ddpm.deployment.formats.predictions import find_predictions

    output: Path = options.output_dir
    work = options.work_dir or output.with_name(f"{output.name}_work")
    single_scan = {"flair": None, "t1": None, "t1_transform": None, "image": [], "transform": [], "name": None}
    many_scans = {"scans": options.bids_dir, "participant": options.participant_label, "output": work}
    further = {"presegmentation": None, "overwrite": False}
    code = predict.run(argparse.Namespace(**vars(options) | single_scan | many_scans | further))
    predictions = find_predictions(work)
    convert(predictions, bids.layout(predictions, output, options.label, []), output, "bids")
    print(f"{len(predictions.cases)} cases of {predictions.method}, written to {output}")
    return code
