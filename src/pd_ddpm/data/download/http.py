"""HTTP requests with retries."""

import logging
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TypeVar

import requests
import urllib3

from pd_ddpm.data.download.published import PublishedFile
from pd_ddpm.data.download.settings import RetryPolicy
from pd_ddpm.data.download.verify import CHUNK_BYTES, TransientError, find_mismatch, store_verified
from pd_ddpm.runtime.files import PARTIAL

Result = TypeVar("Result")

# Files of this size resume where they were interrupted. Smaller ones begin again, which costs little.
RESUMED_BYTES = 32 * 2**20

log = logging.getLogger(__name__)

REMEDIES = {
    400: "The server may require its guestbook or terms. Open the dataset's page in a browser.",
    401: "The file requires a login. Open the dataset's page in a browser.",
    403: "The file is restricted, or the server blocks programs. Open the dataset's page in a browser.",
    404: "Check `doi`, `version` and `server` in the configuration, and the dataset's page in a browser.",
}


def open_session() -> requests.Session:
    """Return a session that identifies this package and disables compression."""
    session = requests.Session()
    # Some servers block the default user agent. Without compression, the files arrive as published.
    session.headers["User-Agent"] = f"pd-ddpm/{package_version('pd-ddpm')} (research data download)"
    session.headers["Accept-Encoding"] = "identity"
    return session


def with_retries(attempt: Callable[[], Result], retry: RetryPolicy, stop: threading.Event, name: str) -> Result:
    """Call a function until it succeeds, with growing waits between attempts.

    Args:
        attempt: function to call; raises TransientError if another attempt may succeed.
        retry: number of attempts and waits.
        stop: event that ends a wait early.
        name: what is requested, for the log.

    Returns:
        The function's result.

    Raises:
        ValueError: with the last failure, after the last attempt, if the server requires too long a wait, or on `stop`.
    """
    for number in range(1, retry.attempts + 1):
        try:
            return attempt()
        except TransientError as error:
            if number == retry.attempts:
                raise ValueError(f"{error} ({number} attempts)") from error
            if error.wait > retry.longest_wait:
                raise ValueError(f"{error}. The server requires a wait of {error.wait:.0f} s. Run again after that") from error
            # Random factors keep several connections from retrying at the same moment.
            wait = min(retry.first_wait * 2 ** (number - 1), retry.longest_wait) * random.uniform(0.75, 1.25)
            wait = max(wait, error.wait)
            log.info("%s: %s; attempt %d of %d in %.0f s", name, error, number + 1, retry.attempts, wait)
            if stop.wait(wait):
                raise ValueError(f"{error} (not retried, because the download was stopped)") from error
    raise AssertionError("`attempts` is at least 1")


def download_file(session: requests.Session, url: str, target: Path, file: PublishedFile, retry: RetryPolicy) -> None:
    """Download and verify one file. A large file continues after the part that an interrupted download has left.

    Args:
        session: from `open_session`.
        url: address of the file.
        target: path to write.
        file: the published file.
        retry: timeouts.

    Raises:
        TransientError: if another attempt may succeed.
        ValueError: if not.
    """
    expects_html = file.path.endswith((".html", ".htm"))
    if file.size >= RESUMED_BYTES:
        _download_rest(session, url, target, file, retry)
        return
    with open_response(session, url, retry, expects_html=expects_html) as response:
        # Not decoded: some servers declare .nii.gz as a compressed transfer, which would be unpacked here.
        store_verified(response.raw.stream(CHUNK_BYTES, decode_content=False), target, file)


def _download_rest(session: requests.Session, url: str, target: Path, file: PublishedFile, retry: RetryPolicy) -> None:
    """Download what is missing of a file, and verify it; see `download_file`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{PARTIAL}{target.name}")
    received = partial.stat().st_size if partial.is_file() else 0
    if received < file.size:
        with open_response(session, url, retry, offset=received) as response:
            # Some servers ignore the offset and send everything.
            is_rest = response.status_code == requests.codes.partial_content
            if is_rest and not response.headers.get("Content-Range", "").startswith(f"bytes {received}-"):
                raise ValueError(f"the server sent another part than requested ({response.headers.get('Content-Range')}).")
            with partial.open("ab" if is_rest else "wb") as output:
                for chunk in response.raw.stream(CHUNK_BYTES, decode_content=False):
                    output.write(chunk)
                    if output.tell() > file.size:
                        break
                os.fsync(output.fileno())
    size = partial.stat().st_size
    if size < file.size:
        raise TransientError(f"the connection was lost after {size} of {file.size} bytes, which are kept")
    if mismatch := find_mismatch(partial, file):
        partial.unlink()
        raise TransientError(f"the content differs from the published file: {mismatch}")
    partial.replace(target)


@contextmanager
def open_response(
    session: requests.Session,
    url: str,
    retry: RetryPolicy,
    parameters: dict[str, str] | None = None,
    expects_html: bool = False,
    offset: int = 0,
) -> Iterator[requests.Response]:
    """Yield the server's response with status 200, or 206 if only the rest of a file is requested.

    Args:
        session: from `open_session`.
        url: address to request.
        retry: timeouts.
        parameters: query parameters.
        expects_html: whether a web page is a valid response.
        offset: number of bytes that are not requested again; servers may ignore it.

    Raises:
        TransientError: on timeouts, lost connections and server errors, also while the body is read.
        ValueError: for every other response.
    """
    timeout = (retry.connect_timeout, retry.read_timeout)
    timeout_message = f"timeout: no data from the server for {retry.read_timeout:g} s"
    try:
        headers = {"Range": f"bytes={offset}-"} if offset else None
        with session.get(url, params=parameters, headers=headers, stream=True, timeout=timeout) as response:
            _check_response(response, expects_html, offset)
            yield response
    except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise TransientError(timeout_message) from error
    except (requests.exceptions.ChunkedEncodingError, urllib3.exceptions.ProtocolError) as error:
        raise TransientError("the connection was lost before the end of the file") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        # While it reads a whole body, requests reports a timeout as a lost connection.
        if any(isinstance(cause, urllib3.exceptions.TimeoutError) for cause in error.args):
            raise TransientError(timeout_message) from error
        raise TransientError(f"no connection to {url} ({error})") from error


def _check_response(response: requests.Response, expects_html: bool, offset: int) -> None:
    status = response.status_code
    summary = f"the server answered {status} {response.reason}"
    if status in (408, 429) or status >= 500:
        raise TransientError(summary, _retry_after_seconds(response.headers.get("Retry-After", "")))
    if status != 200 and not (offset and status == requests.codes.partial_content):
        try:
            message = f" ({str(response.json()['message'])[:200]})"
        except (ValueError, KeyError, TypeError):
            message = ""
        raise ValueError(" ".join(filter(None, [f"{summary}{message}.", REMEDIES.get(status)])))
    if response.headers.get("Content-Type", "").startswith("text/html") and not expects_html:
        raise ValueError("the server sent a web page instead of the file. Open the dataset's page in a browser to read it.")


def _retry_after_seconds(header: str) -> float:
    """Return the header Retry-After, a number of seconds or a date, in seconds from now; 0 if it is neither."""
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
