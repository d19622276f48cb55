"""Tell how the turns changed: more, fewer, in another order or shape, on another model, in a loop."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

from pytest_tokenbudget.budget.verdict import CostOf, Starts
from pytest_tokenbudget.diagnosis.block_changes import compare, excerpt
from pytest_tokenbudget.diagnosis.costs import TurnCosts
from pytest_tokenbudget.diagnosis.prompt_parts import (
    TOOL_RESULT,
    edit_of,
    opening_of,
    said_as,
    text_of,
    to_json,
    tool_names,
)
from pytest_tokenbudget.metering.cache_rules import cache_model
from pytest_tokenbudget.metering.cache_split import as_written
from pytest_tokenbudget.metering.estimate import assumed
from pytest_tokenbudget.metering.meter import Run
from pytest_tokenbudget.metering.models import model_row
from pytest_tokenbudget.metering.prompt_cache import newly_refused
from pytest_tokenbudget.model import BY_HAND, Basis, Finding, FindingKind, Source, Usage
from pytest_tokenbudget.sequences import common_prefix
from pytest_tokenbudget.sources import SourceTree
from pytest_tokenbudget.wire.exchange import Exchange, Request
from pytest_tokenbudget.wire.prompt import Block, Prompt
from pytest_tokenbudget.wire.requests import MISSING, first_other_value
from pytest_tokenbudget.wording import count, listed, money, plural, signed_count, signed_range, turns

_NAMED = 3
"""How many turns are described one by one."""
_SIZES: Mapping[str, Callable[[Prompt], int]] = {
    "message": lambda prompt: prompt.message_count,
    "tool result": lambda prompt: sum(block.kind == TOOL_RESULT for block in prompt.blocks),
}
"""The sizes that make the shape of a conversation, by name."""


def turn_changes(
    run: Run, costs: Sequence[TurnCosts], cost: CostOf, sources: SourceTree | None
) -> list[Finding]:
    """Return what changed about the turns themselves; `costs` holds one entry a turn."""
    in_order, rest = reordered(run)
    return [
        *in_order,
        *_added(rest, sources),
        *_removed(rest, cost, run),
        *_returned(run, cost),
        *_reshaped(rest),
        *_models(run, costs, sources),
        *_unknown(run, sources),
        *_assumed(run),
    ]


def recorded_anew(
    run: Run, baseline: Usage, cost: CostOf, starts: Starts | None, *, names_recording: bool
) -> list[Finding]:
    """Tell that the recording itself bills something else than the baseline, as it was made after it.

    What it adds in dollars is that of both sides from one start, as they are judged. `names_recording` says
    whether the baseline names the recording that it was measured on.
    """
    recorded = sum((turn.recorded for turn in run.turns if turn.recorded), Usage())
    if not run.is_measured or recorded == baseline or (starts and _same_tokens(recorded, baseline)):
        return []
    was, now = baseline.tokens, recorded.tokens
    text = (
        f"the recording bills {plural(recorded.turns, 'turn')} with {now.prompt_tokens:,} prompt and "
        f"{now.output_tokens:,} output tokens, where the baseline has {plural(baseline.turns, 'turn')} with "
        f"{was.prompt_tokens:,} and {was.output_tokens:,}: it was made after the baseline"
    )
    first = min(turn.pair.answer.recording_session for turn in run.turns)
    if later := [turn.pair.request for turn in run.turns if turn.pair.answer.recording_session > first]:
        text += f"; called anew: {asking(later)}"
    if _same_tokens(recorded, baseline):
        text = "the recording bills the tokens of the baseline, of which other parts are read from the cache"
        if not names_recording:
            text += (
                ": the baseline does not say which recording it was measured on (version 1 of its file), so "
                "it is taken for this one; where it was another, an update is all that is needed"
            )
    if starts:
        baseline, recorded = as_written(baseline, starts.baseline), as_written(recorded, starts.measured)
    before, after = cost(baseline), cost(recorded)
    amount = None if before is None or after is None else after - before
    return [
        Finding(
            FindingKind.RECORDING_CHANGED, "recording", text, now.prompt_tokens - was.prompt_tokens, amount
        )
    ]


def bounds(run: Run, baseline: Usage | None, cost: CostOf) -> list[Finding]:
    """Tell the bounds of what a run adds to its baseline, if it asks for more, or not all of it is known."""
    if run.bounds is None:
        return []
    least, most = run.bounds
    was = baseline or Usage()
    kind = FindingKind.TURNS_CHANGED if run.missed else FindingKind.UNKNOWN
    if most is None:
        told = _at_least(run, least, was, cost)
        return [Finding(kind, "bounds", told)] if told else []
    low, high = (least - was).tokens, (most - was).tokens
    said = [
        f"{signed_range(low.prompt_tokens, high.prompt_tokens, count)} prompt tokens",
        f"{signed_range(low.output_tokens, high.output_tokens, count)} output tokens",
    ]
    before, cheapest, dearest = cost(was), cost(least), cost(most)
    if before is not None and cheapest is not None and dearest is not None:
        dollars = signed_range(float(cheapest - before), float(dearest - before), money)
        said.append(f"{dollars} a run")
    return [Finding(kind, "bounds", f"as far as it can be told without recording: {', '.join(said)}")]


def _at_least(run: Run, least: Usage, was: Usage, cost: CostOf) -> str:
    """Return what a run without an upper bound comes to at least, in words; signed if that is a growth.

    Empty if nothing of it can be counted.
    """
    if run.broke_off:
        counted = sum(one.least.tokens.prompt_tokens for one in run.missed)
        text = f"the prompts that nothing answers count at least {counted:,} tokens"
        return f"what follows cannot be told; {text}"
    tokens, before = least.tokens.prompt_tokens, was.tokens.prompt_tokens
    cheapest, dollars = cost(least), cost(was)
    if not tokens:
        return ""
    if tokens < before or cheapest is None or dollars is None:
        return f"what can be counted is {tokens:,} prompt tokens, where the baseline has {before:,}"
    grown = f"+{count(tokens - before)} prompt tokens"
    if cheapest >= dollars:
        grown += f" and +{money(float(cheapest - dollars))}"
    return f"as far as it can be told without recording: at least {grown} a run"


def _same_tokens(one: Usage, other: Usage) -> bool:
    """Return whether two usages differ at most in how their prompts are split by the cache."""
    uncached = [
        (usage.turns, {r: (t.prompt_tokens, t.output_tokens) for r, t in usage.by_rate.items()})
        for usage in (one, other)
    ]
    return uncached[0] == uncached[1]


def other_start(starts: Starts | None) -> list[Finding]:
    """Tell that the recording and that of the baseline began with different caches, and what is compared."""
    if starts is None:
        return []
    was, now = (
        sum(amount for ttls in foreign.values() for amount in ttls.values())
        for foreign in (starts.baseline, starts.measured)
    )
    text = (
        f"not the same start: this recording reads {now:,} tokens from a prompt cache that it did not fill "
        f"itself, that of the baseline {was:,}; the cost and cache share of both are compared with those "
        "tokens as written"
    )
    return [Finding(FindingKind.OTHER_START, "start", text)]


def _added(run: Run, sources: SourceTree | None) -> Iterator[Finding]:
    if not run.misses:
        return
    usual = _calls_of(turn.pair.recorded.prompt for turn in run.turns)
    usual |= _calls_of(exchange.request.prompt for exchange in run.unplayed)
    loops = [loop for request in run.misses if (loop := _loop(run, request, usual))]
    if loops:
        text = f"the agent loops: {listed(list(dict.fromkeys(loops))[:_NAMED])}"
        yield Finding(FindingKind.TURNS_CHANGED, "loop", text)
    openings, kin, others = _by_conversation(run, run.misses)
    asked = {turn.pair.request.digest for turn in run.turns}
    others += [request for request in openings if request.digest in asked]
    openings = [request for request in openings if request.digest not in asked]
    if openings:
        text = f"the agent starts {plural(len(openings), 'conversation')} more than recorded"
        yield _more(run, openings, text, asking([*openings, *kin]), sources)
    if others:
        text = f"the agent asks {plural(len(others), 'turn')} that the recording does not have"
        yield _more(run, others, text, asking(others), sources)


def _more(run: Run, requests: Sequence[Request], what: str, said: str, sources: SourceTree | None) -> Finding:
    """Return the finding that `requests` are asked and not recorded, with the line of the text that asks."""
    source = _line_of(run, requests, sources) if sources else None
    origin = f", from {source}" if source else ""
    text = f"{what}: {said}{origin}{_first_difference(run, requests[0])}"
    return Finding(FindingKind.TURNS_CHANGED, "added", text, source=source)


def _line_of(run: Run, requests: Sequence[Request], sources: SourceTree) -> Source | None:
    """Return the line that holds, or fills in, what a request says and no recorded one does.

    The last text comes first. None if no line does, or several do.
    """
    recorded = (*(turn.pair.recorded for turn in run.turns), *(one.request for one in run.unplayed))
    known = {block.digest for request in recorded for block in request.prompt.blocks}
    for block in (block for request in requests for block in reversed(request.prompt.blocks)):
        if block.kind == "text" and block.role != "assistant" and block.digest not in known:
            location = sources.locate("", text_of(block))
            if source := location.source or location.filled:
                return source
    return None


def _first_difference(run: Run, request: Request) -> str:
    """Return where a request leaves the recorded one that begins most like it, in words.

    Empty if nothing is recorded, or if every recorded turn is asked and that one is on another model, or
    differs in whether it offers tools.
    """
    recorded = [one.request for one in run.unplayed] or [turn.pair.recorded for turn in run.turns]
    if not recorded:
        return ""
    nearest = max(recorded, key=lambda one: _begin_alike(one.prompt, request.prompt))
    if not run.unplayed and _kind(nearest.prompt) != _kind(request.prompt):
        return ""  # it is none of those that are recorded, changed
    return f"; {difference_of(nearest, request)}"


def _kind(prompt: Prompt) -> tuple[str, bool]:
    return prompt.model, prompt.offers_tools


def difference_of(was: Request, now: Request) -> str:
    """Return where two requests first differ, in words: the place, and a piece of each text or value."""
    at, (old, new) = _begin_alike(was.prompt, now.prompt), (was.prompt.blocks, now.prompt.blocks)
    if at == len(old) == len(new):
        option = first_other_value(was, now)
        if option is None:
            return "the first difference is in its headers"
        values = (("was", option.was), ("now", option.now))
        said = [f"{side} {excerpt(to_json(value), 0)}" for side, value in values if value is not MISSING]
        return f"the first difference is {option.path}: {', '.join(said)}"
    change = compare(old, new, at, tool_names(now.prompt))
    pieces = [f'{side} "{text}"' for side, text in (("was", change.was), ("now", change.now)) if text]
    return f"the first difference is {change.where}: {', '.join(pieces)}"


def _begin_alike(one: Prompt, other: Prompt) -> int:
    """Return how many blocks two prompts begin with alike."""
    return common_prefix([block.digest for block in one.blocks], [block.digest for block in other.blocks])


def _removed(run: Run, cost: CostOf, whole: Run) -> Iterator[Finding]:
    """Yield findings for the recorded turns of `run`, a part of `whole`, that nobody asks for.

    Where other requests got no answer, these may only not have been reached: that is no saving.
    """
    why = " (an agent ends where it gets no answer)" if whole.broke_off else ""
    exchanges = {id(exchange.request): exchange for exchange in run.unplayed}
    openings, kin, others = _by_conversation(run, [exchange.request for exchange in run.unplayed])
    if openings:
        noun, verb = plural(len(openings), "conversation"), "is" if len(openings) == 1 else "are"
        gone = [exchanges[id(request)] for request in (*openings, *kin)]
        yield _fewer(whole, gone, cost, f"{noun} of the recording {verb} not started{why}")
    if others:
        noun, verb = plural(len(others), "recorded turn"), "is" if len(others) == 1 else "are"
        gone = [exchanges[id(request)] for request in others]
        yield _fewer(whole, gone, cost, f"{noun} {verb} not asked for any more{why}")


def _fewer(run: Run, gone: Sequence[Exchange], cost: CostOf, text: str) -> Finding:
    usages = [exchange.answer.usage for exchange in gone]
    known = [usage for usage in usages if usage is not None]
    tokens = -sum(usage.tokens.prompt_tokens for usage in known) if len(known) == len(usages) else None
    costs = [cost(usage) for usage in known]
    priced = [one for one in costs if one is not None]
    amount = -sum(priced, Decimal(0)) if len(priced) == len(usages) else None
    text = f"{text}: {asking([exchange.request for exchange in gone])}"
    if run.misses:
        was = [f"{-tokens:,} prompt tokens"] if tokens is not None else []
        was += [money(float(-amount))] if amount is not None else []
        text += f" (as recorded: {', '.join(was)})" if was else ""
        tokens = amount = None
    return Finding(FindingKind.TURNS_CHANGED, "removed", text, tokens, amount)


def _returned(run: Run, cost: CostOf) -> Iterator[Finding]:
    """Yield a finding for the turns that are asked for again, though it was accepted that they are gone."""
    back = {i: turn for i, turn in enumerate(run.turns) if turn.came_back and turn.basis != Basis.UNKNOWN}
    if back:
        usage = sum((turn.usage for turn in back.values()), Usage())
        verb, was = ("is", "was") if len(back) == 1 else ("are", "were")
        tokens, what = usage.tokens.prompt_tokens, asking([turn.pair.request for turn in back.values()])
        text = f"{plural(len(back), 'turn')} {verb} asked for again that {was} accepted as gone: {what}"
        recorded = asking([turn.pair.recorded for turn in back.values()])
        text += f", recorded as {recorded}" if recorded != what else ""
        said = f"{text} ({signed_count(tokens)} tokens)"
        yield Finding(FindingKind.GROWTH, turns(back), said, tokens, cost(usage))


def _reshaped(run: Run) -> Iterator[Finding]:
    """Yield findings for requests that stand at another place of the conversation than recorded."""
    pairs = {id(turn.pair): index for index, turn in enumerate(run.turns)}
    for pair in run.reshaped[:_NAMED]:
        index = pairs.get(id(pair))
        was, now = pair.recorded.prompt, pair.request.prompt
        where = f"turn {index + 1}" if index is not None else "reshaped"
        text = f"{where}: {_shape(was, now)} ({asked(now)}); {difference_of(pair.recorded, pair.request)}"
        yield Finding(FindingKind.TURNS_CHANGED, where, text)
    if len(run.reshaped) > _NAMED:
        text = f"{plural(len(run.reshaped) - _NAMED, 'more turn')} of another shape than recorded"
        yield Finding(FindingKind.TURNS_CHANGED, "reshaped", text)


def _shape(was: Prompt, now: Prompt) -> str:
    old, new = ([block.digest for block in prompt.level("messages")] for prompt in (was, now))
    if old != new and sorted(old) == sorted(new):
        return "the messages come in another order than recorded"
    for noun, size in _SIZES.items():
        if size(now) != size(was):
            sizes = f"{plural(size(now), noun)} where {size(was):,} were recorded"
            return f"the conversation has another shape than recorded, {sizes}"
    return f"something else is asked than on the recorded turn in its place, {asked(was)}"


def _models(run: Run, costs: Sequence[TurnCosts], sources: SourceTree | None) -> Iterator[Finding]:
    switched: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, turn in enumerate(run.turns):
        was, now = turn.pair.recorded.prompt.model, turn.pair.request.prompt.model
        if cache_model(was) != cache_model(now):
            switched[was, now].append(index)
        elif turn.recorded and (before := turn.recorded.main_rate) != (after := turn.usage.main_rate):
            switched[str(before), str(after)].append(index)
    for (was, now), indexes in switched.items():
        amounts = [costs[index].rate for index in indexes]
        known = [amount for amount in amounts if amount is not None]
        total = sum(known, Decimal(0)) if len(known) == len(amounts) else None
        if total is not None and not any(known) and cache_model(was) == cache_model(now):
            continue  # another name of the same model, at the same price
        place = turns(indexes)
        is_other = was.partition(" (")[0] != now.partition(" (")[0]
        kind = FindingKind.MODEL_CHANGED if is_other else FindingKind.RATE_CHANGED
        source, edit = edit_of(sources if is_other else None, now, was)
        text = f"{place}: {now} instead of {was}{edit}"
        priced = text if total is not None else f"{text}, a price is unknown"
        output = sum(run.turns[index].usage.tokens.output_tokens for index in indexes)
        yield Finding(kind, place, priced + _other_output(was, now, output), None, total, source)


def _other_output(was: str, now: str, output: int) -> str:
    """Return a clause that says that output tokens are those of another tokenizer; empty if they are not."""
    if not output or assumed(was, now) or model_row(was).family is model_row(now).family:
        return ""
    return f"; its {output:,} output tokens are as recorded, by the other tokenizer"


def _unknown(run: Run, sources: SourceTree | None) -> Iterator[Finding]:
    reasons: dict[str, list[int]] = defaultdict(list)
    for index, turn in enumerate(run.turns):
        if turn.basis == Basis.UNKNOWN:
            reasons[turn.estimate.reason or "it cannot be counted offline"].append(index)
    for reason, indexes in reasons.items():
        pair = run.turns[indexes[0]].pair
        where = BY_HAND if newly_refused(pair) else turns(indexes)
        text = f"{turns(indexes)} cannot be counted: {reason}"
        source = None
        if pair.request.digest != pair.recorded.digest:
            option = _other_option(pair.recorded, pair.request)
            source, edit = edit_of(sources if option else None, *said_as(option or ""))
            text += f"; {difference_of(pair.recorded, pair.request)}{edit}"
        yield Finding(FindingKind.UNKNOWN, where, text, source=source)


def _other_option(was: Request, now: Request) -> str | None:
    """Return the first option of a request that differs from the recorded one; None if its content does."""
    if [block.digest for block in was.prompt.blocks] != [block.digest for block in now.prompt.blocks]:
        return None
    other = first_other_value(was, now)
    return re.split(r"[.,\[]", other.path)[0] if other else None


def _assumed(run: Run) -> Iterator[Finding]:
    """Yield one finding for each model without a row of its own whose turns are estimated."""
    reasons = (turn.estimate.reason for turn in run.turns if turn.basis == Basis.ESTIMATED)
    for reason in dict.fromkeys(reason for reason in reasons if reason):
        yield Finding(FindingKind.ASSUMED_MODEL, "run", reason)


def _calls_of(prompts: Iterable[Prompt]) -> Counter[str]:
    """Return how often each tool call is made within one recorded conversation, at most."""
    most: Counter[str] = Counter()
    for prompt in prompts:
        most |= Counter(_call(block) for block in prompt.blocks if block.kind == "tool_use")
    return most


def _loop(run: Run, request: Request, usual: Counter[str]) -> str | None:
    """Return what a request asks again and again, in words: a tool call or the request itself; else None."""
    calls = Counter(_call(block) for block in request.prompt.blocks if block.kind == "tool_use")
    again = [(call, times) for call, times in calls.items() if times > max(usual[call], 1)]
    if again:
        call, times = max(again, key=lambda entry: entry[1])
        return f"{call} is called {times} times with the same arguments"
    times = 1 + sum(turn.pair.request.digest == request.digest for turn in run.turns)
    if times > 1:
        return f"the same request is sent {times} times ({asked(request.prompt)})"
    return None


def _call(block: Block) -> str:
    arguments = block.content.get("input")
    return f"{block.content.get('name')}({excerpt(to_json(arguments), 0) if arguments else ''})"


def _by_conversation(
    run: Run, requests: Sequence[Request]
) -> tuple[list[Request], list[Request], list[Request]]:
    """Split requests into those that open another conversation, the later turns of these, and the rest."""
    if not run.turns:
        return [], [], list(requests)
    openings: list[Request] = []
    later: list[Request] = []
    for request in requests:
        continues = any(block.role == "assistant" for block in request.prompt.blocks)
        (later if continues else openings).append(request)
    heads = {opening_of(request.prompt) for request in openings}
    kin = [request for request in later if opening_of(request.prompt) in heads]
    return openings, kin, [request for request in later if opening_of(request.prompt) not in heads]


def reordered(run: Run) -> tuple[list[Finding], Run]:
    """Return the findings about another order, and the run without what they tell.

    They tell of requests without an answer that send the messages of a recorded turn in another order, and of
    turns that ask what other turns asked when they were recorded.
    """
    swapped, run = _other_messages(run)
    moved = dict(_moved(run))
    told = [run.turns[index].pair for index in moved]
    reshaped = tuple(pair for pair in run.reshaped if not any(pair is one for one in told))
    return [*_of_messages(swapped), *_of_turns(moved)], replace(run, reshaped=reshaped)


def _other_messages(run: Run) -> tuple[list[Request], Run]:
    """Return the misses that unplayed turns answer but for the order of messages, and the rest of the run.

    The rest is the run without these misses and these unplayed turns.
    """
    unplayed = list(run.unplayed)
    swapped: list[Request] = []
    for request in run.misses:
        wanted = _unordered(request.prompt)
        at = next((i for i, one in enumerate(unplayed) if _unordered(one.request.prompt) == wanted), None)
        if at is not None:
            del unplayed[at]
            swapped.append(request)
    misses = tuple(request for request in run.misses if not any(request is one for one in swapped))
    return swapped, replace(run, misses=misses, unplayed=tuple(unplayed))


def _unordered(prompt: Prompt) -> list[str]:
    return sorted(block.digest for block in prompt.level("messages"))


def _of_messages(swapped: Sequence[Request]) -> Iterator[Finding]:
    if swapped:
        verb = "sends its" if len(swapped) == 1 else "send their"
        text = f"{plural(len(swapped), 'turn')} {verb} messages in another order than recorded"
        yield Finding(FindingKind.TURNS_CHANGED, "reordered", f"{text}: {asking(swapped)}")


def _moved(run: Run) -> Iterator[tuple[int, int]]:
    """Yield (turn, other turn) if the turn ends as the other did when recorded, which now ends otherwise."""
    ends = [(_end(turn.pair.recorded.prompt), _end(turn.pair.request.prompt)) for turn in run.turns]
    others = {was: index for index, (was, now) in enumerate(ends) if was != now}
    for index, (was, now) in enumerate(ends):
        if was != now and now in others:
            yield index, others[now]


def _end(prompt: Prompt) -> tuple[str, ...]:
    """Return the digests of the blocks of the last message."""
    last = prompt.message_count - 1
    return tuple(block.digest for block in prompt.blocks if block.message == last)


def _of_turns(moved: dict[int, int]) -> Iterator[Finding]:
    if moved:
        verb, noun = ("asks", "turn") if len(moved) == 1 else ("ask", "turns")
        were = listed([str(other + 1) for other in moved.values()])
        where = turns(moved)
        text = f"{where} {verb} in another order than recorded: what {noun} {were} asked"
        yield Finding(FindingKind.TURNS_CHANGED, where, text)


def asking(requests: Sequence[Request]) -> str:
    """Return what turns ask, in short: the first three, and how many more."""
    said = "; ".join(asked(request.prompt) for request in requests[:_NAMED])
    return f"{said} and {len(requests) - _NAMED:,} more" if len(requests) > _NAMED else said


def asked(prompt: Prompt) -> str:
    """Return what a turn asks, in short: its last message."""
    last = next((block for block in reversed(prompt.blocks) if block.level == "messages"), None)
    if last is None:
        return "an empty conversation"
    return f"{last.role} {last.kind} '{excerpt(text_of(last), 0)}'"
