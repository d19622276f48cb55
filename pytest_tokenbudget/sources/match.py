"""A piece of a prompt held against a file, word by word, over the holes of a template."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pytest_tokenbudget.diagnosis.differences import Span
from pytest_tokenbudget.sources.words import HOLE, Words

_GRAMS = (3, 2)
"""Words of a seed: three, or two where a template leaves no more in a row."""
_POSITIONS = 64
"""Of one gram: repeated boilerplate says nothing about the place."""
_RUNS = 256
_FAR = 120
"""Words of a file between two runs of one chain: a template may leave out a paragraph, not a chapter."""
_GAP_COST = 1 / 20
_PLACEHOLDERS = frozenset({HOLE, "{", "}", "%", "$"})
"""What marks a hole: of f-strings, str.format, Jinja and Mustache, `%`, string.Template."""


@dataclass(frozen=True)
class File:
    """A file of the repository as words, with the places of its grams."""

    path: str
    text: Words

    @cached_property
    def _grams(self) -> dict[int, Mapping[tuple[str, ...], Sequence[int]]]:
        return {}

    def grams(self, size: int) -> Mapping[tuple[str, ...], Sequence[int]]:
        """Where each run of so many words begins."""
        if size not in self._grams:
            found: dict[tuple[str, ...], list[int]] = defaultdict(list)
            for position, gram in enumerate(grams_of(self.text.words, size)):
                found[gram].append(position)
            self._grams[size] = found
        return self._grams[size]

    def without(self, start: int, end: int) -> File:
        """The same file with a range of words blotted out."""
        words = [*self.text.words[:start], *("\1" for _ in range(start, end)), *self.text.words[end:]]
        return File(self.path, Words(words, self.text.lines))


@dataclass(frozen=True, slots=True)
class _Run:
    query: int
    file: int
    length: int


@dataclass(frozen=True, slots=True)
class Alignment:
    """Words of a query that were found in a file, in order."""

    file: File
    runs: tuple[_Run, ...]

    @property
    def matched(self) -> int:
        """How many words of the query were found."""
        return sum(run.length for run in self.runs)

    @property
    def longest(self) -> int:
        """Words of the longest run."""
        return max(run.length for run in self.runs)

    @property
    def extent(self) -> Span:
        """The words of the file from the first run to the last."""
        return self.runs[0].file, self.runs[-1].file + self.runs[-1].length

    def matched_in(self, span: Span) -> list[Span]:
        """The ranges of the query inside `span` that were found."""
        inside = ((max(r.query, span[0]), min(r.query + r.length, span[1])) for r in self.runs)
        return [(start, end) for start, end in inside if start < end]

    def lines_of(self, span: Span) -> tuple[int, int] | None:
        """First and last line of the file that hold the words of `span` that were found."""
        numbers = [
            self.file.text.lines[run.file + edge - run.query]
            for run in self.runs
            for start, end in [(max(run.query, span[0]), min(run.query + run.length, span[1]))]
            if start < end
            for edge in (start, end - 1)
        ]
        return (min(numbers), max(numbers)) if numbers else None

    def hole_line(self, gap: Span) -> int | None:
        """The line of the template's hole that the words of `gap`, which were not found, were filled into."""
        before = [run for run in self.runs if run.query + run.length <= gap[0]]
        after = [run for run in self.runs if run.query >= gap[1]]
        words, lines = self.file.text.words, self.file.text.lines
        start = before[-1].file + before[-1].length if before else after[0].file - 1 if after else 0
        end = after[0].file if after else start + 1
        for position in range(max(start - 1, 0), min(end + 1, len(words))):
            if words[position] in _PLACEHOLDERS:
                return lines[position]
        return None


def grams_of(words: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    """Every run of so many words."""
    return zip(*(words[start:] for start in range(size)), strict=False)


def alignments(query: Sequence[str], file: File) -> Iterator[Alignment]:
    """The best chain of runs of `query` in `file`: from long seeds, then from short ones."""
    for size in _GRAMS:
        if runs := _runs(query, file, size):
            yield _chained(runs, file)


def _chained(runs: Sequence[_Run], file: File) -> Alignment:
    scores: list[float] = []
    previous: list[int | None] = []
    for index, run in enumerate(runs):
        best, link = float(run.length), None
        for earlier in range(index):
            gain = _gain(runs[earlier], run)
            if gain > 0 and scores[earlier] + gain > best:
                best, link = scores[earlier] + gain, earlier
        scores.append(best)
        previous.append(link)
    chain: list[_Run] = []
    at: int | None = scores.index(max(scores))
    while at is not None:
        chain.append(runs[at])
        at = previous[at]
    return Alignment(file, tuple(_trimmed(chain[::-1])))


def _gain(earlier: _Run, run: _Run) -> float:
    gap = run.file - (earlier.file + earlier.length)
    if run.query <= earlier.query or run.file <= earlier.file or gap > _FAR:
        return 0.0
    return run.length - _overlap(earlier, run) - max(gap, 0) * _GAP_COST


def _overlap(earlier: _Run, run: _Run) -> int:
    return max(earlier.query + earlier.length - run.query, earlier.file + earlier.length - run.file, 0)


def _trimmed(chain: list[_Run]) -> list[_Run]:
    kept = chain[:1]
    for run in chain[1:]:
        cut = _overlap(kept[-1], run)
        kept.append(_Run(run.query + cut, run.file + cut, run.length - cut))
    return kept


def _runs(query: Sequence[str], file: File, size: int) -> list[_Run]:
    """The longest runs of words that `query` and `file` share, by their place in the query."""
    done: dict[int, int] = {}
    runs: list[_Run] = []
    places = file.grams(size)
    for start, gram in enumerate(grams_of(query, size)):
        for position in places.get(gram, ())[:_POSITIONS]:
            if done.get(position - start, 0) <= start:
                run = _grown(query, file.text.words, start, position)
                done[position - start] = run.query + run.length - size + 1
                runs.append(run)
    longest = sorted(runs, key=lambda run: -run.length)[:_RUNS]
    return sorted(longest, key=lambda run: (run.query, run.file))


def _grown(query: Sequence[str], words: Sequence[str], start: int, position: int) -> _Run:
    """The whole run that two equal words are part of."""
    end = 0
    while (
        start + end < len(query)
        and position + end < len(words)
        and query[start + end] == words[position + end]
    ):
        end += 1
    begin = 0
    while begin < min(start, position) and query[start - begin - 1] == words[position - begin - 1]:
        begin += 1
    return _Run(start - begin, position - begin, begin + end)
