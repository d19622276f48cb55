"""A test that was renamed or moved finds its recording, its baseline and its acceptance by what it asks."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_tokenbudget.run.items import _unnamed
from support.apart import warm_python
from support.budgeted import Judged, Project
from support.messages_api import MessagesApi
from support.scratch_suites import Suite, make

UPDATE = "--token-budget-update"
OLD = "words.yaml"
MORE = " Never promise a date that nobody has confirmed, and sign with your name." * 4
TESTS = """
import pytest
from agent import ask


@pytest.mark.token_budget
def test_letters():
    assert ask("Letter A")
    assert ask("Letter B")


@pytest.fixture(scope="module")
def list_of_letters():
    return ask("Letter D")


@pytest.mark.token_budget
def test_words(list_of_letters):
    assert ask("Letter C")
"""


@pytest.fixture
def project(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A recorded suite whose first change is accepted, in a repository."""
    project = suite(TESTS, 4)
    monkeypatch.setenv("MORE", MORE)
    assert project.judge("--token-budget-update").status == 0
    for command in ("git init -q", "git add -A"):
        subprocess.run(command, shell=True, check=True, cwd=project.path)
    return project


def follow(project: Project, judged: Judged, scenario: str) -> str:
    """Paste what the run says before it runs pytest; return the rest, its lines joined by ` && `."""
    which = rf"(?:{re.escape(scenario)} was|these \d+ tests were)"
    title = rf"(?m)^If {which} renamed or moved, take the files along:\n"
    (told,) = re.findall(rf"{title}((?:  .*\n)+)", judged.output)
    commands = told.strip().split("\n  ")
    steps = [command for command in commands if command.startswith(("mkdir ", "git mv "))]
    subprocess.run("\n".join(steps), shell=True, check=True, cwd=project.path)
    return " && ".join(commands[len(steps) :]).removeprefix("pytest ")


def measured(judged: Judged, scenario: str) -> Mapping[str, Any]:
    entry: Mapping[str, Any] = judged.scenarios[scenario]["measured"]
    return entry


def test_a_renamed_test(project: Project) -> None:
    was = measured(project.judge(), "test_letters")
    path = project.path / "test_it.py"
    path.write_text(path.read_text("utf-8").replace("test_letters", "test_mail"), "utf-8")
    judged = project.judge()
    assert judged.scenarios["test_words"]["verdict"] == "within"
    text = judged.scenarios["test_mail"]["findings"][0]["text"]
    assert "cassettes/test_it/test_letters.yaml asks the same, and its test is gone" in text
    assert "its baseline is test_letters with accepted requests in token_budgets/test_it.yaml" in text
    assert "test_letters: has a baseline, and no test any more\n" in judged.output, "to prune it loses it"
    update, _, prune = follow(project, judged, "test_mail").partition(" && ")
    assert update == "--token-budget --token-budget-update test_it.py::test_mail"
    judged = project.judge("test_it.py::test_mail")
    (said,) = [
        finding["text"]
        for finding in judged.scenarios["test_mail"]["findings"]
        if finding["kind"] == "problem"
    ]
    assert (judged.status, judged.verdicts) == (1, {"new"}), "moved, and not updated yet"
    assert "the baseline of test_letters in token_budgets/test_it.yaml was measured on this recording" in said
    assert follow(project, judged, "test_mail") == f"{update} && tokenbudget prune --delete"
    assert "Write the first baseline" not in judged.output
    assert project.judge(*update.split()[1:]).status == 0
    assert prune == "tokenbudget prune --delete"
    subprocess.run(
        [warm_python(), "-m", "pytest_tokenbudget", *prune.split()[1:]], check=True, cwd=project.path
    )
    judged = project.judge()
    assert (judged.status, measured(judged, "test_mail")) == (0, was)


