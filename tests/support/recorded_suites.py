"""Suites that record their cassettes themselves, run as they are and under --token-budget."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from support.budgeted import Done, Judged, Project
from support.messages_api import MessagesApi

AGENT = '''
import json
import os

import httpx2

LIMITS = httpx2.Limits(max_keepalive_connections=0)
CLIENT = httpx2.Client(verify=False, limits=LIMITS, timeout=600)  # before any cassette
URL = os.environ["ANTHROPIC_BASE_URL"]


def post(words, system="Be brief.", headers=None, path="/v1/messages", **more):
    """One model call; its system prompt is longer where the environment says so."""
    body = {
        "model": "claude-haiku-4-5",
        "max_tokens": 50,
        "system": system + os.environ.get("GROWN", ""),
        "messages": [{"role": "user", "content": words}],
        **more,
    }
    answer = CLIENT.post(URL + path, json=body, headers={"x-api-key": "sk-ant-secret", **(headers or {})})
    if answer.status_code == 200:
        with open("answered.jsonl", "a") as lines:
            lines.write(json.dumps([os.environ["PYTEST_CURRENT_TEST"], answer.json()["usage"]]) + "\\n")
    return answer


def ask(words, system="Be brief.", **more):
    """What is answered to words that no other test says."""
    words += " Asked by " + os.environ["PYTEST_CURRENT_TEST"]
    return post(words, system, **more).raise_for_status().json()["content"][0]["text"]
'''
INI = "[pytest]\npythonpath = .\n"
MORE = " Never promise a date that nobody has confirmed, and sign with your name." * 4
"""What makes every prompt longer than its limit, as $GROWN."""
PLAIN = ("-p", "no:tokenbudget")
_PROMPT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")

Spent = tuple[int, int]
"""Prompt and output tokens."""


@dataclass(frozen=True, repr=False)
class Ran:
    """A finished run of a suite."""

    status: int
    output: str
    outcomes: Mapping[str, str]
    """By node id: passed, failure, error or skipped."""
    answered: Mapping[str, Spent]
    """By node id: what the answers themselves say that they cost, those in teardown apart."""
    cassettes: Mapping[str, bytes]
    """By path."""


class RecordedSuite:
    """A folder of tests, with the URL of the server that they were recorded with."""

    def __init__(self, folder: Path, pytester: pytest.Pytester, url: str) -> None:
        self.folder = folder
        self._url = url
        self._project = Project(folder, pytester)

    @classmethod
    def write(
        cls, folder: Path, pytester: pytest.Pytester, api: MessagesApi, files: Mapping[str, str]
    ) -> RecordedSuite:
        """Modules by name."""
        folder.mkdir()
        (folder / "pytest.ini").write_text(INI, "utf-8")
        for name, text in {"agent": AGENT, **files}.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(text), "utf-8")
        return cls(folder, pytester, api.url)

    def plain(self, *arguments: str) -> Ran:
        """As it is, without the plugin."""
        done = self._project.run(*PLAIN, *self._log(), *arguments, url=self._url)
        return self._ran(done.status, done.output)

    def judge(self, *arguments: str) -> tuple[Judged, Ran]:
        """Under --token-budget."""
        judged = self._project.judge(*self._log(), *arguments, url=self._url)
        return judged, self._ran(judged.status, judged.output)

    def run(self, *arguments: str) -> Done:
        """With the plugin, and nothing else."""
        return self._project.run(*arguments, url=self._url)

    def _log(self) -> tuple[str, ...]:
        for name in ("junit.xml", "answered.jsonl"):
            (self.folder / name).unlink(missing_ok=True)
        return (f"--junitxml={self.folder / 'junit.xml'}", "-o", "junit_family=xunit1")

    def _ran(self, status: int, output: str) -> Ran:
        assert (self.folder / "junit.xml").exists(), output
        cassettes = [path for path in sorted(self.folder.rglob("*")) if "cassettes" in path.parts]
        return Ran(
            status,
            output,
            _outcomes(self.folder / "junit.xml"),
            _answered(self.folder / "answered.jsonl"),
            {str(path.relative_to(self.folder)): path.read_bytes() for path in cassettes if path.is_file()},
        )


def measured(judged: Judged) -> dict[str, Spent]:
    """By node id: what was metered, where it is anything."""
    tokens = {entry["id"]: entry["measured"] for entry in judged.document["scenarios"]}
    return {
        name: (used["prompt_tokens"], used["output_tokens"])
        for name, used in tokens.items()
        if used and used["turns"]
    }


def charged(api: MessagesApi) -> dict[str, Spent]:
    """By node id: what the server charged for what was asked by `ask`."""
    prompt, output = Counter[str](), Counter[str]()
    for charge in api.charges:
        name = _scenario(charge.body["messages"][0]["content"].rpartition("Asked by ")[2])
        prompt[name] += charge.usage.prompt_tokens
        output[name] += charge.usage.output_tokens
    return {name: (prompt[name], output[name]) for name in prompt}


def by_id(judged: Judged) -> dict[str, Mapping[str, Any]]:
    """The scenarios by node id."""
    return {entry["id"]: entry for entry in judged.document["scenarios"]}


def _outcomes(xml: Path) -> dict[str, str]:
    outcomes: dict[str, str] = {}
    for case in ElementTree.parse(xml).iter("testcase"):
        test_class = str(case.get("classname")).removeprefix(str(case.get("file")).removesuffix(".py"))
        test = "::".join(filter(None, [case.get("file"), test_class.strip("."), case.get("name")]))
        told = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        outcomes[test] = " ".join(filter(None, [outcomes.get(test), *(told or ["passed"])]))
    return outcomes


def _scenario(current_test: str) -> str:
    """The node id of $PYTEST_CURRENT_TEST, which names the phase."""
    name, _, phase = current_test.rpartition(" ")
    return "::teardown of ".join(name.split("::", 1)) if phase == "(teardown)" else name


def _answered(log: Path) -> dict[str, Spent]:
    prompt, output = Counter[str](), Counter[str]()
    for test, usage in map(json.loads, log.read_text().splitlines() if log.exists() else ()):
        name = _scenario(test)
        prompt[name] += sum(usage.get(count) or 0 for count in _PROMPT)
        output[name] += usage["output_tokens"]
    return {name: (prompt[name], output[name]) for name in prompt}
