"""A run out of its turns: every pair of a recorded and a new request, measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from pytest_tokenbudget.metering.builtin_counter import BuiltinCounter
from pytest_tokenbudget.metering.cache_current import CurrentTurn
from pytest_tokenbudget.metering.cache_difference import Split, resplit
from pytest_tokenbudget.metering.cache_split import RecordedTurn
from pytest_tokenbudget.metering.calibration import Known
from pytest_tokenbudget.metering.counting import Counter, Memo
from pytest_tokenbudget.metering.cut_off import cut_off
from pytest_tokenbudget.metering.estimate import Estimate, assumed, estimate
from pytest_tokenbudget.metering.history import fed_back_tokens, worked
from pytest_tokenbudget.metering.recount import CountPrompts, recounted
from pytest_tokenbudget.metering.refusals import newly_refused
from pytest_tokenbudget.metering.run import Run, Turn
from pytest_tokenbudget.model import Basis, Paired, Tokens, Usage
from pytest_tokenbudget.wire.exchange import Answer, Exchange, Pair, Request
from pytest_tokenbudget.wire.rates import asked_rate

_NEAR = 1
"""Turns before and after the paired one that a changed request may be counted from, each way."""


@dataclass(frozen=True, slots=True)
class Meter:
    """What measuring needs beside the turns."""

    counter: Counter
    tiered: Callable[[Usage], Usage] = lambda usage: usage
    """Marks the usage of one answer that is priced as a long one (`Prices.tiered`)."""
    minimums: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Shortest cacheable prefix by model, over the built-in table."""
    lasting: Callable[[Pair], bool] = lambda _: True
    """Whether the changed prefix of a request is the same in every process, so that it can be warm."""
    recount: CountPrompts | None = None
    """Counts changed prompts exactly, where somebody can be asked."""
    weights: Counter = field(default_factory=lambda: Memo(BuiltinCounter()))
    """Shares known totals out over blocks; only its proportions count."""

    def replayed(
        self,
        exchanges: Sequence[Exchange],
        pairs: Iterable[Pair],
        *,
        misses: Sequence[Request] = (),
        unplayed: Sequence[Exchange] = (),
        reshaped: Sequence[Pair] = (),
    ) -> Run:
        """Measure the requests of one cassette; `exchanges` are all that it holds, in order.

        Failed attempts and what bills nothing (token counts, a batch's polling) are no turns. The turns come
        in recorded order, so that concurrent requests do not change the result.
        """
        paired = {pair.index: _headed(pair) for pair in pairs}
        recorded = {
            number: replace(exchange, request=paired[number].recorded) if number in paired else exchange
            for number, exchange in enumerate(exchanges)
            if is_turn(exchange)
        }
        asked = {number: paired[number] for number in recorded if number in paired}
        estimates = self._estimates(recorded, asked)
        splits = self._splits(recorded, asked, estimates)
        turns = tuple(self._turn(pair, estimates[n], splits[n]) for n, pair in asked.items())
        moved = tuple(paired.get(pair.index, pair) for pair in reshaped)
        return Run(turns, tuple(misses), tuple(unplayed), moved)

    def called(self, exchanges: Iterable[Exchange]) -> Run:
        """Measure real calls of this run: each answer tells what its own request billed."""
        turns = []
        for number, exchange in enumerate(exchange for exchange in exchanges if is_turn(exchange)):
            pair = Pair(number, exchange.request, exchange.request, exchange.answer, Paired.EXACT)
            usage = exchange.answer.usage
            tokens = usage.main_tokens.prompt_tokens if usage else None
            basis = Basis.LIVE if usage else Basis.UNKNOWN
            found = Estimate(tokens, basis, tokens, tokens, reason=_unread(exchange.answer))
            turns.append(Turn(pair, self.tiered(usage or Usage(1)), None, found))
        return Run(tuple(turns))

    def _estimates(self, recorded: Mapping[int, Exchange], asked: Mapping[int, Pair]) -> dict[int, Estimate]:
        known = {
            number: Known(
                exchange.request.prompt,
                exchange.answer.usage.main_tokens.prompt_tokens,
                worked(exchange.answer.message or {}),
            )
            for number, exchange in recorded.items()
            if exchange.answer.usage is not None and exchange.answer.usage.main_tokens.prompt_tokens
        }
        answers: dict[str, int] = {}
        for exchange in recorded.values():
            if exchange.answer.usage is not None and exchange.answer.message is not None:
                output = exchange.answer.usage.main_tokens.output_tokens
                answers |= fed_back_tokens(exchange.request.prompt, exchange.answer.message, output)
        order = list(recorded)
        found = {}
        for place, number in enumerate(order):
            if number in asked:
                around = order[max(place - _NEAR, 0) : place] + order[place + 1 : place + 1 + _NEAR]
                near = [known[other] for other in around if other in known]
                found[number] = self._estimate(asked[number], known.get(number), near, answers)
        return found if self.recount is None else self._recounted(found, asked, known)

    def _recounted(
        self, found: Mapping[int, Estimate], asked: Mapping[int, Pair], known: Mapping[int, Known]
    ) -> dict[int, Estimate]:
        assert self.recount is not None
        numbers = [n for n in found if n in known and not known[n].worked and not _not_its_answer(asked[n])]
        prompts = [(asked[n].recorded.prompt, asked[n].request.prompt) for n in numbers]
        totals = [known[n].prompt_tokens for n in numbers]
        exact = recounted([found[n] for n in numbers], prompts, totals, self.recount)
        return {**found, **dict(zip(numbers, exact, strict=True))}

    def _estimate(
        self, pair: Pair, known: Known | None, near: Sequence[Known], answers: Mapping[str, int]
    ) -> Estimate:
        if known is None and (pair.answer.refused or (pair.how == Paired.EXACT and pair.answer.usage)):
            return Estimate(0, Basis.RECORDED, 0, 0)  # it billed nothing
        if known is None:
            reason = _unread(pair.answer) or "the recorded answer reports a prompt of no tokens"
            return Estimate(None, Basis.UNKNOWN, reason=reason)
        if other := _not_its_answer(pair):
            return Estimate(None, Basis.UNKNOWN, reason=other)
        if pair.how == Paired.EXACT and pair.request.prompt.betas == pair.recorded.prompt.betas:
            total = known.prompt_tokens
            return Estimate(total, Basis.RECORDED, total, total)
        return estimate(known, pair.request.prompt, self.counter, near=near, answers=answers)

    def _splits(
        self,
        recorded: Mapping[int, Exchange],
        asked: Mapping[int, Pair],
        estimates: Mapping[int, Estimate],
    ) -> dict[int, Split]:
        was = [_recorded_turn(exchange) for exchange in recorded.values()]
        now = [
            CurrentTurn(
                asked[number].request.prompt, estimates[number].prompt_tokens or None, estimates[number].parts
            )
            if number in asked
            else None
            for number in recorded
        ]
        order = list(recorded)
        splits = resplit(
            was,
            now,
            minimums=self.minimums,
            counter=self.weights,
            lasting=lambda place: order[place] in asked and self.lasting(asked[order[place]]),
        )
        return dict(zip(order, splits, strict=True))

    def _turn(self, pair: Pair, found: Estimate, split: Split) -> Turn:
        recorded = pair.answer.usage
        usage = recorded or Usage(1)
        if recorded is not None and split.tokens is not None:
            rate = asked_rate(recorded.main_rate, pair.recorded, pair.request)
            usage = recorded.with_main(rate, split.tokens)
            found = _with_assumed_split(pair, found, recorded.main_tokens, split.tokens)
        return Turn(
            pair,
            self.tiered(usage),
            None if recorded is None else self.tiered(recorded),
            found,
            split.note,
            split.before,
            split.now,
        )


