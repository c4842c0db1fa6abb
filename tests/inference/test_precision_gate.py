"""The precision gate and the use of its verdict in sampling (about 15 s)."""

import json
import logging
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import GRID, with_random_weights

from pd_ddpm.config.run import Run
from pd_ddpm.data.prepared import read_scan
from pd_ddpm.data.working_grid import GridSettings
from pd_ddpm.inference import gate_network, precision_gate
from pd_ddpm.inference.factory import build_segmenter
from pd_ddpm.inference.job import GateJob
from pd_ddpm.inference.precision_gate import Gate, PrecisionChoice, gated_precision
from pd_ddpm.models.factory import build_model
from pd_ddpm.models.weights import join_weights, load_tensors, save_metadata, save_weights
from pd_ddpm.runtime import precision
from pd_ddpm.runtime.compute import Compute
from pd_ddpm.runtime.precision import FLOAT32, PRECISIONS

pytestmark = pytest.mark.usefixtures("matmul_flags")

CPU = torch.device("cpu")
BFLOAT16 = PRECISIONS["bfloat16"]
LIMITS = {"tf32": 2e-3, "bfloat16": 2e-2, "float16": 2e-2}
TINY = {"channels": 8, "multipliers": [1, 2], "attention_at": [2], "residual_blocks": 1, "predicts": "mask"}
CHAIN = {"segmenter": "diffusion", "start": "noise", "t_start": 1000, "pool": 2, "reverse_steps": 4, "sampler": "ancestral"}
CHAIN |= {"variance": "small", "eta": 0.0, "weights": "ema"}


@pytest.fixture
def network(configured):
    return with_random_weights(configured("network", "denoiser", **TINY))


@pytest.fixture
def scans(prepared):
    return [read_scan(prepared, case) for case in ("three", "one")]


def gate(settings=CHAIN, spatial_dims=2, **changes):
    limits = {"num_slices": 2, "forward_error": LIMITS, "flipped_share": 0.1} | changes
    grid = GridSettings(**GRID, spatial_dims=spatial_dims)
    return Gate(lambda built: build_segmenter(settings, built), grid, CPU, **limits)


def test_gate_compares_bfloat16_with_float32_and_with_another_seed(network, scans):
    found = gate().compare(network, scans, [BFLOAT16])["bfloat16"]
    assert 1e-4 < found["forward_error"] < 2e-2
    assert 0 <= found["flipped_voxels"] < found["flipped_between_seeds"]
    assert found["passed"] == (found["flipped_voxels"] <= 0.1 * found["flipped_between_seeds"])
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    same = gate(forward_error={"float32": 0.0}, flipped_share=0.0).compare(network, scans, [FLOAT32])["float32"]
    assert (same["forward_error"], same["flipped_voxels"], same["passed"]) == (0, 0, True)


def test_gate_tests_a_network_of_volumes_on_whole_volumes_one_member_at_a_time(configured, scans):
    network, shapes = with_random_weights(configured("network", "denoiser", **TINY, spatial_dims=3)), []
    network.network.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    found = gate(spatial_dims=3).compare(network, scans, [BFLOAT16])["bfloat16"]
    assert 1e-4 < found["forward_error"] < 2e-2
    assert 0 <= found["flipped_voxels"] < found["flipped_between_seeds"]
    sizes = [GridSettings(**GRID, spatial_dims=3).working_grid(scan.brain, scan.spacing_mm)[0].size for scan in scans]
    padded = [tuple(length + length % 2 for length in size) for size in sizes]
    assert {shape[2:] for shape in shapes} == set(padded)
    assert {shape[:2] for shape in shapes} == {(1, 3)}


@pytest.mark.parametrize(
    ("changes", "passed"),
    [
        ({"flipped_share": 1.0}, True),
        ({"flipped_share": 0.0}, False),
        ({"flipped_share": 1.0, "forward_error": {"bfloat16": 1e-5}}, False),
    ],
)
def test_gate_requires_both_limits(network, scans, changes, passed):
    assert gate(**changes).compare(network, scans, [BFLOAT16])["bfloat16"]["passed"] is passed


