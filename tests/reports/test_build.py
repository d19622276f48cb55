"""Measured runs as entries of the document."""

from __future__ import annotations

from decimal import Decimal

from pytest_tokenbudget.budget.compare import Judgement
from pytest_tokenbudget.metering.builtin_counter import BuiltinCounter
from pytest_tokenbudget.metering.meter import Meter
from pytest_tokenbudget.model import Rate, Tokens, Usage, Verdict
from pytest_tokenbudget.reports import build
from pytest_tokenbudget.wire.endpoints import Endpoint
from pytest_tokenbudget.wire.exchange import Answer, Exchange, Request
from pytest_tokenbudget.wire.prompt import parse_prompt


def test_a_turn_is_of_the_model_that_answered_the_request_itself() -> None:
    """An advisor of a name that comes first in the alphabet is billed beside it."""
    own, advisor = Rate("claude-sonnet-4-6"), Rate("claude-opus-4-8")
    usage = Usage.of(own, Tokens(input_tokens=80)) + Usage.of(advisor, Tokens(input_tokens=7872), turns=0)
    request = Request(Endpoint("messages"), parse_prompt({"model": own.model, "messages": []}), "")
    run = Meter(BuiltinCounter()).called([Exchange(request, Answer(200, {"content": []}, usage))])
    place = build.Place("tests/test_a.py::test_b", "tests/test_a.py", 7)
    entry = build.scenario(place, Judgement(Verdict.NEW), None, run, [], lambda _: Decimal(0))
    (turn,) = entry["turns"]
    assert turn["model"] == "claude-sonnet-4-6"
    assert turn["tokens"] is not None
    assert list(turn["tokens"]["models"]) == ["claude-opus-4-8", "claude-sonnet-4-6"]
