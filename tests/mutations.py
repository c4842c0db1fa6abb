"""Mutation test: deliberate faults in the package, each of which the fast tests must notice.

    python tests/mutations.py            # all faults; prints which tests noticed each of them, fails if any goes unnoticed
    python tests/mutations.py posterior  # only those whose description contains the word

Each fault is applied to a copy of the repository. Only the fast tests of the folder or file that it names run, until the first
failure. `tests/test_mutations.py` checks that every fault still fits the code.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from workflow_runs import ROOT

COPIED = (
    "src",
    "tests",
    "config",
    "workflow",
    "rules",
    "Snakefile",
    "pyproject.toml",
    "benchmarks",
    "docs",
    "envs",
    "profiles",
    "slurm",
)


class Fault(NamedTuple):
    """A text of a module that is replaced by a wrong one, and the tests that should notice."""

    description: str
    module: str  # below src/pd_ddpm/
    right: str
    wrong: str
    tests: str  # below tests/

    @property
    def path(self) -> Path:
        """The path of the module in the repository."""
        return Path("src", "pd_ddpm", self.module)

    def apply(self, source: str) -> str:
        """Return the source of the module with the fault.

        Raises:
            ValueError: the source does not contain the text exactly once.
        """
        if (count := source.count(self.right)) != 1:
            raise ValueError(
                f"{self.path}: contains {self.right!r} {count} times instead of once. Update the fault '{self.description}'."
            )
        return source.replace(self.right, self.wrong)


FAULTS = [
    Fault(
        "schedule: posterior weights x_0 by the wrong level",
        "diffusion/schedule.py",
        "math.sqrt(signal_s) * (1 - signal_ratio)",
        "math.sqrt(signal_t) * (1 - signal_ratio)",
        "diffusion",
    ),
    Fault(
        "schedule: posterior variance without its factor",
        "diffusion/schedule.py",
        "(1 - signal_ratio) * (1 - signal_s) / (1 - signal_t)\n",
        "(1 - signal_ratio)\n",
        "diffusion",
    ),
    Fault(
        "schedule: cosine offset ten times too large",
        "diffusion/schedule.py",
        "offset: float = 0.008",
        "offset: float = 0.08",
        "diffusion",
    ),
    Fault(
        "schedule: clean mask is not at t = 0",
        "diffusion/schedule.py",
        "torch.cumprod(1 - beta, dim=0)]",
        "torch.cumprod(1 - beta, dim=0)[:-1]]",
        "diffusion",
    ),
    Fault(
        "sampler: chain ends one step early",
        "diffusion/samplers.py",
        "range(steps, -1, -1)",
        "range(steps, 0, -1)",
        "diffusion",
    ),
    Fault(
        "sampler: large variance in the last step too",
        "diffusion/samplers.py",
        "if s > 0 and variance",
        "if variance",
        "diffusion",
    ),
    Fault("sampler: DDIM's eta is not squared", "diffusion/samplers.py", "eta**2 *", "eta *", "diffusion"),
    Fault(
        "sampler: the noise is added twice as strong",
        "diffusion/samplers.py",
        "sample.mul_(deviation)",
        "sample.mul_(2 * deviation)",
        "diffusion",
    ),
    Fault(
        "noise: streams ignore the last part of their name", "diffusion/noise.py", "repr(name)", "repr(name[:-1])", "diffusion"
    ),
    Fault("noise: methods share their streams", "diffusion/noise.py", "[(self.method, self.seed,", "[(self.seed,", "diffusion"),
    Fault(
        "probabilistic U-Net: free bits bound the sum instead of each dimension",
        "training/objectives/elbo.py",
        ".clamp(min=self.free_bits).sum()",
        ".sum().clamp(min=self.free_bits)",
        "training",
    ),
    Fault(
        "raters: always the first",
        "training/patches.py",
        "int(rng.integers(raters)) if raters > 1 else 0",
        "0",
        "training",
    ),
    Fault(
        "GPU: patches have the first rater's masks",
        "training/device_slices.py",
        "self.first_raters[window.case] + window.rater",
        "self.first_raters[window.case]",
        "training/test_device_slices.py",
    ),
    Fault(
        "GPU: a recorded step keeps its first random numbers",
        "training/step_random.py",
        "            draw.sample(source)",
        "            pass",
        "training/test_captured_step.py",
    ),
    Fault("mask coding: decoded without the offset", "diffusion/mask_coding.py", "(x - self.low) /", "x /", "diffusion"),
    Fault(
        "metrics: HD95 is the 90th percentile",
        "evaluation/metrics.py",
        "np.percentile(distances, 95)",
        "np.percentile(distances, 90)",
        "evaluation",
    ),
    Fault(
        "metrics: label 2 is scored as background",
        "evaluation/metrics.py",
        "np.logical_and(prediction, self.",
        "np.logical_or(prediction, self.",
        "evaluation",
    ),
    Fault(
        "metrics: precision is a share of the reference's lesions",
        "evaluation/metrics.py",
        "predicted.lesions.count, if_empty",
        "truth.lesions.count, if_empty",
        "evaluation",
    ),
    Fault(
        "metrics: two empty masks give Dice 0",
        "evaluation/metrics.py",
        "_fraction(2 * shared, total, if_empty=1.0)",
        "_fraction(2 * shared, total, if_empty=0.0)",
        "evaluation",
    ),
    Fault(
        "statistics: cases of several trainings counted as independent",
        "evaluation/statistics.py",
        "if num_trainings(values) < 2:",
        "if num_trainings(values) < 99:",
        "evaluation",
    ),
    Fault("ensemble: a tie is background", "inference/ensemble.py", ">= 0.5 - 1e-6", "> 0.5", "inference"),
    Fault("ensemble: biased variance", "inference/ensemble.py", "ddof=1", "ddof=0", "inference"),
    Fault(
        "resume: a damaged state is accepted",
        "training/saved_state.py",
        "if seal != _SEAL",
        "if False and seal != _SEAL",
        "training",
    ),
    Fault(
        "resume: the previous state is not kept",
        "training/saved_state.py",
        "if path.exists():\n            path.replace",
        "if False:\n            path.replace",
        "training",
    ),
    Fault(
        "resume: a resumed training repeats its last step",
        "training/trainer.py",
        "range(state.step + 1, last + 1)",
        "range(max(1, state.step), last + 1)",
        "training",
    ),
    Fault(
        "resume: the random stream of a step ignores the step",
        "training/batches.py",
        'stream("train", seed, step)',
        'stream("train", seed)',
        "training",
    ),
    Fault("code version: imports are not followed", "runtime/code_version.py", "pending.extend(imported)", "pass", "runtime"),
    Fault(
        "code version: comments count", "runtime/code_version.py", "return ast.dump(tree)", "return path.read_text()", "runtime"
    ),
    Fault(
        "split: validation uses the test fold's neighbour twice removed",
        "data/splits.py",
        "(split + 1) % folds",
        "(split + 2) % folds",
        "data",
    ),
    Fault(
        "split: patients may leak between roles",
        "data/splits.py",
        '.transform("nunique") > 1',
        '.transform("nunique") > 2',
        "data",
    ),
    Fault("split: folds are not stratified by site", "data/even_folds.py", "if stratify else", "if not stratify else", "data"),
    Fault("config: a misspelt key is accepted", "config/sections/base.py", 'extra="forbid"', 'extra="ignore"', "config"),
    Fault(
        "config: a start above t_max is accepted",
        "config/consistency.py",
        'elif t_start > trained["t_max"]',
        'elif t_start > trained["T"]',
        "config",
    ),
    Fault(
        "recycling: the network learns what x_t is made from",
        "training/objectives/denoising.py",
        "segmentation_losses(output, batch, dice",
        "segmentation_losses(output, batch._replace(mask=model.coding.decode(inputs.x_t)), dice",
        "training/test_recycling.py",
    ),
    Fault(
        "inner folds: a network is trained on the fold that it segments",
        "training/job.py",
        "if case not in left_out]",
        "if case in left_out or case not in left_out]",
        "training/test_out_of_fold.py",
    ),
    Fault(
        "pre-segmentations: the network learns them",
        "training/objectives/strategies.py",
        "masks = masks.index_copy(0, presegmented, batch.presegmentation[presegmented])",
        "masks = batch.mask.copy_(masks.index_copy(0, presegmented, batch.presegmentation[presegmented]))",
        "training/test_recycling.py",
    ),
    Fault(
        "recycling: gradients flow through the first pass",
        "training/objectives/strategies.py",
        "with torch.no_grad():\n                estimate = self._estimate",
        "with torch.enable_grad():\n                estimate = self._estimate",
        "training/test_recycling.py",
    ),
    Fault(
        "recycling: estimates of x_{t+1} are made at t",
        "training/objectives/strategies.py",
        "return self.t + 1 if self.timesteps is None",
        "return self.t if self.timesteps is None",
        "training/test_recycling.py",
    ),
    Fault(
        "recycling: a loss is computed at t_max",
        "training/objectives/strategies.py",
        'return t_max if self.source == "noise" else t_max - 1',
        "return t_max",
        "training/test_strategies.py",
    ),
    Fault(
        "recycling: estimates from noise are made below T",
        "training/objectives/strategies.py",
        "torch.full_like(noising.t[rows], model.schedule.T)",
        "torch.full_like(noising.t[rows], model.schedule.T - 1)",
        "training/test_recycling.py",
    ),
    Fault(
        "recycling: soft estimates are thresholded",
        "training/objectives/strategies.py",
        'if self.estimate == "soft":',
        'if self.estimate == "unknown":',
        "training/test_recycling.py",
    ),
    Fault(
        "self-conditioning: every row sees an estimate",
        "training/objectives/strategies.py",
        "previous.index_copy_(0, rows, estimate[rows] if is_reversed else estimate)",
        "previous.index_copy_(0, estimated, estimate)",
        "training/test_strategies.py",
    ),
    Fault(
        "self-conditioning: a chain repeats its first estimate",
        "diffusion/denoiser.py",
        "previous = x0 if self.self_conditioned else None",
        "previous = previous if previous is not None or not self.self_conditioned else x0",
        "training/test_strategies.py",
    ),
    Fault(
        "importance: losses have the inverse weights",
        "training/objectives/times.py",
        "return chosen + 1, 1 / expected",
        "return chosen + 1, expected",
        "training/test_strategies.py",
    ),
    Fault(
        "importance: timesteps follow the mean loss, not the mean square",
        "training/objectives/times.py",
        "(loss**2 - self.squares[timestep - 1])",
        "(loss - self.squares[timestep - 1])",
        "training/test_strategies.py",
    ),
    Fault(
        "importance: a resumed training forgets the losses",
        "training/objectives/denoising.py",
        "isinstance(times, ImportanceTimes)",
        "isinstance(times, UniformTimes)",
        "training/test_strategies.py",
    ),
    Fault(
        "PatchDDM: mirrored patches have the coordinates of the other side",
        "training/patches.py",
        "size - first - length if axis in window.mirrored else first",
        "first",
        "training/test_patches.py",
    ),
    Fault(
        "PatchDDM: centre-weighted crops add two equal halves",
        "training/patches.py",
        "quarter = spare // 4",
        "quarter = spare // 2",
        "training/test_patches.py",
    ),
    Fault(
        "PatchDDM: coordinates are jittered like intensities",
        "training/patches.py",
        "        if settings.coordinates:\n"
        "            image = torch.cat([image, coordinate_channels(window_coordinates(window, sizes, settings.crop))])\n",
        "        if settings.coordinates:\n"
        "            extra = coordinate_channels(window_coordinates(window, sizes, settings.crop))\n"
        "            image = torch.cat([image, extra if window.jitter is None else extra * (1 + gain[:1])])\n",
        "training/test_patches.py",
    ),
    Fault(
        "PatchDDM: coordinates are exchanged between axes",
        "models/coordinates.py",
        'torch.meshgrid(*axes, indexing="ij")',
        'torch.meshgrid(*axes, indexing="ij")[::-1]',
        "models/test_coordinates.py",
    ),
    Fault(
        "whole volumes: coordinates stretch over the padding",
        "inference/segment_case.py",
        "pad_to_multiple(add_coordinates(images) if segmenter.coordinates else images, segmenter.divisor)",
        "add_coordinates(pad_to_multiple(images, segmenter.divisor))"
        " if segmenter.coordinates else pad_to_multiple(images, segmenter.divisor)",
        "inference/test_prediction.py",
    ),
    Fault(
        "whole volumes: members of a batch change places",
        "inference/segment_case.py",
        "results[slices[rows], members] =",
        "results[slices[rows], members.flip(0)] =",
        "inference/test_prediction.py",
    ),
    Fault(
        "classes: the first label becomes background",
        "data/label_maps.py",
        "np.arange(1, len(values) + 1)",
        "np.arange(len(values))",
        "data/test_classes.py",
    ),
    Fault(
        "classes: members are completed with the wrong class",
        "inference/class_ensemble.py",
        "np.concatenate([background, samples[..., 1:]], axis=-1)",
        "np.concatenate([samples[..., 1:], background], axis=-1)",
        "inference/test_classes.py",
    ),
    Fault(
        "classes: uncertainty counts each class twice",
        "inference/class_ensemble.py",
        "self.class_variance.sum(axis=-1) / 2",
        "self.class_variance.sum(axis=-1)",
        "evaluation/test_class_scores.py",
    ),
    Fault(
        "classes: an absent class has Dice 1",
        "evaluation/class_scores.py",
        "scores |= dict.fromkeys(_UNDEFINED_IF_ABSENT, np.nan)",
        "scores |= {}",
        "evaluation/test_class_scores.py",
    ),
    Fault(
        "studies: a study keeps the datasets of the first one",
        "config/studies.py",
        'files.defaults | {"datasets": {}}',
        "files.defaults",
        "config/test_studies.py",
    ),
    Fault(
        "studies: the user's keys lie below those of the study",
        "config/studies.py",
        'return overlay(base, over) | {"study"',
        'return overlay(over, base) | {"study"',
        "config/test_studies.py",
    ),
    Fault(
        "exhibits: memory is relative to the last kind of training",
        "exhibits/tables/memory.py",
        "by_kind / by_kind.iloc[0]",
        "by_kind / by_kind.iloc[-1]",
        "exhibits/test_memory_table.py",
    ),
    Fault(
        "exhibits: the spread over seeds ignores undefined members",
        "evaluation/step_scores.py",
        "values.max(skipna=False) - values.min(skipna=False)",
        "values.max() - values.min()",
        "exhibits/test_recycling_exhibits.py",
    ),
    Fault(
        "validation: estimates from the diffused ground truth select the weights",
        "training/objectives/denoising.py",
        '"diffused_truth", selects=False',
        '"diffused_truth"',
        "training/test_validation.py",
    ),
    Fault(
        "weights: raw ones are replaced by the validated ones",
        "models/weights.py",
        'prefix += f"{kind}/"',
        'prefix += ""',
        "models/test_weights.py",
    ),
    Fault(
        "config: a variation keeps the values of its base",
        "config/resolve.py",
        "{**plain_settings(config, section, base), **overrides}",
        "{**overrides, **plain_settings(config, section, base)}",
        "config",
    ),
]


def first_failure(copy: Path, tests: str) -> str | None:
    """Return the first of the fast tests at this path or name that fails in a copy of the repository, or None."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-m", "not workflow and not slurm and not browser", tests]
    environment = os.environ | {"PYTHONPATH": str(copy / "src")}
    run = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    failed = [line.split(" ", 1)[1] for line in run.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return failed[0].split(" - ")[0] if failed else None


def noticing_test(fault: Fault, copy: Path) -> str | None:
    """Return the first test that fails because of the fault, or None.

    Raises:
        ValueError: the module does not contain the text that the fault replaces, or the test fails without the fault too.
    """
    module = copy / fault.path
    original = module.read_text(encoding="utf-8")
    module.write_text(fault.apply(original), encoding="utf-8")
    try:
        test = first_failure(copy, f"tests/{fault.tests}")
    finally:
        module.write_text(original, encoding="utf-8")
    if test and first_failure(copy, test):
        raise ValueError(f"{test}: fails without a fault too. Fix it first.")
    return test


def main(words: Sequence[str]) -> int:
    """Apply the faults whose description contains one of the words, or all; return the exit code."""
    chosen = [fault for fault in FAULTS if not words or any(word in fault.description for word in words)]
    unnoticed = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in COPIED:
            source = ROOT / part
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / part)
        for fault in chosen:
            test = noticing_test(fault, copy)
            print(f"{'noticed  ' if test else 'UNNOTICED'} {fault.description}{f': {test}' if test else ''}", flush=True)
            if test is None:
                unnoticed.append(fault)
    print(f"{len(chosen) - len(unnoticed)} of {len(chosen)} faults noticed by the fast tests")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
