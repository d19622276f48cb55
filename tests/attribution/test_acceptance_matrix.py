"""What was accepted holds, whatever changed, in whatever way it came, and whoever wrote the cassette.

Each cell does one thing to a suite whose change is of one kind, and holds what is told then against a live
run of the changed agent with the server of the tests, and the files of the repository against what they are
to be.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from pytest_tokenbudget.budget.baselines import Baseline, format_baselines, read_baselines
from pytest_tokenbudget.metering.pricing import Prices
from pytest_tokenbudget.model import Rate, Tokens, Usage
from pytest_tokenbudget.reports.document import merge as merge_documents
from support.apart import warm_python
from support.budgeted import Judged, Project, run_apart
from support.messages_api import Charge, MessagesApi
from support.sample import tenth
from support.scratch_suites import INI, echo

pytestmark = pytest.mark.newest

UPDATE = "--token-budget-update"
EXACT = find_spec("ctok") is not None
ROUGHLY = 0.06
"""How far a prompt may be off a live run by the built-in counter, as a part of it."""
AGENT = """
import json
import os
import pathlib

import httpx2

HERE = pathlib.Path(__file__).parent
SCHEMA = {"type": "object"}
os.environ.setdefault("ANTHROPIC_API_KEY", "a placeholder")


def ask(words):
    settings = json.loads((HERE / "agent.json").read_text("utf-8"))
    system = {"type": "text", "text": (HERE / "system.md").read_text("utf-8")}
    if settings["cached"]:
        system["cache_control"] = {"type": "ephemeral"}
    body = {
        "model": settings["model"],
        "max_tokens": 50,
        "tools": [{"name": n, "description": d, "input_schema": SCHEMA} for n, d in settings["tools"]],
        "system": [system],
        "messages": [{"role": "user", "content": words}],
    }
    url = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")
    headers = {"x-api-key": os.environ["ANTHROPIC_API_KEY"]}
    answer = httpx2.post(f"{url}/v1/messages", json=body, headers=headers, timeout=600)
    return answer.raise_for_status().json()["content"][0]["text"]
"""
TESTS = """
import pathlib

import pytest
import vcr
from agent import ask


{mark}
def test_letters():
{body}
"""
ASKS = """
    for letter in pathlib.Path("letters.txt").read_text("utf-8"):
        assert ask(f"Letter {letter}")
"""
OPENS = '    with vcr.use_cassette("cassette.yaml", match_on=["method", "path"]):'
KINDS = {
    "ours": TESTS.format(mark="@pytest.mark.token_budget", body=ASKS),
    "pytest-recording": TESTS.format(mark='@pytest.mark.vcr(match_on=["method", "path"])', body=ASKS),
    "vcrpy": TESTS.format(mark="", body=OPENS + ASKS.replace("\n    ", "\n        ")),
}
RECORD = {"ours": ["--token-budget-record=all"], "pytest-recording": ["--record-mode=rewrite"], "vcrpy": []}
TOOLS = [["look_up", "Looks a parcel up."], ["note", "Writes a note into a file."]]
SYSTEM = [
    f"Rule {number}: answer briefly, and never promise what nobody has confirmed." for number in range(90)
]


@dataclass(frozen=True)
class Change:
    """How the agent of a suite differs from the one that was recorded."""

    system: Callable[[list[str], int], list[str]] = lambda lines, step: lines
    settings: Callable[[dict[str, Any], int], dict[str, Any]] = lambda settings, step: settings
    verdict: str = "over"
    cause: str | None = None
    """The kind of finding that tells it; None where nothing is told."""

    def make(self, folder: Path, step: int) -> None:
        """Write the agent's files as they are after `step` changes; 0 is what was recorded."""
        lines = [*SYSTEM, "The time is 10:15:31."]
        settings: dict[str, Any] = {"model": "claude-sonnet-4-5", "cached": True, "tools": TOOLS}
        if step:
            lines, settings = self.system(lines, step), self.settings(settings, step)
        (folder / "system.md").write_text("\n".join(lines) + "\n", "utf-8")
        (folder / "agent.json").write_text(json.dumps(settings), "utf-8")


