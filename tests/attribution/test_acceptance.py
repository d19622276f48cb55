"""The change after the first accepted one: what is accepted is what the next change is compared with."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pytest_tokenbudget.budget.accepted import AcceptedTurn, accepted_digest, read_accepted, write_accepted
from pytest_tokenbudget.budget.baselines import (
    Baseline,
    format_baselines,
    parse_baselines,
    read_baselines,
    write_baselines,
)
from pytest_tokenbudget.metering import counting
from pytest_tokenbudget.metering.counting import BuiltinCounter, CtokCounter
from pytest_tokenbudget.model import Rate, Tokens, Usage
from pytest_tokenbudget.repository import baseline_history
from support.budgeted import Judged, Project, run_apart
from support.messages_api import MessagesApi
from support.scratch_suites import Suite, echo

pytestmark = pytest.mark.newest

FIRST = " Never promise a date that nobody has confirmed, and sign with your name." * 4
SECOND = " Ask for the number of the parcel before you look anything up." * 9
TESTS = """
import os

import pytest
from agent import ask


@pytest.mark.token_budget
def test_letters():
    for letter in os.environ.get("LETTERS", "AB"):
        assert ask(f"Letter {letter}")
"""
UPDATE = "--token-budget-update"


@pytest.fixture
def project(suite: Suite) -> Project:
    return suite(TESTS, 2)


def files(project: Project) -> dict[str, str]:
    """What is committed, by path."""
    folder = project.path / "token_budgets"
    return {str(path.relative_to(folder)): path.read_text("utf-8") for path in folder.rglob("*.yaml")}


def accept(project: Project) -> Judged:
    updated = project.judge(UPDATE)
    assert updated.status == 0, updated.output
    return updated


def causes(entry: Mapping[str, Any]) -> list[tuple[str, int]]:
    findings = [finding for finding in entry["findings"] if not finding["kind"].startswith("lever_")]
    return [(finding["kind"], finding["tokens"]) for finding in findings]


def prompt_tokens(entry: Mapping[str, Any], side: str) -> int:
    tokens: int = entry[side]["prompt_tokens"]
    return tokens


class Uncounted(BuiltinCounter):
    def count(self, text: str, family: str) -> int:
        raise AssertionError("a text was counted")


def test_what_was_accepted_is_within_and_counts_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MORE", FIRST)
    accepted = accept(project).scenarios["test_letters"]
    monkeypatch.setattr("pytest_tokenbudget.run.session.best_counter", lambda _: Uncounted())
    judged = project.judge()
    entry = judged.scenarios["test_letters"]
    assert (judged.status, entry["verdict"], causes(entry)) == (0, "within", [])
    assert entry["baseline"] == entry["measured"] == accepted["measured"]
    assert {turn["paired"] for turn in entry["turns"]} == {"exact"}
    assert "after the baseline" not in judged.output


def test_a_second_change_is_compared_with_what_was_accepted(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MORE", FIRST)
    accepted = prompt_tokens(accept(project).scenarios["test_letters"], "measured")
    monkeypatch.setenv("MORE", FIRST + SECOND)
    judged = project.judge()
    entry = judged.scenarios["test_letters"]
    assert (judged.status, entry["verdict"]) == (1, "over")
    assert prompt_tokens(entry, "baseline") == accepted
    assert causes(entry) == [("growth", prompt_tokens(entry, "measured") - accepted)]
    assert all(
        SECOND[1:20] not in finding["text"] or FIRST[1:20] not in finding["text"]
        for finding in entry["findings"]
    )
    assert "after the baseline" not in judged.output


def test_numbers_come_from_the_recording_however_often_something_was_accepted(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MORE", FIRST + SECOND)
    at_once = project.judge().scenarios["test_letters"]["measured"]
    for more in (SECOND, FIRST, FIRST + FIRST, FIRST + SECOND):
        monkeypatch.setenv("MORE", more)
        in_steps = accept(project).scenarios["test_letters"]["measured"]
    assert in_steps == at_once


def test_text_that_goes_back_is_compared_with_what_was_accepted(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(project)
    monkeypatch.setenv("MORE", FIRST)
    accepted = prompt_tokens(accept(project).scenarios["test_letters"], "measured")
    monkeypatch.delenv("MORE")
    entry = project.judge().scenarios["test_letters"]
    assert entry["verdict"] == "improved"
    assert causes(entry) == [("growth", prompt_tokens(entry, "measured") - accepted)]
    accept(project)
    assert files(project).keys() == before.keys()
    assert project.judge().scenarios["test_letters"]["verdict"] == "within"


def test_a_second_update_writes_nothing_and_the_first_says_what_it_accepts(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MORE", FIRST)
    updated = accept(project)
    entry = updated.scenarios["test_letters"]
    joined = updated.output.replace("\n  ", " ")  # a sentence may go on in the next lines
    line = next(line for line in joined.splitlines() if line.startswith("accepted "))
    assert f"{prompt_tokens(entry, 'measured'):,} prompt tokens" in line
    assert "+$0." in line
    assert "system[0]" in line
    before = files(project)
    assert set(before) == {"test_it.yaml", "accepted/test_it.yaml"}
    again = accept(project)
    assert files(project) == before
    assert "wrote token_budgets" not in again.output
    assert "accepted test_it" not in again.output
    (project.path / "token_budgets" / "accepted" / "test_it.yaml").unlink()
    judged = project.judge()
    told = (
        "accepted/test_it.yaml: is not there, and the baseline of test_letters names accepted requests in it"
    )
    assert (judged.status, told in judged.words) == (1, True)


def test_an_update_says_what_changed_and_no_word_of_a_recording_that_did_not(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is past a cap keeps its baseline, and is told against that."""
    recorded = prompt_tokens(project.judge().scenarios["test_letters"], "measured")
    monkeypatch.setenv("MORE", FIRST)
    entry = accept(project).scenarios["test_letters"]
    accepted = prompt_tokens(entry, "measured")
    assert causes(entry) == [("growth", accepted - recorded)]
    before = files(project)
    (project.path / "pyproject.toml").write_text(
        f"[tool.tokenbudget]\nmax_prompt_tokens = {accepted}\n", "utf-8"
    )
    monkeypatch.setenv("MORE", FIRST + SECOND)
    refused = project.judge(UPDATE)
    entry = refused.scenarios["test_letters"]
    assert (refused.status, files(project) == before) == (1, True)
    assert refused.over("test_letters") >= {"prompt_tokens", "max_prompt_tokens"}
    assert prompt_tokens(entry, "baseline") == accepted
    assert causes(entry) == [("growth", prompt_tokens(entry, "measured") - accepted)]
    assert "A cap is raised by hand: max_prompt_tokens" in refused.words


