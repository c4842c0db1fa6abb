"""Versions stand in three places, which must agree."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def pins(lines: list[str]) -> dict[str, str]:
    return {name.lower(): version for name, version in (re.split("==", line) for line in lines if "==" in line)}


def test_lock_file_and_conda_environment_hold_the_declared_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = pins(project["dependencies"] + project["optional-dependencies"]["test"])
    locked = pins((ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines())
    conda = pins(yaml.safe_load((ROOT / "envs/pd-ddpm.yaml").read_text(encoding="utf-8"))["dependencies"][-1]["pip"])
    assert conda.items() <= declared.items()
    assert {name: version for name, version in declared.items() if name != "torch"}.items() <= locked.items()
    assert "torch" not in locked, "torch is installed first and by itself: its build depends on the machine"


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in project["dependencies"] + project["optional-dependencies"]["test"]:
        assert "==" in requirement
