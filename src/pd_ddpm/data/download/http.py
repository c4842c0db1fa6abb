"""HTTP requests with retries."""

import logging
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TypeVar

import requests
import urllib3

from pd_ddpm.data.download.published import PublishedFile
from pd_ddpm.data.download.verify import CHUNK_BYTES, PassingFault, store_verified

Result = TypeVar("Result")

log = logging.getLogger(__name__)

REMEDIES = {
    400: "The server may ask for its guestbook or for its terms to be agreed to: open the data set's page in a browser.",
    401: "The file asks for a login: open the data set's page in a browser.",
    403: "The file is restricted, or the server turns programs away: open the data set's page in a browser.",
    404: "Check doi, version and server in the configuration, and the data set's page in a browser.",
}


@dataclass(frozen=True)
class Patience:
    """How long to bear with a server: attempts of each file, and seconds.

    The wait doubles with each attempt and is `longest_wait` at most; a server that asks for more is not asked again.
    """

    attempts: int = 6
    first_wait: float = 2.0
    longest_wait: float = 600.0
    connect_timeout: float = 15.0
    read_timeout: float = 120.0


def open_session() -> requests.Session:
    session = requests.Session()
    # A name of its own, since some servers turn away the default ones; no compression, since the files are what they are.
    session.headers["User-Agent"] = f"pd-ddpm/{version_of('pd-ddpm')} (research data download)"
    session.headers["Accept-Encoding"] = "identity"
    return session


def with_retries(attempt: Callable[[], Result], patience: Patience, stop: threading.Event, what: str) -> Result:
    """Call until there is no passing fault any more; raises ValueError with the last fault when patience ends."""
    for tried in range(1, patience.attempts + 1):
        try:
            return attempt()
        except PassingFault as fault:
            if tried == patience.attempts:
                raise ValueError(f"{fault} (tried {tried} times)") from fault
            if fault.wait > patience.longest_wait:
                raise ValueError(f"{fault}; it asks to be left alone for {fault.wait:.0f} s: start again then") from fault
            # Scattered, so that several connections do not come back in the same moment.
            wait = min(patience.first_wait * 2 ** (tried - 1), patience.longest_wait) * random.uniform(0.75, 1.25)
            wait = max(wait, fault.wait)
            log.info("%s: %s; attempt %d of %d in %.0f s", what, fault, tried + 1, patience.attempts, wait)
            if stop.wait(wait):
                raise ValueError(f"{fault} (given up, because the download was stopped)") from fault
    raise AssertionError("attempts is at least 1")


def fetch(session: requests.Session, url: str, target: Path, file: PublishedFile, patience: Patience) -> None:
    with request_file(session, url, patience, page_expected=file.path.endswith((".html", ".htm"))) as response:
        # As sent: a server that declares .nii.gz as a compressed transfer would otherwise have it unpacked here.
        store_verified(response.raw.stream(CHUNK_BYTES, decode_content=False), target, file)


@contextmanager
def request_file(
    session: requests.Session,
    url: str,
    patience: Patience,
    parameters: dict[str, str] | None = None,
    page_expected: bool = False,
) -> Iterator[requests.Response]:
    """The server's answer, if it is one; PassingFault or ValueError otherwise, also while its body is read."""
    timeout = (patience.connect_timeout, patience.read_timeout)
    try:
        with session.get(url, params=parameters, stream=True, timeout=timeout) as response:
            _check_answer(response, page_expected)
            yield response
    except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise PassingFault(f"time-out: nothing came from the server for {timeout[1]:g} s") from error
    except (requests.exceptions.ChunkedEncodingError, urllib3.exceptions.ProtocolError) as error:
        raise PassingFault("the connection broke off before the end of the file") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        # Where the whole body is read at once, requests calls a time-out a lost connection.
        if any(isinstance(cause, urllib3.exceptions.TimeoutError) for cause in error.args):
            raise PassingFault(f"time-out: nothing came from the server for {timeout[1]:g} s") from error
        raise PassingFault(f"no connection to {url} ({error})") from error


def _check_answer(response: requests.Response, page_expected: bool) -> None:
    status = response.status_code
    said = f"the server answered {status} {response.reason}"
    if status in (408, 429) or status >= 500:
        raise PassingFault(said, _seconds(response.headers.get("Retry-After", "")))
    if status != 200:
        try:
            message = f" ({str(response.json()['message'])[:200]})"
        except (ValueError, KeyError, TypeError):
            message = ""
        raise ValueError(" ".join(filter(None, [f"{said}{message}.", REMEDIES.get(status)])))
    if response.headers.get("Content-Type", "").startswith("text/html") and not page_expected:
        raise ValueError(
            "the server sent a web page instead of the file. Open the data set's page in a browser to see what it wants."
        )


def _seconds(retry_after: str) -> float:
    """The header Retry-After, a number of seconds or a date, in seconds from now; 0 if it is neither."""
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
