"""Caps stop real runs before the call that must pass them; a bad recording never replaces a good one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pytest_tokenbudget.metering.pricing import Prices
from pytest_tokenbudget.model import Rate, Tokens, Usage
from support.blocks import text
from support.budgeted import Done, Project
from support.messages_api import ApiError, MessagesApi, tool_use

SUITE = """
import contextlib
import json
import os
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

TOOLS = [{"name": "look_up", "description": "Looks a parcel up.", "input_schema": {"type": "object"}}]
SYSTEM = "You are a clerk who finds parcels. " * 20


def ask(messages):
    body = {"model": "claude-haiku-4-5", "max_tokens": 100, "system": SYSTEM, "tools": TOOLS}
    body["messages"] = messages
    headers = {"x-api-key": os.environ.get("ANTHROPIC_API_KEY", "sk"), "content-type": "application/json"}
    url = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")
    if os.environ.get("STREAM"):
        body["stream"] = True
        return httpx2.post(f"{url}/v1/messages", json=body, headers=headers, timeout=600).text
    answer = httpx2.post(f"{url}/v1/messages", json=body, headers=headers, timeout=600)
    return answer.raise_for_status().json()


def agent():
    messages = [{"role": "user", "content": "Where is my parcel?"}]
    for _ in range(20):
        content = ask(messages)["content"]
        uses = [block for block in content if block["type"] == "tool_use"]
        if not uses:
            return
        results = [{"type": "tool_result", "tool_use_id": use["id"], "content": "Soon."} for use in uses]
        messages += [{"role": "assistant", "content": content}, {"role": "user", "content": results}]


@pytest.mark.token_budget(**json.loads(os.environ.get("CAPS", "{}")))
def test_agent():
    match os.environ.get("AGENT"):
        case "careful":
            with contextlib.suppress(Exception):
                agent()
        case "stubborn":
            with contextlib.suppress(httpx2.HTTPStatusError):
                agent()
            agent()
        case "twice":
            agent()
            agent()
        case "deaf":
            with contextlib.suppress(BaseException):
                agent()
        case "many":
            with ThreadPoolExecutor(8) as pool:
                asked = [pool.submit(ask, [{"role": "user", "content": "Vote!"}]) for _ in range(8)]
            [one.exception() for one in asked]
        case "once":
            ask([{"role": "user", "content": "Where is my parcel?"}])
        case _:
            agent()
    assert not os.environ.get("FAILS")
"""


def looks_up(times: int) -> Callable[[Mapping[str, Any]], Any]:
    """The script of a model that calls the tool `times` times, then answers."""

    def script(body: Mapping[str, Any]) -> Any:
        done = len(body["messages"]) // 2
        return [tool_use("look_up", parcel=17)] if done < times else [text("It comes tomorrow.")]

    return script


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("caps")
    (folder / "test_agent.py").write_text(SUITE, "utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", "utf-8")
    return folder


class Agent:
    """The project with a good recording of two turns."""

    def __init__(self, project: Project, patch: pytest.MonkeyPatch) -> None:
        self.project = project
        self._patch = patch
        with MessagesApi(looks_up(1)) as api:
            done = project.run("--token-budget-record=all", url=api.url)
        assert done.status == 0, done.output
        self.good = self.cassette

    @property
    def cassette(self) -> bytes:
        (path,) = self.project.path.rglob("cassettes/**/*.yaml")
        return path.read_bytes()

    def run(self, api: MessagesApi, mode: str, caps: Mapping[str, object] | None = None, **how: str) -> Done:
        for name, value in {"CAPS": json.dumps(caps or {}), **how}.items():
            self._patch.setenv(name, value)
        return self.project.run(mode, url=api.url)


@pytest.fixture
def agent(recorded: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Agent:
    return Agent(Project(recorded, pytester), monkeypatch)


RECORD, CHANGED, LIVE = "--token-budget-record=all", "--token-budget-record=changed", "--token-budget-live"


def bill(api: MessagesApi) -> Decimal:
    """What the server's ledger comes to."""
    prices = Prices()
    costs = [
        prices.cost(
            Usage.of(
                Rate("claude-haiku-4-5"),
                Tokens(
                    charge.usage.input_tokens,
                    charge.usage.ephemeral_5m_input_tokens,
                    charge.usage.ephemeral_1h_input_tokens,
                    charge.usage.cache_read_input_tokens,
                    charge.usage.output_tokens,
                ),
            )
        )
        for charge in api.charges
    ]
    assert None not in costs
    return sum((cost for cost in costs if cost is not None), Decimal(0))


@pytest.mark.parametrize("mode", [RECORD, LIVE])
@pytest.mark.parametrize("how", ["", "careful", "deaf"])
def test_a_loop_ends_before_the_turn_past_its_cap(agent: Agent, mode: str, how: str) -> None:
    with MessagesApi(looks_up(20)) as api:
        done = agent.run(api, mode, {"max_turns": 4}, AGENT=how)
    assert len(api.charges) == 4
    assert done.status == 1
    assert "max_turns = 4: stopped before call 5" in done.output
    assert "the same tool, look_up, 4 times in a row, with the same input" in done.output
    assert agent.cassette == agent.good


