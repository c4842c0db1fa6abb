"""Import directions: which package may import which, and what stays free of PyTorch."""

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "pd_ddpm"
SCRIPTS = sorted((ROOT / "workflow" / "scripts").glob("*.py"))

# Package -> packages that it may import.
MAY_IMPORT = {
    "runtime": set(),
    "config": {"runtime"},
    "data": {"config", "runtime"},
    "diffusion": {"runtime"},
    "models": {"diffusion", "runtime"},
    "training": {"config", "data", "diffusion", "models", "runtime"},
    "inference": {"config", "data", "diffusion", "models", "runtime"},
    "evaluation": {"data", "inference", "runtime"},
    "planning": {"config", "data", "diffusion", "inference", "models", "runtime", "training"},
    "exhibits": {"config", "data", "evaluation", "inference", "planning", "runtime"},
    "deployment": {"config", "data", "diffusion", "evaluation", "exhibits", "inference", "models", "runtime"},
    "commands": {"config", "data", "deployment", "exhibits", "inference", "models", "runtime"},
}


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def uses(path: Path, *modules: str) -> set[str]:
    return {name for name in imported(path) if any(name == module or name.startswith(f"{module}.") for module in modules)}


def modules(folder: str = "") -> list[Path]:
    return sorted((PACKAGE / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def test_packages_are_those_listed_here() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(MAY_IMPORT)
    assert [path.name for path in PACKAGE.glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_package_imports_only_packages_below_it(package: str) -> None:
    for path in modules(package):
        others = {name.split(".")[1] for name in uses(path, "pd_ddpm") if "." in name} - {package}
        assert others <= MAY_IMPORT[package], f"{path}: {others - MAY_IMPORT[package]}"


def test_package_directions_have_no_cycle() -> None:
    order = list(TopologicalSorter(MAY_IMPORT).static_order())
    assert order[0] == "runtime"


def test_modules_import_each_other_without_cycle() -> None:
    graph = {module_name(path): uses(path, "pd_ddpm") for path in modules()}
    graph = {name: {other for other in others if other in graph and other != name} for name, others in graph.items()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as cycle:
        pytest.fail(" -> ".join(cycle.args[1]))


def test_package_never_imports_the_workflow() -> None:
    for path in modules():
        assert not uses(path, "snakemake"), path
        # The help of the commands shows paths as a user types them.
        assert path.parent.name == "commands" or "results/" not in path.read_text(encoding="utf-8"), path


def test_networks_import_no_other_part_of_the_package() -> None:
    for path in modules("models/networks"):
        others = {name for name in uses(path, "pd_ddpm") if not name.startswith("pd_ddpm.models.networks")}
        assert others <= {"pd_ddpm.models"}, path


def test_scripts_import_no_other_script() -> None:
    names = {script.stem for script in SCRIPTS}
    for script in SCRIPTS:
        assert not {name.split(".")[0] for name in imported(script)} & names, script


MAX_PARAMETERS = 8
MAX_UNPACKED = 3
MAX_SCRIPT_LINES, MEDIAN_SCRIPT_LINES = 45, 20


def num_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> int:
    """Return the number of parameters without `self` and `cls`; `*args` and `**kwargs` count as one each."""
    arguments = function.args
    names = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    names += [one.arg for one in (arguments.vararg, arguments.kwarg) if one]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def unpacked(tree: ast.AST) -> Iterator[ast.Tuple | ast.List]:
    """Yield the targets of unpacking in assignments, loops and comprehensions; `a, b = 1, 2` unpacks nothing."""
    literal = [node.targets for node in ast.walk(tree) if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)]
    excluded = [target for targets in literal for target in targets]
    for node in ast.walk(tree):
        if isinstance(node, ast.Tuple | ast.List) and isinstance(node.ctx, ast.Store) and node not in excluded:
            yield node


def test_functions_have_few_parameters() -> None:
    for path in (*modules(), *SCRIPTS):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                assert num_parameters(node) <= MAX_PARAMETERS, f"{path}:{node.lineno}"


def test_tuples_are_unpacked_into_few_names() -> None:
    for path in (*modules(), *SCRIPTS):
        for target in unpacked(ast.parse(path.read_text(encoding="utf-8"))):
            assert len(target.elts) <= MAX_UNPACKED, f"{path}:{target.lineno}"


def test_scripts_are_short() -> None:
    lines = {script.name: len(script.read_text(encoding="utf-8").splitlines()) for script in SCRIPTS}
    assert max(lines.values()) <= MAX_SCRIPT_LINES, lines
    assert median(lines.values()) <= MEDIAN_SCRIPT_LINES, lines


LIGHT = [
    *("config", "data.cases", "data.check", "data.download", "data.nifti", "data.preparation", "data.phantom"),
    *("exhibits", "evaluation", "commands.main", "deployment.bundle", "deployment.model_card", "deployment.scan_folder"),
    *("deployment.review_page", "deployment.formats", "planning.jobs", "planning.report", "planning.case_sizes"),
    *("planning.device_rates", "planning.planned_flops", "inference.prediction_store", "data.prepared", "data.splits"),
    *("runtime.files", "runtime.memory", "runtime.process_pool", "runtime.cpu_info", "runtime.run_record"),
    *("runtime.job", "runtime.recorded_job", "runtime.code_version"),
]


def test_light_modules_do_not_import_torch() -> None:
    """All in one process, one after another: the first one that loads PyTorch or MONAI is named."""
    names = []
    for light in LIGHT:
        path = PACKAGE.joinpath(*light.split("."))
        names += [module_name(one) for one in (path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")])]
    assert all(importlib.util.find_spec(name) for name in names)
    check = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    if {'torch', 'monai'} & set(sys.modules): sys.exit(name)\n"
    )
    run = subprocess.run([sys.executable, "-c", check, *names], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_medpy_is_not_needed_to_run() -> None:
    assert not [path for path in modules() if uses(path, "medpy")]


def test_every_script_has_the_name_of_its_rule() -> None:
    rules = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "rules").glob("*.smk"))
    for script in SCRIPTS:
        assert f'"../workflow/scripts/{script.name}"' in rules


def test_no_rule_has_an_ancient_input() -> None:
    """Snakemake skips all jobs below an ancient input whose job must run, even if their files are missing or stale."""
    for path in [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk"), *modules()]:
        assert not re.search(r"\bancient\b *\(", path.read_text(encoding="utf-8")), path
