"""Problems as fields and as text."""

import pickle

import pytest

from pd_ddpm.runtime.problem import Problem, ProblemError

EMPTY = Problem("a.nii.gz", "the file is empty", "Fetch it again")
CROSSED = Problem("", "two cases hold the same scan", "Remove one of them")


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (EMPTY, "a.nii.gz: the file is empty. Fetch it again."),
        (CROSSED, "two cases hold the same scan. Remove one of them."),
        (EMPTY.within("case p1"), "case p1, a.nii.gz: the file is empty. Fetch it again."),
        (CROSSED.within("case p1"), "case p1: two cases hold the same scan. Remove one of them."),
    ],
)
def test_problem_as_text_names_location_problem_and_remedy(problem, text):
    assert str(problem) == text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ProblemError(EMPTY), str(EMPTY)),
        (ProblemError(EMPTY, CROSSED), f"{EMPTY}\n{CROSSED}"),
        (ProblemError(EMPTY, heading="cases.csv"), f"cases.csv: 1 problem(s):\n  {EMPTY}"),
        (ProblemError(EMPTY, CROSSED, heading="cases.csv"), f"cases.csv: 2 problem(s):\n  {EMPTY}\n  {CROSSED}"),
    ],
)
def test_problem_error_lists_its_problems_below_the_heading(error, text):
    assert str(error) == text


def test_problem_error_keeps_its_fields_on_the_way_from_a_worker_process():
    sent = ProblemError(EMPTY, CROSSED, heading="cases.csv")
    received = pickle.loads(pickle.dumps(sent))
    assert (received.problems, received.heading, str(received)) == (sent.problems, sent.heading, str(sent))
