"""Tell why a turn no longer reads or caches what it did: block, character, value, parameter, marker.

All breaks of the cached prefix that have one cause make one finding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from pytest_tokenbudget.diagnosis.block_changes import (
    EARLIER,
    RECORDED,
    Difference,
    api_word,
    compare,
    describe,
    excerpt,
    refined,
)
from pytest_tokenbudget.diagnosis.costs import TurnCosts
from pytest_tokenbudget.diagnosis.prompt_parts import (
    edit_of,
    place,
    reorder_of,
    said_as,
    size_of,
    text_of,
    tool_names,
    wording_of,
)
from pytest_tokenbudget.diagnosis.values import Kind
from pytest_tokenbudget.metering.cache_rules import LOOK_BACK, minimum
from pytest_tokenbudget.metering.meter import Run, Turn
from pytest_tokenbudget.metering.prompt_cache import Chain, Outcome, chain
from pytest_tokenbudget.model import Basis, Finding, FindingKind, Source, Tokens
from pytest_tokenbudget.sequences import common_prefix
from pytest_tokenbudget.sources import Location, SourceTree
from pytest_tokenbudget.wire.prompt import LEVELS, Block, Level, Prompt, Ttl
from pytest_tokenbudget.wording import listed, plural, turns

_END = "the last message"


def cache_breaks(
    run: Run,
    costs: Sequence[TurnCosts],
    sources: SourceTree | None,
    minimums: Mapping[str, int] | None = None,
) -> tuple[list[Finding], frozenset[int]]:
    """Return one finding for each cause, with what it costs a run, and the turns that they explain.

    `costs` holds one entry a turn (`Ledger.split`), of which the cache's share is told here. `minimums`
    overrides the shortest cacheable prefix by model (tokens).
    """
    groups: dict[tuple[object, ...], list[Break]] = {}
    chains = Chains(run)
    causes = [cause for loss in losses(run, chains) if (cause := _explain(loss, minimums or {}))]
    within = [cause for cause in causes if cause.difference and not cause.across]
    causes = [_of_this_run(cause, within, chains) for cause in causes]
    explained = {cause.turn for cause in causes}
    rest = (index for index in range(len(run.turns)) if index not in explained)
    causes += [cause for index in rest if (cause := _lifetime(run, index, chains))]
    for cause in causes:
        groups.setdefault(cause.key, []).append(cause)
    findings = [finding_of(group, costs, sources) for group in groups.values()]
    return findings, frozenset(one.turn for group in groups.values() for one in group)


def _of_this_run(cause: Break, within: Sequence[Break], chains: Chains) -> Break:
    """Return a break of what was warm before the run as the one `within` the run, if the turn has that too.

    What was edited alone is warm again in the next run. A value that differs from turn to turn never is: the
    first difference to the recording is not why the turn lost its cache.
    """
    if not cause.across or cause.difference is None:
        return cause
    sides = chains.recorded(cause.turn), chains.now(cause.turn)
    was, now = ({block.where: text_of(block) for block in side.prompt.blocks} for side in sides)
    for other in within:
        if other.where != cause.where and other.where in now and was.get(other.where) != now[other.where]:
            return replace(other, turn=cause.turn, tokens=cause.tokens)
    return cause


def _explain(loss: Loss, minimums: Mapping[str, int]) -> Break | None:
    """Return the break that explains a loss, or None.

    The turn is compared with what an earlier turn cached. If that explains nothing, and the cache was warm
    before the run, it is compared with what was recorded.
    """
    found = _cause_of(loss, minimums)
    if found is None and loss.warm and loss.source is not None:
        across = replace(loss, source=None, reference=loss.recorded, before=loss.recorded)
        found = _cause_of(across, minimums)
    return found


def _cause_of(loss: Loss, minimums: Mapping[str, int]) -> Break | None:
    too_short = _too_short(loss, loss.recorded, loss.now, loss.now_cached, minimums)
    leads = loss.source is None  # what else differs from a recording was warm, too
    return (
        _dropped(loss)
        or (too_short if leads else None)
        or _changed(loss)
        or _parameters(loss)
        or too_short
        or _too_short(loss, loss.before, loss.reference, loss.source_cached, minimums)
        or _out_of_sight(loss)
        or _moved(loss)
    )


def _dropped(loss: Loss) -> Break | None:
    """Return a break if no marker is left on the turn, or on the turn that wrote what it read."""
    for before, now in ((loss.recorded, loss.now), (loss.before, loss.reference)):
        if before.breakpoints and not now.breakpoints:
            marks = list(_marks(before))
            cause = f"cache_control is dropped from {listed(marks)}, so that nothing is cached"
            return Break(loss.turn, marks[0], cause, loss.tokens, effect=_effect(loss), words=_MARK)
    return None


def _lifetime(run: Run, index: int, chains: Chains) -> Break | None:
    """Return a break if tokens are written for another lifetime, at another price."""
    turn = run.turns[index]
    if turn.recorded is None:
        return None
    was, now = turn.recorded.main_tokens, turn.usage.main_tokens
    longer = now.ephemeral_1h_input_tokens - was.ephemeral_1h_input_tokens
    shorter = now.ephemeral_5m_input_tokens - was.ephemeral_5m_input_tokens
    if not longer:
        return None
    written: Ttl = "1h" if longer > 0 else "5m"
    instead = longer * shorter < 0 and 2 * abs(shorter) >= abs(longer)
    before, after = _marks(chains.recorded(index)), _marks(chains.now(index))
    for where in dict.fromkeys((*after, *before)):
        old, new = before.get(where), after.get(where)
        if old == new or not ((old and new) or (instead and "1h" in (old, new))):
            continue
        return Break(
            index,
            where,
            _asked(old, new),
            abs(longer),
            effect=f"are written for {written}, at another price",
            short=f"is cached for {written}, at another price",
            words=("1h", "ttl", *_MARK),
            is_price=True,
        )
    return None


def _asked(old: Ttl | None, new: Ttl | None) -> str:
    """Return in words which lifetime a breakpoint asks for, and did; None where there is none."""
    if new is None:
        return f"cache_control is dropped, which asked for {old}"
    return f"cache_control asks for {new}" + (f" where it asked for {old}" if old else " and is new")


def _effect(loss: Loss) -> str:
    return READS if loss.reads else "are no longer cached"


def _changed(loss: Loss) -> Break | None:
    """Return a break if the content leaves that of the reference before the end of what that one caches."""
    reference, now = loss.reference, loss.now
    at = shared(now, reference)
    end = max(reference.breakpoints, default=-1)
    if not loss.reads or at > end or (at < len(now.links) and _parted_before(loss, at)):
        return None
    was, new = ([link.block for link in side.links] for side in (reference, now))
    difference = compare(was, new, at, tool_names(reference.prompt) | tool_names(now.prompt))
    difference = _as_asked(difference, loss.reference_asked, loss.asked)
    api = api_word(difference)
    place = difference.new.where if difference.new else None
    recorded = next((text_of(b) for b in loss.recorded.prompt.blocks if b.where == place), "")
    across = loss.source is None
    return Break(loss.turn, difference.where, "", loss.tokens, api, difference, across, recorded=recorded)


def _parted_before(loss: Loss, at: int) -> bool:
    """Return whether the two turns had parted at or before block `at` when they were recorded.

    Another subagent's turn had. A turn that went on where the other ended had not.
    """
    parted = shared(loss.recorded, loss.before)
    if loss.source is None or parted >= min(len(loss.recorded.links), len(loss.before.links)):
        return False
    old, new = loss.recorded.links[parted].block, loss.now.links[at].block
    grown = count_of(loss.now.prompt.blocks, old.level) - count_of(loss.recorded.prompt.blocks, old.level)
    level, number, *rest = rank(old)
    return rank(new) >= (level, number + max(grown, 0), *rest)


def _parameters(loss: Loss) -> Break | None:
    """Return a break if model, tool_choice, ... differ from the reference, and did not when recorded."""
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
            models = loss.now.prompt.model, loss.reference.prompt.model
            cause = f"{models[0]} cannot read what {models[1]} cached"
            return Break(loss.turn, "model", cause, loss.tokens, "model_changed", across=across, words=models)
        if names:
            verb = "differs" if len(names) == 1 else "differ"
            since = "the recording" if across else "an earlier turn"
            cause = f"{listed(names)} {verb} from {since}, which loses the cache from {level} on"
            return Break(loss.turn, names[0], cause, loss.tokens, across=across, words=said_as(names[0]))
    return None


def _too_short(
    loss: Loss, before: Chain, asked: Chain, cached: int, minimums: Mapping[str, int]
) -> Break | None:
    """Return a break if nothing is `cached` of what is `asked`, by a turn or by the one whose cache it read.

    Its breakpoints stand then, and all prefixes up to them are too short. `before` is it as recorded.
    """
    if cached or not asked.breakpoints:
        return None
    least, model = minimum(asked.model, minimums), asked.prompt.model
    short = f"shorter than the {least:,} tokens that {model} caches at least"
    where, kept = _shortened(before, asked)
    cause = f"the prefix is {short}" + (
        f", since {where} {'was shortened' if kept else 'is gone'}" if where else ""
    )
    return Break(
        loss.turn,
        [*_marks(asked)][-1],
        cause,
        loss.tokens,
        effect=_effect(loss),
        short=f"ends a prefix that is {short}",
        kept=kept,
    )


def _shortened(before: Chain, asked: Chain) -> tuple[str, str]:
    """Return the place of the block that lost most text, and its text now; both empty if none lost any."""
    was, now = (_texts(side) for side in (before, asked))
    lost = {where: len(text) - len(now.get(where, "")) for where, text in was.items()}
    where = max(lost, key=lambda where: lost[where], default="")
    return (where, now.get(where, "")) if lost.get(where, 0) > 0 else ("", "")


def _texts(chain: Chain) -> dict[str, str]:
    """Return the texts of the blocks of a chain by their places."""
    names = tool_names(chain.prompt)
    return {place(link.block, names).where: text_of(link.block) for link in chain.links}


def _out_of_sight(loss: Loss) -> Break | None:
    """Return a break if the cached prefix is there, but the walk back from each breakpoint ends before it."""
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
    """Return a break if a marker is gone or stands elsewhere, here or on the turn whose cache was read."""
    for before, now in ((loss.recorded, loss.now), (loss.before, loss.reference)):
        was, marks = _marks(before), _marks(now)
        gone = [where for where in was if where not in marks]
        to = [where for where in marks if where not in was]
        if gone:
            moved = f"moved from {listed(gone)} to {listed(to)}" if to else f"is dropped from {listed(gone)}"
            cause, effect = f"cache_control {moved}", _effect(loss)
            return Break(loss.turn, gone[-1], cause, loss.tokens, effect=effect, words=_MARK)
    return None


def _marks(chain: Chain) -> dict[str, Ttl]:
    """Return the lifetime of each breakpoint by its place; the conversation's end is "the last message"."""
    names, last = tool_names(chain.prompt), len(chain.links) - 1
    marks: dict[str, Ttl] = {}
    for position, ttl in chain.breakpoints.items():
        block = chain.links[position].block
        at_end = position == last and block.level == "messages"
        marks[_END if at_end else place(block, names).where] = ttl
    return marks


