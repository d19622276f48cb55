"""A limit on what real calls cost: each is refused whose worst case would pass it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from pytest_tokenbudget.errors import RecordingError
from pytest_tokenbudget.metering.pricing import Prices
from pytest_tokenbudget.metering.rendering import block_weights
from pytest_tokenbudget.model import Rate, Tokens, Usage
from pytest_tokenbudget.replay.traffic import answer_body, lower
from pytest_tokenbudget.wire.answers import read_answer
from pytest_tokenbudget.wire.exchange import Request

_MARGIN = Decimal("1.5")
"""What a prompt may be longer than its cheap count: more than any error in docs/accuracy.md."""


class Spending:
    """What this process has spent and may still spend. Thread-safe.

    A call that is under way counts with its worst case: its whole prompt written to the cache for an hour,
    and `max_tokens` of output. Once it is answered, it counts with what it billed; a batch keeps its worst
    case.
    """

    def __init__(self, limit: Decimal, prices: Prices) -> None:
        self.limit = limit
        self.spent = Decimal(0)
        self._prices = prices
        self._under_way: dict[int, tuple[Request, Decimal]] = {}
        self._lock = threading.Lock()

    def before_call(self, request: Request) -> None:
        """Raise RecordingError where the call could pass the limit, or where nobody can tell."""
        worst = self._worst(request)
        model = request.prompt.model
        if worst is None:
            raise RecordingError(
                f"No price is known for {model}, so that nobody can tell whether its call stays below "
                f"--token-budget-max-spend={self.limit}. Name a model with a known price, or drop the limit."
            )
        with self._lock:
            taken = self.spent + sum((cost for _, cost in self._under_way.values()), Decimal(0))
            if taken + worst > self.limit:
                raise RecordingError(
                    f"${self.spent:.4f} is spent, and a call to {model} could cost ${worst:.4f} more, past "
                    f"--token-budget-max-spend={self.limit}. Raise it, or lower the agent's max_tokens."
                )
            self._under_way[id(request)] = request, worst

    def after_call(self, request: Request, answer: Mapping[str, Any]) -> None:
        """Count what an answer, in vcr's shape, has billed; its worst case where it does not say."""
        read = read_answer(
            answer["status"]["code"], lower(answer.get("headers")), answer_body(answer), request
        )
        cost = self._prices.cost(self._prices.tiered(read.usage)) if read.usage else None
        with self._lock:
            _, worst = self._under_way.pop(id(request), (request, Decimal(0)))
            if read.billed:
                self.spent += worst if cost is None else cost

    def _worst(self, request: Request) -> Decimal | None:
        prompt = Decimal(sum(block_weights(request.prompt))) * _MARGIN
        tokens = Tokens(
            ephemeral_1h_input_tokens=int(prompt) + 1,
            output_tokens=request.prompt.max_tokens or 0,
        )
        return self._prices.cost(self._prices.tiered(Usage.of(Rate(request.prompt.model), tokens)))
