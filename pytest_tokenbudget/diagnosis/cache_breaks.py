"""Why a turn no longer reads what it read: first block and character, kind of value, parameter, marker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pytest_tokenbudget.diagnosis.block_changes import compare
from pytest_tokenbudget.diagnosis.break_text import api_word
from pytest_tokenbudget.diagnosis.breaks import READS, Break, finding_of
from pytest_tokenbudget.diagnosis.cache_losses import Chains, Loss, count_of, losses, rank, shared
from pytest_tokenbudget.diagnosis.costs import TurnCosts
from pytest_tokenbudget.diagnosis.findings import Finding
from pytest_tokenbudget.diagnosis.places import place, text_of, tool_names
from pytest_tokenbudget.diagnosis.wording import listed
from pytest_tokenbudget.metering.cache_chain import Chain
from pytest_tokenbudget.metering.cache_rules import LOOK_BACK, minimum
from pytest_tokenbudget.metering.run import Run
from pytest_tokenbudget.sources.tree import SourceTree
from pytest_tokenbudget.wire.prompt import LEVELS, Ttl

_END = "the last message"


def cache_breaks(
    run: Run,
    costs: Sequence[TurnCosts],
    sources: SourceTree | None,
    minimums: Mapping[str, int] | None = None,
) -> tuple[list[Finding], frozenset[int]]:
    """One finding for each cause, with what it costs a run, and the turns that they explain.

    `costs` holds one entry a turn (`Ledger.split`): the cache's share is told here. `minimums` overrides the
    shortest cacheable prefix by model.
    """
    groups: dict[tuple[object, ...], list[Break]] = {}
    chains = Chains(run)
    causes = [cause for loss in losses(run, chains) if (cause := _explain(loss, minimums or {}))]
    explained = {cause.turn for cause in causes}
    rest = (index for index in range(len(run.turns)) if index not in explained)
    causes += [cause for index in rest if (cause := _lifetime(run, index, chains))]
    for cause in causes:
        groups.setdefault(cause.key, []).append(cause)
    findings = [finding_of(group, costs, sources) for group in groups.values()]
    return findings, frozenset(one.turn for group in groups.values() for one in group)


def _explain(loss: Loss, minimums: Mapping[str, int]) -> Break | None:
    """By what an earlier turn cached; else, where the cache was warm before the run, by what was recorded."""
    found = _cause_of(loss, minimums)
    if found is None and loss.warm and loss.source is not None:
        across = replace(loss, source=None, reference=loss.recorded, before=loss.recorded)
        found = _cause_of(across, minimums)
    return found


def _cause_of(loss: Loss, minimums: Mapping[str, int]) -> Break | None:
    return (
        _dropped(loss)
        or _changed(loss)
        or _parameters(loss)
        or _too_short(loss, minimums)
        or _out_of_sight(loss)
        or _moved(loss)
    )


def _dropped(loss: Loss) -> Break | None:
    """No marker is left on the turn, or on the turn that wrote what it read."""
    for before, now in ((loss.recorded, loss.now), (loss.before, loss.reference)):
        if before.breakpoints and not now.breakpoints:
            marks = list(_marks(before))
            cause = f"cache_control is dropped from {listed(marks)}, so that nothing is cached"
            return Break(loss.turn, marks[0], cause, loss.tokens, effect=_effect(loss))
    return None


def _lifetime(run: Run, index: int, chains: Chains) -> Break | None:
    """Tokens that are written for another lifetime, at another price."""
    turn = run.turns[index]
    if turn.recorded is None:
        return None
    was, now = (usage.main_tokens.ephemeral_1h_input_tokens for usage in (turn.recorded, turn.usage))
    if was == now:
        return None
    before, after = _marks(chains.recorded(index)), _marks(chains.now(index))
    for where, ttl in after.items():
        if before.get(where, ttl) != ttl:
            cause = f"cache_control asks for {ttl} where it asked for {before[where]}"
            return Break(
                index, where, cause, abs(now - was), effect=f"are written for {ttl}, at another price"
            )
    return None


def _effect(loss: Loss) -> str:
    return READS if loss.reads else "are no longer cached"


def _changed(loss: Loss) -> Break | None:
    """The content leaves that of the reference before the end of what the reference caches."""
    reference, now = loss.reference, loss.now
    at = shared(now, reference)
    end = max(reference.breakpoints, default=-1)
    if not loss.reads or at > end or (at < len(now.links) and _parted_before(loss, at)):
        return None
    was, new = ([link.block for link in side.links] for side in (reference, now))
    difference = compare(was, new, at, tool_names(reference.prompt) | tool_names(now.prompt))
    api = api_word(difference)
    place = difference.new.where if difference.new else None
    recorded = next((text_of(b) for b in loss.recorded.prompt.blocks if b.where == place), "")
    across = loss.source is None
    return Break(loss.turn, difference.where, "", loss.tokens, api, difference, across, recorded=recorded)


def _parted_before(loss: Loss, at: int) -> bool:
    """Whether the two turns had parted there, or before, when they were recorded (another subagent)."""
    parted = shared(loss.recorded, loss.before)
    if loss.source is None or parted >= len(loss.recorded.links):
        return False
    old, new = loss.recorded.links[parted].block, loss.now.links[at].block
    grown = count_of(loss.now.prompt.blocks, old.level) - count_of(loss.recorded.prompt.blocks, old.level)
    level, number, *rest = rank(old)
    return rank(new) >= (level, number + max(grown, 0), *rest)


def _parameters(loss: Loss) -> Break | None:
    """Model, tool_choice, thinking, ... that differ from the reference's, and did not when recorded."""
    if not loss.reads:
        return None
    across = loss.source is None
    for level in LEVELS:
        now, then = loss.now.scopes.get(level, {}), loss.reference.scopes.get(level, {})
        own, was = loss.recorded.scopes.get(level, {}), loss.before.scopes.get(level, {})
        names = [
            name
            for name in sorted(now.keys() | then.keys())
            if now.get(name) != then.get(name) and own.get(name) == was.get(name)
        ]
        if "model" in names:
            cause = f"{loss.now.prompt.model} cannot read what {loss.reference.prompt.model} cached"
            return Break(loss.turn, "model", cause, loss.tokens, "model_changed", across=across)
        if names:
            verb = "differs" if len(names) == 1 else "differ"
            since = "the recording" if across else "an earlier turn"
            cause = f"{listed(names)} {verb} from {since}, which loses the cache from {level} on"
            return Break(loss.turn, names[0], cause, loss.tokens, across=across)
    return None


