"""One comment on the right pull request, acted out against a GitHub on loopback."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_tokenbudget.commands import comment
from pytest_tokenbudget.commands.comment import GitHub
from pytest_tokenbudget.errors import GitHubError, ReportError
from support import documents
from support.github_api import BASE, BOT, TOKEN, Failure, State, server_of
from support.loopback import serving

ROOT = Path(__file__).parents[1]
SHA, OTHER = "a" * 40, "b" * 40
OWN, FORK = "shop/agent:grow-prompt", "stranger/agent:grow-prompt"


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
def api(state: State) -> Iterator[str]:
    with serving(server_of(state)) as address:
        yield address


@pytest.fixture
def slept() -> list[float]:
    """What was waited for, in seconds, and takes no time here."""
    return []


Post = Callable[..., int]


@pytest.fixture
def post(tmp_path: Path, api: str, slept: list[float]) -> Post:
    """`tokenbudget comment` in the job of a workflow run."""

    def run(
        document: Any, head: str = OWN, sha: str = SHA, event: str = "pull_request", **options: Any
    ) -> int:
        artifact = tmp_path / "token-budget"
        artifact.mkdir(exist_ok=True)
        (artifact / "token-budget.json").write_text(json.dumps(document), encoding="utf-8")
        repository, _, branch = head.partition(":")
        payload = {
            "workflow_run": {
                "event": event,
                "head_repository": {"full_name": repository},
                "head_branch": branch,
                "head_sha": sha,
                "pull_requests": [],
            }
        }
        (tmp_path / "event.json").write_text(json.dumps(payload), encoding="utf-8")
        environ = {
            "GITHUB_TOKEN": TOKEN,
            "GITHUB_REPOSITORY": "shop/agent",
            "GITHUB_API_URL": api,
            "GITHUB_EVENT_PATH": str(tmp_path / "event.json"),
        }
        return comment.run([artifact], environ, sleep=slept.append, **options)

    return run


RED, GREEN = documents.one_of_each(), documents.all_green()


def test_comments_once(state: State, post: Post) -> None:
    state.pull(7, OWN, SHA)
    assert post(RED) == 0
    (body,) = state.bodies(7)
    assert body.startswith("<!-- pytest-tokenbudget -->\n")
    assert "over budget" in body


def test_updates_in_place(state: State, post: Post) -> None:
    state.pull(7, OWN, SHA)
    post(documents.many(20))
    post(RED)
    assert len(state.bodies(7)) == 1
    assert state.comments[7][0]["edits"] == 1
    assert "test_refund" in state.bodies(7)[0]


def test_says_nothing_twice(state: State, post: Post, capsys: pytest.CaptureFixture[str]) -> None:
    state.pull(7, OWN, SHA)
    post(RED)
    post(RED)
    assert len(state.writes()) == 1
    assert "#7: nothing changed" in capsys.readouterr().err


def test_line_ends_that_github_changes_are_no_change(state: State, post: Post) -> None:
    state.pull(7, OWN, SHA)
    post(RED)
    state.comments[7][0]["body"] = state.comments[7][0]["body"].strip().replace("\n", "\r\n")
    post(RED)
    assert len(state.writes()) == 1


def test_what_a_check_says_leads_the_comment(state: State, post: Post, tmp_path: Path) -> None:
    state.pull(7, OWN, SHA)
    check = {"problems": ["There is <b>no</b> document"], "notices": ["The settings changed", 7]}
    (tmp_path / "token-budget").mkdir()
    (tmp_path / "token-budget" / "token-budget-check.json").write_text(json.dumps(check), "utf-8")
    assert post(GREEN) == 0
    (body,) = state.bodies(7)
    assert body.startswith("<!-- pytest-tokenbudget -->\n> **Not judged as committed:** There is")
    assert "- **look at**: The settings changed" in body
    assert "<b>" not in body


def test_what_is_accepted_is_the_headline(state: State, post: Post, tmp_path: Path) -> None:
    """All is within budget because the pull request has raised the budget."""
    state.pull(7, OWN, SHA)
    (was,), (now,) = (documents.loop(documents.SONNET, prefix, [50], cached=False) for prefix in (1000, 3000))
    name = GREEN["scenarios"][0]["id"]
    raised = {"id": name, "was": name, "matched": None, "change": "raised", "before": was, "now": now}
    raised |= {
        "accepts": ["system", "tools"],
        "tools": ["refund", "@look"],
        "sources": [{"file": "part/a b.md", "line": 3}, {"file": "../x", "line": 1}],
    }
    prices = {"source": "genai-prices", "version": "1"}
    base = {"name": "origin/main", "commit": BASE}
    diff = {
        "version": 1,
        "base": base,
        "prices": prices,
        "unchanged": 13,
        "scenarios": [raised],
        "already": None,
    }
    notices, decisions = ["Limits changed: tolerance <b>"], ["loosens @limits in 1 place"]
    check = {"problems": [], "notices": notices, "decisions": decisions}
    (tmp_path / "token-budget").mkdir()
    for name, content in (("diff", diff), ("check", check)):
        (tmp_path / "token-budget" / f"token-budget-{name}.json").write_text(json.dumps(content), "utf-8")
    assert post(GREEN) == 0
    (body,) = state.bodies(7)
    heading, listed, told = body.split("\n\n")[1:4]
    assert heading.startswith("### Accepts +2,000 prompt tokens (+188.7%), +\\$0.0040 a run (+152.7%), in 1 ")
    assert (
        ", in 1 scenario, for changes of the system prompt and the tools refund and @\u200blook "
        "([`part/a b.md:3`]" in heading
    )
    assert f"](https://github.com/shop/agent/blob/{SHA}/part/a%20b.md#L3) and `../x:1`); loosens " in heading
    assert "@limits" not in heading
    assert told == "14 scenarios are within budget."
    assert listed.splitlines()[-1] == "- **look at**: Limits changed: tolerance &lt;b&gt;"
    assert f"[base](https://github.com/shop/agent/commit/{BASE})" in body
    assert "<details><summary>Baselines since origin/main" in body


def test_does_not_begin_where_all_is_well(state: State, post: Post) -> None:
    state.pull(7, OWN, SHA)
    post(GREEN)
    assert state.bodies(7) == []


def test_becomes_one_quiet_sentence_when_all_is_well_again(state: State, post: Post) -> None:
    state.pull(7, OWN, SHA)
    post(RED)
    post(GREEN)
    assert state.bodies(7) == [
        "<!-- pytest-tokenbudget -->\n\n14 scenarios are within budget, nothing changed.\n"
    ]


def test_a_fork(state: State, post: Post) -> None:
    state.pull(7, OWN, SHA)
    state.pull(8, FORK, SHA)
    post(RED, head=FORK)
    assert (len(state.bodies(7)), len(state.bodies(8))) == (0, 1)


def test_two_pull_requests_from_one_branch_each_get_it(state: State, post: Post) -> None:
    state.pull(7, OWN, SHA)
    state.pull(9, OWN, SHA)
    post(RED)
    post(RED)
    assert (len(state.bodies(7)), len(state.bodies(9))) == (1, 1)


@pytest.mark.parametrize(
    ("head", "sha", "why"),
    [
        (OWN, OTHER, "a newer commit was pushed"),
        ("shop/agent:other", SHA, "another branch"),
        (FORK, SHA, "the same branch and commit of a fork"),
    ],
)
def test_only_the_measured_head(
    state: State, post: Post, capsys: pytest.CaptureFixture[str], head: str, sha: str, why: str
) -> None:
    state.pull(7, head, sha)
    assert post(RED) == 0
    assert state.bodies(7) == [], why
    assert "nothing to comment" in capsys.readouterr().err


def test_a_closed_one_and_a_deleted_fork(state: State, post: Post) -> None:
    state.pull(7, OWN, SHA, state="closed")
    state.pull(8, OWN, SHA)
    state.pulls[-1]["head"]["repo"] = None
    post(RED)
    assert state.writes() == []


def test_a_run_of_no_pull_request(state: State, post: Post, capsys: pytest.CaptureFixture[str]) -> None:
    state.pull(7, OWN, SHA)
    assert post(RED, event="push") == 0
    assert state.asked == []
    assert "of no pull request" in capsys.readouterr().err


def test_an_artifact_that_lies_about_its_number(state: State, post: Post, tmp_path: Path) -> None:
    """Nothing in the artifact says where the comment goes: no file of its own, no key of the document."""
    state.pull(1, "shop/agent:release", OTHER)
    state.pull(8, FORK, SHA)
    (tmp_path / "token-budget").mkdir()
    for name in ("pr_number", "pr-number.txt", "NR", "event.json"):
        (tmp_path / "token-budget" / name).write_text("1", encoding="utf-8")
    lying = {**RED, "commit": OTHER, "tool": {**RED["tool"], "pull_request": "1", "number": "1"}}
    post(lying, head=FORK)
    assert (state.bodies(1), len(state.bodies(8))) == ([], 1)


def test_a_pull_request_that_a_document_names_is_not_read(state: State, post: Post) -> None:
    state.pull(1, OWN, OTHER)
    state.pull(7, OWN, SHA)
    post({**RED, "pull_request": 1})
    assert (state.bodies(1), len(state.bodies(7))) == ([], 1)


HOSTILE = (
    "x|y](https://evil.example) @everyone #1 <!-- pytest-tokenbudget --> <img src=x> ```\n# Big\n\x1b[31m"
)


def test_hostile_text_is_shown_and_does_nothing(state: State, post: Post) -> None:
    state.pull(7, OWN, SHA)
    was = documents.loop(documents.SONNET, 100, [5])
    now = documents.loop(documents.SONNET, 900, [5])
    found = documents.finding("growth", HOSTILE, HOSTILE, tokens=800, at="prompts/a.md:1")
    post(
        documents.document([documents.scenario(f"t.py::test[{HOSTILE}]", "over", was, now, findings=[found])])
    )
    (body,) = state.bodies(7)
    outside_code = re.sub(r"(?ms)^```sh$.*?^```$", "", body)
    spans = r"(?<![\\`])(`+)(?!`).*?(?<!`)\1(?!`)|<code>.*?</code>"
    outside_code = re.sub(spans, "", outside_code, flags=re.DOTALL)
    assert outside_code.count("<!-- pytest-tokenbudget -->") == 1
    assert "<img" not in outside_code
    assert "@everyone" not in outside_code
    linked = re.findall(r"(?<!\\)\]\((http[^)]*)", outside_code)
    assert linked[0].endswith(f"/blob/{SHA}/prompts/a.md#L1")
    assert all(address.startswith("https://github.com/shop/agent/") for address in linked)
    assert "\x1b" not in body


@pytest.mark.parametrize(
    ("file", "address"),
    [("prompts/a.md", "packages/agent/prompts/a.md"), ("../../prompts/a.md", "prompts/a.md")],
)
def test_a_line_is_linked_from_the_top_of_the_repository(
    file: str, address: str, state: State, post: Post
) -> None:
    """Files of a document are named from the folder of its project, beside which its prompts may lie."""
    state.pull(7, OWN, SHA)
    was, now = (documents.loop(documents.SONNET, prefix, [5]) for prefix in (100, 900))
    found = [
        documents.finding("growth", "system[0]", "is unplaced", tokens=900),
        documents.finding("growth", "system[0]", "is placed", tokens=800, at=f"{file}:7"),
    ]
    scenarios = [documents.scenario("t.py::test", "over", was, now, findings=found)]
    post({**documents.document(scenarios), "project": "packages/agent"})
    (body,) = state.bodies(7)
    assert f"[`{file}:7`](https://github.com/shop/agent/blob/{SHA}/{address}#L7)" in body


def test_a_giant_document_fits_a_comment(state: State, post: Post) -> None:
    state.pull(7, OWN, SHA)
    post(documents.many(800))
    (body,) = state.bodies(7)
    assert len(body) < 65_536
    assert "more" in body


def test_numbers_of_no_run_are_refused(state: State, post: Post) -> None:
    state.pull(7, OWN, SHA)
    huge = json.loads(json.dumps(RED), parse_int=lambda text: 10**400 if len(text) > 2 else int(text))
    with pytest.raises(ReportError, match="must be at most"):
        post(huge)
    assert state.bodies(7) == []


def test_a_linked_document_is_not_read(state: State, post: Post, tmp_path: Path) -> None:
    state.pull(7, OWN, SHA)
    artifact = tmp_path / "token-budget"
    artifact.mkdir()
    (tmp_path / "secret").write_text("{}", encoding="utf-8")
    (artifact / "token-budget-diff.json").symlink_to(tmp_path / "secret")
    with pytest.raises(ReportError, match="is a link"):
        post(RED)


def test_only_its_own_comment(state: State, post: Post) -> None:
    """Neither a person who copies the marker, nor another workflow that quotes it."""
    state.pull(7, OWN, SHA)
    state.say(7, "mallory", "<!-- pytest-tokenbudget -->\nmine")
    state.say(7, BOT, "of another workflow: <!-- pytest-tokenbudget -->")
    post(RED)
    assert state.bodies(7, "mallory") == ["<!-- pytest-tokenbudget -->\nmine"]
    assert len(state.bodies(7)) == 2


def test_jobs_with_a_suffix_have_a_comment_each(state: State, post: Post) -> None:
    state.pull(7, OWN, SHA)
    post(RED, suffix="linux")
    post(RED, suffix="linux arm")
    post(RED, suffix="linux")
    assert len(state.bodies(7)) == 2
    assert [one["edits"] for one in state.comments[7]] == [0, 0]


def test_dollars_a_month_where_the_workflow_says_how_many_runs(state: State, post: Post) -> None:
    """The settings of the pull request are not there, and would not be trusted."""
    state.pull(7, OWN, SHA)
    post(RED, runs_per_month=1000)
    assert "a month" in state.bodies(7)[0]


def test_the_author_of_another_app(state: State, post: Post) -> None:
    state.pull(7, OWN, SHA)
    state.say(7, "budget-app[bot]", "<!-- pytest-tokenbudget -->\nold")
    post(RED, author="budget-app[bot]")
    assert "over budget" in state.bodies(7, "budget-app[bot]")[0]


def test_finds_its_comment_behind_many_pages(state: State, post: Post) -> None:
    state.pull(7, OWN, SHA)
    for number in range(250):
        state.say(7, "reviewer", f"comment {number}")
    state.say(7, BOT, "<!-- pytest-tokenbudget -->\nold")
    post(RED)
    assert len(state.bodies(7)) == 1
    assert state.comments[7][-1]["edits"] == 1


def test_finds_its_pull_request_behind_many_pages(state: State, post: Post) -> None:
    for number in range(150):
        state.pull(number, OWN, OTHER)
    state.pull(500, OWN, SHA)
    post(RED)
    assert len(state.bodies(500)) == 1


def test_without_permission(state: State, post: Post) -> None:
    state.pull(7, OWN, SHA)
    state.read_only = True
    with pytest.raises(
        GitHubError, match=r"Resource not accessible by integration\. .*pull-requests: write.*docs/ci.md"
    ):
        post(RED)


@pytest.mark.parametrize("status", [500, 502, 503])
def test_trouble_that_passes(state: State, post: Post, slept: list[float], status: int) -> None:
    state.pull(7, OWN, SHA)
    state.failures.extend([Failure(status, methods=("GET",))] * 3)
    post(RED)
    assert len(state.bodies(7)) == 1
    assert slept == [1.0, 2.0, 4.0]


def test_trouble_that_does_not_pass_is_not_waited_for(state: State, post: Post, slept: list[float]) -> None:
    state.pull(7, OWN, SHA)
    state.failures.extend([Failure(503)] * 50)
    with pytest.raises(
        GitHubError, match=r"answered GET /repos/shop/agent/pulls with 503.*Run the job again"
    ):
        post(RED)
    assert len(state.asked) == 4


@pytest.mark.parametrize("done", [True, False])
def test_an_unsure_creation_makes_no_second_comment(state: State, post: Post, done: bool) -> None:
    """A gateway that gives up does not say whether the comment was made."""
    state.pull(7, OWN, SHA)
    state.failures.append(Failure(502, methods=("POST",), done=done))
    post(RED)
    post(RED)
    assert len(state.bodies(7)) == 1


@pytest.mark.parametrize(
    ("headers", "waits"),
    [
        ({"Retry-After": "7"}, [7.0]),
        ({"Retry-After": "0"}, [1.0]),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1"}, [1.0]),
    ],
)
@pytest.mark.parametrize("status", [403, 429])
def test_a_short_rate_limit_is_waited_for(
    state: State, post: Post, slept: list[float], status: int, headers: dict[str, str], waits: list[float]
) -> None:
    state.pull(7, OWN, SHA)
    state.failures.append(Failure(status, "rate limit", headers, ("GET",)))
    post(RED)
    assert slept == waits
    assert len(state.bodies(7)) == 1


def test_a_long_rate_limit_is_told(state: State, post: Post, slept: list[float]) -> None:
    state.pull(7, OWN, SHA)
    state.failures.append(Failure(403, "API rate limit exceeded", {"Retry-After": "3600"}, ("GET",)))
    with pytest.raises(GitHubError, match=r"rate limit.*run the job again later"):
        post(RED)
    assert slept == []


def test_nobody_answers(slept: list[float]) -> None:
    github = GitHub(TOKEN, "http://127.0.0.1:9", sleep=slept.append)
    with pytest.raises(GitHubError, match="does not answer"):
        list(github.listed("/repos/shop/agent/pulls"))
    assert len(slept) == 3


def test_the_token_goes_nowhere_but_https() -> None:
    with pytest.raises(GitHubError, match="no https address"):
        GitHub(TOKEN, "http://github.example")


def test_in_a_process_of_its_own(state: State, api: str, tmp_path: Path) -> None:
    """As a workflow runs it, here on a pull_request event; the exit status says whether it went well.

    The job that may write installs this package alone: no other one is in reach.
    """
    state.pull(7, OWN, SHA)
    (tmp_path / "token-budget.json").write_text(json.dumps(RED), encoding="utf-8")
    head = {"repo": {"full_name": "shop/agent"}, "ref": "grow-prompt", "sha": SHA}
    (tmp_path / "event.json").write_text(json.dumps({"pull_request": {"head": head}}), encoding="utf-8")
    environ = {
        "GITHUB_TOKEN": TOKEN,
        "GITHUB_REPOSITORY": "shop/agent",
        "GITHUB_API_URL": api,
        "GITHUB_EVENT_PATH": str(tmp_path / "event.json"),
    }

    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import pytest_tokenbudget.__main__"

    def run(**changed: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-I", "-S", "-c", code, "comment", str(tmp_path)],
            env=environ | changed,
            capture_output=True,
            text=True,
            check=False,
        )

    done = run()
    assert (done.returncode, done.stderr) == (0, "#7: commented\n")
    assert len(state.bodies(7)) == 1
    done = run(GITHUB_TOKEN="wrong")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "tokenbudget comment: GitHub answered GET /repos/shop/agent/pulls with 401: Bad"
    )
    done = run(GITHUB_TOKEN="")
    assert done.returncode == 2
    assert "GITHUB_TOKEN is not set" in done.stderr
