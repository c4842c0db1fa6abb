"""Provenance page: code, versions, devices and wall time of every table and figure, and of the runs that they rest on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pd_ddpm.config.run import Run
from pd_ddpm.exhibits.document import Document, Part
from pd_ddpm.runtime.run_record import collect_provenance, summary

# Parts of a record in which runs should agree -> names on the page.
PART_NAMES = {
    "config": "configuration",
    "git_commit": "git commit",
    "versions": "software",
    "device": "device",
    "precision": "precision",
}
HASH_CHARACTERS = 8


def provenance_rows(records: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row per exhibit, network and prediction, each run once.

    Args:
        records: exhibit -> its run record.

    Returns:
        Columns `kind`, `dataset`, `name`, `split`, `seed`, `config`, `code`, `git_commit`, `git_changed`, `device`,
        `precision`, `seconds`, the versions of Python and of packages, and `file`. Without a record, cells are empty.
    """
    rows, runs = [], {}
    for exhibit, record in records.items():
        provenance, upstream = record["provenance"], _upstream_runs(record)
        rows.append({"kind": "exhibit", "name": exhibit} | provenance | provenance["versions"])
        for run in upstream["runs"]:
            runs[run["file"]] = _identity(run["file"]) | run | upstream["versions"].get(run.get("versions"), {})
    table = pd.DataFrame([*rows, *(runs[file] for file in sorted(runs))])
    identity = ["kind", "dataset", "name", "split", "seed"]
    others = [column for column in table.columns if column not in (*identity, "versions", "file")]
    return table.reindex(columns=[*identity, *others, "file"]).astype({"split": "Int64", "seed": "Int64"})


