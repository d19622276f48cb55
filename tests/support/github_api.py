"""A small GitHub on loopback: open pull requests, their comments, and the ways in which it fails."""

from __future__ import annotations

import json
import re
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "ghs_of_this_test"
BOT = "github-actions[bot]"
COMMENT_LIMIT = 65_536


@dataclass
class Failure:
    """What the server answers once instead."""

    status: int
    message: str = "Server Error"
    headers: dict[str, str] = field(default_factory=dict)
    methods: tuple[str, ...] = ("GET", "POST", "PATCH")
    done: bool = False
    """Whether the request takes effect all the same, as behind a gateway that gave up."""


BASE = "b" * 40
"""The commit that every pull request merges into."""


@dataclass
class State:
    """What the server holds, and what it was asked."""

    repository: str = "shop/agent"
    pulls: list[dict[str, Any]] = field(default_factory=list)
    comments: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    failures: deque[Failure] = field(default_factory=deque)
    asked: list[str] = field(default_factory=list)
    read_only: bool = False

    def pull(self, number: int, head: str, sha: str, *, state: str = "open") -> None:
        """Open one; `head` is `owner/name:branch`."""
        repo, _, branch = head.partition(":")
        owner = repo.partition("/")[0]
        self.pulls.append(
            {
                "number": number,
                "state": state,
                "base": {"ref": "main", "sha": BASE},
                "head": {
                    "ref": branch,
                    "sha": sha,
                    "label": f"{owner}:{branch}",
                    "repo": {"full_name": repo},
                },
            }
        )
        self.comments[number] = []

    def say(self, number: int, login: str, body: str) -> dict[str, Any]:
        """Somebody comments."""
        ids = [one["id"] for listed in self.comments.values() for one in listed]
        comment = {"id": max(ids, default=0) + 1, "user": {"login": login}, "body": body, "edits": 0}
        self.comments[number].append(comment)
        return comment

    def bodies(self, number: int, login: str = BOT) -> list[str]:
        return [one["body"] for one in self.comments[number] if one["user"]["login"] == login]

    def writes(self) -> list[str]:
        return [line for line in self.asked if not line.startswith("GET")]


class _Handler(BaseHTTPRequestHandler):
    state: State

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PATCH(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self.state.asked.append(f"{self.command} {url.path}")
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        failures = self.state.failures
        failure = failures.popleft() if failures and self.command in failures[0].methods else None
        status, answer = (
            (0, None) if failure and not failure.done else self._do(url.path, parse_qs(url.query), body)
        )
        if failure:
            status, answer = failure.status, {"message": failure.message}
        data = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in (failure.headers if failure else {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _do(self, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> tuple[int, Any]:
        state = self.state
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"message": "Bad credentials"}
        if self.command != "GET" and state.read_only:
            return 403, {"message": "Resource not accessible by integration"}
        if self.command != "GET" and len(body["body"]) > COMMENT_LIMIT:
            return 422, {"message": "Validation Failed: body is too long"}
        own = re.fullmatch(rf"/repos/{state.repository}/(.*)", path)
        if own is None:
            return 404, {"message": "Not Found"}
        if own[1] == "pulls":
            return 200, _page(self._pulls(query), query)
        if found := re.fullmatch(r"issues/(\d+)/comments", own[1]):
            number = int(found[1])
            if self.command == "POST":
                return 201, state.say(number, BOT, body["body"])
            return 200, _page(state.comments[number], query)
        if found := re.fullmatch(r"issues/comments/(\d+)", own[1]):
            comments = [one for listed in state.comments.values() for one in listed]
            comment = next(one for one in comments if one["id"] == int(found[1]))
            comment["body"], comment["edits"] = body["body"], comment["edits"] + 1
            return 200, comment
        return 404, {"message": "Not Found"}

    def _pulls(self, query: dict[str, list[str]]) -> list[dict[str, Any]]:
        """As GitHub does, by state, and by head only where it is `owner:branch`."""
        state, head = query.get("state", ["open"])[0], query.get("head", [""])[0]
        found = [one for one in self.state.pulls if one["state"] == state]
        return [one for one in found if ":" not in head or one["head"]["label"] == head]


def _page(entries: list[Any], query: dict[str, list[str]]) -> list[Any]:
    size, page = int(query.get("per_page", ["30"])[0]), int(query.get("page", ["1"])[0])
    return entries[(page - 1) * size : page * size]


def server_of(state: State) -> ThreadingHTTPServer:
    """Return a server of `state`, which nobody serves yet."""
    return ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"state": state}))
