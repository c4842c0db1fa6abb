"""How all exhibits came about: of each, and of every network and method behind it, code, versions, devices and wall time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pd_ddpm.config.run import Run
from pd_ddpm.exhibits.document import Document, Part
from pd_ddpm.runtime.run_record import collect_provenance, summary

# What the parts of a record are called where they differ between runs that should agree.
NAMES = {
    "config": "configuration",
    "git_commit": "git commit",
    "versions": "software",
    "device": "device",
    "precision": "precision",
}
SHOWN = 8  # characters of a hash


def provenance_rows(records: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """One row per exhibit, network and prediction, from the records of the exhibits by their names; a run counts once.

    kind, dataset, name, split, seed, config, code, git_commit, git_changed, device, precision, seconds, the versions of Python
    and packages, file. Where a run has no record its cells are empty.
    """
    rows, runs = [], {}
    for exhibit, record in records.items():
        own, behind = record["provenance"], _behind(record)
        rows.append({"kind": "exhibit", "name": exhibit} | own | own["versions"])
        for run in behind["runs"]:
            runs[run["file"]] = _identity(run["file"]) | run | behind["versions"].get(run.get("versions"), {})
    table = pd.DataFrame([*rows, *(runs[file] for file in sorted(runs))])
    first = ["kind", "dataset", "name", "split", "seed"]
    ordered = [*first, *(column for column in table.columns if column not in (*first, "versions", "file")), "file"]
    return table.reindex(columns=ordered).astype({"split": "Int64", "seed": "Int64"})


def _behind(record: Mapping[str, Any]) -> dict[str, Any]:
    """The networks and predictions that an exhibit is made from; one that is made from none says nothing of them."""
    return record.get("made_from") or collect_provenance(())


def _identity(file: str) -> dict[str, Any]:
    """What the path of a record says: {dataset}/{networks or predictions}/{name}/split-{i}_seed-{j}/{json}."""
    run = Run.parse(file)
    kind = Path(file).parts[1].removesuffix("s")
    return {"kind": kind, "dataset": run.dataset, "name": run.name, "split": run.split}


def provenance_document(records: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str]) -> Document:
    """The page; titles: how exhibits are called."""
    runs = {run["file"]: run for record in records.values() for run in _behind(record)["runs"]}
    whole = summary(list(runs.values()))
    exhibits = [_exhibit(titles[exhibit], record) for exhibit, record in records.items()]
    notes = [
        "Networks, predictions: how many runs the exhibit rests on. The columns up to the wall time tell of these; the wall "
        "time is that of all of them together, whichever exhibit they were first made for. Commit, code: of the job that made "
        "the exhibit itself. + after a commit: files of the checkout were changed. The json beside an exhibit lists every run.",
        "The configuration's hash leaves out what changes no result: device, resources, batch, paths of data and the like.",
    ]
    parts = [Part("Exhibits", pd.DataFrame(exhibits), notes, left=["Seeds", "Devices", "Precision", "Differ in"])]
    for kind, heading in (("networks", "Networks"), ("predictions", "Methods")):
        rows = _groups([run for run in runs.values() if run["file"].split("/")[1] == kind])
        parts.append(Part(heading, rows, left=["Data set", "Splits", "Seeds", "Devices", "Precision", "Differ in"]))
    known = [versions for record in records.values() for versions in _behind(record)["versions"].values()]
    known += [record["provenance"]["versions"] for record in records.values()]
    return Document("Provenance", _headline(whole), [*parts, _software(known)])


def _headline(whole: Mapping[str, Any]) -> str:
    """Whether everything behind the exhibits was made alike."""
    told = f"{whole['runs']} networks and predictions, {_hours(whole['seconds'])} of wall time. "
    if whole["mixed"]:
        told += f"They are a mixture: they differ in {_words(whole['mixed'])}."
    else:
        told += "All of one configuration, commit, set of packages, device and precision."
    if whole["git_changed"]:
        told += " Some were made from a checkout with changes that were not committed."
    if whole["without_record"]:
        told += f" Of {whole['without_record']} there is no record of how they were made."
    return told


def _exhibit(title: str, record: Mapping[str, Any]) -> dict[str, str]:
    own, behind = record["provenance"], _behind(record)
    kinds = [run["file"].split("/")[1] for run in behind["runs"]]
    return {
        "Exhibit": title,
        "Networks": str(kinds.count("networks")),
        "Predictions": str(kinds.count("predictions")),
        **_alike(behind["summary"]),
        "Commit": _commit(own["git_commit"], own["git_changed"]),
        "Code": own["code"][:SHOWN],
    }


def _groups(runs: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row per name and data set: all its splits and seeds."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for run in sorted(runs, key=lambda run: run["file"]):
        identity = _identity(run["file"])
        groups.setdefault((identity["name"], identity["dataset"]), []).append(run | {"split": identity["split"]})
    rows = []
    for (name, dataset), members in groups.items():
        found = summary(members)
        rows.append(
            {
                "Name": name,
                "Data set": dataset,
                "Splits": _joined(sorted({run["split"] for run in members})),
                **_alike(found),
                "Commit": _joined(commit[:SHOWN] for commit in found["git_commit"]) + ("+" if found["git_changed"] else ""),
                "Code": _joined(code[:SHOWN] for code in found["code"]),
            }
        )
    return pd.DataFrame(rows)


def _alike(found: Mapping[str, Any]) -> dict[str, str]:
    """The cells that tell of a number of runs."""
    differing = [NAMES[part] for part in found["mixed"]] + (["no record"] if found["without_record"] else [])
    return {
        "Seeds": _joined(found["seed"]),
        "Devices": _joined(found["device"]),
        "Precision": _joined(found["precision"]),
        "Differ in": ", ".join(differing) or "nothing",
        "Configuration": _joined(value[:SHOWN] for value in found["config"]),
        "Wall time": _hours(found["seconds"]),
    }


def _software(known: Sequence[Mapping[str, str]]) -> Part:
    packages = list(dict.fromkeys(package for versions in known for package in versions))
    rows = [
        {"Package": package, "Version": _joined(sorted({versions[package] for versions in known if package in versions}))}
        for package in packages
    ]
    return Part("Software", pd.DataFrame(rows), left=["Version"])


def _commit(commit: str | None, changed: bool | None) -> str:
    return "none" if commit is None else commit[:SHOWN] + ("+" if changed else "")


def _joined(values: Any) -> str:
    return ", ".join(map(str, values)) or "none"


def _words(parts: Sequence[str]) -> str:
    *before, last = (NAMES[part] for part in parts)
    return f"{', '.join(before)} and {last}" if before else last


def _hours(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
