"""Which hole of a template a value was filled into, told by the few words that stand next to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pytest_tokenbudget.diagnosis.differences import Span
from pytest_tokenbudget.diagnosis.findings import Source
from pytest_tokenbudget.diagnosis.placement import Query
from pytest_tokenbudget.sequences import common_prefix
from pytest_tokenbudget.sources.match import File
from pytest_tokenbudget.sources.words import HOLE

_LONGEST = 60
"""Words of an addition above which it is no value."""
_NEAR = 24
"""Words on either side of a hole that are looked at."""
_EXPRESSION = 16
"""Words between the braces of a hole."""


@dataclass(frozen=True, slots=True)
class Filled:
    """A line whose hole an addition fits, and the value in it."""

    source: Source
    value: str


@dataclass(frozen=True, slots=True)
class _Fit:
    source: Source
    value: Span
    begin: int
    """Of the line's own words in front of the hole, in the file."""
    first: int
    """The same in the query."""
    words: int
    """Of the line, on both sides of its hole, that stand around the value; marks count by themselves."""
    marks: int

    @property
    def rank(self) -> tuple[int, int]:
        return self.words, self.marks


def filled_in(query: Query, files: Iterable[File]) -> Filled | None:
    """The one line of `files` with a hole that the whole of an addition fits, save for the line's own words.

    `Session {id}` is too short to be found as a text, but it is all that stands around a session's id. None
    where no line fits, or several do equally well.
    """
    if query.size > _LONGEST:
        return None
    added = query.unbroken()
    fits: list[_Fit] = []
    for file in files:
        ends: set[int] = set()
        for hole in _holes(file.text.words):
            fit = _fit(query, added, file, hole)
            if fit and (fit.words > 1 or fit.begin in ends or query.begins_line(fit.first)):
                fits.append(fit)
            ends.add(hole[1])
    best = max((fit.rank for fit in fits), default=None)
    lines = {fit.source: fit for fit in fits if fit.rank == best}
    if len(lines) != 1:
        return None
    ((source, fit),) = lines.items()
    return Filled(source, query.piece(fit.value))


def _fit(query: Query, added: Span, file: File, hole: Span) -> _Fit | None:
    words, (start, end), (first, last) = file.text.words, hole, added
    # What the line says itself, inside the addition: as much of it as is there, on either side.
    inside = max(
        n for n in range(last - first) if words[max(start - n, 0) : start] == query.words[first : first + n]
    )
    behind = max(
        n for n in range(last - first - inside) if words[end : end + n] == query.words[last - n : last]
    )
    value = (first + inside, last - behind)
    before = common_prefix(words[max(start - _NEAR, 0) : start][::-1], query.words[: value[0]][::-1])
    after = common_prefix(words[end : end + _NEAR], query.words[value[1] :])
    said = [*query.words[value[0] - before : value[0]], *query.words[value[1] : value[1] + after]]
    content = sum(word[0].isalnum() for word in said)
    if not before or not (content or after):
        return None
    source = Source(file.path, file.text.lines[start])
    return _Fit(source, value, start - before, value[0] - before, content, len(said) - content)


def _holes(words: Sequence[str]) -> Iterator[Span]:
    """The holes of f-strings, str.format, Jinja, `%` and string.Template, as ranges of words."""
    at = 0
    while at < len(words):
        end = _end_of_hole(words, at)
        if end > at:
            yield at, end
        at = max(end, at + 1)


def _end_of_hole(words: Sequence[str], at: int) -> int:
    """Behind the hole that begins at a word; `at` itself where none does."""
    word = words[at]
    if word == HOLE:
        return at + 1
    if word == "{":
        depth = 0
        for position in range(at, min(at + _EXPRESSION, len(words))):
            depth += (words[position] == "{") - (words[position] == "}")
            if not depth:
                return position + 1
    if word in ("%", "$") and at + 1 < len(words):
        braced = words[at + 1] == "{"
        return _end_of_hole(words, at + 1) if braced else at + 2
    return at