def _too_short(loss: Loss, minimums: Mapping[str, int]) -> Break | None:
    if not loss.now.breakpoints or loss.now_cached:
        return None
    least = minimum(loss.now.model, minimums)
    cause = f"the prefix is shorter than the {least:,} tokens that {loss.now.prompt.model} caches at least"
    return Break(loss.turn, [*_marks(loss.now)][-1], cause, loss.tokens, effect=_effect(loss))


def _out_of_sight(loss: Loss) -> Break | None:
    """The cached prefix is there, but the walk back from each breakpoint ends before it."""
    at = shared(loss.now, loss.reference)
    ends = [position for position in loss.reference.breakpoints if position < at]
    after = [position for position in loss.now.breakpoints if ends and position >= ends[-1]]
    if loss.source is None or not after or min(after) - ends[-1] < LOOK_BACK:
        return None
    cause = (
        f"{min(after) - ends[-1]} blocks stand between the cached prefix and the next breakpoint, "
        f"and the API looks back over {LOOK_BACK} only"
    )
    return Break(loss.turn, [*_marks(loss.now)][-1], cause, loss.tokens)


def _moved(loss: Loss) -> Break | None:
    """A marker that is gone, or stands elsewhere, on this turn or on the one that wrote what it read."""
    for before, now in ((loss.recorded, loss.now), (loss.before, loss.reference)):
        was, marks = _marks(before), _marks(now)
        gone = [where for where in was if where not in marks]
        to = [where for where in marks if where not in was]
        if gone:
            moved = f"moved from {listed(gone)} to {listed(to)}" if to else f"is dropped from {listed(gone)}"
            return Break(loss.turn, gone[-1], f"cache_control {moved}", loss.tokens, effect=_effect(loss))
    return None


def _marks(chain: Chain) -> dict[str, Ttl]:
    """The places of the breakpoints, the end of the conversation by that name, and their lifetimes."""
    names, last = tool_names(chain.prompt), len(chain.links) - 1
    marks: dict[str, Ttl] = {}
    for position, ttl in chain.breakpoints.items():
        block = chain.links[position].block
        at_end = position == last and block.level == "messages"
        marks[_END if at_end else place(block, names).where] = ttl
    return marks
