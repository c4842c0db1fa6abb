"""Which code a result depends on. Pure Python: Snakemake reads this at every start.

Snakemake does not see changes in imported modules, and takes a script's time stamp for a change. Rules therefore carry
`code_version(script)` as a parameter: comments and docstrings do not count, constants do.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def code_version(script: str | Path) -> str:
    """Hash of a script and of all modules of this package that it imports, directly or not."""
    seen: dict[Path, str] = {}
    waiting = [Path(script)]
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen[path], imported = _read(path, path.stat().st_mtime_ns)
            waiting.extend(imported)
    combined = "".join(seen[path] for path in sorted(seen, key=lambda path: path.name + seen[path]))
    return hashlib.sha256(combined.encode()).hexdigest()[:12]


@cache
def _read(path: Path, modified_ns: int) -> tuple[str, tuple[Path, ...]]:
    """Return a module's code without comments and docstrings, and the files of the package's modules that it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            imported.update(file for file in map(_file_of, names) if file is not None)
        elif isinstance(node, ast.Import):
            imported.update(file for file in (_file_of(alias.name) for alias in node.names) if file is not None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree), tuple(sorted(imported))


def _file_of(module: str) -> Path | None:
    """The file of a module of this package; None for anything else."""
    first, *rest = module.split(".")
    if first != PACKAGE.name:
        return None
    path = PACKAGE.joinpath(*rest)
    for file in (path.with_suffix(".py") if rest else None, path / "__init__.py"):
        if file is not None and file.exists():
            return file
    return None
