# SPDX-License-Identifier: Apache-2.0
"""Bytes from a server into a partial file: retried, resumed, and refused if they are no weights.

On the standard library: the requirements have no HTTP client that resumes and checks, and
`urllib` obeys the usual variables for proxies and certificates.
"""

from __future__ import annotations

import base64
import http.client
import ssl
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import vitdet_d2
from vitdet_d2.errors import DownloadError, WeightsError
from vitdet_d2.progress_bar import bar
from vitdet_d2.zoo.addresses import redact
from vitdet_d2.zoo.partial_file import PartialFile

# A server that says nothing for so long is given up, and asked again.
TIMEOUT_SECONDS = 20.0
# Requests in a row that bring nothing new, and the first pause between them, which doubles.
ATTEMPTS = 4
PAUSE_SECONDS = 1.0

_CHUNK = 1 << 18
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_RANGE_REFUSED = 416


class _InterruptedTransfer(Exception):  # noqa: N818  (caught here; what follows decides)
    """A request ended before the file did; another may go on."""


def transfer(source: str, part: PartialFile, name: str) -> None:
    """Ask a source until the file is complete.

    Args:
        source: its address.
        part: where the bytes go; complete afterwards.
        name: for the progress bar.

    Raises:
        DownloadError: no network, no answer any more, or no room on the disk.
        WeightsError: the server refuses, or gives a web page.
    """
    if part.resume_header(source) is not None and part.size == part.total:
        return
    most, fruitless = part.size, 0
    while True:
        try:
            return _request(source, part, name)
        except _InterruptedTransfer as reason:
            if part.size > most:
                most, fruitless = part.size, 0
            fruitless += 1
            if fruitless >= ATTEMPTS:
                of = "" if part.total is None else f" of {part.total}"
                raise DownloadError(
                    f"{redact(source)}: cut off at {part.size}{of} bytes, {fruitless} times in a "
                    f"row ({reason}); run it again to go on from there, or fetch the file by other "
                    "means and give its path"
                ) from None
            time.sleep(PAUSE_SECONDS * 2 ** (fruitless - 1))


def _request(source: str, part: PartialFile, name: str) -> None:
    """Make one request, and write what it brings.

    Raises:
        _InterruptedTransfer: the file is not complete.
        DownloadError: asking again is of no use.
        WeightsError: likewise.
    """
    validator = part.resume_header(source)
    request = _prepare(source)
    if validator is not None:
        request.add_header("Range", f"bytes={part.size}-")
        request.add_header("If-Range", validator)
    try:
        # Made anew, as the proxies in the environment may have changed.
        opener = urllib.request.build_opener()
        with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
            _accept(response, source, part, asked_for_rest=validator is not None)
            _receive(response, part, name)
    except urllib.error.HTTPError as error:
        with error:
            _refused(error, source, part)
    except urllib.error.URLError as error:
        _unreachable(source, error.reason, part)
    except (http.client.HTTPException, TimeoutError, OSError) as error:
        raise _InterruptedTransfer(f"{type(error).__name__}: {error}".rstrip(": ")) from None


def _prepare(source: str) -> urllib.request.Request:
    parts = urlsplit(source)
    user, at, host = parts.netloc.rpartition("@")
    path = quote(parts.path, safe="/%:@!$&'()*+,;=~")
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=host, path=path)))
    request.add_header("User-Agent", f"vitdet_d2/{vitdet_d2.__version__}")
    request.add_header("Accept-Encoding", "identity")
    if at:
        token = base64.b64encode(unquote(user).encode()).decode()
        # Not sent on to where a server redirects.
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