def test_gate_fails_a_precision_with_nan_output(network, scans, monkeypatch):
    """The network returns NaN in the tested precision only, as float16 does beyond 65,504."""
    monkeypatch.setattr(precision_gate, "_output", lambda built, inputs: torch.full_like(inputs[0][:, :1], float("nan")))
    found = gate(flipped_share=1.0).compare(network, scans, [BFLOAT16])["bfloat16"]
    assert (found["forward_error"], found["passed"]) == (float("inf"), False)


def test_gate_tests_a_deterministic_network_by_its_output(configured, scans):
    built = build_model(configured("network", "attunet", channels=[4, 8]), 2)
    found = gate({"segmenter": "deterministic"}).compare(built, scans, [BFLOAT16])["bfloat16"]
    assert found["flipped_between_seeds"] is None
    assert found["passed"] == (found["forward_error"] <= 2e-2)


def test_gate_skips_unsupported_precisions(network, scans, monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
    assert gate().test(network, scans) == {}
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    assert list(gate().test(network, scans)) == ["bfloat16"]


# The choice of the precision

GPU = torch.device("cuda")
FAILED = "forward error 0.031 (limit 0.02), 7 flipped voxels (50 between seeds, limit 10% of them)"


def verdict(device="cpu", **passed):
    """The verdict on a network: whether each precision passed."""
    found = {"forward_error": 0.031, "forward_error_limit": 0.02, "flipped_voxels": 7, "flipped_between_seeds": 50}
    found["flipped_share_limit"] = 0.1
    return {"device": device, "formats": {name: found | {"passed": result} for name, result in passed.items()}}


@pytest.fixture
def machine(monkeypatch):
    """A function that sets whether the CPU computes in bfloat16, and the compute capability of the GPU."""

    def set_machine(bfloat16=False, capability=(9, 0)):
        monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: bfloat16)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    return set_machine


@pytest.mark.parametrize(
    ("capability", "passed", "failed", "name", "expected", "reason"),
    [
        # An H200 with the paper's denoiser: bfloat16 fails.
        ((9, 0), "float16 tf32", "bfloat16", "auto", "float16", "float16 is the fastest precision of the device and passed"),
        ((9, 0), "float16 tf32", "bfloat16", "bfloat16", "tf32", f"bfloat16 failed the test on this network: {FAILED}; tf32"),
        ((9, 0), "float16 bfloat16 tf32", "", "bfloat16", "bfloat16", "bfloat16 is set as `precision` and passed the test"),
        ((9, 0), "float16 bfloat16 tf32", "", "float32", "float32", "float32 is set as `precision` and needs no test"),
        ((8, 0), "bfloat16 tf32", "float16", "auto", "bfloat16", "bfloat16 passed the test on this network and is used"),
        ((8, 0), "tf32", "float16 bfloat16", "auto", "tf32", "tf32 passed the test on this network and is used instead"),
        ((8, 0), "tf32", "float16 bfloat16", "float16", "tf32", "tf32 passed the test on this network and is used instead"),
        ((8, 0), "", "float16 bfloat16 tf32", "auto", "float32", "float32 needs no test and is used instead"),
        ((8, 0), "float16 bfloat16", "tf32", "tf32", "float32", "tf32 failed the test on this network"),
        # Tested on an older GPU, which has no bfloat16 and no tf32.
        ((9, 0), "float16", "", "auto", "float16", "float16 is the fastest"),
        ((9, 0), "", "float16", "auto", "float32", "tf32 was not tested on this network"),
        # Sampled on an older GPU than the test ran on.
        ((7, 0), "float16 bfloat16 tf32", "", "auto", "float16", "float16 is the fastest"),
        ((7, 0), "bfloat16 tf32", "float16", "auto", "float32", "float16 failed the test on this network"),
    ],
)
def test_gated_precision_on_a_gpu_is_the_fastest_that_passed(
    machine, caplog, capability, passed, failed, name, expected, reason
):
    machine(capability=capability)
    tested = dict.fromkeys(passed.split(), True) | dict.fromkeys(failed.split(), False)
    with caplog.at_level(logging.INFO):
        choice = gated_precision(name, GPU, verdict("cuda", **tested))
    assert str(choice.precision) == expected
    assert reason in choice.reason
    is_warning = expected != name and (name != "auto" or expected == "float32")
    assert [(record.message, record.levelno) for record in caplog.records] == [
        (choice.reason, logging.WARNING if is_warning else logging.INFO)
    ]
    assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == (expected == "tf32")


