"""Measure a run: every pair of a recorded and a new request becomes a turn with its usage.

A recorded answer is refused where the limits of the new request would end it elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

from pytest_tokenbudget.metering.cache_rules import cache_model, named_minimum
from pytest_tokenbudget.metering.cache_split import (
    CurrentTurn,
    ForeignReads,
    RecordedTurn,
    Resplit,
    Split,
    by_rate,
    foreign_reads,
    from_one_start,
    resplit,
    touches_cache,
)
from pytest_tokenbudget.metering.counting import BuiltinCounter, Counter, Memo
from pytest_tokenbudget.metering.estimate import (
    CountPrompts,
    Estimate,
    Known,
    are_apart,
    assumed,
    estimate,
    exactly,
    fed_back_tokens,
    misbilled,
    recounted,
    worked,
)
from pytest_tokenbudget.metering.models import model_row
from pytest_tokenbudget.metering.prompt_cache import Outcome, newly_refused
from pytest_tokenbudget.model import Basis, Paired, Rate, Tokens, Usage, Verdict
from pytest_tokenbudget.wire.answers import asked_rate
from pytest_tokenbudget.wire.exchange import UNIQUE_TEXT, Accepted, Answer, Exchange, Pair, Request, StandIn
from pytest_tokenbudget.wire.prompt import Prompt, as_mapping, breakpoints, last_breakpoint, mappings

_BASES = 8
"""Recorded turns, beside the first, that a request without an answer may be counted from."""
_NEAR = 1
"""Turns before and after the paired one that a changed request may be counted from, each way."""
_ASSUMED_CACHE = "what the prompt cache holds of its prompts is estimated by the rules of the newest models"


@dataclass(frozen=True, slots=True)
class Meter:
    """Measures runs, and holds what that needs beside the turns themselves."""

    counter: Counter
    tiered: Callable[[Usage], Usage] = lambda usage: usage
    """Marks the usage of one answer that is priced as a long one (`Prices.tiered`)."""
    minimums: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Shortest cacheable prefix by model, over the built-in table."""
    volatile: Callable[[Sequence[Pair]], Collection[int]] = lambda _: ()
    """Names the turns of a run whose changed prefix is proved to be another in every process (`Pair.index`).
    Every other change is an edit: what was warm before it is warm after it."""
    timed: Callable[[Iterable[Pair]], Mapping[int, Prompt]] = lambda _: {}
    """Returns what turns (`Pair.index`) ask the cache, where time goes by between turns but not in replay."""
    recount: CountPrompts | None = None
    """Counts changed prompts exactly, where somebody can be asked."""
    weights: Counter = field(default_factory=lambda: Memo(BuiltinCounter()))
    """Shares known totals out over blocks; only its proportions count."""
    shared: MutableMapping[object, tuple[Measured, Measured]] = field(default_factory=WeakKeyDictionary)
    """What was measured of recordings that several tests ask, as asked and as accepted, by what pairs them.
    It keeps none alive."""

    def replayed(
        self,
        exchanges: Sequence[Exchange],
        pairs: Iterable[Pair],
        *,
        misses: Sequence[Request] = (),
        unplayed: Sequence[Exchange] = (),
        reshaped: Sequence[Pair] = (),
        stood_in: Sequence[StandIn] = (),
        doubtful: Collection[int] = (),
        only: Collection[int] | None = None,
        measured: Measured | None = None,
    ) -> Run:
        """Measure the requests of one cassette; `exchanges` are all that it holds, in order.

        Failed attempts and what bills nothing (token counts, a batch's polling) are no turns. The turns come
        in recorded order, so that concurrent requests do not change the result. `stood_in` answered some of
        the `misses`; the `doubtful` ones, by position, may not be asked behind a real answer. `only` are the
        numbers of the exchanges whose turns are wanted: the others are looked at only if one of them asks
        something else than was recorded, and so may have left another cache. Of these, `measured` holds what
        was measured of the same recording before, and is added to.
        """
        settled = self.from_one_start(exchanges)
        if settled is not exchanges:
            pairs = [replace(pair, answer=settled[pair.index].answer) for pair in pairs]
        paired = {pair.index: _headed(pair) for pair in pairs}
        recorded = {
            number: replace(exchange, request=paired[number].recorded) if number in paired else exchange
            for number, exchange in enumerate(settled)
            if is_turn(exchange)
        }
        wanted = {n: paired[n] for n in recorded if n in paired and (only is None or n in only)}
        alone = only is not None and settled is exchanges and _stand_alone(recorded, paired, wanted)
        asked = wanted if alone else {n: paired[n] for n in recorded if n in paired}
        if alone or measured is None or settled is not exchanges:
            estimates: Mapping[int, Estimate] = self._estimates(recorded, asked)
            simulated = {n: exchange for n, exchange in recorded.items() if n in wanted or not alone}
            splits: Mapping[int, Split] = self._splits(simulated, asked, estimates)
        else:
            estimates, splits = self._added(measured, recorded, asked)
        turns = tuple(self._turn(pair, estimates[n], splits[n]) for n, pair in wanted.items())
        moved = tuple(paired.get(pair.index, pair) for pair in reshaped)
        missed = tuple(self._missed(misses, recorded, doubtful, stood_in)) if misses else ()
        return Run(turns, tuple(misses), tuple(unplayed), moved, missed=missed, stood_in=tuple(stood_in))

    def _missed(
        self,
        misses: Sequence[Request],
        recorded: Mapping[int, Exchange],
        doubtful: Collection[int],
        stood_in: Sequence[StandIn],
    ) -> Iterator[Missed]:
        """Yield what each request that nothing answers would bill.

        One that repeats, or is `doubtful`, may be a loop that a real answer ends: at least it is not asked.
        """
        seen: set[str] = set()
        bases = [(one.request, one.answer.usage) for one in recorded.values() if one.answer.usage]
        known = [
            Known(request.prompt, usage.main_tokens.prompt_tokens)
            for request, usage in bases
            if usage.main_tokens.prompt_tokens
        ]
        for place, request in enumerate(misses):
            rate = Rate(request.prompt.model)
            alike = (base for base in bases if base[0].prompt.model == request.prompt.model)
            for base, usage in (*alike, *bases)[:1]:
                rate = asked_rate(usage.main_rate, base, request)
            if known:
                counted = estimate(known[0], request.prompt, self.counter, near=known[1 : 1 + _BASES])
            else:
                counted = Estimate(None, Basis.UNKNOWN)
            bounded = self._bounded(request, rate, counted, stood_in)
            is_certain = request.digest not in seen and place not in doubtful
            seen.add(request.digest)
            yield bounded if is_certain else replace(bounded, least=Usage())

    def _bounded(
        self, request: Request, rate: Rate, counted: Estimate, stood_in: Sequence[StandIn]
    ) -> Missed:
        """Return the bounds of a real answer to a request whose prompt is counted.

        At best its cached part is read, and nothing is answered; at worst it is written, and the answer is
        as long as it may be. What stood in for earlier answers may be as long as these. Where it may call a
        tool, a real answer may begin a loop of which nobody knows the end.
        """
        prompt, most = request.prompt, request.prompt.max_tokens
        times, tokens = _stand_ins(stood_in, prompt)
        if counted.low is None or counted.high is None:
            return Missed(request, Usage(1), None)
        shortest = max(counted.low - tokens, 0)
        cached = last_breakpoint(prompt) >= 0
        least = Tokens(cache_read_input_tokens=shortest) if cached else Tokens(input_tokens=shortest)
        if most is None or _may_call_tools(prompt):
            return Missed(request, Usage.of(rate, least), None)
        dearest = _dearest(prompt, counted.high + times * most)
        return Missed(request, Usage.of(rate, least), Usage.of(rate, replace(dearest, output_tokens=most)))

    def token_count(self, recorded: Exchange, asked: Request) -> tuple[int, str | None] | None:
        """Return what `count_tokens` would answer to `asked`, by its recorded answer to another request.

        With the tokens comes the interval in words, None where they are counted exactly. None where they
        cannot be counted, or where the recorded answer tells no number.
        """
        tokens = as_mapping(recorded.answer.message).get("input_tokens")
        if not isinstance(tokens, int):
            return None
        counted = estimate(Known(recorded.request.prompt, tokens), asked.prompt, self.counter)
        if counted.prompt_tokens is None:
            return None
        is_exact = counted.basis is not Basis.ESTIMATED
        return counted.prompt_tokens, None if is_exact else f"{counted.low:,} to {counted.high:,} tokens"

    def misbilled(self, turns: Iterable[Turn]) -> Iterator[tuple[Turn, int]]:
        """Yield the turns whose recorded prompt tokens cannot be true, each with what its prompt counts."""
        for turn in turns:
            pair, usage = turn.pair, turn.pair.answer.usage
            tokens = usage.main_tokens.prompt_tokens if usage else 0
            is_compared = turn.accepted is not None  # its pair holds what was accepted, and checked then
            if is_compared or usage is None or not tokens or not _reads_as_asked(pair, usage):
                continue
            known = Known(pair.recorded.prompt, tokens, worked(pair.answer.message or {}))
            counted = misbilled(known, self.counter)
            if counted is not None:
                yield turn, counted

    def forged(self, turn: Turn, accepted: Accepted) -> str | None:
        """Return what `turn`, measured anew as it was accepted, says against its numbers of then, or None.

        Its answer is the recorded one, so that output tokens and model are known; its prompt tokens are
        counted, by this run's counter: they may be outside of the interval of the count, by 200 tokens and a
        fifth of what was edited. How the cache splits them is simulated, by rules that may have been mended.
        """
        told, known = accepted.usage, turn.usage
        if told.main_rate.model != known.main_rate.model:
            return f"was accepted on {told.main_rate.model}, and asks {known.main_rate.model}"
        if told.tokens.output_tokens != known.tokens.output_tokens:
            answered = f"and its answer has {known.tokens.output_tokens:,}"
            return f"was accepted with {told.tokens.output_tokens:,} output tokens, {answered}"
        stored, counted = told.main_tokens.prompt_tokens, turn.estimate
        if counted.prompt_tokens is None or counted.low is None or counted.high is None:
            return None
        edited = sum(abs(part.tokens) for part in counted.parts)
        is_outside = not counted.low <= stored <= counted.high
        if is_outside and are_apart(stored, counted.prompt_tokens, edited):
            counts = f"and its prompt counts {counted.prompt_tokens:,}"
            return f"was accepted with {stored:,} prompt tokens, {counts}"
        return None

    def from_one_start(self, exchanges: Sequence[Exchange]) -> Sequence[Exchange]:
        """Return the exchanges as if all had been recorded in one session; the same object where they were.

        The times of later ones are left out: they are compared only within one session.
        """
        turns = {number: exchange for number, exchange in enumerate(exchanges) if is_turn(exchange)}
        first = min((exchange.answer.recording_session for exchange in turns.values()), default=0)
        later = {n: turn for n, turn in turns.items() if turn.answer.recording_session > first}
        if not later:
            return exchanges
        for number, exchange in later.items():
            turns[number] = replace(exchange, answer=replace(exchange.answer, date=None, sent=None))
        recorded = [replace(_recorded_turn(turn), is_later=number in later) for number, turn in turns.items()]
        split = from_one_start(recorded, minimums=self.minimums, counter=self.weights)
        for (number, turn), tokens in zip(list(turns.items()), split, strict=True):
            usage = turn.answer.usage
            if number in later and usage is not None and tokens is not None:
                settled = replace(turn.answer, usage=usage.with_main(usage.main_rate, tokens))
                turns[number] = replace(turn, answer=settled)
        return [turns.get(number, exchange) for number, exchange in enumerate(exchanges)]

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

    def cold(self, turns: Sequence[Turn]) -> tuple[Usage, ...]:
        """Return what turns bill if they are called now, one after the other, on an empty prompt cache."""
        asked = [
            replace(
                _recorded_turn(Exchange(turn.pair.request, turn.pair.answer)),
                tokens=turn.usage.main_tokens,
                began=None,
                sent=None,
                is_later=True,
            )
            for turn in turns
        ]
        split = from_one_start(asked, minimums=self.minimums, counter=self.weights)
        return tuple(
            self.tiered(turn.usage.with_main(turn.usage.main_rate, tokens)) if tokens else turn.usage
            for turn, tokens in zip(turns, split, strict=True)
        )

    def foreign_reads(self, run: Run) -> ForeignReads:
        """Return what the turns of a run, as asked now, read from a cache that the run had not filled."""
        turns = [
            replace(
                _recorded_turn(Exchange(turn.pair.request, turn.pair.answer)), tokens=turn.usage.main_tokens
            )
            for turn in run.turns
        ]
        return self._foreign_reads([turn.usage for turn in run.turns], turns)

    def recorded_foreign_reads(self, run: Run) -> ForeignReads:
        """Return what the turns of a run, as recorded or accepted, read from a cache that it had not filled.

        What was accepted is taken as it is measured on this recording: this one may have had another start.
        """
        before = [(turn.pair, usage) for turn in run.turns if (usage := turn.before or turn.recorded)]
        turns = [
            replace(_recorded_turn(Exchange(pair.recorded, pair.answer)), tokens=usage.main_tokens)
            for pair, usage in before
        ]
        return self._foreign_reads([usage for _, usage in before], turns)

    def _foreign_reads(self, usages: Iterable[Usage], turns: Sequence[RecordedTurn]) -> ForeignReads:
        foreign = foreign_reads(turns, minimums=self.minimums, counter=self.weights)
        return by_rate(zip((usage.main_rate for usage in usages), foreign, strict=True))

    def since(self, turn: Turn, was: Turn, stored: Usage) -> Turn:
        """Return a turn as a change since it was accepted as `was`, measured on the same recorded answer.

        Its tokens stay. It is compared with the request, tokens and cache of `was`. `stored` is the usage
        that was written down on acceptance. It is used if this run counts the same prompt tokens; else `was`
        as counted now is.
        """
        pair = _headed(replace(turn.pair, recorded=was.pair.request))
        if Basis.UNKNOWN in (turn.basis, was.basis):
            return replace(turn, pair=pair, recorded=stored, estimate=replace(turn.estimate, parts=()))
        before, now = was.usage.main_tokens.prompt_tokens, turn.usage.main_tokens.prompt_tokens
        apart = estimate(Known(pair.recorded.prompt, before), pair.request.prompt, self.counter)
        return replace(
            turn,
            pair=pair,
            recorded=stored if stored.main_tokens.prompt_tokens == before else was.usage,
            accepted=stored,
            before=was.usage,
            estimate=replace(turn.estimate, parts=exactly(apart, now, before).parts),
            cache_before=was.cache_now,
        )

    def _estimates(self, recorded: Mapping[int, Exchange], asked: Mapping[int, Pair]) -> dict[int, Estimate]:
        order = list(recorded)
        places = {number: place for place, number in enumerate(order)}
        changed = [number for number, pair in asked.items() if not _is_as_recorded(pair)]
        around = {number: _beside(order, places[number]) for number in changed}
        known = {
            number: base
            for number in {*asked, *chain.from_iterable(around.values())}
            if (base := _known(recorded[number])) is not None
        }
        answers = _fed_back(recorded.values(), [asked[number].request.prompt for number in changed])
        found = {
            number: self._estimate(
                pair, known.get(number), [known[n] for n in around.get(number, ()) if n in known], answers
            )
            for number, pair in asked.items()
        }
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
        if known is None and (pair.answer.refused or (pair.is_recorded and pair.answer.usage)):
            return Estimate(0, Basis.RECORDED, 0, 0)  # it billed nothing
        if known is None:
            reason = _unread(pair.answer) or "the recorded answer reports a prompt of no tokens"
            return Estimate(None, Basis.UNKNOWN, reason=reason)
        if other := _not_its_answer(pair):
            return Estimate(None, Basis.UNKNOWN, reason=other)
        if pair.is_recorded and pair.request.prompt.betas == pair.recorded.prompt.betas:
            total = known.prompt_tokens
            return Estimate(total, Basis.RECORDED, total, total)
        return estimate(known, pair.request.prompt, self.counter, near=near, answers=answers)

    def _added(
        self, measured: Measured, recorded: Mapping[int, Exchange], asked: Mapping[int, Pair]
    ) -> tuple[Mapping[int, Estimate], Mapping[int, Split]]:
        """Return what `measured` holds, with what is asked behind that; if it comes before it, begin anew."""
        order = list(recorded)
        prompts = [exchange.request.prompt for exchange in recorded.values()]
        if measured.resplit is None or not measured.goes_on(prompts, asked, order):
            was = [_recorded_turn(exchange) for exchange in recorded.values()]
            measured.begin(prompts, Resplit(was, self.minimums, self.weights))
        assert measured.resplit is not None
        begin = measured.resplit.known
        end = max((place for place, number in enumerate(order) if number in asked), default=-1) + 1
        numbers = order[begin:end]
        new = {number: asked[number] for number in numbers if number in asked}
        measured.pairs |= new
        measured.estimates |= self._estimates(recorded, new)
        timed = self.timed(new.values())
        current = [_current_turn(new.get(n), measured.estimates.get(n), timed.get(n)) for n in numbers]
        volatile = cache(lambda: frozenset(self.volatile(list(asked.values()))))
        splits = measured.resplit.add(current, lambda place: order[place] not in volatile())
        measured.splits |= dict(zip(numbers, splits, strict=True))
        return measured.estimates, measured.splits

    def _splits(
        self,
        recorded: Mapping[int, Exchange],
        asked: Mapping[int, Pair],
        estimates: Mapping[int, Estimate],
    ) -> dict[int, Split]:
        was = [_recorded_turn(exchange) for exchange in recorded.values()]
        timed = self.timed(asked.values())
        now = [_current_turn(asked.get(n), estimates.get(n), timed.get(n)) for n in recorded]
        order = list(recorded)
        volatile = cache(lambda: frozenset(self.volatile(list(asked.values()))))
        splits = resplit(
            was,
            now,
            minimums=self.minimums,
            counter=self.weights,
            lasting=lambda place: order[place] not in volatile(),
        )
        return dict(zip(order, splits, strict=True))

    def _turn(self, pair: Pair, found: Estimate, split: Split) -> Turn:
        recorded = pair.answer.usage
        usage = recorded or Usage(1)
        rate = asked_rate(usage.main_rate, pair.recorded, pair.request)
        if recorded is not None and split.tokens is not None:
            usage = recorded.with_main(rate, split.tokens)
            found = self._with_assumed_split(pair, found, recorded.main_tokens, split.tokens)
        return Turn(
            pair,
            self.tiered(usage),
            None if recorded is None else self.tiered(recorded),
            found,
            split.note,
            split.before,
            split.now,
            None
            if recorded is None or split.best is None
            else self.tiered(recorded.with_main(rate, split.best)),
        )

    def _with_assumed_split(self, pair: Pair, found: Estimate, was: Tokens | None, now: Tokens) -> Estimate:
        """Return `found` as an estimate if its cached tokens moved by the rules of a model that has no row.

        A model whose shortest cacheable prefix the settings name needs none.
        """
        models = (pair.recorded.prompt.model, pair.request.prompt.model)
        unnamed = (one for one in models if named_minimum(cache_model(one), self.minimums) is None)
        reason = assumed(*unnamed, told=_ASSUMED_CACHE)
        if reason is None or was is None or found.basis not in (Basis.RECORDED, Basis.COUNTED):
            return found
        moved = (was.cache_read_input_tokens, was.cache_creation_input_tokens) != (
            now.cache_read_input_tokens,
            now.cache_creation_input_tokens,
        )
        return replace(found, basis=Basis.ESTIMATED, reason=reason) if moved else found