_INDEX = re.compile(r"^messages\[\d+\]")
_COUNT = re.compile(r"^\d+ ")
_TOOL = re.compile(r"(?<=tool_result) of .*")
READS = "lose the cache"
_MARK = ("cache_control",)


@dataclass(frozen=True, slots=True)
class Break:
    """One turn's break and its cause."""

    turn: int
    where: str
    cause: str
    """The cause in words; empty where it is a difference of content."""
    tokens: int
    api: str | None = None
    """The word of the API's own cache diagnostics for it, if there is one."""
    difference: Difference | None = None
    across: bool = False
    """Whether the prefix differs from the recorded one rather than from an earlier turn's."""
    effect: str = READS
    """What happens to the tokens."""
    short: str = ""
    """What becomes of the place, in a few words, where there is more to say than that its cache is lost."""
    recorded: str = ""
    """The text at that place when recorded."""
    words: tuple[str, ...] = ()
    """What code says that decides this, where it is no difference of content."""
    is_price: bool = False
    """Whether nothing is lost, and what is written has another price."""
    kept: str = ""
    """What is left of the text that is too short now."""

    @property
    def key(self) -> tuple[object, ...]:
        """A key that is equal for turns that break for the same cause."""
        place = _TOOL.sub("", _INDEX.sub("messages", self.where))
        return place, self.api, "" if self.api else _COUNT.sub("", self.cause)


