"""Two processes train as one does, are asked to end and go on, and die together (about 50 s)."""

import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import four_trainings
import pytest
import torch
from four_trainings import KINDS, make

from pd_ddpm.checkpoint import load_state
from pd_ddpm.ranks import RankError, on_ranks, processes_for

JOB = Path(four_trainings.__file__)
PARENT = """
import json, runpy, sys
from pd_ddpm.console import run
from pd_ddpm.ranks import on_ranks
main, arguments = runpy.run_path(sys.argv[1])["main"], json.loads(sys.argv[3])
run(on_ranks, sys.argv[2], job=main, gpus=0, processes=2, log_path=sys.argv[2], arguments=arguments)
"""


@pytest.fixture
def arguments(tmp_path, configured, monkeypatch):
    """Of the job; its processes find the tests' modules."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(JOB.parent), *sys.path]))
    small = {"channels": 8, "multipliers": [1, 2], "attention_at": [2], "residual_blocks": 1, "warm_up": 0.25}
    game = {"penalty_every": 2, "discriminator_channels": 4, "t_max": 300, "gradient_penalty": 0.5}
    settings = {
        "batch": 5,
        "probabilistic": configured("network", "probabilistic-unet", channels=[8, 8, 8]),
        "truncated": configured("network", "truncated-denoiser", **small, **game),
    }
    return {"folder": str(tmp_path), "device": "cpu", "threads": 2, "settings": settings, "fault": ""}


def started(arguments, log):
    """Two processes under a job as Snakemake starts it, once a state is saved."""
    job = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(JOB), str(log), json.dumps(arguments)], stderr=subprocess.PIPE, text=True
    )
    patience = time.monotonic() + 120
    while not (Path(arguments["folder"]) / "work" / "state.pt").exists():
        assert job.poll() is None, job.communicate()[1]
        assert time.monotonic() < patience
        time.sleep(0.01)
    return job


def assert_near(ours, theirs, kind):
    """Equal but for the order of sums, relative to the largest value of each tensor."""
    for name, expected in theirs.items():
        difference = (ours[name].double() - expected.double()).abs()
        assert difference.max() <= 1e-5 + 1e-5 * expected.abs().max(), (kind, name, difference.max())


def test_two_processes_have_the_losses_and_the_weights_of_one(tmp_path, arguments):
    """Batch statistics, soft Dice, counted voxels, noise, times, latent vectors, dropout and the game; 3 and 2 rows of 5."""
    main = runpy.run_path(str(JOB))["main"]
    on_ranks(main, 0, 2, str(tmp_path / "log"), arguments)
    for kind in KINDS:
        job = make(kind, arguments["settings"])
        history = job.fit(tmp_path / "one" / kind).history
        first, second = (torch.load(tmp_path / f"{kind}-{rank}.pt") for rank in (0, 1))
        for row, expected in zip(first["history"], history, strict=True):
            assert row.keys() == expected.keys()
            for column in expected.keys() - {"seconds"}:
                assert row[column] == pytest.approx(expected[column], rel=1e-5, abs=1e-6), (kind, column)
        assert_near(first["model"], job.model.state_dict(), kind)
        assert_near(first["average"], job.average.state_dict(), kind)
        for part in ("model", "average"):
            assert all(torch.equal(first[part][name], second[part][name]) for name in first[part]), kind
        state = load_state(tmp_path / kind / "state.pt")  # one process takes up what two have saved
        fresh = make(kind, arguments["settings"])
        assert fresh.fit(tmp_path / kind).history == state["progress"]["history"]
        assert all(torch.equal(value, first["model"][name]) for name, value in fresh.model.state_dict().items())


def test_processes_that_are_asked_to_end_save_and_one_goes_on(tmp_path, arguments):
    arguments["fault"] = "none"
    log = tmp_path / "log"
    job = started(arguments, log)
    job.terminate()
    _, message = job.communicate(timeout=60)
    assert job.returncode == 1
    step = load_state(tmp_path / "work" / "state.pt")["progress"]["step"]
    assert 0 < step < 60
    sentence = f"denoiser, split 0, seed 0: asked to end; step {step} of 60 is saved in {tmp_path / 'work' / 'state.pt'}"
    assert message.rstrip().endswith(sentence)
    assert "Traceback" not in message
    one = dict(arguments, threads=1)
    whole = dict(one, folder=str(tmp_path / "whole"))
    main = runpy.run_path(str(JOB))["main"]
    for each in (one, whole):
        Path(each["folder"]).mkdir(exist_ok=True)
        main(**each)
    ours, theirs = (torch.load(Path(each["folder"]) / "weights.pt") for each in (one, whole))
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-3, msg=name)


def test_a_process_that_dies_ends_the_others_with_a_sentence(tmp_path, arguments, caplog):
    main = runpy.run_path(str(JOB))["main"]
    arguments["fault"] = "dies"
    with pytest.raises(RankError, match=r"process 1 of 2 was killed from outside, .* A saved state is kept, and the next"):
        on_ranks(main, 0, 2, str(tmp_path / "log"), arguments)
    assert load_state(tmp_path / "work" / "state.pt")["progress"]["step"] == 2


def test_the_process_that_fails_is_quoted_and_its_key_named(tmp_path, arguments):
    main = runpy.run_path(str(JOB))["main"]
    arguments["fault"] = "short"
    words = (
        r"process 1 of 2: MemoryShortageError: denoiser, split 0, seed 0, step 3 of 60: out of memory .*; lower 'batch' \(2\)"
    )
    with pytest.raises(RankError, match=words):
        on_ranks(main, 0, 2, str(tmp_path / "log"), arguments)
    assert "torch.OutOfMemoryError" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("device", "there", "gpus", "processes", "expected"),
    [
        ("cpu", 0, 4, None, 1),
        ("auto", 0, 4, None, 1),
        ("cpu", 0, 0, 2, 2),
        ("auto", 4, 2, None, 2),
        ("cuda", 4, 4, None, 4),
        ("cuda", 1, 4, None, 1),
        ("cuda", 4, 0, None, 1),
        ("cuda:1", 4, 4, None, 1),
        ("cuda", 0, 1, None, 1),  # which `choose_device` then refuses
        ("cuda", 4, 4, 2, 2),
    ],
)
def test_how_many_processes(monkeypatch, device, there, gpus, processes, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    assert processes_for(device, gpus, processes, 12) == expected


@pytest.mark.parametrize(
    ("device", "processes", "words"),
    [
        ("cuda", 8, "'training_processes' is 8, but there are 4 CUDA"),
        ("cuda:1", 2, "'device' is 'cuda:1', one GPU for 2 processes; set it to 'cuda'"),
        ("cpu", 13, "13 processes would share batches of 12; lower 'training_processes'"),
    ],
)
def test_processes_that_cannot_be(monkeypatch, device, processes, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(ValueError, match=words):
        processes_for(device, 4, processes, 12)
