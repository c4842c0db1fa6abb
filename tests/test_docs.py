"""Check that the tests named in docs/faults.md exist (below 1 s)."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COLUMNS = ["#", "input or fault", "what happens", "message", "exit", "test"]
WITHOUT_A_TEST_OF_ITS_OWN = {"46"}

# A test of an error expects an exception or an exit code, or kills a process.
ERROR = re.compile(r"pytest\.raises|returncode|SIGKILL|\berror\(|\bcode ==|\(code, ")


def rows() -> list[dict[str, str]]:
    """Return the rows of all tables of docs/faults.md."""
    lines = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    tables = [row for row in cells if row[0] not in ("#", "--:")]
    assert [row for row in cells if row[0] == "#"] == [COLUMNS] * 11
    return [dict(zip(COLUMNS, row, strict=True)) for row in tables]


def named_tests(row: dict[str, str]) -> list[tuple[str, str]]:
    """Return module and name of each test of a row; the name is empty if the row names the module only."""
    return re.findall(r"`(tests/(?:\w+/)?test_\w+\.py)(?:::(\w+))?`", row["test"])


def source(path: str, name: str) -> str | None:
    """Return the code of a test, or of all tests of a module if the name is empty; None if there is no such test."""
    if not (ROOT / path).is_file():
        return None
    text = (ROOT / path).read_text(encoding="utf-8")
    if not name:
        return text
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) and node.name == name]
    return ast.get_source_segment(text, functions[0]) if functions else None


def test_faults_page_has_one_row_per_fault() -> None:
    assert sorted(int(row["#"]) for row in rows() if row["#"]) == list(range(1, 51))


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["#"] or row["input or fault"])
def test_faults_row_names_existing_tests(row: dict[str, str]) -> None:
    assert row["what happens"]
    assert row["exit"] in ("0", "1", "137") or row["#"] in WITHOUT_A_TEST_OF_ITS_OWN
    assert named_tests(row) or row["test"] == "none"
    for path, name in named_tests(row):
        assert source(path, name), f"{path} has no {name}"
    if row["#"] in WITHOUT_A_TEST_OF_ITS_OWN:
        assert row["test"].startswith("none")
    elif row["exit"] != "0":
        assert any(ERROR.search(source(*test)) for test in named_tests(row)), "none of the tests checks an error"


def test_most_faults_have_a_test_of_their_error() -> None:
    covered = [row["#"] for row in rows() if any(ERROR.search(source(*test)) for test in named_tests(row))]
    assert len({number for number in covered if number}) >= 40
