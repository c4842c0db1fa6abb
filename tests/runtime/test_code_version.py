"""Code version: which edits of the package count as a change of a rule's code, and of which rules."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pd_ddpm.runtime import code_version

SCRIPTS = Path(__file__).parents[2] / "workflow" / "scripts"

# The last two count the FLOPs of the networks.
NETWORKS = {"train", "gate", "probe", "reliability", "sample", "cost", "leak", "memory"}
FIGURES = {
    "leak",
    "leak_probe",
    "training_curves",
    "fig2_uncertainty",
    "fig3",
    "fig3_tprime",
    "fig4_ensemble",
    "fig4",
    "fig5",
    "pareto",
    "probe_figure",
}
SCORES = {"score", "resample_ensemble", "grid_dice"}
METRICS = SCORES | {
    "index",
    "leak",
    "table1",
    "table2",
    "claims",
    "uncertainty",
    "fig2_uncertainty",
    "fig4_ensemble",
    "fig4",
    "table4",
    "no_diffusion",
}
WRITERS = SCORES | {
    "index",
    "sample",
    "reliability",
    "average",
    "import_masks",
    "prepare",
    "fig2_uncertainty",
    "check",
    "list_cases",
}
UNRECORDED = {"split", "download", "simulate", "list_cases", "list_masks", "check", "grid_dice", "publish"}
ALL = {script.stem for script in SCRIPTS.glob("*.py")}

# For each package a constant, and exactly the scripts whose code version it changes.
CONSTANTS = [
    ("runtime/files.py", 'PARTIAL = ".partial."', 'PARTIAL = ".part."', ALL),
    ("runtime/cpu_info.py", '"/proc/cpuinfo"', '"/proc/cpu"', ALL - UNRECORDED),
    (
        "config/resolve.py",
        'NO_PRESEGMENTATION = "zero"',
        'NO_PRESEGMENTATION = "none"',
        {"sample", "cost", "leak", "check", "list_cases", "list_masks"},
    ),
    ("data/working_grid.py", "/ 100 >=", "/ 10 >=", NETWORKS | {"grid_dice"}),
    ("data/splits.py", '"split", "role"', '"split", "part"', {"split", "check", "list_cases", "cost", "leak"}),
    ("data/even_folds.py", "index - 1", "index - 2", {"train", "split", "check", "list_cases", "cost", "leak"}),
    ("data/preparation/brain_mask.py", "(4, 5, 6, 8)", "(4, 5, 6, 9)", {"prepare", "check", "list_cases"}),
    ("data/preparation/intensities.py", "_OUTLIER_WIDTHS = 3", "_OUTLIER_WIDTHS = 4", {"prepare", "check", "list_cases"}),
    ("data/nifti/write.py", "np.float32(1 / 255)", "np.float32(1 / 256)", WRITERS),
    ("data/phantom/lesions.py", "0.5", "0.6", {"simulate"}),
    ("data/download/http.py", "403", "404", {"download"}),
    ("diffusion/samplers.py", "if s > 0 and", "if s > 1 and", NETWORKS - {"probe"}),
    ("diffusion/reliability.py", "(lesion + 2)", "(lesion + 3)", NETWORKS),
    ("diffusion/schedule.py", "0.008", "0.009", NETWORKS),
    ("models/networks/blocks.py", "channels // 4", "channels // 5", NETWORKS),
    ("training/trainer.py", "_GPU_STEPS_AHEAD = 10", "_GPU_STEPS_AHEAD = 20", {"train"}),
    ("training/objectives/denoising.py", "0.9", "0.8", {"train", "cost", "leak", "memory"}),
    (
        "inference/ensemble.py",
        "0.5 - 1e-6",
        "0.5 - 1e-5",
        METRICS - {"table1", "table2", "leak", "table4", "no_diffusion"}
        | {"sample", "gate", "reliability", "average", "import_masks"},
    ),
    (
        "inference/segmenters.py",
        "evaluations_shared: int = 0",
        "evaluations_shared: int = 2",
        {"sample", "gate", "reliability"},
    ),
    ("evaluation/metrics.py", "LABEL_TOLERANCE = 1e-3", "LABEL_TOLERANCE = 2e-3", METRICS),
    ("planning/device_rates.py", "1e12", "1e11", {"cost", "leak"}),
    ("exhibits/figures/style.py", "0.3", "0.4", FIGURES),
    ("exhibits/training_remarks.py", "= 0.01", "= 0.02", {"table1", "cost", "leak"}),
    ("exhibits/claims/claim.py", '"holds"', '"held"', {"claims"}),
    ("deployment/bundle.py", '"bundle.json"', '"bundles.json"', set()),
    ("commands/main.py", '"pd-ddpm"', '"pd-ddpms"', set()),
]


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("package") / "pd_ddpm"
    shutil.copytree(code_version.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture
def package(copied: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package for tests that edit it; each leaves it as it was."""
    monkeypatch.setattr(code_version, "PACKAGE", copied)
    return copied


def versions() -> dict[str, str]:
    return {script.stem: code_version.code_version(script) for script in SCRIPTS.glob("*.py")}


@contextmanager
def edited(path: Path, *changes: tuple[str, str]) -> Iterator[None]:
    """A file in which the first occurrence of each text is replaced, until the block ends."""
    original = text = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text, encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(original, encoding="utf-8")


def test_code_version_ignores_comments_docstrings_and_blank_lines(package: Path) -> None:
    before = versions()
    changes = [('"""', '"""Another opening. '), ("import math", "# a remark\n\n\nimport math")]
    with edited(package / "diffusion" / "samplers.py", *changes):
        assert versions() == before


@pytest.mark.parametrize(("module", "old", "new", "changed"), CONSTANTS, ids=[module for module, *_ in CONSTANTS])
def test_code_version_changes_for_exactly_the_scripts_that_use_a_constant(
    package: Path, module: str, old: str, new: str, changed: set[str]
) -> None:
    before = versions()
    with edited(package / module, (old, new)):
        after = versions()
    assert {name for name in before if before[name] != after[name]} == changed


def test_constants_cover_every_package() -> None:
    packages = {path.name for path in code_version.PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert {module.split("/")[0] for module, *_ in CONSTANTS} == packages
