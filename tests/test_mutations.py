"""The deliberate faults of `mutations.py` fit the package as it is now. `make mutation-test` applies them."""

import ast

import pytest
from mutations import FAULTS, Fault
from workflow_runs import ROOT


def test_every_fault_changes_one_place_of_its_module_and_names_existing_tests() -> None:
    for fault in FAULTS:
        source = (ROOT / fault.path).read_text(encoding="utf-8")
        faulty = ast.parse(fault.apply(source))  # a syntax error would be noticed by any test
        assert ast.dump(faulty) != ast.dump(ast.parse(source)), fault.description
        assert (ROOT / "tests" / fault.tests).exists(), fault.description


def test_descriptions_of_faults_are_unique() -> None:
    assert len({fault.description for fault in FAULTS}) == len(FAULTS)


@pytest.mark.parametrize(("source", "count"), [("x = 2", 0), ("x = 1; x = 1", 2)])
def test_fault_that_does_not_fit_its_module_is_refused(source: str, count: int) -> None:
    with pytest.raises(ValueError, match=rf"src/pd_ddpm/m\.py: contains 'x = 1' {count} times .* Update the fault 'one'"):
        Fault("one", "m.py", "x = 1", "x = 2", "m").apply(source)
