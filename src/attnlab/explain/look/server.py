"""The page's server: on this machine alone, and only for who has the address that it prints."""

import secrets
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from attnlab.errors import AttnlabError, UsageError
from attnlab.explain.look.look_page import form_page, reading_page, steps_page
from attnlab.explain.look.reader import Question, TextReader
from attnlab.inspection.map_page.page import layer_numbers

HOST, PLAIN = "127.0.0.1", "text/plain; charset=utf-8"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; connect-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "X-Content-Type-Options": "nosniff",
}


class Server(ThreadingHTTPServer):
    """Answers one question at a time; `address` is the only one under which it does."""

    daemon_threads = True

    def __init__(self, reader: TextReader, port: int) -> None:
        try:
            super().__init__((HOST, port), Handler)
        except OSError as error:
            raise UsageError(f"port ({port}) cannot be used ({error.strerror}); 0 takes a free one") from error
        self.reader, self.token, self.lock = reader, secrets.token_urlsafe(16), threading.Lock()
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}
        self.address = f"http://{HOST}:{self.server_port}/{self.token}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing of a browser that did not wait for its answer; anything else as usual."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Handler(BaseHTTPRequestHandler):
    """GET /TOKEN/?text=... is the page, /TOKEN/steps?text=... the steps of the layer in it, /TOKEN/map?... its maps."""

    server: Server
    timeout = 30  # seconds that a connection may stay silent

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        _, _, rest = url.path.partition("/")
        token, _, page = rest.partition("/")
        if self.headers.get("Host") not in self.server.hosts:
            self._send(HTTPStatus.FORBIDDEN, "this page is served under its own address only\n", PLAIN)
        elif not secrets.compare_digest(token.encode(), self.server.token.encode()):
            text = "the address must hold the token that attnlab look has printed\n"
            self._send(HTTPStatus.FORBIDDEN, text, PLAIN)
        elif page not in ("", "steps", "map"):
            self._send(HTTPStatus.NOT_FOUND, "there is no such page\n", PLAIN)
        else:
            self._answer(url.query, page)

    def _answer(self, query: str, page: str) -> None:
        reader, asked = self.server.reader, Question("")
        try:
            if not query:
                self._send(HTTPStatus.OK, form_page(reader, asked))
                return
            asked = question(query)
            with self.server.lock:  # what is watched in a layer is watched by one at a time
                answer = _answers(reader, asked, page)
            self._send(HTTPStatus.OK, *answer)
        except AttnlabError as error:
            self._send(HTTPStatus.BAD_REQUEST, form_page(reader, asked, problem=str(error)))
        except Exception as error:  # whatever a variant does with a text that it was not made for: the page stays
            problem = f"this run cannot read it ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, form_page(reader, asked, problem=problem))

    def _send(self, status: HTTPStatus, text: str | bytes, kind: str = "text/html; charset=utf-8") -> None:
        data = text if isinstance(text, bytes) else text.encode(errors="replace")
        self.send_response(status)
        about = {"Content-Type": kind, "Content-Length": str(len(data))}
        for name, value in {**HEADERS, **about}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: the terminal is the user's."""


def _answers(reader: TextReader, asked: Question, page: str) -> tuple[str | bytes, str]:
    """What is sent, and of which kind it is."""
    if page == "map":
        return layer_numbers(reader.maps(asked.text), asked.layer), "application/octet-stream"
    text = steps_page(reader.explain(asked)) if page else reading_page(reader, reader.read(asked))
    return text, "text/html; charset=utf-8"


def question(query: str) -> Question:
    """What an address asks; refused if a number is none."""
    try:
        fields = parse_qs(query, keep_blank_values=True, max_num_fields=10)
    except ValueError as error:
        raise UsageError("the address holds too many fields") from error
    values = {name: entries[-1] for name, entries in fields.items() if name in Question._fields}
    numbers = {}
    for name, kind in (("token", int), ("layer", int), ("head", int), ("temperature", float)):
        text = values.get(name, "")
        if not text:
            continue
        try:
            numbers[name] = kind(text)
        except ValueError as error:
            raise UsageError(f"{name} ({text[:20]!r}) must be a number") from error
        if not numbers[name] >= 0:
            raise UsageError(f"{name} ({text[:20]}) must be at least 0")
    return Question(values.get("text", "").replace("\r\n", "\n"), **numbers)  # type: ignore[arg-type]  # counts are int


def serve(reader: TextReader, port: int) -> None:
    """Print the address and answer until Ctrl-C."""
    with Server(reader, port) as server:
        print(f"{reader.name} reads what is typed at {server.address}", flush=True)
        print("Ctrl-C ends it", flush=True)
        server.serve_forever()
