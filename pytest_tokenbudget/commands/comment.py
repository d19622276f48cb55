"""Write one comment on the pull request of a workflow run, updated in place from then on.

Everything in a document may be written by the author of a pull request. It is shown, escaped and cut by the
renderer. Where it is shown is decided by the event that GitHub itself wrote. GitHub's REST API is used as far
as a comment needs it: list, create and update, with a limited number of tries.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

from pytest_tokenbudget.commands import documents, output
from pytest_tokenbudget.commands.documents import Inputs, inputs
from pytest_tokenbudget.errors import GitHubError, ReportError
from pytest_tokenbudget.reports import run_view
from pytest_tokenbudget.reports.markdown import Links, markdown, marker

AUTHOR = "github-actions[bot]"
"""The author of comments that a workflow's token makes; nobody can register a name with these brackets."""
_MOST_BYTES = 50_000_000
"""The largest document that is read: one of some ten thousand scenarios."""
_CREATE_TRIES = 3


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a branch that was measured, as GitHub says it."""

    repository: str
    """`owner/name`, of the fork if it is one."""
    branch: str
    sha: str
    run: str | None = None
    """The address of the run; None if the event does not have it."""

    def links(self, server: str, base: str | None) -> Links:
        """Return the addresses of what was measured on a GitHub at `server`, `base` among them."""
        at = f"{server.rstrip('/')}/{self.repository}"
        return Links(f"{at}/blob/{self.sha}", f"{at}/commit/{self.sha}", self.run, base)


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment to be made or updated."""

    body: str
    marker: str
    """Its first line, by which it is found again."""
    author: str
    news: bool
    """Whether it is worth a new comment; an existing one is updated in any case."""


