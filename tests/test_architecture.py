"""Who may import whom (docs of the package layout): small rules that keep the parts apart."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "pd_ddpm"
SCRIPTS = sorted((ROOT / "workflow" / "scripts").glob("*.py"))


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


def test_the_package_never_sees_the_workflow() -> None:
    for path in modules():
        assert not uses(path, "snakemake"), path
        # The commands' help shows paths as a user types them.
        assert path.parent.name == "commands" or "results/" not in path.read_text(encoding="utf-8"), path


def test_only_scripts_and_commands_build_objects_from_names() -> None:
    for path in modules():
        if path.parent.name not in ("build", "commands"):
            assert not uses(path, "pd_ddpm.build"), path


def test_networks_know_nothing_of_diffusion() -> None:
    for path in modules("networks"):
        own = {name for name in uses(path, "pd_ddpm") if not name.startswith("pd_ddpm.networks")}
        assert not own, path


def test_scripts_do_not_import_each_other_and_are_short() -> None:
    names = {script.stem for script in SCRIPTS}
    for script in SCRIPTS:
        assert not {name.split(".")[0] for name in imported(script)} & names, script
        assert len(script.read_text(encoding="utf-8").splitlines()) <= 100, script


LIGHT_MODULES = [
    *("settings", "provenance", "metrics", "probability_scores", "ensemble_curve", "scores", "prediction_files"),
    *("command_line", "check", "dataverse", "files", "memory", "processes", "devices", "prepared", "run_record"),
    *("plan", "plan_report", "case_sizes", "device_rates", "build.planned_flops", "tables.cost"),
    *("cohort", "bids", "nnunet", "splits", "preparation", "images"),
    *("prediction_formats.conversion", "prediction_formats.bids", "tables.claims", "tables.table1", "tables.provenance"),
    *("figures.fig2_uncertainty", "figures.quality", "quality_page", "bundle", "model_card", "scan_files", "lesion_table"),
]

# Imports the modules one after another and prints the first that has loaded one of the libraries.
IMPORT_ALL = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(f"pd_ddpm.{module}")
    if loaded := {"torch", "monai"} & sys.modules.keys():
        sys.exit(f"pd_ddpm.{module} loads {sorted(loaded)}")
"""


def test_light_modules_do_not_load_torch() -> None:
    process = subprocess.run([sys.executable, "-c", IMPORT_ALL, *LIGHT_MODULES], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_medpy_is_not_needed_to_run() -> None:
    assert not [path for path in modules() if uses(path, "medpy")]


def test_every_script_has_the_name_of_its_rule() -> None:
    rules = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "rules").glob("*.smk"))
    for script in SCRIPTS:
        assert f'"../workflow/scripts/{script.name}"' in rules
