"""Compare a run with what was accepted, and tell what an update will accept.

The numbers of a run always come from the recorded answers, which are the true ones. What was accepted is
measured from them in the same way and by the same counter, so that errors cancel and do not add up.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pytest_tokenbudget.budget.accepted import (
    AcceptedCassette,
    AcceptedTurn,
    edited,
    edits_between,
    format_accepted,
)
from pytest_tokenbudget.budget.baselines import Baseline, recording_digest
from pytest_tokenbudget.diagnosis.values import kind_of_difference
from pytest_tokenbudget.diagnosis.volatile import is_still_volatile, timed_as_recorded, with_times_of
from pytest_tokenbudget.metering.estimate import Estimate
from pytest_tokenbudget.metering.meter import Measured, Meter, Run, Turn, is_turn
from pytest_tokenbudget.model import Basis, Paired, Usage
from pytest_tokenbudget.replay.cassette_file import Interaction
from pytest_tokenbudget.replay.pairing import Recording
from pytest_tokenbudget.replay.playback import Ledger
from pytest_tokenbudget.replay.redaction import Secrets, redact_body
from pytest_tokenbudget.replay.traffic import Traffic
from pytest_tokenbudget.reports.build import Place
from pytest_tokenbudget.repository.baseline_history import MeasuredOn
from pytest_tokenbudget.wire.exchange import Accepted, Answer, Exchange, Pair, Request, StandIn
from pytest_tokenbudget.wire.prompt import Prompt, digest
from pytest_tokenbudget.wire.requests import canonical_body, rewritten

_COUNTED = (Basis.COUNTED, Basis.ESTIMATED)


def turn_indexes(exchanges: Sequence[Exchange]) -> list[int]:
    """Return the indexes of the exchanges that are turns, in order."""
    return [index for index, exchange in enumerate(exchanges) if is_turn(exchange)]


def digest_of_turns(exchanges: Sequence[Exchange]) -> str:
    """Return the `recording_digest` of the turns of a recording."""
    return recording_digest(exchanges[index] for index in turn_indexes(exchanges))


def accepted_in(cassettes: Sequence[AcceptedCassette], exchanges: Sequence[Exchange]) -> dict[int, Accepted]:
    """Return what was accepted in place of a recording's exchanges, by their index.

    Empty for another recording than the one that it was accepted on. Raises BaselineError.
    """
    if not cassettes:
        return {}
    turns = turn_indexes(exchanges)
    recording = recording_digest(exchanges[index] for index in turns)
    requests = [exchanges[index].request for index in turns]
    return {
        turns[of]: turn
        for cassette in cassettes
        if cassette.recording == recording
        for of, turn in cassette.apply(requests).items()
    }


# --- judging -----------------------------------------------------------------------------------------------


def replayed(
    meter: Meter,
    recording: Recording,
    *,
    misses: Sequence[Request],
    unplayed: Sequence[Exchange],
    reshaped: Sequence[Pair],
    stood_in: Sequence[StandIn] = (),
    doubtful: Collection[int] = (),
    whole: bool,
    only: Collection[int],
) -> Run:
    """Measure what was asked of a recording, as a change since it was accepted.

    A run that asks what was accepted has the numbers of then, and counts nothing. `whole` says that nobody
    else asks this recording, so that a turn that is not asked for is gone. `only` are the numbers of the
    exchanges that the scenario itself asked for: its turns.
    """
    accepted, pairs = recording.accepted, _at_accepted_times(recording)
    gone = {id(recording.exchanges[index]) for index, turn in accepted.items() if turn.request is None}
    unplayed = tuple(exchange for exchange in unplayed if id(exchange) not in gone)
    if accepted and not (misses or unplayed or reshaped) and _is_as_accepted(recording, pairs):
        return Run(tuple(_as_accepted(meter, recording, pairs, only)))
    meter = _as_proved(meter, accepted)
    run = meter.replayed(
        recording.exchanges,
        pairs,
        misses=misses,
        unplayed=unplayed,
        reshaped=reshaped,
        stood_in=stood_in,
        doubtful=doubtful,
        only=only,
        measured=None if whole else _shared(meter, recording)[0],
    )
    return _since_accepted(meter, run, recording, pairs, whole=whole) if accepted else run


def _at_accepted_times(recording: Recording) -> Sequence[Pair]:
    """Return what is asked, at the accepted time of each turn that was accepted with a clock.

    No time goes by in a replay: what its clock says is not the agent's doing.
    """
    pairs: list[Pair] = []
    for pair in recording.pairs:
        accepted = recording.accepted.get(pair.index)
        if accepted and accepted.volatile and accepted.request:
            request = _at_times_of(accepted.request, pair.request)
            is_accepted = request.digest == accepted.request.digest
            how = Paired.EXACT if is_accepted else pair.how
            pair = replace(pair, request=request, how=how, by_acceptance=is_accepted)
        pairs.append(pair)
    return pairs


def _at_times_of(was: Request, now: Request) -> Request:
    """Return the request `now` with the times of `was` where both tell one of the same form."""
    edits = (
        replace(edit, added=(with_times_of("".join(edit.removed), "".join(edit.added)),))
        for edit in edits_between(was, now)
    )
    return edited(was, [edit for edit in edits if edit.added != ("".join(edit.removed),)])


def _as_proved(meter: Meter, accepted: Mapping[int, Accepted]) -> Meter:
    """Return a meter that takes prefixes for volatile which were accepted so, while they hold a value there.

    The times that they were accepted with stand; other ones are those of a replay.
    """
    known = {index: turn.request for index, turn in accepted.items() if turn.volatile and turn.request}
    if not known:
        return meter

    def volatile(pairs: Sequence[Pair]) -> set[int]:
        proved = {p.index for p in pairs if _stays_volatile(accepted.get(p.index), p.request)}
        return proved.union(meter.volatile(pairs))

    def timed(pairs: Iterable[Pair]) -> dict[int, Prompt]:
        proved, others = _parted(pairs, known)
        stand = timed_as_recorded(replace(pair, recorded=known[pair.index]) for pair in proved)
        as_accepted = (
            replace(pair, request=replace(pair.request, prompt=stand[pair.index]))
            if pair.index in stand
            else pair
            for pair in proved
        )
        return {**meter.timed(others), **stand, **timed_as_recorded(as_accepted, time_goes_by=True)}

    return replace(meter, volatile=volatile, timed=timed)


def _parted(pairs: Iterable[Pair], known: Collection[int]) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs whose index is `known`, and the others."""
    parts: tuple[list[Pair], list[Pair]] = ([], [])
    for pair in pairs:
        parts[pair.index not in known].append(pair)
    return parts


