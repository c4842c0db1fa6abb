"""Settings of the sampling, gate and probe jobs, read from the `snakemake` object. Does not import PyTorch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pd_ddpm.config.run import Run, Shard
from pd_ddpm.data.prepared import cases_by_role
from pd_ddpm.runtime.compute import Compute


@dataclass(frozen=True)
class SampleJob:
    """A job of the rules `sample` and `sample_shard`: sample the test cases of one run with one method.

    Attributes:
        run: dataset, method, split and seed.
        compute: device, precision, threads and batch.
        settings: the method's settings (one entry of `methods` in the configuration).
        cases: table of the preprocessed cases; the images are in its folder.
        splits: table of the splits.
        weights: weights of the network.
        network_metadata: metadata file of the network.
        folder: folder of the predictions.
        code: hash of the code.
        config: the active configuration.
        presegmentation: table of the predictions of the method from which the chains start.
        gate: verdict of rule `gate` on the network.
        reliability: record of rule `reliability` on the network of the pre-segmentation.
        method_metadata: metadata file of the method, to be written by rule `sample`.
        shard: the part of the test cases that this job samples.
        shard_record: record of the shard, to be written by rule `sample_shard`.
        shard_records: records of the shards that rule `sample` gathers; empty if it samples all cases itself.
    """

    run: Run
    compute: Compute
    settings: dict[str, Any]
    cases: Path
    splits: Path
    weights: Path
    network_metadata: Path
    folder: Path
    code: str
    config: dict[str, Any]
    presegmentation: Path | None = None
    gate: Path | None = None
    reliability: Path | None = None
    method_metadata: Path | None = None
    shard: Shard = field(default_factory=Shard)
    shard_record: Path | None = None
    shard_records: tuple[Path, ...] = ()

    @classmethod
    def from_snakemake(cls, snakemake: Any) -> Self:
        """Read the job from the object of this name in a Snakemake script.

        Device, batch, `compile` and number of shards come from the configuration and the wildcards. They are no parameters of
        the rules, because another value must not re-run anything.
        """
        inputs, outputs = dict(**snakemake.input), dict(**snakemake.output)
        params, wildcards, config = snakemake.params, snakemake.wildcards, snakemake.config
        settings = params["settings"]
        shard_record = _path(outputs.get("shard_record"))
        return cls(
            run=Run.from_wildcards(wildcards, "method"),
            compute=_compute(config, settings["precision"], snakemake.threads),
            settings=settings,
            cases=Path(inputs["cases"]),
            splits=Path(inputs["splits"]),
            weights=Path(inputs["weights"]),
            network_metadata=Path(inputs["metadata"]),
            folder=shard_record.parents[1] if shard_record else Path(outputs["predictions"]).parent,
            code=params["code"],
            config=config,
            presegmentation=_path(inputs.get("presegmentation")),
            gate=_path(inputs.get("gate")),
            reliability=_path(inputs.get("reliability")),
            method_metadata=_path(outputs.get("method_metadata")),
            shard=Shard(int(wildcards.get("shard", 1)), int(wildcards.get("shards", 1))),
            shard_record=shard_record,
            shard_records=tuple(map(Path, inputs.get("shards", ()))),
        )

    @property
    def title(self) -> str:
        """The job in messages, such as "pd-ddpm, split 0, seed 1, shard 2 of 4"."""
        text = f"{self.run.name}, split {self.run.split}, seed {self.run.seed}"
        return f"{text}, shard {self.shard.index} of {self.shard.count}" if self.shard.count > 1 else text

    @property
    def predictions(self) -> Path:
        """The table of all predictions of the run."""
        return self.folder / "predictions.csv"

    def test_cases(self) -> list[str]:
        """Read the names of the test cases of the split."""
        return cases_by_role(self.splits, self.run.split)["test"]


@dataclass(frozen=True)
class _NetworkJob:
    """What the jobs have in common that test one trained network.

    Attributes:
        run: dataset, network, split and seed.
        settings: parameter `settings` of the rule.
        cases: table of the preprocessed cases; the images are in its folder.
        splits: table of the splits.
        weights: weights of the network.
        network_metadata: metadata file of the network.
        device: config key `device`.
        threads: CPU threads.
        code: hash of the code.
    """

    run: Run
    settings: dict[str, Any]
    cases: Path
    splits: Path
    weights: Path
    network_metadata: Path
    device: str
    threads: int
    code: str

    @classmethod
    def _from_snakemake(cls, snakemake: Any, **further: Any) -> Self:
        """Read the job from the object of this name in a Snakemake script; `further` are the fields of the subclass."""
        inputs, params, wildcards = snakemake.input, snakemake.params, snakemake.wildcards
        return cls(
            run=Run.from_wildcards(wildcards, "network"),
            settings=params["settings"],
            cases=Path(inputs["cases"]),
            splits=Path(inputs["splits"]),
            weights=Path(inputs["weights"]),
            network_metadata=Path(inputs["metadata"]),
            device=snakemake.config["device"],
            threads=snakemake.threads,
            code=params["code"],
            **further,
        )


@dataclass(frozen=True)
class GateJob(_NetworkJob):
    """A job of the rule `gate`: test in which precisions a trained network may sample.

    `settings` are those of the method with which the network is tested.

    Attributes:
        limits: section `sampling.gate` of the configuration.
        compute: device, precision, threads and batch of the methods that sample from the network.
        evaluations_per_slice: network evaluations of the members of one slice in a chain of all reverse steps.
    """

    limits: dict[str, Any]
    compute: Compute
    evaluations_per_slice: int

    @classmethod
    def from_snakemake(cls, snakemake: Any) -> Self:
        """Read the job from the object of this name in a Snakemake script."""
        config, sampling = snakemake.config, snakemake.config["sampling"]
        return cls._from_snakemake(
            snakemake,
            limits=snakemake.params["gate"],
            compute=_compute(config, sampling["precision"], snakemake.threads),
            evaluations_per_slice=sampling["samples"] * sampling["reverse_steps"],
        )


@dataclass(frozen=True)
class ReliabilityJob(_NetworkJob):
    """A job of the rule `reliability`: measure how reliable the masks of a trained network are.

    `settings` name which weights are used, as `weights`.
    """

    @classmethod
    def from_snakemake(cls, snakemake: Any) -> Self:
        """Read the job from the object of this name in a Snakemake script."""
        return cls._from_snakemake(snakemake)

    @property
    def title(self) -> str:
        """The job in messages, such as "attunet, split 0, seed 1"."""
        return f"{self.run.name}, split {self.run.split}, seed {self.run.seed}"


@dataclass(frozen=True)
class ProbeJob(_NetworkJob):
    """A job of the rule `probe`: test whether a trained denoiser reads x_t.

    `settings` are the section `exhibits.probe` of the configuration.

    Attributes:
        config: the active configuration.
    """

    config: dict[str, Any]

    @classmethod
    def from_snakemake(cls, snakemake: Any) -> Self:
        """Read the job from the object of this name in a Snakemake script."""
        return cls._from_snakemake(snakemake, config=snakemake.config)

    @property
    def title(self) -> str:
        """The job in messages, such as "denoiser, split 0, seed 1"."""
        return f"{self.run.name}, split {self.run.split}, seed {self.run.seed}"


def _compute(config: dict[str, Any], precision: str, threads: int) -> Compute:
    """Return what a sampling computes with."""
    return Compute(config["device"], precision, threads, config["sampling"]["batch"], config["compile"])


def _path(file: str | None) -> Path | None:
    return Path(file) if file else None
