"""Export a trained method as a bundle, and segment scans with it as the workflow does (about 40 s).

The networks have random weights. The workflow's own scripts run on five synthetic heads.
"""

import gzip
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import nn

from pd_ddpm.commands.main import main
from pd_ddpm.config import resolve
from pd_ddpm.config.run import Run
from pd_ddpm.data.preparation.normalise import read_normalised
from pd_ddpm.data.preparation.resample import resample_to
from pd_ddpm.data.scan import Scan
from pd_ddpm.deployment import predict_scan, scan_folder
from pd_ddpm.deployment.bundle import BundleError, override_sampling, read_bundle, write_checksums
from pd_ddpm.deployment.model_card import model_card
from pd_ddpm.deployment.review_page import review_page
from pd_ddpm.deployment.scan_checks import appearance_findings
from pd_ddpm.deployment.scan_result import ScanResult
from pd_ddpm.evaluation.score_cases import score_cases
from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.ensemble import Segmentation
from pd_ddpm.inference.job import SampleJob
from pd_ddpm.models import weights
from pd_ddpm.models.factory import build_model
from pd_ddpm.runtime.compute import Compute
from pd_ddpm.runtime.files import write_json
from pd_ddpm.runtime.sealed import write_sealed_json

ROOT = Path(__file__).parents[2]
SHAPE, AFFINE = (40, 58, 14), np.diag([3.2, 3.2, 5.0, 1.0])
GRID = {"spacing_mm": 5.0, "region": "brain_box", "margin_mm": 4.0, "minimum_brain_cm2": 20}
RUN = "split-0_seed-0"
CONFIG = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
CONFIG["networks"]["denoiser-3d"] = {"like": "denoiser", "spatial_dims": 3, "crop": [16, 16, 8], "coordinates": True}
CONFIG["methods"]["pd-ddpm-3d"] = {"like": "pd-ddpm", "label": "PD-DDPM (3D)", "network": "denoiser-3d"}
NETWORKS = {
    "attunet": {"channels": [4, 8]},
    "denoiser": {"channels": 8, "multipliers": [1, 2], "attention_at": [2], "residual_blocks": 1},
    "denoiser-3d": {"channels": 8, "multipliers": [1, 2], "attention_at": [2], "residual_blocks": 1},
    "probabilistic-unet": {"channels": [4, 8], "latent": 2},
}
CHAIN = {"samples": 3, "pool": 4, "reverse_steps": 10, "precision": "float32"}
METHODS = {
    "attunet": {"pool": 1, "precision": "float32"},
    "pd-ddpm": CHAIN,
    "probabilistic-unet": {"samples": 3, "pool": 4, "precision": "float32"},
    "es-ddpm": CHAIN,
    "pd-ddpm@weights=raw": CHAIN,
    "pd-ddpm-3d": CHAIN,
}


def script(name: str) -> Callable[..., None]:
    return runpy.run_path(str(ROOT / "workflow" / "scripts" / f"{name}.py"))["main"]


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def make_scans(folder: Path) -> pd.DataFrame:
    """Write five synthetic heads of 560 ml with RAS axes and a T1 on a coarser grid, and return the case table."""
    random = np.random.default_rng(0)
    centre, radii = np.array([20, 29, 7]).reshape(3, 1, 1, 1), np.array([17, 25, 6.5]).reshape(3, 1, 1, 1)
    distance = np.linalg.norm((np.indices(SHAPE) - centre) / radii, axis=0)
    lesions = np.linalg.norm(
        (np.indices(SHAPE) - np.array([13, 26, 8]).reshape(3, 1, 1, 1)) / [[[[2]]], [[[3]]], [[[2]]]], axis=0
    )
    rows = []
    for number in range(5):
        scan = 200 * (distance < 1) + 150 * (lesions < 1 + number / 5) + random.normal(0, 5, SHAPE)
        place = folder / f"p{number}"
        save(place / "FLAIR.nii.gz", scan.clip(0).astype(np.float32))
        t1 = 300 * (distance < 1) + random.normal(0, 5, SHAPE)
        save(place / "T1.nii.gz", t1[::2, ::2].clip(0).astype(np.float32), AFFINE @ np.diag([2, 2, 1, 1]))
        save(place / "mask.nii.gz", (lesions < 1 + number / 5).astype(np.uint8))
        role = ["train", "train", "train", "test", "test"][number]
        row = {"case": f"p{number}", "site": "north" if number % 2 else "south", "role": role, "fold": pd.NA}
        row |= {name: str(place / f"{name}.nii.gz") for name in ("FLAIR", "T1", "mask")}
        rows.append(row | {"FLAIR_transform": "", "T1_transform": "", "observer_2": "", "observer_3": ""})
    return pd.DataFrame(rows)


def train(folder: Path, name: str) -> None:
    """Write the files of a network with random weights. Their scale gives lesion probabilities far from 0 and 1.

    The weights that were not validated have the opposite sign.
    """
    torch.manual_seed(len(name))
    chosen = resolve.network(CONFIG, name) | NETWORKS[name]
    network = build_model(chosen, 2)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    state, kind = network.state_dict(), "raw" if chosen["weights"] == "ema" else "ema"
    others = {key: -tensor for key, tensor in state.items()}
    weights.save_weights(folder / "model.safetensors", weights.join_weights(state, others, kind))
    card = {"settings": chosen, "image_channels": 2, "grid": GRID, "training_cases": ["p0", "p1", "p2"]}
    weights.save_metadata(folder / "model.json", [folder / "model.safetensors"], card)


