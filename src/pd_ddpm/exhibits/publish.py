"""Copy an exhibit under another name."""

from pathlib import Path

from pd_ddpm.runtime.sealed import copy_sealed, read_sealed, sealed_write


def publish(original: str | Path, copy: str | Path) -> None:
    """Copy a file of an exhibit. If the copy has another name, so have the files that its page links to.

    Raises:
        DamagedFileError: the original differs from its seal.
    """
    original, copy = Path(original), Path(copy)
    if original.suffix != ".html" or original.stem == copy.stem:
        copy_sealed(original, copy)
        return
    page = read_sealed(original).decode("utf-8")
    with sealed_write(copy) as temporary:
        temporary.write_text(page.replace(f'href="{original.stem}', f'href="{copy.stem}'), encoding="utf-8")
