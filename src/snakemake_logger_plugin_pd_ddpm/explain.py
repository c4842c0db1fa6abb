"""Explain mistakes in a command line that Snakemake answers with a traceback, or without the name of the file.

Snakemake reads the files of `--configfile` and compares targets with rules before or after it executes the Snakefile, so the
workflow itself cannot check them. This module reads the command line only after Snakemake has failed.
"""

import re
from argparse import ArgumentParser
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import yaml

_TARGET = re.compile(r"No rule to produce (\S+) \(")
_UNKNOWN_RULE = re.compile(r"There is no rule named (\S+)\.")


def explain(message: str, arguments: Sequence[str], targets: Sequence[str]) -> str | None:
    """Return one sentence that names the mistake and its remedy, or None if this module finds none.

    Args:
        message: Snakemake's own message.
        arguments: the command line without the name of the program.
        targets: files and rules that can be requested.
    """
    if match := _TARGET.search(message) or _UNKNOWN_RULE.search(message):
        return unknown_target(match[1], targets)
    return next(filter(None, map(config_file_problem, config_files(arguments))), None)


def config_files(arguments: Sequence[str]) -> list[Path]:
    """Return the files that a command line gives to `--configfile`."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--configfile", "--configfiles", nargs="+", type=Path, default=[])
    return parser.parse_known_args(list(arguments))[0].configfile


def config_file_problem(path: Path) -> str | None:
    """Return why a file cannot be a configuration, with a remedy, or None if it can."""
    if path.suffix not in (".yaml", ".yml", ".json"):
        remedy = "Put the files to make before `--configfile`, or after `--`"
        return f"{path}: `--configfile` takes it for a configuration file. {remedy}."
    if not path.exists():
        return f"{path}: the configuration file does not exist. Correct the path."
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return f"{path}: the configuration file cannot be read ({error}). Correct the path or the file."
    try:
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        return _yaml_problem(path, text, error)
    except yaml.YAMLError as error:
        return f"{path}: is not valid yaml ({error}). Correct it."
    if not isinstance(content, dict):
        return f"{path}: holds no keys. See config/config.yaml for the keys of a configuration."
    return None


def unknown_target(target: str, targets: Sequence[str]) -> str:
    """Return that no rule makes a target, and the nearest one that exists."""
    close = get_close_matches(target, targets, n=1, cutoff=0.5)
    nearest = f" Did you mean {close[0]}?" if close else ""
    return f"{target}: no rule makes this file.{nearest} `snakemake --summary` lists the files of a whole run."


def _yaml_problem(path: Path, text: str, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return f"{path}: is not valid yaml ({error}). Correct it."
    where = f"{path}, line {mark.line + 1}, column {mark.column + 1}"
    if "\t" in "".join(text.splitlines()[mark.line : mark.line + 1]):
        return f"{where}: the line contains a tab, which yaml does not allow there. Use spaces."
    return f"{where}: is not valid yaml ({error.problem}). Correct the line."
