"""Run records: configuration, code, commit, versions, device, precision, seed and wall time of a result, as json.

A record names no person, no machine and no path outside the results folder. The records of the inputs are collected, so that
the record of a table lists all networks and predictions that it is based on.
"""

import platform
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pd_ddpm.runtime.code_version import PACKAGE
from pd_ddpm.runtime.cpu_info import cpu_name
from pd_ddpm.runtime.files import fingerprint
from pd_ddpm.runtime.sealed import read_sealed_json

PACKAGES = ("torch", "monai", "numpy", "scipy", "SimpleITK", "nibabel", "pandas", "snakemake", "pd-ddpm")

# Configuration keys that do not affect any result: location and download of data, resources, saving intervals. "*" matches any
# name. Runs that differ only in these keys have the same configuration hash.
WITHOUT_EFFECT = (
    *(("device",), ("resources",), ("retries",), ("save_every_seconds",), ("changed_training",), ("evaluate_held_out",)),
    *(("sampling", "large_variance_over_jumps"), ("methods", "*", "large_variance_over_jumps")),
    *(("sampling", "batch"), ("sampling", "shards"), ("datasets", "*", "folder"), ("datasets", "*", "table")),
    *(("methods", "*", key) for key in ("folder", "pattern", "table", "unseen")),
    *(("datasets", "*", "download", key) for key in ("accept_licence", "server", "source", "connections")),
)

# All runs behind a result should agree in these. Otherwise the result is a mixture.
MUST_AGREE = ("config", "git_commit", "versions", "device", "precision")

_STARTED = time.monotonic()


def config_hash(config: Mapping[str, Any]) -> str:
    """Return a hash of the settings that affect results, independent of the order of keys."""
    return fingerprint(_effective(config))


def _effective(value: Any, without: Sequence[Sequence[str]] = WITHOUT_EFFECT) -> Any:
    """Return a configuration without the keys that do not affect any result."""
    if not isinstance(value, Mapping):
        return value
    kept = {}
    for key, inner in value.items():
        below = [path[1:] for path in without if path[0] in (key, "*")]
        if () not in below:
            kept[key] = _effective(inner, below)
    return kept


@cache
def git_state(folder: Path = PACKAGE) -> tuple[str, bool] | None:
    """Return the commit of the checkout that holds this code, and whether any of its files has changed since.

    Return None outside of a checkout, without git, and for a package that is installed in the folder of another repository.
    """
    # In a container, another user owns the clone. Parallel jobs must not wait for git's lock.
    git = ["git", "--no-optional-locks", "-c", "safe.directory=*", "-C", str(folder)]

    def output(*arguments: str) -> str:
        return subprocess.run([*git, *arguments], capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    try:
        output("ls-files", "--error-unmatch", "--", "__init__.py")
        return output("rev-parse", "HEAD"), bool(output("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that affect numbers."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def run_record(
    config: Mapping[str, Any],
    code: str,
    *,
    seed: int | None = None,
    device: str | None = None,
    precision: Any = None,
    seconds: float | None = None,
    made_from: Iterable[str | Path | None] = (),
) -> dict[str, Any]:
    """Return the run record of a result: "provenance" and, if it was made from other results, "made_from".

    Args:
        config: the active configuration.
        code: `code_version` of the script.
        seed: random seed, if there is one.
        device: name of the GPU; None stands for the processor.
        precision: precision of the networks, if there are any.
        seconds: wall time; None stands for that of this process until now.
        made_from: input files that have a run record next to them. None entries are skipped.
    """
    commit = git_state()
    provenance = {
        "config": config_hash(config),
        "code": code,
        "git_commit": commit and commit[0],
        "git_changed": commit and commit[1],
        "versions": versions(),
        "device": device or cpu_name(),
        "precision": precision and str(precision),
        "seed": seed,
        "seconds": round(time.monotonic() - _STARTED if seconds is None else seconds, 1),
    }
    inputs = [file for file in made_from if file is not None]
    return {"provenance": provenance} | ({"made_from": collect_provenance(inputs)} if inputs else {})


def collect_provenance(files: Iterable[str | Path]) -> dict[str, Any]:
    """Collect the records of all networks and predictions that these files are, or were made from.

    Returns:
        "runs": one record per network or prediction, with its file relative to the folder of all results. "versions": the
        package versions that the records refer to by their hash. "summary": see `summary`. A file without a record becomes a
        run with nothing but its name.
    """
    runs: dict[str, dict[str, Any]] = {}
    known_versions: dict[str, dict[str, str]] = {}
    for file in files:
        path = record_path(Path(file))
        content = _read(path)
        upstream = content.get("made_from") or {"runs": [], "versions": {}}
        runs |= {run["file"]: run for run in upstream["runs"]}
        known_versions |= upstream["versions"]
        # Networks and predictions have settings. Scores and tables only pass on what they were made from.
        if not content or "settings" in content:
            run = dict(content.get("provenance") or {})
            if run:
                versions_hash = fingerprint(run["versions"])
                known_versions[versions_hash], run["versions"] = run["versions"], versions_hash
            # {dataset}/{networks or predictions}/{name}/split-{i}_seed-{j}/{json}, wherever the results lie.
            name = "/".join(path.parts[-5:])
            runs[name] = {"file": name} | run
    listed = [runs[name] for name in sorted(runs)]
    return {"summary": summary(listed), "versions": known_versions, "runs": listed}


def record_path(file: Path) -> Path:
    """Return the json with the run record of a result; a table of predictions shares that of its method."""
    return file.with_name("method.json") if file.name == "predictions.csv" else file.with_suffix(".json")


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarise run records: the values that occur in each of their fields, and the total wall time.

    "mixed" lists the fields of `MUST_AGREE` in which the runs differ. The code differs by kind of run and is not compared.
    """
    known = [run for run in runs if "config" in run]
    return {
        "runs": len(runs),
        "without_record": len(runs) - len(known),
        **{field: sorted({run[field] for run in known} - {None}) for field in (*MUST_AGREE, "code", "seed")},
        "git_changed": any(run["git_changed"] for run in known),
        "seconds": round(sum(run["seconds"] for run in known), 1),
        "mixed": [field for field in MUST_AGREE if len(_values(field, known)) > 1],
    }


def _values(field: str, runs: Sequence[Mapping[str, Any]]) -> set[Any]:
    """Return the values of a field in which runs should agree; runs without a precision ran no network on their device."""
    return {run[field] for run in runs if field not in ("device", "precision") or run["precision"] is not None}


def _read(file: Path) -> dict[str, Any]:
    try:
        return read_sealed_json(file)
    except FileNotFoundError:
        return {}