def _upstream_runs(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the networks and predictions that an exhibit rests on; none if the record does not list any."""
    return record.get("made_from") or collect_provenance(())


def _identity(file: str) -> dict[str, Any]:
    """Return the columns that follow from the path of a record."""
    run = Run.parse(file)
    kind = Path(file).parts[1].removesuffix("s")
    return {"kind": kind, "dataset": run.dataset, "name": run.name, "split": run.split}


def provenance_document(records: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str]) -> Document:
    """Return the page, from exhibit -> run record and exhibit -> title."""
    runs = {run["file"]: run for record in records.values() for run in _upstream_runs(record)["runs"]}
    whole = summary(list(runs.values()))
    exhibits = [_exhibit(titles[exhibit], record) for exhibit, record in records.items()]
    notes = [
        "Networks, predictions: number of runs that the exhibit rests on. The columns up to the wall time describe these runs. "
        "The wall time is their sum; a run counts for every exhibit that uses it. Commit, code: of the job that made the "
        "exhibit. + after a commit: the checkout had uncommitted changes. The json next to an exhibit lists every run.",
        "The hash of the configuration ignores keys that change no result, such as device, resources, batch and paths of data.",
    ]
    parts = [Part("Exhibits", pd.DataFrame(exhibits), notes, left=["Seeds", "Devices", "Precision", "Differ in"])]
    for kind, heading in (("networks", "Networks"), ("predictions", "Methods")):
        rows = _groups([run for run in runs.values() if run["file"].split("/")[1] == kind])
        parts.append(Part(heading, rows, left=["Data set", "Splits", "Seeds", "Devices", "Precision", "Differ in"]))
    all_versions = [versions for record in records.values() for versions in _upstream_runs(record)["versions"].values()]
    all_versions += [record["provenance"]["versions"] for record in records.values()]
    return Document("Provenance", _headline(whole), [*parts, _software(all_versions)])


def provenance_facts(records: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return labels and values that say in short how all exhibits were made, from exhibit -> run record."""
    upstream = [_upstream_runs(record) for record in records.values()]
    whole = summary(list({run["file"]: run for part in upstream for run in part["runs"]}.values()))
    all_versions = [record["provenance"]["versions"] for record in records.values()]
    all_versions += [versions for part in upstream for versions in part["versions"].values()]
    software = _software(all_versions).table
    return {
        "Runs": _headline(whole),
        "Commit": _joined(commit[:HASH_CHARACTERS] for commit in whole["git_commit"]) + ("+" if whole["git_changed"] else ""),
        "Configuration": _joined(value[:HASH_CHARACTERS] for value in whole["config"]),
        "Devices": _joined(whole["device"]),
        "Precision": _joined(whole["precision"]),
        "Seeds": _joined(whole["seed"]),
        "Software": ", ".join(f"{row.Package} {row.Version}" for row in software.itertuples()),
    }


def _headline(whole: Mapping[str, Any]) -> str:
    """Return whether all runs agree, in one line."""
    text = f"{whole['runs']} networks and predictions, {_hours(whole['seconds'])} of wall time. "
    if whole["mixed"]:
        text += f"They are a mixture: they differ in {_words(whole['mixed'])}."
    else:
        text += "All of one configuration, commit, set of packages, device and precision."
    if whole["git_changed"]:
        text += " Some were made from a checkout with uncommitted changes."
    if whole["without_record"]:
        text += f" {whole['without_record']} have no record of how they were made."
    return text


def _exhibit(title: str, record: Mapping[str, Any]) -> dict[str, str]:
    provenance, upstream = record["provenance"], _upstream_runs(record)
    kinds = [run["file"].split("/")[1] for run in upstream["runs"]]
    return {
        "Exhibit": title,
        "Networks": str(kinds.count("networks")),
        "Predictions": str(kinds.count("predictions")),
        **_summary_cells(upstream["summary"]),
        "Commit": _commit(provenance["git_commit"], provenance["git_changed"]),
        "Code": provenance["code"][:HASH_CHARACTERS],
    }


def _groups(runs: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row per name and dataset, over all splits and seeds."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for run in sorted(runs, key=lambda run: run["file"]):
        identity = _identity(run["file"])
        groups.setdefault((identity["name"], identity["dataset"]), []).append(run | {"split": identity["split"]})
    rows = []
    for (name, dataset), members in groups.items():
        common = summary(members)
        commits = _joined(commit[:HASH_CHARACTERS] for commit in common["git_commit"])
        rows.append(
            {
                "Name": name,
                "Data set": dataset,
                "Splits": _joined(sorted({run["split"] for run in members})),
                **_summary_cells(common),
                "Commit": commits + ("+" if common["git_changed"] else ""),
                "Code": _joined(code[:HASH_CHARACTERS] for code in common["code"]),
            }
        )
    return pd.DataFrame(rows)


def _summary_cells(common: Mapping[str, Any]) -> dict[str, str]:
    """Return the cells that describe several runs, from their `summary`."""
    differing = [PART_NAMES[part] for part in common["mixed"]] + (["no record"] if common["without_record"] else [])
    return {
        "Seeds": _joined(common["seed"]),
        "Devices": _joined(common["device"]),
        "Precision": _joined(common["precision"]),
        "Differ in": ", ".join(differing) or "nothing",
        "Configuration": _joined(value[:HASH_CHARACTERS] for value in common["config"]),
        "Wall time": _hours(common["seconds"]),
    }


def _software(all_versions: Sequence[Mapping[str, str]]) -> Part:
    packages = list(dict.fromkeys(package for versions in all_versions for package in versions))
    rows = [
        {
            "Package": package,
            "Version": _joined(sorted({versions[package] for versions in all_versions if package in versions})),
        }
        for package in packages
    ]
    return Part("Software", pd.DataFrame(rows), left=["Version"])


def _commit(commit: str | None, changed: bool | None) -> str:
    return "none" if commit is None else commit[:HASH_CHARACTERS] + ("+" if changed else "")


def _joined(values: Any) -> str:
    return ", ".join(map(str, values)) or "none"


def _words(parts: Sequence[str]) -> str:
    *before, last = (PART_NAMES[part] for part in parts)
    return f"{', '.join(before)} and {last}" if before else last


def _hours(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