def test_a_renamed_test_whose_prompt_changed_is_found_by_its_question_and_accepted_openly(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    was = measured(project.judge(), "test_letters")["prompt_tokens"]
    subprocess.run(
        "git add -A && git -c user.name=a -c user.email=a@b commit -q -m was",
        shell=True,
        check=True,
        cwd=project.path,
    )
    path = project.path / "test_it.py"
    path.write_text(path.read_text("utf-8").replace("test_letters", "test_mail"), "utf-8")
    monkeypatch.setenv("MORE", MORE + MORE)
    judged = project.judge()
    text = judged.scenarios["test_mail"]["findings"][0]["text"]
    assert "cassettes/test_it/test_letters.yaml asks the same question, and its test is gone" in text
    update, _, _ = follow(project, judged, "test_mail").partition(" && ")
    judged = project.judge(*update.split()[1:])
    now = measured(judged, "test_mail")["prompt_tokens"]
    assert (
        f"accepted test_it.py::test_mail (was test_it.py::test_letters): {was:,} -> {now:,}" in judged.words
    )
    assert now > was
    baselines = project.path / "token_budgets" / "test_it.yaml"
    pruned = [warm_python(), "-m", "pytest_tokenbudget", "prune", "--delete"]
    subprocess.run(pruned, check=True, cwd=project.path)
    assert "test_letters" not in baselines.read_text("utf-8")
    told = subprocess.run(
        [warm_python(), "-m", "pytest_tokenbudget", "diff", "HEAD", "--format", "json"],
        check=True,
        cwd=project.path,
        capture_output=True,
        text=True,
    )
    (change,) = json.loads(told.stdout)["scenarios"]
    assert (change["was"], change["matched"], change["change"]) == (
        "test_it.py::test_letters",
        "recording",
        "raised",
    )


def test_a_renamed_fixture(project: Project) -> None:
    was = measured(project.judge(), "fixture list_of_letters")
    path = project.path / "test_it.py"
    path.write_text(path.read_text("utf-8").replace("list_of_letters", "alphabet"), "utf-8")
    judged = project.judge()
    text = judged.scenarios["fixture alphabet"]["findings"][0]["text"]
    assert "cassettes/test_it/fixture_list_of_letters.yaml asks the same, and its test is gone" in text
    assert "its baseline is fixture list_of_letters with accepted requests in token_budgets/test_it.y" in text
    update, _, prune = follow(project, judged, "fixture alphabet").partition(" && ")
    assert (update, prune) == (f"--token-budget {UPDATE} test_it.py", "tokenbudget prune --delete")
    assert project.judge(UPDATE, "test_it.py").status == 0
    subprocess.run(
        [warm_python(), "-m", "pytest_tokenbudget", *prune.split()[1:]], check=True, cwd=project.path
    )
    judged = project.judge()
    assert (judged.status, measured(judged, "fixture alphabet")) == (0, was)


def test_a_moved_module(project: Project) -> None:
    was = measured(project.judge(), "test_letters")
    (project.path / "moved").mkdir()
    (project.path / "test_it.py").rename(project.path / "moved" / "test_that.py")
    judged = project.judge()
    assert judged.verdicts == {"unrecorded"}
    assert "no cassette moved/cassettes/test_that/test_letters.yaml" in judged.words
    assert follow(project, judged, "test_letters") == ""
    judged = project.judge()
    assert (judged.status, judged.verdicts) == (0, {"within"})
    assert measured(judged, "test_letters") == was


def test_where_two_tests_were_renamed_nothing_is_pruned_before_both_are_moved(project: Project) -> None:
    """Pruning takes the cassette of the second for one without a test."""
    path = project.path / "test_it.py"
    text = path.read_text("utf-8").replace("test_letters", "test_mail").replace("test_words", "test_terms")
    path.write_text(text, "utf-8")
    update = f"--token-budget {UPDATE} test_it.py::test_mail test_it.py::test_terms"
    assert follow(project, project.judge(), "test_mail") == update
    assert {path.stem for path in (project.path / "cassettes" / "test_it").iterdir()} == {
        "test_mail",
        "test_terms",
        "fixture_list_of_letters",
    }


@pytest.mark.parametrize("asks", ["Letter A", "Letter Z"])
def test_a_new_test_is_no_old_one_that_still_stands(project: Project, asks: str) -> None:
    path = project.path / "test_it.py"
    path.write_text(
        f'{path.read_text("utf-8")}\n\n@pytest.mark.token_budget\ndef test_new():\n    ask("{asks}")\n',
        "utf-8",
    )
    text = project.judge().scenarios["test_new"]["findings"][0]["text"]
    assert "asks the same" not in text


ADOPTED = """
import os

import pytest
import vcr
from agent import ask

os.environ.setdefault("ANTHROPIC_API_KEY", "a placeholder")


@pytest.fixture(scope="module")
def vcr_config():
    return {"match_on": ["method", "path"]}


@pytest.mark.vcr
@pytest.mark.parametrize("letter", ["C", "B"])
def test_letters(letter):
    assert ask("Letter A") and ask(f"Letter {letter}")


def test_words():
    with vcr.use_cassette("kept/words.yaml", match_on=["method", "path"]):
        assert ask("Letter C")


def test_more_words():
    with vcr.use_cassette("kept/more.yaml", match_on=["method", "path"]):
        assert ask("Letter C")
"""


def test_a_renamed_test_or_cassette_of_another_recorder(
    tmp_path: Path, pytester: pytest.Pytester, api: MessagesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make(tmp_path / "suite", pytester, ADOPTED)
    assert project.run("--record-mode=once", url=api.url).status == 0
    assert project.judge(UPDATE).status == 0
    monkeypatch.setenv("MORE", MORE)
    was = project.judge(UPDATE)
    assert was.status == 0
    for command in ("git init -q", "git add -A"):
        subprocess.run(command, shell=True, check=True, cwd=project.path)
    path = project.path / "test_it.py"
    text = path.read_text("utf-8").replace("test_letters", "test_mail").replace("words.yaml", "terms.yaml")
    path.write_text(text.replace("kept/more.yaml", "later/more.yaml"), "utf-8")
    judged = project.judge()
    assert {name: entry["verdict"] for name, entry in judged.scenarios.items()} == {
        "test_mail[C]": "unrecorded",
        "test_mail[B]": "unrecorded",
        "test_words": "unrecorded",
        "test_more_words": "unrecorded",
    }
    told = {name: entry["findings"][0]["text"] for name, entry in judged.scenarios.items()}
    for letter in "CB":
        old = f"test_letters[{letter}]"
        assert (
            f"there is no cassette cassettes/test_it/test_mail[{letter}].yaml" in told[f"test_mail[{letter}]"]
        )
        assert (
            f"cassettes/test_it/{old}.yaml asks the same, and its test is gone"
            in told[f"test_mail[{letter}]"]
        )
        assert (
            f"its baseline is {old} with accepted requests in token_budgets/test_it.yaml"
            in (told[f"test_mail[{letter}]"])
        )
    assert "there is no cassette kept/terms.yaml" in told["test_words"]
    assert "kept/words.yaml asks the same, and no Python file names it" in told["test_words"]
    assert "kept/more.yaml asks the same, and no Python file names it" in told["test_more_words"]
    update = follow(project, judged, "test_mail[C]")
    assert update == f"--token-budget {UPDATE} test_it.py::test_mail && tokenbudget prune --delete"
    assert len([*(project.path / "cassettes" / "test_it").glob("test_mail[[]*")]) == 2, "both are moved"
    judged = project.judge("test_it.py::test_words", "test_it.py::test_more_words")
    assert (judged.status, judged.verdicts) == (0, {"within"})
    assert project.judge(UPDATE, "test_it.py").status == 0
    assert measured(project.judge(), "test_mail[B]") == measured(was, "test_letters[B]")


def test_another_recorder_records_anew_what_is_stale_by_its_own_command(
    tmp_path: Path, pytester: pytest.Pytester, api: MessagesApi
) -> None:
    """Its command is run from the state that names it; then the update that accepts the turn that is new."""
    project = make(tmp_path / "suite", pytester, ADOPTED)
    assert project.run("--record-mode=once", url=api.url).status == 0
    assert project.judge(UPDATE).status == 0
    path = project.path / "test_it.py"
    text = path.read_text("utf-8")
    path.write_text(text.replace('ask("Letter A") and', 'ask("Letter A") and ask("Letter D") and'), "utf-8")
    test = "test_it.py::test_letters[B]"
    judged = project.judge(test)
    assert (judged.status, judged.verdicts) == (1, {"stale"}), judged.output
    for verdict in ("over", "within"):
        *_, command = [shlex.split(found) for found in re.findall(r"(?m)^  pytest (--.*)", judged.output)]
        done = project.run(*command, url=api.url)
        assert done.status == 0, done.output
        judged = project.judge(test)
        assert judged.verdicts == {verdict}, (command, judged.output)


def test_parameters_that_were_not_asked_for_are_not_gone(
    tmp_path: Path, pytester: pytest.Pytester, api: MessagesApi
) -> None:
    """A test named with its parameter is collected alone: the others stand all the same."""
    project = make(tmp_path / "suite", pytester, ADOPTED)
    assert project.run("--record-mode=once", url=api.url).status == 0
    cassette = project.path / "cassettes" / "test_it" / "test_letters[B].yaml"
    cassette.unlink()
    judged = project.judge("test_it.py::test_letters[B]")
    assert judged.verdicts == {"unrecorded"}
    assert "asks the same" not in judged.words


@pytest.mark.parametrize(
    ("file", "text", "is_old"),
    [
        ("test_it.py", 'use_cassette("later/words.yaml")', True),
        ("test_it.py", 'use_cassette(HERE / "later" / "words.yaml")', True),
        ("test_it.py", 'VCR(cassette_library_dir="later").use_cassette("words.yaml")', True),
        (
            "test_it.py",
            'KEPT = "kept"\nuse_cassette("later/words.yaml"), use_cassette(f"{KEPT}/more.yaml")',
            True,
        ),
        ("test_it.py", 'use_cassette("kept/words.yaml"), use_cassette("later/words.yaml")', False),
        ("test_it.py", 'for place in ("kept", "later"): use_cassette(f"{place}/words.yaml")', False),
        ("kept/test_it.py", 'use_cassette(HERE / "words.yaml")', False),
        ("later/test_it.py", 'use_cassette(HERE / "words.yaml")', True),
    ],
)
def test_a_cassette_in_another_folder_is_old_where_nothing_names_it(
    tmp_path: Path, file: str, text: str, is_old: bool
) -> None:
    for path, content in ((f"kept/{OLD}", ""), ("kept/other.yaml", ""), (file, text)):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(content, "utf-8")
    old = [path.name for path in _unnamed(tmp_path / "later" / OLD, tmp_path)]
    assert old == ([OLD] if is_old else [])
