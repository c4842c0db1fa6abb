"""What further attempts of a cluster job request."""

from typing import Any

import pytest

from pd_ddpm.config.errors import ConfigError
from pd_ddpm.config.resolve import overlay
from pd_ddpm.config.sections.resources import Job
from pd_ddpm.config.validate import validate

JOB = {"gpu": 1, "mem_mb": 16000, "max_mem_mb": None, "runtime": 600, "max_runtime": None, "threads": 4}


@pytest.mark.parametrize(
    ("limits", "memory", "minutes"),
    [
        ({}, [16000, 32000, 48000, 48000], [600, 600, 600, 600]),  # a job resumes, so the same time is enough
        ({"max_runtime": 1440, "max_mem_mb": 40000}, [16000, 32000, 40000, 40000], [600, 1200, 1440, 1440]),
        ({"max_runtime": 600, "max_mem_mb": 16000}, [16000] * 4, [600] * 4),
    ],
)
def test_further_attempts_request_no_more_than_the_limits(
    limits: dict[str, int], memory: list[int], minutes: list[int]
) -> None:
    job = Job(**JOB | limits)
    assert [job.memory(attempt) for attempt in (1, 2, 3, 4)] == memory
    assert [job.time_limit(attempt) for attempt in (1, 2, 3, 4)] == minutes


@pytest.mark.parametrize(("key", "value"), [("max_runtime", 60), ("max_mem_mb", 1000)])
def test_limits_below_the_first_request_are_rejected(paper: dict[str, Any], key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"`resources.train.{key}`: {value} is below"):
        validate(overlay(paper, {"resources": {"train": {key: value}}}))
