"""`pd-ddpm check`: report all problems of a dataset."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pd_ddpm.commands.parsing import Commands, add_command, user_path

if TYPE_CHECKING:
    from pd_ddpm.data.check.report import Report

DESCRIPTION = """\
Read every file of a dataset before training, and report all problems together, each with its file and a remedy: damaged or
misnamed files, NaN, constant images, differing grids, missing spacing, invalid label values, empty masks, one scan under two
names, missing files, cases of one patient in several folds, results that cannot be written. Masks, channels and voxel sizes
that cannot be right, such as a mirrored mask or an exchange of FLAIR and T1, are warnings.

DATASET is one of
  config/config.yaml    the dataset of this configuration; any other yaml file overrides values of config/config.yaml, as with
                        snakemake --configfile
  cases.csv             one row per case: case, site, one column per channel, mask, and optionally patient, role or fold
  data/own              a folder: a raw dataset of nnU-Net (dataset.json), a BIDS dataset (dataset_description.json or sub-*/,
                        lesion masks in derivatives/), the WMH challenge (training/.../wmh.nii.gz), or BraTS (folders with
                        {case}_flair.nii.gz, _t1, _t1ce, _t2 and _seg)

A csv or folder without any masks is checked as scans for `pd-ddpm predict`. In a folder of another layout, the files of a scan
are called CASE/FLAIR.nii.gz or CASE_FLAIR.nii.gz, likewise for the other channels.

The exit code is 1 if there are errors, otherwise 0. Warnings need a look; notes are for information. Neither stops a run."""

EXAMPLE = """\
example:
  $ pd-ddpm check cases.csv
  ERRORS
    case p3, scans/p3/FLAIR.nii.gz
      the gzip stream ends early, so the file is truncated.
      -> Fetch or copy it again.

   site  cases      size spacing in mm axes lesion in ml: median (range)  without lesion label 2 in ml
   west      4 240x240x48     0.96x0.96x3  LPS           10.3 (0.8 to 44.1)               0           1.2

  5 cases, channels FLAIR, T1, 15 files read in 6 s: 1 error(s), 0 warning(s), 0 note(s); fix the errors before training."""

LAYOUTS = {
    "nnunet": "a raw dataset of nnU-Net",
    "bids": "a BIDS dataset",
    "wmh_challenge": "the WMH challenge",
    "brats": "BraTS",
}


def add(commands: Commands) -> None:
    """Add the command and its options."""
    check = add_command(commands, "check", "report all problems of a dataset", DESCRIPTION, EXAMPLE)
    check.add_argument("data", type=user_path, metavar="DATASET", help="a configuration (yaml), a case table (csv) or a folder")
    check.add_argument("--dataset", metavar="NAME", help="yaml: another dataset of the configuration")
    check.add_argument("--scale", choices=("demo", "gpu", "paper"), help="the scale; default: the configuration's")
    check.add_argument(
        "--channels", nargs="+", metavar="NAME", help="csv, folder: the channels; default: all that it names, or FLAIR T1"
    )
    check.add_argument("--folder", type=user_path, help="csv: folder from which relative paths start; default: that of the csv")
    check.add_argument(
        "--results", type=user_path, default=Path("results"), help="folder in which results will be written (%(default)s)"
    )
    check.add_argument("--output", type=user_path, metavar="FILE.csv", help="also write the findings to this file, one per row")
    check.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="number of cases that are checked in parallel (%(default)s)"
    )
    check.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the findings; return 1 if there are errors, otherwise 0."""
    from pd_ddpm.config.validate import validate
    from pd_ddpm.data.cases.scans import has_masks
    from pd_ddpm.data.check.dataset import check_dataset

    is_config = options.data.suffix in (".yaml", ".yml")
    _check_options(options, is_config)
    if is_config or has_masks(options.data):
        config = validate(_config_from_file(options) if is_config else _config_from_data(options))
        splits = config["splits"] if is_config else None
        report = check_dataset(config, config["dataset"], options.results, splits, max(1, options.processes))
    else:
        report = _check_without_masks(options)
    if options.output:
        report.table().to_csv(options.output, index=False)
    print(report.text())
    return 1 if report.count("error") else 0


def _check_without_masks(options: argparse.Namespace) -> "Report":
    """Check a csv or a folder of scans that are to be segmented."""
    from pd_ddpm.data.cases.csv_table import channels_of_table
    from pd_ddpm.data.cases.scans import find_scans
    from pd_ddpm.data.check.dataset import check_scans

    channels = options.channels or (None if options.data.is_dir() else channels_of_table(options.data)) or ["FLAIR", "T1"]
    print(f"{options.data}: scans without masks, for `pd-ddpm predict`\n")
    table = find_scans(options.data, channels, options.folder)
    return check_scans(table, channels, options.results, max(1, options.processes))


def _check_options(options: argparse.Namespace, is_config: bool) -> None:
    from pd_ddpm.runtime.problem import Problem, ProblemError

    unused = [name for name in (("channels", "folder") if is_config else ("dataset",)) if getattr(options, name)]
    if unused:
        kind = "a configuration" if is_config else "a csv or folder"
        problem = f"{', '.join(f'--{name}' for name in unused)} cannot be combined with {kind}"
        raise ProblemError(Problem(options.data, problem, "Omit the option"))


def _config_from_file(options: argparse.Namespace) -> dict[str, Any]:
    """Return the configuration of a yaml file."""
    from pd_ddpm.config import load

    return load.read(options.data, _scale(options) | ({"dataset": options.dataset} if options.dataset else {}))


def _config_from_data(options: argparse.Namespace) -> dict[str, Any]:
    """Return a configuration for a case table or a folder, with default settings."""
    from pd_ddpm.config import load
    from pd_ddpm.data.cases.table import clean_name

    name = clean_name(options.data.absolute().name.removesuffix(".csv")) or "cases"
    dataset = _folder_dataset(options) if options.data.is_dir() else _table_dataset(options)
    return load.read(None, _scale(options) | {"dataset": name, "datasets": {name: dataset}})


def _scale(options: argparse.Namespace) -> dict[str, Any]:
    return {"scale": options.scale} if options.scale else {}


def _table_dataset(options: argparse.Namespace) -> dict[str, Any]:
    """Return the entry of `datasets` for a case table."""
    from pd_ddpm.data.cases.csv_table import channels_of_table

    channels = options.channels or channels_of_table(options.data) or ["FLAIR", "T1"]
    folder = str(options.folder or options.data.parent)
    return {"layout": "table", "table": str(options.data), "folder": folder, "channels": channels}


def _folder_dataset(options: argparse.Namespace) -> dict[str, Any]:
    """Return the entry of `datasets` for a folder with one of the known layouts, and print its layout."""
    from pd_ddpm.data.cases.brats import SUFFIXES
    from pd_ddpm.data.cases.find import layout_of
    from pd_ddpm.data.cases.nnunet import nnunet_channels

    folder, channels = options.data, options.channels
    layout = layout_of(folder)
    print(f"{folder}: {LAYOUTS[layout]}\n")
    if channels is None and layout == "nnunet":
        # The FLAIR must come first, because the first channel defines the grid and brain masks are computed from it.
        channels = sorted(nnunet_channels(folder), key=lambda name: name.lower() != "flair")
    elif channels is None and layout == "brats":
        channels = list(SUFFIXES)
    return {"layout": layout, "folder": str(folder), "channels": channels or ["FLAIR", "T1"]}