@pytest.fixture(scope="module")
def workflow(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Synthetic scans, and the results of the workflow's scripts on them; `results` is the folder of the dataset."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("workflow")
    results = folder / "results" / "own"
    table = make_scans(folder / "scans")
    (results / "cases").mkdir(parents=True)
    table.to_csv(results / "cases.csv", index=False)
    preparation = {"interpolator": "linear", "normalisation": "zscore_brain", "orientation": "LPS"}
    cases, splits = results / "cases" / "prepared.csv", results / "splits.csv"
    job = SimpleNamespace(
        wildcards=SimpleNamespace(dataset="own"),
        input=SimpleNamespace(table=str(results / "cases.csv")),
        output=SimpleNamespace(cases=str(cases), metadata=str(results / "cases" / "preparation.json")),
        params=SimpleNamespace(channels=["FLAIR", "T1"], settings=preparation, code=""),
        config={"datasets": {"own": {}}},
        threads=1,
    )
    script("prepare")(job)
    script("split")(str(results / "cases.csv"), str(splits), {"count": 5, "seed": 0, "stratify_by_site": True}, False)
    for name in NETWORKS:
        train(results / "networks" / name / RUN, name)
    for name, changes in METHODS.items():
        chosen = resolve.method(CONFIG, name) | {"grid_members": CONFIG["grid"]["members"]} | changes
        chosen.pop("label")
        target = results / "predictions" / name / RUN
        target.mkdir(parents=True)
        network = results / "networks" / chosen["network"] / RUN
        start = chosen.get("presegmentation")
        job = SampleJob(
            run=Run("own", name, 0, 0),
            compute=Compute("cpu", chosen["precision"], threads=1, batch=8),
            settings=chosen,
            cases=cases,
            splits=splits,
            weights=network / "model.safetensors",
            network_metadata=network / "model.json",
            folder=target,
            code="",
            config={},
            presegmentation=start and results / "predictions" / start / RUN / "predictions.csv",
            method_metadata=target / "method.json",
        )
        script("sample")(job)
        scores = results / "scores" / name / f"{RUN}.csv"
        scores.parent.mkdir(parents=True)
        identity = {"dataset": "own", "method": name, "split": 0, "seed": 0}
        score_cases(cases, target / "predictions.csv", target / "method.json", identity, CONFIG["evaluation"]).to_csv(
            scores, index=False
        )
    bundle = folder / "bundle"
    assert main(["export", str(results), "--output", str(bundle)]) == 0
    return SimpleNamespace(folder=folder, scans=folder / "scans", results=results, bundle=bundle)


@pytest.fixture
def bundle(workflow: SimpleNamespace, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may damage."""
    return shutil.copytree(workflow.bundle, tmp_path / "bundle")


@pytest.fixture(autouse=True)
def _short_page(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the review page in tests that do not read it, because its figures take most of a prediction's time."""
    if "page_file" not in request.fixturenames:
        monkeypatch.setattr(scan_folder, "review_page", lambda *_: "<!doctype html>")


@pytest.fixture
def page_file(tmp_path: Path) -> Path:
    """Path of the review page in the folder `out`."""
    return tmp_path / "out" / "quality.html"


@pytest.fixture
def predict(workflow: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Return the exit code and the output of a prediction, by default of scan p3 into the folder `out`."""

    def call(*more: str, model: Path | None = None, scan: Path | None = None, output: str = "out") -> tuple[int, str]:
        scan = scan or workflow.scans / "p3"
        arguments = ["--flair", str(scan / "FLAIR.nii.gz"), "--t1", str(scan / "T1.nii.gz"), "--threads", "1", "--batch", "8"]
        place = ["--model", str(model or workflow.bundle), "--output", str(tmp_path / output)]
        code = main(["predict", *arguments, *place, *more])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return call


# Bundle


def test_export_bundle_describes_the_method_without_names_of_cases(workflow):
    description = read_bundle(workflow.bundle).description
    assert [stage["method"] for stage in description["stages"]] == ["attunet", "pd-ddpm"]
    assert description["stages"][1]["settings"]["pool"] == 3  # the ensemble, not the larger pool of the figures
    assert description["preparation"]["channels"] == ["FLAIR", "T1"]
    assert description["orientation"] == "LPS"
    assert description["training"]["sites"] == {"north": 1, "south": 2}
    scores = pd.read_csv(workflow.results / "scores" / "pd-ddpm" / f"{RUN}.csv")
    assert description["scores"]["metrics"]["dice"]["mean"] == pytest.approx(scores["dice"].mean(), abs=1e-6)
    assert description["scores"]["metrics"]["ece"]["mean"] == pytest.approx(scores["ece"].mean(), abs=1e-6)
    assert description["scores"]["worst"][0]["dice"] == pytest.approx(scores["dice"].min(), abs=1e-6)
    text = "".join(path.read_text(encoding="utf-8") for path in workflow.bundle.rglob("*") if path.suffix in (".json", ".md"))
    assert not re.search(r"\bp[0-4]\b", text)
    assert str(workflow.folder) not in text


def test_model_card_states_intended_use_licence_and_scores(workflow):
    card = (workflow.bundle / "README.md").read_text(encoding="utf-8")
    for words in (
        "Research only. Not a medical device",
        "not stated; ask the provider",
        "expected calibration error",
        "south 2",
    ):
        assert words in card
    dice = read_bundle(workflow.bundle).description["scores"]["metrics"]["dice"]
    assert f"| Dice | {dice['mean']:.3f} | {dice['sd']:.3f} |" in card


def test_write_checksums_is_verified_by_sha256sum(bundle):
    checked = subprocess.run(["sha256sum", "--check", "checksums.txt"], cwd=bundle, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.count(": OK") == 6


def test_export_bundle_keeps_the_trained_weights(workflow):
    for name in ("attunet", "denoiser"):
        checkpoint = weights.load_tensors(workflow.results / "networks" / name / RUN / "model.safetensors")
        theirs = weights.validated_weights(checkpoint)
        ours = weights.load_tensors(workflow.bundle / "networks" / f"{name}.safetensors")
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_export_of_a_method_with_raw_weights_keeps_those_only(workflow, tmp_path):
    method, bundle = "pd-ddpm@weights=raw", tmp_path / "bundle"
    assert main(["export", str(workflow.results), "--method", method, "--output", str(bundle)]) == 0
    theirs = weights.load_tensors(workflow.results / "networks" / "denoiser" / RUN / "model.safetensors")
    ours = weights.load_tensors(bundle / "networks" / "denoiser_raw.safetensors")
    assert ours.keys() == weights.validated_weights(theirs).keys()
    assert all(torch.equal(ours[key], theirs[f"raw/{key}"]) for key in ours)
    members = [
        nib.load(workflow.results / "predictions" / name / RUN / "p3_samples.nii.gz").get_fdata()
        for name in ("pd-ddpm", method)
    ]
    assert np.abs(members[0] - members[1]).max() > 0.1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--method", "pd-dpm"],
            [
                "there are no predictions of 'pd-dpm'",
                "available methods: attunet, es-ddpm, pd-ddpm, pd-ddpm-3d, probabilistic-unet",
            ],
        ),
        (["--split", "3"], ["split-3_seed-0", "no method has been sampled there"]),
    ],
)
def test_export_without_predictions_names_the_available_methods(workflow, tmp_path, capsys, arguments, words):
    assert main(["export", str(workflow.results), "--output", str(tmp_path / "b"), *arguments]) == 1
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert not (tmp_path / "b").exists()


def test_export_into_a_used_folder_leaves_it_unchanged(workflow, tmp_path, capsys):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("all of it", encoding="utf-8")
    call = ["export", str(workflow.results), "--output", str(tmp_path / "b")]
    assert main([*call, "--overwrite"]) == 1
    assert "it holds files that are not a bundle. Choose another folder." in capsys.readouterr().err
    assert (tmp_path / "b" / "thesis.txt").read_text(encoding="utf-8") == "all of it"
    (tmp_path / "b" / "thesis.txt").unlink()
    assert main(call) == 0
    assert main(call) == 1
    assert "it holds a bundle. Choose another folder, or replace the bundle with `--overwrite`." in capsys.readouterr().err
    assert main([*call, "--overwrite", "--method", "attunet", "--data-licence", "CC BY 4.0"]) == 0
    card = (tmp_path / "b" / "README.md").read_text(encoding="utf-8")
    assert "CC BY 4.0" in card
    assert not (tmp_path / "b" / "networks" / "denoiser.safetensors").exists()


def test_export_without_scores_names_the_command(workflow, tmp_path, capsys):
    results = shutil.copytree(workflow.results, tmp_path / "own")
    (results / "scores" / "pd-ddpm" / f"{RUN}.csv").unlink()
    assert main(["export", str(results), "--output", str(tmp_path / "b")]) == 1
    assert "the model card needs these scores. Run `snakemake " in capsys.readouterr().err


def test_export_of_a_method_that_uses_reliability_names_one_that_does_not(workflow, tmp_path, capsys):
    results = shutil.copytree(workflow.results, tmp_path / "own")
    path = results / "predictions" / "pd-ddpm" / RUN / "method.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    write_sealed_json(path, metadata | {"settings": metadata["settings"] | {"start_reliability": "validation"}})
    assert main(["export", str(results), "--output", str(tmp_path / "b")]) == 1
    message = capsys.readouterr().err
    assert "uses the reliability of its pre-segmentation, which a bundle cannot hold" in message
    assert "Export pd-ddpm@start_reliability=none" in message


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


class Payload:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (exec, (f"open({str(self.path)!r}, 'w').close()",))


def rewrite(bundle: Path, change: Callable[[dict], object]) -> None:
    """Change bundle.json and update its checksum."""
    description = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    change(description)
    write_json(bundle / "bundle.json", description)
    write_checksums(bundle)


def rewrite_network(bundle: Path, change: Callable[[dict], object]) -> None:
    """Change the metadata of the denoiser and update its checksum."""
    file = bundle / "networks" / "denoiser.json"
    metadata = json.loads(file.read_text(encoding="utf-8"))
    change(metadata)
    write_json(file, metadata)
    write_checksums(bundle)


def nest(bundle: Path, name: str) -> None:
    """Replace a JSON file by nested lists that exhaust the recursion of a parser."""
    (bundle / name).write_text("[" * 200_000, encoding="utf-8")
    write_checksums(bundle)


def link_out(bundle: Path, name: str) -> None:
    """Replace a file by a symbolic link to an equal file outside of the bundle."""
    (bundle / name).rename(bundle.with_name("elsewhere"))
    (bundle / name).symlink_to(bundle.with_name("elsewhere"))


DAMAGES = {
    "a bit of the weights": (
        lambda bundle: flip_a_bit(bundle / "networks" / "denoiser.safetensors"),
        ["networks/denoiser.safetensors", "it was changed or damaged after the export", "Copy the bundle again"],
    ),
    "a word of the description": (
        lambda bundle: (bundle / "bundle.json").write_text("{}", encoding="utf-8"),
        ["bundle.json", "SHA-256 differs"],
    ),
    "a lost file": (
        lambda bundle: (bundle / "networks" / "attunet.json").unlink(),
        ["attunet.json", "the file does not exist"],
    ),
    "no checksums": (lambda bundle: (bundle / "checksums.txt").unlink(), ["it is not a bundle", "pd-ddpm export"]),
    "a foreign file": (
        lambda bundle: (bundle / "networks" / "more.pt").write_bytes(b"x"),
        ["networks/more.pt", "is not listed in checksums.txt"],
    ),
    "a path that leads out": (
        lambda bundle: (bundle / "checksums.txt").write_text(f"{'0' * 64}  ../../secret\n", encoding="utf-8"),
        ["'" + "0" * 64 + "  ../../", "is not a checksum of a bundle's file"],
    ),
    "a later format": (
        lambda bundle: rewrite(bundle, lambda description: description.update(format=2)),
        ["format 2", "Install a newer version"],
    ),
    "a key that lacks": (
        lambda bundle: rewrite(bundle, lambda description: description.pop("scores")),
        ["bundle.json: `scores` missing. Make the bundle again"],
    ),
    "a network's name with a path": (
        lambda bundle: rewrite(bundle, lambda description: description["stages"][0].update(network="../../attunet")),
        ["bundle.json: `stages.0.network` '../../attunet' does not have the required form"],
    ),
    "settings that are none": (
        lambda bundle: rewrite(bundle, lambda description: description["stages"][1]["settings"].update(sampler="heun")),
        ["bundle.json: `stages.1.settings.sampler` 'heun' is not valid", "Make the bundle again"],
    ),
    "a method that is no text": (
        lambda bundle: rewrite(bundle, lambda description: description["stages"][0].update(method=5)),
        ["bundle.json: `stages.0.method` 5 is not text"],
    ),
    "a chain without its start": (
        lambda bundle: rewrite(bundle, lambda description: description["stages"][1]["settings"].pop("t_start")),
        ["bundle.json: `stages.1.settings.t_start` it is missing"],
    ),
    "scores that are none": (
        lambda bundle: rewrite(bundle, lambda description: description["scores"].update(worst=[{"site": "a"}])),
        ["bundle.json: `scores.worst.0.dice` missing"],
    ),
    "an unknown orientation": (
        lambda bundle: rewrite(bundle, lambda description: description.update(orientation="LLS")),
        ["bundle.json: `orientation` 'LLS' is not valid"],
    ),
    "a list in place of the description": (
        lambda bundle: ((bundle / "bundle.json").write_text("[]", encoding="utf-8"), write_checksums(bundle)),
        ["bundle.json: [] is not a section with keys"],
    ),
    "a nested description": (lambda bundle: nest(bundle, "bundle.json"), ["bundle.json: it is not JSON (RecursionError"]),
    "nested metadata": (lambda bundle: nest(bundle, "networks/denoiser.json"), ["denoiser.json: it is not JSON"]),
    "deep settings": (
        lambda bundle: rewrite_network(bundle, lambda metadata: metadata.update(more=json.loads("[" * 50 + "]" * 50))),
        ["denoiser.json: it is nested more than 20 levels deep"],
    ),
    "a trillion timesteps": (
        lambda bundle: rewrite_network(bundle, lambda metadata: metadata["settings"].update(T=10**12)),
        ["denoiser.json: `settings.T` 1000000000000 is out of range"],
    ),
    "a working grid of tiny pixels": (
        lambda bundle: rewrite_network(bundle, lambda metadata: metadata["grid"].update(spacing_mm=1e-9)),
        ["denoiser.json: `grid.spacing_mm` 1e-09 is out of range"],
    ),
    "widths that the weights do not have": (
        lambda bundle: rewrite_network(bundle, lambda metadata: metadata["settings"].update(multipliers=[64] * 12)),
        ["`multipliers` is [1, 2] in "],
    ),
    "a start above the last timestep": (
        lambda bundle: rewrite_network(bundle, lambda metadata: metadata["settings"].update(t_max=100)),
        ["denoiser.json: T' of pd-ddpm, `t_max` and `T` must not decrease, but are 300, 100 and 1000"],
    ),
    "a network of another kind": (
        lambda bundle: rewrite(bundle, lambda description: description["stages"][0]["settings"].update(segmenter="latent")),
        ["attunet.json: attunet is latent and cannot use the architecture attention_unet"],
    ),
    "a network of three channels": (
        lambda bundle: rewrite_network(bundle, lambda metadata: metadata.update(image_channels=3)),
        ["denoiser.json: `image_channels` is 3, but the bundle has the channels FLAIR, T1"],
    ),
    "a number of many digits": (
        lambda bundle: ((bundle / "bundle.json").write_text("9" * 5000, encoding="utf-8"), write_checksums(bundle)),
        ["bundle.json: it is not JSON (ValueError"],
    ),
    "weights outside of the bundle": (
        lambda bundle: link_out(bundle, "networks/denoiser.safetensors"),
        ["denoiser.safetensors: it is a symbolic link to ", "outside of the bundle. Copy the bundle again"],
    ),
    "checksums outside of the bundle": (
        lambda bundle: link_out(bundle, "checksums.txt"),
        ["checksums.txt: it is a symbolic link that leaves the bundle"],
    ),
    "a start that no stage draws": (
        lambda bundle: rewrite(bundle, lambda description: description["stages"].pop(0)),
        ["pd-ddpm starts from attunet, which is not an earlier stage"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_predict_with_a_damaged_bundle_stops(bundle, predict, tmp_path, damage):
    function, words = DAMAGES[damage]
    function(bundle)
    code, printed = predict(model=bundle)
    assert code == 1
    assert all(word in printed for word in words), printed
    assert "Traceback" not in printed
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_predict_with_a_pickle_in_a_bundle_does_not_execute_it(bundle, predict, tmp_path):
    """A pickle in place of weights, with matching checksums and metadata, is refused and not loaded."""
    torch.save(Payload(tmp_path / "executed"), bundle / "networks" / "denoiser.safetensors")
    card = json.loads((bundle / "networks" / "denoiser.json").read_text(encoding="utf-8"))
    card["sha256"] = {"denoiser.safetensors": weights.file_sha256(bundle / "networks" / "denoiser.safetensors")}
    write_json(bundle / "networks" / "denoiser.json", card)
    write_checksums(bundle)
    code, printed = predict(model=bundle)
    assert code == 1
    assert "denoiser.safetensors: it cannot be read" in printed
    assert not (tmp_path / "executed").exists()


# Prediction


@pytest.mark.parametrize("correction", [None, "none", "n4"])
def test_scan_is_read_with_the_bias_correction_of_the_bundle(workflow, bundle, tmp_path, correction):
    """A bundle that does not name one is older than the key, and was trained without."""
    rewrite(bundle, lambda description: description["preparation"].update({"bias_correction": correction}))
    if correction is None:
        rewrite(bundle, lambda description: description["preparation"].pop("bias_correction"))
    images = {channel: workflow.scans / "p3" / f"{channel}.nii.gz" for channel in ("FLAIR", "T1")}
    case = scan_folder.make_scan_row(images, {}, ["FLAIR", "T1"], "p3")
    scan = scan_folder.ScanFolder(tmp_path / "out", case, {}).read(read_bundle(bundle))
    expected = read_normalised(case, ["FLAIR", "T1"], bias_correction=correction or "none")
    np.testing.assert_array_equal(scan.image, expected.image)
    assert f"bias correction {correction or 'none'}" in model_card(read_bundle(bundle).description).markdown()


def workflow_members(workflow, method: str, case: str) -> nib.Nifti1Image:
    """Return the members that the workflow has sampled, reoriented to the axes of the scan."""
    image = nib.load(workflow.results / "predictions" / method / RUN / f"{case}_samples.nii.gz")
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    return nib.as_closest_canonical(image)


@pytest.mark.parametrize("method", ["pd-ddpm", "es-ddpm", "attunet", "probabilistic-unet", "pd-ddpm@weights=raw", "pd-ddpm-3d"])
def test_predict_equals_the_workflow(workflow, predict, tmp_path, method):
    bundle = tmp_path / "bundle"
    assert main(["export", str(workflow.results), "--method", method, "--output", str(bundle)]) == 0
    code, printed = predict("--name", "p3", model=bundle)
    assert code == 0, printed
    theirs = workflow_members(workflow, method, "p3")
    members = theirs.get_fdata(dtype=np.float32)
    members = members.reshape(*SHAPE, -1)[..., :3]
    flair = nib.load(workflow.scans / "p3" / "FLAIR.nii.gz")
    np.testing.assert_allclose(theirs.affine, flair.affine, atol=1e-4)
    ours = {name: nib.load(tmp_path / "out" / f"{name}.nii.gz") for name in ("mask", "probability", "uncertainty")}
    for image in ours.values():
        np.testing.assert_array_equal(image.affine, flair.affine)
        for field in ("qform_code", "sform_code", "pixdim", "srow_x", "quatern_b"):
            np.testing.assert_array_equal(image.header[field], flair.header[field])
    np.testing.assert_allclose(ours["probability"].get_fdata(), members.mean(axis=-1), atol=1e-6)
    np.testing.assert_array_equal(ours["mask"].get_fdata(), members.mean(axis=-1) >= 0.5 - 1e-6)
    variance = members.var(axis=-1, ddof=1) if members.shape[-1] > 1 else np.zeros(SHAPE)
    np.testing.assert_allclose(ours["uncertainty"].get_fdata(), variance, atol=1e-6)
    assert members.std() > 0.05
    assert ours["mask"].get_fdata().any()


def test_predict_samples_slices_in_batches_and_members_of_volumes_one_by_one(workflow, predict, tmp_path, monkeypatch):
    batches, segment = [], predict_scan.segment_case

    def record(*arguments, batch, **options):
        batches.append(batch)
        return segment(*arguments, batch=batch, **options)

    monkeypatch.setattr(predict_scan, "segment_case", record)
    bundle = tmp_path / "bundle"
    assert main(["export", str(workflow.results), "--method", "pd-ddpm-3d", "--output", str(bundle)]) == 0
    assert predict("--name", "p3", model=bundle)[0] == 0
    assert batches == [8, 1]


@pytest.mark.parametrize("part", ["mask", "samples"])
def test_predict_from_the_mask_of_the_presegmenter_equals_predict_without_the_option(workflow, predict, tmp_path, part):
    flair = nib.load(workflow.scans / "p3" / "FLAIR.nii.gz")
    stored = nib.load(workflow.results / "predictions" / "attunet" / RUN / f"p3_{part}.nii.gz")
    assert nib.aff2axcodes(stored.affine) != nib.aff2axcodes(flair.affine)  # reoriented by the workflow
    assert predict("--name", "p3")[0] == 0
    mask = workflow.results / "predictions" / "attunet" / RUN / f"p3_{part}.nii.gz"
    code, printed = predict("--name", "p3", "--presegmentation", str(mask), output="from-file")
    assert code == 0, printed
    for name in ("mask", "probability", "uncertainty"):
        expected, actual = (nib.load(tmp_path / folder / f"{name}.nii.gz").get_fdata() for folder in ("out", "from-file"))
        np.testing.assert_array_equal(actual, expected)
    record = json.loads((tmp_path / "from-file" / "prediction.json").read_text(encoding="utf-8"))["row"]
    assert record["images"]["presegmentation"] == mask.name
    assert record["made"]["Methods"] == f"mask of another program ({mask.name}) → pd-ddpm"
    assert "SHA-256 of presegmentation" in record["made"]
    # Another mask is another prediction.
    save(tmp_path / "other.nii.gz", np.zeros(SHAPE, np.uint8))
    code, printed = predict("--name", "p3", "--presegmentation", str(tmp_path / "other.nii.gz"), output="from-file")
    assert code == 1
    assert "of another prediction" in printed


def test_predict_from_an_unusable_mask_names_it(workflow, predict, tmp_path):
    save(tmp_path / "labels.nii.gz", np.full(SHAPE, 2, np.uint8))
    code, printed = predict("--presegmentation", str(tmp_path / "labels.nii.gz"))
    assert code == 1
    assert "labels.nii.gz: holds 2, but a mask holds values from 0 to 1" in printed
    save(tmp_path / "small.nii.gz", np.zeros((4, 4, 4), np.uint8))
    assert "its shape (4, 4, 4) differs from" in predict("--presegmentation", str(tmp_path / "small.nii.gz"))[1]
    unet = tmp_path / "unet"
    assert main(["export", str(workflow.results), "--method", "attunet", "--output", str(unet)]) == 0
    code, printed = predict("--presegmentation", str(tmp_path / "small.nii.gz"), model=unet)
    assert code == 1
    assert "--presegmentation: attunet starts from no pre-segmentation." in printed


def test_bundle_of_a_method_that_starts_from_files_needs_the_option(workflow, predict, tmp_path, capsys):
    results = tmp_path / "own"
    shutil.copytree(workflow.results, results)
    shutil.copytree(results / "predictions" / "attunet", results / "predictions" / "nnunet")
    files = results / "predictions" / "nnunet" / RUN / "method.json"
    method = json.loads(files.read_text(encoding="utf-8"))
    write_sealed_json(files, method | {"method": "nnunet", "network": None, "settings": {"segmenter": "files"}})
    chain = results / "predictions" / "pd-ddpm" / RUN / "method.json"
    write_sealed_json(chain, json.loads(chain.read_text(encoding="utf-8")) | {"presegmentation": "nnunet"})
    assert main(["export", str(results), "--output", str(tmp_path / "bundle")]) == 0
    printed = capsys.readouterr().out
    assert "pd-ddpm starts from masks of nnunet: `pd-ddpm predict` needs such a mask as --presegmentation." in printed
    made = read_bundle(tmp_path / "bundle")
    assert (len(made.stages), made.presegmentation_from_file) == (1, "nnunet")
    assert "masks of nnunet, which another program makes" in (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
    code, printed = predict(model=tmp_path / "bundle")
    assert code == 1
    assert "--presegmentation: pd-ddpm starts from masks of nnunet, which another program makes. Give such a mask" in printed
    mask = workflow.results / "predictions" / "attunet" / RUN / "p3_mask.nii.gz"
    assert predict("--presegmentation", str(mask), model=tmp_path / "bundle")[0] == 0
    code, printed = (
        main(["export", str(results), "--method", "nnunet", "--output", str(tmp_path / "other")]),
        capsys.readouterr(),
    )
    assert code == 1
    assert "the masks of 'nnunet' are files of another program, so there is no network to export" in printed.err


def test_bids_app_segments_the_named_participants_as_predict_does(workflow, predict, tmp_path, capsys):
    study = tmp_path / "study"
    for number in (3, 4):
        anat = study / f"sub-0{number}" / "ses-1" / "anat"
        anat.mkdir(parents=True)
        for channel, suffix in (("FLAIR", "FLAIR"), ("T1", "T1w")):
            shutil.copy(workflow.scans / f"p{number}" / f"{channel}.nii.gz", anat / f"sub-0{number}_ses-1_{suffix}.nii.gz")
    (study / "dataset_description.json").write_text('{"Name": "study", "BIDSVersion": "1.10.0"}', encoding="utf-8")
    output = study / "derivatives" / "pd-ddpm"
    arguments = ["bids", str(study), str(output), "participant", "--model", str(workflow.bundle), "--threads", "1"]
    assert main([*arguments, "--participant-label", "07"]) == 1
    assert "sub-07 has no scan in" in capsys.readouterr().err
    code, printed = main([*arguments, "--participant-label", "03", "--batch", "8"]), capsys.readouterr()
    assert code == 0, printed.err
    assert f"1 cases of pd-ddpm, written to {output}" in printed.out
    assert (output / "dataset_description.json").is_file()
    masks = sorted(path.relative_to(output).as_posix() for path in output.rglob("*_mask.nii.gz"))
    assert masks == ["sub-03/ses-1/anat/sub-03_ses-1_space-orig_label-WMH_desc-pdDdpm_mask.nii.gz"]
    assert predict("--name", "sub-03_ses-1", output="single")[0] == 0
    ours, alone = (nib.load(path).get_fdata() for path in (output / masks[0], tmp_path / "single" / "mask.nii.gz"))
    np.testing.assert_array_equal(ours, alone)
    # The derivative in the dataset is no scan of the next run.
    assert main([*arguments, "--participant-label", "03", "--batch", "8"]) == 0
    assert "already complete" in capsys.readouterr().out


def test_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"pd-ddpm {version('pd-ddpm')}\n"


@pytest.fixture
def clinic(workflow: SimpleNamespace, tmp_path: Path) -> Path:
    """A folder of two scans without masks, and of one whose T1 is damaged."""
    for number in (2, 3, 4):
        for channel in ("FLAIR", "T1"):
            place = tmp_path / "clinic" / f"p{number}"
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(workflow.scans / f"p{number}" / f"{channel}.nii.gz", place)
    truncate(tmp_path / "clinic" / "p2" / "T1.nii.gz")
    return tmp_path / "clinic"


def test_predict_of_many_scans_loads_networks_once_and_goes_on_after_a_failure(
    workflow, predict, clinic, tmp_path, capsys, monkeypatch
):
    loaded, load = [], predict_scan.load_model
    monkeypatch.setattr(predict_scan, "load_model", lambda *files: loaded.append(files) or load(*files))
    output = tmp_path / "many"
    arguments = [
        "predict",
        str(clinic),
        "--model",
        str(workflow.bundle),
        "--output",
        str(output),
        "--threads",
        "1",
        "--batch",
        "8",
    ]
    code, printed = main(arguments), capsys.readouterr()
    assert code == 1
    assert len(loaded) == 2  # AttUNet and the denoiser
    assert "2 scans segmented in" in printed.out
    assert "1 failed. The same command skips the others:\n  p2: scan p2: 1 problem(s):" in printed.err
    assert "the gzip stream ends early" in printed.err
    assert predict("--name", "p3", output="single")[0] == 0
    for name in ("mask", "probability", "uncertainty"):
        ours, alone = (nib.load(folder / f"{name}.nii.gz").get_fdata() for folder in (output / "p3", tmp_path / "single"))
        np.testing.assert_array_equal(ours, alone)

    # The next run only repeats what is missing.
    shutil.copy(workflow.scans / "p2" / "T1.nii.gz", clinic / "p2")
    unchanged = (output / "p3" / "mask.nii.gz").stat().st_mtime_ns
    code, printed = main(arguments), capsys.readouterr()
    assert code == 0, printed.err
    assert printed.out.count("already complete") == 2
    assert "3 scans segmented in" in printed.out
    assert (output / "p3" / "mask.nii.gz").stat().st_mtime_ns == unchanged
    (clinic / "p2" / "T1.nii.gz").unlink()
    code, printed = main(arguments), capsys.readouterr()
    assert code == 1
    assert printed.out.count("already complete") == 2
    assert "1 failed. The same command skips the others:\n  scan p2, " in printed.err
    assert "there is no T1" in printed.err

    assert main(["convert", str(output), "--to", "bids", "--output", str(tmp_path / "bids")]) == 0
    stem = tmp_path / "bids/sub-p3/anat/sub-p3_space-orig_label-WMH_desc-pdDdpm"
    for suffix, name in (("mask", "mask"), ("probseg", "probability")):
        converted, made = (nib.load(path) for path in (f"{stem}_{suffix}.nii.gz", output / "p3" / f"{name}.nii.gz"))
        np.testing.assert_array_equal(converted.get_fdata(), made.get_fdata())
        np.testing.assert_array_equal(converted.affine, made.affine)
    sidecar = json.loads(Path(f"{stem}_mask.json").read_text(encoding="utf-8"))
    assert sidecar["Sources"] == ["bids:source:p3/FLAIR.nii.gz"]
    assert (sidecar["Members"], "Split" in sidecar) == (3, False)
    (output / "p3" / "mask.nii.gz").write_bytes(b"")
    assert main(["convert", str(output), "--to", "submission", "--output", str(tmp_path / "submission")]) == 1
    assert "its files are incomplete or were changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--t1", "T1.nii.gz", "--name", "x"], "--t1, --name cannot be combined with many scans"),
        (["--presegmentation", "mask.nii.gz"], "mask.nii.gz is the same file for all scans. Write {case}"),
    ],
)
def test_predict_of_many_scans_refuses_options_of_one(workflow, clinic, tmp_path, capsys, options, words):
    assert main(["predict", str(clinic), "--model", str(workflow.bundle), "--output", str(tmp_path / "many"), *options]) == 1
    assert words in capsys.readouterr().err


def test_predict_makes_members_binary_on_a_coarser_grid(workflow):
    """Most voxels lie between pixels of equal value, so that bilinear interpolation leaves them at 0 or 1."""
    for method in METHODS:
        members = np.rint(255 * workflow_members(workflow, method, "p3").get_fdata()).astype(int)
        lesion = members[members > 0]
        assert (lesion == 255).mean() > 0.2, method


def test_predict_writes_table_and_record_that_match_the_mask(workflow, predict, tmp_path):
    code, printed = predict("--name", "somebody")
    assert code == 0
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        *("lesions.csv", "mask.nii.gz", "prediction.json", "probability.nii.gz", "quality.html", "uncertainty.nii.gz")
    ]
    mask = nib.load(out / "mask.nii.gz").get_fdata()
    lesions = pd.read_csv(out / "lesions.csv")
    assert lesions["voxels"].sum() == mask.sum()
    ml = 3.2 * 3.2 * 5.0 / 1000
    record = json.loads((out / "prediction.json").read_text(encoding="utf-8"))["row"]
    assert record["volume_ml"] == pytest.approx(mask.sum() * ml, abs=1e-3)
    assert record["lesions"] == len(lesions)
    assert record["volume_low_ml"] <= record["volume_high_ml"]
    assert f"{len(lesions)} lesions, {mask.sum() * ml:.2f} ml" in printed
    for _, row in lesions.iterrows():
        assert mask[int(row["voxel_i"]), int(row["voxel_j"]), int(row["voxel_k"])] == 1


class Page(HTMLParser):
    """The sources and the text of a page, which links to itself only."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        assert tag not in ("link", "iframe")

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_review_page_needs_no_other_file(predict, page_file):
    predict("--name", "<b>A & B</b>")
    content = page_file.read_text(encoding="utf-8")
    page = Page(content)
    assert set(page.sources) == {"#browser"}
    assert "http" not in content
    assert content.count("data:image/jpeg;base64,") == 3 * 2  # orientations and channels
    assert "<b>A" not in content
    text = " ".join(" ".join(page.words).split())
    for words in (
        "Research only. Not a medical device",
        "Lesions of <b>A & B</b>",
        "own masks of the 3 members",
        "How this prediction was made",
        "a model card",
        "Warnings about the scan",
        "the networks were trained on 3 cases only",
    ):
        assert words in text


def test_review_page_has_the_name_of_the_output_folder_by_default(predict, page_file):
    predict()
    text = page_file.read_text(encoding="utf-8")
    assert "<title>Lesions of out</title>" in text
    assert "FLAIR.nii" not in text


def result_of(members: np.ndarray) -> ScanResult:
    """The result of a scan of 1 ml voxels with these members (X, Y, Z, K)."""
    affine = np.diag([10.0, 10.0, 10.0, 1.0])
    reference = nib.Nifti1Image(np.zeros(members.shape[:3], dtype=np.float32), affine)
    scan = Scan("a", np.zeros((*members.shape[:3], 2), dtype=np.float32), np.ones(members.shape[:3], dtype=bool), reference)
    return ScanResult(scan, Segmentation.from_members(members), [], Cost())


def test_review_page_explains_volumes_outside_of_the_range(workflow):
    """Three members mark one voxel in common and two of their own each: the mean marks one, each member three."""
    members = np.zeros((8, 8, 2, 3), dtype=np.float32)
    members[4, 4, 0] = 1
    for number, place in enumerate(((3, 4), (4, 3), (5, 4))):
        members[*place, :, number] = 1
    description = read_bundle(workflow.bundle).description
    text = review_page("a", result_of(members), description, {})
    assert "1 lesion, 1.00 ml in total (own masks of the 3 members: 3.00 to 3.00 ml)" in text
    assert "here it has a smaller volume than each of them" in text
    assert "the volume of a lesion may lie outside of their range (here: 1)" in text
    assert 'data-voxel="4,4,0"' in text
    equal = review_page("a", result_of(members[..., [0, 0, 0]]), description, {})
    assert "smaller volume" not in equal
    assert "outside of their range" not in equal


def test_predict_warns_of_skull_stripping_that_differs_from_the_training(workflow, predict, page_file, tmp_path):
    """The training scans are noise outside of the head. A scan with zeros there was skull-stripped."""
    words = "it is skull-stripped, but no training scan was"
    predict()
    assert words not in page_file.read_text(encoding="utf-8")
    assert read_bundle(workflow.bundle).description["training"]["skull_stripped"] == 0
    scan = shutil.copytree(workflow.scans / "p3", tmp_path / "stripped")
    flair = nib.load(scan / "FLAIR.nii.gz")
    values = flair.get_fdata(dtype=np.float32)
    save(scan / "FLAIR.nii.gz", np.where(values > 100, values, 0).astype(np.float32), flair.affine)
    predict("--overwrite", scan=scan)
    assert words in page_file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("stripped_cases", "is_stripped", "words"),
    [
        (0, True, "it is skull-stripped"),
        (0, False, ""),
        (4, False, "it shows the skull"),
        (4, True, ""),
        (2, True, ""),
        (2, False, ""),
        (None, True, ""),
    ],
)
def test_appearance_findings_compare_with_the_training(stripped_cases, is_stripped, words):
    random = np.random.default_rng(0)
    brain = np.zeros((30, 30, 4), dtype=bool)
    brain[10:20, 10:20] = True
    image = random.normal(size=(*brain.shape, 1)).astype(np.float32)
    image[~brain] *= not is_stripped
    scan = Scan("a", image, brain, nib.Nifti1Image(np.zeros(brain.shape, dtype=np.float32), np.diag([2.0, 2.0, 3.0, 1.0])))
    training = {"cases": 4} | ({} if stripped_cases is None else {"skull_stripped": stripped_cases})
    findings = list(appearance_findings("f.nii.gz", scan, training))
    assert len(findings) == bool(words)
    assert all(words in finding.finding for finding in findings)


def test_predict_with_thick_slices_warns_on_the_page(workflow, predict, page_file, tmp_path):
    scan = shutil.copytree(workflow.scans / "p3", tmp_path / "thick")
    for name in ("FLAIR", "T1"):
        image = nib.load(scan / f"{name}.nii.gz")
        save(scan / f"{name}.nii.gz", image.get_fdata(dtype=np.float32), image.affine @ np.diag([1, 1, 1.3, 1]))
    code, printed = predict(scan=scan)
    assert code == 0
    assert "warning(s) about the scan" in printed
    text = page_file.read_text(encoding="utf-8")
    assert "its slice distance of 6.5 mm is outside the range of the training scans (5 to 5 mm)" in text


def test_predict_with_a_transform_of_t1_equals_an_aligned_t1(workflow, predict, tmp_path):
    """A T1 that is shifted by 12 mm gives the same results as the aligned T1 if its transform is given."""
    scan = shutil.copytree(workflow.scans / "p3", tmp_path / "moved")
    image = nib.load(scan / "T1.nii.gz")
    moved = image.affine.copy()
    moved[:3, 3] += (12, 0, 0)
    save(scan / "T1.nii.gz", image.get_fdata(dtype=np.float32), moved)
    transform = tmp_path / "reg.txt"
    # ITK's coordinates increase to the left and posterior, so 12 mm to the right are -12.
    transform.write_text('(Transform "TranslationTransform")\n(TransformParameters -12 0 0)\n', encoding="utf-8")
    np.testing.assert_allclose(
        resample_to(scan / "FLAIR.nii.gz", scan / "T1.nii.gz", transform),
        resample_to(workflow.scans / "p3" / "FLAIR.nii.gz", workflow.scans / "p3" / "T1.nii.gz"),
        atol=1e-2,
    )
    maps = []
    for output, folder, more in (
        ("a", workflow.scans / "p3", []),
        ("b", scan, ["--t1-transform", str(transform)]),
        ("c", scan, []),
    ):
        assert predict(*more, scan=folder, output=output)[0] == 0
        maps.append(nib.load(tmp_path / output / "probability.nii.gz").get_fdata())
    np.testing.assert_allclose(maps[0], maps[1], atol=0.02)
    assert np.abs(maps[0] - maps[2]).max() > 0.1


def test_predict_does_not_depend_on_the_axes_of_the_scan(workflow, predict, tmp_path):
    scan = tmp_path / "turned"
    for name in ("FLAIR", "T1"):
        image = nib.load(workflow.scans / "p3" / f"{name}.nii.gz")
        turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt("SLA"))
        turned = image.as_reoriented(turn)
        save(scan / f"{name}.nii.gz", turned.get_fdata(dtype=np.float32), turned.affine)
    assert predict("--name", "p3")[0] == 0
    code, printed = predict("--name", "p3", scan=scan, output="turned out")
    assert code == 0, printed
    ours = nib.load(tmp_path / "turned out" / "probability.nii.gz")
    assert nib.aff2axcodes(ours.affine) == ("S", "L", "A")
    theirs = nib.load(tmp_path / "out" / "probability.nii.gz").get_fdata()
    np.testing.assert_allclose(nib.as_closest_canonical(ours).get_fdata(), theirs, atol=0.02)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


FAR = np.zeros((4, 4))
FAR[:3, 3] = 1
WRONG_SCANS = {
    "a cut file": (lambda scan: truncate(scan / "FLAIR.nii.gz"), ["FLAIR.nii.gz", "truncated"]),
    "a web page": (lambda scan: (scan / "T1.nii.gz").write_text("<html>", encoding="utf-8"), ["T1.nii.gz", "is a web page"]),
    "NaN": (
        lambda scan: save(scan / "FLAIR.nii.gz", np.full(SHAPE, np.nan, dtype=np.float32)),
        ["FLAIR.nii.gz", "are NaN or infinite"],
    ),
    "no such file": (lambda scan: (scan / "T1.nii.gz").unlink(), ["T1.nii.gz", "does not exist"]),
    "another head's T1": (
        lambda scan: save(scan / "T1.nii.gz", np.random.default_rng(0).random((20, 20, 5)), AFFINE + 900 * FAR),
        ["T1.nii.gz", "covers"],
    ),
    "the FLAIR twice": (lambda scan: shutil.copy(scan / "FLAIR.nii.gz", scan / "T1.nii.gz"), ["the same voxels as FLAIR"]),
}


@pytest.mark.parametrize("fault", WRONG_SCANS)
def test_predict_with_an_unusable_scan_stops_before_computing(workflow, predict, tmp_path, fault):
    scan = shutil.copytree(workflow.scans / "p3", tmp_path / "scan")
    function, words = WRONG_SCANS[fault]
    function(scan)
    code, printed = predict(scan=scan)
    assert code == 1
    assert all(word in printed for word in words), printed
    assert "Traceback" not in printed
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_predict_with_two_unusable_files_lists_both(workflow, predict, tmp_path):
    scan = shutil.copytree(workflow.scans / "p3", tmp_path / "scan")
    truncate(scan / "FLAIR.nii.gz")
    (scan / "T1.nii.gz").write_bytes(b"")
    code, printed = predict(scan=scan)
    assert code == 1
    assert "2 problem(s)" in printed
    assert "truncated" in printed
    assert "the file is empty" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--members", "0"], ["--members: 0 is less than 1"]),
        (["--t-start", "1001"], ["--t-start: 1001 is not between 1 and 1000"]),
        (["--steps", "301"], ["--steps: 301 is not between 1 and T' = 300"]),
        (["--t-start", "2", "--steps", "3"], ["--steps: 3 is not between 1 and T' = 2"]),
        (["--image", "T2"], ["--image: 'T2' is not NAME=FILE"]),
        (["--image", "T2=x.nii.gz"], ["image T2", "FLAIR, T1 only"]),
        (["--transform", "FLAIR=x.txt"], ["transform of FLAIR", "defines the grid"]),
        (["--device", "cuda"], ["'cuda'", "finds no CUDA device"]),
        (["--precision", "float16"], ["'float16'", "needs a GPU"]),
    ],
)
def test_predict_with_an_invalid_option_names_it(predict, arguments, words):
    code, printed = predict(*arguments)
    assert code == 1
    assert all(word in printed for word in words), printed