def _shared(meter: Meter, recording: Recording) -> tuple[Measured, Measured]:
    """Return what was measured of a recording that several tests ask: as it is asked, and as accepted."""
    return meter.shared.setdefault(recording, (Measured(), Measured()))


def _turn_pairs(recording: Recording, pairs: Iterable[Pair]) -> dict[int, Pair]:
    """Return the paired turns by index, in recorded order."""
    turns = [pair for pair in pairs if is_turn(recording.exchanges[pair.index])]
    return {pair.index: pair for pair in sorted(turns, key=lambda pair: pair.index)}


def _is_as_accepted(recording: Recording, pairs: Sequence[Pair]) -> bool:
    """Return whether every turn asks exactly what was accepted, or if nothing was, what was recorded."""
    for index, pair in _turn_pairs(recording, pairs).items():
        accepted = recording.accepted.get(index)
        was = pair.recorded if accepted is None else accepted.request
        if was is None or not _same_betas(was.prompt, pair.request.prompt):
            return False
        if accepted is None and not (pair.is_recorded and pair.answer.usage):
            return False
        if accepted is not None and pair.request.digest != was.digest:
            return False
    return True


def _same_betas(was: Prompt, now: Prompt) -> bool:
    return was.betas is None or was.betas == now.betas


def _as_accepted(
    meter: Meter, recording: Recording, pairs: Sequence[Pair], only: Collection[int]
) -> Iterator[Turn]:
    exchanges = meter.from_one_start(recording.exchanges)
    for index, pair in _turn_pairs(recording, pairs).items():
        if index not in only:
            continue
        accepted, answer = recording.accepted.get(index), exchanges[index].answer
        usage = accepted.usage if accepted else meter.tiered(answer.usage or Usage(1))
        basis, total = accepted.basis if accepted else Basis.RECORDED, usage.main_tokens.prompt_tokens
        same = replace(pair, answer=answer, recorded=pair.request, by_acceptance=accepted is not None)
        known, volatile = Estimate(total, basis, total, total), bool(accepted and accepted.volatile)
        yield Turn(same, usage, usage, known, accepted=usage, volatile=volatile)