def longer(lines: list[str], step: int) -> list[str]:
    return [
        *lines[:40],
        *(f"Moreover {n}: say who you are, and why you ask." for n in range(20 * step)),
        *lines[40:],
    ]


def with_tools(settings: dict[str, Any], step: int) -> dict[str, Any]:
    more = [
        [f"tool_{n}", "Asks the carrier where the parcel is, and waits for an answer."]
        for n in range(3 * step)
    ]
    return {**settings, "tools": [*TOOLS, *more]}


CHANGES = {
    "text": Change(system=longer, cause="growth"),
    "tool": Change(settings=with_tools, cause="growth"),
    "model": Change(settings=lambda s, step: {**s, "model": "claude-opus-4-5"}, cause="model_changed"),
    "order": Change(settings=lambda s, step: {**s, "tools": TOOLS[::-1]}, verdict="within"),
    "breakpoint": Change(settings=lambda s, step: {**s, "cached": False}, cause="cache_break"),
    "clock": Change(
        system=lambda lines, step: [*lines[:-1], f"The time is 10:16:4{step}."], verdict="within"
    ),
}


class Suite(Project):
    """A suite of one scenario, and what is done to it."""

    def __init__(self, path: Path, pytester: pytest.Pytester, kind: str, change: Change) -> None:
        super().__init__(path, pytester)
        self.kind, self.change = kind, change
        path.mkdir()
        texts = {"agent.py": AGENT, "test_it.py": KINDS[kind], "pytest.ini": INI, "letters.txt": "AB"}
        for name, text in texts.items():
            (path / name).write_text(text, "utf-8")
        self.step(0)

    def step(self, number: int) -> None:
        self.change.make(self.path, number)

    def record(self, *api: MessagesApi, mode: str | None = None) -> list[Charge]:
        """Record against a server, a new one by default; return what that charged."""
        if not api:
            with MessagesApi(echo) as server:
                return self.record(server, mode=mode)
        before = len(api[0].charges)
        if self.kind == "vcrpy":
            (self.path / "cassette.yaml").unlink(missing_ok=True)
        done = self.run(*([mode] if mode else RECORD[self.kind]), url=api[0].url)
        assert done.status == 0, done.output
        return list(api[0].charges[before:])

    @property
    def line_ends(self) -> int:
        """How many tokens a call is counted above what the server charges: one for each new tool.

        The line end between two definitions is a token of its own, as in the prompt that a model reads. The
        server of the tests counts each definition by itself, where it is none.
        """
        return len(json.loads((self.path / "agent.json").read_text("utf-8"))["tools"]) - len(TOOLS)

    def accept(self) -> Judged:
        done = self.judge(UPDATE)
        assert done.status == 0, done.output
        return done

    def live(self) -> Usage:
        """What a live run of the agent as it is now is charged."""
        kept = self.path.parent / "live"
        shutil.copytree(self.path, kept, ignore=shutil.ignore_patterns("cassettes", "cassette.yaml"))
        (kept / "test_it.py").write_text(TESTS.format(mark="", body=ASKS), "utf-8")
        with MessagesApi(echo) as api:
            done = Project(kept, self._pytester).run("--token-budget-disable", url=api.url)
            assert done.status == 0, done.output
            charges = [*api.charges]
        shutil.rmtree(kept)
        return usage_of(charges)

    def files(self) -> dict[str, str]:
        folder = self.path / "token_budgets"
        return {str(path.relative_to(folder)): path.read_text("utf-8") for path in folder.rglob("*.yaml")}


def usage_of(charges: list[Charge]) -> Usage:
    """Return what charges came to, as the product has it."""
    parts = [
        Usage.of(
            Rate(str(charge.body["model"])),
            Tokens(
                charge.usage.input_tokens,
                charge.usage.ephemeral_5m_input_tokens,
                charge.usage.ephemeral_1h_input_tokens,
                charge.usage.cache_read_input_tokens,
                charge.usage.output_tokens,
            ),
        )
        for charge in charges
    ]
    return sum(parts[1:], parts[0])