def test_predict_without_a_channel_names_its_option(workflow, tmp_path, capsys):
    flair = str(workflow.scans / "p3" / "FLAIR.nii.gz")
    assert main(["predict", "--flair", flair, "--model", str(workflow.bundle), "--output", str(tmp_path / "out")]) == 1
    assert "the bundle's networks need FLAIR, T1, but T1 is missing. Add --t1 FILE." in capsys.readouterr().err


def test_predict_with_a_deterministic_method_rejects_members_and_steps(workflow, predict, tmp_path):
    bundle = tmp_path / "bundle"
    main(["export", str(workflow.results), "--method", "attunet", "--output", str(bundle)])
    for arguments, words in (
        (["--members", "3"], "attunet is deterministic and has one member only"),
        (["--steps", "3"], "attunet has no reverse chain"),
    ):
        code, printed = predict(*arguments, model=bundle)
        assert code == 1
        assert words in printed


def test_override_sampling_changes_members_and_chain(workflow):
    bundle = read_bundle(workflow.bundle)
    assert override_sampling(bundle) == list(bundle.stages)
    changed = override_sampling(bundle, num_members=7, t_start=200, num_steps=50)[-1].settings
    assert (changed["samples"], changed["pool"], changed["t_start"], changed["reverse_steps"]) == (7, 7, 200, 250)
    assert changed["variance"] == "large"  # more steps than the bundle's two
    assert override_sampling(bundle, num_steps=1)[-1].settings["variance"] == "small"
    with pytest.raises(BundleError, match="--t-start: 0 is not between 1 and 1000"):
        override_sampling(bundle, t_start=0)


