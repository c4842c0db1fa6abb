"""Tables as sealed csv files (see `runtime/sealed.py`)."""

from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd

from pd_ddpm.runtime.sealed import read_sealed, sealed_write

# Names that consist of digits stay text.
_TEXT_COLUMNS = {"case": str, "site": str, "patient": str, "subset": str}


def write_sealed_csv(table: pd.DataFrame, path: str | Path, **options: Any) -> None:
    """Write a table as csv, without its index, and its seal.

    Args:
        table: the table.
        path: the csv to write.
        **options: further arguments of `DataFrame.to_csv`.
    """
    with sealed_write(path) as temporary:
        table.to_csv(temporary, index=False, **options)


def read_sealed_csv(path: str | Path) -> pd.DataFrame:
    """Read a csv, and compare it with its seal if it has one. Names of cases, sites, patients and subsets are text.

    Raises:
        DamagedFileError: file and seal differ.
        FileNotFoundError: the file does not exist.
    """
    # Only an empty cell is missing: pandas would also drop names such as NA.
    content = BytesIO(read_sealed(path))
    return pd.read_csv(content, dtype=_TEXT_COLUMNS, keep_default_na=False, na_values=[""])
