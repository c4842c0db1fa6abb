"""The user's home in paths of the configuration and of commands (below 1 s)."""

from pathlib import Path

import pytest

from pd_ddpm.commands.parsing import user_path
from pd_ddpm.config.load import read
from pd_ddpm.config.validate import validate


def test_validate_replaces_tilde_by_the_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/jane")
    dataset = {"layout": "table", "table": "~/cases.csv", "folder": "~/data", "channels": ["FLAIR"]}
    config = validate(read(None, {"dataset": "own", "datasets": {"own": dataset}}))
    assert config["datasets"]["own"]["table"] == "/home/jane/cases.csv"
    assert config["datasets"]["own"]["folder"] == "/home/jane/data"


def test_user_path_replaces_tilde_by_the_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/jane")
    assert user_path("~/scan.nii.gz") == Path("/home/jane/scan.nii.gz")
    assert user_path("data/~x") == Path("data/~x")
