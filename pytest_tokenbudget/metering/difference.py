"""What differs between two prompts, block by block, as the model is shown them."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace

from pytest_tokenbudget.metering.rendering import Place, Rendered, places, render
from pytest_tokenbudget.wire.prompt import Block, Prompt


@dataclass(frozen=True, slots=True)
class Item:
    """A block of one prompt at its place."""

    index: int
    block: Block
    place: Place
    model: str

    def rendered(self) -> Rendered:
        """As the model is shown it."""
        return render(self.block, self.place, self.model)


@dataclass(frozen=True, slots=True)
class Change:
    """A block that was added (`was` is None), removed (`now` is None) or changed."""

    was: Item | None
    now: Item | None


@dataclass(frozen=True, slots=True)
class Difference:
    """Two prompts, matched: a block that moved is the same block, and a cache marker is no difference."""

    same: tuple[tuple[Item, Item], ...]
    changes: tuple[Change, ...]
    """In the order of the new prompt; what was removed stands where it was."""


def items(prompt: Prompt) -> tuple[Item, ...]:
    """The blocks of `prompt` at their places."""
    pairs = zip(prompt.blocks, places(prompt), strict=True)
    return tuple(Item(index, block, place, prompt.model) for index, (block, place) in enumerate(pairs))


def difference(was: Prompt, now: Prompt) -> Difference:
    """Match the blocks of two prompts, in time linear in their number.

    First by what was sent, then by what is shown (ids and `strict` are not); what remains is paired between
    the same neighbours, or by its name if it is a tool.
    """
    matched: dict[int, Item] = {}  # by index in the new prompt
    old, new = list(items(was)), list(items(now))
    for key in (_sent, _shown):
        pairs = list(_pairs(old, new, key))
        matched |= {after.index: before for before, after in pairs}
        old = _without(old, (before for before, _ in pairs))
        new = _without(new, (after for _, after in pairs))
    same = tuple((matched[item.index], item) for item in items(now) if item.index in matched)
    gaps_old = _gaps(len(was.blocks), {before.index: before.index for before, _ in same})
    gaps_new = _gaps(len(now.blocks), {after.index: before.index for before, after in same})
    changed = list(_pairs(old, new, _tool_name))
    old, new = _without(old, (a for a, _ in changed)), _without(new, (b for _, b in changed))
    gaps = {id(item): gaps_old[item.index] for item in old} | {id(item): gaps_new[item.index] for item in new}
    changed += list(_pairs(old, new, lambda item: (gaps[id(item)], *_sort(item.block))))
    old, new = _without(old, (a for a, _ in changed)), _without(new, (b for _, b in changed))
    changes = [
        *(((after.index, 1), Change(before, after)) for before, after in changed),
        *(((after.index, 1), Change(None, after)) for after in new),
        *(((before.index, 0), Change(before, None)) for before in old),
    ]
    return Difference(same, tuple(change for _, change in sorted(changes, key=lambda entry: entry[0])))


def _pairs(
    old: Iterable[Item], new: Iterable[Item], key: Callable[[Item], Hashable | None]
) -> Iterator[tuple[Item, Item]]:
    """The n-th old item of a key with the n-th new one."""
    waiting: defaultdict[Hashable, deque[Item]] = defaultdict(deque)
    for item in old:
        waiting[key(item)].append(item)
    for item in new:
        found = key(item)
        if found is not None and waiting.get(found):
            yield waiting[found].popleft(), item


def _without(items: list[Item], taken: Iterable[Item]) -> list[Item]:
    gone = {item.index for item in taken}
    return [item for item in items if item.index not in gone]


def _sent(item: Item) -> Hashable:
    return item.block.digest, replace(item.place, framing=0)


def _shown(item: Item) -> Hashable | None:
    rendered = item.rendered()
    if rendered.unknown is not None:
        return None
    return item.block.level, item.block.role, item.block.kind, rendered


def _tool_name(item: Item) -> Hashable | None:
    return item.block.content.get("name") if item.block.level == "tools" else None


def _sort(block: Block) -> tuple[str, str | None, str]:
    return block.level, block.role, block.kind


def _gaps(length: int, matched: dict[int, int]) -> list[int]:
    """For each block, the old index of the matched block before it; -1 where there is none."""
    gaps, last = [], -1
    for index in range(length):
        gaps.append(last)
        last = matched.get(index, last)
    return gaps