def entry_of(judged: Judged) -> Mapping[str, Any]:
    (entry,) = judged.scenarios.values()
    return entry


def agrees(suite: Suite, judged: Judged, live: Usage) -> None:
    """Hold tokens and dollars of a run against those of a live one: exactly, or by the built-in counter."""
    measured, tokens, dollars = entry_of(judged)["measured"], live.tokens, Prices().cost(live)
    above = suite.line_ends * live.turns if EXACT else ROUGHLY * tokens.prompt_tokens
    rate = next(iter(live.by_rate))
    dearer = Prices().cost(Usage.of(rate, Tokens(ephemeral_5m_input_tokens=math.ceil(above))))
    assert dollars is not None
    assert dearer is not None
    assert measured["turns"] == live.turns
    assert measured["prompt_tokens"] == pytest.approx(tokens.prompt_tokens, abs=above)
    assert measured["cache_read_input_tokens"] == pytest.approx(tokens.cache_read_input_tokens, abs=above)
    assert measured["cost_usd"] == pytest.approx(float(dollars), abs=float(dearer) + 1e-9)


def holds(suite: Suite, live: Usage | None = None) -> None:
    """What is committed is within, tells nothing and agrees with a live run; updating writes nothing."""
    judged = suite.judge()
    entry = entry_of(judged)
    told = [one["kind"] for one in entry["findings"] if not one["kind"].startswith("lever_")]
    assert (judged.status, entry["verdict"], told) == (0, "within", []), judged.output
    agrees(suite, judged, live or suite.live())
    before = suite.files()
    suite.accept()
    assert suite.files() == before


def record(suite: Suite) -> None:
    suite.step(1)
    suite.record()
    suite.accept()
    holds(suite)
    assert set(suite.files()) == {"test_it.yaml"}


def accept_once(suite: Suite) -> None:
    suite.step(1)
    judged = suite.judge()
    entry, change = entry_of(judged), suite.change
    assert entry["verdict"] == change.verdict, judged.output
    causes = [one for one in entry["findings"] if one["kind"] == change.cause]
    assert bool(causes) == (change.cause is not None), entry["findings"]
    if change.system is longer:
        assert {one["source"]["file"] for one in causes} == {"system.md"}
        assert {one["source"]["line"] for one in causes} == {41}
    agrees(suite, judged, suite.live())
    suite.judge("--token-budget-update-all")
    if change.verdict == "over":
        holds(suite)


def accept_twice(suite: Suite) -> None:
    for step in (1, 2):
        suite.step(step)
        suite.judge("--token-budget-update-all")
    holds(suite)


def revert(suite: Suite) -> None:
    before = suite.files()
    suite.step(1)
    suite.judge("--token-budget-update-all")
    suite.step(0)
    suite.judge("--token-budget-update-all")
    holds(suite)
    assert suite.files() == before


def record_after_a_pause(suite: Suite) -> None:
    accept_twice(suite)
    charges = suite.record()
    suite.accept()
    holds(suite, usage_of(charges))
    assert set(suite.files()) == {"test_it.yaml"}


def record_at_once(suite: Suite) -> None:
    """A recording that begins with a warm cache is no other agent: nothing is over, and nothing to accept."""
    suite.step(1)
    with MessagesApi(echo) as api:
        suite.record(api)
        suite.judge("--token-budget-update-all")
        charges = suite.record(api)
    judged = suite.judge()
    assert entry_of(judged)["verdict"] == "within", judged.output
    agrees(suite, judged, usage_of(charges))


def record_changed(suite: Suite) -> None:
    suite.step(1)
    suite.record(mode="--token-budget-record=changed")
    suite.accept()
    holds(suite)
    assert set(suite.files()) == {"test_it.yaml"}


