"""`pd-ddpm check`: all that is wrong with a data set."""

import argparse
import os
from pathlib import Path
from typing import Any

from pd_ddpm.commands.parsing import Commands, add_command

DESCRIPTION = """\
Read every file of a data set before anything is trained, and list all that is wrong at once, each with file, finding and
remedy: damaged or misnamed files, NaN, constant images, grids that differ, missing spacing, labels that are none, empty
masks, one scan under two names, missing files, folds that leak, results that could not be written.

The data set is one of
  config/config.yaml    the one that this configuration names; any other yaml is laid over config/config.yaml, as
                        snakemake --configfile does
  cases.csv             a row per case: case, site, a column per channel, mask, and optionally patient, role or fold
  data/own              a folder: a raw data set of nnU-Net (dataset.json), a BIDS data set (dataset_description.json or
                        sub-*/, lesion masks below derivatives/), or the WMH challenge (training/.../wmh.nii.gz)

The exit code is 1 if there are errors, else 0. Warnings are doubtful, notes are good to know; neither stops anything."""

EXAMPLE = """\
example:
  $ pd-ddpm check cases.csv
  ERRORS
    case p3, scans/p3/FLAIR.nii.gz
      the gzip stream ends early, the file is truncated
      -> Fetch or copy it again.

   site  cases      size spacing in mm axes lesion in ml: median (range)  without lesion label 2 in ml
   west      4 240x240x48     0.96x0.96x3  LPS           10.3 (0.8 to 44.1)               0           1.2

  5 cases, channels FLAIR, T1, 15 files read in 6 s: 1 error(s), 0 warning(s), 0 note(s); fix the errors before training."""


KINDS = {"nnunet": "a raw data set of nnU-Net", "bids": "a BIDS data set", "wmh_challenge": "the WMH challenge"}


def add(commands: Commands) -> None:
    """Add the command and its options."""
    check = add_command(commands, "check", "read a data set and list all that is wrong with it", DESCRIPTION, EXAMPLE)
    check.add_argument("data", type=Path, metavar="DATASET", help="a configuration (yaml), a table of cases (csv) or a folder")
    check.add_argument("--dataset", metavar="NAME", help="another of the configuration's datasets")
    check.add_argument("--scale", choices=("demo", "paper"), help="the scale, where it is not the configuration's")
    check.add_argument(
        "--channels", nargs="+", metavar="NAME", help="of a csv or folder; all that are named there, or FLAIR T1"
    )
    check.add_argument("--folder", type=Path, help="where a csv's relative paths start; its own folder unless said")
    check.add_argument("--results", type=Path, default=Path("results"), help="where results will be written (%(default)s)")
    check.add_argument("--output", type=Path, metavar="FILE.csv", help="write the findings there too, one row each")
    check.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="cases side by side (%(default)s)")
    check.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Print the findings; 1 if there are errors, else 0."""
    from pd_ddpm.config import load
    from pd_ddpm.config.validate import validate
    from pd_ddpm.data.cases.csv_table import channels_of_table
    from pd_ddpm.data.cases.table import clean_name
    from pd_ddpm.data.check.dataset import check_dataset

    path = given.data
    configured = path.suffix in (".yaml", ".yml")
    useless = ("channels", "folder") if configured else ("dataset",)
    if named := [f"--{name}" for name in useless if getattr(given, name)]:
        raise ValueError(
            f"{path}: {', '.join(named)} says nothing about {'a configuration' if configured else 'it'}; leave it out."
        )
    changes = {"scale": given.scale} if given.scale else {}
    if configured:
        config = load.read(path, changes | ({"dataset": given.dataset} if given.dataset else {}))
    else:
        name = clean_name(path.absolute().name.removesuffix(".csv")) or "cases"
        if path.is_dir():
            chosen = _of_folder(path, given.channels)
            print(f"{path}: {KINDS[chosen['layout']]}\n")
        else:
            chosen = {"layout": "table", "table": str(path), "folder": str(given.folder or path.parent)}
            chosen["channels"] = given.channels or channels_of_table(path) or ["FLAIR", "T1"]
        config = load.read(None, changes | {"dataset": name, "datasets": {name: chosen}})
    config = validate(config)
    splits = config["splits"] if configured else None
    report = check_dataset(config, config["dataset"], given.results, splits, max(1, given.processes))
    if given.output:
        report.table().to_csv(given.output, index=False)
    print(report.text())
    return 1 if report.count("error") else 0


def _of_folder(path: Path, channels: list[str] | None) -> dict[str, Any]:
    """The entry of datasets for a folder of one of the known layouts."""
    from pd_ddpm.data.cases.find import layout_of
    from pd_ddpm.data.cases.nnunet import nnunet_channels

    layout = layout_of(path)
    if channels is None and layout == "nnunet":
        # The first channel defines the grid, and brain masks are made for a FLAIR.
        channels = sorted(nnunet_channels(path), key=lambda name: name.lower() != "flair")
    return {"layout": layout, "folder": str(path), "channels": channels or ["FLAIR", "T1"]}
