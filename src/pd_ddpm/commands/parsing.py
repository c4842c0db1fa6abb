"""What the parsers of all subcommands have in common."""

import argparse
from typing import Any

Commands = Any  # what argparse's add_subparsers returns; its class is private


def add_command(commands: Commands, name: str, summary: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A subcommand whose description and epilog are printed as they are written."""
    return commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
