"""Shared code of the subcommands' parsers."""

import argparse
import errno
from pathlib import Path
from typing import Any

from pd_ddpm.runtime.memory import describe

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


def error_sentence(error: Exception) -> str:
    """Return an error as one sentence with its remedy."""
    if isinstance(error, OSError) and error.filename and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        reason = "the file system is read-only" if error.errno == errno.EROFS else "you lack the permission"
        return (
            f"{error.filename}: cannot be read or written, since {reason}. Choose another folder, or correct the permissions."
        )
    return describe(error, "the number of processes, or `--batch` and `--members`")
