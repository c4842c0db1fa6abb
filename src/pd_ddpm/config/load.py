"""Read configuration files and lay them over each other as the Snakefile does."""

from pathlib import Path

import yaml

from pd_ddpm.config.resolve import Config, ConfigError, overlay
from pd_ddpm.config.schema import SCHEMA


def read(path: Path | None, changes: Config) -> Config:
    """A configuration as the Snakefile puts it together: config.yaml, at demo scale demo.yaml over it, then the file, then
    the changes. A file of the name config.yaml beside a demo.yaml is a whole configuration and stands in the first place.

    Raises ConfigError if the file is not there or is no yaml with keys.
    """
    whole = path is not None and path.name == "config.yaml" and path.with_name("demo.yaml").is_file()
    first = path if whole else SCHEMA.with_name("config.yaml")
    over = overlay({} if path is None or whole else _yaml(path), changes)
    config = overlay(_yaml(first), over)
    if config.get("scale") == "demo":
        config = overlay(overlay(config, _yaml(first.with_name("demo.yaml"))), over)
    return config


def _yaml(path: Path) -> Config:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as a configuration ({error}); correct the path or the file") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds no keys; see config/config.yaml for what a configuration is made of")
    return content
