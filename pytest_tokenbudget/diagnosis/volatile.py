"""Find prefixes that differ from process to process: by values that no file holds, or by hash order."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import (
    Callable,
    Collection,
    Container,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, replace
from typing import Any

from pytest_tokenbudget.diagnosis.block_changes import (
    ELSEWHERE,
    RECORDED,
    Change,
    Difference,
    describe,
    differences,
    excerpt,
    first_of,
    refined,
)
from pytest_tokenbudget.diagnosis.prompt_parts import text_of, tool_names, wording_of
from pytest_tokenbudget.diagnosis.values import (
    NUMBER,
    Kind,
    is_reordered,
    kind_of_code,
    kind_of_difference,
    values_in,
)
from pytest_tokenbudget.metering.cache_rules import scopes
from pytest_tokenbudget.metering.meter import Run
from pytest_tokenbudget.model import Finding, FindingKind
from pytest_tokenbudget.sequences import common_ends, common_prefix
from pytest_tokenbudget.sources import Location, SourceTree
from pytest_tokenbudget.sources.words import Names, replaced
from pytest_tokenbudget.wire.exchange import Pair
from pytest_tokenbudget.wire.prompt import LEVELS, Block, Prompt, digest, last_breakpoint
from pytest_tokenbudget.wording import listed, plural

_ORDERED = (
    "no changed file lists them so: either code puts them in this order every time, or it differs from "
    "process to process"
)


def volatile(run: Run, sources: SourceTree | None, told: Collection[str]) -> list[Finding]:
    """Return what differs from the recording in a cached prefix although no file of the repository says so.

    Within the run such a prefix may be stable and cost nothing, but every other process writes it anew.
    `told` holds the places whose breaks are findings already. Without `sources`, only another order is told.
    """
    found: dict[tuple[str, Change, Kind], Finding] = {}
    for turn in (turn for turn in run.turns if not turn.volatile):
        for difference in _changes(turn.pair.recorded.prompt, turn.pair.request.prompt):
            key = (difference.where, difference.change, difference.kind)
            if key not in found and difference.where not in told and (one := _finding(difference, sources)):
                found[key] = one
    return _of_tools_together([(change, one) for (_, change, _), one in found.items()])


def _of_tools_together(found: Iterable[tuple[Change, Finding]]) -> list[Finding]:
    """Join the findings of several tools with one cause: one JSON dump in another order, or one line."""
    groups: defaultdict[Hashable, list[Finding]] = defaultdict(list)
    for change, one in found:
        shared = one.source or (change if change == "reordered" else None)
        groups[shared if shared and one.where.startswith("tools[") else id(one)].append(one)
    return [_with_the_same(*group) for group in groups.values()]


def _with_the_same(first: Finding, *others: Finding) -> Finding:
    if not others:
        return first
    return replace(first, text=f"{first.text}; the same of {listed([one.where for one in others])}")


def proved_volatile(pairs: Sequence[Pair], *, time_goes_by: bool = False) -> frozenset[int]:
    """Return the turns (`Pair.index`) whose cached prefix is proved to differ in every process.

    The proof is an experiment: two turns of one run differ in a value, or in an order, where they were alike
    when recorded. Everything else is an edit until it is proved. Whether a second or a minute ends between
    two turns of a replay is the machine's doing, so that a clock proves nothing but in the replay in which
    `time_goes_by` as it does in a real run.
    """
    turns = ((pair.index, pair.recorded.prompt, pair.request.prompt) for pair in pairs)
    return frozenset(
        index
        for (_, was), texts in _alike_before(turns).items()
        if _differ_by_value(_as_timed(was, [now for _, now in texts], time_goes_by=time_goes_by))
        for index, _ in texts
    )


def _as_timed(was: str, texts: Sequence[str], *, time_goes_by: bool) -> Iterator[str]:
    """Yield texts that were accepted with the same text, at the times that `_times` has for them."""
    numbers = _numbers_like_times(texts)
    for now in texts:
        yield _retold(now, _times(was, now, numbers, time_goes_by=time_goes_by))


def _alike_before(
    turns: Iterable[tuple[int, Prompt, Prompt]],
) -> Mapping[tuple[str, str], Sequence[tuple[int, str]]]:
    """Return the cached texts of turns (number, accepted prompt, prompt now) by place and accepted text."""
    groups: defaultdict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for number, before, after in turns:
        for place, was, now in _cached_texts(before, after):
            groups[place, was].append((number, now))
    return groups


@dataclass(frozen=True, slots=True)
class Suspect:
    """A turn whose changed prefix would lose the cache if it differed in every process."""

    was: Prompt
    """The accepted prompt."""
    now: Prompt
    places: frozenset[str]
    """Where its cached prefix differs, and looks like a value or another order."""


_LABELLED = re.compile(r"(.{1,60}?[:=]\s*)\S.*")
"""A line that is a label and a value: `Host: brave-otter`."""


def suspects(pairs: Sequence[Pair]) -> list[Suspect]:
    """Return the turns whose cached prefix is suspected, but not proved, to differ in every process.

    The look of a text says where to look, nothing more: plain words are an edit.
    """
    proved = proved_volatile(pairs)
    found = []
    for pair in pairs:
        if pair.index in proved:
            continue
        before, after = pair.recorded.prompt, pair.request.prompt
        looks = {where for where, was, now in _cached_texts(before, after) if _looks_volatile(was, now)}
        if places := looks.union(_with_mixed_lists(before, after)):
            found.append(Suspect(before, after, frozenset(places)))
    return found


def _with_mixed_lists(was: Prompt, now: Prompt) -> Iterator[str]:
    """Yield the cached tools that have new names in among those of a list: it may be made of a set."""
    recorded = {block.name: block.content for block in was.level("tools")}
    for block in now.blocks[: last_breakpoint(now) + 1]:
        lists = _name_lists(recorded.get(block.name), block.content) if block.level == "tools" else ()
        if any(_is_mixed(before, after) for before, after in lists):
            yield block.where


def _name_lists(was: Any, now: Any) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """Yield the lists of strings at the same places of two JSON-like values."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for key in was.keys() & now.keys():
            yield from _name_lists(was[key], now[key])
    elif isinstance(was, list) and isinstance(now, list):
        if all(isinstance(one, str) for one in (*was, *now)):
            yield was, now
        else:
            for before, after in zip(was, now, strict=False):
                yield from _name_lists(before, after)


