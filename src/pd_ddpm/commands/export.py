"""`pd-ddpm export`: a trained method as one folder."""

import argparse
from pathlib import Path

from pd_ddpm.commands.parsing import Commands, add_command

DESCRIPTION = """\
Put a trained method into one folder (a bundle) from which `pd-ddpm predict` segments new scans: the weights of all networks
that it needs with their checksums, their architecture, how scans are prepared, and a model card (README.md) with data,
licence, scores, calibration and intended use. Nothing needs to be typed again, and nothing of a bundle is ever executed.

RESULTS is the folder of a data set among the results, such as results/phantom. The method must have been scored there:
  snakemake results/phantom/scores/pd-ddpm/split-0_seed-0.csv"""

EXAMPLE = """\
examples:
  $ pd-ddpm export results/phantom --output bundle
  bundle: pd-ddpm of split 0, seed 0; attunet, then pd-ddpm; Dice 0.751 on 4 test cases; 15.1 MB

  $ pd-ddpm export results/wmh --method attunet --split 3 --output attunet-bundle --data-licence "CC BY-NC 4.0\""""


def add(commands: Commands) -> None:
    """Add the command and its options."""
    export = add_command(commands, "export", "put a trained method into one folder", DESCRIPTION, EXAMPLE)
    export.add_argument("results", type=Path, metavar="RESULTS", help="a data set's folder among the results")
    export.add_argument("--output", type=Path, required=True, metavar="BUNDLE", help="the folder that is made")
    export.add_argument("--method", default="pd-ddpm", help="the method, as its predictions are named (%(default)s)")
    export.add_argument("--split", type=int, default=0, help="whose networks (%(default)s)")
    export.add_argument("--seed", type=int, default=0, help="of training and sampling (%(default)s)")
    export.add_argument("--data-licence", metavar="TEXT", help="of the training scans, where the results do not say")
    export.add_argument("--overwrite", action="store_true", help="replace a bundle that is there")
    export.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Write the bundle and say what is in it."""
    from pd_ddpm.deployment.export import export_bundle

    bundle = export_bundle(
        given.results,
        given.output,
        method=given.method,
        split=given.split,
        seed=given.seed,
        licence=given.data_licence,
        overwrite=given.overwrite,
    )
    scores = bundle.description["scores"]
    size = sum(path.stat().st_size for path in bundle.folder.rglob("*") if path.is_file())
    print(
        f"{given.output}: {given.method} of split {given.split}, seed {given.seed}; "
        f"{', then '.join(stage.method for stage in bundle.stages)}; Dice {scores['metrics']['dice']['mean']:.3f} on "
        f"{scores['cases']} test cases; {size / 1e6:.1f} MB"
    )
    return 0