def _current_turn(pair: Pair | None, estimate: Estimate | None, timed: Prompt | None) -> CurrentTurn | None:
    """Return a turn as it is asked now (`timed`, where time goes by), or None if it is not asked."""
    if pair is None or estimate is None:
        return None
    return CurrentTurn(
        timed or pair.request.prompt,
        estimate.prompt_tokens or None,
        estimate.parts,
        equal=pair.how == Paired.EXACT and estimate.basis is Basis.RECORDED,
    )


@dataclass(slots=True)
class Measured:
    """What was measured of a cassette that several tests ask, one after the other."""

    resplit: Resplit | None = None
    pairs: dict[int, Pair] = field(default_factory=dict)
    estimates: dict[int, Estimate] = field(default_factory=dict)
    splits: dict[int, Split] = field(default_factory=dict)
    _prompts: Sequence[Prompt] = ()

    def begin(self, prompts: Sequence[Prompt], resplit: Resplit) -> None:
        """Forget what is known, and begin with the `prompts` of a recording."""
        self.resplit, self._prompts = resplit, prompts
        for known in (self.pairs, self.estimates, self.splits):
            known.clear()

    def goes_on(self, prompts: Sequence[Prompt], asked: Mapping[int, Pair], order: Sequence[int]) -> bool:
        """Return whether all that is known still holds, and what is new comes behind it."""
        known = order[: self.resplit.known if self.resplit else 0]
        return (
            len(prompts) == len(self._prompts)
            and all(now is was for now, was in zip(prompts, self._prompts, strict=True))
            and all((number in asked) == (number in self.pairs) for number in known)
            and all(asked[number].request is pair.request for number, pair in self.pairs.items())
        )


