"""`pd-ddpm predict`: segment a new scan with a trained method, with uncertainty."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pd_ddpm.commands.parsing import Commands, add_command, error_sentence, user_path
from pd_ddpm.runtime.problem import Problem, ProblemError

if TYPE_CHECKING:
    import torch

    from pd_ddpm.data.check.report import Finding
    from pd_ddpm.deployment.bundle import Bundle, Stage
    from pd_ddpm.deployment.predict_scan import LoadedStage
    from pd_ddpm.deployment.scan_folder import ScanFolder

DESCRIPTION = """\
Segment the lesions of one scan, or of many, with a bundle that `pd-ddpm export` has made. Research only: not a medical device.

The output folder holds these files. All images have the grid and the geometry of the FLAIR:
  mask.nii.gz           0 background, 1 lesion: the mean of the ensemble members, thresholded at 0.5
  probability.nii.gz    mean of the members
  uncertainty.nii.gz    variance of the members
  lesions.csv           number, volume in ml with its range over members, and position of each lesion
  quality.html          page for reviewing the result: slices, contours, uncertainty, warnings; it needs no other file
  prediction.json       settings, volumes and provenance

The FLAIR defines the grid. T1, and any other image that the bundle requires, may have another grid. It is resampled according
to the headers, or with a transform file of elastix or ITK that maps points of the FLAIR to points of that image. The files are
checked first, and all problems are reported together. An interrupted run resumes if you repeat the command.

SCANS stands for many scans: a csv with the columns case and one per channel, a BIDS dataset, or a folder whose files are called
CASE/FLAIR.nii.gz or CASE_FLAIR.nii.gz, likewise for the other channels. Each scan gets a folder of its name below DIR. Networks
are loaded once. Scans whose results are complete are skipped. A failing scan does not stop the others; the exit code is then 1.

--presegmentation takes the mask of another program, on the grid of the FLAIR: 0 and 1, or probabilities from 0 to 1. The chain
starts from it instead of from the bundle's own pre-segmentation, whose network does not run then. For many scans, {case} stands
for the name of a scan."""

EXAMPLE = """\
examples:
  $ pd-ddpm predict --flair F.nii.gz --t1 T1.nii.gz --model bundle --output out
  $ pd-ddpm predict --flair F.nii.gz --t1 T1.nii.gz --t1-transform reg_3DT1_to_FLAIR.txt --model bundle --output out \\
        --members 10 --t-start 200 --device cpu
  $ pd-ddpm predict --flair F.nii.gz --t1 T1.nii.gz --presegmentation nnunet/F.nii.gz --model bundle --output out
  $ pd-ddpm predict data/clinic --model bundle --output out
  $ pd-ddpm predict --image FLAIR=F.nii.gz --image T2=T2.nii.gz --model other-bundle --output out

Trade-offs: time grows with members x steps. With a larger T', results depend less on the pre-segmentation and members differ
more. Fewer steps than the bundle's are faster and less accurate. float32 is the reference precision; tf32, bfloat16 and
float16 are faster on devices that support them. Precision auto is the fastest in which a network of the bundle passed its test
on such a device: float16, bfloat16, tf32 or float32, in this order. Other values are used without a test."""


def add(commands: Commands) -> None:
    """Add the command and its options."""
    predict = add_command(commands, "predict", "segment a scan with a trained method", DESCRIPTION, EXAMPLE)
    predict.add_argument(
        "scans", type=user_path, nargs="?", metavar="SCANS", help="many scans: a csv, a BIDS dataset or a folder"
    )
    predict.add_argument(
        "--participant", nargs="+", type=participant_label, default=[], metavar="LABEL", help="only sub-LABEL of a BIDS dataset"
    )
    predict.add_argument("--flair", type=user_path, metavar="FILE", help="the FLAIR scan, whose grid all results have")
    predict.add_argument("--t1", type=user_path, metavar="FILE", help="the T1 scan, on any grid")
    predict.add_argument(
        "--t1-transform", type=user_path, metavar="FILE", help="transform from points of FLAIR to points of T1"
    )
    predict.add_argument("--image", action="append", default=[], metavar="NAME=FILE", help="another image that is required")
    predict.add_argument("--transform", action="append", default=[], metavar="NAME=FILE", help="transform of that image")
    predict.add_argument(
        "--presegmentation",
        type=user_path,
        metavar="FILE",
        help="mask from which the chain starts instead of from the bundle's",
    )
    predict.add_argument("--model", type=user_path, required=True, metavar="BUNDLE", help="folder made by `pd-ddpm export`")
    predict.add_argument("--output", type=user_path, required=True, metavar="DIR", help="folder for the results")
    predict.add_argument(
        "--name",
        help="name of the scan; default: on the page that of the output folder, for the noise that of the first file",
    )
    add_sampling_options(predict)
    predict.add_argument("--overwrite", action="store_true", help="replace an existing prediction")
    predict.set_defaults(run=run)


def add_sampling_options(predict: argparse.ArgumentParser) -> None:
    """Add the options that determine how members are sampled, and on what."""
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
        "--batch",
        type=int,
        default=20,
        help="slices per network evaluation, volumes are one each; affects speed and memory only (%(default)s)",
    )
    predict.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Check and segment the scan or scans, write the results, print a summary for each, and return 0 if none has failed."""
    from pd_ddpm.deployment.bundle import override_sampling, read_bundle, start_from_file

    for option in ("members", "batch", "threads"):
        value = getattr(options, option)
        if value is not None and value < 1:
            raise ProblemError(Problem(f"--{option}", f"{value} is less than 1", "Give a positive whole number"))
    bundle = read_bundle(options.model)
    stages = override_sampling(bundle, options.members, options.t_start, options.steps)
    if options.presegmentation:
        stages = start_from_file(stages)
    elif source := bundle.presegmentation_from_file:
        problem = f"{bundle.description['name']} starts from masks of {source}, which another program makes"
        raise ProblemError(Problem("--presegmentation", problem, "Give such a mask of this scan with the option"))
    seeds = {stage.method: stage.seed if options.seed is None else options.seed for stage in stages}
    fingerprint_inputs = {
        "bundle": bundle.version(),
        "stages": [[stage.method, stage.settings, seeds[stage.method]] for stage in stages],
        "precision": options.precision,
        "device": options.device,
        "version": version("pd-ddpm"),
    }
    predictor = _Predictor(options, bundle, stages, seeds)
    if options.scans is None:
        if options.participant:
            raise ProblemError(
                Problem("--participant", "it selects from many scans, but SCANS is missing", "Give a BIDS dataset")
            )
        predictor.predict(_scan_folder(options, bundle, fingerprint_inputs))
        return 0
    return _predict_each(predictor, *_scan_folders(options, bundle, fingerprint_inputs))


