"""Compare two prompts block by block, as the model is shown them, and match the blocks of both."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from pytest_tokenbudget.metering.rendering import Head, Place, Rendered, message_places, render
from pytest_tokenbudget.sequences import common_ends
from pytest_tokenbudget.wire.prompt import Block, Prompt, bare_content, digest
from pytest_tokenbudget.wire.requests import sorted_keys


@dataclass(frozen=True, slots=True)
class Item:
    """A block of one prompt at its place."""

    index: int
    """Counts from 0 among tools and system, or among the blocks of the messages."""
    block: Block
    place: Place
    model: str

    def rendered(self) -> Rendered:
        """Return the block as the model is shown it, without its framing."""
        return render(self.block, self.place.surroundings, self.model)


@dataclass(frozen=True, slots=True)
class Change:
    """A block that was added (`was` is None), removed (`now` is None) or changed."""

    was: Item | None
    now: Item | None


@dataclass(frozen=True, slots=True, eq=False)
class Difference:
    """Two prompts, or the same part of both, with their blocks matched.

    A block that moved is the same block, and a cache marker is no difference.
    """

    same: tuple[tuple[Item, Item], ...]
    changes: tuple[Change, ...]
    """The changes in the order of the new prompt; what was removed stands where it was."""


def items(prompt: Prompt) -> tuple[Item, ...]:
    """Return the blocks of `prompt`, each at its place."""
    head = Head.of(prompt)
    return *_of_head(head), *_of_messages(prompt, head)


def _of_head(head: Head) -> tuple[Item, ...]:
    return _placed(head.blocks, head.places(), head.model)


def _of_messages(prompt: Prompt, head: Head) -> tuple[Item, ...]:
    blocks = prompt.blocks[len(head.blocks) :]
    return _placed(blocks, message_places(blocks, prompt.model), prompt.model)


def _placed(blocks: Sequence[Block], places: Sequence[Place], model: str) -> tuple[Item, ...]:
    pairs = zip(blocks, places, strict=True)
    return tuple(Item(index, block, place, model) for index, (block, place) in enumerate(pairs))


def difference(was: Prompt, now: Prompt) -> Difference:
    """Match the blocks of two prompts, in time linear in their number.

    Blocks are matched first by what was sent, then by what the model is shown (it sees no ids, no `strict`).
    What remains is paired by its name if it is a tool, else with a block of its kind between the same
    neighbours. A text that stands in other blocks than before is no change: the model is shown the blocks of
    a message, or of the system prompt, as one text.
    """
    heads, messages = differences(was, now)
    return Difference(heads.same + messages.same, heads.changes + messages.changes)


def differences(was: Prompt, now: Prompt) -> tuple[Difference, Difference]:
    """Match two prompts as `difference` does: return tools and system apart from the messages.

    The first of the two is one cached object on every turn of all conversations that begin the same.
    """
    before, after = Head.of(was), Head.of(now)
    messages = _matched(_of_messages(was, before), _of_messages(now, after))
    return _heads_apart(before, after), messages


@lru_cache(maxsize=16)
def _heads_apart(was: Head, now: Head) -> Difference:
    return _matched(_of_head(was), _of_head(now))


def _matched(before: tuple[Item, ...], after: tuple[Item, ...]) -> Difference:
    matched: dict[int, Item] = {}  # by index in the new prompt
    old, new = list(before), list(after)
    for key in (_sent, _shown):
        for a, b in _take_pairs(old, new, key):
            matched[b.index] = a
    same = tuple((matched[item.index], item) for item in after if item.index in matched)
    gaps = _gaps(before, {a.index: a.index for a, _ in same})
    gaps |= _gaps(after, {b.index: a.index for a, b in same})
    _take_resplit(old, new)
    changed = _take_pairs(old, new, _tool_name)
    changed += _take_pairs(old, new, lambda item: (gaps[id(item)], *_sort(item.block)))
    changes = [
        *(((b.index, 1), Change(a, b)) for a, b in changed),
        *(((b.index, 1), Change(None, b)) for b in new),
        *(((a.index, 0), Change(a, None)) for a in old),
    ]
    return Difference(same, tuple(change for _, change in sorted(changes, key=lambda entry: entry[0])))


def _take_pairs(
    old: list[Item], new: list[Item], key: Callable[[Item], Hashable | None]
) -> list[tuple[Item, Item]]:
    """Return the n-th old item of each key with the n-th new one, and take both out of their lists."""
    waiting: defaultdict[Hashable, deque[Item]] = defaultdict(deque)
    for item in old:
        waiting[key(item)].append(item)
    pairs = []
    for item in new:
        found = key(item)
        if found is not None and waiting.get(found):
            pairs.append((waiting[found].popleft(), item))
    taken = {id(item) for pair in pairs for item in pair}
    for items_left in (old, new):
        items_left[:] = [item for item in items_left if id(item) not in taken]
    return pairs


def _take_resplit(old: list[Item], new: list[Item]) -> None:
    """Take out of both lists what is the same text in other blocks at the same place."""
    before, after = _by_message(old), _by_message(new)
    for place in before.keys() & after.keys():
        was, now = before[place], after[place]
        if all(map(_is_plain_text, (*was, *now))) and _text(was) == _text(now):
            taken = {id(item) for item in (*was, *now)}
            for items_left in (old, new):
                items_left[:] = [item for item in items_left if id(item) not in taken]


def _is_plain_text(item: Item) -> bool:
    return item.block.kind == "text" and item.rendered().unknown is None


def _by_message(items_left: Iterable[Item]) -> dict[Hashable, list[Item]]:
    found: defaultdict[Hashable, list[Item]] = defaultdict(list)
    for item in items_left:
        found[item.block.level, item.block.role, item.block.message].append(item)
    return found


def _text(several: Iterable[Item]) -> str:
    return "".join(str(item.block.content.get("text", "")) for item in several)


def _sent(item: Item) -> Hashable:
    return item.block.digest, item.place.surroundings


def _shown(item: Item) -> Hashable | None:
    rendered = item.rendered()
    if rendered.unknown is not None:
        said = digest(sorted_keys(bare_content(item.block)))
        return item.block.level, item.block.role, said, item.place.surroundings
    return item.block.level, item.block.role, item.block.kind, rendered


def _tool_name(item: Item) -> Hashable | None:
    name = item.block.content.get("name") if item.block.level == "tools" else None
    return name if isinstance(name, str) else None


def _sort(block: Block) -> tuple[str, str | None, str]:
    return block.level, block.role, block.kind


def _gaps(its: Iterable[Item], matched: dict[int, int]) -> dict[int, int]:
    """Return by the `id()` of each item the old index of the matched block before it, or -1 without one."""
    gaps, last = {}, -1
    for item in its:
        gaps[id(item)] = last
        last = matched.get(item.index, last)
    return gaps


@lru_cache(maxsize=32)
def kept(was: str, now: str) -> tuple[int, int]:
    """Return how many characters both texts begin with, and how many of the others both end with.

    Remembered, for the same edit comes back on every turn.
    """
    return common_ends(was, now)
