"""What the run took, by rule, network and method, beside what was planned."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from pd_ddpm.config.methods import pool
from pd_ddpm.exhibits.tables import cost
from pd_ddpm.planning.case_sizes import cohort_sizes
from pd_ddpm.planning.device_rates import Rate
from pd_ddpm.planning.jobs import Sampling, Training
from pd_ddpm.planning.planned_flops import PlannedFlops, network_evaluations, read_kept
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.run_record import recorded


def main(
    cards: list[str],
    method_cards: list[str],
    splits: str,
    table: str,
    page: str,
    markdown: str,
    labels: dict[str, str],
    remark: str,
    config: dict,
    benchmarks: Path,
    kept: Path,
) -> None:
    results = Path(splits).parent
    dataset, cohorts = results.name, {results.name: cohort_sizes(config, results.name, results)}
    prices = PlannedFlops(config, cohorts, kept / "flops.json")
    rates = [Rate(**rate) for rate in read_kept(kept / "rates.json").values()]

    def job(rule: str, path: Path, card: dict[str, Any], flops: int, evaluations: int = 0) -> cost.JobCost:
        name, run = path.parents[1].name, path.parent.name
        seconds, memory = cost.read_benchmarks(cost.benchmark_files(benchmarks, rule, dataset, name, run))
        own, on_gpu = card["provenance"], card["device_type"] == "cuda"
        return cost.JobCost(
            rule,
            name,
            float(np.fmax(seconds, own["seconds"])),
            memory,
            max(1, config["resources"][rule]["gpu"]) if on_gpu else 0,
            own["device"],
            own["precision"],
            evaluations,
            flops,
            cost.measured_seconds(rates, flops, rule, on_gpu, own["precision"]),
        )

    names, runs = (
        {Path(path).parents[1].name for path in cards + method_cards},
        {Path(path).parent.name for path in method_cards},
    )
    jobs = cost.other_jobs(benchmarks, dataset, sorted(names), sorted(runs))
    for path in map(Path, cards):
        card = json.loads(path.read_text(encoding="utf-8"))
        training = Training(dataset, card["network"], card["split"], card["seed"])
        jobs.append(job("train", path, card, prices.training(training)))
    for path in map(Path, method_cards):
        card = json.loads(path.read_text(encoding="utf-8"))
        sampling = Sampling(dataset, card["method"], card["split"], card["seed"], pool(config, card["method"]))
        evaluations = network_evaluations(config, cohorts, sampling)
        jobs.append(job("sample", path, card, prices.sampling(sampling), evaluations))
    rows = cost.cost_table(jobs)
    rows.to_csv(table, index=False, float_format="%.6g")
    cost.cost_document(rows, labels, remark).write(page, markdown)


if __name__ == "__main__":
    with_record = recorded(main, snakemake.config, snakemake.params.code, snakemake.input.method_cards)
    run(
        with_record,
        snakemake.log[0],
        **{key: snakemake.input[key] for key in ("cards", "method_cards", "splits")},
        **snakemake.output,
        **{key: snakemake.params[key] for key in ("labels", "remark")},
        config=snakemake.config,
        benchmarks=Path("results", "benchmarks"),
        kept=Path("work", "plan"),
    )