def _scan_folder(options: argparse.Namespace, bundle: "Bundle", fingerprint_inputs: Any) -> "ScanFolder":
    """Return the folder of the single scan that the options name."""
    from pd_ddpm.deployment.scan_folder import ScanFolder, make_scan_row

    case = make_scan_row(_images(options), _transforms(options), bundle.channels, options.name)
    if options.presegmentation:
        case["presegmentation"] = str(options.presegmentation)
    return ScanFolder(options.output, case, fingerprint_inputs, options.name or "")


def _scan_folders(
    options: argparse.Namespace, bundle: "Bundle", fingerprint_inputs: Any
) -> "tuple[list[ScanFolder], list[str]]":
    """Return a folder below the output for each complete scan of a csv or a folder, and what is wrong with the others.

    Raises:
        CohortError: there are no scans, or two have one name.
    """
    from pd_ddpm.data.cases.scans import find_scans
    from pd_ddpm.data.cases.table import CohortError, clean_name
    from pd_ddpm.deployment.scan_folder import ScanFolder

    single = ("flair", "t1", "t1_transform", "image", "transform", "name")
    if named := [f"--{option.replace('_', '-')}" for option in single if getattr(options, option)]:
        problem = f"{', '.join(named)} cannot be combined with many scans"
        raise ProblemError(Problem(options.scans, problem, "Omit the option, or enter its files in a csv"))
    if options.presegmentation and "{case}" not in str(options.presegmentation):
        problem = f"{options.presegmentation} is the same file for all scans"
        raise ProblemError(Problem("--presegmentation", problem, "Write {case} in place of the name of a scan"))
    problems: list[str] = []
    try:
        table = find_scans(options.scans, bundle.channels)
    except CohortError as error:
        if error.table is None or error.table["case"].duplicated().any():
            raise
        table, problems = error.table, list(map(str, error.problems))
    has_safe_name = (table["case"] != "") & (table["case"].map(clean_name) == table["case"])
    is_complete = (table[bundle.channels] != "").all(axis=1) & has_safe_name
    cases = table[is_complete].drop(columns=["role", "fold"]).to_dict("records")
    if options.participant:
        cases = _cases_of(options.participant, cases, options.scans)
        problems = [problem for problem in problems if any(f"sub-{label}" in problem for label in options.participant)]
    for case in cases if options.presegmentation else ():
        case["presegmentation"] = str(options.presegmentation).replace("{case}", case["case"])
    return [ScanFolder(options.output / case["case"], case, fingerprint_inputs) for case in cases], problems


def participant_label(text: str) -> str:
    """Return the label of a participant, which may be written with "sub-"."""
    return text.removeprefix("sub-")


