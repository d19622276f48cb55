"""Agents of other languages and makers, in processes of their own: the TypeScript SDK, and Claude Code."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from support.blocks import text
from support.budgeted import KEY, Project
from support.messages_api import MessagesApi, tool_use

NODE = """
import Anthropic from "@anthropic-ai/sdk";
const client = new Anthropic();
const rules = "You answer what customers ask about their orders. ".repeat(Number(process.env.TIMES ?? 20));
const input_schema = {type: "object", properties: {}};
const tools = [{name: "look_up", description: "Look an order up.", input_schema}];
const messages = [{role: "user", content: "Where is order 17?"}];
for (let turn = 0; ; turn++) {
  const request = {model: "claude-haiku-4-5", max_tokens: 99, system: rules, tools, messages};
  const answer = turn
    ? await client.messages.create(request)
    : await client.messages.stream(request).finalMessage();
  messages.push({role: "assistant", content: answer.content});
  const calls = answer.content.filter((block) => block.type === "tool_use");
  if (!calls.length) {
    console.log(answer.content[0].text);
    break;
  }
  const found = (call) => ({type: "tool_result", tool_use_id: call.id, content: "On its way."});
  messages.push({role: "user", content: calls.map(found)});
}
"""
AI_SDK = """
import { generateText, stepCountIs, tool } from "ai";
import { anthropic } from "@ai-sdk/anthropic";
import { z } from "zod";
const { text } = await generateText({
  model: anthropic("claude-haiku-4-5"),
  system: "You answer what customers ask about their orders. ".repeat(Number(process.env.TIMES ?? 20)),
  prompt: "Where is order 17?",
  tools: {
    look_up: tool({
      description: "Look an order up.",
      inputSchema: z.object({order: z.number()}),
      execute: async () => "On its way.",
    }),
  },
  stopWhen: stepCountIs(3),
});
console.log(text);
"""
"""The Vercel AI SDK as its documentation has it: it appends `/messages` to ANTHROPIC_BASE_URL."""
NODE_SUITE = """
import subprocess
import pytest

@pytest.mark.token_budget
def test_node(token_budget_proxy):
    done = subprocess.run(
        ["node", "agent.mjs"], env=token_budget_proxy.environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "It left on Monday.", done.stderr
"""
CLAUDE_SUITE = """
import json
import os
import shutil
import subprocess
from pathlib import Path
import pytest

@pytest.mark.token_budget
def test_claude(token_budget_proxy):
    home = Path(os.environ["CLAUDE_HOME"])
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    rules = "You answer what customers ask about their orders. " * int(os.environ.get("TIMES", "20"))
    done = subprocess.run(
        [os.environ["CLAUDE"], "-p", "Where is order 17?", "--output-format", "json"]
        + ["--allowedTools", "Bash", "--model", "claude-sonnet-4-5", "--append-system-prompt", rules],
        cwd=home,
        env={**token_budget_proxy.environment, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert json.loads(done.stdout)["result"] == "It left on Monday.", done.stdout + done.stderr
    Path("said.json").write_text(done.stdout)
"""

pytestmark = pytest.mark.frameworks


def script(body: Mapping[str, Any]) -> Any:
    """Uses a tool once, then answers."""
    if "tool_result" in str(body["messages"]):
        return "It left on Monday."
    names = [tool["name"] for tool in body["tools"]]
    call = tool_use("Bash", command="echo hello") if "Bash" in names else tool_use("look_up", order=17)
    return [text("Let me see."), call]


class Children:
    """A suite whose scenario runs an agent in another process.

    `version` is what its client takes for a part of the base URL; the proxy does not need it.
    """

    def __init__(self, project: Project, version: str = "") -> None:
        self.project = project
        self._version = version

    def call(self, *options: str, version: str = "") -> list[int]:
        """Run it against the server; the prompt tokens of each charge."""
        with MessagesApi(script) as api:
            done = self.project.run(*options, url=api.url + version)
        assert done.status == 0, done.output
        assert any(KEY in str(request.headers) for request in api.requests)
        return [charge.usage.prompt_tokens for charge in api.charges]

    def check(self, monkeypatch: pytest.MonkeyPatch, scenario: str) -> None:
        """Recorded; replayed without a server; replayed changed; each held against the charges."""
        recorded = self.call("--token-budget-record=once")
        written = "".join(
            path.read_text("utf-8") for path in (self.project.path / "cassettes").rglob("*.yaml")
        )
        assert KEY not in written
        assert self.project.run("--token-budget", "--token-budget-update").status == 0

        same = self.project.judge()
        entry = same.scenarios[scenario]
        assert (entry["verdict"], entry["basis"]) == ("within", "recorded"), same.output
        assert (entry["measured"]["turns"], entry["measured"]["prompt_tokens"]) == (2, sum(recorded))

        monkeypatch.setenv("TIMES", "400")
        charged = self.call("--token-budget-disable", version=self._version)
        changed = self.project.judge()
        entry = changed.scenarios[scenario]
        assert (entry["verdict"], entry["basis"]) == ("over", "counted"), changed.output
        assert entry["measured"]["prompt_tokens"] == sum(charged)


@pytest.fixture(
    scope="module",
    params=[(NODE, ["@anthropic-ai/sdk"]), (AI_SDK, ["ai", "@ai-sdk/anthropic", "zod"])],
    ids=["@anthropic-ai/sdk", "ai"],
)
def typescript(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an agent and the packages that it needs."""
    if shutil.which("npm") is None:
        pytest.skip("Node is not installed")
    agent, packages = request.param
    folder = tmp_path_factory.mktemp("node")
    install = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", *packages]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install {' '.join(packages)}: {done.stderr.strip()[-200:]}")
    (folder / "agent.mjs").write_text(agent, "utf-8")
    scratch(folder, NODE_SUITE)
    return folder


def scratch(folder: Path, suite: str) -> None:
    (folder / "test_agent.py").write_text(suite, "utf-8")
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n", "utf-8")


def test_an_agent_in_typescript(
    typescript: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = "/v1" if (typescript / "node_modules/ai").exists() else ""
    Children(Project(typescript, pytester), version).check(monkeypatch, "test_node")


@pytest.fixture(scope="module")
def claude_code() -> Path:
    """The command that ships in the claude-agent-sdk wheel."""
    found = find_spec("claude_agent_sdk")
    if found is None or found.origin is None:
        pytest.skip("claude-agent-sdk is not installed: make test-frameworks")
    return Path(found.origin).parent / "_bundled" / "claude"


def test_claude_code(
    claude_code: Path, tmp_path: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its prompt names the folder it works in: it is the same on every run where the folder is."""
    scratch(tmp_path, CLAUDE_SUITE)
    monkeypatch.setenv("CLAUDE", str(claude_code))
    monkeypatch.setenv("CLAUDE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS", "1")  # what the server cannot count
    children = Children(Project(tmp_path, pytester))
    children.check(monkeypatch, "test_claude")
    said = json.loads((tmp_path / "said.json").read_text("utf-8"))["usage"]
    assert said["output_tokens"] > 0

    monkeypatch.setenv("CLAUDE_HOME", str(tmp_path / "somewhere_else"))
    elsewhere = children.project.judge()
    assert elsewhere.scenarios["test_claude"]["measured"]["turns"] == 2, elsewhere.output
    assert elsewhere.verdicts == {"over"}, "paired all the same"