def is_turn(exchange: Exchange) -> bool:
    """Return whether an exchange is billed by itself: a succeeded message, also as an entry of a batch."""
    return exchange.answer.billed and exchange.request.endpoint.api == "messages"


def _recorded_turn(exchange: Exchange) -> RecordedTurn:
    answer = exchange.answer
    tokens = None if answer.usage is None else answer.usage.main_tokens
    by_itself = worked(answer.message or {})
    return RecordedTurn(exchange.request.prompt, tokens, answer.date, answer.sent, worked=by_itself)


def _headed(pair: Pair) -> Pair:
    """Return the pair with the betas of now on both sides, if the recording kept no headers of its own."""
    if pair.recorded.prompt.betas is not None:
        return pair
    prompt = replace(pair.recorded.prompt, betas=pair.request.prompt.betas)
    return replace(pair, recorded=replace(pair.recorded, prompt=prompt))


def _beside(order: Sequence[int], place: int) -> Sequence[int]:
    """Return the numbers of the turns around the one at `place`."""
    return [*order[max(place - _NEAR, 0) : place], *order[place + 1 : place + 1 + _NEAR]]


def _known(exchange: Exchange) -> Known | None:
    """Return a recorded prompt with its tokens, or None where its answer does not tell them."""
    usage = exchange.answer.usage
    tokens = usage.main_tokens.prompt_tokens if usage else 0
    if not tokens:
        return None
    return Known(exchange.request.prompt, tokens, worked(exchange.answer.message or {}))


