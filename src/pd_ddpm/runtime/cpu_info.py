"""What is known of a device before PyTorch, which takes seconds to load, is asked."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def cpu_has_bfloat16() -> bool:
    """Whether this machine's CPU computes in bfloat16 natively; emulating it is slower than float32."""
    information = Path("/proc/cpuinfo")
    return information.exists() and "avx512_bf16" in information.read_text(encoding="utf-8")


def cpu_name() -> str:
    """The model of this machine's processor, such as "Intel(R) Xeon(R) Gold 6248"."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else ()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def only_float32(device: str) -> bool:
    """Whether the config key `device` is certain to mean a device that computes in no format shorter than float32.

    False means no more than that PyTorch must be asked.
    """
    return (device == "cpu" or (device == "auto" and _built_for_cpus())) and not cpu_has_bfloat16()


def _built_for_cpus() -> bool:
    try:
        return version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return False
