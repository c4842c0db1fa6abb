"""The script that makes the environment for the Makefile."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", ROOT / "envs" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_unsupported_python_is_refused_in_one_sentence(script: ModuleType) -> None:
    message = "Python 3.10 is not supported; the versions 3.11 to 3.14 are. Name one of them: `make demo PYTHON=python3.11`."
    assert script.refusal((3, 10, 12)) == message
    assert script.refusal((3, 15)) is not None
    assert [script.refusal((3, minor)) for minor in (11, 12, 13, 14)] == [None] * 4
    assert f'requires-python = ">={script.OLDEST[0]}.{script.OLDEST[1]}"' in (ROOT / "pyproject.toml").read_text(
        encoding="utf-8"
    )


@pytest.mark.workflow  # makes an environment
def test_environment_of_another_python_is_made_anew_and_one_of_this_python_is_kept(script: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "venv"
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text("#!/bin/sh\necho 3.10.1\n", encoding="utf-8")
    python.chmod(0o755)
    assert script.python_version(str(python)) == "3.10.1"
    script.make_environment(str(folder))
    expected = ".".join(map(str, sys.version_info[:3]))
    assert script.python_version(str(python)) == expected
    (folder / "kept").touch()
    script.make_environment(str(folder))
    assert (folder / "kept").exists()


def test_make_clean_keeps_results() -> None:
    command = ["make", "-n", "--no-print-directory", "clean"]  # `make test` runs this within make, which prints the folder
    clean = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert clean.stdout.strip() == "rm -rf .venv"


def test_clean_results_deletes_only_after_yes(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    command = ["make", "-s", "-f", str(ROOT / "Makefile"), "clean-results"]
    for answer, is_kept in (("", True), ("no\n", True), ("yes\n", False)):
        subprocess.run(command, cwd=tmp_path, input=answer, capture_output=True, text=True, check=False)
        assert (tmp_path / "results").exists() is is_kept
