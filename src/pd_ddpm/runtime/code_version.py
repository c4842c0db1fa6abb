"""Hash the code that a result depends on. Pure Python, since Snakemake imports this module at every start.

Snakemake does not notice changes in imported modules, and treats a newer time stamp of a script as a change. Rules therefore
have `code_version(script)` as a parameter. Comments and docstrings do not affect it; constants do.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def code_version(script: str | Path) -> str:
    """Return a hash of a script and of all modules of this package that it imports, directly or indirectly."""
    code: dict[Path, str] = {}
    pending = [Path(script)]
    while pending:
        path = pending.pop()
        if path not in code:
            code[path], imported = _read(path, path.stat().st_mtime_ns)
            pending.extend(imported)
    combined = "".join(code[path] for path in sorted(code, key=lambda path: path.name + code[path]))
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
    """Return the file of a module of this package, or None for any other module."""
    first, *rest = module.split(".")
    if first != PACKAGE.name:
        return None
    path = PACKAGE.joinpath(*rest)
    for file in (path.with_suffix(".py") if rest else None, path / "__init__.py"):
        if file is not None and file.exists():
            return file
    return None
