"""`pd-ddpm predict`: segment a new scan with a trained method, with uncertainty."""

import argparse
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pd_ddpm.commands.parsing import Commands, add_command, user_path
from pd_ddpm.runtime.problem import Problem, ProblemError

if TYPE_CHECKING:
    from pd_ddpm.data.check.report import Finding
    from pd_ddpm.deployment.bundle import Bundle, Stage
    from pd_ddpm.deployment.scan_folder import ScanFolder

DESCRIPTION = """\
Segment the lesions of one scan with a bundle that `pd-ddpm export` has made. Research only: not a medical device.

The output folder holds these files. All images have the grid and the geometry of the FLAIR:
  mask.nii.gz           0 background, 1 lesion: the mean of the ensemble members, thresholded at 0.5
  probability.nii.gz    mean of the members
  uncertainty.nii.gz    variance of the members
  lesions.csv           number, volume in ml with its range over members, and position of each lesion
  quality.html          page for reviewing the result: slices, contours, uncertainty, warnings; it needs no other file
  prediction.json       settings, volumes and provenance

The FLAIR defines the grid. T1, and any other image that the bundle requires, may have another grid. It is resampled according
to the headers, or with a transform file of elastix or ITK that maps points of the FLAIR to points of that image. The files are
checked first, and all problems are reported together. An interrupted run resumes if you repeat the command."""

EXAMPLE = """\
examples:
  $ pd-ddpm predict --flair F.nii.gz --t1 T1.nii.gz --model bundle --output out
  $ pd-ddpm predict --flair F.nii.gz --t1 T1.nii.gz --t1-transform reg_3DT1_to_FLAIR.txt --model bundle --output out \\
        --members 10 --t-start 200 --device cpu
  $ pd-ddpm predict --image FLAIR=F.nii.gz --image T2=T2.nii.gz --model other-bundle --output out

Trade-offs: time grows with members x steps. With a larger T', results depend less on the pre-segmentation and members differ
more. Fewer steps than the bundle's are faster and less accurate. float32 is the reference precision; tf32, bfloat16 and
float16 are faster on devices that support them. Precision auto is the fastest in which a network of the bundle passed its test
on such a device: float16, bfloat16, tf32 or float32, in this order. Other values are used without a test."""


