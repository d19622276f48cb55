"""The spend limit holds: whatever is identical, at once, cut off or in another process."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest

from pytest_tokenbudget.errors import RecordingError, ReplayMiss
from pytest_tokenbudget.metering.pricing import Prices
from pytest_tokenbudget.model import Rate, Tokens, Usage
from pytest_tokenbudget.replay.playback import Call
from pytest_tokenbudget.replay.traffic import Reader
from pytest_tokenbudget.run.allowance import Allowance
from pytest_tokenbudget.run.spending import Spending, least, most, unbounded
from pytest_tokenbudget.settings import Caps
from support.budgeted import Project, run_apart
from support.messages_api import ApiError, MessagesApi
from support.sample import SEED, examples

MODEL = "claude-haiku-4-5"
PRICES = Prices()
READER = Reader()


def call(words: str = "Vote!", asker: str = "test_it", **more: Any) -> Call:
    """A call that is about to be sent; equal words are one and the same request object."""
    body = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": words}], **more}
    sent = READER.read(
        {
            "method": "POST",
            "uri": "https://api.anthropic.com/v1/messages",
            "headers": {"anthropic-version": ["2023-06-01"]},
            "body": json.dumps(body).encode(),
        }
    )
    return Call(sent, sent.raw, 0.0, asker=asker, requests=sent.requests)


def worst(one: Call) -> Decimal:
    cost = PRICES.cost(most(one.requests[0]))
    assert cost is not None
    return cost


def purse(path: Path, limit: Decimal) -> Spending:
    return Spending(limit, PRICES, path / "purse.sqlite")


def test_identical_calls_each_hold_their_worst_case(tmp_path: Path) -> None:
    spending = purse(tmp_path, 3 * worst(call()))
    first, *others = [call() for _ in range(3)]
    assert all(first.requests[0] is other.requests[0] for other in others)
    for one in (first, *others):
        spending.hold(one)
    with pytest.raises(RecordingError, match=r"not run: spend limit\. \$0\.00 is spent"):
        spending.hold(call())
    spending.settle(first, Decimal(0))
    spending.hold(call())


def test_a_call_that_never_ended_keeps_its_worst_case(tmp_path: Path) -> None:
    spending = purse(tmp_path, 2 * worst(call()))
    cut, unknown = call(), call()
    spending.hold(cut)
    cut.leave()
    spending.hold(unknown)
    spending.settle(unknown, None)
    with pytest.raises(RecordingError, match="is held for calls without a whole answer"):
        spending.hold(call())


def test_a_limit_is_told_once_and_as_it_was_typed(tmp_path: Path) -> None:
    spending = purse(tmp_path, Decimal("0.0000050"))
    with pytest.raises(RecordingError, match=r"past --token-budget-max-spend=0\.0000050\. Raise it"):
        spending.hold(call(asker="test_one"))
    with pytest.raises(RecordingError, match="Raise it"):  # of its calls at once, any may be the one to tell
        spending.hold(call(asker="test_one"))
    with pytest.raises(RecordingError) as later:
        purse(tmp_path, Decimal("0.0000050")).hold(call(asker="test_two"))
    assert str(later.value) == "not run: spend limit (--token-budget-max-spend=0.0000050)"
    assert spending.closing() == "not run: 2 tests, by --token-budget-max-spend=0.0000050 ($0.00 billed)"


def test_what_one_call_can_cost_is_known_with_the_first(tmp_path: Path) -> None:
    spending = purse(tmp_path, Decimal("2.5") * worst(call()))
    assert (spending.opening(), spending.closing()) == (None, None)
    spending.hold(call())
    told = spending.opening()
    assert told is not None
    assert told.startswith(f"one call of {MODEL} can cost $")
    assert told.endswith("allows 2 at once")


def test_a_call_waits_for_those_of_other_threads(tmp_path: Path) -> None:
    spending = purse(tmp_path, worst(call()))
    first = call()
    spending.hold(first)
    waiting = threading.Event()

    def second() -> None:
        waiting.set()
        spending.hold(call())

    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(second)
        assert waiting.wait(60)
        assert not held.done()
        spending.settle(first, Decimal(0))
        assert held.result(60) is None


def test_a_call_that_waits_learns_that_another_was_given_up(tmp_path: Path) -> None:
    spending = purse(tmp_path, worst(call()))
    first = call()
    spending.hold(first)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(lambda: spending.hold(call()))
        first.leave()
        with pytest.raises(RecordingError, match="spend limit"):
            held.result(60)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "server tools"),
        (
            {"tools": [{"type": "advisor_20260301", "name": "advisor", "model": "claude-opus-4-6"}]},
            "server tools",
        ),
        ({"mcp_servers": [{"type": "url", "url": "https://x", "name": "x"}]}, "mcp_servers"),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, "compaction"),
        ({"fallbacks": [{"model": "claude-opus-4-6"}]}, "another model"),
    ],
)
def test_a_call_without_a_worst_case_is_refused(tmp_path: Path, more: dict[str, Any], reason: str) -> None:
    limit, path = Decimal(100), tmp_path / "purse.sqlite"
    with pytest.raises(RecordingError, match=rf"{reason}.*max_spend_unbounded = true"):
        Spending(limit, PRICES, path).hold(call(**more))
    Spending(limit, PRICES, path, allow_unbounded=True).hold(call(**more))


def test_an_unknown_thread_has_no_worst_case(tmp_path: Path) -> None:
    one = call()
    one.is_whole = False
    with pytest.raises(RecordingError, match="message thread"):
        purse(tmp_path, Decimal(100)).hold(one)


def test_speed_and_place_are_in_the_worst_case() -> None:
    plain, us = call(), call(inference_geo="us")
    assert worst(us) == Decimal("1.1") * worst(plain)
    request = plain.requests[0]
    assert unbounded(request.prompt) is None
    assert least(request).tokens.prompt_tokens < most(request).tokens.prompt_tokens


def test_nobody_waits_for_a_call_that_a_scenario_of_another_process_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, left = Decimal("1.5") * worst(call()), call()
    allowance = Allowance(Caps(), PRICES, purse(tmp_path, limit))
    allowance.begin(left)
    left.leave()
    allowance.close()
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("waits"))
    with pytest.raises(RecordingError, match="not run: spend limit"):
        purse(tmp_path, limit).hold(call())


@pytest.mark.parametrize("seed", range(SEED, SEED + examples(200)))
def test_random_runs_stay_below_their_limit(tmp_path: Path, seed: int) -> None:
    """Of 1, 3 or 4 processes that share nothing but the purse; in half a quarter of the answers is cut."""
    draw = random.Random(seed)
    workers = draw.choice([1, 3, 4])
    cut_share = draw.choice([0.0, 0.25])
    limit = worst(call()) * draw.randint(1, 14)
    billed: list[Decimal] = []
    seeds = [draw.random() for _ in range(workers)]

    def work(own: float) -> None:
        spending, lot = purse(tmp_path, limit), random.Random(own)
        for number in range(40):
            one = call("Vote!" if lot.random() < 0.5 else f"Question {number}")
            try:
                spending.hold(one)
            except RecordingError:
                return
            cost = worst(one) * Decimal(lot.randint(10, 60)) / 100
            billed.append(cost)
            if lot.random() >= cut_share:
                spending.settle(one, cost)
            else:
                one.leave()
                spending.close_left()

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, seeds))
    assert sum(billed) <= limit
    if cut_share == 0 and limit >= 10 * worst(call()) and workers == 4:
        assert sum(billed) >= Decimal("0.7") * limit
    with contextlib.closing(sqlite3.connect(tmp_path / "purse.sqlite")) as kept:
        (spent,) = kept.execute("SELECT usd FROM spent").fetchone()
    assert cut_share or Decimal(spent) == sum(billed)


def posted(api: MessagesApi, one: Call, retries: int) -> dict[str, Any] | None:
    """The answer of the server in vcr's shape; None where it breaks off. A call that is turned away is tried
    again.
    """
    body = one.request["body"]
    for _ in range(retries + 1):
        try:
            answer = httpx2.post(
                f"{api.url}/v1/messages", content=body, headers={"x-api-key": "sk-ant-test"}, timeout=600
            )
        except httpx2.HTTPError:
            return None
        if answer.status_code == 200:
            break
    status = {"code": answer.status_code, "message": ""}
    return {"status": status, "headers": {}, "body": {"string": answer.content}}


@pytest.mark.parametrize("seed", range(SEED, SEED + examples(200)))
def test_random_sessions_against_a_server_with_faults(tmp_path: Path, seed: int) -> None:
    """Of 1, 3 or 4 workers: what the ledger of the server has is below the limit, and is what is told."""
    draw = random.Random(f"server {seed}")
    workers, cut_share = draw.choice([1, 3, 4]), draw.choice([0.0, 0.25])
    limit = worst(call()) * draw.randint(1, 14)
    seeds = [draw.random() for _ in range(workers)]

    def work(own: float) -> None:
        lot = random.Random(own)
        allowance = Allowance(Caps(), PRICES, purse(tmp_path, limit))
        for _ in range(10):
            one = call("Vote!" if lot.random() < 0.5 else "Hello")
            is_cut = lot.random() < cut_share
            if lot.random() < 0.2:
                api.fail_next(ApiError(lot.choice([429, 529])))
            try:
                allowance.begin(one)
            except ReplayMiss:
                return
            answer = posted(api, one, retries=4 * workers)
            if answer is None or is_cut:
                one.leave()  # billed by the server, and nobody knows what
                allowance.close()
            else:
                one.answer = answer
                allowance.finish(one)

    with MessagesApi(lambda body: "Yes." if len(str(body)) % 2 else "No.") as api:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, seeds))
        billed, told = bill(api), purse(tmp_path, limit).paid()
    assert billed <= limit
    if told.unknown:
        assert told.usd <= billed
        assert str(told).startswith(f"{told.calls} real call")
        assert "nobody knows what" in str(told)
    else:
        assert float(told.usd) == pytest.approx(float(billed), rel=0.01)
        assert told.calls == len(api.charges)


# --- runs -------------------------------------------------------------------------------------------------

SUITE = """
import json
import os
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest


