"""The command `pd-ddpm`. Subcommands import heavy modules only when they run, so that help appears at once."""

import argparse
import errno
import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version

from pd_ddpm.commands import check, convert, export, predict
from pd_ddpm.runtime.memory import describe

COMMANDS = (check, export, predict, convert)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code."""
    # Characters that the terminal cannot encode are printed as escapes, as Python does on stderr.
    sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        print(f"pd-ddpm: {_sentence(error)}", file=sys.stderr)
        return 1


def _sentence(error: Exception) -> str:
    """Return an error as one sentence with its remedy."""
    if isinstance(error, OSError) and error.filename and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        reason = "the file system is read-only" if error.errno == errno.EROFS else "you lack the permission"
        return (
            f"{error.filename}: cannot be read or written, since {reason}. Choose another folder, or correct the permissions."
        )
    return describe(error, "the number of processes, or `--batch` and `--members`")


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