def _is_mixed(was: Sequence[str], now: Sequence[str]) -> bool:
    """Return whether a list has other names, neither sorted nor only gone or added at its end."""
    kept = [name for name in was if name in now]
    return {*now} - {*was} != set() and [*now] != sorted(now) and [*now[: len(kept)]] != kept


_TIME = re.compile(
    r"(?<!\d)\d{1,2}\s?[:h時时시]\s?\d{2}(?:\s?[:m分분]\s?\d{2}(?P<fraction>[.,]\d+)?)?(?!\d)"
    r"|(?<!\d)(?:1[4-9]|20)\d{8}(?P<decimals>\.\d+|\d{3}|\d{6}|\d{9})?(?!\d)"
    r"|(?<!\d)(?:[01]\d|2[0-3])(?:[0-5]\d){2}(?!\d)",
    re.IGNORECASE,
)
"""A time of day: 10:31, 10:31:07, 10:31:07.125, 10h31, seconds since 1970 or finer, 103107."""


def clocked(pairs: Sequence[Pair]) -> list[Suspect]:
    """Return the turns whose cached prefix may have a clock where the accepted one has no time.

    Either it tells seconds: a replay takes no time, so that its turns look alike, where in a real run each
    has a prefix of its own. Or it went on between two turns. A turn is left out if no other one was accepted
    with the same text.
    """
    groups = _alike_before((p.index, p.recorded.prompt, p.request.prompt) for p in pairs)
    places: defaultdict[int, set[str]] = defaultdict(set)
    for (place, was), texts in groups.items():
        went_on = len({now for _, now in texts}) > len({_at_no_time(now) for _, now in texts})
        for index, now in texts if len(texts) > 1 else ():
            if _gained_clock(was, now, went_on=went_on):
                places[index].add(place)
    return [
        Suspect(pair.recorded.prompt, pair.request.prompt, frozenset(places[pair.index]))
        for pair in pairs
        if pair.index in places
    ]


