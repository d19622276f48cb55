"""Other line ends, another Python, a name that no file may have: none of these is a change."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from pytest_tokenbudget.run.scenario import cassette_path, teardown_path
from support.budgeted import Project
from support.messages_api import MessagesApi
from support.scratch_suites import echo, make, record

pytestmark = pytest.mark.newest
EXACT = find_spec("ctok") is not None
PROMPTED = """
from pathlib import Path

import pytest
from agent import ask

SYSTEM = Path(__file__).with_name("system.md").read_text("utf-8")


@pytest.mark.token_budget
def test_parcel():
    assert ask("One", SYSTEM) == "You said One"
    assert ask("Two", SYSTEM) == "You said Two"
"""
SYSTEM = "You answer customers.\n\nZeilen:\n- eins\n\n- zwei\n"
CHANGED = "You answer customers, and you do so at once. " * 8 + "\n\nZeilen:\n- eins\n\n- zwei\n"


def files(project: Project) -> dict[Path, bytes]:
    """Return cassettes, baselines and accepted requests, with the line ends of Unix."""
    paths = list(project.path.rglob("*.yaml"))
    return {path: path.read_bytes().replace(b"\r\n", b"\n") for path in paths}


def test_a_checkout_with_the_line_ends_of_windows_is_no_change(
    tmp_path: Path, pytester: pytest.Pytester
) -> None:
    """Cassette, baseline, accepted requests and prompt come with other bytes; an update leaves them."""
    project = make(tmp_path / "suite", pytester, PROMPTED)
    prompt = project.path / "system.md"
    prompt.write_text(SYSTEM, "utf-8")
    with MessagesApi(echo) as api:
        record(project, api, calls=2)
    prompt.write_text(CHANGED, "utf-8")
    assert project.run("--token-budget", "--token-budget-update").status == 0
    before = files(project)
    assert len(before) == 3, "a cassette, a baseline and what it accepts"
    for path in (*before, prompt, project.path / "test_it.py"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))

    judged = project.judge()
    assert judged.verdicts == {"within"}, judged.output
    findings = judged.scenarios["test_parcel"]["findings"]
    assert all(finding["kind"].startswith("lever_") for finding in findings), "nothing has changed"
    updated = project.run("--token-budget", "--token-budget-update")
    assert updated.status == 0, updated.output
    assert files(project) == before


DESCRIBED = '''
import os
import textwrap

import anthropic
import pytest

DESCRIPTION = """Look an order up.

    Args:
        order: its number, as it stands on the letter.
        year: the year in which it was placed, if that is known.

    Returns:
        Where it is, in one sentence.
    """
if os.environ.get("STRIPPED"):  # what the compiler does to a docstring since Python 3.13
    first, _, rest = DESCRIPTION.partition("\\n")
    DESCRIPTION = f"{first}\\n{textwrap.dedent(rest)}"
TOOL = {
    "name": "look_up",
    "description": DESCRIPTION,
    "input_schema": {"type": "object", "properties": {}},
    "cache_control": {"type": "ephemeral"},
}
SYSTEM = "You answer what customers ask about their orders, politely, and never promise anything. " * 400


@pytest.mark.token_budget
def test_parcel():
    client = anthropic.Anthropic(max_retries=0)
    system = [{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}]
    asked = {"model": "claude-haiku-4-5", "max_tokens": 50, "system": system, "tools": [TOOL]}
    messages = [{"role": "user", "content": "One"}]
    for words in ("Two", "Three"):
        answer = client.messages.create(**asked, messages=messages)
        messages.append({"role": "assistant", "content": answer.content[0].text})
        messages.append({"role": "user", "content": words})
    client.messages.create(**asked, messages=messages)
'''


def test_a_docstring_whose_indentation_the_compiler_strips_is_a_few_blanks(
    tmp_path: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tool that its docstring describes is another prompt on Python 3.12 than on 3.13.

    The blanks count as the server counts them, and no cache is lost: each run writes its own prefix.
    """
    project = make(tmp_path / "suite", pytester, DESCRIBED)
    with MessagesApi(echo) as api:
        record(project, api, calls=3)
    monkeypatch.setenv("STRIPPED", "1")
    judged = project.judge()
    with MessagesApi(echo) as api:
        live = project.run("--token-budget-disable", url=api.url)
        assert live.status == 0, live.output
    entry = judged.scenarios["test_parcel"]
    assert judged.status == 0, judged.output
    assert entry["verdict"] == "within"
    measured = entry["measured"]
    roughly = None if EXACT else 0.001
    prompt_tokens = sum(charge.usage.prompt_tokens for charge in api.charges)
    assert measured["prompt_tokens"] == pytest.approx(prompt_tokens, rel=roughly)
    for count in ("cache_read_input_tokens", "cache_creation_input_tokens"):
        charged = sum(getattr(charge.usage, count) for charge in api.charges)
        assert measured[count] == pytest.approx(charged, rel=roughly)
    assert measured["prompt_tokens"] < entry["baseline"]["prompt_tokens"]
    assert measured["cost_usd"] == pytest.approx(entry["baseline"]["cost_usd"], rel=0.03)


NAMED = """
import pytest
from agent import ask

LONG = "a customer writes that the parcel was left in the rain behind the house and is wet now; " * 5
NAMES = [LONG + "first", LONG + "second", LONG + "SECOND"]
NAMES += ["../up", "a\\\\b", "CON", "sonnet/4.6: why? *", "ende. "]


@pytest.mark.token_budget
@pytest.mark.parametrize("words", NAMES, ids=NAMES)
def test_complaint(words):
    assert ask(words) == "On its way."
"""


def test_names_that_no_file_may_have_are_files_of_their_own(
    tmp_path: Path, pytester: pytest.Pytester
) -> None:
    """Too long, alike but for their ends or their case, with signs or names that Windows refuses."""
    project = make(tmp_path / "suite", pytester, NAMED)
    with MessagesApi(lambda _: "On its way.") as api:
        record(project, api, calls=8)
    cassettes = list((project.path / "cassettes").rglob("*.yaml"))
    assert {path.parent for path in cassettes} == {project.path / "cassettes/test_it"}
    assert len({path.name.lower() for path in cassettes}) == 8
    for path in cassettes:
        assert len(path.name.encode()) <= 255
        assert not set(path.name) & set('<>:"|?*\\')
    judged = project.judge()
    assert (judged.status, judged.verdicts) == (0, {"within"}), judged.output
    prompts = sorted(entry["measured"]["prompt_tokens"] for entry in judged.scenarios.values())
    assert prompts == sorted(charge.usage.prompt_tokens for charge in api.charges)


@pytest.mark.parametrize("letter", ["a", "ü", "荷", "📦"])
def test_a_long_name_is_cut_by_its_bytes(letter: str) -> None:
    """pytest lets names with other letters stand where a suite asks it to; a file system counts bytes."""
    names = [f"test_parcel[{letter * 240}{end}]" for end in "ab"]
    paths = [cassette_path(Path("test_it.py"), name) for name in names]
    paths += [teardown_path(path) for path in paths]
    assert len({path.name for path in paths}) == 4
    assert all(len(path.name.encode()) <= 255 for path in paths)


def test_a_name_of_255_bytes_is_not_cut() -> None:
    name = "x" * (255 - len(".yaml"))
    assert cassette_path(Path("test_it.py"), name).name == f"{name}.yaml"