def _with_assumed_split(pair: Pair, found: Estimate, was: Tokens | None, now: Tokens) -> Estimate:
    """Return `found` as an estimate if its cached tokens moved by the rules of a model that has no row."""
    reason = assumed(pair.recorded.prompt.model, pair.request.prompt.model)
    if reason is None or was is None or found.basis is Basis.UNKNOWN:
        return found
    moved = (was.cache_read_input_tokens, was.cache_creation_input_tokens) != (
        now.cache_read_input_tokens,
        now.cache_creation_input_tokens,
    )
    return replace(found, basis=Basis.ESTIMATED, reason=reason) if moved else found


def is_turn(exchange: Exchange) -> bool:
    """Whether an exchange is billed by itself: a succeeded message, also as an entry of a batch."""
    return exchange.answer.billed and exchange.request.endpoint.api == "messages"


def _recorded_turn(exchange: Exchange) -> RecordedTurn:
    answer = exchange.answer
    tokens = None if answer.usage is None else answer.usage.main_tokens
    return RecordedTurn(exchange.request.prompt, tokens, answer.date, answer.sent)


def _headed(pair: Pair) -> Pair:
    """With the betas of now on both sides, where the recording kept no headers that would tell its own."""
    if pair.recorded.prompt.betas is not None:
        return pair
    prompt = replace(pair.recorded.prompt, betas=pair.request.prompt.betas)
    return replace(pair, recorded=replace(pair.recorded, prompt=prompt))


def _not_its_answer(pair: Pair) -> str | None:
    """Why the recorded answer cannot be the one to the request as it is asked now."""
    return cut_off(pair) or newly_refused(pair)


def _unread(answer: Answer) -> str | None:
    return (
        None if answer.usage else f"what the answer billed is not known: {answer.error or 'it does not say'}"
    )
