"""Name the parts of a prompt as a person would, and tell a turn's difference to its recording by them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from pytest_tokenbudget.metering.cache_rules import cache_model
from pytest_tokenbudget.metering.difference import Item, difference
from pytest_tokenbudget.metering.estimate import Part
from pytest_tokenbudget.metering.meter import Turn
from pytest_tokenbudget.metering.models import model_row
from pytest_tokenbudget.metering.rendering import (
    ALONE,
    Rendered,
    envelope,
    image_size,
    render,
    render_options,
)
from pytest_tokenbudget.model import Source
from pytest_tokenbudget.sequences import common_ends
from pytest_tokenbudget.sources import SourceTree
from pytest_tokenbudget.wire.prompt import Block, Prompt, digest, mappings
from pytest_tokenbudget.wording import listed

CountOf = Callable[[str], int]
"""Counts the tokens of a text roughly, only to share out a known difference."""


def with_own_parts(turn: Turn, count: CountOf) -> Turn:
    """Return the turn with parts that tell what differs from its own recorded request; their sum stays.

    An estimate may be counted from a neighbouring turn's request, and its parts then tell other differences.
    Such parts are found anew, and sized by `count`. A text that changed while it was put into other blocks is
    one part. What `count` is off by goes to the largest part, or to `model` if another tokenizer reads the
    text.
    """
    parts = turn.estimate.parts
    if not parts:
        return turn
    was, now = turn.pair.recorded.prompt, turn.pair.request.prompt
    total, framing = sum(part.tokens for part in parts), _framing(was, now)
    told = sum(part.tokens for part in parts if part.where == "framing")
    if abs(told - framing) > 1 or not _are_own(turn):  # 1 is for rounding
        parts = tuple(_counted(turn, count))
    own = list(_rejoined(part for part in parts if part.where != "framing"))
    if framing:
        own.append(Part("framing", "changed", framing))
    if rest := total - sum(part.tokens for part in own):
        if not own or model_row(was.model).family != model_row(now.model).family:
            own.append(Part("model" if own else "request", "changed", rest))
        else:
            largest = max(range(len(own)), key=lambda number: abs(own[number].tokens))
            own[largest] = replace(own[largest], tokens=own[largest].tokens + rest)
    return replace(turn, estimate=replace(turn.estimate, parts=tuple(own)))


def _framing(was: Prompt, now: Prompt) -> int:
    """Return by how many tokens the framing grew around the blocks that both prompts hold."""
    moved = sum(new.place.framing - old.place.framing for old, new in difference(was, now).same)
    return moved + envelope(now) - envelope(was)


def _are_own(turn: Turn) -> bool:
    """Return whether the parts are differences to the turn's own recorded request.

    They are where their blocks are new to it or gone from it, and their options differ from its options.
    """
    recorded, request = turn.pair.recorded.prompt, turn.pair.request.prompt
    was, now = (Counter(block.digest for block in prompt.blocks) for prompt in (recorded, request))
    options = {part.where for part in turn.estimate.parts if part.was is None and part.now is None}
    return options - {"framing", "model"} <= _changed_options(turn).keys() and all(
        (part.was is None or was[part.was.digest] > now[part.was.digest])
        and (part.now is None or now[part.now.digest] > was[part.now.digest])
        for part in turn.estimate.parts
    )


def _changed_options(turn: Turn) -> dict[str, tuple[Rendered, Rendered]]:
    """Return what the options that differ add to the recorded request and to the new one, by option."""
    was, now = (render_options(one.prompt) for one in (turn.pair.recorded, turn.pair.request))
    sides = {name: (was.get(name, Rendered()), now.get(name, Rendered())) for name in {**was, **now}}
    return {name: pair for name, pair in sides.items() if pair[0] != pair[1]}


def _counted(turn: Turn, count: CountOf) -> Iterator[Part]:
    """Yield what differs from the turn's own recorded request, sized as the API shows it."""
    for change in difference(turn.pair.recorded.prompt, turn.pair.request.prompt).changes:
        was, now = (item.block if item else None for item in (change.was, change.now))
        tokens = _tokens(change.now, count) - _tokens(change.was, count)
        if was and now:
            yield Part(now.where, "changed", tokens, was, now)
        elif now:
            yield Part(now.where, "added", tokens, None, now)
        elif was:
            yield Part(was.where, "removed", tokens, was, None)
    for name, (before, after) in sorted(_changed_options(turn).items()):
        sizes = (side.tokens + sum(map(count, side.texts)) for side in (after, before))
        yield Part(name, "changed", round(next(sizes) - next(sizes)))