def _since_accepted(
    meter: Meter, run: Run, recording: Recording, asked: Sequence[Pair], *, whole: bool
) -> Run:
    if whole:
        was = meter.replayed(recording.exchanges, _accepted_pairs(recording, None))
    else:  # what others have asked before may have left a cache, as accepted too
        pairs = _accepted_pairs(recording, set(_turn_pairs(recording, asked)))
        mine, shared = {turn.pair.index for turn in run.turns}, _shared(meter, recording)[1]
        was = meter.replayed(recording.exchanges, pairs, only=mine, measured=shared)
    before = {turn.pair.index: turn for turn in was.turns}
    turns = []
    for turn in run.turns:
        index = turn.pair.index
        accepted = recording.accepted.get(index)
        stored = accepted.usage if accepted else meter.tiered(turn.pair.answer.usage or Usage(1))
        if index in before:
            turn = meter.since(turn, before[index], stored)
            turn = replace(turn, volatile=_stays_volatile(accepted, turn.pair.request))
        elif accepted and accepted.request is None:
            turn = replace(turn, recorded=None, estimate=replace(turn.estimate, parts=()), came_back=True)
        turns.append(turn)
    known = {id(recording.exchanges[index]): turn for index, turn in recording.accepted.items()}
    unplayed = tuple(_as_it_was_accepted(one, known.get(id(one))) for one in run.unplayed)
    return replace(run, turns=tuple(turns), unplayed=unplayed)


def _stays_volatile(accepted: Accepted | None, request: Request) -> bool:
    """Return whether a turn that was accepted as volatile may still be it."""
    if accepted is None or accepted.request is None or not accepted.volatile:
        return False
    return is_still_volatile(accepted.request.prompt, request.prompt)


def _as_it_was_accepted(exchange: Exchange, accepted: Accepted | None) -> Exchange:
    """Return an exchange with the request and the usage that were accepted in its place, if any were."""
    if accepted is None or accepted.request is None:
        return exchange
    return Exchange(accepted.request, replace(exchange.answer, usage=accepted.usage))


def _accepted_pairs(recording: Recording, among: set[int] | None) -> Iterator[Pair]:
    """Yield the turns as they were accepted, beside the recorded ones."""
    for index in turn_indexes(recording.exchanges):
        exchange, accepted = recording.exchanges[index], recording.accepted.get(index)
        request = exchange.request if accepted is None else accepted.request
        if request is not None and (among is None or index in among):
            how = Paired.EXACT if request.digest == exchange.request.digest else Paired.LINEAGE
            yield Pair(index, request, exchange.request, exchange.answer, how)


def accepted_usage(meter: Meter, recording: Recording) -> Usage:
    """Return what a recording and what was accepted of it come to, by what was written down."""
    usages, exchanges = [], meter.from_one_start(recording.exchanges)
    for index in turn_indexes(exchanges):
        accepted, answer = recording.accepted.get(index), exchanges[index].answer
        usages.append(accepted.usage if accepted else meter.tiered(answer.usage or Usage(1)))
    return sum(usages, Usage())


def recounted(meter: Meter, recording: Recording) -> Iterator[tuple[Accepted, Turn]]:
    """Yield what was accepted in place of each turn, and that turn as this run measures it anew."""
    for turn in meter.replayed(recording.exchanges, _accepted_pairs(recording, None)).turns:
        if accepted := recording.accepted.get(turn.pair.index):
            yield accepted, turn


# --- updating ----------------------------------------------------------------------------------------------