def run(
    paths: Sequence[Path],
    environ: Mapping[str, str],
    *,
    diff: Path | None = None,
    suffix: str = "",
    author: str = AUTHOR,
    runs_per_month: int | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Comment on every open pull request whose head was measured. Raises GitHubError and ReportError."""
    token, repository = (_given(environ, name) for name in ("GITHUB_TOKEN", "GITHUB_REPOSITORY"))
    head = read_head(Path(_given(environ, "GITHUB_EVENT_PATH")))
    if head is None:
        output.tell("This run is of no pull request: nothing to comment.")
        return 0
    server = environ.get("GITHUB_SERVER_URL") or SERVER
    given = inputs(paths, diff)
    github = GitHub(token, environ.get("GITHUB_API_URL") or API, sleep)
    _comment(given, suffix, author, runs_per_month, head.links(server, None))  # it is looked through first
    found = pull_requests(github, repository, head)
    if not found:
        output.tell(f"No open pull request has {head.sha[:7]} as its head: nothing to comment.")
    for number, base in found:
        at = f"{server.rstrip('/')}/{repository}/commit/{base}"
        comment = _comment(given, suffix, author, runs_per_month, head.links(server, at))
        output.tell(f"#{number}: {post(github, repository, number, comment)}")
    return 0


def read_head(event: Path) -> Head | None:
    """Return the head that the run of an event measured, or None if it was of no pull request.

    Raises GitHubError.
    """
    try:
        payload = json.loads(event.read_text("utf-8"))
        if "workflow_run" in payload:
            of = payload["workflow_run"]
            if of["event"] != "pull_request" or of["head_repository"] is None:
                return None
            run = of.get("html_url")
            return Head(of["head_repository"]["full_name"], of["head_branch"], of["head_sha"], run)
        if "pull_request" in payload and payload["pull_request"]["head"]["repo"] is not None:
            of = payload["pull_request"]["head"]
            return Head(of["repo"]["full_name"], of["ref"], of["sha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GitHubError(
            f"{event} is no event of a workflow_run or a pull_request: {error!r}. Run this in GitHub Actions."
        ) from error
    return None


def pull_requests(github: GitHub, repository: str, head: Head) -> list[tuple[int, str]]:
    """Return (number, commit of its base) of the open pull requests of exactly this head.

    A newer push to one has another head.
    """
    owner = head.repository.partition("/")[0]
    found = github.listed(f"/repos/{repository}/pulls", state="open", head=f"{owner}:{head.branch}")
    return sorted((pull["number"], pull["base"]["sha"]) for pull in found if _has_head(pull, head))


def _has_head(pull: Json, head: Head) -> bool:
    of = pull["head"]
    own = of["repo"]["full_name"].lower() if of["repo"] else None
    return (own, of["ref"], of["sha"]) == (head.repository.lower(), head.branch, head.sha)


def post(github: GitHub, repository: str, number: int, comment: Comment) -> str:
    """Create or update the comment, or leave it alone; return what was done.

    Raises GitHubError.
    """
    comments = f"/repos/{repository}/issues/{number}/comments"
    for _ in range(_CREATE_TRIES):
        existing = next((one for one in github.listed(comments) if _is_ours(one, comment)), None)
        if existing is not None:
            if _same(existing["body"], comment.body):
                return "nothing changed"
            github.update(f"/repos/{repository}/issues/comments/{existing['id']}", {"body": comment.body})
            return "updated"
        if not comment.news:
            return "within budget and nothing changed: no comment"
        if github.create(comments, {"body": comment.body}) is not None:
            return "commented"
    raise GitHubError("GitHub does not take the comment. Run the job again.")


def _is_ours(one: Json, comment: Comment) -> bool:
    author = (one["user"] or {}).get("login")
    return author == comment.author and (one["body"] or "").startswith(comment.marker)


def _same(one: str, other: str) -> bool:
    """Return whether two bodies are the same: GitHub may keep one with other line ends."""
    return one.replace("\r\n", "\n").strip() == other.strip()


def _comment(given: Inputs, suffix: str, author: str, runs_per_month: int | None, links: Links) -> Comment:
    for path in (*given.documents, *([given.diff] if given.diff else [])):
        if path.is_symlink() or (path.is_file() and path.stat().st_size > _MOST_BYTES):
            raise ReportError(f"{path} is a link, or larger than any document of a run. Nothing was posted.")
    lead = documents.leading(given.check)
    if lead and not any(path.is_file() for path in given.documents):
        text = documents.leading(given.check, alone=True)
        return Comment(f"{marker(suffix)}\n{text}", marker(suffix), author, news=True)
    document = documents.read_documents(given.documents)
    accepted = documents.accepting(given)
    try:
        text = markdown(
            document, suffix=suffix, runs_per_month=runs_per_month, links=links, accepting=accepted
        )
    except (ArithmeticError, ValueError) as error:
        raise ReportError(f"The document holds numbers of no run: {error}. Nothing was posted.") from error
    news = bool(lead) or accepted.has_news or run_view.has_news(document)
    return Comment(documents.led(text, lead), marker(suffix), author, news)


def _given(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name)
    if not value:
        hint = " Set it to ${{ github.token }}." if name == "GITHUB_TOKEN" else ""
        raise GitHubError(f"{name} is not set: this command runs in GitHub Actions.{hint}")
    return value


SERVER = "https://github.com"
API = "https://api.github.com"
_TRIES = 4
_LONGEST_WAIT = 60.0
"""The most seconds to wait for the end of a rate limit."""
_TIMEOUT = 30.0
_PAGES = 100
"""The most pages of a list that are read, of 100 entries each."""

Json = dict[str, Any]


class GitHub:
    """A client of GitHub's REST API with one token."""

    def __init__(self, token: str, api: str = API, sleep: Callable[[float], None] = time.sleep) -> None:
        """Check `api`, the address of the API. Raises GitHubError for one that no token should reach."""
        address = urlsplit(api)
        if address.scheme != "https" and address.hostname not in ("127.0.0.1", "localhost"):
            raise GitHubError(f"{api} is no https address. Set GITHUB_API_URL to the API of your GitHub.")
        self._token, self._api, self._sleep = token, api.rstrip("/"), sleep

    def listed(self, path: str, **query: str) -> Iterator[Json]:
        """Yield every entry of a list, page by page."""
        for page in range(1, _PAGES + 1):
            asked = urlencode({**query, "per_page": "100", "page": str(page)})
            entries = self._ask("GET", f"{path}?{asked}")
            yield from entries
            if len(entries) < 100:
                return
        raise GitHubError(f"{path} lists more than {_PAGES * 100:,} entries. That is not looked through.")

    def update(self, path: str, body: Json) -> Json:
        """Change what is at `path`; return what it is then."""
        changed: Json = self._ask("PATCH", path, body)
        return changed

    def create(self, path: str, body: Json) -> Json | None:
        """Make something new at `path`.

        Returns None if it is not known whether it was made, so look before you try again.
        """
        try:
            created: Json = self._ask("POST", path, body, tries=1)
        except _PassingError:
            return None
        return created

    def _ask(self, method: str, path: str, body: Json | None = None, tries: int = _TRIES) -> Any:
        """Return the answer's JSON; try again on errors that pass (5xx, no connection, short rate limits)."""
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
    """Trouble that may be over soon; `wait` is in seconds, None if unknown."""

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
    """Return the seconds until the next try is welcome."""
    try:
        if "Retry-After" in error.headers:
            return max(float(error.headers["Retry-After"]), 1.0)
        return max(float(error.headers["X-RateLimit-Reset"]) - time.time(), 1.0)
    except (TypeError, ValueError):
        return _LONGEST_WAIT