def _accept(response: Any, source: str, part: PartialFile, *, asked_for_rest: bool) -> None:
    """Decide what an answer is, before any of it is written.

    Raises:
        WeightsError: it is a web page.
        _InterruptedTransfer: it is another part than the one asked for.
        DownloadError: its length is unknown, or there is no room for it.
    """
    headers = response.headers
    if headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise WeightsError(
            f"{redact(source)}: the server answered with a web page in place of the file (a login "
            "or error page?); nothing was kept. Open the address in a browser, or use a mirror "
            "(VITDET_D2_ZOO_URL)"
        )
    length = headers.get("Content-Length")
    count = int(length) if length is not None and length.isdigit() else None
    if asked_for_rest and response.status == http.client.PARTIAL_CONTENT:
        unit, _, span = headers.get("Content-Range", "").partition(" ")
        span, _, total = span.partition("/")
        if unit == "bytes" and span.startswith(f"{part.size}-") and total in (str(part.total), "*"):
            part.resumed = True
            part.require_space()
            return
        part.discard()
        raise _InterruptedTransfer("the server gave another part of the file than was asked for")
    if count is None and not getattr(response, "chunked", False):
        raise DownloadError(
            f"{redact(source)}: the server does not say how long the file is, so that a cut cannot "
            "be noticed; fetch it by other means, and give the path of the local file"
        )
    part.begin(source, _validator(headers), count)
    part.require_space()


def _validator(headers: Any) -> str | None:
    """Return what tells this version of a file from others, if the server can give parts of it."""
    etag = headers.get("ETag")
    if etag and not etag.startswith("W/"):
        return str(etag)
    return headers.get("Last-Modified")


def _receive(response: Any, part: PartialFile, name: str) -> None:
    """Write what comes.

    Raises:
        _InterruptedTransfer: it ends too soon.
    """
    # None: shown on a terminal only.
    with bar(
        desc=name, total=part.total, initial=part.size, unit="B", unit_scale=True, disable=None
    ) as shown:
        while chunk := response.read(_CHUNK):
            part.append(chunk)
            shown.update(len(chunk))
    if part.total is not None and part.size != part.total:
        raise _InterruptedTransfer("the connection was closed")


def _refused(error: urllib.error.HTTPError, source: str, part: PartialFile) -> None:
    """Turn a status into an error.

    Raises:
        _InterruptedTransfer: another request may help.
        WeightsError: the file is not given.
    """
    if error.code == _RANGE_REFUSED:
        part.discard()
    if error.code in _TRY_AGAIN or error.code == _RANGE_REFUSED:
        raise _InterruptedTransfer(f"the server answered {error.code} {error.reason}")
    cure = "check the address"
    if error.code == http.client.PROXY_AUTHENTICATION_REQUIRED:
        cure = "set the proxy's user and password in https_proxy"
    raise WeightsError(
        f"{redact(source)}: the server answered {error.code} {error.reason}; {cure}, name a mirror "
        "with VITDET_D2_ZOO_URL, or fetch the file by other means and give its path"
    )


def _unreachable(source: str, reason: Any, part: PartialFile) -> None:
    """Say why a server was not reached.

    Raises:
        _InterruptedTransfer: another request may help.
        DownloadError: it cannot be reached from here.
        WeightsError: there is no such local file.
    """
    if isinstance(reason, TimeoutError):
        raise _InterruptedTransfer("no answer")
    if part.size:
        raise _InterruptedTransfer(str(reason))
    if isinstance(reason, ssl.SSLCertVerificationError):
        raise DownloadError(
            f"{redact(source)}: the server's certificate is not trusted ({reason.verify_message}); "
            "behind a proxy that replaces certificates, name its own with SSL_CERT_FILE"
        )
    if isinstance(reason, (ConnectionResetError, ConnectionAbortedError)):
        raise _InterruptedTransfer(str(reason))
    if isinstance(reason, FileNotFoundError) or "No such file" in str(reason):
        raise WeightsError(f"{redact(source)}: there is no such file; check the address")
    raise DownloadError(
        f"{redact(source)} cannot be reached ({reason}): no network, or a wrong address. Where a "
        "proxy is needed set https_proxy, name a mirror with VITDET_D2_ZOO_URL, or fetch the file "
        "by other means and give its path"
    )
