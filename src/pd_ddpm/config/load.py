"""Read configuration files and lay them over each other as the Snakefile does."""

from collections.abc import Callable
from pathlib import Path

import yaml

from pd_ddpm.config.errors import ConfigError
from pd_ddpm.config.resolve import Config, overlay
from pd_ddpm.config.studies import StudyFiles, study_config, without_studies
from pd_ddpm.runtime.problem import Problem

# File of the folder config/ that is laid over config.yaml at a scale.
SCALE_FILES = {"demo": "demo.yaml", "gpu": "gpu.yaml"}

CONFIG = Path(__file__).parents[3] / "config" / "config.yaml"


def read(path: Path | None, changes: Config) -> Config:
    """Read a configuration as the Snakefile does: config.yaml, the scale's file, the given file, then the changes.

    Args:
        path: a file that is laid over config/config.yaml. A config.yaml next to a demo.yaml replaces it instead.
        changes: keys that are laid over all files.

    Returns:
        The configuration of the first study, without the keys that stand below the name of another one.

    Raises:
        ConfigError: the file does not exist or is not a yaml file with keys.
    """
    whole = path is not None and path.name == "config.yaml" and path.with_name("demo.yaml").is_file()
    first = path if whole else CONFIG
    over = without_studies(overlay({} if path is None or whole else _yaml(path), changes))
    config = overlay(without_studies(_yaml(first)), over)
    if (scale := config.get("scale")) in SCALE_FILES:
        config = overlay(overlay(config, _yaml(first.with_name(SCALE_FILES[scale]))), over)
    return config


def read_study(name: str, user: Config, locate: Callable[[str], Path | str] = CONFIG.with_name) -> Config:
    """Read the configuration of a study other than the first, see `study_config`.

    Args:
        name: name of the study.
        user: keys that the user has set, those of a study below its name.
        locate: returns the path of a file of the folder config/.

    Raises:
        ConfigError: a file is missing, or the user's keys of the study are no section.
    """
    names = ("config.yaml", f"{name}.yaml", f"{name}.demo.yaml")
    return study_config(name, StudyFiles(*(_yaml(Path(locate(file))) for file in names)), user)


def _yaml(path: Path) -> Config:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problem = Problem(str(path), f"cannot be read as a configuration ({error})", "Correct the path or the file")
        raise ConfigError(problem) from error
    if not isinstance(content, dict):
        raise ConfigError(Problem(str(path), "holds no keys", "See config/config.yaml for the keys of a configuration"))
    return content
