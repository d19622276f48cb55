"""Which lines of which file of the repository hold a text that a prompt gained."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pytest_tokenbudget.diagnosis.alignment import Alignment, File, alignments, grams_of
from pytest_tokenbudget.diagnosis.differences import Span, added_spans
from pytest_tokenbudget.diagnosis.findings import Source
from pytest_tokenbudget.diagnosis.words import read_words, word_spans, words_of

_CONTEXT = 24
"""Unchanged words on either side of an addition that help to place it."""
_RARE = 12
"""Words that choose the files worth a look: the rarest in the repository."""
_CANDIDATES, _POOL = 6, 256
"""Files that are looked into, and those of which they are chosen."""
_COVERED = 0.6
"""Share of an addition that must be in a file before the file is said to hold it."""
_LONG_ENOUGH = 4
"""Words in a row, context included, below which a match is chance."""
_EXPLAINED = 3
"""Words, of an addition whose other words all stand where a template has holes."""
_NAMED = 3
"""Places that an ambiguous answer names."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where an added text stands in the repository."""

    sources: tuple[Source, ...] = ()
    """One: there. Several: ambiguous, up to three of them. None: in no file."""
    filled: Source | None = None
    """The line of a template that the text, or a part of it, is filled into."""
    missing: tuple[str, ...] = ()
    """The pieces of the text that no file holds at that place."""
    elsewhere: tuple[Source, ...] = ()
    """Of a text with several additions: the places of the smaller ones."""

    @property
    def source(self) -> Source | None:
        """The one place, if there is one."""
        return self.sources[0] if len(self.sources) == 1 else None


@dataclass(frozen=True)
class SourceTree:
    """The text files of a repository, relative path to text, and which of them the change touches.

    Indexed when it is first asked, once: keep one for a whole run.
    """

    files: Mapping[str, str]
    changed: frozenset[str] = frozenset()

    @cached_property
    def _changed(self) -> _Index:
        return _Index({path: text for path, text in self.files.items() if path in self.changed})

    @cached_property
    def _others(self) -> _Index:
        return _Index({path: text for path, text in self.files.items() if path not in self.changed})

    @cached_property
    def _answers(self) -> dict[tuple[str, str], Location]:
        return {}

    def locate(self, was: str, now: str) -> Location:
        """Where the repository holds what `now` has more than `was`, changed files first.

        The place of the largest addition is the answer, those of the others are `elsewhere`. Texts are found
        in spite of white space, escapes, string concatenation and templates that were filled; a text that
        several places hold equally well is ambiguous.
        """
        key = (was, now)
        if key not in self._answers:
            self._answers[key] = self._located(was, now)
        return self._answers[key]

    def holds(self, text: str) -> bool:
        """Whether any file holds `text`, word for word."""
        words = words_of(text)
        if not words:
            return True
        for index in (self._changed, self._others):
            for file in index.candidates(words):
                if _contains(file.text.words, words):
                    return True
        return False

    def _located(self, was: str, now: str) -> Location:
        spans = added_spans(was, now)
        found = [self._place(_Query(now, span)) for span in spans]
        if not found:
            return Location()
        order = sorted(range(len(spans)), key=lambda i: spans[i][0] - spans[i][1])
        first = found[order[0]]
        return Location(
            first.sources,
            next((found[i].filled for i in order if found[i].filled), None),
            tuple(piece for location in found for piece in location.missing),
            tuple(source for i in order[1:] if (source := found[i].source)),
        )

    def _place(self, query: _Query) -> Location:
        if (changed := self._changed.place(query)) and changed.sources:
            return changed
        other = self._others.place(query)
        return next(
            (one for one in (other, changed) if one and (one.sources or one.filled)), None
        ) or Location(missing=(query.text,))


class _Query:
    """An addition with its context."""

    def __init__(self, text: str, span: Span) -> None:
        edges = word_spans(text)
        start = max(span[0] - _CONTEXT, 0)
        edges = edges[start : span[1] + _CONTEXT]
        self._full, self._edges = text, edges
        self.words = [text[a:b] for a, b in edges]
        self.span = (span[0] - start, span[1] - start)
        self.text = self.piece(self.span)

    def piece(self, span: Span) -> str:
        """The text of a range of words."""
        return self._full[self._edges[span[0]][0] : self._edges[span[1] - 1][1]]