def _gained_clock(was: str, now: str, *, went_on: bool) -> bool:
    removed, added = _changed_words(was, now)
    has_clock = any(went_on or _tells_seconds(match[0]) for match in _TIME.finditer(added))
    return has_clock and not any(kind is Kind.DATE for kind, _ in values_in(removed))


def _tells_seconds(time: str) -> bool:
    return len(re.findall(r"\d+", time)) != len(("hour", "minute"))


def timed_as_recorded(turns: Iterable[Pair], *, time_goes_by: bool = False) -> dict[int, Prompt]:
    """Return what turns (`Pair.index`) ask at the times of their recordings, where they tell times of day.

    Between the turns of a replay no time goes by, or as much as the machine is slow. A text that was recorded
    with a time of that form gets that one back. In other texts a clock of seconds or minutes stands still,
    but in the replay in which `time_goes_by`.
    """
    timed: dict[int, Prompt] = {}
    changed = [pair for pair in turns if pair.request.digest != pair.recorded.digest]
    groups = _alike_before((p.index, p.recorded.prompt, p.request.prompt) for p in changed)
    numbers = frozenset[str]().union(
        *(_numbers_like_times([now for _, now in texts]) for texts in groups.values())
    )
    for pair in changed:
        prompt, recorded = pair.request.prompt, {block.where: block for block in pair.recorded.prompt.blocks}
        end = last_breakpoint(prompt) + 1
        cached = [
            _timed(recorded.get(block.where), block, numbers, time_goes_by=time_goes_by)
            for block in prompt.blocks[:end]
        ]
        if any(block is not asked for block, asked in zip(cached, prompt.blocks, strict=False)):
            timed[pair.index] = replace(prompt, blocks=(*cached, *prompt.blocks[end:]))
    return timed


def _numbers_like_times(texts: Sequence[str]) -> frozenset[str]:
    """Return what looks like a time of day and is none: another of the texts has another number in its place.

    A random number of six digits is one that could be a time in one of twelve cases.
    """
    if not any(map(_TIME.search, texts)):
        return frozenset()
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for text in dict.fromkeys(texts):
        alike[_DIGITS.sub("0", text)].append(text)
    return frozenset(found for same in alike.values() for found in _out_of_step(same))


_DIGITS = re.compile(r"\d+")


def _out_of_step(texts: Sequence[str]) -> Iterator[str]:
    """Yield the times in texts, which are alike but for their numbers, that not all of them have there."""
    told = [_times_by_number(text) for text in texts]
    shared = set.intersection(*(set(times) for times in told))
    for times in told:
        yield from (time for number, time in times.items() if number not in shared)


def _times_by_number(text: str) -> dict[int, str]:
    """Return what looks like a time in a text, by which of its numbers it begins with."""
    begins = [match.start() for match in _DIGITS.finditer(text)]
    return {bisect_left(begins, match.start()): match[0] for match in _TIME.finditer(text)}


def _timed(recorded: Block | None, block: Block, numbers: Container[str], *, time_goes_by: bool) -> Block:
    """Return a block with the times that `_times` has for it; the same object if it has none."""
    if recorded is not None and recorded.digest == block.digest:
        return block
    was = "" if recorded is None else text_of(recorded)
    times = _times(was, text_of(block), numbers, time_goes_by=time_goes_by)
    if not times:
        return block
    content = _retold(block.content, times)
    return replace(block, content=content, digest=digest(block.level, block.role, content))


