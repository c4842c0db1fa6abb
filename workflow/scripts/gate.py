"""Test in which precisions other than float32 a trained network may sample on this device."""

from pd_ddpm.inference.gate_network import gate_network
from pd_ddpm.inference.job import GateJob
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.sealed import write_sealed_json


def main(job: GateJob, verdict: str) -> None:
    write_sealed_json(verdict, gate_network(job))


if __name__ == "__main__":
    run(main, snakemake.log[0], job=GateJob.from_snakemake(snakemake), verdict=snakemake.output["verdict"])