def ask(_):
    body = {
        "model": "claude-haiku-4-5",
        "max_tokens": 100,
        "stream": bool(os.environ.get("STREAM")),
        "tools": json.loads(os.environ.get("TOOLS", "[]")),
        "messages": [{"role": "user", "content": "Vote!"}],
    }
    headers = {"x-api-key": os.environ["ANTHROPIC_API_KEY"]}
    url = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")
    return httpx2.post(f"{url}/v1/messages", json=body, headers=headers, timeout=600).text


@pytest.mark.token_budget
@pytest.mark.parametrize("number", range(3))
def test_votes(number):
    votes = int(os.environ.get("VOTES", "1"))
    with ThreadPoolExecutor(votes) as pool:
        asked = [pool.submit(ask, vote) for vote in range(votes)]
    [one.exception() for one in asked]
"""
RECORD, LIVE = "--token-budget-record=all", "--token-budget-live"


@pytest.fixture
def votes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("votes")
    (folder / "test_votes.py").write_text(SUITE, "utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", "utf-8")
    return folder


def yes(_: object) -> str:
    return "Yes."


def bill(api: MessagesApi) -> Decimal:
    """What the server's ledger comes to."""
    tokens = [
        Tokens(charge.usage.input_tokens, output_tokens=charge.usage.output_tokens) for charge in api.charges
    ]
    costs = [PRICES.cost(Usage.of(Rate(MODEL), counts)) for counts in tokens]
    return sum((cost for cost in costs if cost is not None), Decimal(0))


