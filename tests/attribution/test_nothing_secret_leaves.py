"""Secrets that a change brings into prompts, tools, results, addresses, headers and errors stand nowhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pytest_tokenbudget.diagnosis.block_changes import excerpt
from pytest_tokenbudget.replay.redaction import Redactor
from pytest_tokenbudget.replay.traffic import Reader
from pytest_tokenbudget.reports.document import load
from pytest_tokenbudget.reports.exports import workflow_commands
from pytest_tokenbudget.reports.markdown import markdown
from support.planted_secrets import PATTERN, Planted, by_kind, environment, planted
from support.sample import tenth
from support.scratch_suites import Suite

SECRETS = planted(seed=20261129)
KINDS = dict(by_kind(SECRETS))
DRAWN = tenth(list(KINDS), of="kinds of secrets")
WORDS = "Look the order up before you answer, and say when it will arrive. " * 6
URL = "https://api.anthropic.com/v1/messages"


@pytest.fixture
def redactor() -> Redactor:
    return Redactor(environment(SECRETS), [PATTERN])


def test_there_are_two_hundred_of_twenty_kinds() -> None:
    assert len(SECRETS) >= 200
    assert len(KINDS) >= 20
    assert len({secret.core for secret in SECRETS}) == len(SECRETS)


@pytest.mark.parametrize("kind", KINDS)
def test_no_piece_of_a_prompt_that_a_text_quotes_shows_one(kind: str, redactor: Redactor) -> None:
    for secret in KINDS[kind]:
        prompt = f"{WORDS}{secret.text} {WORDS}"
        assert secret.is_in(prompt)
        redactor.learn({"system": [{"type": "text", "text": prompt}]})
        at = prompt.index(secret.core)
        quotes = [excerpt(prompt, cut) for cut in range(at - 40, at + len(secret.core) + 20, 5)]
        assert any(map(secret.is_in, quotes))  # else there is nothing to hide
        assert not any(secret.is_in(redactor.text(f'was "{quote}", now')) for quote in quotes)


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_of_an_error_shows_one(kind: str, redactor: Redactor) -> None:
    for secret in KINDS[kind]:
        assert not secret.is_in(redactor.text(f"the tool said: 401 for {secret.text}, try another"))


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_header_carries_is_known(kind: str, redactor: Redactor) -> None:
    for secret in KINDS[kind]:
        redactor.notice({"headers": {"x-api-key": [secret.core]}})
        redactor.learn({"messages": [{"role": "user", "content": f"{WORDS}{secret.core}"}]})
        assert not secret.is_in(redactor.text(f"...{secret.core[3:]}"))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "private key"])
@pytest.mark.parametrize(
    "address",
    [
        "https://user:{}@gateway.example/v1/files",
        "https://{}@gateway.example/v1/files",
        "https://gateway.example/v1/files?api_key={}",
        "https://gateway.example/v1/files?page=2&access_token={}&x=1",
        "https://gateway.example/v1/files?X-Amz-Signature={}",
    ],
)
def test_no_address_shows_one(kind: str, address: str, redactor: Redactor) -> None:
    for secret in KINDS[kind]:
        url = address.format(secret.core)
        sent = Reader().read({"method": "GET", "uri": url, "body": None, "headers": {}})
        assert "gateway.example/v1/files" in str(sent)
        assert not secret.is_in(str(sent))
        assert not secret.is_in(sent.place)
        if "//{}@" not in address:
            assert not secret.is_in(redactor.text(f"GET {url} was refused"))


def test_a_question_is_quoted_without_secrets() -> None:
    for secret in KINDS["anthropic"]:
        body = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": []}
        body["messages"] = [{"role": "user", "content": f"Please, please, deploy it with {secret.text}"}]
        raw = {"method": "POST", "uri": URL, "body": json.dumps(body).encode(), "headers": {}}
        assert "deploy it with" in str(Reader().read(raw))
        assert not secret.is_in(str(Reader().read(raw)))


def test_a_text_without_secrets_stays_as_it_is(redactor: Redactor) -> None:
    redactor.learn({"system": WORDS})
    text = "system[0]: +312 tokens, re-sent on 6 turns = +1,872, from prompts/support.md:12?page=2&x=1"
    assert redactor.text(text) == text


AGENT = '''
import json
import logging
import os
from pathlib import Path

import httpx2

PLAN = Path(__file__).parent / "plan.json"
CACHE = {"type": "ephemeral"}
TOOL = {"type": "object", "properties": {"ref": {"type": "string"}}}


def post(plan, system, tools, messages):
    body = {"model": "claude-haiku-4-5", "max_tokens": 50, "tools": tools, "messages": messages}
    body["system"] = [{"type": "text", "text": system, "cache_control": CACHE}]
    headers = {"x-api-key": plan.get("key") or os.environ["ANTHROPIC_API_KEY"]}
    url = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")
    try:
        httpx2.post(f"{url}/v1/messages", json=body, headers=headers, timeout=600).raise_for_status()
    except BaseException:
        logging.exception("the call failed")
        raise


def run(kind):
    """Five calls; `plan.json` says what a change puts where."""
    plan = json.loads(PLAN.read_text("utf-8")).get(kind, {}) if PLAN.exists() else {}
    rules = plan.get("system", "") + "Look the order up before you answer. " * 4
    tools = [{"name": "look_up", "description": plan.get("tool", "") + "Looks up.", "input_schema": TOOL}]
    use = {"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {"ref": plan.get("input", "7")}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": plan.get("result", "") + "sent"}
    ask = {"role": "user", "content": plan.get("user", "") + "Where is my order?"}
    post({}, rules, tools[:0], [{"role": "user", "content": "One."}])
    post({}, "Be brief.", tools, [{"role": "user", "content": "Two."}])
    post(plan, "Be kind.", tools[:0], [ask])
    talk = [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    post({}, "Be exact.", tools[:0], [{"role": "user", "content": "Four."}, *talk])
    if "address" in plan:
        for address in plan["address"]:
            httpx2.get(address, timeout=600)
    if "more" in plan:
        post({}, "Be quick.", [], [{"role": "user", "content": plan["more"]}])
'''
SUITE = f"""
import pytest
from agent import run


