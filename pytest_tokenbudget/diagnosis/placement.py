"""How well a file of the repository holds an addition to a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pytest_tokenbudget.diagnosis.differences import Span
from pytest_tokenbudget.diagnosis.findings import Source
from pytest_tokenbudget.sources.match import Alignment, File, alignments
from pytest_tokenbudget.sources.words import word_spans

_CONTEXT = 24
"""Unchanged words on either side of an addition that help to place it."""
_COVERED = 0.6
"""Share of an addition that must be in a file before the file is said to hold it."""
_LONG_ENOUGH = 4
"""Words in a row, context included, below which a match is chance."""
_EXPLAINED = 3
"""Words, of an addition whose other words all stand where a template has holes."""
NAMED = 3
"""Places that an ambiguous answer names."""


class Query:
    """An addition with its context."""

    def __init__(self, text: str, span: Span, edges: Sequence[Span] | None = None) -> None:
        edges = word_spans(text) if edges is None else edges
        start = max(span[0] - _CONTEXT, 0)
        self._full, self._start = text, start
        self._all = edges
        self._edges = edges[start : span[1] + _CONTEXT]
        self.words = [text[a:b] for a, b in self._edges]
        self.span = (span[0] - start, span[1] - start)
        self.text = self.piece(self.span)

    @property
    def size(self) -> int:
        """Words of the addition."""
        return self.span[1] - self.span[0]

    def piece(self, span: Span) -> str:
        """The text of a range of words."""
        return self._full[self._edges[span[0]][0] : self._edges[span[1] - 1][1]]

    def content(self, span: Span) -> int:
        """How many of a range of words say something: punctuation differs from format to format."""
        return sum(map(_says_something, self.words[span[0] : span[1]]))

    def begins_line(self, word: int) -> bool:
        """Whether a word is the first of its line."""
        begin = self._edges[word][0]
        return not self._full[self._full.rfind("\n", 0, begin) + 1 : begin].strip()

    def unbroken(self) -> Span:
        """The addition with the rest of the words, up to white space, that it begins and ends in."""
        (first, last), edges = self.span, self._edges
        while first and edges[first - 1][1] == edges[first][0]:
            first -= 1
        while last < len(edges) and edges[last - 1][1] == edges[last][0]:
            last += 1
        return first, last

    def lines(self) -> list[Query]:
        """The addition, line by line; none where it is of one line."""
        first, last = self.span
        starts = [w for w in range(first + 1, last) if self.begins_line(w)]
        edges = [first, *starts, last]
        spans = pairwise(edges) if starts else ()
        return [Query(self._full, (a + self._start, b + self._start), self._all) for a, b in spans]


@dataclass(frozen=True, slots=True)
class Placed:
    """How well a file holds an addition."""

    alignment: Alignment
    in_span: int
    """Words of the addition that are there, punctuation apart."""
    filled: Source | None
    missing: tuple[str, ...]
    holds: bool
    source: Source | None

    @classmethod
    def of(cls, alignment: Alignment, query: Query) -> Placed:
        """How well an alignment of a query explains its addition."""
        matched = alignment.matched_in(query.span)
        in_span = sum(map(query.content, matched))
        gaps = [gap for gap in _gaps(query.span, matched) if query.content(gap)]
        holes = {gap: line for gap in gaps if (line := alignment.hole_line(gap))}
        explained = in_span + sum(map(query.content, holes))
        size = query.content(query.span)
        enough = alignment.longest >= min(_LONG_ENOUGH, len(query.words))
        if holes and len(holes) == len(gaps):
            enough = enough or alignment.matched >= _EXPLAINED
        lines = alignment.lines_of(query.span)
        path = alignment.file.path
        return cls(
            alignment,
            in_span,
            Source(path, next(iter(holes.values()))) if holes and enough else None,
            tuple(query.piece(gap) for gap in gaps),
            bool(lines) and enough and explained >= _COVERED * size,
            Source(path, lines[0], lines[1] if lines[1] > lines[0] else None) if lines else None,
        )

    def rank(self) -> tuple[bool, int, int]:
        """Better places rank higher; equal ranks are ambiguous."""
        return self.holds, self.in_span, self.alignment.matched


def best_placement(query: Query, file: File) -> Placed | None:
    """How well `file` holds `query`."""
    best: Placed | None = None
    for alignment in alignments(query.words, file):
        one = Placed.of(alignment, query)
        best = one if best is None or one.rank() > best.rank() else best
        if best.holds:
            break
    return best


def _says_something(word: str) -> bool:
    return word[0].isalnum() or word[0] == "_"


def _gaps(span: Span, matched: Sequence[Span]) -> list[Span]:
    edges = [span[0], *(edge for pair in matched for edge in pair), span[1]]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]


def equal_places(best: Placed, query: Query) -> list[Source]:
    """The place of `best`, and others in the same file that hold as much."""
    places: list[Source] = []
    one = best
    while one.source and len(places) < NAMED:
        places.append(one.source)
        again = best_placement(query, one.alignment.file.without(*one.alignment.extent))
        if again is None or again.rank() != best.rank():
            break
        one = again
    return places
