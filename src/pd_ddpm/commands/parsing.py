"""Shared code of the subcommands' parsers."""

import argparse
from pathlib import Path
from typing import Any

Commands = Any  # the return type of argparse's add_subparsers, a private class


def user_path(text: str) -> Path:
    """Return a path in which ~ stands for the user's home, also in `--option=~/file`, which shells leave alone."""
    return Path(text).expanduser()


def add_command(commands: Commands, name: str, summary: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """Add a subcommand.

    Args:
        commands: the parser's subcommands.
        name: name of the subcommand.
        summary: line in the list of subcommands.
        description: text above the options in its help, printed without wrapping.
        epilog: text below the options, printed without wrapping.

    Returns:
        The subcommand's parser.
    """
    return commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
