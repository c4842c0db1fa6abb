"""Settings of a download: dataset, server, and retries after failures."""

from dataclasses import dataclass
from pathlib import Path

from pd_ddpm.runtime.problem import Problem


@dataclass(frozen=True)
class DownloadSettings:
    """The keys of `datasets.<name>.download` in the configuration.

    Attributes:
        server: address of the repository.
        doi: DOI of the dataset, without "doi:".
        licence: name of the accepted licence, and where it can be read.
        accept_licence: whether the user agrees to the licence.
        files: "needed" for the files that the layout reads, or "all".
        connections: number of files downloaded at the same time.
        version: published version, such as "1.0"; None if the DOI names it.
        source: folder or zip file with the data, used instead of the server; None to download.
        repository: kind of repository, see `REPOSITORIES`.
    """

    server: str
    doi: str
    licence: str
    accept_licence: bool
    files: str
    connections: int
    version: str | None = None
    source: str | None = None
    repository: str = "dataverse"


def licence_problem(settings: DownloadSettings, folder: Path, key: str) -> Problem | None:
    """Return why the data may not be downloaded, or None if their licence is accepted.

    Args:
        settings: licence and whether it is accepted.
        folder: folder of the dataset.
        key: the dataset's key in the configuration.
    """
    if settings.accept_licence:
        return None
    return Problem(
        f"{key}.download.accept_licence",
        f"the data are published under {settings.licence}, which you have not accepted",
        f"Read it there and at https://doi.org/{settings.doi}. If you agree, set this key to true in the configuration "
        f"or in a file for `--configfile`. If you already have the data, put them into `{key}.folder` ({folder})",
    )


@dataclass(frozen=True)
class RetryPolicy:
    """Attempts per file, waits and timeouts.

    Attributes:
        attempts: number of attempts per file.
        first_wait: seconds before the second attempt; the wait doubles with every further attempt.
        longest_wait: most seconds between attempts. If the server requires a longer wait, it is not retried.
        connect_timeout: seconds until a connection must be open.
        read_timeout: seconds without data after which a transfer counts as failed.
    """

    attempts: int = 6
    first_wait: float = 2.0
    longest_wait: float = 600.0
    connect_timeout: float = 15.0
    read_timeout: float = 120.0
