"""Fill the HTML templates of the package. All values are escaped unless they are `Markup`."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pd_ddpm.runtime.files import fingerprint

FOLDER = Path(__file__).with_name("templates")


def fill_template(name: str, **values: Any) -> str:
    """Return a template of the package, filled with these values."""
    return _environment().get_template(name).render(values)


def templates_version() -> str:
    """Return a hash of all templates, styles and scripts. A rule has it as a parameter, since Snakemake does not read them."""
    files = sorted(path for path in FOLDER.iterdir() if path.suffix in (".j2", ".css", ".js"))
    return fingerprint([[path.name, path.read_text(encoding="utf-8")] for path in files])


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # the order of layers is that in which they are drawn
    environment.globals["file_text"] = lambda name: Markup((FOLDER / name).read_text(encoding="utf-8"))
    return environment
