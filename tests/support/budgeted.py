"""Runs pytest on a scratch project, as its users run it, and reads what it said.

In this process where that is the same, for speed: a process of its own imports the SDK for seconds.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import pytest_tokenbudget
from support.apart import run_pytest, warm_python
from support.messages_api import MessagesApi

KEY = "sk-ant-api03-test-key"
_OTHER_PLUGINS = {
    "anyio": "anyio",
    "asyncio": "asyncio",
    "recording": "vcr|record.mode|disable.recording|block.network|default_cassette",
    "rerunfailures": "reruns|flaky",
    "time_machine": "time_machine",
    "timeout": "timeout\\(|--timeout",
    "xdist": "^-n|xdist",
}
"""By name: what a suite or its arguments say where they need it."""


@dataclass(frozen=True)
class Done:
    """A finished run."""

    status: int
    output: str
    """Standard output and standard error."""

    @property
    def words(self) -> str:
        """The output as one line, however it was wrapped."""
        return " ".join(self.output.split())


@dataclass(frozen=True)
class Judged(Done):
    """A finished run under --token-budget."""

    document: Mapping[str, Any]

    @property
    def scenarios(self) -> Mapping[str, Mapping[str, Any]]:
        """By node id without its file."""
        return {entry["id"].partition("::")[2]: entry for entry in self.document["scenarios"]}

    @property
    def verdicts(self) -> set[str]:
        return {entry["verdict"] for entry in self.document["scenarios"]}

    def over(self, scenario: str) -> set[str]:
        """The metrics that are past their limit."""
        return {limit["metric"] for limit in self.scenarios[scenario]["limits"] if limit["over"]}


class Project:
    """A folder with tests, run without the caller's key or server unless they are given."""

    def __init__(self, path: Path, pytester: pytest.Pytester) -> None:
        self.path = path
        self._pytester = pytester

    def run(self, *arguments: str, url: str | None = None) -> Done:
        """`pytest ARGUMENTS`, in this process; `url` is the server for real calls."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.path)
            for name in [name for name in os.environ if name.startswith("ANTHROPIC_")]:
                patch.delenv(name)
            for name, value in _server(url).items():
                patch.setenv(name, value)
            patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
            patch.setattr(sys, "executable", warm_python())  # of processes that pytest-xdist or a test starts
            given = ("-p", "no:cacheprovider", *self._plugins(arguments), *arguments)
            done = self._pytester.runpytest_inprocess(*given)
        return Done(int(done.ret), f"{done.stdout}\n{done.stderr}")

    def _plugins(self, arguments: Sequence[str]) -> Iterator[str]:
        """Yield the options that load this plugin, and others that the suite or the arguments speak of.

        To load all that are installed takes longer than many a run; `run_apart` does, as users do.
        """
        files = [file for file in self.path.rglob("*") if file.suffix in (".py", ".ini", ".toml")]
        said = "\n".join([*arguments, *(file.read_text("utf-8", errors="replace") for file in files)])
        if "no:tokenbudget" not in said:
            yield from ("-p", "tokenbudget")
        for plugin, words in _OTHER_PLUGINS.items():
            if re.search(words, said, re.MULTILINE):
                yield from ("-p", plugin)
                if plugin == "asyncio":
                    yield from ("-o", "asyncio_default_fixture_loop_scope=function")  # it warns where unset

    def judge(self, *arguments: str, url: str | None = None) -> Judged:
        """`pytest --token-budget`, offline but for `url`, with its JSON document."""
        report = self.path / "report.json"
        report.unlink(missing_ok=True)
        done = self.run("--token-budget", f"--token-budget-report=json:{report}", *arguments, url=url)
        assert report.exists(), done.output
        return Judged(done.status, done.output, json.loads(report.read_text("utf-8")))


def record_test(folder: Path, pytester: pytest.Pytester, source: str) -> Project:
    """Return a project of one test file, `test_it.py`, recorded against a server that says yes."""
    (folder / "test_it.py").write_text(source, "utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", "utf-8")
    project = Project(folder, pytester)
    with MessagesApi(lambda _: "Yes.") as api:
        done = project.run("--token-budget-record=all", url=api.url)
    assert done.status == 0, done.output
    return project


def run_apart(folder: Path, *arguments: str, url: str | None = None) -> Done:
    """`pytest ARGUMENTS` in a process of its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANTHROPIC_")}
    return Done(*run_pytest(folder, ["-p", "no:cacheprovider", *arguments], {**inherited, **_server(url)}))


def _server(url: str | None) -> dict[str, str]:
    return {} if url is None else {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": KEY}


def preload() -> None:
    """Import what every run in a process would import again, before `pytester` takes note of its modules."""
    for name in ("anthropic", "ctok", "httpcore", "httpcore2", "vcr", "genai_prices", "tabulate", "jinja2"):
        if importlib.util.find_spec(name) is not None:  # ctok, with its vocabularies, is not everywhere
            importlib.import_module(name)
    for name in ("data", "decompose", "validation"):
        importlib.import_module(f"genai_prices.{name}")
    importlib.import_module("vcr.stubs.httpx_stubs")
    for module in pkgutil.walk_packages(pytest_tokenbudget.__path__, "pytest_tokenbudget."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