def _fed_back(recorded: Iterable[Exchange], changed: Iterable[Prompt]) -> dict[str, int]:
    """Return what recorded answers add to a later prompt, if any of the changed prompts holds answers."""
    answers: dict[str, int] = {}
    if not any(block.role == "assistant" for prompt in changed for block in prompt.blocks):
        return answers
    for exchange in recorded:
        if exchange.answer.usage is not None and exchange.answer.message is not None:
            output = exchange.answer.usage.main_tokens.output_tokens
            answers |= fed_back_tokens(exchange.request.prompt, exchange.answer.message, output)
    return answers


def _stand_alone(
    recorded: Mapping[int, Exchange], paired: Mapping[int, Pair], wanted: Mapping[int, Pair]
) -> bool:
    """Return whether the cache of the `wanted` turns is what it is by no change of another turn.

    It is where every change comes later, and where no turn of the recording, or as it is asked now, caches.
    """
    last = max(wanted, default=-1)
    changed = [n for n, pair in paired.items() if n in recorded and not _is_as_recorded(pair)]
    if all(n > last for n in changed):
        return True
    prompts = (paired[n].request.prompt for n in paired if n in recorded)
    return not any(touches_cache(_recorded_turn(exchange)) for exchange in recorded.values()) and not any(
        map(breakpoints, prompts)
    )