def without_gone_turns(run: Run) -> Run:
    """Return a run that accepts that turns are gone, if nothing else keeps it from being judged."""
    if run.turns and not (run.misses or run.reshaped or run.problems or run.edits):
        return replace(run, unplayed=())
    return run


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Tells what the baseline of a scenario is measured on, and what is accepted with it."""

    meter: Meter
    counter: str
    """The name of what counts changed prompts, with its version."""
    secrets: Secrets
    """What is hidden in requests before they are written."""

    def of(
        self,
        place: Place,
        run: Run,
        ledgers: Mapping[Ledger, bool],
        written: Sequence[Interaction] | None,
        baseline: Baseline | None,
        accepted: Sequence[AcceptedCassette],
        *,
        due: bool,
    ) -> MeasuredOn:
        """Return what stands beside the usage of `run`, the scenario at `place`, which may be `due`.

        `ledgers` says of each cassette whether it is the scenario's own; `written` is what that holds where
        this run wrote it; `baseline` and `accepted` are what is committed now.
        """
        foreign = {str(rate): dict(ttls) for rate, ttls in self.meter.foreign_reads(run).items()}
        turns = {_identity(turn.pair.answer): turn for turn in run.turns}
        digests, cassettes = [], []
        for ledger, own in ledgers.items():
            calls = own and ledger.rules.calls
            recorded = _exchanges(ledger, written if own else None, calls=calls)
            if recorded is None:
                return MeasuredOn(
                    id=place.id, recording=None, foreign_reads=foreign, counted_by=None, due=due, accepted=""
                )
            recorded = self.meter.from_one_start(recorded)
            recorded = [recorded[index] for index in turn_indexes(recorded)]
            new = own and written is not None
            digests.append(recording_digest(recorded) if new else ledger.recording.made_once(digest_of_turns))
            before = next((one for one in accepted if one.recording == digests[-1]), None)
            changed = () if calls else tuple(self._changed(recorded, turns, before, own=own))
            if changed:
                cassettes.append(AcceptedCassette(digests[-1], changed))
        counted = any(turn.basis in _COUNTED for cassette in cassettes for turn in cassette.turns)
        counter = baseline.counted_by if baseline and list(accepted) == cassettes else self.counter
        return MeasuredOn(
            id=place.id,
            recording=digests[0] if len(digests) == 1 else digest(*digests)[:12],
            foreign_reads=foreign,
            counted_by=counter if counted else None,
            due=due,
            accepted=format_accepted({place.name: cassettes}) if cassettes else "",
        )

    def _changed(
        self,
        recorded: Sequence[Exchange],
        turns: Mapping[int, Turn],
        before: AcceptedCassette | None,
        *,
        own: bool,
    ) -> Iterator[AcceptedTurn]:
        """Yield the turns of one recording that are not as recorded, as they are to be accepted."""
        written = {turn.of: turn for turn in before.turns} if before else {}
        known = before.apply([exchange.request for exchange in recorded]) if before else {}
        for of, exchange in enumerate(recorded):
            turn = turns.get(_identity(exchange.answer))
            if turn is None:
                if own:  # others may ask for the turns of another cassette
                    yield AcceptedTurn(of, Usage(), Basis.RECORDED, gone=True)
                continue
            request = exchange.request if turn.pair.is_recorded else self._hidden(turn.pair.request)
            was, usage = known.get(of), self.meter.tiered(exchange.answer.usage or Usage(1))
            as_before = was and (was.usage, was.volatile) == (turn.usage, turn.volatile)
            if was and as_before and was.request and says_the_same(was.request, request):
                yield written[of]
            elif usage != turn.usage or not says_the_same(exchange.request, request):
                edits = edits_between(exchange.request, request)
                yield AcceptedTurn(of, turn.usage, turn.basis, edits, volatile=turn.volatile)

    def _hidden(self, request: Request) -> Request:
        """Return a request without secrets."""
        body = canonical_body(request.body or {})
        if (hidden := redact_body(body, self.secrets)) == body:
            return request
        return rewritten(request, json.loads(hidden), request.endpoint, request.prompt.betas)


def _identity(answer: Answer) -> int:
    """Return a number that two answers share only if one is the other, with whatever split and times."""
    return id(answer if answer.message is None else answer.message)


def _exchanges(
    ledger: Ledger, written: Sequence[Interaction] | None, *, calls: bool
) -> Sequence[Exchange] | None:
    """Return what the recording of a ledger holds after this run, or None if it is not known yet.

    A new recording is what was `written`, without secrets. One that records (`calls`) and wrote nothing has
    what it had: what it does not hold is called, and nothing is accepted in place of it.
    """
    if written is not None:
        return Traffic(written).exchanges
    return ledger.recording.exchanges if calls or not ledger.calls else None


def says_the_same(was: Request, now: Request) -> bool:
    """Return whether two requests differ at most in values that a program fills in anew each time."""
    if was.digest == now.digest:
        return _same_betas(was.prompt, now.prompt)
    return all(
        len(edit.removed) == len(edit.added)
        and all(
            old == new or kind_of_difference(old, new).is_value
            for old, new in zip(edit.removed, edit.added, strict=True)
        )
        for edit in edits_between(was, now)
    )
