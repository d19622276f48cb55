"""A break of the cached prefix, and all that break for one cause as one finding."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from pytest_tokenbudget.diagnosis.block_changes import Difference
from pytest_tokenbudget.diagnosis.break_text import EARLIER, RECORDED, describe, refined
from pytest_tokenbudget.diagnosis.costs import TurnCosts
from pytest_tokenbudget.diagnosis.findings import Finding
from pytest_tokenbudget.diagnosis.places import text_of
from pytest_tokenbudget.diagnosis.wording import plural, turns
from pytest_tokenbudget.sources.tree import Location, SourceTree

_INDEX = re.compile(r"^messages\[\d+\]")
_COUNT = re.compile(r"^\d+ ")
_TOOL = re.compile(r"(?<=tool_result) of .*")
READS = "lose the cache"


@dataclass(frozen=True, slots=True)
class Break:
    """One turn's break and its cause."""

    turn: int
    where: str
    cause: str
    """In words, where it is no difference of content."""
    tokens: int
    api: str | None = None
    """The API's own word for it, of its cache diagnostics."""
    difference: Difference | None = None
    across: bool = False
    """Whether the prefix differs from the recorded one rather than from an earlier turn's."""
    effect: str = READS
    """What happens to the tokens."""
    recorded: str = ""
    """The text at that place when recorded."""

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for the turns that break for the same cause."""
        place = _TOOL.sub("", _INDEX.sub("messages", self.where))
        return place, self.api, "" if self.api else _COUNT.sub("", self.cause)


def finding_of(group: Sequence[Break], costs: Sequence[TurnCosts], sources: SourceTree | None) -> Finding:
    """What turns that break for one cause cost together; `costs` holds one entry a turn of the run."""
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
    else:
        api = f" ({first.api})" if first.api else ""
        cause = f"cache prefix breaks at {first.where}{api}: {first.cause}"
    lost = f"{plural(tokens, 'token')} on {turns(one.turn for one in alike)} {first.effect}"
    return Finding("cache_break", first.where, f"{cause}; {lost}", tokens, cost, source)


def _located(one: Break, sources: SourceTree | None) -> Location | None:
    """The line that fills in what differs from the earlier turn; else the one of what was not recorded."""
    difference = one.difference
    if difference is None or sources is None or difference.change != "changed" or not difference.new:
        return None
    now = text_of(difference.new)
    found = [
        sources.locate(was, now) for was in (text_of(difference.old) if difference.old else "", one.recorded)
    ]
    return next((location for location in found if location.source or location.filled), found[0])