def test_a_clock_makes_no_dirty_file(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORE", f"{FIRST}\nThe time is 2026-01-02 10:15:31.\n")
    accept(project)
    before = files(project)
    monkeypatch.setenv("MORE", f"{FIRST}\nThe time is 2026-01-02 10:16:42.\n")
    assert project.judge().status == 0
    accept(project)
    assert files(project) == before


def test_turns_that_are_gone_are_accepted(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETTERS", "A")
    assert project.judge().verdicts == {"stale"}
    assert accept(project).scenarios["test_letters"]["measured"]["turns"] == 1
    before = files(project)
    judged = project.judge()
    entry = judged.scenarios["test_letters"]
    assert (judged.status, entry["verdict"], causes(entry)) == (0, "within", [])
    accept(project)
    assert files(project) == before
    monkeypatch.setenv("LETTERS", "AD")
    told = [finding["text"] for finding in project.judge().scenarios["test_letters"]["findings"]]
    assert any(
        "accepted as gone: user text 'Letter D', recorded as user text 'Letter B' (+" in one for one in told
    )
    monkeypatch.delenv("LETTERS")
    judged = project.judge()
    entry = judged.scenarios["test_letters"]
    more = prompt_tokens(entry, "measured") - prompt_tokens(entry, "baseline")
    assert (entry["verdict"], causes(entry)) == ("over", [("growth", more)])
    said = f"1 turn is asked for again that was accepted as gone: user text 'Letter B' (+{more} tokens)"
    assert [finding["text"] for finding in entry["findings"] if finding["kind"] == "growth"] == [said]
    assert "after the baseline" not in judged.words
    assert f"+{more} prompt tokens" in judged.words
    assert f": {said}" in accept(project).words


def test_a_turn_that_is_gone_saves_what_it_was_accepted_at(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MORE", FIRST)
    accepted = prompt_tokens(accept(project).scenarios["test_letters"], "measured")
    monkeypatch.setenv("LETTERS", "A")
    entry = project.judge().scenarios["test_letters"]
    assert causes(entry) == [("turns_changed", prompt_tokens(entry, "measured") - accepted)]


def test_a_miss_is_not_accepted(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(project)
    monkeypatch.setenv("LETTERS", "AABB")
    assert project.judge(UPDATE).verdicts == {"stale"}
    assert files(project) == before


def test_a_new_turn_is_compared_with_what_was_accepted(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MORE", FIRST)
    accept(project)
    monkeypatch.setenv("LETTERS", "AA")
    entry = project.judge().scenarios["test_letters"]
    told = [finding["text"] for finding in entry["findings"] if finding["where"] == "added"]
    assert len(told) == 1
    assert "the first difference is messages[0] user text" in told[0]
    assert FIRST[1:20] not in told[0]


def test_a_secret_is_in_no_file_and_still_accepted(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "sk-ant-api03-" + "k3J9" * 12
    monkeypatch.setenv("MORE", f"{FIRST} The key is {secret} .")
    accept(project)
    assert all(secret not in text for text in files(project).values())
    judged = project.judge()
    assert (judged.status, causes(judged.scenarios["test_letters"])) == (0, [])


@pytest.mark.parametrize("edited", ["test_it.yaml", "accepted/test_it.yaml"])
def test_a_file_that_was_merged_or_edited_is_told_and_updated(
    project: Project, monkeypatch: pytest.MonkeyPatch, edited: str
) -> None:
    before = files(project)
    monkeypatch.setenv("MORE", FIRST)
    accept(project)
    known = files(project)
    monkeypatch.setenv("MORE", SECOND)
    accept(project)
    (project.path / "token_budgets" / edited).write_text(known[edited], "utf-8")
    judged = project.judge()
    assert judged.status == 1
    assert "merged or edited" in judged.output
    assert "--token-budget-update" in judged.output
    accept(project)
    assert project.judge().verdicts == {"within"}
    assert before != known


def test_another_recording_makes_it_void(
    project: Project, monkeypatch: pytest.MonkeyPatch, api: MessagesApi
) -> None:
    monkeypatch.setenv("MORE", FIRST)
    accept(project)
    monkeypatch.setenv("MORE", SECOND)
    assert project.run("--token-budget-record=all", url=api.url).status == 0
    entry = project.judge().scenarios["test_letters"]
    assert causes(entry)[0][0] == "recording_changed"
    accept(project)
    assert set(files(project)) == {"test_it.yaml"}
    assert project.judge().verdicts == {"within"}


def test_both_sides_are_counted_by_one_counter(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORE", FIRST)
    accepted = prompt_tokens(accept(project).scenarios["test_letters"], "measured")
    name = CtokCounter().name if counting.importlib.util.find_spec("ctok") else BuiltinCounter.name
    assert f"counted_by: {name}" in files(project)["test_it.yaml"]

    class Other(BuiltinCounter):
        name = "other 1"

        def count(self, text: str, family: str) -> int:
            return 2 * super().count(text, family)

    without_ctok = [BuiltinCounter()] if name != BuiltinCounter.name else []  # as Python 3.11 judges
    for counter in (Other(), *without_ctok):
        monkeypatch.setattr("pytest_tokenbudget.run.session.best_counter", lambda _, its=counter: its)
        monkeypatch.setenv("MORE", FIRST)
        entry = project.judge().scenarios["test_letters"]
        assert (entry["verdict"], prompt_tokens(entry, "measured")) == ("within", accepted)
        monkeypatch.setenv("MORE", f"{FIRST} Hm.")
        entry = project.judge().scenarios["test_letters"]
        grown = prompt_tokens(entry, "measured") - prompt_tokens(entry, "baseline")
        assert 0 < grown < 20
        assert causes(entry) == [("growth", grown)]
        assert prompt_tokens(entry, "baseline") != accepted, "counted anew, as the other side is"


def test_workers_accept_the_same(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORE", FIRST)
    accept(project)
    before = files(project)
    for path in (project.path / "token_budgets").rglob("*.yaml"):
        path.unlink()
    done = run_apart(project.path, "--token-budget", UPDATE, "-n", "1")
    assert done.status == 0, done.output
    assert files(project) == before


def test_an_update_keeps_others_out_while_it_writes(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, tried = baseline_history.write_baselines, []

    def write_locked(path: Path, *given: Any) -> bool:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(folder)
        tried.append(path.name)
        return write(path, *given)

    monkeypatch.setattr(baseline_history, "write_baselines", write_locked)
    monkeypatch.setenv("MORE", FIRST)
    accept(project)
    assert tried == ["test_it.yaml"]


VCRPY = """
import os

import vcr
from agent import ask

os.environ.setdefault("ANTHROPIC_API_KEY", "a placeholder")


def test_of_vcr():
    with vcr.use_cassette("cassette.yaml", match_on=["method", "path"]):
        assert ask("Letter A")
        assert ask("Letter B")
"""


def test_a_change_is_accepted_on_a_cassette_of_vcrpy(
    suite: Suite, api: MessagesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = suite(TESTS, 2)
    (project.path / "test_vcr.py").write_text(VCRPY, "utf-8")
    assert project.run("test_vcr.py", url=api.url).status == 0
    accept(project)
    monkeypatch.setenv("MORE", FIRST)
    accepted = prompt_tokens(accept(project).scenarios["test_of_vcr"], "measured")
    judged = project.judge()
    assert (judged.status, causes(judged.scenarios["test_of_vcr"])) == (0, [])
    monkeypatch.setenv("MORE", FIRST + SECOND)
    entry = project.judge().scenarios["test_of_vcr"]
    assert causes(entry) == [("growth", prompt_tokens(entry, "measured") - accepted)]


def test_a_recording_is_known_by_what_is_written_of_it(
    project: Project, monkeypatch: pytest.MonkeyPatch, api: MessagesApi
) -> None:
    """Secrets are taken out of a cassette: recording and updating in one run sees the same as a replay."""
    monkeypatch.setenv("MORE", f" The key is {'sk-ant-api03-' + 'k3J9' * 12} .")
    done = project.run("--token-budget-record=all", UPDATE, url=api.url)
    assert done.status == 0, done.output
    at_once = files(project)
    (project.path / "token_budgets" / "test_it.yaml").unlink()
    accept(project)
    assert files(project) == at_once


@pytest.mark.parametrize("takes", [(), ("--token-budget-update-all",), ("test_it.py::test_letters",)])
def test_an_update_takes_what_is_within_only_where_that_is_asked_for(
    project: Project, monkeypatch: pytest.MonkeyPatch, takes: tuple[str, ...]
) -> None:
    before = files(project)
    monkeypatch.setenv("MORE", " Hm.")
    updated = project.judge(UPDATE, *takes)
    assert updated.status == 0
    assert (files(project) == before) == (not takes)
    kept = (
        "1 baseline changed within its tolerance, and stays. To take it as measured now: "
        "tokenbudget update --all"
    )
    assert (kept in updated.words) == (not takes)
    entry = updated.scenarios["test_letters"]
    assert (entry["measured"] == entry["baseline"]) == bool(takes), "what stays is what is compared with"
    assert (" prompt tokens, $" in updated.words.replace("~", "")) == bool(takes)
    assert ("accepted test_it.py::test_letters" in updated.output) == bool(takes)


def as_version_1(project: Project) -> str:
    """Leave in the baselines what version 1 knows; return what they held."""
    path = project.path / "token_budgets" / "test_it.yaml"
    text = path.read_text("utf-8")
    baselines = {name: Baseline(known.usage) for name, known in parse_baselines(text, "it").items()}
    path.write_text(format_baselines(baselines), "utf-8")
    return text


def test_a_migration_writes_what_is_as_it_was_measured_and_nothing_else(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = as_version_1(project)
    old = files(project)
    accept(project)
    assert files(project) == old
    monkeypatch.setenv("MORE", FIRST)
    judged = project.judge("--token-budget-migrate")
    assert (judged.status, judged.verdicts, files(project)) == (1, {"over"}, old)
    monkeypatch.setenv("MORE", " Hm.")
    judged = project.judge("--token-budget-migrate")
    assert (judged.status, files(project)) == (0, old)
    assert "1 baseline stays as it is: its numbers are no longer those of its recording" in judged.output
    monkeypatch.delenv("MORE")
    assert project.judge("--token-budget-migrate").status == 0
    assert files(project) == {"test_it.yaml": new}
    monkeypatch.setenv("MORE", FIRST)
    accept(project)
    as_version_1(project)
    old = files(project)
    judged = project.judge("--token-budget-migrate")
    assert (judged.verdicts, files(project)) == ({"within"}, old), "as it was accepted, without its requests"
    assert "1 baseline stays as it is" in judged.words
    assert "To take it as measured now: tokenbudget update --all" in judged.words
    assert project.judge(UPDATE, "--token-budget-update-all").status == 0
    assert "accepted: " in files(project)["test_it.yaml"]


def test_an_acceptance_says_how_many_turns_there_are_and_that_the_recording_is_another(
    project: Project, monkeypatch: pytest.MonkeyPatch, api: MessagesApi
) -> None:
    monkeypatch.setenv("LETTERS", "A")
    assert "accepted test_it.py::test_letters: 2 -> 1 turns, 24 -> 12 prompt tokens" in accept(project).output
    assert project.run("--token-budget-record=all", url=api.url).status == 0
    assert "test_letters: 12 prompt tokens, all as before: it was recorded anew" in accept(project).words
    monkeypatch.setenv("LETTERS", "AA")
    recorded = project.judge("--token-budget-record=all", UPDATE, url=api.url)
    assert "1 -> 2 turns, 12 -> 24 prompt tokens (+12), +$" in recorded.words
    assert ": it was recorded anew" in recorded.output


def merged(
    project: Project, ours: Mapping[str, str], base: Mapping[str, str], theirs: Mapping[str, str]
) -> None:
    """Leave the files as git leaves them where everything conflicts."""
    for name in {**ours, **theirs}:
        one, before, other = (side.get(name, "") for side in (ours, base, theirs))
        text = f"<<<<<<< HEAD\n{one}||||||| base\n{before}=======\n{other}>>>>>>> topic\n"
        (project.path / "token_budgets" / name).write_text(text, "utf-8")


def test_a_merge_of_two_accepted_changes_is_measured(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = files(project)
    monkeypatch.setenv("MORE", FIRST)
    first = accept(project).scenarios["test_letters"]
    ours = files(project)
    monkeypatch.setenv("MORE", SECOND)
    accept(project)
    merged(project, ours, base, files(project))
    conflict = files(project)
    monkeypatch.setenv("MORE", FIRST + SECOND)
    judged = project.judge()
    assert judged.status == 1
    assert "test_it.yaml: holds conflict marks of a merge (line 1)" in judged.output
    assert (
        "\nResolve it scenario by scenario:\n  pytest --token-budget --token-budget-update\n" in judged.output
    )
    assert "Traceback" not in judged.output
    assert files(project) == conflict
    updated = accept(project)
    resolved = project.judge()
    assert (resolved.status, causes(resolved.scenarios["test_letters"])) == (0, [])
    was, more = (
        prompt_tokens(first, "measured"),
        prompt_tokens(resolved.scenarios["test_letters"], "measured"),
    )
    assert (
        f"accepted test_it.py::test_letters: {was} -> {more} prompt tokens (+{more - was}), +$"
        in updated.words
    )
    assert causes(updated.scenarios["test_letters"]) == [("growth", more - was)], "against the first side"
    accept(project)
    assert project.judge("--token-budget-update-all").status == 0
    monkeypatch.setenv("MORE", FIRST)
    assert project.judge().verdicts == {"improved"}


TWO = (
    TESTS
    + """

@pytest.mark.token_budget
def test_words():
    assert ask("Letter C" + os.environ.get("WORDS", ""))
"""
)


def test_what_changed_on_one_side_of_a_merge_is_taken_with_its_acceptance(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = suite(TWO, 3)
    base = files(project)
    with monkeypatch.context() as patch:
        patch.setenv("WORDS", FIRST)
        accept(project)
        ours = files(project)
    merged(project, ours, base, base)
    done = project.judge(UPDATE, "test_it.py::test_letters")
    assert done.status == 0, done.output
    assert files(project) == ours
    theirs = {"test_it.yaml": ours["test_it.yaml"].replace("turns: 1", "turns: 9")}
    merged(project, ours, base, theirs)
    conflict = files(project)
    done = project.judge(UPDATE, "test_it.py::test_letters")
    assert done.status == 1
    assert "not in this run: test_words" in done.words
    assert files(project) == conflict
    monkeypatch.setenv("WORDS", FIRST)
    accept(project)
    assert files(project) == ours


OTHER_MODEL = Rate("claude-opus-4-5")


@dataclass(frozen=True)
class Forgery:
    """How the first accepted turn is edited, and what is said of it."""

    told: str
    prompt: int = 0
    output: int = 0
    rate: Rate | None = None

    def of(self, turn: AcceptedTurn) -> AcceptedTurn:
        if turn.of:
            return turn
        rate = next(iter(turn.usage.by_rate))
        usage = turn.usage + Usage.of(rate, Tokens(self.prompt, output_tokens=self.output), 0)
        return replace(turn, usage=Usage.of(self.rate or rate, usage.tokens))


FORGERIES = {
    "raised": Forgery("turn 1 was accepted with", prompt=5000),
    "lowered": Forgery("turn 1 was accepted with", prompt=-3000),
    "within what its length allows": Forgery("turn 1 was accepted with", prompt=1900),
    "output": Forgery("turn 1 was accepted with 1,007 output tokens, and its answer has 7", output=1000),
    "model": Forgery("turn 1 was accepted on claude-opus-4-5, and asks claude-haiku-4-5", rate=OTHER_MODEL),
}


def test_an_acceptance_that_does_not_recount_to_its_numbers_fails_until_it_is_merged(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both files are edited so that they fit each other: the digest is right, the numbers are not."""
    in_git(project, "init -q -b main", "add test_it.py", "commit -qm x")
    monkeypatch.setenv("MORE", FIRST * 60)
    accept(project)
    assert project.judge().verdicts == {"within"}, "what is not merged is counted, and is right"
    path = project.path / "token_budgets" / "test_it.yaml"
    beside = path.parent / "accepted" / path.name
    (name, cassettes), *_ = read_accepted(beside).items()
    baseline = read_baselines(path)[name]
    for what, forgery in FORGERIES.items():
        turns = [tuple(map(forgery.of, cassette.turns)) for cassette in cassettes]
        forged = [replace(one, turns=its) for one, its in zip(cassettes, turns, strict=True)]
        usage = sum((turn.usage for its in turns for turn in its), Usage())
        write_accepted(beside, {name: forged})
        if what == "raised":
            write_baselines(path, {name: replace(baseline, accepted=accepted_digest(forged))})
            words = project.judge().words
            assert "its baseline says 2 turns with" in words, "one that is edited alone is told at once"
        write_baselines(path, {name: replace(baseline, usage=usage, accepted=accepted_digest(forged))})
        judged = project.judge()
        assert (judged.status, judged.verdicts) == (1, {"stale"}), what
        assert f"its accepted requests do not recount to their numbers: {forgery.told}" in judged.words
    in_git(project, "add -A", "commit -qm merged")
    monkeypatch.setattr("pytest_tokenbudget.run.session.best_counter", lambda _: Uncounted())
    assert project.judge().verdicts == {"within"}, "what is merged was reviewed: nothing is counted"


def in_git(project: Project, *commands: str) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", "-C", str(project.path)]
    for command in commands:
        subprocess.run([*git, *command.split()], check=True)


CACHING = """
import os

import anthropic
import pytest

RULES = {"type": "text", "text": "You are a clerk. " * 1500, "cache_control": {"type": "ephemeral"}}


@pytest.mark.token_budget
def test_letters():
    client = anthropic.Anthropic()
    for letter in os.environ.get("LETTERS", "AB"):
        messages = [{"role": "user", "content": f"Letter {letter}"}]
        system = [RULES, {"type": "text", "text": "Be brief." + os.environ.get("MORE", "")}]
        client.messages.create(model="claude-haiku-4-5", max_tokens=50, system=system, messages=messages)
"""


def test_a_turn_that_was_called_anew_is_no_accepted_one(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a turn of the recording, whose split is that of one start; and what is accepted on it holds."""
    project = suite(CACHING, 2)
    monkeypatch.setenv("LETTERS", "AX")
    with MessagesApi(echo) as api:
        recorded = project.run("--token-budget-record=changed", url=api.url)
        assert (recorded.status, len(api.charges)) == (0, 1), recorded.output
        assert api.charges[0].usage.cache_read_input_tokens == 0, "the server has forgotten the first turn"
    accept(project)
    assert list(files(project)) == ["test_it.yaml"]
    judged = project.judge()
    entry = judged.scenarios["test_letters"]
    assert (judged.status, entry["verdict"]) == (0, "within"), judged.output
    assert entry["measured"] == entry["baseline"]
    assert entry["measured"]["cache_read_input_tokens"] == entry["measured"]["cache_creation_input_tokens"]
    monkeypatch.setenv("MORE", FIRST)
    accepted = project.judge(UPDATE, "test_it.py::test_letters").scenarios["test_letters"]["measured"]
    assert len(files(project)) == 2
    judged = project.judge()
    entry = judged.scenarios["test_letters"]
    assert (judged.status, entry["verdict"]) == (0, "within"), judged.output
    assert entry["measured"] == entry["baseline"] == accepted
    assert accepted["cache_read_input_tokens"] == accepted["cache_creation_input_tokens"]


def test_what_is_accepted_on_a_warm_recording_has_its_start(
    suite: Suite, api: MessagesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prefix that others had filled grows with the prompt: that is no other start."""
    rules = '"You are a clerk. " * 1500'
    assert rules in CACHING
    text = CACHING.replace(rules, '("You are a clerk" + os.environ.get("RULE", "") + ". ") * 1500')
    project = suite(text, 2)
    for _ in ("cold", "warm"):
        assert project.run("--token-budget-record=all", url=api.url).status == 0
    assert project.judge(UPDATE, "--token-budget-update-all").status == 0
    assert "foreign_reads" in files(project)["test_it.yaml"]
    recorded = project.judge().scenarios["test_letters"]["measured"]
    for rule in (" of the post", ""):
        monkeypatch.setenv("RULE", rule)
        entry = project.judge().scenarios["test_letters"]
        assert "other_start" not in dict(causes(entry)), entry["findings"]
        accept(project)
    assert entry["verdict"] == "improved"
    assert entry["measured"] == recorded