@pytest.mark.token_budget
@pytest.mark.parametrize("kind", {DRAWN})
def test_it(kind):
    run(kind)
"""
SETTINGS = f"[tool.tokenbudget]\nredact = ['{PATTERN}']\n"


def grown(secrets: list[Planted]) -> dict[str, object]:
    """What a change puts into the prompts of one scenario."""
    system, tool, value, result, user, key, cut, *_ = secrets
    return {
        "system": f"{system.text} ",
        "tool": f"{tool.text} ",
        "input": value.text,
        "result": f"Rejected: {result.text}; and {'x' * 40} {cut.text} ",
        "user": f"{user.text} ",
        "key": key.core.replace("\n", ""),
    }


def missing(secrets: list[Planted]) -> dict[str, object]:
    """The same, and calls that the recording does not answer."""
    *_, one, two, three = secrets
    hosts = [f"https://user:{one.core}@files.example/a", f"https://files.example/a?api_key={two.core}"]
    addresses = [] if one.kind == "private key" else hosts
    return {**grown(secrets), "address": addresses, "more": f"And with {three.text}, what then?"}


def test_none_is_in_anything_that_is_written_or_said(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    project = suite(SUITE, 4 * len(DRAWN), agent=AGENT)
    for name, value in environment(SECRETS).items():
        monkeypatch.setenv(name, value)
    (project.path / "pyproject.toml").write_text(SETTINGS, "utf-8")
    asked_for = [f"--token-budget-report={name}:report.{name}" for name in ("markdown", "html")]
    asked_for += ["--junitxml=junit.xml", "-ojunit_logging=all", "-v", "--tb=long"]
    asked_for += ["--token-budget-log=log.jsonl"]
    told = []
    for plan, verdict in ((missing, "stale"), (grown, "over")):
        plans = {kind: plan(KINDS[kind]) for kind in DRAWN}
        (project.path / "plan.json").write_text(json.dumps(plans), "utf-8")
        judged = project.judge(*asked_for)
        assert judged.verdicts == {verdict}
        assert "REDACTED" in judged.output
        told += [judged.output, *tellings(project.path)]
    told.append(project.run("--token-budget", "--token-budget-update").output)
    accepted = list((project.path / "token_budgets").rglob("*.yaml"))
    assert len(accepted) == 2  # the baselines, and the requests that they were measured on
    told += [path.read_text("utf-8") for path in accepted]
    for text in told:
        shown = re.sub(r"\n +", " ", text)  # what a line of a table or a sentence breaks apart
        assert not [secret for secret in SECRETS if secret.is_in(text) or secret.is_in(shown)]


def tellings(folder: Path) -> list[str]:
    """Every report of the run in `folder`, and those that are made of its document."""
    document = load(folder / "report.json")
    names = ("report.json", "report.markdown", "report.html", "junit.xml", "log.jsonl")
    written = [(folder / name).read_text("utf-8") for name in names]
    return [*written, markdown(document), "\n".join(workflow_commands(document))]
