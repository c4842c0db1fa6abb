"""Copy the files of an exhibit to the folder of all results."""

from pd_ddpm.exhibits.publish import publish
from pd_ddpm.runtime.job import run


def main(originals: list[str], copies: list[str]) -> None:
    for original, copy in zip(originals, copies, strict=True):
        publish(original, copy)


if __name__ == "__main__":
    run(main, snakemake.log[0], originals=list(snakemake.input), copies=list(snakemake.output))