def _times(was: str, now: str, numbers: Container[str], *, time_goes_by: bool) -> dict[str, str]:
    """Return what stands for the changed times of a text: recorded ones of the same form, else no time.

    `numbers` only look like times.
    """
    if was == now or not _TIME.search(now):
        return {}
    removed, added = ([match[0] for match in _TIME.finditer(words)] for words in _changed_words(was, now))
    added = [time for time in added if time not in numbers]
    times = {} if time_goes_by else {new: _at_no_time(new) for new in added}
    return times | {new: old for old, new in zip(removed, added, strict=False) if _form(old) == _form(new)}


def _retold(content: Any, times: Mapping[str, str]) -> Any:
    """Return a JSON-like value with the times in its strings replaced."""
    if not times:
        return content
    if isinstance(content, str):
        return _TIME.sub(lambda match: times.get(match[0], match[0]), content)
    if isinstance(content, Mapping):
        return {key: _retold(value, times) for key, value in content.items()}
    return [_retold(value, times) for value in content] if isinstance(content, list) else content


def _at_no_time(text: str) -> str:
    """Return a text whose clocks of seconds and minutes stand at 0.

    Finer ones stay: they differ from turn to turn in a replay as well.
    """
    return _TIME.sub(
        lambda match: match[0] if match["fraction"] or match["decimals"] else _form(match[0]), text
    )


def with_times_of(was: str, now: str) -> str:
    """Return the text `now` with the times of `was` where both tell one of the same form at one place."""
    old, new = (re.findall(r"\s+|\S+", text) for text in (was, now))
    pieces: list[str] = []
    reached = 0
    for begin, end, start, stop in replaced([*map(_at_no_time, old)], [*map(_at_no_time, new)]):
        pieces += old[reached:begin] + new[start:stop]
        reached = end
    return "".join(pieces + old[reached:])


def is_still_volatile(was: Prompt, now: Prompt) -> bool:
    """Return whether a prompt may be as volatile as an accepted one: its prefix did not lose the value."""
    before, after = ("\n".join(text for _, text in _texts_by_place(prompt)) for prompt in (was, now))
    if before == after or is_reordered(before, after):
        return True
    gone, put_in = (_kinds_in(words) for words in _changed_words(before, after))
    return not gone or bool(gone & put_in)


def _kinds_in(text: str) -> set[Kind]:
    kinds = {kind for kind, _ in values_in(text)}
    return kinds | {Kind.COUNTER} if not kinds and NUMBER.search(text) else kinds


def _form(time: str) -> str:
    """Return a time with all its numbers 0, whether they have one digit or two."""
    return re.sub(r"\d+", lambda digits: "0" * max(2, len(digits[0])), time)


def ticking(turns: Sequence[tuple[Suspect, Prompt]]) -> str | None:
    """Return where and how turns of one run differ at their suspected places, in a sentence; None if nowhere.

    `turns` holds what is suspected, and what that turn asks in a replay in which time goes by. Only turns
    that were accepted with the same text are compared.
    """
    asked = ((number, one.was, prompt) for number, (one, prompt) in enumerate(turns))
    for (place, _), texts in _alike_before(asked).items():
        first, *others = dict.fromkeys(
            text for number, text in texts if place in turns[number][0].places
        ) or [""]
        for other in others:
            if (kind := kind_of_difference(first, other)).is_value:
                at = common_prefix(first, other)
                pieces = f'"{excerpt(first, at)}" and "{excerpt(other, at)}"'
                return f"{place} differs from turn to turn ({kind}): {pieces}"
    return None


def _looks_volatile(was: str, now: str) -> bool:
    if was == now:
        return False
    if is_reordered(was, now):
        return True
    _, added = _changed_words(was, now)
    if values_in(added) or NUMBER.search(added) or kind_of_difference(was, now).is_value:
        return True
    labelled = (_LABELLED.match(line) for line in set(now.splitlines()) - set(was.splitlines()))
    return any(found and kind_of_difference(found[1], found[0]).is_value for found in labelled)


@dataclass(frozen=True, slots=True)
class Experiment:
    """What a second replay, in another process, shows of a suspected turn."""

    differs: str | None = None
    """Where and how the prefix of that process differs; None if it is the same."""
    on_both_sides: bool = False
    """Whether the accepted prefix has a value at that place too, or an order that is not known to last. It
    may then be as volatile, so that nothing is proved of the change."""