@pytest.mark.parametrize("method", ["pd-ddpm", "es-ddpm"])
def test_predict_with_more_members_keeps_the_first_ones(workflow, predict, tmp_path, method):
    """The workflow has sampled the same four members."""
    bundle = tmp_path / "bundle"
    main(["export", str(workflow.results), "--method", method, "--output", str(bundle)])
    assert predict("--name", "p3", "--members", "4", model=bundle)[0] == 0
    members = workflow_members(workflow, method, "p3").get_fdata(dtype=np.float32)
    ours = nib.load(tmp_path / "out" / "probability.nii.gz").get_fdata()
    np.testing.assert_allclose(ours, members.mean(axis=-1), atol=1e-6)


def test_predict_into_a_finished_folder_repeats_and_loses_nothing(workflow, predict, tmp_path):
    assert predict()[0] == 0
    files = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / "out").iterdir()}
    code, printed = predict("--batch", "3")
    assert (code, "is already complete. Nothing was done" in printed) == (0, True)
    code, printed = predict("--seed", "1")
    assert code == 1
    assert "of another prediction" in printed
    assert "--overwrite" in printed
    truncated = shutil.copytree(workflow.scans / "p3", tmp_path / "cut")
    truncate(truncated / "FLAIR.nii.gz")
    assert predict("--overwrite", scan=truncated)[0] == 1
    assert files == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
    assert predict("--seed", "1", "--overwrite")[0] == 0
    assert (tmp_path / "out" / "probability.nii.gz").read_bytes() != files[tmp_path / "out" / "probability.nii.gz"][1]