def rename(suite: Suite) -> None:
    suite.step(1)
    suite.judge("--token-budget-update-all")
    path = suite.path / "test_it.py"
    path.write_text(path.read_text("utf-8").replace("test_letters", "test_mail"), "utf-8")
    if suite.kind != "vcrpy":
        folder = suite.path / "cassettes" / "test_it"
        (folder / "test_letters.yaml").rename(folder / "test_mail.yaml")
    suite.judge(UPDATE)
    prune = [warm_python(), "-m", "pytest_tokenbudget", "prune", "--delete"]
    subprocess.run(prune, check=True, capture_output=True, cwd=suite.path)
    holds(suite)


def remove_turns(suite: Suite) -> None:
    suite.step(1)
    (suite.path / "letters.txt").write_text("A", "utf-8")
    suite.judge("--token-budget-update-all")
    holds(suite)


def merge(suite: Suite) -> None:
    """One branch changes the agent, the other takes a turn away."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", "-C", str(suite.path)]

    def commit() -> None:
        for command in (["add", "-A", "--", ":!report.json"], ["commit", "-qm", "x"]):
            subprocess.run([*git, *command], check=True)

    subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
    commit()
    for branch in ("grown", "fewer"):
        subprocess.run([*git, "checkout", "-q", "-b", branch, "main"], check=True)
        if branch == "grown":
            suite.step(1)
        else:
            (suite.path / "letters.txt").write_text("A", "utf-8")
        suite.judge("--token-budget-update-all")
        commit()
    merged = subprocess.run([*git, "merge", "-q", "grown"], check=False, capture_output=True)
    if merged.returncode:
        judged = suite.judge()
        assert judged.status == 1
        assert "holds conflict marks of a merge" in judged.output
    suite.judge(UPDATE)
    suite.judge("--token-budget-update-all")
    assert "<<<<" not in "".join(suite.files().values())
    holds(suite)


ACTS = (
    record,
    accept_once,
    accept_twice,
    revert,
    record_after_a_pause,
    record_at_once,
    record_changed,
    rename,
    remove_turns,
    merge,
)
CELLS = [
    (act, change, kind)
    for act, change, kind in itertools.product(ACTS, CHANGES, KINDS)
    if kind == "ours" or act is not record_changed  # others record in their own ways
]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where a suite of each kind is kept, recorded and accepted: before a change they are alike."""
    return tmp_path_factory.mktemp("recorded")


@pytest.mark.parametrize(
    ("act", "change", "kind"),
    [
        pytest.param(*cell, id="-".join((cell[0].__name__, *cell[1:])))
        for cell in tenth(CELLS, of="acceptances")
    ],
)
def test_a_cell(
    act: Callable[[Suite], None],
    change: str,
    kind: str,
    recorded: Path,
    tmp_path: Path,
    pytester: pytest.Pytester,
) -> None:
    suite = Suite(tmp_path / "suite", pytester, kind, CHANGES[change])
    if not (recorded / kind).exists():
        suite.record()
        suite.accept()
        shutil.copytree(suite.path, recorded / kind)
    shutil.copytree(recorded / kind, suite.path, dirs_exist_ok=True)
    act(suite)


SEVERAL = """
import pytest
from agent import ask


@pytest.fixture(scope="module")
def greeting():
    return ask("Letter C")


@pytest.mark.token_budget
@pytest.mark.parametrize("letters", ["A", "B", "AB"])
def test_letters(letters):
    for letter in letters:
        assert ask(f"Letter {letter}")


@pytest.mark.token_budget
def test_greeting(greeting):
    assert greeting
    assert ask("Letter D")
"""
TESTS_OF_SEVERAL = [*(f"test_letters[{letters}]" for letters in ("A", "B", "AB")), "test_greeting"]
RECORDED: dict[str, list[list[str]]] = {
    "in_order": [TESTS_OF_SEVERAL],
    "reversed": [TESTS_OF_SEVERAL[::-1]],
    "one_by_one": [[name] for name in TESTS_OF_SEVERAL],
    "by_workers": [[]],
}
"""By folder, the runs that recorded it; without tests: all of it, by three workers."""


