"""The page over HTTP: on loopback only, to who has the token, and never to another site's page.

Three things stand between the logs and a page of someone else that the same browser shows: the
token, which that page does not know; ``Host``, which must be an address of loopback, so that a name
of the attacker's that resolves to 127.0.0.1 is refused (DNS rebinding); ``Origin``, which must be
ours.
"""

import hmac
import secrets
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from distill.view.answers import Answers
from distill.view.page import Page
from distill.view.shapes import as_json

ADDRESS = "127.0.0.1"
TOKEN_HEADER = "X-Distill-Token"  # noqa: S105  (its name, not the token)
LOOK_EVERY_S = 0.3
BETWEEN_LOOKS_S = 0.002
NOTHING = "default-src 'none'"
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Refused(Exception):
    """A request that gets nothing; ``status`` says why."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


class ViewServer:
    """Serves the page of ``answers`` until it is closed. Raises OSError: the port is taken."""

    def __init__(self, answers: Answers, port: int = 0) -> None:
        self._answers = answers
        self._closed = threading.Event()
        self._http = _Http((ADDRESS, port), answers)
        self.port, self.token = self._http.server_port, self._http.token
        self.url = f"http://{ADDRESS}:{self.port}/?token={self.token}"
        for work in (self._follow, self._serve):
            threading.Thread(target=work, name="distill-view", daemon=True).start()

    def _serve(self) -> None:
        self._http.serve_forever(0.1)

    def _follow(self) -> None:
        """Read on, as the logs grow."""
        while not self._closed.is_set():
            # Who waits for an answer comes between: a lock is nobody's by turn.
            self._closed.wait(BETWEEN_LOOKS_S if self._answers.look() else LOOK_EVERY_S)

    def close(self) -> None:
        """Answer no more."""
        self._closed.set()
        self._http.shutdown()
        self._http.server_close()


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], answers: Answers) -> None:
        super().__init__(address, _Handler)
        self.token = secrets.token_urlsafe(24)
        self.page = Page.live()
        self.routes = _routes(answers)
        self.hosts = [f"{name}:{self.server_port}" for name in (ADDRESS, "localhost")]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a browser goes away in the middle of a reply."""


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    protocol_version = "HTTP/1.1"
    server_version = "distill"
    sys_version = ""
    timeout = 60

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        try:
            kind, policy, body = self._answer()
        except Refused as refused:
            self._send(refused.status, "text/plain", NOTHING, f"{refused}\n".encode())
        else:
            self._send(HTTPStatus.OK, kind, policy, body)

    def _answer(self) -> tuple[str, str, bytes]:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        self._check_sender()
        if url.path == "/":
            self._check_token(query.get("token", [""])[0])
            return "text/html", self.server.page.policy, self.server.page.html.encode()
        self._check_token(self.headers.get(TOKEN_HEADER, ""))
        words = [unquote(word) for word in url.path.split("/")[1:]]
        return "application/json", NOTHING, as_json(_routed(self.server.routes, words, query))

    def _check_sender(self) -> None:
        hosts = self.server.hosts
        if self.headers.get_all("Host", []) not in ([host] for host in hosts):
            raise Refused(HTTPStatus.MISDIRECTED_REQUEST)
        origins = self.headers.get_all("Origin", [])
        if any(origin not in {f"http://{host}" for host in hosts} for origin in origins):
            raise Refused(HTTPStatus.FORBIDDEN)
        is_own = self.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")
        # A link to the page may stand anywhere, as in a terminal that is a web page itself.
        if not is_own and self.headers.get("Sec-Fetch-Dest") != "document":
            raise Refused(HTTPStatus.FORBIDDEN)

    def _check_token(self, given: str) -> None:
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self.server.token.encode()):
            raise Refused(HTTPStatus.FORBIDDEN)

    def _send(self, status: HTTPStatus, kind: str, policy: str, body: bytes) -> None:
        self.send_response(status)
        headers = {
            **HEADERS,
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Content-Security-Policy": policy,
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


Query = dict[str, list[str]]
Route = Callable[[list[str], Query], Any]


def _routes(answers: Answers) -> dict[str, Route]:
    """What may be asked, as ``api/NAME/RUN/…``: RUN is the key of a run."""
    return {
        "state": lambda _, __: answers.state(),
        "run": lambda words, _: answers.run(words[0]),
        "turn": lambda words, _: answers.turn(words[0], int(words[1])),
        "columns": lambda words, _: answers.columns(words[0], int(words[1])),
        "call": lambda words, _: _one(answers, words[0], int(words[1])),
        "text": lambda words, _: answers.texts(words[0]).slice(int(words[1]), int(words[2])),
        "matches": lambda words, _: answers.matches(words[0]),
        "search": lambda words, query: answers.search(words[0], query["words"][0]),
    }


def _one(answers: Answers, key: str, row: int) -> Any:
    return answers.calls(key, range(row, row + 1))[0]


def _routed(routes: dict[str, Route], words: list[str], query: Query) -> Any:
    if len(words) < 2 or words[0] != "api" or words[1] not in routes:
        raise Refused(HTTPStatus.NOT_FOUND)
    try:
        return routes[words[1]](words[2:], query)
    except (LookupError, ValueError):
        raise Refused(HTTPStatus.NOT_FOUND) from None
    except OSError:
        raise Refused(HTTPStatus.GONE) from None
