"""The command `pd-ddpm`. What a subcommand needs is imported when it runs, so that help comes at once."""

import argparse
import logging
import sys
from collections.abc import Sequence

from pd_ddpm.commands import check, convert, export, predict

COMMANDS = (check, export, predict, convert)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit code."""
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without an umlaut gets its number, as on stderr
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    given = _parser().parse_args(arguments)
    try:
        return given.run(given)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"pd-ddpm: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pd-ddpm",
        description="Segmentation by diffusion from a pre-segmentation. The experiments themselves are run by snakemake.",
        epilog="examples: pd-ddpm check config/config.yaml; pd-ddpm predict --help",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
