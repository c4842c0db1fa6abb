"""Check settings against the configuration's schema and word its errors."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from pd_ddpm.config.resolve import Config, suggestion

SCHEMA = Path(__file__).parents[3] / "config" / "schema.yaml"


def schema_errors(schema: dict[str, Any], config: Config) -> list[ValidationError]:
    """Schema errors, most telling first. Keys that only the merged settings must have are looked at then."""
    return sorted(Draft202012Validator(schema).iter_errors(config), key=lambda error: list(map(str, error.absolute_path)))


@cache
def read_schema() -> dict[str, Any]:
    return yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))


def schema_problems(section: str, settings: dict[str, Any]) -> list[str]:
    """What the schema finds wrong with the resolved settings of one network or method."""
    schema = read_schema()
    one = schema["properties"][section]["additionalProperties"] | {"$defs": schema["$defs"]}
    return [error_text(error) for error in schema_errors(one, settings)]


def error_text(error: ValidationError) -> str:
    key = ".".join(map(str, error.absolute_path))
    if error.validator == "additionalProperties":
        known = sorted(error.schema["properties"])
        unknown = sorted(set(error.instance) - set(known))
        return "; ".join(f"unknown key '{'.'.join(filter(None, [key, name]))}'{suggestion(name, known)}" for name in unknown)
    return f"key '{key}': {error.message}" if key else error.message
