"""Files from http:// and https:// addresses, whole or not at all, by the standard library alone."""

import http.client
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO

from vit_jax.checkpoints.json_file import shown
from vit_jax.errors import UserError

LIMIT = 64 << 30  # bytes of a file; the largest published Vision Transformers have 22 GB
_CHUNK = 1 << 20  # bytes
_TIMEOUT = 30.0  # seconds without a byte
_TRIES = 4  # connections, each going on where the one before broke off
_ABSENT = (HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN, HTTPStatus.GONE)  # buckets answer 403 for what is not there
_REACH = "Check the address, the network and your permission, or fetch the file by other means and give its local path"


def is_http(path: str) -> bool:
    return path.lower().startswith(("http://", "https://"))


def file_name(url: str) -> str:
    """The name of the file that a URL means, without its query.

    Raises:
        UserError: the URL ends in no name.
    """
    try:
        name = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])
    except ValueError as error:  # brackets that are not an address
        raise UserError(f"{shown(url)} is not an address: {error}", "Check it") from error
    if not name or name.startswith(".") or "/" in name or "\0" in name or len(name) > 200:
        raise UserError(f"{shown(url)} names no file", "Give the address of a .safetensors or .npz file")
    return name


def beside(url: str, name: str) -> str:
    """The URL of another file in the same folder."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(path=parts.path.rpartition("/")[0] + "/" + urllib.parse.quote(name)))


def download(url: str, target: Path, *, limit: int = LIMIT, optional: bool = False) -> bool:
    """Writes what is at a URL to `target`, with a progress bar on a terminal; a broken connection is taken up again.

    Args:
        limit: bytes that it may have.
        optional: returns False where there is nothing, instead of raising.

    Raises:
        UserError: no answer, an answer that is not a file, too long, cut short, or no room for it; nothing is left
            behind.
    """
    from tqdm import tqdm

    name, position, total, tag, problem = file_name(url), 0, None, None, ""
    try:
        with (
            target.open("wb") as file,
            tqdm(unit="B", unit_scale=True, desc=name, disable=optional or not sys.stderr.isatty()) as bar,
        ):
            for _ in range(_TRIES):
                try:
                    with _open(url, position, tag) as response:
                        if response.headers.get_content_type() == "text/html":
                            if optional:  # some servers answer so for what is not there
                                return False
                            raise UserError(f"{url} is a web page, no file", "Give the address of the download itself")
                        if response.status != HTTPStatus.PARTIAL_CONTENT:  # the first answer, or one from the start
                            position, total = 0, _length(response, url, limit)
                            tag = response.headers.get("ETag")
                            file.truncate(file.seek(0))
                            _check_room(url, target, total or 0)
                            bar.reset(total)
                        position = _copy(response, file, position, url, limit, bar)
                    if total in (None, position):
                        return True
                    problem = f"the connection ended after {position} of {total} bytes"
                except http.client.InvalidURL as error:
                    raise UserError(f"{shown(url)} is not an address: {_line(error)}", "Check it") from error
                except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
                    position, problem = file.tell(), f"the connection broke after {file.tell()} bytes: {_line(error)}"
    except urllib.error.HTTPError as error:
        if optional and error.code in _ABSENT:
            return False
        raise UserError(f"{url} was answered by {error.code} {error.reason}", _REACH) from error
    except urllib.error.URLError as error:
        raise UserError(f"{url} could not be reached: {_line(error.reason)}", _REACH) from error
    except OSError as error:
        raise UserError(f"{url} could not be stored at {target.parent}: {_line(error)}", "Make room for it") from error
    except ValueError as error:
        raise UserError(f"{shown(url)} is not an address: {_line(error)}", "Check it") from error
    raise UserError(f"{url} could not be fetched: {problem}", _REACH)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows other addresses, but neither out of https nor to other protocols."""

    def redirect_request(self, request: Any, file: Any, code: int, message: str, headers: Any, new: str) -> Any:
        if not new.lower().startswith(("https://",) if request.full_url.lower().startswith("https://") else ("http",)):
            raise urllib.error.URLError(f"it leads to {shown(new)}, which is not followed")
        return super().redirect_request(request, file, code, message, headers, new)


def _open(url: str, position: int, tag: str | None) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers={"User-Agent": "vit_jax", "Accept-Encoding": "identity"})
    if position and tag:  # without a tag nobody knows whether it is still the same file
        request.add_header("Range", f"bytes={position}-")
        request.add_header("If-Range", tag)
    response = urllib.request.build_opener(_Redirects).open(request, timeout=_TIMEOUT)
    if response.status == HTTPStatus.PARTIAL_CONTENT and not (position and _starts_at(response, position)):
        raise urllib.error.URLError("it was answered with another part than was asked for")
    return response


def _starts_at(response: http.client.HTTPResponse, position: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {position}-")


def _length(response: http.client.HTTPResponse, url: str, limit: int) -> int | None:
    """The bytes that the server announces; None where it does not."""
    said = response.headers.get("Content-Length", "")
    if not (said.isascii() and said.isdigit() and len(said) < 20):
        return None
    if int(said) > limit:
        raise UserError(f"{url} has {said} bytes, more than the {limit} that are fetched", "Fetch it by other means")
    return int(said)


def _check_room(url: str, target: Path, total: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if total > free:
        raise UserError(f"{url} has {total} bytes and {target.parent} has room for {free}", "Make room for it")


def _copy(stream: BinaryIO, file: BinaryIO, position: int, url: str, limit: int, bar: Any) -> int:
    while chunk := stream.read(_CHUNK):
        position += len(chunk)
        if position > limit:
            raise UserError(f"{url} has more than the {limit} bytes that are fetched", "Fetch it by other means")
        file.write(chunk)
        bar.update(len(chunk))
    return position


def _line(error: object) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
