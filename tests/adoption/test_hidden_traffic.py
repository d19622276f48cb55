"""Options that would hide model calls or their prompts: refused by name; the rest is left alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import vcr

from support.budgeted import Judged
from support.messages_api import MessagesApi
from support.recorded_suites import Ran, RecordedSuite, by_id, measured

HEAD = """
import pytest
import vcr
from agent import ask, post

LONG = "You are the support agent of a parcel service. Never promise a date. " * 4


def drop(request):
    return None if request.path.startswith("/v1/messages") else request


def without_messages(request):
    request.body = b'{"model": "claude-haiku-4-5"}'
    return request
"""
RECORDING = """
@pytest.fixture
def vcr_config():
    return {%s}


@pytest.mark.vcr
def test_it():
    assert ask("One", LONG)
"""
VCRPY = """
@vcr.use_cassette("cassettes/{name}.yaml", **{%s})
def test_it():
    assert ask("One", LONG)
"""
OTHER = """

def test_other_traffic():
    with vcr.use_cassette("cassettes/other.yaml"):
        assert post("One", path="/v1/nothing").status_code == 404
"""
PAST = r"\(ignore_hosts, ignore_localhost or before_record_request\) sends POST /v1/messages .* past it, unm"
HIDES = r"\(filter_post_data_parameters or before_record_request\) hides that POST /v1/messages .* is a model"
PART = r"\(filter_post_data_parameters or before_record_request\) hides \d+ characters of the prompt of POST"
OPTIONS = {
    "ignore_localhost": ('"ignore_localhost": True', PAST),
    "ignore_hosts": ('"ignore_hosts": ["127.0.0.1"]', PAST),
    "dropped": ('"before_record_request": drop', PAST),
    "no_messages": ('"before_record_request": without_messages', HIDES),
    "filtered": ('"filter_post_data_parameters": ["messages"]', HIDES),
    "system": ('"filter_post_data_parameters": [("system", "HIDDEN")]', PART),
}
REFUSED = {
    f"test_{name}_{way}.py": (HEAD + text % f'{option}, "record_mode": "none"' + OTHER, words)
    for name, (option, words) in OPTIONS.items()
    for way, text in (("recording", RECORDING), ("vcrpy", VCRPY))
}
UNRECORDED = {
    **{name: OPTIONS[name][0] for name in ("ignore_localhost", "ignore_hosts", "dropped")},
    "no_response": '"before_record_response": lambda response: None',
}
CALLED = {
    f"test_{name}_{mode}.py": HEAD + VCRPY % f'{option}, "record_mode": "{mode}"'
    for name, option in UNRECORDED.items()
    for mode in ("once", "new_episodes")
}


@dataclass(frozen=True, repr=False)
class Runs:
    """What became of the suite."""

    plain: Ran
    judged: Judged
    ran: Ran
    calls: int
    """That reached the server in the judged run."""


@pytest.fixture(scope="module")
def made() -> list[Runs]:
    return []


@pytest.fixture
def runs(made: list[Runs], home: Path, pytester: pytest.Pytester, api: MessagesApi) -> Runs:
    if not made:
        files = {name: text for name, (text, _) in REFUSED.items()} | CALLED
        files = {name.removesuffix(".py"): text.replace("{name}", name) for name, text in files.items()}
        suite = RecordedSuite.write(home / "suite", pytester, api, files)
        record(suite, api)
        plain, before = suite.plain(), len(api.charges)
        judged, ran = suite.judge("--token-budget-update")
        made.append(Runs(plain, judged, ran, len(api.charges) - before))
    return made[0]


def record(suite: RecordedSuite, api: MessagesApi) -> None:
    """What a filter changes is recorded; what an option keeps from the cassette cannot be."""
    modules = sorted(suite.folder.glob("test_*.py"))
    texts = {path: path.read_text() for path in modules}
    for path, text in texts.items():
        path.write_text(text.replace('"record_mode": "none"', '"record_mode": "once"'))
    suite.plain("-k", "no_messages or filtered or system")
    for path, text in texts.items():
        path.write_text(text)


@pytest.mark.parametrize("module", REFUSED)
def test_what_would_be_hidden_is_refused_by_name(module: str, runs: Runs) -> None:
    assert runs.plain.outcomes[f"{module}::test_it"] == "passed", "and nobody would have known"
    assert runs.ran.outcomes[f"{module}::test_it"] == "failure"
    assert runs.ran.outcomes[f"{module}::test_other_traffic"] == "passed"
    entry = by_id(runs.judged)[f"{module}::test_it"]
    assert entry["verdict"] == "stale"
    (problem,) = [found["text"] for found in entry["findings"] if found["kind"] == "problem"]
    assert re.search(REFUSED[module][1], problem)


@pytest.mark.parametrize("module", CALLED)
def test_what_is_really_called_counts(module: str, runs: Runs) -> None:
    """Nothing is hidden by an option that keeps an answer from being recorded: every run pays for it."""
    name = f"{module}::test_it"
    assert runs.ran.outcomes[name] == runs.plain.outcomes[name] == "passed"
    assert measured(runs.judged)[name] == runs.ran.answered[name]
    assert by_id(runs.judged)[name]["basis"] == "recorded"


def test_nothing_else_reaches_the_server(runs: Runs) -> None:
    assert runs.calls == len(CALLED)


@pytest.mark.skipif(not hasattr(vcr.patch, "PATCHER_NAMES"), reason="skip_patchers is an option of vcrpy 9")
def test_a_library_that_is_left_out_is_warned_about(
    tmp_path: Path, pytester: pytest.Pytester, api: MessagesApi
) -> None:
    """What it calls goes past the cassette, so that the judging run refuses it."""
    text = HEAD + VCRPY % '"skip_patchers": ["httpx2"]'
    suite = RecordedSuite.write(tmp_path / "suite", pytester, api, {"test_it": text})
    judged, ran = suite.judge()
    assert suite.plain().outcomes == {"test_it.py::test_it": "passed"}
    assert ran.outcomes == {"test_it.py::test_it": "failure"}
    assert "test_it.py::test_it calls a model at 127.0.0.1, and no scenario meters it" in ran.output
    assert by_id(judged) == {}
    assert "leaves out httpx2 (skip_patchers)" in ran.output


def test_a_cassette_that_was_never_opened_is_warned_about(
    tmp_path: Path, pytester: pytest.Pytester, api: MessagesApi
) -> None:
    text = HEAD + RECORDING % "" + "\n\n@pytest.fixture\ndef disable_recording():\n    return True\n"
    suite = RecordedSuite.write(tmp_path / "suite", pytester, api, {"test_it": text})
    judged, ran = suite.judge()
    assert suite.plain().outcomes == {"test_it.py::test_it": "passed"}
    assert ran.outcomes == {"test_it.py::test_it": "failure"}
    assert "test_it.py::test_it calls a model at 127.0.0.1, and no scenario meters it" in ran.output
    assert by_id(judged) == {}
    assert "@pytest.mark.vcr has opened no cassette, so that nothing it asks is metered" in ran.output