class _Index:
    """Which words are in which files."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._texts = files
        self._files: dict[str, File] = {}
        self._paths: dict[str, list[str]] = defaultdict(list)
        for path, text in files.items():
            for word in set(read_words(path, text).words):
                self._paths[word].append(path)

    def place(self, query: _Query) -> Location | None:
        """Where these files hold `query`; None where none of them holds anything of it."""
        words, (start, end) = query.words, query.span
        context = [*words[:start], *words[end:]]
        files = {file.path: file for file in (*self.candidates(words[start:end]), *self.candidates(context))}
        found = [one for file in files.values() if (one := _placed(query, file))]
        placed = sorted(found, key=_Placed.rank, reverse=True)
        if not placed:
            return None
        best = placed[0]
        if not best.holds:
            return Location(filled=best.filled, missing=best.missing) if best.filled else None
        equals = [one for one in placed if one.rank() == best.rank()]
        sources = [source for one in equals for source in _places(one, query)]
        return Location(tuple(sources[:_NAMED]), best.filled, best.missing)

    def candidates(self, words: Sequence[str]) -> list[File]:
        """The files that hold most of the rarest of `words`; if many do, most of them in a row."""
        known = sorted(
            {word for word in words if word in self._paths}, key=lambda w: (len(self._paths[w]), w)
        )
        votes = Counter(path for word in known[:_RARE] for path in self._paths[word]).most_common(_POOL)
        if len(votes) > _CANDIDATES and votes[_CANDIDATES - 1][1] == votes[_CANDIDATES][1]:
            wanted = set(grams_of(words, 3))
            shared = {path: len(wanted & self._file(path).grams(3).keys()) for path, _ in votes}
            votes.sort(key=lambda vote: (-vote[1], -shared[vote[0]]))
        return [self._file(path) for path, _ in votes[:_CANDIDATES]]

    def _file(self, path: str) -> File:
        if path not in self._files:
            self._files[path] = File(path, read_words(path, self._texts[path]))
        return self._files[path]


@dataclass(frozen=True, slots=True)
class _Placed:
    """How well a file holds an addition."""

    alignment: Alignment
    in_span: int
    """Words of the addition that are there."""
    filled: Source | None
    missing: tuple[str, ...]
    holds: bool
    source: Source | None

    @classmethod
    def of(cls, alignment: Alignment, query: _Query) -> _Placed:
        matched = alignment.matched_in(query.span)
        in_span = sum(end - start for start, end in matched)
        gaps = _gaps(query.span, matched)
        holes = {gap: line for gap in gaps if (line := alignment.hole_line(gap))}
        explained = in_span + sum(end - start for start, end in holes)
        size = query.span[1] - query.span[0]
        enough = alignment.longest >= min(_LONG_ENOUGH, len(query.words))
        if len(holes) == len(gaps):
            enough = enough or alignment.matched >= _EXPLAINED
        lines = alignment.lines_of(query.span)
        path = alignment.file.path
        return cls(
            alignment,
            in_span,
            Source(path, next(iter(holes.values()))) if holes else None,
            tuple(query.piece(gap) for gap in gaps),
            bool(lines) and enough and explained >= _COVERED * size,
            Source(path, lines[0], lines[1] if lines[1] > lines[0] else None) if lines else None,
        )

    def rank(self) -> tuple[bool, int, int]:
        """Better places rank higher; equal ranks are ambiguous."""
        return self.holds, self.in_span, self.alignment.matched


def _placed(query: _Query, file: File) -> _Placed | None:
    """How well `file` holds `query`."""
    best: _Placed | None = None
    for alignment in alignments(query.words, file):
        one = _Placed.of(alignment, query)
        best = one if best is None or one.rank() > best.rank() else best
        if best.holds:
            break
    return best


def _gaps(span: Span, matched: Sequence[Span]) -> list[Span]:
    edges = [span[0], *(edge for pair in matched for edge in pair), span[1]]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]


def _places(best: _Placed, query: _Query) -> list[Source]:
    """The place of `best`, and others in the same file that hold as much."""
    places: list[Source] = []
    one = best
    while one.source and len(places) < _NAMED:
        places.append(one.source)
        again = _placed(query, one.alignment.file.without(*one.alignment.extent))
        if again is None or again.rank() != best.rank():
            break
        one = again
    return places


def _contains(words: Sequence[str], wanted: Sequence[str]) -> bool:
    first, size = wanted[0], len(wanted)
    return any(words[at : at + size] == wanted for at, word in enumerate(words) if word == first)
