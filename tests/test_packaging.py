"""Check that package versions agree in all files, and that environments have the imports of their scripts (below 5 s)."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from pd_ddpm.runtime import code_version

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = sorted((ROOT / "envs").glob("*.yaml"))
RECIPES = [ROOT / "Dockerfile", ROOT / "envs" / "pd-ddpm.def"]

# Modules whose name differs from that of their package.
PACKAGE_OF = {"yaml": "pyyaml", "PIL": "pillow"}


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def pins(lines: list[str]) -> dict[str, str]:
    return {name.lower(): version for name, version in (re.split("==", line) for line in lines if "==" in line)}


def project() -> dict:
    return tomllib.loads(text(ROOT / "pyproject.toml"))["project"]


def declared() -> dict[str, str]:
    return pins(project()["dependencies"] + project()["optional-dependencies"]["test"])


def conda(environment: Path) -> tuple[list[str], list[str]]:
    """Return the packages that an environment installs with conda, and those with pip."""
    *packages, pip = yaml.safe_load(text(environment))["dependencies"]
    return packages, pip["pip"]


def test_lock_file_pins_the_declared_versions() -> None:
    locked = pins(text(ROOT / "requirements.lock").splitlines())
    assert {name: version for name, version in declared().items() if name != "torch"}.items() <= locked.items()
    assert "torch" not in locked, "torch is installed separately, because its build depends on the machine"


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda path: path.stem)
def test_conda_environment_pins_the_declared_versions(environment: Path) -> None:
    packages, pip = conda(environment)
    assert packages == [f"python={python_version()}", "pip"]
    assert len(pins(pip)) == len(pip), "every package is pinned"
    assert pins(pip).items() <= declared().items()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_container_recipe_pins_the_declared_versions(recipe: Path) -> None:
    content = text(recipe)
    assert re.findall(r"\bpython:([\d.]+)-", content) == [python_version()]
    assert re.findall(r"[\w-]+==[\w.]+", content) == [f"torch=={declared()['torch']}"]
    assert content.index("torch==") < content.index("--requirement"), "torch is installed first"
    assert re.search(r"pip install .*--requirement \S*requirements\.lock$", content, re.MULTILINE)


def python_version() -> str:
    """Return the lowest Python version of the package, with which it is tested."""
    return project()["requires-python"].removeprefix(">=")


def test_makefile_installs_the_declared_torch() -> None:
    assert re.findall(r"torch==[\w.]+", text(ROOT / "envs" / "install.py")) == [f"torch=={declared()['torch']}"]


def test_every_dependency_is_pinned() -> None:
    for requirement in project()["dependencies"] + project()["optional-dependencies"]["test"]:
        assert "==" in requirement


def environments_of_scripts() -> dict[str, str]:
    """Return script -> name of the environment in its rule."""
    rules = "\n".join(text(path) for path in (ROOT / "rules").glob("*.smk"))
    blocks = re.split(r"^ *rule\b", rules, flags=re.MULTILINE)
    matches = [(re.search(r"envs/([\w-]+)\.yaml", block), re.search(r"workflow/scripts/(\w+)\.py", block)) for block in blocks]
    return {script[1]: environment[1] for environment, script in matches if environment and script}


def foreign_imports(script: Path) -> set[str]:
    """Return the third-party packages that a script imports, directly or through modules of this package."""
    waiting, seen, names = [script], set(), set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        waiting.extend(code_version._read(path, path.stat().st_mtime_ns)[1])
        for node in ast.walk(ast.parse(text(path))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return {PACKAGE_OF.get(name, name.lower()) for name in names - set(sys.stdlib_module_names) - {"pd_ddpm"}}


@pytest.mark.parametrize("script", sorted((ROOT / "workflow" / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_environment_of_a_rule_has_the_imports_of_its_script(script: Path) -> None:
    environment = environments_of_scripts()[script.stem]
    needed = foreign_imports(script)
    assert needed <= pins(conda(ROOT / "envs" / f"{environment}.yaml")[1]).keys()
    assert environment == ("networks" if "torch" in needed else "scans-and-tables")


def test_environments_have_no_unused_packages() -> None:
    needed: dict[str, set[str]] = {}
    for script, environment in environments_of_scripts().items():
        needed.setdefault(environment, set()).update(foreign_imports(ROOT / "workflow" / "scripts" / f"{script}.py"))
    assert {path.stem: pins(conda(path)[1]).keys() for path in ENVIRONMENTS} == needed


# Replaces a command that would change the machine, and logs its name and arguments.
STUB = """\
#!/bin/sh
echo "${0##*/} $*" >> "$CALLS"
"""


def test_slurm_install_as_root_calls_commands_of_the_system(tmp_path: Path) -> None:
    stubs = {"id": "#!/bin/sh\necho 0\n", "apt-get": STUB, "install": STUB, "rm": STUB}
    for command, content in stubs.items():
        (tmp_path / command).write_text(content, encoding="utf-8")
        (tmp_path / command).chmod(0o755)
    calls = tmp_path / "calls"
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(calls)}
    subprocess.run(["bash", ROOT / "tests" / "slurm_cluster.sh", "install"], check=True, env=environment)
    assert re.search(r"^apt-get install .*\bslurmctld slurmd slurm-client$", text(calls), re.MULTILINE)
