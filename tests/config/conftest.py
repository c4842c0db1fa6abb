"""The shipped configurations, as their files hold them."""

from typing import Any

import pytest

from pd_ddpm.config import load


@pytest.fixture
def paper() -> dict[str, Any]:
    return load.read(None, {"scale": "paper"})


@pytest.fixture
def demo() -> dict[str, Any]:
    return load.read(None, {"scale": "demo"})
