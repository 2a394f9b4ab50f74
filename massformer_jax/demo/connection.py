"""One connection of a browser: who may ask, what a request carries, and how answers are sent."""

import http.server
import ipaddress
import json
import traceback
import urllib.parse
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from massformer_jax.demo.studio import Forgotten, NotYet
from massformer_jax.errors import InputError

_PIECE = 1 << 20  # bytes that are read at once

# A browser that is told this policy fetches nothing from anywhere else, and no other page may show
# this one inside of itself.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Refused(Exception):
    """The error of a request that is answered by a status and one line."""

    def __init__(self, status: HTTPStatus, line: str):
        super().__init__(line)
        self.status = status


class Connection(http.server.BaseHTTPRequestHandler):
    """The answers to the requests of one connection.

    A subclass says what there is to answer, and by what name the server was told to listen.
    """

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "massformer", ""
    timeout = 60  # seconds without a byte until a connection is closed
    host: str  # as the server was told

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing: the terminal is for errors."""

    def answer(self, work: Callable[[list[str], dict[str, str]], None]) -> None:
        """Calls a function with the parts of the path and the query, or says what is wrong."""
        try:
            address = self._split(self.path)
            query = dict(urllib.parse.parse_qsl(address.query))
            self._check_sender()
            work(urllib.parse.unquote(address.path).split("/")[1:], query)
        except Refused as error:
            self.send_json({"error": str(error)}, error.status)
        except Forgotten:
            line = "This photograph is no longer kept; drop it again."
            self.send_json({"error": line}, HTTPStatus.GONE)
        except NotYet:
            line = "Wait until all pixels of the photograph have been segmented."
            self.send_json({"error": line}, HTTPStatus.CONFLICT)
        except InputError as error:
            self.send_json({"error": str(error)}, HTTPStatus.UNPROCESSABLE_ENTITY)
        except MemoryError:
            line = "There is not the memory for it."
            self.send_json({"error": line}, HTTPStatus.INSUFFICIENT_STORAGE)
        except (ConnectionError, TimeoutError):
            self.close_connection = True
            raise
        except Exception:
            traceback.print_exc()
            line = "The program failed; its terminal shows where."
            self.send_json({"error": line}, HTTPStatus.INTERNAL_SERVER_ERROR)

    def _check_sender(self) -> None:
        """Refuses what other pages make a browser send.

        A page may give its own name the address of this machine, and then read what this server
        answers. The name stays in `Host`, so only addresses are accepted there, and names of this
        machine. What a page sends without reading carries its `Origin`.
        """
        host = self.headers.get("Host", "")
        name = self._split(f"//{host}").hostname or ""
        origin = self.headers.get("Origin")
        site = self.headers.get("Sec-Fetch-Site", "none")
        if not (name in ("localhost", self.host.lower()) or _is_address(name)):
            line = f"This machine is not known as {name!r} here; use its address."
        elif origin not in (None, f"http://{host}") or site not in ("none", "same-origin"):
            line = "Other pages may not use this one."
        else:
            return
        self.close_connection = True
        raise Refused(HTTPStatus.FORBIDDEN, line)

    def _split(self, address: str) -> urllib.parse.SplitResult:
        """Returns the parts of an address that the request carries; raises Refused if it is none.

        A body that may follow is not read, so the connection ends.
        """
        try:
            return urllib.parse.urlsplit(address)
        except ValueError as error:
            self.close_connection = True
            line = f"{address!r} is no address."
            raise Refused(HTTPStatus.BAD_REQUEST, line) from error

    def body(self, most: int) -> bytes:
        """Returns the file that the request carries, of at most so many bytes.

        Raises:
            Refused: it is empty, too large, of unknown length, or did not arrive completely.
        """
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self.close_connection = True
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "The request does not tell its length.")
        left, pieces = int(length), []
        large = left > most
        while left:
            piece = self.rfile.read(min(left, _PIECE))
            if not piece:
                self.close_connection = True
                raise Refused(HTTPStatus.BAD_REQUEST, "The file did not arrive completely.")
            left -= len(piece)
            # What is too large is read and dropped: many clients read no answer before they have
            # sent everything.
            if not large:
                pieces.append(piece)
        if large:
            line = f"The file has more than {most / 1e6:.0f} MB; the page takes no more."
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, line)
        if not pieces:
            raise Refused(HTTPStatus.BAD_REQUEST, "The file is empty.")
        return b"".join(pieces)

    def send_json(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        """Sends a value as JSON."""
        self.send(json.dumps(value).encode(), "application/json", status)

    def send_download(self, data: bytes, name: str) -> None:
        """Sends a PNG that the browser saves as a file of this name."""
        quoted = urllib.parse.quote(name, safe="")
        extra = {"Content-Disposition": f"attachment; filename*=UTF-8''{quoted}"}
        self.send(data, "image/png", extra=extra)

    def send(
        self,
        data: bytes,
        kind: str,
        status: HTTPStatus = HTTPStatus.OK,
        extra: dict[str, str] | None = None,
    ) -> None:
        """Sends an answer.

        Args:
            data: its body.
            kind: the type of the body, as in `Content-Type`.
            status: of the answer.
            extra: more headers.
        """
        self.send_response(status)
        headers = {**_HEADERS, **(extra or {})}
        headers |= {"Content-Type": kind, "Content-Length": str(len(data))}
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _is_address(name: str) -> bool:
    """Tells whether a name is an IP address, which no other page can be called by."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