class Folders(Suite):
    """The same scenarios in several folders, each recorded in another way and order."""

    def __init__(self, path: Path, pytester: pytest.Pytester) -> None:
        super().__init__(path, pytester, "ours", CHANGES["text"])
        (path / "test_it.py").unlink()
        (path / "pyproject.toml").write_text("[tool.tokenbudget]\nruns_per_month = 1000\n", "utf-8")
        (path / "pytest.ini").write_text(f"{INI}addopts = --import-mode=importlib\n", "utf-8")
        for folder, runs in RECORDED.items():
            (path / folder).mkdir()
            (path / folder / "test_it.py").write_text(SEVERAL, "utf-8")
            for names in runs:
                self._record(folder, names)

    def _record(self, folder: str, names: list[str]) -> None:
        """Record some tests in this process, or all of them by three workers, against a new server."""
        tests = [f"{folder}/test_it.py::{name}" for name in names]
        with MessagesApi(echo) as api:
            if tests:
                done = self.run("--token-budget-record=all", *tests, url=api.url)
            else:
                done = run_apart(self.path, "--token-budget-record=all", "-n", "3", folder, url=api.url)
        assert done.status == 0, done.output

    def baseline(self, folder: str) -> Path:
        return self.path / folder / "token_budgets" / "test_it.yaml"


def test_however_several_are_recorded_and_run_they_are_judged_the_same(
    tmp_path: Path, pytester: pytest.Pytester
) -> None:
    """All share a cached prompt: whoever is recorded first writes it, and the others read it."""
    suite, folders = Folders(tmp_path / "suite", pytester), list(RECORDED)
    suite.accept()
    own = {folder: suite.baseline(folder).read_text("utf-8") for folder in folders}
    in_turn = {own[folder] for folder in folders if folder != "by_workers"}
    assert len(in_turn) == len(folders) - 1, "each order has a start of its own"
    for places in range(1, len(folders)):
        for folder, other in zip(folders, folders[places:] + folders[:places], strict=True):
            suite.baseline(folder).write_text(own[other], "utf-8")
        judged = suite.judge()
        assert (judged.status, judged.verdicts) == (0, {"within"}), f"{places} on: {judged.output}"
        assert len(judged.scenarios) == 5, "four tests and a fixture, in each of the folders"
    for folder in folders:
        suite.baseline(folder).write_text(own[folder], "utf-8")
    judged = suite.judge()
    starts = [(entry["start"], entry["measured"]["cost_usd"]) for entry in judged.document["scenarios"]]
    assert {bool(start["foreign_reads"]) for start, _ in starts} == {False, True}
    for start, cost in starts:
        assert (start["cold_usd"] > cost) == bool(start["foreign_reads"])
        assert start["warm_usd"] <= cost
    assert "a month (from recordings that began partly warm, $" in judged.words
    assert "with a warm prefix" in judged.words
    suite.step(1)
    suite.accept()
    path = suite.baseline("reversed")  # version 1 beside version 2
    path.write_text(
        format_baselines({n: Baseline(b.usage) for n, b in read_baselines(path).items()}), "utf-8"
    )
    whole = suite.judge()
    assert (whole.status, whole.verdicts) == (0, {"within"}), whole.output
    report = suite.path / "workers.json"
    apart = run_apart(suite.path, "--token-budget", f"--token-budget-report=json:{report}", "-n", "2")
    assert apart.status == 0, apart.output
    assert json.loads(report.read_text("utf-8")) == whole.document
    first = ["in_order", f"reversed/test_it.py::{TESTS_OF_SEVERAL[0]}"]
    second = [f"reversed/test_it.py::{name}" for name in TESTS_OF_SEVERAL[1:]]
    shards = {"1": suite.judge(*first), "2": suite.judge(*second, *folders[2:])}
    merged = merge_documents({name: shard.document for name, shard in shards.items()}, shards=2)
    assert merged.document["scenarios"] == whole.document["scenarios"]
