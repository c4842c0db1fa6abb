"""What counts as a change of the code that a result depends on."""

import shutil
from pathlib import Path

import pytest

from pd_ddpm import provenance

SCRIPTS = Path(__file__).parents[1] / "workflow" / "scripts"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package that a test may edit."""
    copy = tmp_path / "pd_ddpm"
    shutil.copytree(provenance.PACKAGE, copy)
    monkeypatch.setattr(provenance, "PACKAGE", copy)
    return copy


def versions() -> dict[str, str]:
    provenance._read.cache_clear()
    return {script.stem: provenance.code_version(script) for script in SCRIPTS.glob("*.py")}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_comments_docstrings_and_blank_lines_do_not_count(package: Path) -> None:
    before = versions()
    edit(package / "samplers.py", '"""The reverse process', '"""Another opening')
    edit(package / "samplers.py", "import math", "# a remark\n\n\nimport math")
    assert versions() == before


@pytest.mark.parametrize(
    ("module", "old", "new", "changed", "unchanged"),
    [
        ("samplers.py", "if s > 0 and", "if s > 1 and", {"sample"}, {"train", "score", "prepare", "table1", "split"}),
        ("schedule.py", "0.008", "0.009", {"sample", "train"}, {"score", "prepare", "table1"}),
        ("training.py", "(1 + step)", "(2 + step)", {"train"}, {"sample", "score"}),
        ("metrics.py", "LABEL_TOLERANCE = 1e-3", "LABEL_TOLERANCE = 2e-3", {"score", "table1"}, {"sample", "train", "prepare"}),
        ("splits.py", '"split", "role"', '"split", "part"', {"split"}, {"sample", "train", "score", "prepare"}),
        ("style.py", "0.3", "0.4", {"fig3_tprime"}, {"table1", "score", "sample"}),
    ],
)
def test_a_changed_constant_counts_where_it_is_used(
    package: Path, module: str, old: str, new: str, changed: set[str], unchanged: set[str]
) -> None:
    before = versions()
    edit(package / module, old, new)
    after = versions()
    differing = {name for name in before if before[name] != after[name]}
    assert changed <= differing
    assert not unchanged & differing


def test_a_module_of_a_module_counts(package: Path) -> None:
    before = versions()
    edit(package / "networks" / "blocks.py", "channels // 4", "channels // 5")
    differing = {name for name, version in versions().items() if version != before[name]}
    assert differing == {"train", "gate", "sample", "cost"}  # which counts FLOPs
