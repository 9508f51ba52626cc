"""Servers on this machine that keep comments as GitHub and GitLab do, for the tests of ``comment``."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "the-secret-token"


@dataclass
class Board:
    """The comments of one merge request, and what the server is to do instead of its work.

    ``comments``: id to author and text. ``seen``: method and path (or the kind of query) of each request.
    ``answer``: a status and a body with which every request is answered.
    """

    url: str = ""
    comments: dict[str, tuple[str, str]] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    answer: tuple[int, str] | None = None
    per_page: int = 2

    @property
    def texts(self) -> list[str]:
        return [text for _, text in self.comments.values()]

    def add(self, author: str, text: str) -> None:
        # Servers change the ends of lines, and strip the text.
        self.comments[str(len(self.comments) + 1)] = (author, text.strip().replace("\n", "\r\n"))


class _Handler(BaseHTTPRequestHandler):
    board: Board

    def log_message(self, *_):
        pass

    def _answer(self, status: int, body: object, **headers: str) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.board.answer is not None:
            status, text = self.board.answer
            self._answer(status, text, Location=f"{self.board.url}/elsewhere")
        else:
            self._work(json.loads(body) if body else {})

    do_GET = do_POST = do_PUT = _handle


class _GitHub(_Handler):
    def _work(self, body: dict) -> None:
        board, variables = self.board, body["variables"]
        kind = body["query"].strip().partition("(")[0]
        assert self.headers["Authorization"] == f"Bearer {TOKEN}"
        if kind == "query":
            board.seen.append("list")
            where = [variables[name] for name in ("owner", "name", "number")]
            assert where == ["team", "models", 7]
            start = int(variables["after"] or 0)
            end = start + board.per_page
            nodes = [
                {"id": f"C_{key}", "body": text, "viewerDidAuthor": author == "bot"}
                for key, (author, text) in board.comments.items()
            ]
            page = {"hasNextPage": end < len(nodes), "endCursor": str(end)}
            comments = {"pageInfo": page, "nodes": nodes[start:end]}
            request = {"id": "PR_7", "comments": comments}
            self._answer(200, {"data": {"repository": {"pullRequest": request}}})
        elif "addComment" in body["query"]:
            board.seen.append("create")
            assert variables["id"] == "PR_7"
            board.add("bot", variables["body"])
            self._answer(200, {"data": {}})
        else:
            board.seen.append("edit")
            key = variables["id"].removeprefix("C_")
            board.comments[key] = (board.comments[key][0], variables["body"])
            self._answer(200, {"data": {}})


class _GitLab(_Handler):
    notes = "/api/v4/projects/3/merge_requests/7/notes"

    def _work(self, body: dict) -> None:
        board = self.board
        path, _, query = self.path.partition("?")
        if path == "/api/v4/projects/3/jobs/artifacts/main/raw/torchexport-report/report.json":
            self._answer(404, "no such job")
            return
        assert self.headers["PRIVATE-TOKEN"] == TOKEN
        if path == "/api/v4/user":
            self._answer(200, {"id": "bot"})
        elif self.command == "GET":
            board.seen.append("list")
            assert path == self.notes
            page = int(query.rpartition("page=")[2])
            end = page * board.per_page
            notes = [
                {"id": int(key), "body": text, "author": {"id": author}}
                for key, (author, text) in board.comments.items()
            ]
            more = str(page + 1) if end < len(notes) else ""
            self._answer(200, notes[end - board.per_page : end], X_Next_Page=more)
        elif self.command == "POST":
            board.seen.append("create")
            assert path == self.notes
            board.add("bot", body["body"])
            self._answer(201, {})
        else:
            board.seen.append("edit")
            parent, _, key = path.rpartition("/")
            assert parent == self.notes
            board.comments[key] = (board.comments[key][0], body["body"])
            self._answer(200, {})


@contextlib.contextmanager
def serving(provider: str) -> Iterator[Board]:
    """Serve the board of a merge request for the duration of the block."""
    board = Board()
    base = {"github": _GitHub, "gitlab": _GitLab}[provider]
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (base,), {"board": board}))
    board.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield board
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def variables(provider: str, board: Board) -> dict[str, str]:
    """Return what a job for merge request 7 has in its environment."""
    if provider == "github":
        return {
            "GITHUB_GRAPHQL_URL": board.url,
            "GITHUB_TOKEN": TOKEN,
            "GITHUB_REPOSITORY": "team/models",
            "GITHUB_REF": "refs/pull/7/merge",
        }
    return {
        "CI_API_V4_URL": f"{board.url}/api/v4",
        "GITLAB_TOKEN": TOKEN,
        "CI_PROJECT_ID": "3",
        "CI_MERGE_REQUEST_IID": "7",
    }