@pytest.mark.parametrize("name", ["auto", "bfloat16"])
@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (verdict(bfloat16=True), None),
        (None, "bfloat16 was not tested on this network"),
        (verdict(), "bfloat16 was not tested on this network"),
        (verdict("cuda", bfloat16=True), "the network was tested on another type of device (cuda, not cpu)"),
        (verdict(bfloat16=False), f"bfloat16 failed the test on this network: {FAILED}"),
    ],
)
def test_gated_precision_requires_a_passed_test_on_this_device_type(machine, caplog, name, given, reason):
    machine(bfloat16=True)
    with caplog.at_level(logging.WARNING):
        choice = gated_precision(name, CPU, given)
    assert choice.precision == (BFLOAT16 if reason is None else FLOAT32)
    if reason is not None:
        assert choice.reason == f"{reason}; float32 needs no test and is used instead"
    assert caplog.messages == ([] if reason is None else [choice.reason])


def test_gated_precision_on_a_float32_cpu_warns_of_nothing(machine, caplog):
    machine(bfloat16=False)
    with caplog.at_level(logging.WARNING):
        choice = gated_precision("auto", CPU, verdict())
    assert choice == PrecisionChoice(FLOAT32, "float32 is the fastest precision of the device and needs no test")
    assert not caplog.messages
    with pytest.raises(ValueError, match="cpu does not compute in it natively"):
        gated_precision("bfloat16", CPU, verdict(bfloat16=True))


def test_gate_tests_all_precisions_of_the_device(machine, network, scans, monkeypatch):
    """Also those slower than the first that passes, since a later device may lack that one."""
    machine(capability=(8, 0))
    monkeypatch.setattr(Gate, "compare", lambda self, model, scans, precisions: list(map(str, precisions)))
    assert replace(gate(), device=GPU).test(network, scans) == ["float16", "bfloat16", "tf32"]
    machine(capability=(7, 0))
    assert replace(gate(), device=GPU).test(network, scans) == ["float16"]


# The jobs


@pytest.fixture
def trained(random_network, configured):
    """The files of a network."""
    return random_network(configured("network", "denoiser", **TINY))


def gate_job(trained, folder, device="cpu", compile="auto"):
    return GateJob(
        run=Run("dataset", "denoiser", 0, 0),
        settings=CHAIN,
        limits={"cases": 2, "slices": 2, "forward_error": LIMITS, "flipped_share": 1.0},
        cases=folder / "prepared.csv",
        splits=folder / "splits.csv",
        device=device,
        threads=1,
        code="",
        compute=Compute(device, "auto", 1, 6, compile),
        evaluations_per_slice=10,
        **trained,
    )


