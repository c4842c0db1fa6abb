"""The command `pd-ddpm`. Subcommands import heavy modules only when they run, so that help appears at once."""

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version

from pd_ddpm.commands import bids, check, convert, export, predict
from pd_ddpm.commands.parsing import error_sentence
from pd_ddpm.runtime.memory import is_shortage

COMMANDS = (check, export, predict, bids, convert)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code."""
    # Characters that the terminal cannot encode are printed as escapes, as Python does on stderr.
    sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, OSError, RuntimeError, MemoryError, ImportError) as error:
        # PyTorch may not fit into the memory. Other imports that fail are faults of the installation.
        if isinstance(error, ImportError) and not is_shortage(error):
            raise
        print(f"pd-ddpm: {error_sentence(error)}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pd-ddpm",
        description="Lesion segmentation with pre-segmentation-guided diffusion. Run the experiments with snakemake.",
        epilog="examples: pd-ddpm check config/config.yaml; pd-ddpm predict --help",
    )
    parser.add_argument("--version", action="version", version=f"pd-ddpm {version('pd-ddpm')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
