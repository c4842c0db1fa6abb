"""Test in which number formats beside float32 a trained network may be sampled from on this device."""

import time
from pathlib import Path

from pd_ddpm.data.prepared import read_scan
from pd_ddpm.data.splits import cases_by_role
from pd_ddpm.runtime.cpu_info import only_float32
from pd_ddpm.runtime.files import write_json
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.progress import log


def main(
    cases: str,
    splits: str,
    weights: str,
    card: str,
    verdict: str,
    name: str,
    split: int,
    settings: dict,
    gate: dict,
    device: str,
    threads: int,
    code: str,
) -> None:
    described = {"network": name, "split": split, "gate": gate, "code": code}
    if only_float32(device):
        log.info("%s: this CPU computes in float32 only; there is nothing to test", name)
        write_json(Path(verdict), {"device": "cpu", "formats": {}} | described)
        return

    import torch  # it takes seconds to load, which a CPU without short formats is spared

    from pd_ddpm.data.working_grid import GridSettings
    from pd_ddpm.inference.factory import build_segmenter
    from pd_ddpm.inference.precision_gate import Gate
    from pd_ddpm.models.factory import load_model
    from pd_ddpm.runtime.precision import choose_device

    started = time.perf_counter()
    torch.set_num_threads(threads)
    where = choose_device(device)
    network, trained = load_model(Path(weights), Path(card))
    roles = cases_by_role(splits, split)
    # A split without validation cases is tested on training cases: what is compared are two ways of computing the same.
    role = "validation" if "validation" in roles else "train"
    chosen = roles[role][: gate["cases"]]
    limits = {key: gate[key] for key in ("slices", "forward_error", "flipped_share")}
    tested = Gate(lambda model: build_segmenter(settings, model), GridSettings(**trained["grid"]), where, **limits)
    found = tested.findings(network, [read_scan(Path(cases).parent, case) for case in chosen])
    described |= {"cases": chosen, "role": role, "seconds": time.perf_counter() - started}
    write_json(Path(verdict), {"device": where.type, "formats": found} | described)


if __name__ == "__main__":
    run(
        main,
        snakemake.log[0],
        **snakemake.input,
        **snakemake.output,
        **snakemake.params,
        device=snakemake.config["device"],  # no parameter: the verdict says for which device it is
        threads=snakemake.threads,
    )