def finding_of(group: Sequence[Break], costs: Sequence[TurnCosts], sources: SourceTree | None) -> Finding:
    """Return the finding of turns that break for one cause; `costs` holds one entry a turn of the run."""
    first = max(group, key=lambda one: (one.effect == READS, not one.across))
    alike = [one for one in group if one.effect == first.effect]
    tokens = sum(one.tokens for one in alike)
    amounts = [costs[one.turn].cache for one in group]
    known = [amount for amount in amounts if amount is not None]
    cost = sum(known, Decimal(0)) if len(known) == len(amounts) else None
    location = _located(first, sources)
    source = (location.source or location.filled) if location else None
    if difference := first.difference:
        if location:
            difference = refined(difference, location, edited=first.across)
        cause = describe(difference, RECORDED if first.across else EARLIER, source)
        if source is None and difference.kind == Kind.ORDER:
            source, edit = reorder_of(sources)
            cause += edit
    else:
        api = f" ({first.api})" if first.api else ""
        source, edit = _left_of(first.kept, sources) if first.kept else edit_of(sources, *first.words)
        where = first.where if first.is_price else f"cache prefix breaks at {first.where}"
        cause = f"{where}{api}: {first.cause}{edit}"
    lost = f"{plural(tokens, 'token')} on {turns(one.turn for one in alike)} {first.effect}"
    text = f"{cause}; {lost}"
    return Finding(FindingKind.CACHE_BREAK, first.where, text, tokens, cost, source, first.short)


