"""Hold a piece of a prompt against a file, word by word, over the holes of a template.

A value that was filled into a hole is told by the few words that stand next to it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise

from pytest_tokenbudget.model import Source
from pytest_tokenbudget.sequences import common_prefix
from pytest_tokenbudget.sources.words import HOLE, Span, Words, word_spans

Gram = tuple[str, ...]
"""A run of words."""
_REMEMBERED = 20_000
"""Words of a file above which its grams are looked for anew by each query."""
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
    def _grams(self) -> dict[int, Mapping[Gram, Sequence[int]]]:
        return {}

    def grams(self, size: int, wanted: Collection[Gram]) -> Mapping[Gram, Sequence[int]]:
        """Return where each of the `wanted` runs of `size` words begins.

        Of a file of usual length all are remembered; those of a long one would take far more than its text.
        """
        if len(self.text.words) > _REMEMBERED:
            return _positions(self.text.words, size, wanted)
        if size not in self._grams:
            self._grams[size] = _positions(self.text.words, size)
        return self._grams[size]

    def shared(self, wanted: Set[Gram], size: int) -> int:
        """Count those of the `wanted` runs of `size` words that the file holds."""
        return len(wanted & self.grams(size, wanted).keys())

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


def grams_of(words: Sequence[str], size: int) -> Iterator[Gram]:
    """Every run of so many words."""
    return zip(*(islice(words, start, None) for start in range(size)), strict=False)


def _positions(
    words: Sequence[str], size: int, wanted: Collection[Gram] | None = None
) -> Mapping[Gram, Sequence[int]]:
    """Return where each run of `size` words begins, of those that are `wanted` if that is given."""
    found: dict[Gram, list[int]] = defaultdict(list)
    for position, gram in enumerate(grams_of(words, size)):
        if wanted is None or gram in wanted:
            found[gram].append(position)
    return found


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
    places = file.grams(size, set(grams_of(query, size)))
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
