"""How a result came about: configuration, code, commit, versions, device, precision, seed and wall time, in a json beside it.

A record names no person, no machine and no path outside the folder of the results. What a result was made from is gathered
from the records beside those files, so that one file tells of all networks and predictions that a table rests on.
"""

import json
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

PACKAGES = ("torch", "monai", "numpy", "scipy", "SimpleITK", "nibabel", "pandas", "snakemake", "pd-ddpm")

# Keys of the configuration that change no result: where data lie and how they get there, what a job may use, how often it
# saves. "*" stands for any name. Two runs that differ in these alone have the same hash.
WITHOUT_EFFECT = (
    *(("device",), ("resources",), ("retries",), ("save_every_seconds",), ("changed_training",), ("evaluate_held_out",)),
    *(("sampling", "batch"), ("sampling", "shards"), ("datasets", "*", "folder"), ("datasets", "*", "table")),
    *(("datasets", "*", "download", key) for key in ("accept_licence", "server", "source", "connections")),
)

# In which of these the runs behind a result should agree; where they do not, it is a mixture.
ALIKE = ("config", "git_commit", "versions", "device", "precision")

_STARTED = time.monotonic()


def config_hash(config: Mapping[str, Any]) -> str:
    """Hash of an active configuration without what changes no result; the order of keys does not count."""
    return fingerprint(_with_effect(config))


def _with_effect(value: Any, without: Sequence[Sequence[str]] = WITHOUT_EFFECT) -> Any:
    if not isinstance(value, Mapping):
        return value
    kept = {}
    for key, inner in value.items():
        below = [path[1:] for path in without if path[0] in (key, "*")]
        if () not in below:
            kept[key] = _with_effect(inner, below)
    return kept


@cache
def git_state(folder: Path = PACKAGE) -> tuple[str, bool] | None:
    """The commit of the checkout that holds this code and whether any file of it has been changed since.

    None outside a checkout, for a package installed into some other repository's folder, and without git.
    """
    # A container's user does not own the clone that is mounted into it; jobs side by side must not wait for git's lock.
    git = ["git", "--no-optional-locks", "-c", "safe.directory=*", "-C", str(folder)]

    def ask(*words: str) -> str:
        return subprocess.run([*git, *words], capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    try:
        ask("ls-files", "--error-unmatch", "--", "__init__.py")
        return ask("rev-parse", "HEAD"), bool(ask("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None


@cache
def versions() -> dict[str, str]:
    """Python and those installed packages on which numbers depend; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


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
    """What a result's json says under "provenance", and under "made_from" of the networks and predictions behind it, if any.

    config: the active configuration; code: `provenance.code_version` of the script. device: the name of the GPU; None is the
    processor's. precision: number format of the networks, such as "float32"; None where there are none.
    seconds: wall time; None is that of this process until now. made_from: files that have a record beside them; None is passed
    over.
    """
    commit = git_state()
    own = {
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
    behind = [file for file in made_from if file is not None]
    return {"provenance": own} | ({"made_from": collect_provenance(behind)} if behind else {})


def collect_provenance(files: Iterable[str | Path]) -> dict[str, Any]:
    """All networks and predictions that these files are or were made from, and in short what is common to them.

    runs: one record each, with its file below the folder of all results; versions: what their hashes of versions stand for. A
    file without a record is a run of which nothing but its name is known.
    """
    runs: dict[str, dict[str, Any]] = {}
    known: dict[str, dict[str, str]] = {}
    for source in files:
        beside = record_beside(Path(source))
        content = _read(beside)
        before = content.get("made_from") or {"runs": [], "versions": {}}
        runs |= {run["file"]: run for run in before["runs"]}
        known |= before["versions"]
        if not content or "settings" in content:  # a network or a prediction; scores only pass on what they are made from
            own = dict(content.get("provenance") or {})
            if own:
                name = fingerprint(own["versions"])
                known[name], own["versions"] = own["versions"], name
            # {dataset}/{networks or predictions}/{name}/split-{i}_seed-{j}/{json}, wherever the results lie.
            file = "/".join(beside.parts[-5:])
            runs[file] = {"file": file} | own
    listed = [runs[file] for file in sorted(runs)]
    return {"summary": summary(listed), "versions": known, "runs": listed}


def record_beside(file: Path) -> Path:
    """The json with the record of a file: that of its own name, and the method's for a table of predictions."""
    return file.with_name("method.json") if file.name == "predictions.csv" else file.with_suffix(".json")


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What these runs have in common: of each part of their records the values that occur, and their wall time together.

    mixed: the parts in which they should agree and do not. Kinds of runs have code of their own and are not compared in it.
    """
    known = [run for run in runs if "config" in run]
    return {
        "runs": len(runs),
        "without_record": len(runs) - len(known),
        **{part: sorted({run[part] for run in known} - {None}) for part in (*ALIKE, "code", "seed")},
        "git_changed": any(run["git_changed"] for run in known),
        "seconds": round(sum(run["seconds"] for run in known), 1),
        "mixed": [part for part in ALIKE if len({run[part] for run in known}) > 1],
    }


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
