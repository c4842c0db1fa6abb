"""A job on several processes of one machine, started by torchrun: one for each GPU, or as many on a CPU as are asked for.

    python -m torch.distributed.run ... -m pd_ddpm.ranks SCRIPT FOLDER

A rank runs `main` of the script with the arguments that lie in the folder, and leaves word there of how it ended.
"""

import ctypes
import json
import logging
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pd_ddpm.console import log
from pd_ddpm.files import write_json

_PATIENCE = 120  # seconds that ranks have to save and to end, before torchrun kills them
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


class RankError(RuntimeError):
    """A process of several has failed, and so the job; the message is that process's own, or says that it was killed."""


def processes_for(device: str, gpus: int, processes: int | None, batch: int) -> int:
    """How many processes share each batch of a training.

    device: "auto", "cpu", "cuda" or "cuda:1", which is that one GPU. gpus: those that the job asks for; where the machine has
    fewer, what there are. processes: overrules them; None is one for each GPU, and one on a CPU. Raises ValueError where there
    would be more processes than GPUs or than images in a batch.
    """
    import torch

    on_gpus = device in ("auto", "cuda") and torch.cuda.is_available()
    there = torch.cuda.device_count() if on_gpus else 1
    wanted = processes or (max(1, min(gpus, there)) if on_gpus else 1)
    if on_gpus and wanted > there:
        raise ValueError(f"config key 'training_processes' is {wanted}, but there are {there} CUDA device(s) here; lower it")
    if wanted > 1 and device.startswith("cuda:"):
        raise ValueError(f"config key 'device' is '{device}', one GPU for {wanted} processes; set it to 'cuda'")
    if wanted > batch:
        raise ValueError(f"{wanted} processes would share batches of {batch}; lower 'training_processes' or raise 'batch'")
    if on_gpus and processes is None and gpus > there:
        log.warning("resources.train.gpu is %d, but there are %d CUDA device(s) here, which changes no result", gpus, there)
    return wanted


def on_ranks(job: Callable[..., None], gpus: int, processes: int | None, log_path: str, arguments: Mapping[str, Any]) -> None:
    """Call the script's `main` in this process, or in several (`processes_for`) that torchrun starts and that share `threads`.

    What the ranks say is logged here, their tracebacks go into the log file. SIGTERM is passed on to them. Raises RankError
    where one of them fails or is killed, which ends the others; SystemExit, with its message, where they were asked to end.
    """
    processes = processes_for(arguments["device"], gpus, processes, arguments["settings"]["batch"])
    if processes == 1:
        job(**arguments)
        return
    with tempfile.TemporaryDirectory(prefix="pd-ddpm-ranks-") as name:
        folder = Path(name)
        threads = max(1, arguments["threads"] // processes)
        write_json(folder / "arguments.json", dict(arguments) | {"threads": threads})
        options = [
            "--standalone",
            "--nproc-per-node",
            processes,
            "--shutdown-timeout",
            _PATIENCE,
            "--signals-to-handle",
            "SIGINT",
        ]
        call = ["torch.distributed.run", *options, "-m", __spec__.name, job.__code__.co_filename, folder]
        with (
            Path(log_path).open("a", encoding="utf-8") as everything_else,
            _passing_on_sigterm() as started,
            subprocess.Popen(
                [sys.executable, "-m", *map(str, call)],
                stdout=subprocess.PIPE,
                stderr=everything_else,
                text=True,
                errors="backslashreplace",
                env=os.environ | {"OMP_NUM_THREADS": str(threads)},
                preexec_fn=_leave_sigterm_to_the_job,
            ) as agent,
        ):
            started(agent)
            for line in agent.stdout:
                log.info(line.rstrip("\n"))
        if agent.returncode:
            _raise_for(folder, processes, agent.returncode)


def _raise_for(folder: Path, processes: int, code: int) -> None:
    """Tell a failure by what the ranks have left: the first that has one of its own, else the one that was killed."""
    left = sorted(folder.glob("rank-*.json"), key=lambda path: path.stat().st_mtime_ns)
    words = [json.loads(path.read_text(encoding="utf-8")) for path in left]
    for word in words:
        if word["kind"] == "asked to end":
            raise SystemExit(word["said"])
        if word["kind"] == "error":
            raise RankError(f"process {word['rank']} of {processes}: {word['said']}")
    killed = sorted(set(range(processes)) - {word["rank"] for word in words})
    who = f"process {killed[0]}" if killed else "one"
    raise RankError(
        f"{who} of {processes} was killed from outside, most often for want of memory, and the others have ended (torchrun's "
        f"exit code is {code}); lower 'batch' or 'crop', or give the job more memory. A saved state is kept, and the "
        "next start goes on from it"
    )


@contextmanager
def _passing_on_sigterm() -> Iterator[Callable[[subprocess.Popen], None]]:
    """Pass SIGTERM on to torchrun, as the signal that it is told to handle.

    A cluster sends SIGTERM to all processes of a job at once. torchrun ignores it then, and hears of it from here alone: a
    second signal would break off its waiting for the ranks, which are saving.
    """
    agents: list[subprocess.Popen] = []
    asked = False

    def note(*_: Any) -> None:
        nonlocal asked
        asked = True
        for agent in agents:
            agent.send_signal(signal.SIGINT)

    def started(agent: subprocess.Popen) -> None:
        agents.append(agent)
        if asked:
            agent.send_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield started
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave_sigterm_to_the_job() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _end_with_parent()


def _end_with_parent() -> None:
    """Have this process interrupted when its parent dies, however that happens (Linux)."""
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGINT)


def _rank(script: str, folder: Path) -> None:
    """One of the processes."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until the training handles it; torchrun's children inherit that it is not
    signal.signal(signal.SIGINT, lambda *_: signal.raise_signal(signal.SIGTERM))
    _end_with_parent()
    import torch
    from torch import distributed

    rank = int(os.environ["RANK"])
    arguments = json.loads((folder / "arguments.json").read_text(encoding="utf-8"))
    level = logging.INFO if rank == 0 else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stdout)
    logging.captureWarnings(True)
    on_gpu = arguments["device"] != "cpu" and torch.cuda.is_available()
    if on_gpu:
        arguments["device"] = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(torch.device(arguments["device"]))
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
        runpy.run_path(script)["main"](**arguments)
        distributed.destroy_process_group()
    except BaseException as error:
        said = str(error) if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
        kind = "asked to end" if isinstance(error, SystemExit) else "lost" if _has_lost_another(error) else "error"
        write_json(folder / f"rank-{rank}.json", {"rank": rank, "kind": kind, "said": said})
        traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # whatever the others do: an orderly end would wait for them


def _has_lost_another(error: BaseException) -> bool:
    """Whether the error says no more than that another process is not there any longer."""
    from torch import distributed

    return isinstance(error, distributed.DistError) or "gloo/transport" in str(error)


if __name__ == "__main__":
    _rank(sys.argv[1], Path(sys.argv[2]))