def test_verdict_decides_the_precision_of_sampling(tmp_path, prepared, script, configured, trained, sample_job, monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr(gate_network, "only_float32", lambda device: False)
    script("gate")(gate_job(trained, prepared), str(tmp_path / "precision.json"))
    verdict = json.loads((tmp_path / "precision.json").read_text(encoding="utf-8"))
    assert (verdict["device"], verdict["role"], verdict["cases"]) == ("cpu", "validation", ["three"])
    assert verdict["formats"]["bfloat16"]["passed"]

    method, metadata = configured("method", "ddpm", reverse_steps=3, samples=2, pool=2, precision="auto"), {}
    for name, passed in (("passed", True), ("failed", False)):
        verdict["formats"]["bfloat16"]["passed"] = passed
        verdict_file = tmp_path / f"{name}.json"
        verdict_file.write_text(json.dumps(verdict), encoding="utf-8")
        script("sample")(sample_job(tmp_path / name, "ddpm", method, batch=6, gate=verdict_file, **trained))
        metadata[name] = json.loads((tmp_path / name / "method.json").read_text(encoding="utf-8"))
    assert metadata["passed"]["provenance"]["precision"] == "bfloat16"
    assert metadata["passed"]["precision_because"].startswith("bfloat16 is the fastest precision of the device and passed")
    assert metadata["failed"]["provenance"]["precision"] == "float32"
    assert metadata["failed"]["precision_because"].startswith("bfloat16 failed the test on this network")
    half, full = (nib.load(tmp_path / name / "four_samples.nii.gz").get_fdata() for name in metadata)
    assert np.abs(half - full).max() > 0
    assert np.abs(half - full).mean() < 0.02


@pytest.mark.parametrize("passed", [True, False])
def test_verdict_decides_whether_a_network_samples_compiled(
    tmp_path, prepared, script, configured, trained, sample_job, without_code_generation, monkeypatch, caplog, passed
):
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr(gate_network, "only_float32", lambda device: False)
    script("gate")(gate_job(trained, prepared, compile=True), str(tmp_path / "precision.json"))
    verdict = json.loads((tmp_path / "precision.json").read_text(encoding="utf-8"))
    result = verdict["formats"]["bfloat16"]
    assert result["compiled"].pop("batches") == [[*size, 6] for size in sorted(without_code_generation)]
    # Without code generation, a compiled network computes what the network does, except for the filling of a batch.
    assert result["compiled"]["forward_error"] == pytest.approx(result["forward_error"], rel=0.2)
    assert result["compiled"]["passed"]

    result["compiled"] |= {"passed": passed, "batches": []}
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(verdict), encoding="utf-8")
    without_code_generation.clear()
    method = configured("method", "ddpm", reverse_steps=3, samples=2, pool=2, precision="auto")
    job = sample_job(tmp_path / "samples", "ddpm", method, batch=6, gate=changed, **trained)
    with caplog.at_level(logging.WARNING):
        script("sample")(replace(job, compute=replace(job.compute, compile=True)))
    assert bool(without_code_generation) is passed
    assert ("failed the test compiled in bfloat16" in caplog.text) is not passed


def test_gate_tests_the_weights_that_are_sampled(prepared, trained, monkeypatch):
    monkeypatch.setattr(gate_network, "only_float32", lambda device: False)
    tested = []
    monkeypatch.setattr(Gate, "test", lambda self, model, scans: tested.append(model.state_dict()) or {})
    average = load_tensors(trained["weights"])
    raw = {name: tensor + 1 for name, tensor in average.items()}
    metadata = json.loads(trained["network_metadata"].read_text(encoding="utf-8"))
    save_weights(trained["weights"], join_weights(average, raw, "raw"), metadata["settings"] | {"image_channels": 2})
    save_metadata(trained["network_metadata"], [trained["weights"]], metadata)
    for kind in ("ema", "raw"):
        job = gate_job(trained, prepared)
        verdict = gate_network.gate_network(replace(job, settings=job.settings | {"weights": kind}))
        assert verdict["weights"] == kind
    for state, expected in zip(tested, (average, raw), strict=True):
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_gate_without_validation_cases_tests_training_cases(prepared, trained, monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    splits = prepared / "splits.csv"
    splits.write_text(splits.read_text(encoding="utf-8").replace("validation", "test"), encoding="utf-8")
    monkeypatch.setattr(gate_network, "only_float32", lambda device: False)
    verdict = gate_network.gate_network(gate_job(trained, prepared))
    assert (verdict["role"], verdict["cases"]) == ("train", ["one", "two"])


def test_gate_on_a_float32_cpu_reads_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(gate_network, "only_float32", lambda device: True)
    missing = {"weights": tmp_path / "missing", "network_metadata": tmp_path / "missing"}
    verdict = gate_network.gate_network(gate_job(missing, tmp_path / "missing"))
    assert (verdict["device"], verdict["formats"]) == ("cpu", {})
