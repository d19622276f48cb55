"""Suites with what agents bring along, by default: the same fast and slow, elsewhere, without a key."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from support.budgeted import Done, Judged, run_apart
from support.messages_api import MessagesApi
from support.scratch_suites import make

SLOW = "Think long."
SUITE = f"""
import asyncio
import os
import threading

import anthropic
import httpx2
import pytest

CLIENT = anthropic.Anthropic(max_retries=0)  # no key is set where this is replayed
URL = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")
HEADERS = {{"anthropic-version": "2023-06-01"}}
EXPORTS = int(os.environ.get("EXPORTS", "1"))

pytestmark = pytest.mark.token_budget


def asked(words):
    messages = [{{"role": "user", "content": words}}]
    return {{"model": "claude-haiku-4-5", "max_tokens": 50, "messages": messages}}


def ask(words):
    return CLIENT.messages.create(**asked(words)).content[0].text


def test_client_at_import():
    assert ask("Hello") == "You said Hello"


def test_telemetry():
    \"\"\"More is exported where the test is slow, from a thread of its own, to a host that is dead.\"\"\"

    def export():
        for number in range(EXPORTS):
            try:
                httpx2.post("http://127.0.0.1:9/v1/traces", json={{"span": number}}, headers=HEADERS)
            except httpx2.HTTPError:
                pass

    exporter = threading.Thread(target=export)
    exporter.start()
    assert ask("Where is it?") == "You said Where is it?"
    exporter.join(600)


def test_uploads_and_listings():
    \"\"\"A boundary at random, and a query that hangs on the hash seed.\"\"\"
    httpx2.post(f"{{URL}}/v1/files", files={{"file": ("a.txt", b"A parcel.")}}, headers=HEADERS)
    httpx2.get(f"{{URL}}/v1/files", params={{"after": hash("a")}}, headers=HEADERS)
    assert ask("Read it.") == "You said Read it."


def test_fallback():
    async def main():
        sent = asyncio.Event()

        async def note(_):
            sent.set()

        http = httpx2.AsyncClient(event_hooks={{"request": [note]}})
        async with anthropic.AsyncAnthropic(max_retries=0, http_client=http) as client:
            slow = asyncio.create_task(client.messages.create(**asked("{SLOW}")))
            await sent.wait()
            slow.cancel()
            await asyncio.gather(slow, return_exceptions=True)
            return (await client.messages.create(**asked("Be quick."))).content[0].text

    assert asyncio.run(main()) == "You said Be quick."
"""


JUDGE = ("-q", "--token-budget", "--token-budget-report=json:report.json")


def judged(folder: Path, done: Done) -> Judged:
    assert (folder / "report.json").exists(), done.output
    return Judged(done.status, done.output, json.loads((folder / "report.json").read_text("utf-8")))


def run_elsewhere(folder: Path, **more: str) -> Done:
    """Judge a suite in a process with another hash seed and home, and without a key."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANTHROPIC_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *JUDGE],
        cwd=folder,
        env={**inherited, "PYTHONHASHSEED": "4711", "HOME": str(folder), **more},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return Done(done.returncode, done.stdout + done.stderr)


def test_what_agents_bring_along_replays_fast_and_slow_here_and_elsewhere(
    tmp_path: Path, pytester: pytest.Pytester
) -> None:
    over = threading.Event()

    def script(sent: Any) -> str:
        words = sent["messages"][-1]["content"]
        assert words != SLOW or over.wait(600)
        return f"You said {'Hello' if words == SLOW else words}"

    folder = make(tmp_path / "suite", pytester, SUITE).path
    with MessagesApi(script) as api:
        done = run_apart(folder, "--token-budget-record=all", url=api.url)
        assert done.status == 0, done.output
        over.set()
        charged = sum(charge.usage.prompt_tokens for charge in api.charges if SLOW not in str(charge.body))
    here = judged(folder, run_apart(folder, *JUDGE, "--token-budget-update"))
    assert (here.status, here.verdicts) == (0, {"within"}), here.output
    assert sum(entry["measured"]["prompt_tokens"] for entry in here.document["scenarios"]) == charged

    other = tmp_path / "another" / "folder"
    shutil.copytree(folder, other)
    elsewhere = judged(other, run_elsewhere(other, EXPORTS="3"))
    assert elsewhere.status == 0, elsewhere.output
    assert {name: entry["measured"] for name, entry in elsewhere.scenarios.items()} == {
        name: entry["measured"] for name, entry in here.scenarios.items()
    }