def experiment(suspect: Suspect, elsewhere: Prompt, lasts: Callable[[Names], bool]) -> Experiment:
    """Compare a suspected turn with the same turn of another process.

    `lasts` takes names in the order of an accepted prompt and returns whether every process has that order.
    """
    accepted, here, there = (_names(prompt) for prompt in (suspect.was, suspect.now, elsewhere))
    if here != there and sorted(here) == sorted(there) and any(map(_is_of_tools, suspect.places)):
        pieces = f'"{first_of(here)}" and "{first_of(there)}"'
        differs = f"tools differ from process to process ({Kind.ORDER}): {pieces}"
        may_differ = sorted(accepted) == sorted(here) and not lasts(accepted)
        return Experiment(differs, on_both_sides=may_differ)
    other = dict(_texts_by_place(elsewhere))
    for where, now in _texts_by_place(suspect.now):
        if where not in suspect.places or other.get(where, now) == now:
            continue
        was = dict(_texts_by_place(suspect.was)).get(where, "")
        kind = kind_of_difference(now, other[where])
        at = common_prefix(now, other[where])
        pieces = f'"{excerpt(now, at)}" and "{excerpt(other[where], at)}"'
        differs = f"{where} differs from process to process ({kind}): {pieces}"
        if kind is Kind.ORDER:
            known = _is_of_tools(where) and lasts(accepted)
            return Experiment(differs, on_both_sides=is_reordered(was, now) and not known)
        return Experiment(differs, on_both_sides=_holds_the_like(was, now, other[where], kind))
    return Experiment()


def _is_of_tools(where: str) -> bool:
    return where.startswith("tools")


def _names(prompt: Prompt) -> Names:
    return tuple(str(block.content.get("name", "")) for block in prompt.level("tools"))


def _holds_the_like(was: str, now: str, elsewhere: str, kind: Kind) -> bool:
    """Return whether an accepted text has a value where those of two processes differ.

    Either a line of it is one of theirs but for the value, or what was taken out there is of that kind.
    """
    frames = [
        frame
        for line, other in zip(now.splitlines(), elsewhere.splitlines(), strict=False)
        if line != other and (frame := _frame(line, other))
    ]
    if any(_fits(line, *frame) for frame in frames for line in was.splitlines()):
        return True
    removed, _ = _changed_words(was, now)
    return any(found is kind for found, _ in values_in(removed))


def _frame(line: str, other: str) -> tuple[str, str, int] | None:
    """Return the whole words before and after what differs in two lines, and how many words that is.

    None where nothing but the value stands in the line.
    """
    start, tail = common_ends(line, other)
    before = line[: start - len(line[:start].split(" ")[-1])]
    after = line[len(line) - tail :]
    after = after[len(after.split(" ")[0]) :]
    if not (before + after).strip():
        return None
    return before, after, len(line[len(before) : len(line) - len(after)].split())


def _fits(line: str, before: str, after: str, words: int) -> bool:
    """Return whether a line is the frame `before` ... `after` with 1 to `words` words in it."""
    if len(line) <= len(before) + len(after) or not (line.startswith(before) and line.endswith(after)):
        return False
    return 0 < len(line[len(before) : len(line) - len(after)].split()) <= words


def _changed_words(was: str, now: str) -> tuple[str, str]:
    """Return the words of two texts that are not in both, in their order."""
    before, after = was.splitlines(keepends=True), now.splitlines(keepends=True)
    removed, added = [], []
    for first, last, start, end in replaced(before, after):
        old, new = "".join(before[first:last]).split(), "".join(after[start:end]).split()
        for i, j, k, m in replaced(old, new):
            removed += old[i:j]
            added += new[k:m]
    return " ".join(removed), " ".join(added)


def same_turns(first: Sequence[Prompt], second: Sequence[Prompt]) -> Iterator[tuple[Prompt, Prompt]]:
    """Yield the pairs of prompts of two processes that are the same call."""
    return _paired(first, second)