def _is_as_recorded(pair: Pair) -> bool:
    """Return whether a request asks what was recorded, and nothing about its answer is in doubt."""
    same = pair.is_recorded and pair.request.prompt.betas == pair.recorded.prompt.betas
    return same and pair.answer.usage is not None


def _reads_as_asked(pair: Pair, usage: Usage) -> bool:
    """Return whether the model that answered reads a prompt with the tokenizer of the one that was asked."""
    asked, answered = model_row(pair.recorded.prompt.model), model_row(usage.main_rate.model)
    return asked.family == answered.family


def _not_its_answer(pair: Pair) -> str | None:
    """Return why the recorded answer cannot answer the request as it is asked now, or None."""
    return cut_off(pair) or newly_refused(pair)


def _unread(answer: Answer) -> str | None:
    return (
        None if answer.usage else f"what the answer billed is not known: {answer.error or 'it does not say'}"
    )


@dataclass(frozen=True, slots=True)
class Turn:
    """One billed turn of a run, as it was recorded and as it is now."""

    pair: Pair
    usage: Usage
    """What the turn bills now. Where the basis is unknown it is as recorded, and never to be judged. Where
    the cache is known within bounds only, it is the worst case."""
    recorded: Usage | None
    """What the recorded answer billed, for the recorded request. Where a changed request was accepted, what
    that one bills, as this run counts. None for a real call of this run, and for a turn that `came_back`."""
    estimate: Estimate
    """How the prompt tokens of `usage` were found, and the parts of their difference."""
    cache_note: str | None = None
    """Why the split into uncached, written and read is known within bounds only."""
    cache_before: Outcome | None = None
    """The simulated cache at the recorded request; None where nothing in the run changed."""
    cache_now: Outcome | None = None
    """The simulated cache at this request; None where nothing in the run changed."""
    best: Usage | None = None
    """What the turn bills now in the best case; None where `usage` is the only case."""
    accepted: Usage | None = None
    """What `recorded` billed when it was accepted, maybe by another counter; None if it was not."""
    before: Usage | None = None
    """What the accepted request bills as this run measures it; None if none was accepted."""
    came_back: bool = False
    """Whether it was accepted that the turn is gone, and it is asked for again."""
    volatile: bool = False
    """Whether it is proved, or was accepted as proved, that another process or another second has another
    cached prefix there."""

    @property
    def basis(self) -> Basis:
        """The basis of the prompt tokens; output tokens are always those of the recorded answer."""
        return self.estimate.basis