def _as_asked(difference: Difference, reference: Prompt, now: Prompt) -> Difference:
    """Return a difference of simulated prompts in the words that were asked: these tell other times."""
    if difference.change != "changed" or difference.where.startswith("tools"):
        return difference
    old, new = (
        next((one for one in prompt.blocks if block and one.where == block.where), block)
        for prompt, block in ((reference, difference.old), (now, difference.new))
    )
    if (old, new) == (difference.old, difference.new) or old is None or new is None:
        return difference
    was, words = (excerpt(wording_of(block), difference.char) for block in (old, new))
    return replace(difference, old=old, new=new, was=was, now=words)


def _left_of(kept: str, sources: SourceTree | None) -> tuple[Source | None, str]:
    """Return where what is left of a text stands, and a clause that names it; empty if that is not known."""
    source = sources.locate("", kept).source if sources else None
    return source, f" (what is left of it: {source})" if source else ""


def _located(one: Break, sources: SourceTree | None) -> Location | None:
    """Return the line that fills in what differs from the earlier turn, else what was not recorded.

    A line that the change edits comes first. None where no content changed, or there are no `sources`.
    """
    difference = one.difference
    if difference is None or sources is None or difference.change != "changed" or not difference.new:
        return None
    now = text_of(difference.new)
    found = [
        sources.locate(was, now) for was in (text_of(difference.old) if difference.old else "", one.recorded)
    ]
    placed = [location for location in found if location.source or location.filled]
    edited = (location for location in placed if sources.edits(location.source or location.filled))
    return next(edited, placed[0] if placed else found[0])


