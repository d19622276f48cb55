"""GitHub's REST API, as far as a comment needs it: lists, create, update; patient, but not forever."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

from pytest_tokenbudget.errors import GitHubError

API = "https://api.github.com"
_TRIES = 4
_LONGEST_WAIT = 60.0
"""Seconds. A rate limit that lasts longer is not waited for."""
_TIMEOUT = 30.0
_PAGES = 100
"""Of 100 entries each."""

Json = dict[str, Any]


class GitHub:
    """One token at one API."""

    def __init__(self, token: str, api: str = API, sleep: Callable[[float], None] = time.sleep) -> None:
        """Raises GitHubError for an address to which no token should be sent."""
        address = urlsplit(api)
        if address.scheme != "https" and address.hostname not in ("127.0.0.1", "localhost"):
            raise GitHubError(f"{api} is no https address. Set GITHUB_API_URL to the API of your GitHub.")
        self._token, self._api, self._sleep = token, api.rstrip("/"), sleep

    def listed(self, path: str, **query: str) -> Iterator[Json]:
        """Every entry of a list, page by page."""
        for page in range(1, _PAGES + 1):
            asked = urlencode({**query, "per_page": "100", "page": str(page)})
            entries = self._ask("GET", f"{path}?{asked}")
            yield from entries
            if len(entries) < 100:
                return
        raise GitHubError(f"{path} lists more than {_PAGES * 100:,} entries. That is not looked through.")

    def update(self, path: str, body: Json) -> Json:
        """Change what is there."""
        changed: Json = self._ask("PATCH", path, body)
        return changed

    def create(self, path: str, body: Json) -> Json | None:
        """Make something new; None where nobody knows whether it was made, so look before trying again."""
        try:
            created: Json = self._ask("POST", path, body, tries=1)
        except _PassingError:
            return None
        return created

    def _ask(self, method: str, path: str, body: Json | None = None, tries: int = _TRIES) -> Any:
        """The answer's JSON. What passes (5xx, no connection, short rate limits) is tried again."""
        for left in reversed(range(tries)):
            try:
                return self._once(method, path, body)
            except _PassingError as trouble:
                if not left:
                    raise
                self._sleep(trouble.wait or 2.0 ** (tries - 1 - left))
        raise AssertionError("tries is at least 1")

    def _once(self, method: str, path: str, body: Json | None) -> Any:
        request = Request(  # noqa: S310  # the scheme was checked
            self._api + path,
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={
                "Accept": "application/vnd.github+json",
                "Content-Type": "application/json",
                "User-Agent": "pytest-tokenbudget",
                "X-GitHub-Api-Version": "2022-11-28",
            },
        )
        # not sent on to where a redirect points
        request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        try:
            with urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310
                return json.load(answer)
        except HTTPError as error:
            raise _refusal(error, f"{method} {path.partition('?')[0]}") from None
        except (URLError, OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise _PassingError(f"{self._api} does not answer: {reason}. Run the job again.") from None


class _PassingError(GitHubError):
    """Trouble that may be over soon."""

    def __init__(self, text: str, wait: float | None = None) -> None:
        super().__init__(text)
        self.wait = wait


def _refusal(error: HTTPError, what: str) -> GitHubError:
    with error:
        try:
            message = str(json.load(error)["message"])
        except (ValueError, KeyError, TypeError, OSError):
            message = str(error.reason)
    said = f"GitHub answered {what} with {error.code}: {' '.join(message.split())[:200]}."
    if error.code >= 500:
        return _PassingError(f"{said} Run the job again.")
    if error.code == 429 or (error.code == 403 and _is_rate_limit(error)):
        wait = _wait(error)
        again = f"{said} The rate limit of this token is used up: run the job again later."
        return _PassingError(again, wait) if wait <= _LONGEST_WAIT else GitHubError(again)
    return GitHubError(f"{said} {_FIXES.get(error.code, 'Nothing was written.')}")


_FIXES = {
    401: "Hand the job's token to it: env GITHUB_TOKEN: ${{ github.token }}.",
    403: (
        "The job needs `permissions: pull-requests: write`. A fork's own run never has it: comment from a "
        "workflow_run workflow, as docs/ci.md shows."
    ),
    404: "The repository does not exist, or this token may not see it.",
}


def _is_rate_limit(error: HTTPError) -> bool:
    return "Retry-After" in error.headers or error.headers.get("X-RateLimit-Remaining") == "0"


def _wait(error: HTTPError) -> float:
    """Seconds until the next try is welcome."""
    try:
        if "Retry-After" in error.headers:
            return max(float(error.headers["Retry-After"]), 1.0)
        return max(float(error.headers["X-RateLimit-Reset"]) - time.time(), 1.0)
    except (TypeError, ValueError):
        return _LONGEST_WAIT
