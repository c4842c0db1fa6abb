"""`pd-ddpm predict`: a new scan segmented by a trained method, with uncertainty."""

import argparse
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pd_ddpm.commands.parsing import Commands, add_command

if TYPE_CHECKING:
    import torch

    from pd_ddpm.data.check.report import Finding
    from pd_ddpm.deployment.bundle import Bundle, Stage
    from pd_ddpm.deployment.predict_scan import ReadyStage
    from pd_ddpm.deployment.scan_folder import ScanFolder

DESCRIPTION = """\
Segment the lesions of one scan with a bundle that `pd-ddpm export` has made. Research only: not a medical device.

OUTPUT holds, on the FLAIR's own grid and with its geometry:
  mask.nii.gz           0 background, 1 lesion: the mean of the members, cut at 0.5
  probability.nii.gz    mean of the members
  uncertainty.nii.gz    their variance
  lesions.csv           number, volume in ml with its interval over members, and location of each lesion
  quality.html          a page to judge the result by: slices, contours, uncertainty, doubts; it needs no other file
  prediction.json       how it was made

The FLAIR defines the grid. T1 (and whatever else the bundle asks for) may lie on a grid of its own: it is resampled by the
headers, or by a transform file of elastix or ITK that maps points of the FLAIR to points of that image. The files are checked
first, and all that is wrong is listed at once. A run that was broken off goes on where it stopped."""

EXAMPLE = """\
examples:
  $ pd-ddpm predict --flair F.nii.gz --t1 T1.nii.gz --model bundle --output out
  $ pd-ddpm predict --flair F.nii.gz --t1 T1.nii.gz --t1-transform reg_3DT1_to_FLAIR.txt --model bundle --output out \\
        --members 10 --t-start 200 --device cpu
  $ pd-ddpm predict --image FLAIR=F.nii.gz --image T2=T2.nii.gz --model other-bundle --output out

What the options trade: time grows with members x steps. A larger T' leaves the start's mask further behind and makes the
members differ more. Fewer steps than the bundle's are faster and coarser. float32 is the reference; tf32, bfloat16 and float16
are faster where the device computes in them. auto is bfloat16 there, if the bundle says that its networks were tested in it on
such a device, else float32; a format that you name is used."""


