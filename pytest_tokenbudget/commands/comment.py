"""`tokenbudget comment`: one comment on the pull request of a workflow run, updated in place from then on.

Everything in a document may be written by the author of a pull request. It is shown, escaped and cut by the
renderer; where it is shown is decided by the event that GitHub itself wrote.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_tokenbudget.commands import merge, output
from pytest_tokenbudget.commands.artifact import Inputs, inputs
from pytest_tokenbudget.errors import GitHubError, ReportError
from pytest_tokenbudget.github import API, GitHub, Json
from pytest_tokenbudget.reports import view
from pytest_tokenbudget.reports.baseline_report import load_diff
from pytest_tokenbudget.reports.diff_text import diff_markdown
from pytest_tokenbudget.reports.markdown import markdown, marker

AUTHOR = "github-actions[bot]"
"""Who comments with the token of a workflow; nobody can register a name with these brackets."""
_MOST_BYTES = 50_000_000
"""Of a document: of some ten thousand scenarios."""
_CREATE_TRIES = 3


@dataclass(frozen=True, slots=True)
class Head:
    """What was measured, as GitHub says it."""

    repository: str
    """`owner/name`, of the fork if it is one."""
    branch: str
    sha: str


@dataclass(frozen=True, slots=True)
class Comment:
    """What is to be said."""

    body: str
    marker: str
    """First line, by which it is found again."""
    author: str
    news: bool
    """Whether it is worth beginning with; one that is there is updated anyhow."""


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
    comment = _comment(inputs(paths, diff), suffix, author, runs_per_month)
    github = GitHub(token, environ.get("GITHUB_API_URL") or API, sleep)
    numbers = pull_requests(github, repository, head)
    if not numbers:
        output.tell(f"No open pull request has {head.sha[:7]} as its head: nothing to comment.")
    for number in numbers:
        output.tell(f"#{number}: {post(github, repository, number, comment)}")
    return 0


def read_head(event: Path) -> Head | None:
    """What the run of an event measured; None where it was no pull request. Raises GitHubError."""
    try:
        payload = json.loads(event.read_text("utf-8"))
        if "workflow_run" in payload:
            of = payload["workflow_run"]
            if of["event"] != "pull_request" or of["head_repository"] is None:
                return None
            return Head(of["head_repository"]["full_name"], of["head_branch"], of["head_sha"])
        if "pull_request" in payload and payload["pull_request"]["head"]["repo"] is not None:
            of = payload["pull_request"]["head"]
            return Head(of["repo"]["full_name"], of["ref"], of["sha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GitHubError(
            f"{event} is no event of a workflow_run or a pull_request: {error!r}. Run this in GitHub Actions."
        ) from error
    return None


def pull_requests(github: GitHub, repository: str, head: Head) -> list[int]:
    """The open pull requests of exactly this head; a newer push to it has another one."""
    owner = head.repository.partition("/")[0]
    found = github.listed(f"/repos/{repository}/pulls", state="open", head=f"{owner}:{head.branch}")
    return sorted(pull["number"] for pull in found if _has_head(pull, head))


def _has_head(pull: Json, head: Head) -> bool:
    of = pull["head"]
    own = of["repo"]["full_name"].lower() if of["repo"] else None
    return (own, of["ref"], of["sha"]) == (head.repository.lower(), head.branch, head.sha)


def post(github: GitHub, repository: str, number: int, comment: Comment) -> str:
    """Create, update or leave alone; what was done."""
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
    """GitHub may keep a body with other line ends."""
    return one.replace("\r\n", "\n").strip() == other.strip()


def _comment(given: Inputs, suffix: str, author: str, runs_per_month: int | None) -> Comment:
    for path in (*given.documents, *([given.diff] if given.diff else [])):
        if path.is_symlink() or (path.is_file() and path.stat().st_size > _MOST_BYTES):
            raise ReportError(f"{path} is a link, or larger than any document of a run. Nothing was posted.")
    document = merge.read(given.documents)
    try:
        text = markdown(document, suffix=suffix, runs_per_month=runs_per_month)
        below = diff_markdown(load_diff(given.diff)) if given.diff else ""
    except (ArithmeticError, ValueError) as error:
        raise ReportError(f"The document holds numbers of no run: {error}. Nothing was posted.") from error
    news = bool(below) or any(view.is_news(one) for one in document["scenarios"])
    return Comment(f"{text}\n{below}" if below else text, marker(suffix), author, news)


def _given(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name)
    if not value:
        hint = " Set it to ${{ github.token }}." if name == "GITHUB_TOKEN" else ""
        raise GitHubError(f"{name} is not set: this command runs in GitHub Actions.{hint}")
    return value
