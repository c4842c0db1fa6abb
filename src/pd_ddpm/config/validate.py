"""Validate a whole configuration and report all of its problems at once."""

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from pd_ddpm.config.consistency import find_contradictions
from pd_ddpm.config.errors import ConfigError, KeyProblem
from pd_ddpm.config.resolve import COMMON, Config, plain_settings
from pd_ddpm.config.sections.root import Configuration
from pd_ddpm.config.study_names import key_path
from pd_ddpm.config.translation import problems_from

ENTRIES = ("datasets", "networks", "methods")


def validate(config: Config) -> Config:
    """Return the canonical form of a configuration: equal settings give equal dictionaries.

    Entries of datasets, networks and methods hold all of their settings: `like` and common settings are written out. Numbers
    have the type of their key (8 for 8.0 steps), and keys have the order of the sections' types.

    Raises:
        ConfigError: names every problem, each with the key that the user sets and a remedy.
    """
    whole, problems = _resolve_entries(config)
    try:
        canonical = Configuration.model_validate(whole).model_dump(exclude_unset=True)
    except ValidationError as error:
        incomplete = {problem.path[:1] for problem in problems}  # sections without the entries whose `like` is wrong
        problems += [problem for problem in problems_from(error, Configuration) if problem.path not in incomplete]
    if not problems:
        problems += find_contradictions(canonical)
    if problems:
        raise ConfigError(*(problem.at(key_path(config, *problem.path)) for problem in _without_inherited(problems, config)))
    return canonical


def _resolve_entries(config: Config) -> tuple[Config, list[KeyProblem]]:
    """Return the configuration with every entry's settings written out, as far as that is possible, and wrong `like`s."""
    whole, problems = dict(config), []
    for section in ENTRIES:
        entries = config.get(section)
        if not isinstance(entries, dict):
            continue
        whole[section] = {}
        for name in entries:
            try:
                whole[section][name] = plain_settings(config, section, name)
            except ConfigError as error:
                problems += error.problems
    return whole, problems


def _without_inherited(problems: list[KeyProblem], config: Config) -> Iterator[KeyProblem]:
    """Yield each problem once, at the key that must change: without those of entries that only inherit them."""
    paths = {problem.path for problem in problems}
    for problem in dict.fromkeys(problems):
        if not paths.intersection(_inherited_from(config, problem.path)):
            yield problem


def _inherited_from(config: Config, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the paths that a key of an entry may be inherited from: those of `like`, then the common settings."""
    section, entries = path[0], config.get(path[0])
    if section not in ENTRIES or not isinstance(entries, dict) or len(path) < 3:
        return
    name, *keys = path[1:]
    while isinstance(entries.get(name), dict) and not _has(entries[name], keys):
        name = entries[name].get("like")
        if name is None:
            yield (COMMON.get(section, ""), *keys)
            return
        yield (section, name, *keys)


def _has(section: Any, keys: list[str]) -> bool:
    for key in keys:
        if not isinstance(section, dict):
            return True
        if key not in section:
            return False
        section = section[key]
    return True