def _texts_by_place(prompt: Prompt) -> Iterator[tuple[str, str]]:
    """Yield (place, text) for each block of the cached prefix, and for all tools together."""
    return ((where, now) for where, _, now in _cached_texts(prompt, prompt))


def _cached_texts(was: Prompt, now: Prompt) -> Iterator[tuple[str, str, str]]:
    """Yield (place, recorded text, new text) for each block of the cached prefix, and for all tools.

    Messages that a conversation gained have no recorded text, so they are not compared.
    """
    recorded = {block.where: wording_of(block) for block in was.blocks}
    prefix = now.blocks[: last_breakpoint(now) + 1]
    for block in prefix:
        if block.level != "messages" or block.where in recorded:
            yield block.where, recorded.get(block.where, ""), wording_of(block)
    if any(block.level == "tools" for block in prefix):
        before, after = (json.dumps([text_of(b) for b in prompt.level("tools")]) for prompt in (was, now))
        yield "tools", before, after


def _differ_by_value(texts: Iterable[str]) -> bool:
    first, *others = dict.fromkeys(texts)
    kinds = (kind_of_difference(first, other) for other in others)
    return any(kind.is_value or kind is Kind.ORDER for kind in kinds)


def _changes(was: Prompt, now: Prompt) -> list[Difference]:
    if was is now or not (prefix := shared_prefix(now)):
        return []
    return differences(shared_prefix(was) or prefix_of_heads(was), prefix, tool_names(now))


def shared_prefix(prompt: Prompt) -> list[Block]:
    """Return the cached blocks that other conversations could share.

    They are tools, system, and context with a breakpoint in the first message. A breakpoint on the last block
    caches the conversation itself, which no other one shares.
    """
    end = last_breakpoint(prompt)
    if end < 0:
        return []
    front = [index for index, block in enumerate(prompt.blocks[:-1]) if block.ttl and not block.message]
    heads = sum(block.level != "messages" for block in prompt.blocks)
    stop = max(min(end + 1, heads), max(front, default=-1) + 1)
    return list(prompt.blocks[:stop])


def prefix_of_heads(prompt: Prompt) -> list[Block]:
    """Return the blocks of tools and system."""
    return [block for block in prompt.blocks if block.level != "messages"]


def _finding(difference: Difference, sources: SourceTree | None) -> Finding | None:
    if difference.change in ("added", "removed"):
        return None  # an edit, or growth: told as such
    if difference.change == "reordered":
        if sources and _is_in_order(difference, sources):
            return None
        return Finding(
            FindingKind.VOLATILE, difference.where, f"{describe(difference, RECORDED)}; {_ORDERED}"
        )
    if sources is None or difference.old is None or difference.new is None:
        return None
    location = sources.locate(text_of(difference.old), text_of(difference.new))
    made_anew = kind_of_code(location.code)
    strange = [
        piece
        for piece in location.missing
        if made_anew or _is_strange(piece, difference.kind, location, sources)
    ]
    if not strange:
        return None
    difference = refined(difference, location, edited=False)
    cause = describe(difference, RECORDED, location.filled)
    end = f'"{excerpt(strange[0], 0)}" is {sources.nowhere}: '
    if Kind.DATE in (made_anew, difference.kind) and not _TIME_OF_DAY.search(strange[0]):
        end += "if each day has another one, each has a prefix of its own"
    else:
        end += "if each process has another one, each caches its own prefix"
    return Finding(FindingKind.VOLATILE, difference.where, f"{cause}; {end}", source=location.filled)


_TIME_OF_DAY = re.compile(r"\d:\d|\d\s?[時时시]|\d{9}|[ap]\.?m\b", re.IGNORECASE)
"""What is finer than a day: a clock, or seconds since 1970."""


def _is_in_order(difference: Difference, sources: SourceTree) -> bool:
    """Return whether tools or keys are in this order in every process.

    Either they are sorted by name, or the change lists the tools so, or a file holds the text in this order.
    """
    if difference.level == "tools":
        told = difference.order is not None and sources.tells_order(difference.order)
        return difference.is_sorted or told
    was, now = (text_of(block) if block else "" for block in (difference.old, difference.new))
    location = sources.locate(was, now)
    return bool(location.sources) and not location.missing