def test_the_turns_so_far_are_told(agent: Agent) -> None:
    with MessagesApi(looks_up(20)) as api:
        done = agent.run(api, LIVE, {"max_turns": 2})
    rows = [line.split() for line in done.output.splitlines() if line.split()[-1:] == ["look_up"]]
    told = [(int(row[0]), int(row[1].replace(",", "")), int(row[3])) for row in rows]
    assert told == [
        (number, charge.usage.prompt_tokens, charge.usage.output_tokens)
        for number, charge in enumerate(api.charges, 1)
    ]


def test_calls_at_once_count_as_turns(agent: Agent) -> None:
    with MessagesApi(looks_up(0)) as api:
        done = agent.run(api, LIVE, {"max_turns": 3}, AGENT="many")
    assert done.status == 1
    assert len(api.charges) == 3
    assert "max_turns = 3" in done.output


def test_a_call_that_failed_is_no_turn(agent: Agent) -> None:
    with MessagesApi(looks_up(1)) as api:
        api.fail_next(ApiError(529))
        done = agent.run(api, RECORD, {"max_turns": 2}, AGENT="stubborn")
    assert done.status == 0, done.output
    assert len(api.charges) == 2


def test_a_cap_of_dollars_is_passed_by_one_call_at_most(agent: Agent) -> None:
    with MessagesApi(looks_up(20)) as api:
        done = agent.run(api, LIVE, {"max_cost_usd": 0.004})
        total = bill(api)
        api.charges.pop()
    assert done.status == 1
    assert "max_cost_usd = 0.004: stopped before call" in done.output
    assert bill(api) <= Decimal("0.004")
    assert total > Decimal("0.003"), "it stopped far too early"


@pytest.mark.parametrize("cap", ["max_prompt_tokens", "max_output_tokens", "max_total_tokens"])
def test_caps_of_tokens_refuse_the_call_that_must_pass_them(agent: Agent, cap: str) -> None:
    with MessagesApi(looks_up(3)) as api:
        assert len(api.charges) == 0
        agent.run(api, LIVE)
        usages = [charge.usage for charge in api.charges]
    of_turns = {
        "max_prompt_tokens": [usage.prompt_tokens for usage in usages],
        "max_output_tokens": [usage.output_tokens for usage in usages],
        "max_total_tokens": [usage.prompt_tokens + usage.output_tokens for usage in usages],
    }[cap]
    with MessagesApi(looks_up(3)) as api:
        done = agent.run(api, RECORD, {cap: sum(of_turns[:2])})
    assert len(api.charges) == 2
    assert done.status == 1
    assert f"{cap} = {sum(of_turns[:2])}: stopped before call 3" in done.output
    assert agent.cassette == agent.good
    with MessagesApi(looks_up(3)) as api:
        done = agent.run(api, RECORD, {cap: sum(of_turns)})
    assert len(api.charges) == 4
    assert (done.status, cap in done.output) == (0, False)


def test_replayed_turns_count_beside_called_ones(agent: Agent) -> None:
    """The recorded run of two turns is played, then the agent begins once more."""
    with MessagesApi(looks_up(1)) as api:
        done = agent.run(api, CHANGED, {"max_turns": 3}, AGENT="twice")
    assert len(api.charges) == 1
    assert done.status == 1
    assert "max_turns = 3: stopped before call 4" in done.output
    assert agent.cassette == agent.good


# --- a good recording stays -------------------------------------------------------------------------------


def test_a_last_call_that_failed_replaces_nothing(agent: Agent) -> None:
    with MessagesApi(looks_up(1)) as api:
        api.fail_next(ApiError(429))
        done = agent.run(api, RECORD, AGENT="careful")
    assert done.status == 1
    assert "was answered with 429 (rate_limit_error), and nothing was called after it" in done.output
    assert agent.cassette == agent.good


def test_a_failure_that_was_recorded_first_may_be_recorded_again(agent: Agent) -> None:
    (path,) = agent.project.path.rglob("cassettes/**/*.yaml")
    path.unlink()
    for _ in range(2):
        with MessagesApi(looks_up(1)) as api:
            api.fail_next(ApiError(400))
            done = agent.run(api, RECORD, AGENT="careful")
        assert done.status == 0, done.output
        assert b"invalid_request_error" in agent.cassette


@pytest.mark.parametrize("how", [{"FAILS": "1"}, {"AGENT": "once", "STREAM": "1"}])
def test_a_failed_test_and_a_cut_answer_replace_nothing(agent: Agent, how: Mapping[str, str]) -> None:
    with MessagesApi(looks_up(2)) as api:
        if "STREAM" in how:
            api.fail_next(ApiError(529, in_stream=True))
        done = agent.run(api, RECORD, **how)
    assert api.charges
    assert done.status == 1
    assert agent.cassette == agent.good