def _cases_of(participants: Sequence[str], cases: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Return the cases of some participants of a BIDS dataset."""
    wanted = {f"sub-{label}" for label in participants}
    selected = [case for case in cases if case["case"].partition("_")[0] in wanted]
    if missing := wanted - {case["case"].partition("_")[0] for case in selected}:
        problem = f"{', '.join(sorted(missing))} has no scan in {folder} that the bundle can segment"
        raise ProblemError(Problem("--participant", problem, "Correct the label"))
    return selected


def _predict_each(predictor: "_Predictor", folders: "Sequence[ScanFolder]", problems: Sequence[str]) -> int:
    """Segment scan after scan, also after one that fails; list those that failed, and return 1 if there are any.

    Args:
        predictor: the loaded method.
        folders: the complete scans.
        problems: what is wrong with scans that are not complete.
    """
    failures = list(problems)
    for number, folder in enumerate(folders, start=1):
        print(f"scan {number} of {len(folders)}: {folder.name}", flush=True)
        try:
            predictor.predict(folder)
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            failures.append(f"{folder.name}: {error_sentence(error)}")
            print(f"pd-ddpm: {failures[-1]}", file=sys.stderr, flush=True)
    num_segmented = len(folders) - len(failures) + len(problems)
    print(f"{num_segmented} scan{'' if num_segmented == 1 else 's'} segmented in {predictor.options.output}.")
    if failures:
        print(f"{len(failures)} failed. The same command skips the others:", *failures, sep="\n  ", file=sys.stderr)
    return 1 if failures else 0


@dataclass(frozen=True)
class _Predictor:
    """Segments scans with the stages of a bundle, whose networks are loaded once.

    Attributes:
        options: the command's options.
        bundle: the bundle.
        stages: its stages, as they are sampled.
        seeds: method -> seed of its noise.
    """

    options: argparse.Namespace
    bundle: "Bundle"
    stages: "Sequence[Stage]"
    seeds: Mapping[str, int]

    def predict(self, folder: "ScanFolder") -> None:
        """Check and segment a scan, write the results, and print a summary. A prediction that is complete is kept."""
        if folder.is_finished() and not self.options.overwrite:
            print(f"{folder.path}: this prediction is already complete. Nothing was done.")
            return
        with folder.locked(self.options.overwrite):
            # Check the files before PyTorch is imported, which takes seconds.
            findings = folder.check(self.bundle)
            if errors := [finding for finding in findings if finding.severity == "error"]:
                problems = (Problem(error.file, error.finding, error.remedy) for error in errors)
                raise ProblemError(*problems, heading=f"scan {folder.name}")
            print(self._segment(folder, findings), flush=True)

    @cached_property
    def _device(self) -> "torch.device":
        import torch

        from pd_ddpm.runtime.precision import choose_device

        torch.set_num_threads(self.options.threads)
        return choose_device(self.options.device)

    @cached_property
    def _loaded(self) -> "list[LoadedStage]":
        from pd_ddpm.deployment.predict_scan import LoadedStage

        precision = self.options.precision
        return [
            LoadedStage.from_bundle(self.bundle, stage, self.seeds[stage.method], self._device, precision)
            for stage in self.stages
        ]

    def _segment(self, folder: "ScanFolder", findings: "Sequence[Finding]") -> str:
        """Segment the scan, write the results, and return a summary."""
        from pd_ddpm.deployment.predict_scan import sample_members
        from pd_ddpm.deployment.scan_checks import appearance_findings
        from pd_ddpm.deployment.scan_result import ScanResult
        from pd_ddpm.runtime.code_version import code_version
        from pd_ddpm.runtime.memory import explain_memory_shortage
        from pd_ddpm.runtime.precision import device_name
        from pd_ddpm.runtime.run_record import run_record

        options, last = self.options, self._loaded[-1]
        scan, description = folder.read(self.bundle), self.bundle.description
        first = folder.case[self.bundle.channels[0]]
        findings = [*findings, *appearance_findings(first, scan, description["training"])]
        kept = f"Members that are already sampled are kept in {folder.partial_dir}. Run the command again with a lower --batch."
        with explain_memory_shortage(folder.name, {"--batch": options.batch}, last.precision, kept):
            members, cost = sample_members(
                self._loaded,
                scan,
                description["orientation"],
                device=self._device,
                batch=options.batch,
                partial_dir=folder.partial_dir,
                fingerprint_inputs=folder.fingerprint,
                presegmentation=folder.read_presegmentation(scan, self.bundle.classes),
            )
        result = ScanResult.from_members(scan, members, findings, cost, self.bundle.classes)
        execution = {"seed": last.seed, "device": device_name(self._device), "precision": str(last.precision)}
        details = {"threads": options.threads, "reason of the precision": last.precision_reason}
        seconds = cost.total(members.shape[3])["seconds"]
        record = run_record(folder.fingerprint_inputs, code_version(__file__), **execution, seconds=seconds)
        return folder.write(result, self.bundle, self.stages, execution | details, record)


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
