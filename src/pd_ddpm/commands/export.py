"""`pd-ddpm export`: write a trained method to one folder."""

import argparse

from pd_ddpm.commands.parsing import Commands, add_command, user_path

DESCRIPTION = """\
Write a trained method to one folder (a bundle), with which `pd-ddpm predict` segments new scans. A bundle holds the weights of
all networks that the method needs, their architectures, the preprocessing, checksums, and a model card (README.md). The card
states training data, licence, scores, calibration and intended use. Nothing in a bundle is ever executed.

RESULTS is the folder of a dataset among the results, such as results/phantom. The method must have scores there:
  snakemake results/phantom/scores/pd-ddpm/split-0_seed-0.csv"""

EXAMPLE = """\
examples:
  $ pd-ddpm export results/phantom --output bundle
  bundle: pd-ddpm of split 0, seed 0; attunet, then pd-ddpm; Dice 0.751 on 4 test cases; 15.1 MB

  $ pd-ddpm export results/wmh --method attunet --split 3 --output attunet-bundle --data-licence "CC BY-NC 4.0\""""


def add(commands: Commands) -> None:
    """Add the command and its options."""
    export = add_command(commands, "export", "write a trained method to one folder", DESCRIPTION, EXAMPLE)
    export.add_argument("results", type=user_path, metavar="RESULTS", help="folder of a dataset among the results")
    export.add_argument("--output", type=user_path, required=True, metavar="BUNDLE", help="folder to write")
    export.add_argument("--method", default="pd-ddpm", help="method, as its predictions are named (%(default)s)")
    export.add_argument("--split", type=int, default=0, help="split of the networks (%(default)s)")
    export.add_argument("--seed", type=int, default=0, help="seed of training and sampling (%(default)s)")
    export.add_argument("--data-licence", metavar="TEXT", help="licence of the training scans, if the results do not state it")
    export.add_argument("--overwrite", action="store_true", help="replace an existing bundle")
    export.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the bundle, print its content in one line, and return 0."""
    from pd_ddpm.deployment.export import export_bundle

    bundle = export_bundle(
        options.results,
        options.output,
        method=options.method,
        split=options.split,
        seed=options.seed,
        licence=options.data_licence,
        overwrite=options.overwrite,
    )
    scores = bundle.description["scores"]
    size = sum(path.stat().st_size for path in bundle.folder.rglob("*") if path.is_file())
    print(
        f"{options.output}: {options.method} of split {options.split}, seed {options.seed}; "
        f"{', then '.join(stage.method for stage in bundle.stages)}; Dice {scores['metrics']['dice']['mean']:.3f} on "
        f"{scores['cases']} test cases; {size / 1e6:.1f} MB"
    )
    if source := bundle.presegmentation_from_file:
        print(f"{options.method} starts from masks of {source}: `pd-ddpm predict` needs such a mask as --presegmentation.")
    return 0