_NUMBERS = re.compile(r"\[(\d+)\]")
_NOISE, _SHARE = 16, 0.02
"""Tokens, and share of what was cached, below which a difference is that of sizes, not of the cache."""

Rank = tuple[int, ...]
"""Where a block stands in the chain: level, then its numbers."""


@dataclass(frozen=True, slots=True)
class Loss:
    """One turn that the cache serves less than it did when recorded."""

    turn: int
    source: int | None
    """The turn whose cached prefix it read when recorded; None where that was cached before the run."""
    recorded: Chain
    now: Chain
    reference: Chain
    """The chain to compare `now` with: what `source` asks now, or what was recorded if there is no source."""
    asked: Prompt
    """What the turn asks now; `now` may have other times of day, at which the cache is simulated."""
    reference_asked: Prompt
    """What was asked of `reference`, likewise."""
    before: Chain
    """What `source` asked when recorded, or the recorded chain itself if there is no source."""
    warm: bool
    """Whether it read more when recorded than a turn of the run had cached."""
    reads: int
    """Tokens that were read and no longer are, corrected by what grew or shrank in that prefix."""
    cached: int
    """Tokens that were read or written and no longer are."""
    now_cached: int
    """Tokens that are read or written now."""
    source_cached: int
    """Tokens that `source` reads or writes now; those of the turn itself if there is no source."""

    @property
    def tokens(self) -> int:
        """Tokens that were read and no longer are; if none, those that were cached and no longer are."""
        return self.reads or self.cached


class Chains:
    """The recorded and the new prompts of a run as chains, each laid out once, when it is asked for."""

    def __init__(self, run: Run) -> None:
        self._turns = run.turns
        self._chains: dict[tuple[bool, int], Chain] = {}

    def recorded(self, turn: int) -> Chain:
        """Return the chain of the recorded request of a turn."""
        its = self._turns[turn]
        return self._chain((False, turn), its.cache_before, its.pair.recorded.prompt)

    def now(self, turn: int) -> Chain:
        """Return the chain of what a turn asks now."""
        its = self._turns[turn]
        same = its.pair.recorded.prompt is its.pair.request.prompt
        return (
            self.recorded(turn) if same else self._chain((True, turn), its.cache_now, its.pair.request.prompt)
        )

    def _chain(self, key: tuple[bool, int], simulated: Outcome | None, prompt: Prompt) -> Chain:
        if key not in self._chains:
            self._chains[key] = simulated.chain if simulated and simulated.chain else chain(prompt)
        return self._chains[key]


def losses(run: Run, chains: Chains) -> Iterator[Loss]:
    """Yield what each turn lost that lost something, in order.

    Nothing is laid out if no turn's split changed.
    """
    if not any(_may_lose(turn) for turn in run.turns):
        return
    written: dict[str, int] = {}
    for index, turn in enumerate(run.turns):
        if _may_lose(turn):
            found = _loss(run, index, chains, written)
            if found.tokens:
                yield found
        recorded = chains.recorded(index)
        written.update((recorded.links[position].text, index) for position in recorded.breakpoints)


def _may_lose(turn: Turn) -> bool:
    """Return whether a turn's tokens leave room for a loss, wherever its prompt grew."""
    if turn.recorded is None or turn.basis == Basis.UNKNOWN or turn.cache_note:
        return False
    was, now = turn.recorded.main_tokens, turn.usage.main_tokens
    grown = sum(part.tokens for part in turn.estimate.parts if part.tokens > 0)
    reads = was.cache_read_input_tokens - now.cache_read_input_tokens + grown
    cached = _served(was) - _served(now) + grown
    return bool(_beyond_noise(reads, was.cache_read_input_tokens) or _beyond_noise(cached, _served(was)))