@dataclass(frozen=True, slots=True)
class Missed:
    """A request that nothing answers, and what a real answer bills at least and at most."""

    request: Request
    least: Usage
    most: Usage | None
    """What it bills at most; None where no bound is known."""


def _stand_ins(
    stood_in: Iterable[StandIn], prompt: Prompt, recorded: Prompt | None = None
) -> tuple[int, int]:
    """Return how often answers that stood in are in a prompt, beyond the `recorded` one, and their tokens.

    A text that is too short to be unique counts once.
    """
    times = tokens = 0
    for one in {one.text: one for one in stood_in if one.text}.values():
        found = _times(one.text, prompt) - (_times(one.text, recorded) if recorded else 0)
        found = max(found if len(one.text) >= UNIQUE_TEXT else min(found, 1), 0)
        times, tokens = times + found, tokens + found * one.tokens
    return times, tokens


def _times(text: str, prompt: Prompt) -> int:
    """Return how often a text is in the blocks of a prompt."""
    said = json.dumps(text, ensure_ascii=False)[1:-1]
    return sum(
        json.dumps(block.content, ensure_ascii=False, default=str).count(said) for block in prompt.blocks
    )


def _may_call_tools(prompt: Prompt) -> bool:
    """Return whether an answer may be something else than a text that ends the turn."""
    is_offered = prompt.offers_tools or prompt.options.get("mcp_servers")
    return bool(is_offered) and as_mapping(prompt.options.get("tool_choice")).get("type") != "none"