def add(commands: Commands) -> None:
    """Add the command and its options."""
    predict = add_command(commands, "predict", "segment a scan with a trained method", DESCRIPTION, EXAMPLE)
    predict.add_argument("--flair", type=Path, metavar="FILE", help="the FLAIR scan; its grid is that of all results")
    predict.add_argument("--t1", type=Path, metavar="FILE", help="the T1 scan, on any grid")
    predict.add_argument("--t1-transform", type=Path, metavar="FILE", help="from points of the FLAIR to points of T1")
    predict.add_argument("--image", action="append", default=[], metavar="NAME=FILE", help="another image that is needed")
    predict.add_argument("--transform", action="append", default=[], metavar="NAME=FILE", help="its transform")
    predict.add_argument("--model", type=Path, required=True, metavar="BUNDLE", help="a folder that `pd-ddpm export` has made")
    predict.add_argument("--output", type=Path, required=True, metavar="DIR", help="the folder for the results")
    predict.add_argument("--name", help="the scan's name, on the page and for its noise; the name of the first file")
    predict.add_argument("--members", type=int, metavar="K", help="masks that are drawn and averaged; the bundle's number")
    predict.add_argument("--t-start", type=int, metavar="T'", help="where the reverse chain starts; the bundle's T'")
    predict.add_argument("--steps", type=int, metavar="N", help="steps of a chain; the bundle's number")
    predict.add_argument("--seed", type=int, help="of the noise; the bundle's seed")
    predict.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (%(default)s: the GPU where there is one)")
    predict.add_argument(
        "--precision",
        choices=("auto", "float32", "tf32", "bfloat16", "float16"),
        help="number format of the networks; the bundle's",
    )
    predict.add_argument(
        "--batch", type=int, default=20, help="members of slices at a time; speed and memory only (%(default)s)"
    )
    predict.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads (%(default)s)")
    predict.add_argument("--overwrite", action="store_true", help="replace a prediction that is there")
    predict.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Write the results and say what was found; 1 if the scan cannot be used."""
    from pd_ddpm.deployment.bundle import override_sampling, read_bundle
    from pd_ddpm.deployment.scan_folder import ScanFolder, scan_of_arguments

    for option in ("members", "batch", "threads"):
        value = getattr(given, option)
        if value is not None and value < 1:
            raise ValueError(f"--{option}: {value} is less than 1; give a whole number from 1 on.")
    bundle = read_bundle(given.model)
    stages = override_sampling(bundle, given.members, given.t_start, given.steps)
    case = scan_of_arguments(_images(given), _transforms(given), bundle.channels, given.name)
    seeds = {stage.method: stage.seed if given.seed is None else given.seed for stage in stages}
    depends_on = {
        "bundle": bundle.version(),
        "stages": [[stage.method, stage.settings, seeds[stage.method]] for stage in stages],
        "precision": given.precision,
        "device": given.device,
        "version": version("pd-ddpm"),
    }
    folder = ScanFolder(given.output, case, depends_on)
    if folder.finished() and not given.overwrite:
        print(f"{given.output}: this prediction is there already; nothing was done.")
        return 0
    with folder.opened(given.overwrite):
        # torch takes seconds to load; what is wrong with the files is said before.
        findings = folder.examine(bundle)
        if errors := [finding for finding in findings if finding.severity == "error"]:
            raise ValueError(
                f"{len(errors)} problem(s):\n" + "\n".join(f"  {one.file}: {one.finding}. {one.remedy}." for one in errors)
            )
        return _segment(given, bundle, stages, seeds, folder, findings)


def _segment(
    given: argparse.Namespace,
    bundle: "Bundle",
    stages: Sequence["Stage"],
    seeds: dict[str, int],
    folder: "ScanFolder",
    findings: Sequence["Finding"],
) -> int:
    import torch

    from pd_ddpm.deployment.predict_scan import draw_members
    from pd_ddpm.runtime.code_version import code_version
    from pd_ddpm.runtime.memory import explain_memory_shortage
    from pd_ddpm.runtime.precision import choose_device, device_name
    from pd_ddpm.runtime.run_record import run_record

    torch.set_num_threads(given.threads)
    device = choose_device(given.device)
    ready = [_ready(stage, bundle, seeds[stage.method], device, given.precision) for stage in stages]
    used = ready[-1].precision
    scan = folder.read(bundle)
    kept = f"What has been drawn is kept in {folder.unfinished}: run the command again, with a lower --batch"
    with explain_memory_shortage(folder.name, {"--batch": given.batch}, used, kept):
        members, cost = draw_members(
            ready,
            scan,
            folder.name,
            bundle.description["orientation"],
            device=device,
            batch=given.batch,
            unfinished=folder.unfinished,
            depends_on=folder.stamp,
        )
    how = {"seed": seeds[stages[-1].method], "device": device_name(device), "precision": str(used)}
    record = run_record(folder.depends_on, code_version(__file__), **how, seconds=cost.total(members.shape[-1])["seconds"])
    summary = folder.write(scan, members, findings, bundle, stages, cost, how | {"threads": given.threads}, record)
    print(summary)
    return 0


def _ready(stage: "Stage", bundle: "Bundle", seed: int, device: "torch.device", precision: str | None) -> "ReadyStage":
    """A stage with its network on the device; raises BundleError if its settings are none."""
    from pd_ddpm.data.working_grid import GridSettings
    from pd_ddpm.deployment.bundle import BundleError
    from pd_ddpm.deployment.predict_scan import ReadyStage
    from pd_ddpm.inference.factory import build_segmenter
    from pd_ddpm.inference.precision_gate import gated_precision
    from pd_ddpm.models.factory import load_model
    from pd_ddpm.runtime.precision import choose_precision, prepare_for_inference

    try:
        network, trained = load_model(*bundle.network_files(stage))
        if precision in (None, "auto"):
            chosen, _ = gated_precision(precision or stage.settings["precision"], device, trained.get("gate"))
        else:
            chosen = choose_precision(precision, device)
        draw = build_segmenter(stage.settings, prepare_for_inference(network, device, chosen))
        grid = GridSettings(**trained["grid"])
    except (KeyError, TypeError) as error:
        raise BundleError(
            f"{bundle.folder}: the settings of {stage.method} or of its network are none ({type(error).__name__}: {error}); "
            "make the bundle again with this version of pd-ddpm."
        ) from error
    return ReadyStage(stage.method, draw, grid, chosen, seed, stage.presegmentation, stage.settings)


def _images(given: argparse.Namespace) -> dict[str, Path]:
    named = {name: path for name, path in (("FLAIR", given.flair), ("T1", given.t1)) if path}
    return named | _named("--image", given.image)


def _transforms(given: argparse.Namespace) -> dict[str, Path]:
    return ({"T1": given.t1_transform} if given.t1_transform else {}) | _named("--transform", given.transform)


def _named(option: str, pairs: list[str]) -> dict[str, Path]:
    """NAME=FILE pairs; raises ValueError for anything else."""
    for pair in pairs:
        if not all(pair.partition("=")):
            raise ValueError(f"{option}: {pair!r} is not NAME=FILE, for instance T2=scan.nii.gz.")
    return {name: Path(path) for name, _, path in (pair.partition("=") for pair in pairs)}