def add(commands: Commands) -> None:
    """Add the command and its options."""
    predict = add_command(commands, "predict", "segment a scan with a trained method", DESCRIPTION, EXAMPLE)
    predict.add_argument("--flair", type=user_path, metavar="FILE", help="the FLAIR scan, whose grid all results have")
    predict.add_argument("--t1", type=user_path, metavar="FILE", help="the T1 scan, on any grid")
    predict.add_argument(
        "--t1-transform", type=user_path, metavar="FILE", help="transform from points of FLAIR to points of T1"
    )
    predict.add_argument("--image", action="append", default=[], metavar="NAME=FILE", help="another image that is required")
    predict.add_argument("--transform", action="append", default=[], metavar="NAME=FILE", help="transform of that image")
    predict.add_argument("--model", type=user_path, required=True, metavar="BUNDLE", help="folder made by `pd-ddpm export`")
    predict.add_argument("--output", type=user_path, required=True, metavar="DIR", help="folder for the results")
    predict.add_argument(
        "--name",
        help="name of the scan; default: on the page that of the output folder, for the noise that of the first file",
    )
    predict.add_argument("--members", type=int, metavar="K", help="number of ensemble members; default: the bundle's")
    predict.add_argument("--t-start", type=int, metavar="T'", help="start timestep of the reverse chain; default: the bundle's")
    predict.add_argument("--steps", type=int, metavar="N", help="number of reverse steps; default: the bundle's")
    predict.add_argument("--seed", type=int, help="seed of the noise; default: the bundle's")
    predict.add_argument("--device", default="auto", help="auto (a GPU if available), cpu, cuda or cuda:N (%(default)s)")
    predict.add_argument(
        "--precision",
        choices=("auto", "float32", "tf32", "bfloat16", "float16"),
        help="precision of the networks; default: the bundle's",
    )
    predict.add_argument(
        "--batch", type=int, default=20, help="images per network evaluation; affects speed and memory only (%(default)s)"
    )
    predict.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads (%(default)s)")
    predict.add_argument("--overwrite", action="store_true", help="replace an existing prediction")
    predict.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check and segment the scan, write the results, print a summary, and return 0."""
    from pd_ddpm.deployment.bundle import override_sampling, read_bundle
    from pd_ddpm.deployment.scan_folder import ScanFolder, make_scan_row

    for option in ("members", "batch", "threads"):
        value = getattr(options, option)
        if value is not None and value < 1:
            raise ProblemError(Problem(f"--{option}", f"{value} is less than 1", "Give a positive whole number"))
    bundle = read_bundle(options.model)
    stages = override_sampling(bundle, options.members, options.t_start, options.steps)
    case = make_scan_row(_images(options), _transforms(options), bundle.channels, options.name)
    seeds = {stage.method: stage.seed if options.seed is None else options.seed for stage in stages}
    fingerprint_inputs = {
        "bundle": bundle.version(),
        "stages": [[stage.method, stage.settings, seeds[stage.method]] for stage in stages],
        "precision": options.precision,
        "device": options.device,
        "version": version("pd-ddpm"),
    }
    folder = ScanFolder(options.output, case, fingerprint_inputs, options.name or "")
    if folder.is_finished() and not options.overwrite:
        print(f"{options.output}: this prediction is already complete. Nothing was done.")
        return 0
    with folder.locked(options.overwrite):
        # Check the files before PyTorch is imported, which takes seconds.
        findings = folder.check(bundle)
        if errors := [finding for finding in findings if finding.severity == "error"]:
            problems = (Problem(error.file, error.finding, error.remedy) for error in errors)
            raise ProblemError(*problems, heading=f"scan {folder.name}")
        print(_segment(options, bundle, stages, seeds, folder, findings))
    return 0


def _segment(
    options: argparse.Namespace,
    bundle: "Bundle",
    stages: Sequence["Stage"],
    seeds: Mapping[str, int],
    folder: "ScanFolder",
    findings: Sequence["Finding"],
) -> str:
    """Segment the scan, write the results, and return a summary."""
    import torch

    from pd_ddpm.deployment.predict_scan import LoadedStage, sample_members
    from pd_ddpm.deployment.scan_checks import appearance_findings
    from pd_ddpm.deployment.scan_result import ScanResult
    from pd_ddpm.inference.ensemble import Segmentation
    from pd_ddpm.runtime.code_version import code_version
    from pd_ddpm.runtime.memory import explain_memory_shortage
    from pd_ddpm.runtime.precision import choose_device, device_name
    from pd_ddpm.runtime.run_record import run_record

    torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    loaded = [LoadedStage.from_bundle(bundle, stage, seeds[stage.method], device, options.precision) for stage in stages]
    precision = loaded[-1].precision
    scan = folder.read(bundle)
    findings = [*findings, *appearance_findings(folder.case[bundle.channels[0]], scan, bundle.description["training"])]
    kept = f"Members that are already sampled are kept in {folder.partial_dir}. Run the command again with a lower --batch."
    with explain_memory_shortage(folder.name, {"--batch": options.batch}, precision, kept):
        members, cost = sample_members(
            loaded,
            scan,
            bundle.description["orientation"],
            device=device,
            batch=options.batch,
            partial_dir=folder.partial_dir,
            fingerprint_inputs=folder.fingerprint,
        )
    result = ScanResult(scan, Segmentation.from_members(members), findings, cost)
    execution = {"seed": loaded[-1].seed, "device": device_name(device), "precision": str(precision)}
    details = {"threads": options.threads, "reason of the precision": loaded[-1].precision_reason}
    seconds = cost.total(members.shape[-1])["seconds"]
    record = run_record(folder.fingerprint_inputs, code_version(__file__), **execution, seconds=seconds)
    return folder.write(result, bundle, stages, execution | details, record)


def _images(options: argparse.Namespace) -> dict[str, Path]:
    named = {name: path for name, path in (("FLAIR", options.flair), ("T1", options.t1)) if path}
    return named | _parse_pairs("--image", options.image)


def _transforms(options: argparse.Namespace) -> dict[str, Path]:
    named = {"T1": options.t1_transform} if options.t1_transform else {}
    return named | _parse_pairs("--transform", options.transform)


def _parse_pairs(option: str, pairs: Sequence[str]) -> dict[str, Path]:
    """Parse NAME=FILE pairs; raise ProblemError for anything else."""
    for pair in pairs:
        if not all(pair.partition("=")):
            raise ProblemError(Problem(option, f"{pair!r} is not NAME=FILE", "Give for instance T2=scan.nii.gz"))
    return {name: user_path(path) for name, _, path in (pair.partition("=") for pair in pairs)}
