"""A run out of its turns: what is recorded, what is counted, what cannot be told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import pytest

from pytest_tokenbudget.diagnosis import answer_options
from pytest_tokenbudget.metering.meter import Meter, Run
from pytest_tokenbudget.metering.models import Family
from pytest_tokenbudget.model import Basis, Paired, Rate, Tokens, Usage, Verdict
from pytest_tokenbudget.wire.exchange import Answer, Exchange, Pair, Request
from pytest_tokenbudget.wire.requests import read_request

MODEL = "claude-sonnet-4-6"


class Words:
    """An exact counter of a language in which every word is a token."""

    name = "words"
    exact = True

    def count(self, text: str, family: Family) -> int:
        return len(text.split())


METER = Meter(Words())


def request(
    system: str = "Be brief.", *turns: str, model: str = MODEL, betas: str | None = "", **options: Any
) -> Request:
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(turns or ("Hello",))]
    body = {"model": model, "max_tokens": 9, "system": system, "messages": messages, **options}
    headers = {} if betas is None else {"anthropic-beta": betas}
    read = read_request("POST", "https://x.test/v1/messages", headers, json.dumps(body).encode())
    assert read is not None
    return read


def answer(status: int = 200, text: str = "Hi.", model: str = MODEL, **tokens: int) -> Answer:
    if status != 200:
        return Answer(status, error="overloaded_error")
    message = {"role": "assistant", "content": [{"type": "text", "text": text}], "stop_reason": "end_turn"}
    return Answer(200, message, Usage.of(Rate(model), Tokens(**tokens)))


def pair(index: int, exchange: Exchange, now: Request, how: Paired = Paired.LINEAGE) -> Pair:
    return Pair(index, now, exchange.request, exchange.answer, how)


def test_the_same_request_keeps_its_recorded_numbers() -> None:
    exchange = Exchange(request(), answer(input_tokens=20, cache_read_input_tokens=1500, output_tokens=4))
    run = METER.replayed([exchange], [pair(0, exchange, exchange.request, Paired.EXACT)])
    assert run.usage == exchange.answer.usage
    assert run.basis == Basis.RECORDED
    assert run.is_measured


TOOLS = {"tools": [{"name": "f", "input_schema": {"type": "object"}}]}
THINKING = {**TOOLS, "thinking": {"type": "enabled", "budget_tokens": 1024}}


@pytest.mark.parametrize(
    ("model", "options", "beta", "basis", "grown"),
    [
        (MODEL, {}, "inline-tools-2026-09-15", Basis.RECORDED, 0),
        ("claude-sonnet-4-5", THINKING, "interleaved-thinking-2025-05-14", Basis.ESTIMATED, 148),
        ("claude-sonnet-4-5", TOOLS, "interleaved-thinking-2025-05-14", Basis.RECORDED, 0),
        ("claude-3-7-sonnet-latest", TOOLS, "token-efficient-tools-2025-02-19", Basis.UNKNOWN, 0),
        ("claude-3-7-sonnet-latest", {}, "token-efficient-tools-2025-02-19", Basis.RECORDED, 0),
        ("claude-sonnet-4-5", TOOLS, "token-efficient-tools-2025-02-19", Basis.RECORDED, 0),
    ],
)
def test_the_same_body_with_another_beta(
    model: str, options: dict[str, Any], beta: str, basis: Basis, grown: int
) -> None:
    exchange = Exchange(request(model=model, **options), answer(input_tokens=900, output_tokens=4))
    now = request(model=model, betas=beta, **options)
    run = METER.replayed([exchange], [pair(0, exchange, now, Paired.EXACT)])
    assert (run.basis, run.usage.tokens.prompt_tokens) == (basis, 900 + grown)


def test_a_recording_that_kept_no_headers_holds_no_beta_against_a_request() -> None:
    marked = {"system": [{"type": "text", "text": "word " * 3000, "cache_control": {"type": "ephemeral"}}]}
    exchange = Exchange(
        request(betas=None, **marked), answer(input_tokens=3, cache_read_input_tokens=3000, output_tokens=4)
    )
    now = request(betas="context-1m-2025-08-07, inline-tools-2026-09-15", **marked)
    run = METER.replayed([exchange], [pair(0, exchange, now, Paired.EXACT)], reshaped=[])
    assert (run.basis, run.usage) == (Basis.RECORDED, exchange.answer.usage)
    assert list(answer_options(run)) == []


@pytest.mark.parametrize(("recorded", "grown"), [(TOOLS, 29 + 148), (THINKING, 0)])
def test_a_recording_that_kept_no_headers_is_taken_to_have_sent_the_betas_of_now(
    recorded: dict[str, Any], grown: int
) -> None:
    before = request(model="claude-sonnet-4-5", betas=None, **recorded)
    exchange = Exchange(before, answer(input_tokens=900, output_tokens=4))
    now = request(model="claude-sonnet-4-5", betas="interleaved-thinking-2025-05-14", **THINKING)
    run = METER.replayed([exchange], [pair(0, exchange, now)])
    assert run.usage.tokens.prompt_tokens == 900 + grown


MARKED = {"cache_control": {"type": "ephemeral"}}


def loop(*sorts: bool) -> list[Request]:
    """The turns of an agent that calls a tool, each with its history in the order of keys that it got, or
    in alphabetical order."""
    requests = []
    for turn, is_sorted in enumerate(sorts):
        messages: list[dict[str, Any]] = [{"role": "user", "content": "word " * 1200}]
        for number in range(turn):
            call = {"type": "tool_use", "id": f"t{number}", "name": "f", "input": {"to": "a b", "from": "c"}}
            result = {"type": "tool_result", "tool_use_id": f"t{number}", "content": "word " * 400}
            messages += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
        body = {"model": MODEL, "max_tokens": 9, "messages": messages, **MARKED}
        text = json.dumps(body, sort_keys=is_sorted)
        read = read_request("POST", "https://x.test/v1/messages", {"anthropic-beta": ""}, text.encode())
        assert read is not None
        requests.append(read)
    return requests


def looped(requests: list[Request]) -> list[Exchange]:
    """These turns, each of which reads what the one before it wrote."""
    sizes = [1211 + 437 * turn for turn in range(len(requests))]
    return [
        Exchange(
            request,
            answer(cache_read_input_tokens=read, ephemeral_5m_input_tokens=size - read, output_tokens=4),
        )
        for request, read, size in zip(requests, [0, *sizes], sizes, strict=False)
    ]


class Never(Words):
    def count(self, text: str, family: Family) -> int:
        raise AssertionError(f"counted {text!r}")


@pytest.mark.parametrize(("was", "now"), [(False, True), (True, False)])
def test_the_same_json_in_another_order_of_keys_on_every_turn_keeps_its_split(was: bool, now: bool) -> None:
    exchanges = looped(loop(*[was] * 5))
    pairs = [pair(n, exchanges[n], request, Paired.EXACT) for n, request in enumerate(loop(*[now] * 5))]
    run = Meter(Never()).replayed(exchanges, pairs)
    assert run.basis is Basis.RECORDED
    assert [turn.usage for turn in run.turns] == [exchange.answer.usage for exchange in exchanges]


def test_an_order_of_keys_that_changes_in_the_course_of_a_run_breaks_the_cache() -> None:
    exchanges = looped(loop(*[False] * 5))
    now = loop(False, False, False, True, True)
    run = Meter(Never()).replayed(
        exchanges, [pair(n, exchanges[n], request, Paired.EXACT) for n, request in enumerate(now)]
    )
    assert run.basis is Basis.RECORDED
    usage = [turn.usage.main_tokens for turn in run.turns]
    recorded = [turn.recorded.main_tokens for turn in run.turns if turn.recorded]
    assert usage[:3] == recorded[:3]
    assert usage[4] == recorded[4]
    assert usage[3].prompt_tokens == recorded[3].prompt_tokens
    assert usage[3].output_tokens == recorded[3].output_tokens
    assert usage[3].cache_read_input_tokens < 1211 + 437 < recorded[3].cache_read_input_tokens


@pytest.mark.parametrize("values", [(True, 1), (1, 1.0)], ids=str)
def test_options_of_another_type_are_a_change(values: tuple[object, object]) -> None:
    schemas = [{"type": "json_schema", "schema": {"default": value}} for value in values]
    was, now = (request(output_config={"format": schema}) for schema in schemas)
    exchange = Exchange(was, answer(input_tokens=20, output_tokens=4))
    (turn,) = METER.replayed([exchange], [pair(0, exchange, now)]).turns
    assert turn.basis is not Basis.RECORDED


def test_a_changed_prompt_is_the_recorded_one_plus_what_changed() -> None:
    exchange = Exchange(request("Be brief."), answer(input_tokens=20, output_tokens=4))
    now = request("Be brief and friendly and never rude.")
    run = METER.replayed([exchange], [pair(0, exchange, now)])
    assert run.usage.tokens == Tokens(input_tokens=25, output_tokens=4)
    assert run.basis == Basis.COUNTED
    assert [(part.where, part.tokens) for part in run.turns[0].estimate.parts] == [("system[0]", 5)]
    assert run.turns[0].recorded == exchange.answer.usage


@pytest.mark.parametrize(
    ("model", "minimums", "basis", "reason"),
    [
        ("claude-sonnet-4-6", {}, Basis.RECORDED, None),
        ("claude-opus-9", {}, Basis.ESTIMATED, "claude-opus-9 is not a known model: what the prompt cache"),
        ("claude-opus-9", {"claude-opus-9": 1024}, Basis.RECORDED, None),
        ("anthropic.claude-opus-9-v1:0", {"claude-opus-9": 1024}, Basis.RECORDED, None),
    ],
)
def test_a_split_by_the_minimum_of_a_model_without_a_row_is_estimated(
    model: str, minimums: Mapping[str, int], basis: Basis, reason: str | None
) -> None:
    """The text is as recorded, and so is its total; what the cache makes of it hangs on the model's row.

    The settings may name its minimum.
    """
    marker = {"cache_control": {"type": "ephemeral"}}
    block = {"type": "text", "text": "word " * 3000}
    told = answer(model=model, input_tokens=3, ephemeral_5m_input_tokens=3000, output_tokens=4)
    exchange = Exchange(request(model=model, system=[{**block, **marker}]), told)
    meter = replace(METER, minimums=minimums, shared=WeakKeyDictionary())
    run = meter.replayed([exchange], [pair(0, exchange, request(model=model, system=[block]))])
    assert run.usage.tokens == Tokens(input_tokens=3003, output_tokens=4)
    assert run.basis == basis
    assert (run.turns[0].estimate.reason or "").startswith(reason or "")
    assert (run.turns[0].estimate.reason is None) == (reason is None)


@pytest.mark.parametrize("how", [Paired.EXACT, Paired.LINEAGE])
def test_what_did_not_change_is_recorded_whatever_the_model(how: Paired) -> None:
    asked = request(model="claude-opus-9")
    exchange = Exchange(asked, answer(model="claude-opus-9", input_tokens=20, output_tokens=4))
    run = METER.replayed([exchange], [pair(0, exchange, asked, how)])
    assert (run.basis, run.turns[0].estimate.reason) == (Basis.RECORDED, None)


def test_failed_attempts_are_no_turns() -> None:
    failed, served = (
        Exchange(request(), answer(529)),
        Exchange(request(), answer(input_tokens=20, output_tokens=4)),
    )
    pairs = [pair(0, failed, failed.request, Paired.EXACT), pair(1, served, served.request, Paired.EXACT)]
    assert METER.replayed([failed, served], pairs).usage == served.answer.usage


def test_a_token_count_is_no_turn() -> None:
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}).encode()
    asked = read_request("POST", "https://x.test/v1/messages/count_tokens", {}, body)
    assert asked is not None
    exchange = Exchange(asked, Answer(200, {"input_tokens": 8}, Usage()))
    assert METER.replayed([exchange], [pair(0, exchange, asked, Paired.EXACT)]).usage == Usage()


def test_a_token_count_is_told_by_the_recorded_one_and_the_difference() -> None:
    def counted(words: str, **more: object) -> Request:
        body = {"model": MODEL, "messages": [{"role": "user", "content": words}], **more}
        asked = read_request("POST", "https://x.test/v1/messages/count_tokens", {}, json.dumps(body).encode())
        assert asked is not None
        return asked

    recorded = Exchange(counted("Hello"), Answer(200, {"input_tokens": 8}, Usage()))
    found = METER.token_count(recorded, counted("Hello, and a good morning to all of you"))
    assert found is not None
    tokens, told = found
    assert 12 <= tokens <= 22
    assert told is None or " to " in told
    unknown = counted("Hello", tools=[{"type": "web_search_20250305", "name": "web_search"}])
    assert METER.token_count(recorded, unknown) is None
    failed = Exchange(counted("Hello"), Answer(429))
    assert METER.token_count(failed, counted("Hello again")) is None


def test_turns_come_in_recorded_order_whatever_the_order_of_arrival() -> None:
    exchanges = [
        Exchange(request("A", f"Question {n}"), answer(input_tokens=10 + n, output_tokens=1))
        for n in range(4)
    ]
    pairs = [pair(n, exchanges[n], exchanges[n].request, Paired.EXACT) for n in (2, 0, 3, 1)]
    run = METER.replayed(exchanges, pairs)
    assert [turn.pair.index for turn in run.turns] == [0, 1, 2, 3]
    assert run == METER.replayed(exchanges, sorted(pairs, key=lambda one: one.index))


def test_another_model_is_priced_as_that_model() -> None:
    exchange = Exchange(request(), answer(model="claude-sonnet-4-6", input_tokens=20, output_tokens=4))
    run = METER.replayed([exchange], [pair(0, exchange, request(model="claude-opus-4-6"))])
    assert list(run.usage.by_rate) == [Rate("claude-opus-4-6")]


@pytest.mark.parametrize(
    ("was", "billed", "now", "modifiers"),
    [
        ({}, (), {"speed": "fast"}, ("fast",)),
        ({"speed": "fast"}, ("fast",), {}, ()),
        ({"speed": "fast"}, (), {"speed": "fast"}, ()),  # asked for, and not given
        ({}, (), {"inference_geo": "us"}, ("us",)),
        ({"inference_geo": "us"}, ("us",), {"inference_geo": "global"}, ()),
        ({}, ("us",), {}, ("us",)),  # the workspace's default
        ({}, ("batch",), {"speed": "fast", "inference_geo": "us"}, ("batch", "fast", "us")),
    ],
)
def test_what_a_request_asks_for_decides_its_rate(
    was: dict[str, str], billed: tuple[str, ...], now: dict[str, str], modifiers: tuple[str, ...]
) -> None:
    usage = Usage.of(Rate(MODEL, billed), Tokens(input_tokens=20, output_tokens=4))
    exchange = Exchange(request(**was), Answer(200, {"content": []}, usage))
    run = METER.replayed([exchange], [pair(0, exchange, request(**now))])
    assert run.usage == Usage.of(Rate(MODEL, modifiers), Tokens(input_tokens=20, output_tokens=4))
    assert run.basis == Basis.RECORDED  # of the tokens


@pytest.mark.parametrize(
    ("was", "now", "modifiers"),
    [
        ("locations/global", "locations/us-east5", ("google", "regional")),
        ("locations/us-east5", "locations/global", ("google",)),
        ("locations/us-east5", "locations/europe-west1", ("google", "regional")),
    ],
)
def test_the_region_of_the_path_decides_the_rate(was: str, now: str, modifiers: tuple[str, ...]) -> None:
    def at(where: str) -> Request:
        url = f"https://x.test/v1/projects/p/{where}/publishers/anthropic/models/claude-opus-4-6:rawPredict"
        read = read_request("POST", url, {}, b'{"messages": [{"role": "user", "content": "Hello"}]}')
        assert read is not None
        return read

    billed = ("google",) if "global" in was else ("google", "regional")
    usage = Usage.of(Rate("claude-opus-4-6", billed), Tokens(input_tokens=20, output_tokens=4))
    exchange = Exchange(at(was), Answer(200, {"content": []}, usage))
    run = METER.replayed([exchange], [pair(0, exchange, at(now), Paired.EXACT)])
    assert list(run.usage.by_rate) == [Rate("claude-opus-4-6", modifiers)]


def test_an_answer_that_does_not_say_what_it_billed_is_unknown() -> None:
    exchange = Exchange(request(), Answer(200, error="the stream was cut off"))
    run = METER.replayed([exchange], [pair(0, exchange, exchange.request, Paired.EXACT)])
    assert run.basis == Basis.UNKNOWN
    assert run.is_unbounded
    assert run.departure is None
    assert "the stream was cut off" in str(run.turns[0].estimate.reason)


REFUSED = Answer(200, {"content": [], "stop_reason": "refusal"}, Usage.of(Rate(MODEL), Tokens()))
LONG = "Be brief and friendly and never rude."


@pytest.mark.parametrize(("was", "now"), [("Be brief.", LONG), (LONG, "Be brief.")])
def test_a_refused_request_bills_nothing_whatever_it_says(was: str, now: str) -> None:
    """And is nothing that another turn could be counted from."""
    refused = Exchange(request(was), REFUSED)
    served = Exchange(request("Be rude.", LONG), answer(input_tokens=30, output_tokens=4))
    pairs = [pair(0, refused, request(now)), pair(1, served, request(now))]
    run = METER.replayed([refused, served], pairs)
    first, second = (turn.usage.tokens for turn in run.turns)
    assert first == Tokens()
    assert second == Tokens(input_tokens=30 - 9 + len(now.split()) + 1, output_tokens=4)
    assert run.is_measured


@pytest.mark.parametrize("tokens", [0, 3])
def test_a_recorded_count_that_cannot_be_is_nothing_to_count_from(tokens: int) -> None:
    exchange = Exchange(request(LONG), answer(input_tokens=tokens, output_tokens=4))
    run = METER.replayed([exchange], [pair(0, exchange, request("Be brief."))])
    assert run.basis == Basis.UNKNOWN
    assert f"{tokens or 'no'} " in str(run.turns[0].estimate.reason)
    same = METER.replayed([exchange], [pair(0, exchange, exchange.request, Paired.EXACT)])
    assert (same.basis, same.usage) == (Basis.RECORDED, exchange.answer.usage)


def test_what_else_an_answer_bills_stays_beside_its_changed_prompt() -> None:
    usage = Usage.of(Rate(MODEL), Tokens(input_tokens=20, output_tokens=4)) + Usage.of(
        Rate("claude-opus-4-6"), Tokens(input_tokens=900, output_tokens=70), turns=0
    )
    exchange = Exchange(request("One"), Answer(200, {"content": []}, usage))
    run = METER.replayed([exchange], [pair(0, exchange, request("One and two"))])
    assert run.usage.by_rate[Rate(MODEL)].input_tokens == 22
    assert run.usage.by_rate[Rate("claude-opus-4-6")] == Tokens(input_tokens=900, output_tokens=70)
    assert run.usage.turns == 1


def with_advisor(usage: Usage, model: str = "claude-opus-4-6", **tokens: int) -> Usage:
    """The usage of an answer that asked another model beside it."""
    return usage + Usage.of(Rate(model), Tokens(**tokens), turns=0)


def test_a_request_that_moves_to_the_model_of_its_advisor_loses_none_of_its_tokens() -> None:
    usage = with_advisor(Usage.of(Rate(MODEL), Tokens(input_tokens=20)), input_tokens=900)
    exchange = Exchange(request("One"), Answer(200, {"content": []}, usage))
    run = METER.replayed([exchange], [pair(0, exchange, request("One", model="claude-opus-4-6"))])
    prompt = run.turns[0].estimate.prompt_tokens
    assert prompt is not None
    assert run.usage.by_rate == {Rate("claude-opus-4-6"): Tokens(input_tokens=900 + prompt)}


def test_an_answer_fed_back_is_as_long_as_its_own_model_wrote_it() -> None:
    """What another model wrote, before a fallback served, is billed with it and no part of it."""
    first = Exchange(request(), answer(text="One two three.", input_tokens=20, output_tokens=6))
    other = Exchange(request("Say two."), answer(text="Four five.", input_tokens=20, output_tokens=5))
    asked_twice = replace(
        other,
        answer=replace(other.answer, usage=with_advisor(other.answer.usage or Usage(), output_tokens=400)),
    )
    later = Exchange(
        request("Be brief.", "Hello", "One two three.", "Go on."), answer(input_tokens=30, output_tokens=4)
    )
    now = request("Be brief.", "Hello", "Four five.", "Go on.")
    alone, beside = (
        METER.replayed([first, answered, later], [pair(2, later, now)]).turns[0].estimate.prompt_tokens
        for answered in (other, asked_twice)
    )
    assert beside == alone


def test_a_real_call_asks_as_many_tokens_as_its_own_model_was_sent() -> None:
    usage = with_advisor(Usage.of(Rate(MODEL), Tokens(input_tokens=20)), input_tokens=900)
    run = METER.called([Exchange(request(), Answer(200, {"content": []}, usage))])
    assert run.turns[0].estimate.prompt_tokens == 20
    assert run.usage == usage


@pytest.mark.parametrize("left", ["misses", "unplayed", "reshaped"])
def test_a_run_that_left_its_recording_is_stale(left: str) -> None:
    exchange = Exchange(request(), answer(input_tokens=20, output_tokens=4))
    asked = pair(0, exchange, exchange.request, Paired.EXACT)
    values = {"misses": [request("New")], "unplayed": [exchange], "reshaped": [asked]}
    run = METER.replayed([exchange], [asked], **{left: values[left]})  # type: ignore[arg-type]
    assert run.departure == Verdict.STALE


def test_what_was_never_recorded_comes_before_what_is_stale() -> None:
    run = Run(misses=(request("New"),), unrecorded=("there is no cassette",))
    assert run.departure == Verdict.UNRECORDED
    assert Run(unrecorded=run.unrecorded) + Run(misses=run.misses) == run


LOOPED = [{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}]


@pytest.mark.parametrize(
    ("now", "answered", "why"),
    [
        (request("Be terse.", max_tokens=8000), {"stop_reason": "max_tokens"}, "was cut off at 9 max_tokens"),
        (request("Be terse.", cache_control={"type": "never"}), {}, "refuse it with an error 400"),
        (request("Be terse."), {"content": LOOPED}, "billed several prompts"),
    ],
)
def test_counting_a_prompt_does_not_make_its_answer_fit(
    now: Request, answered: dict[str, Any], why: str
) -> None:
    told = answer(input_tokens=20, output_tokens=4)
    exchange = Exchange(request(), replace(told, message={**(told.message or {}), **answered}))
    asked = replace(METER, recount=lambda prompts: [100] * len(prompts))
    run = asked.replayed([exchange], [pair(0, exchange, now)])
    assert run.turns[0].basis == Basis.UNKNOWN
    assert why in (run.turns[0].estimate.reason or "")


def test_real_calls_bill_what_their_own_answers_say() -> None:
    run = METER.called([Exchange(request(), answer(input_tokens=20, output_tokens=4))])
    assert run.basis == Basis.LIVE
    assert run.usage.tokens.total == 24


def test_joined_runs_add_up() -> None:
    exchange = Exchange(request(), answer(input_tokens=20, output_tokens=4))
    run = METER.replayed([exchange], [pair(0, exchange, exchange.request, Paired.EXACT)])
    assert (run + run).usage.tokens.total == 48
    assert (run + run).usage.turns == 2