def _is_strange(piece: str, kind: Kind, location: Location, sources: SourceTree) -> bool:
    """Return whether a text that is not at its place in the repository looks like a value.

    A number may be an edited constant of the code. Plain words are an edit, wherever they come from, unless a
    line of the repository is filled with them and no file holds them.
    """
    if kind == Kind.COUNTER:
        return not sources.changes_mention(piece)
    if kind.is_value or values_in(piece):
        return True
    return location.filled is not None and not (location.source or sources.holds(piece))


def compare_prefixes(first: Sequence[Prompt], second: Sequence[Prompt]) -> list[Finding]:
    """Return what differs between the cached prefixes of two processes that ran one scenario.

    They are compared byte for byte up to the last cache breakpoint; where nothing is cached, tools and system
    are. The requests may come in any order.
    """
    found: dict[Hashable, Finding] = {}
    if len(first) != len(second):
        text = f"a second process asks {plural(len(second), 'turn')}, the first {len(first):,}"
        found["turns"] = Finding(FindingKind.VOLATILE, "turns", text)
    for one, other in _paired(first, second):
        for difference in differences(_cached(one), _cached(other), tool_names(one) | tool_names(other)):
            what = describe(difference, ELSEWHERE)
            found.setdefault(
                (difference.where, difference.kind), Finding(FindingKind.VOLATILE, difference.where, what)
            )
        for name in _parameters(one, other):
            text = f"{name} differs from process to process, which loses the cache"
            found.setdefault(name, Finding(FindingKind.VOLATILE, name, text))
    return list(found.values())


def _cached(prompt: Prompt) -> list[Block]:
    end = last_breakpoint(prompt)
    if end < 0:
        return prefix_of_heads(prompt)
    return list(prompt.blocks[: end + 1])


def _parameters(one: Prompt, other: Prompt) -> Iterator[str]:
    was, now = scopes(one), scopes(other)
    for level in LEVELS:
        old, new = was.get(level, {}), now.get(level, {})
        yield from sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def _paired(first: Iterable[Prompt], second: Iterable[Prompt]) -> Iterator[tuple[Prompt, Prompt]]:
    """Yield the requests of both processes that are the same call: by content, messages, head, then order."""
    left, right = list(first), list(second)
    keys: tuple[Callable[[Prompt], Hashable], ...] = (
        lambda prompt: tuple(block.digest for block in prompt.blocks),
        lambda prompt: tuple(block.digest for block in prompt.level("messages")),
        lambda prompt: (len(prompt.blocks), *(b.digest for b in prompt.blocks if b.level != "messages")),
        lambda prompt: len(prompt.blocks),
        lambda _: None,
    )
    for key in keys:
        waiting: defaultdict[Hashable, list[Prompt]] = defaultdict(list)
        for prompt in right:
            waiting[key(prompt)].append(prompt)
        rest = []
        for prompt in left:
            if same := waiting.get(key(prompt)):
                yield prompt, same.pop(_likest(prompt, same))
            else:
                rest.append(prompt)
        left = rest
        right = [prompt for prompts in waiting.values() for prompt in prompts]


def _likest(prompt: Prompt, among: Sequence[Prompt]) -> int:
    """Return the index of the prompt that has most text in common, the first of several.

    A router is asked the same messages as the turn that it chooses, under another system prompt.
    """
    if prompt.blocks == among[0].blocks:
        return 0
    return max(range(len(among)), key=lambda number: _in_common(prompt, among[number]))


def _in_common(one: Prompt, other: Prompt) -> int:
    """Return how many characters the blocks of two prompts begin and end with alike, by their places."""
    texts = {block.where: wording_of(block) for block in other.blocks}
    ends = (common_ends(wording_of(block), texts.get(block.where, "")) for block in one.blocks)
    return sum(start + tail for start, tail in ends)