def _tokens(item: Item | None, count: CountOf) -> int:
    if item is None:
        return 0
    rendered = item.rendered()
    text = [text_of(item.block)] if rendered.unknown else rendered.texts
    return item.place.framing + rendered.tokens + sum(map(count, text))


def _rejoined(parts: Iterable[Part]) -> Iterator[Part]:
    """Yield the parts, with those of a text that went from one block into several, or back, as one."""
    groups: dict[object, list[Part]] = defaultdict(list)
    for part in parts:
        block = part.now or part.was
        groups[(block.level, block.role, block.message) if block else part.where].append(part)
    for group in groups.values():
        was, now = [part.was for part in group if part.was], [part.now for part in group if part.now]
        if was and now and len(was) != len(now) and (whole := _whole(was, now)):
            yield Part(whole[1].where, "changed", sum(part.tokens for part in group), *whole)
        else:
            yield from group


def _whole(was: Sequence[Block], now: Sequence[Block]) -> tuple[Block, Block] | None:
    """Return both sides as one block each, at the place where they part.

    None where they do not share half of the shorter text, or hold anything but text.
    """
    if not all(block.kind == "text" for block in (*was, *now)):
        return None
    before, after = ("".join(map(text_of, side)) for side in (was, now))
    at, tail = common_ends(before, after)
    if (at + tail) * 2 < min(len(before), len(after)):
        return None
    ends = accumulate(len(text_of(block)) for block in now)
    there = next((block for block, end in zip(now, ends, strict=True) if at < end), now[-1])
    return _of(was[0], before), _of(there, after)


def _of(block: Block, text: str) -> Block:
    content = {"type": "text", "text": text}
    return replace(block, content=content, digest=digest(block.level, block.role, content))


TOOL_RESULT = "tool_result"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part stands; equal places of different turns are one place."""

    where: str
    """`system[0]`, `tools[search]`, `messages[0] user text`, `messages[2] tool_result of search`."""
    group: str
    """The key by which growth is added up: `where`, but all results of a tool have one."""


def place(block: Block, tools: Mapping[str, str]) -> Place:
    """Return the place of a block; `tools` names the tool of each tool use (`tool_names`)."""
    if block.level != "messages":
        return Place(block.name, block.name)
    if block.kind == TOOL_RESULT:
        tool = tools.get(str(block.content.get("tool_use_id")), "an unknown tool")
        return Place(f"messages[{block.message}] tool_result of {tool}", f"tool_results of {tool}")
    where = f"messages[{block.message}] {block.role} {block.kind}"
    return Place(where, where)


def tool_names(prompt: Prompt) -> dict[str, str]:
    """Return the name of the tool that each tool use calls, by the id that its result refers to."""
    return {
        str(block.content.get("id")): str(block.content.get("name"))
        for block in prompt.blocks
        if block.kind.endswith("tool_use")
    }


def text_of(block: Block) -> str:
    """Return the text of a block as its author wrote it: the strings of a tool, the JSON of structures.

    An image or a PDF has none: the result is empty.
    """
    content = block.content
    if block.kind == "text":
        return str(content.get("text", ""))
    if block.kind == "tool":
        return prose(content)
    if block.kind == TOOL_RESULT:
        return _text_of_result(content.get("content"))
    if _is_encoded(content):
        return ""
    return prose(content) if block.kind == "document" else to_json(content)


def _text_of_result(content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = [part for part in content if not _is_encoded(part)]
    parts = (part.get("text", to_json(part)) if isinstance(part, Mapping) else part for part in texts)
    return "\n".join(str(part) for part in parts)


def wording_of(block: Block) -> str:
    """Return the text of a block; for an image or a PDF, JSON that says what it is and how large."""
    inner = block.content.get("content") if block.kind == TOOL_RESULT else None
    if isinstance(inner, list) and any(map(_is_encoded, inner)):
        return "\n".join(str(part.get("text") or to_json(shown(part))) for part in mappings(inner))
    return text_of(block) or to_json(shown(block.content))


def _is_encoded(content: object) -> bool:
    source = content.get("source") if isinstance(content, Mapping) else None
    return isinstance(source, Mapping) and source.get("type") == "base64"


def shown(value: object) -> object:
    """Return a JSON-like value with encoded data as a person would tell it: an image's pixels, or bytes."""
    if isinstance(value, Mapping):
        if value.get("type") == "base64" and isinstance(data := value.get("data"), str):
            size = image_size(data)
            told = f"{size[0]} x {size[1]} pixels" if size else f"{len(data) * 3 // 4:,} bytes"
            return {**value, "data": f"{told}, {digest(data)[:8]}"}
        return {key: shown(inner) for key, inner in value.items()}
    return [shown(inner) for inner in value] if isinstance(value, list) else value


