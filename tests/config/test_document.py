"""The generated schema: current, valid, and right about the shipped files."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from pd_ddpm.config import document

CONFIG = Path(__file__).parents[2] / "config"
FILES = ["config.yaml", "demo.yaml", "leak.yaml", "open_ms.example.yaml", "patchddm.yaml", "patchddm.demo.yaml"]
FILES += ["recycling.yaml", "recycling.demo.yaml", "recycling_amos.yaml", "recycling_pelvic.yaml", "recycling_brain.yaml"]
FILES += ["imgx_v020.yaml", "imgx_v031.yaml", "imgx_v032.yaml"]


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return yaml.safe_load((CONFIG / "schema.yaml").read_text(encoding="utf-8"))


def test_schema_file_is_current() -> None:
    assert (CONFIG / "schema.yaml").read_text(encoding="utf-8") == document.text(), "run `make schema`"


def test_schema_is_a_valid_json_schema(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("name", FILES)
def test_schema_accepts_the_shipped_files(schema: dict[str, Any], name: str) -> None:
    config = yaml.safe_load((CONFIG / name).read_text(encoding="utf-8"))
    assert list(Draft202012Validator(schema).iter_errors(config)) == []


@pytest.mark.parametrize(
    "config",
    [
        {"trainin": {}},
        {"training": {"stepz": 3}},
        {"patchddm": {"training": {"stepz": 3}}},
        {"training": {"batch": 8.5}},
        {"networks": {"unet": {"like": "attunet", "multipliers": [1], "dice_weight": 1}}},
        {"networks": {"unet": {"architecture": "unet", "T": 1000}}},
        {"methods": {"unet": {"segmenter": "deterministic", "samples": 3}}},
        {"methods": {"zero": {"like": "unet"}}},
        {"methods": {"../x": {"like": "unet"}}},
        {"networks": {"x;id": {"like": "unet"}}},
        {"datasets": {"my data (2)": {"like": "wmh"}}},
        {"datasets": {"wmh": {"download": {"licens": "x"}}}},
        {"exhibits": {"table2": {"presegmentations": [{"method": "zero"}]}}},
    ],
    ids=str,
)
def test_schema_rejects_what_a_run_rejects(schema: dict[str, Any], config: dict[str, Any]) -> None:
    assert list(Draft202012Validator(schema).iter_errors(config))


def test_schema_describes_every_key_that_is_no_section(schema: dict[str, Any]) -> None:
    sections = {"root": schema, **schema["$defs"]}
    keys = {f"{name}.{key}": value for name, section in sections.items() for key, value in section["properties"].items()}
    assert [key for key, value in keys.items() if not {"description", "$ref", "const"} & value.keys()] == []