def _dearest(prompt: Prompt, tokens: int) -> Tokens:
    """Return prompt tokens as written to the cache, by the prompt's lifetime; as sent if it has no marker."""
    if last_breakpoint(prompt) < 0:
        return Tokens(input_tokens=tokens)
    ttls = {block.ttl for block in prompt.blocks} | {prompt.automatic_ttl}
    return Tokens(**{f"ephemeral_{'1h' if '1h' in ttls else '5m'}_input_tokens": tokens})


def _shortened(tokens: Tokens, number: int) -> Tokens:
    """Return tokens with up to `number` fewer of those that are sent or written."""
    left = {}
    for name in ("input_tokens", "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"):
        taken = min(number, getattr(tokens, name))
        left[name] = getattr(tokens, name) - taken
        number -= taken
    return replace(tokens, **left)


@dataclass(frozen=True, slots=True)
class Run:
    """What one scenario did: its turns in recorded order, and how it left the recording. `a + b` joins."""

    turns: tuple[Turn, ...] = ()
    misses: tuple[Request, ...] = ()
    """Requests that the recording cannot answer."""
    unplayed: tuple[Exchange, ...] = ()
    """Recorded turns that nobody asked for any more."""
    reshaped: tuple[Pair, ...] = ()
    """Pairs whose place in the conversation is another than the recorded one's."""
    problems: tuple[str, ...] = ()
    """Other reasons why this run cannot be judged, in plain sentences."""
    edits: tuple[str, ...] = ()
    """Reasons why this run cannot be judged until somebody edits the test or the agent, in plain sentences
    that say what to edit. No new recording helps."""
    unrecorded: tuple[str, ...] = ()
    """Why there is no recording of what was asked, in plain sentences."""
    misbilled: tuple[str, ...] = ()
    """Recorded usage that cannot be that of its prompt, in plain sentences."""
    leftovers: tuple[Exchange, ...] = ()
    """Unplayed turns of a cassette that others may use, too: by themselves they say nothing."""
    missed: tuple[Missed, ...] = ()
    """The `misses`, as far as they can be counted."""
    stood_in: tuple[StandIn, ...] = ()
    """What answered some of the `misses`, so that the run went on."""

    def against(self, baseline: Usage | None) -> Run:
        """Return the run with its leftovers as unplayed turns if the baseline has more turns."""
        if baseline is None or self.usage.turns >= baseline.turns:
            return self
        return replace(self, unplayed=self.unplayed + self.leftovers, leftovers=())

    @property
    def usage(self) -> Usage:
        """Usage of all turns together."""
        return sum((turn.usage for turn in self.turns), Usage())

    @property
    def best(self) -> Usage | None:
        """Usage of all turns in the best case: the cache serves all it may, what is unknown bills nothing.

        None where `usage` is the only case.
        """
        if not (self.is_unbounded or any(turn.best for turn in self.turns)):
            return None
        cases = (turn.best or turn.usage for turn in self.turns if turn.basis != Basis.UNKNOWN)
        unknown = sum(turn.basis == Basis.UNKNOWN for turn in self.turns)
        return sum(cases, Usage(unknown))

    @property
    def is_unbounded(self) -> bool:
        """Whether nobody knows what some turn bills at most."""
        return self.basis == Basis.UNKNOWN

    @property
    def recounted(self) -> Usage:
        """Usage of the accepted requests as this run counts them, minus the usage stored on acceptance."""
        known = (turn.recorded - turn.accepted for turn in self.turns if turn.recorded and turn.accepted)
        return sum(known, Usage())

    @property
    def basis(self) -> Basis:
        """The weakest basis of any turn."""
        return Basis.weakest(turn.basis for turn in self.turns)

    @property
    def departure(self) -> Verdict | None:
        """Return the verdict of a run that is not what was recorded, turn for turn; None where it is."""
        if self.unrecorded:
            return Verdict.UNRECORDED
        left = self.misses or self.unplayed or self.reshaped or self.problems or self.edits or self.misbilled
        return Verdict.STALE if left else None

    @property
    def is_measured(self) -> bool:
        """Whether it is what was recorded, turn for turn, and no turn's numbers are unknown."""
        return self.departure is None and not self.is_unbounded

    def __add__(self, other: Run) -> Run:
        return Run(
            self.turns + other.turns,
            self.misses + other.misses,
            self.unplayed + other.unplayed,
            self.reshaped + other.reshaped,
            self.problems + other.problems,
            self.edits + other.edits,
            self.unrecorded + other.unrecorded,
            self.misbilled + other.misbilled,
            self.leftovers + other.leftovers,
            self.missed + other.missed,
            self.stood_in + other.stood_in,
        )

    @property
    def broke_off(self) -> bool:
        """Whether a request got neither an answer nor a placeholder, so that nobody knows what follows."""
        return len(self.misses) > len(self.stood_in)

    @property
    def bounds(self) -> tuple[Usage, Usage | None] | None:
        """Return what a run bills at least and at most that asks more than was recorded, or of which not
        all is known.

        None for other runs. A recorded turn that is not asked for may only not have been reached: at least it
        is gone, at most it is asked as ever.
        """
        if self.departure is Verdict.UNRECORDED or not (self.missed or (self.best and not self.departure)):
            return None
        least = sum((one.least for one in self.missed), sum(map(self._least, self.turns), Usage()))
        usages = [one.most for one in self.missed] + [one.answer.usage for one in self.unplayed]
        known = [usage for usage in usages if usage is not None]
        if self.broke_off or self.is_unbounded or len(known) < len(usages):
            return least, None
        return least, sum((*known, *map(self._grown, self.turns)), self.usage)

    def _least(self, turn: Turn) -> Usage:
        """Return what a recorded turn bills at least; an empty usage if its basis is unknown."""
        if turn.basis == Basis.UNKNOWN:
            return Usage(1)
        usage, (times, tokens) = turn.best or turn.usage, self._stand_ins(turn)
        if not times or usage.main_tokens is None:
            return usage
        shortest = _shortened(usage.main_tokens, tokens)
        return usage.with_main(usage.main_rate, shortest)

    def _grown(self, turn: Turn) -> Usage:
        """Return by how much a real answer in the place of a placeholder may lengthen a recorded turn."""
        longest = max((miss.prompt.max_tokens or 0 for miss in self.misses), default=0)
        times, _ = self._stand_ins(turn)
        grown = _dearest(turn.pair.request.prompt, times * longest)
        return Usage.of(turn.usage.main_rate, grown, turns=0)

    def _stand_ins(self, turn: Turn) -> tuple[int, int]:
        """Return what `_stand_ins` returns of a recorded turn."""
        pair = turn.pair
        if not self.stood_in or pair.request.digest == pair.recorded.digest:
            return 0, 0
        return _stand_ins(self.stood_in, pair.request.prompt, pair.recorded.prompt)