def size_of(block: Block, model: str) -> int:
    """Return about how many characters of text a block is worth, for its share of a prompt."""
    rendered = render(block, ALONE, model)
    if rendered.unknown:
        return len(to_json(block.content))
    return len(text_of(block)) + _CHARACTERS * rendered.tokens


_CHARACTERS = 4  # of a token of text, roughly


def strings(value: object) -> Iterator[str]:
    """Yield keys, strings and numbers of a JSON-like value, in order, as text."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from strings(inner)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def prose(value: object) -> str:
    """Return the words of a JSON-like value without its structure, as files of any format hold them."""
    return "\n".join(strings(value))


def to_json(value: Any) -> str:
    """Return a value as JSON, its keys in the order in which they were sent."""
    return json.dumps(value, ensure_ascii=False, default=str)


def opening_of(prompt: Prompt) -> str:
    """Return a text that all turns of one conversation share: model, whether there are tools, first block.

    A small model that sorts the same question first has another conversation than the agent that answers it.
    """
    first = next((block.digest for block in prompt.blocks if block.level == "messages"), "")
    return f"{cache_model(prompt.model)} {any(block.level == 'tools' for block in prompt.blocks)} {first}"


_SAID_AS: Mapping[str, tuple[str, ...]] = {
    "thinking": ("thinking", "budget_tokens"),
    "betas": ("anthropic-beta", "betas"),
    "anthropic-beta": ("anthropic-beta", "betas"),
    "web_tools": (),
    "images": (),
}
"""What code says that sets an option of a request, where that is not the option's name alone."""


def said_as(option: str) -> tuple[str, ...]:
    """Return the words that set an option in code, the most telling first; none where content decides it."""
    return _SAID_AS.get(option, (option,))


def edit_of(sources: SourceTree | None, *words: str) -> tuple[Source | None, str]:
    """Return the one line that the change edits and that says one of `words`, and a clause that names it.

    A function that says one of them says it for those that call it. The clause names up to three lines, of
    which none is the one; it is empty if no line is known.
    """
    return _named(sources.edited_through(*words) if sources else ())


_ORDERING = (
    *("shuffle", "sample", "set", "frozenset", "Set", "sorted", "sort", "toSorted", "reversed", "reverse"),
    *("listdir", "scandir", "iterdir", "glob", "rglob", "readdir", "as_completed"),
)
"""What code says that puts things into an order, or into none."""


def reorder_of(sources: SourceTree | None) -> tuple[Source | None, str]:
    """Return the one line that the change edits and that orders something, and a clause that names it."""
    return _named(sources.edited(*_ORDERING) if sources else ())


def _named(places: Sequence[Source]) -> tuple[Source | None, str]:
    clause = f" (edited at {listed([str(place) for place in places])})" if places else ""
    return places[0] if len(places) == 1 else None, clause
