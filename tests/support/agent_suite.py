"""A suite of two scenarios that takes no SDK, so that a replay is quick."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from support.loopback import serving
from support.scratch import Scratch

AGENT = """
import json
import os
import urllib.request
from pathlib import Path

PROMPT = Path(__file__).with_name("prompt.md").read_text("utf-8")


def ask(words):
    body = {"model": "claude-haiku-4-5", "max_tokens": 99, "system": PROMPT}
    body["messages"] = [{"role": "user", "content": words}]
    url = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com") + "/v1/messages"
    headers = {"content-type": "application/json", "x-api-key": os.environ["ANTHROPIC_API_KEY"]}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["content"][0]["text"]
"""
TESTS = """
import pytest
from agent import ask


@pytest.mark.token_budget
def test_first():
    assert ask("first")


@pytest.mark.token_budget
def test_second():
    assert ask("second")
"""
PROMPT = "You are a clerk who files letters and answers briefly. " * 10
RULE = "Never promise a delivery date that the system does not show. " * 10


class _Model(BaseHTTPRequestHandler):
    """Says one word, and bills a token for every four characters: what is measured here is no model."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude-haiku-4-5",
            "content": [{"type": "text", "text": "Filed."}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": len(body) // 4, "output_tokens": 5},
        }
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def record(folder: Path) -> None:
    """Write the suite, its recordings and its baselines."""
    (folder / "src/agent").mkdir(parents=True)
    (folder / "tests").mkdir()
    (folder / "src/agent/__init__.py").write_text(AGENT, "utf-8")
    (folder / "src/agent/prompt.md").write_text(PROMPT, "utf-8")
    (folder / "tests/test_agent.py").write_text(TESTS, "utf-8")
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p tokenbudget\npythonpath = src\n", "utf-8")
    (folder / ".gitignore").write_text("__pycache__/\n", "utf-8")
    with serving(HTTPServer(("127.0.0.1", 0), _Model)) as url:
        key = {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": "sk-ant-api03-test-key"}
        Scratch(folder).pytest("--token-budget-record=once", **key)
    Scratch(folder).pytest("--token-budget", "--token-budget-update")