def cut_off(pair: Pair) -> str | None:
    """Return why the recorded answer is too short or too long for the request as it is now, or None.

    `max_tokens` and `stop_sequences` decide that. What the answer would be instead, no recording tells.
    """
    if pair.answer.usage is None or pair.answer.message is None:
        return None
    message, output = pair.answer.message, pair.answer.usage.main_tokens.output_tokens
    return _by_limit(pair, message, output) or _by_stop(pair, message)


def _by_limit(pair: Pair, message: Mapping[str, Any], output: int) -> str | None:
    """Return why `max_tokens`, now or then, would have ended the answer elsewhere, or None.

    The limit holds for thinking and text together, as `output_tokens` does.
    """
    was, now = pair.recorded.prompt.max_tokens, pair.request.prompt.max_tokens
    if was is None or now is None:
        return None
    if now > was and message.get("stop_reason") == "max_tokens":
        return f"the recorded answer was cut off at {was:,} max_tokens, and {now:,} are asked for now"
    if now < was and now < output:
        return f"the recorded answer has {output:,} tokens, and at most {now:,} are asked for now"
    return None


def _by_stop(pair: Pair, message: Mapping[str, Any]) -> str | None:
    was, now = pair.recorded.prompt.stop_sequences, pair.request.prompt.stop_sequences
    ended = message.get("stop_sequence")
    if message.get("stop_reason") == "stop_sequence" and ended in was and ended not in now:
        return f"the recorded answer ended at the stop sequence {ended!r}, which is none now"
    contents = mappings(message.get("content"))
    texts = [str(content.get("text", "")) for content in contents if content.get("type") == "text"]
    for stop in now:
        if stop and stop not in was and any(stop in text for text in texts):
            return f"the recorded answer goes on after {stop!r}, which is a stop sequence now"
    return None
