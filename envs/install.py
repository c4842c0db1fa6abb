"""Make the environment .venv with all packages, for the Makefile: `python3 envs/install.py .venv`.

The script refuses a version of Python that the packages do not support, and makes an environment again that has another one. It
must run in old versions of Python too, up to that refusal.
"""

import os
import shutil
import subprocess
import sys
import time

OLDEST, NEWEST = (3, 11), (3, 14)  # for which the pinned packages have wheels
TORCH = "torch==2.13.0"  # installed first, by itself, because the build depends on the package index of pip
STEPS = (
    ("PyTorch (several GB with CUDA)", [TORCH]),
    ("all other packages", ["--constraint", "requirements.lock", "--editable", ".[test]"]),
)
SECONDS_BETWEEN_LINES = 60


def refusal(version):
    """Return why a version of Python such as (3, 10) is not supported, or None if it is."""
    if OLDEST <= tuple(version[:2]) <= NEWEST:
        return None
    name, oldest, newest = (".".join(map(str, one[:2])) for one in (version, OLDEST, NEWEST))
    return (
        f"Python {name} is not supported; the versions {oldest} to {newest} are. "
        f"Name one of them: `make demo PYTHON=python{oldest}`."
    )


def python_version(python):
    """Return the version of an interpreter as text, or None if it does not run."""
    command = [python, "-c", "import sys; print('%d.%d.%d' % sys.version_info[:3])"]
    try:
        return subprocess.check_output(command, stderr=subprocess.DEVNULL).decode().strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def make_environment(folder):
    """Make the environment, or keep an existing one of this version of Python."""
    version = ".".join(map(str, sys.version_info[:3]))
    existing = python_version(os.path.join(folder, "bin", "python"))
    if existing == version:
        return
    if os.path.isdir(folder):
        print("{} has Python {}; it is made anew with {}.".format(folder, existing or "that does not run", version), flush=True)
        shutil.rmtree(folder)
    subprocess.check_call([sys.executable, "-m", "venv", folder])


def install(python, name, packages):
    """Install packages with pip and print a line every minute."""
    start = time.monotonic()
    command = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]  # errors only
    process = subprocess.Popen([*command, *packages])
    while True:
        try:
            process.wait(SECONDS_BETWEEN_LINES)
            break
        except subprocess.TimeoutExpired:
            print(f"  {name}: {(time.monotonic() - start) / 60:.0f} min so far", flush=True)
    if process.returncode:
        sys.exit(f"Installing {name} failed; see the message of pip above. Run the same command again.")
    print(f"  {name}: {time.monotonic() - start:.0f} s", flush=True)


def main(folder):
    """Make the environment and install everything in it."""
    problem = refusal(sys.version_info)
    if problem:
        sys.exit(problem)
    print(f"Installing the packages in {folder}, once. This takes two to ten minutes.", flush=True)
    make_environment(folder)
    for name, packages in STEPS:
        install(os.path.join(folder, "bin", "python"), name, packages)


if __name__ == "__main__":
    main(sys.argv[1])
