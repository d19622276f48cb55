"""How a break of the cached prefix is told."""

from __future__ import annotations

from dataclasses import replace

from pytest_tokenbudget.diagnosis.comparison import Difference
from pytest_tokenbudget.diagnosis.findings import Source
from pytest_tokenbudget.diagnosis.kinds import Kind, values_in
from pytest_tokenbudget.diagnosis.sources import Location


def describe(
    difference: Difference, api: str | None, *, across: bool, literal: bool, source: Source | None
) -> str:
    """One clause: where the prefix breaks, what kind of difference it is, was and now.

    `across`: from the recorded prefix rather than an earlier turn's; `literal`: the new text is the
    repository's own, so that a number in it is an edit, not a value.
    """
    kind = Kind.TEXT if across and literal and difference.kind.is_value else difference.kind
    what = difference.change if difference.change in ("added", "removed") else str(kind)
    at = f", character {difference.char:,}" if difference.change == "changed" else ""
    words = ", ".join(filter(None, (api, what)))
    excerpts = (("was", difference.was), ("now", difference.now))
    pieces = [f'{side} "{text}"' for side, text in excerpts if text]
    since = "recorded prefix" if across else "prefix that an earlier turn cached"
    origin = f", from {source}" if source else ""
    return (
        f"cache prefix breaks at {difference.where}{at} ({words}), where it leaves the {since}: "
        f"{', '.join(pieces)}{origin}"
    )


def refined(difference: Difference, location: Location) -> Difference:
    """The difference, by the kind of value that was put in where there was none before."""
    values = [value for piece in location.missing for value in values_in(piece)]
    return replace(difference, kind=values[0][0]) if difference.kind == Kind.TEXT and values else difference