def _served(tokens: Tokens) -> int:
    """Return the tokens that were read from the cache or written to it."""
    return tokens.prompt_tokens - tokens.input_tokens


def _loss(run: Run, index: int, chains: Chains, written: Mapping[str, int]) -> Loss:
    turn = run.turns[index]
    assert turn.recorded is not None
    was, now = turn.recorded.main_tokens, turn.usage.main_tokens
    recorded = chains.recorded(index)
    end = max(recorded.breakpoints, default=len(recorded.links) - 1)
    hit, source, warm = _recorded_read(turn, recorded, end, was, written)
    reads = was.cache_read_input_tokens - now.cache_read_input_tokens
    cached = _served(was) - _served(now)
    return Loss(
        turn=index,
        source=source,
        recorded=recorded,
        now=chains.now(index),
        reference=recorded if source is None else chains.now(source),
        asked=turn.pair.request.prompt,
        reference_asked=turn.pair.recorded.prompt
        if source is None
        else run.turns[source].pair.request.prompt,
        before=recorded if source is None else chains.recorded(source),
        warm=warm,
        reads=_beyond_noise(reads + _grown(turn, recorded, hit), was.cache_read_input_tokens),
        cached=_beyond_noise(cached + _grown(turn, recorded, end), _served(was)),
        now_cached=_served(now),
        source_cached=_served(now if source is None else run.turns[source].usage.main_tokens),
    )


def _recorded_read(
    turn: Turn, recorded: Chain, end: int, was: Tokens, written: Mapping[str, int]
) -> tuple[int, int | None, bool]:
    """Return where the recorded read ended, which turn had cached most of it, and if it read more than that.

    The first is a position of the chain, -1 if nothing was read. The second is None if no turn had cached it.
    """
    if not was.cache_read_input_tokens:
        return -1, None, False
    entries = [p for p in range(end + 1) if recorded.links[p].text in written]
    if turn.cache_before and turn.cache_before.hit is not None:
        hit = turn.cache_before.hit
        entries = [p for p in entries if p <= hit]
    else:
        hit = entries[-1] if entries else _position(recorded, was.cache_read_input_tokens, end, _served(was))
    source = written[recorded.links[entries[-1]].text] if entries else None
    return hit, source, not entries or entries[-1] < hit


def _position(recorded: Chain, read: int, end: int, cached: int) -> int:
    """Return the position where a read that no turn of the run wrote probably ended, by text sizes."""
    if read >= cached:
        return end
    sizes = [size_of(link.block, recorded.prompt.model) for link in recorded.links[: end + 1]]
    wanted, reached = sum(sizes) * read / cached, 0
    for position, size in enumerate(sizes):
        reached += size
        if reached >= wanted:
            return position
    return end


def _grown(turn: Turn, recorded: Chain, end: int) -> int:
    """Return by how many tokens the prefix grew that ends at position `end` of the recorded chain."""
    if not 0 <= end < len(recorded.links):
        return 0
    limit = rank(recorded.links[end].block)
    blocks = ((part.was or part.now, part.tokens) for part in turn.estimate.parts)
    return sum(tokens for block, tokens in blocks if block is not None and rank(block) <= limit)


def _beyond_noise(lost: int, base: int) -> int:
    return lost if base and lost > max(_NOISE, _SHARE * base) else 0


def rank(block: Block) -> Rank:
    """Return a sort key that puts the blocks of one prompt in their order: level, then its numbers."""
    return LEVELS.index(block.level), *map(int, _NUMBERS.findall(block.where))


def shared(one: Chain, other: Chain) -> int:
    """Return how many blocks two chains begin with alike."""
    return common_prefix([link.text for link in one.links], [link.text for link in other.links])


def count_of(blocks: Sequence[Block], level: Level) -> int:
    """Return how many tools or system blocks there are; for messages, how many messages."""
    if level == "messages":
        return blocks[-1].message + 1 if blocks and blocks[-1].message is not None else 0
    return sum(block.level == level for block in blocks)
