"""How results came about: hashes, commits, versions, and what a table rests on (about 2 s)."""

import json
import platform
import subprocess
from copy import deepcopy
from functools import reduce
from operator import getitem
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from pd_ddpm.exhibits.tables.provenance import provenance_document, provenance_rows
from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.prediction_store import Presegmentations, sampling_seconds
from pd_ddpm.runtime import run_record as records
from pd_ddpm.runtime.precision import PRECISIONS
from pd_ddpm.runtime.recorded_job import run_with_record
from pd_ddpm.runtime.run_record import WITHOUT_EFFECT, collect_provenance, config_hash, git_state, run_record

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))


def changed(config: dict[str, Any], *path: str, value: Any) -> dict[str, Any]:
    other = deepcopy(config)
    part = other
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return other


@pytest.mark.parametrize("path", WITHOUT_EFFECT, ids=".".join)
def test_config_hash_ignores_keys_without_effect(config: dict[str, Any], path: tuple[str, ...]) -> None:
    entry = {"datasets": "wmh", "methods": "pd-ddpm"}.get(path[0])
    named = tuple(entry if key == "*" else key for key in path)
    assert config_hash(changed(config, *named, value="anything")) == config_hash(config)


def resolved(schema: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Return the part of the schema that a reference such as "#/$defs/UNet" leads to, or the part itself."""
    return reduce(getitem, part["$ref"].split("/")[1:], schema) if "$ref" in part else part


@pytest.mark.parametrize("path", WITHOUT_EFFECT, ids=".".join)
def test_ignored_keys_exist_in_the_schema(path: tuple[str, ...]) -> None:
    schema = yaml.safe_load((ROOT / "config" / "schema.yaml").read_text(encoding="utf-8"))
    sections = [schema]
    for key in path:
        below = [part["additionalProperties"] if key == "*" else part.get("properties", {}).get(key) for part in sections]
        variants = [variant for part in below if part for variant in part.get("anyOf", [part])]
        sections = [resolved(schema, variant) for variant in variants]
    assert sections


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("training", "steps"), 7),
        (("networks", "unet", "dropout"), 0.1),
        (("sampling", "precision"), "float32"),
        (("datasets", "wmh", "download", "version"), "2.0"),
        (("splits",), [0]),
        (("seeds",), [1]),
    ],
)
def test_config_hash_changes_with_every_other_key(config: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    assert config_hash(changed(config, *path, value=value)) != config_hash(config)


def test_config_hash_ignores_the_order_of_keys(config: dict[str, Any]) -> None:
    assert config_hash(dict(reversed(config.items()))) == config_hash(config)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The folder of a package in a git repository with one commit."""
    package = tmp_path / "clone" / "src" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("", encoding="utf-8")
    git(package, "init", "--quiet")
    git(package, "add", ".")
    git(package, "-c", "user.name=n", "-c", "user.email=n@example.org", "commit", "--quiet", "--message", "first")
    git_state.cache_clear()
    return package


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True, text=True).stdout.strip()