WORST = worst(call(stream=False, tools=[]))


@pytest.mark.parametrize("mode", [RECORD, LIVE])
def test_calls_at_once_stay_below_the_limit(
    votes: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Those of the first test wait for one another and are all made; the second has no room for its own."""
    monkeypatch.setenv("VOTES", "12")
    limit = WORST * 2
    with MessagesApi(yes) as api:
        done = Project(votes, pytester).run(mode, f"--token-budget-max-spend={limit}", url=api.url)
    assert done.status == 1
    assert 12 <= len(api.charges) < 24
    assert bill(api) <= limit
    assert f"--token-budget-max-spend={limit} allows 2 at once" in done.output
    assert done.output.count(f"more, past --token-budget-max-spend={limit}. Raise it") == 1
    assert done.output.count(f"\nnot run: spend limit (--token-budget-max-spend={limit})") == 1
    assert f"not run: 2 tests, by --token-budget-max-spend={limit}" in done.output
    assert "does not answer what the agent asks" not in done.output


def test_what_was_not_run_is_told_as_such(
    votes: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOTES", "1")
    with MessagesApi(yes) as api:
        done = Project(votes, pytester).judge(LIVE, f"--token-budget-max-spend={WORST}", url=api.url)
    assert done.status == 1
    assert len(api.charges) == 1
    left = [(each["id"], each["outcome"]) for each in done.document["not_judged"]]
    assert left == [(f"test_votes.py::test_votes[{number}]", "not_run") for number in (1, 2)]
    assert "; 2 not run" in done.output


def test_an_answer_that_breaks_off_is_paid_for(
    votes: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is billed by the server, and tells nobody what."""
    monkeypatch.setenv("STREAM", "1")
    with MessagesApi(yes) as api:
        api.fail_next(*[ApiError(529, in_stream=True)] * 3)
        limit = WORST * 2
        done = Project(votes, pytester).run(LIVE, f"--token-budget-max-spend={limit}", url=api.url)
    assert done.status == 1
    assert len(api.charges) == 2
    assert "not run: 1 test" in done.output


def test_a_call_that_nobody_can_bound_is_not_made(
    votes: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOLS", json.dumps([{"type": "web_search_20250305", "name": "web_search"}]))
    with MessagesApi(yes) as api:
        done = Project(votes, pytester).run(LIVE, "--token-budget-max-spend=5", url=api.url)
        assert (done.status, api.requests) == (1, [])
        assert "max_spend_unbounded = true" in done.output
        (votes / "pyproject.toml").write_text("[tool.tokenbudget]\nmax_spend_unbounded = true\n", "utf-8")
        Project(votes, pytester).run(LIVE, "--token-budget-max-spend=5", url=api.url)
        (votes / "pyproject.toml").unlink()
        assert len(api.requests) == 3


@pytest.mark.whole_run
def test_workers_have_one_purse(votes: Path) -> None:
    """A limit of little more than one worst case: a share of it would let no worker call at all."""
    limit = WORST * Decimal("1.5")
    with MessagesApi(yes) as api:
        done = run_apart(votes, RECORD, f"--token-budget-max-spend={limit}", "-n", "2", url=api.url)
    assert done.status == 0, done.output
    assert len(api.charges) == 3
    assert bill(api) <= limit
    assert done.output.count("allows 1 at once") == 1