def test_predict_into_a_folder_with_a_foreign_mask_stops(workflow, predict, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mask.nii.gz").write_bytes(b"drawn by hand")
    code, printed = predict()
    assert code == 1
    assert "holds mask.nii.gz of another prediction" in printed
    assert (tmp_path / "out" / "mask.nii.gz").read_bytes() == b"drawn by hand"


@pytest.mark.workflow  # three processes
def test_predict_after_a_kill_resumes_with_equal_results(workflow, predict, tmp_path):
    """A process killed while sampling resumes with the members that are missing, and the files are identical."""
    call = (
        "import sys, time; from pd_ddpm.inference.segment_case import PartialSamples; from pd_ddpm.commands.main import main\n"
        "PartialSamples.save_every_seconds = 0\n"
        "PartialSamples.__init__.__defaults__ = (0.0, *PartialSamples.__init__.__defaults__[1:])\n"
        "save = PartialSamples.save\n"
        "def slow(*arguments):\n    save(*arguments)\n    time.sleep(0.2)\n"
        "PartialSamples.save = slow\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    scan, out = workflow.scans / "p3", tmp_path / "killed"
    arguments = ["--flair", str(scan / "FLAIR.nii.gz"), "--t1", str(scan / "T1.nii.gz"), "--threads", "1", "--batch", "4"]
    arguments += ["--model", str(workflow.bundle), "--output", str(out), "--name", "p3"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    job = subprocess.Popen(
        [sys.executable, "-c", call, "predict", *arguments], env=environment, stderr=subprocess.PIPE, text=True
    )
    patience = time.monotonic() + 120
    while not (out / "unfinished" / "pd-ddpm.npz").exists():
        assert job.poll() is None, job.communicate()[1]
        assert time.monotonic() < patience
        time.sleep(0.01)
    job.kill()
    job.communicate()
    assert job.returncode == -signal.SIGKILL
    assert not (out / "mask.nii.gz").exists()
    with np.load(out / "unfinished" / "pd-ddpm.npz") as stored:
        done = int(stored["done"])
    assert done >= 4
    code, printed = predict("--name", "p3", "--batch", "4", output="killed")
    assert code == 0, printed
    assert not (out / "unfinished").exists()
    assert predict("--name", "p3", "--batch", "4")[0] == 0
    for name in ("mask", "probability", "uncertainty"):
        assert (out / f"{name}.nii.gz").read_bytes() == (tmp_path / "out" / f"{name}.nii.gz").read_bytes()


def test_predict_with_foreign_or_damaged_partial_results_ignores_them(workflow, predict, tmp_path):
    assert predict("--name", "p3")[0] == 0
    (tmp_path / "again" / "unfinished").mkdir(parents=True)
    (tmp_path / "again" / "unfinished" / "attunet.npz").write_bytes(b"PK no archive")
    with (tmp_path / "again" / "unfinished" / "pd-ddpm.npz").open("wb") as file:
        np.savez(file, stamp="another", results=np.ones((14, 3, 10, 10), dtype=np.float32), done=10**6)
    assert predict("--name", "p3", output="again")[0] == 0
    for name in ("mask", "probability"):
        assert (tmp_path / "again" / f"{name}.nii.gz").read_bytes() == (tmp_path / "out" / f"{name}.nii.gz").read_bytes()


def test_predict_out_of_memory_names_the_option_and_keeps_members(workflow, predict, tmp_path, monkeypatch):
    segment = predict_scan.segment_case

    def second_fails(*arguments, partial, **options):
        if partial.path.stem == "pd-ddpm":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return segment(*arguments, partial=partial, **options)

    monkeypatch.setattr(predict_scan, "segment_case", second_fails)
    code, printed = predict()
    assert code == 1
    for words in ("FLAIR: out of memory", "Reduce `--batch` (8)", "are kept in", "Run the command again"):
        assert words in printed
    assert not (tmp_path / "out" / "mask.nii.gz").exists()
    monkeypatch.undo()
    assert predict()[0] == 0


def test_help_has_examples_and_imports_no_heavy_module():
    check = (
        "import sys\nfrom pd_ddpm.commands.main import main\n"
        "try:\n    main([sys.argv[1], '--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'pandas', 'nibabel', 'matplotlib'} & set(sys.modules)"
    )
    for command, words in (("predict", ["quality.html", "--members", "examples:"]), ("export", ["model card", "checksums"])):
        done = subprocess.run([sys.executable, "-c", check, command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert all(word in done.stdout for word in words)


def test_predict_with_uncompressed_nifti_equals_compressed(workflow, predict, tmp_path):
    scan = tmp_path / "plain"
    scan.mkdir()
    for name in ("FLAIR", "T1"):
        (scan / f"{name}.nii").write_bytes(gzip.decompress((workflow.scans / "p3" / f"{name}.nii.gz").read_bytes()))
    place = ["--model", str(workflow.bundle), "--output", str(tmp_path / "plain out"), "--threads", "1", "--batch", "8"]
    files = ["--image", f"FLAIR={scan / 'FLAIR.nii'}", "--image", f"T1={scan / 'T1.nii'}"]
    assert main(["predict", *files, *place, "--name", "p3"]) == 0
    assert predict("--name", "p3")[0] == 0
    for name in ("mask", "probability"):
        assert (tmp_path / "plain out" / f"{name}.nii.gz").read_bytes() == (tmp_path / "out" / f"{name}.nii.gz").read_bytes()