def test_git_state_returns_commit_and_changes(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert git_state(checkout) == (commit, False)
    (checkout / "results.csv").write_text("1\n", encoding="utf-8")
    git_state.cache_clear()
    assert git_state(checkout) == (commit, False)  # a file that git does not know is no change of the code
    (checkout / "__init__.py").write_text("x = 1\n", encoding="utf-8")
    git_state.cache_clear()
    assert git_state(checkout) == (commit, True)


def test_git_state_ignores_the_repository_around_an_installed_package(checkout: Path) -> None:
    installed = checkout / "site-packages" / "pd_ddpm"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("", encoding="utf-8")
    assert git_state(installed) is None


def test_git_state_is_none_outside_a_checkout_and_without_git(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert git_state(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(checkout) is None


def test_run_record_is_complete_and_names_no_person_or_machine(config: dict[str, Any]) -> None:
    own = run_record(config, "abc", seed=3, precision=PRECISIONS["bfloat16"], seconds=1.26)["provenance"]
    assert own["config"] == config_hash(config)
    assert (own["code"], own["seed"], own["precision"], own["seconds"]) == ("abc", 3, "bfloat16", 1.3)
    assert own["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert own["versions"]["pandas"] == pd.__version__
    assert own["versions"]["python"] == platform.python_version()
    assert own["device"]
    assert own.keys() == {
        *("config", "code", "git_commit", "git_changed", "versions", "device", "precision", "seed", "seconds")
    }
    text = json.dumps(own)
    assert str(Path.home()) not in text
    assert str(ROOT) not in text
    assert platform.node() not in text
    assert run_record(config, "abc")["provenance"]["seconds"] > 0


def provenance(**changes: Any) -> dict[str, Any]:
    own = {"config": "c1", "code": "t1", "git_commit": "a" * 40, "git_changed": False, "versions": {"python": "3.11.7"}}
    return own | {"device": "GPU", "precision": "bfloat16", "seed": 0, "seconds": 100.0} | changes


def write(file: Path, **content: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two networks; one method on each, the second of which starts from the first, and is drawn on another device."""
    monkeypatch.chdir(tmp_path)
    folder, run = Path("results/own"), "split-0_seed-0"
    for name in ("unet", "denoiser"):
        write(folder / "networks" / name / run / "model.json", settings={}, provenance=provenance())
    drawn = {"unet": provenance(code="s1", seconds=5.0), "chain": provenance(code="s1", seconds=7.5, precision="float32")}
    before: list[Path] = []
    for (method, own), network in zip(drawn.items(), ("unet", "denoiser"), strict=True):
        card = folder / "networks" / network / run / "model.json"
        manifest = folder / "predictions" / method / run / "predictions.csv"
        write(manifest.with_name("method.json"), settings={}, provenance=own, made_from=collect_provenance([card, *before]))
        before = [manifest]
        scores = folder / "scores" / method / f"{run}.json"
        write(scores, provenance=provenance(code="e1"), made_from=collect_provenance([manifest]))
    return folder


def test_collect_provenance_lists_every_network_and_prediction_once(results: Path) -> None:
    found = collect_provenance([results / "scores" / method / "split-0_seed-0.csv" for method in ("unet", "chain")])
    assert [run["file"] for run in found["runs"]] == [
        "own/networks/denoiser/split-0_seed-0/model.json",
        "own/networks/unet/split-0_seed-0/model.json",
        "own/predictions/chain/split-0_seed-0/method.json",
        "own/predictions/unet/split-0_seed-0/method.json",
    ]
    assert found["summary"]["seconds"] == 100 + 100 + 5 + 7.5
    assert found["summary"]["precision"] == ["bfloat16", "float32"]
    assert found["summary"]["mixed"] == ["precision"]
    assert found["summary"]["without_record"] == 0
    assert [found["versions"][run["versions"]] for run in found["runs"]] == [{"python": "3.11.7"}] * 4
    alone = collect_provenance([results / "scores" / "unet" / "split-0_seed-0.csv"])
    assert [tuple(run["file"].split("/")[1:3]) for run in alone["runs"]] == [("networks", "unet"), ("predictions", "unet")]
    assert alone["summary"]["mixed"] == []


def test_collect_provenance_counts_runs_without_a_record(results: Path) -> None:
    (results / "predictions" / "unet" / "split-0_seed-0" / "method.json").unlink()
    found = collect_provenance([results / "predictions" / "unet" / "split-0_seed-0" / "predictions.csv"])
    assert found["runs"] == [{"file": "own/predictions/unet/split-0_seed-0/method.json"}]
    assert (found["summary"]["runs"], found["summary"]["without_record"]) == (1, 1)


def test_run_with_record_writes_the_record_only_if_the_script_succeeds(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pd_ddpm.runtime.recorded_job.run", lambda main, log_file: main())
    tables: list[str] = []
    scores = [results / "scores" / "chain" / "split-0_seed-0.csv"]

    def job(record: str) -> SimpleNamespace:
        output = SimpleNamespace(table="table.csv", record=record)
        return SimpleNamespace(config={}, params=SimpleNamespace(code="abc"), output=output, log=["job.log"])

    run_with_record(lambda job: tables.append(job.output.table), job("table.json"), scores)
    content = json.loads(Path("table.json").read_text(encoding="utf-8"))
    assert tables == ["table.csv"]
    assert content["provenance"]["code"] == "abc"
    assert content["made_from"] == collect_provenance(scores)

    def failing(job: SimpleNamespace) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_with_record(failing, job("other.json"), scores)
    assert not Path("other.json").exists()


@pytest.fixture
def exhibits(results: Path) -> dict[str, Any]:
    scores = {method: results / "scores" / method / "split-0_seed-0.csv" for method in ("unet", "chain")}
    whole = provenance(code="x1", git_changed=True, versions={"python": "3.11.7", "pandas": "3.1.1"})
    return {
        "table1": {"provenance": whole, "made_from": collect_provenance(scores.values())},
        "fig4": {"provenance": provenance(code="x2"), "made_from": collect_provenance([scores["unet"]])},
        "cost": {"provenance": provenance(code="x3")},
    }


def test_the_page_has_a_row_per_exhibit_network_and_method(exhibits: dict[str, Any]) -> None:
    document = provenance_document(exhibits, {"table1": "Table 1", "fig4": "Figure 4", "cost": "Cost"})
    assert document.caption_note == (
        "4 networks and predictions, 4 min of wall time. They are a mixture: they differ in precision."
    )
    shown, networks, methods, software = (part.table for part in document.parts)
    assert shown["Exhibit"].tolist() == ["Table 1", "Figure 4", "Cost"]
    assert shown["Networks"].tolist() == ["2", "1", "0"]
    assert shown["Predictions"].tolist() == ["2", "1", "0"]
    assert shown["Precision"].tolist() == ["bfloat16, float32", "bfloat16", "none"]
    assert shown["Differ in"].tolist() == ["precision", "nothing", "nothing"]
    assert shown["Wall time"].tolist() == ["4 min", "2 min", "0 s"]
    assert shown["Commit"].tolist() == ["aaaaaaaa+", "aaaaaaaa", "aaaaaaaa"]
    assert networks["Name"].tolist() == ["denoiser", "unet"]
    assert methods[["Name", "Splits", "Seeds", "Precision", "Code"]].to_numpy().tolist() == [
        ["chain", "0", "0", "float32", "s1"],
        ["unet", "0", "0", "bfloat16", "s1"],
    ]
    assert software.to_numpy().tolist() == [["python", "3.11.7"], ["pandas", "3.1.1"]]


def test_runs_that_are_alike_are_said_to_be(exhibits: dict[str, Any]) -> None:
    document = provenance_document({"fig4": exhibits["fig4"]}, {"fig4": "Figure 4"})
    assert document.caption_note == (
        "2 networks and predictions, 2 min of wall time. "
        "All of one configuration, commit, set of packages, device and precision."
    )


def test_the_csv_has_every_run_once_with_its_versions(exhibits: dict[str, Any]) -> None:
    table = provenance_rows(exhibits)
    assert table["kind"].tolist() == ["exhibit"] * 3 + ["network"] * 2 + ["prediction"] * 2
    assert table["name"].tolist() == ["table1", "fig4", "cost", "denoiser", "unet", "chain", "unet"]
    assert (table["python"] == "3.11.7").all()
    assert table["seconds"].tolist() == [100] * 5 + [7.5, 5]
    assert table["split"].dropna().tolist() == [0] * 4
    assert table.columns[-1] == "file"
    assert "versions" not in table


def test_drawing_takes_as_long_as_its_cases_without_the_masks_that_they_start_from(tmp_path: Path) -> None:
    def rows(cost: Cost, pool: int) -> pd.DataFrame:
        return pd.DataFrame([{"case": "a", "samples": 2, "pool": pool, "stamp": "s", **vars(cost)}])

    rows(Cost(1, 1, 0.5, 2.0), 3).to_csv(tmp_path / "predictions.csv", index=False)
    before = Presegmentations(tmp_path / "predictions.csv", "mean", False)
    own = Cost(0, 4, 1.0, 3.0)
    records = rows(own + before.cost("a"), 5).to_dict("records")
    assert sampling_seconds(records, before) == pytest.approx(1.0 + 5 * 3.0)
    assert sampling_seconds(rows(own, 5).to_dict("records"), None) == pytest.approx(16.0)


def test_cpu_name_is_not_empty() -> None:
    assert records.cpu_name().strip() == records.cpu_name() != ""
