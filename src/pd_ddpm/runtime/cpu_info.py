"""CPU queries that do not import PyTorch, which takes seconds to load."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def cpu_has_bfloat16() -> bool:
    """Return whether this machine's CPU computes in bfloat16 natively. Emulation is slower than float32."""
    information = Path("/proc/cpuinfo")
    return information.exists() and "avx512_bf16" in information.read_text(encoding="utf-8")


def cpu_name() -> str:
    """Return the model of this machine's processor, such as "Intel(R) Xeon(R) Gold 6248"."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else ()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()


def only_float32(device: str) -> bool:
    """Return whether the config key `device` certainly means a device without precisions below float32.

    False means that only PyTorch can tell.
    """
    return (device == "cpu" or (device == "auto" and _built_for_cpus())) and not cpu_has_bfloat16()


def _built_for_cpus() -> bool:
    try:
        return version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return False
