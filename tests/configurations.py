"""Configurations for tests: the paper's with changes, and equal settings in a different form."""

from typing import Any

from pd_ddpm.config import load
from pd_ddpm.config.resolve import Config, overlay
from pd_ddpm.config.validate import validate


def paper_configuration(**changes: Any) -> Config:
    """Return the paper's configuration with changes, in canonical form."""
    return validate(overlay(load.read(None, {"scale": "paper"}), changes))


def reordered(value: Any) -> Any:
    """Return equal settings with keys in reverse order, and integers exchanged with floats of equal value."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    if isinstance(value, list):
        return [reordered(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return float(value) if type(value) is int else value
