"""Find the lines, in the files of the repository, that hold a text which a prompt gained."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePosixPath

from pytest_tokenbudget.model import Source
from pytest_tokenbudget.sources.match import (
    NAMED,
    File,
    Placed,
    Query,
    best_placement,
    equal_places,
    filled_in,
    grams_of,
)
from pytest_tokenbudget.sources.words import (
    Names,
    added_spans,
    is_new_order,
    lists_in_order,
    read_words,
    replaced,
    words_of,
)
from pytest_tokenbudget.wire.prompt import text_digest
from pytest_tokenbudget.wording import plural

_RARE = 12
"""How many words, the rarest in the repository, choose the files that are searched."""
_CANDIDATES, _POOL = 6, 256
"""How many files are searched, and from how many they are chosen."""
DATA = frozenset({".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".xml", ".ipynb", ".svg"})
"""Suffixes of files that seldom hold prompts, and are searched last."""
_PROSE = frozenset({".md", ".rst", ".txt"})
"""Suffixes of files that tell of code, and are none."""
_FUNCTION = re.compile(r"\b(?:def|function|func|fn)\s+(\w+)")
"""The head of a function, by its name, in the languages that have a word for it."""
_PART = 12
"""Fewest words in a row that are a good part of a text."""
_LINES = 50
"""Most lines that are looked for one by one, of an addition that no file holds as a whole."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where an added text stands in the repository."""

    sources: tuple[Source, ...] = ()
    """One if the place is certain, up to three if it is ambiguous, none if no file holds the text."""
    filled: Source | None = None
    """The line of a template that the text, or a part of it, is filled into."""
    missing: tuple[str, ...] = ()
    """The pieces of the text that no file holds at that place."""
    elsewhere: tuple[Source, ...] = ()
    """The places of the smaller additions, if the text has several."""
    code: str = ""
    """The text of the line `filled` in the repository."""
    is_in_parts: bool = False
    """Whether some file holds a good part of a text that no file holds as a whole."""

    @property
    def source(self) -> Source | None:
        """The place of the text if there is exactly one, else None."""
        return self.sources[0] if len(self.sources) == 1 else None


@dataclass(frozen=True)
class SourceTree:
    """The text files of a repository (relative path to text), and what the change at hand does to them.

    A path that begins with `../` lies outside of the folder that the paths are relative to. The files are
    indexed once, at the first question: keep one tree for a whole run.
    """

    files: Mapping[str, str]
    changed: Mapping[str, str] = field(default_factory=dict)
    """The files that the change touches, and what each held before it; empty if it is new."""
    unread: int = 0
    """How many text files are not in `files` because they are too large."""

    @property
    def nowhere(self) -> str:
        """The words that say where a text is that no file holds.

        They speak of the whole repository only if all of it was read.
        """
        if not self.unread:
            return "in no file of the repository"
        return f"in no file that was searched ({plural(self.unread, 'file')} too large)"

    @cached_property
    def _changed(self) -> tuple[_Index, _Index]:
        """Indexes of the files that the change touches: first of sources, then of data."""
        return _indexes({path: text for path, text in self.files.items() if path in self.changed})

    @cached_property
    def _others(self) -> tuple[_Index, _Index]:
        """Indexes of the other files of the folder: first of sources, then of data."""
        return self._untouched(outside=False)

    @cached_property
    def _outside(self) -> tuple[_Index, _Index]:
        """Indexes of the other files of the repository: first of sources, then of data."""
        return self._untouched(outside=True)

    def _untouched(self, *, outside: bool) -> tuple[_Index, _Index]:
        paths = (path for path in self.files if path not in self.changed and is_outside(path) == outside)
        return _indexes({path: self.files[path] for path in paths})

    def _in_order(self) -> Iterator[_Index]:
        """Yield every index in the order of search; each is made when it is come to."""
        yield from self._changed
        yield from self._others
        yield from self._outside

    @cached_property
    def _answers(self) -> dict[tuple[bytes, bytes], Location]:
        return {}

    @cached_property
    def _lines_edited(self) -> dict[str, frozenset[int]]:
        return {}

    def locate(self, was: str, now: str) -> Location:
        """Return where the repository holds the text that `now` has and `was` lacks; changed files first.

        The place of the largest addition is the answer; those of the others are `elsewhere`. Texts are found
        in spite of white space, escapes, string concatenation and templates that were filled. A text that
        several places hold equally well is ambiguous.
        """
        key = text_digest(was), text_digest(now)
        if key not in self._answers:
            self._answers[key] = self._located(was, now)
        return self._answers[key]

    def holds(self, text: str) -> bool:
        """Return whether any file holds `text` word for word. True for a text without words."""
        words = words_of(text)
        if not words:
            return True
        return any(
            _contains(file.text.words, words)
            for index in self._in_order()
            for file in index.candidates(words)
        )

    def changes_mention(self, word: str) -> bool:
        """Return whether a file that the change touches holds a word, in code or text."""
        whole = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)")
        return any(whole.search(self.files[path]) for path in self.changed)

    def edited(self, *words: str) -> tuple[Source, ...]:
        """Return the places in code and settings where the change edits a line that says one of `words`.

        The first of the words that an edited line says decides. Empty if more than three places say it, so
        that nobody knows which of them count.
        """
        return self._first_edited(words)

    def edited_through(self, *words: str) -> tuple[Source, ...]:
        """Return what `edited` returns, or else the places that say a function which says one of `words`."""
        return self._first_edited((*words, *self._functions_that_say(words)))

    def _first_edited(self, words: Iterable[str]) -> tuple[Source, ...]:
        for word in words:
            if places := tuple(self._edits(word)):
                return places if len(places) <= NAMED else ()
        return ()

    def _functions_that_say(self, words: Sequence[str]) -> Iterator[str]:
        """Yield the names of functions in code that say one of `words`, before or after the change."""
        for word in words:
            said = _whole(word)
            for path in self.files:
                texts = (self.files[path], self.changed.get(path, ""))
                if _is_prose(path) or not any(word in text for text in texts):
                    continue
                for text in texts:
                    begins = [(found.start(), found[1]) for found in _FUNCTION.finditer(text)]
                    ends = [*(start for start, _ in begins[1:]), len(text)]
                    bodies = zip(begins, ends, strict=False)
                    yield from (name for (start, name), end in bodies if said.search(text, start, end))

    def _edits(self, word: str) -> Iterator[Source]:
        """Yield the edited lines that say `word`, and what stands where such lines are gone."""
        said = _whole(word)
        for path, before in self.changed.items():
            if _is_prose(path) or not said.search(before + self.files[path]):
                continue
            was, now = _stripped(before), _stripped(self.files[path])
            for i, j, k, m in replaced(was, now):
                gone = Counter(line for line in was[i:j] if said.search(line))
                come = [(number, line) for number, line in enumerate(now[k:m], k + 1) if said.search(line)]
                fresh = [number for number, line in come if line not in gone]
                yield from (Source(path, number) for number in fresh)
                if not fresh and len(come) < gone.total():
                    yield Source(path, k + 1, m) if m > k + 1 else Source(path, max(m, 1))

    def edits(self, source: Source | None) -> bool:
        """Return whether the change edits a line of `source`; False without one."""
        return source is not None and self._edited_part(source) is not None

    def lists(self, names: Names) -> bool:
        """Return whether some file lists these names in this order, or did before the change."""
        texts = (*self.files.values(), *self.changed.values())
        return bool(names) and any(lists_in_order(names, text) for text in texts)

    def tells_order(self, names: Names) -> bool:
        """Return whether the change put these names into this order, in some file."""
        return any(is_new_order(names, was, self.files[path]) for path, was in self.changed.items())

    def _located(self, was: str, now: str) -> Location:
        added = (Query(now, span) for span in added_spans(was, now))
        found = [placed for query in added for placed in self._placed(query)]
        if not found:
            return Location()
        largest = sorted(found, key=lambda placed: -placed[0])
        first = largest[0][1]
        filled = next((one.filled for _, one in largest if one.filled), None)
        others = dict.fromkeys(source for _, one in largest[1:] if (source := one.source))
        return Location(
            first.sources,
            filled,
            tuple(piece for _, one in found for piece in one.missing),
            tuple(source for source in others if source != first.source),
            self.files[filled.file].split("\n")[filled.line - 1] if filled else "",
            first.is_in_parts,
        )

    def _placed(self, query: Query) -> list[tuple[int, Location]]:
        """Return where an addition stands, with its size in words.

        If the addition as a whole is in no one place, its lines are looked for: it may be files put together.
        """
        whole = self._place(query)
        if whole.missing and not whole.sources and (unit := query.once()):
            once = self._place(unit)
            return [(query.size, once if once.sources else whole)]
        lines = query.lines() if whole.missing and not whole.filled else []
        if len(lines) <= _LINES:
            placed = [(line.size, self._place(line)) for line in lines]
            hits = sum(bool(location.sources) for _, location in placed)
            if hits and (hits == len(placed) or not whole.sources):
                return placed
        return [(query.size, whole)]

    def _place(self, query: Query) -> Location:
        """Return where the first index that holds an addition has it, else the hole it was filled into."""
        filled: Location | None = None
        is_in_parts = False
        for index in self._in_order():
            location = index.place(query)
            if location and location.sources:
                return self._narrowed(location)
            if location and location.filled and not (filled and index.holds_data):
                filled = location
            is_in_parts = is_in_parts or (location is not None and location.is_in_parts)
        if filled:
            return filled
        hole = filled_in(query, (file for index in self._changed for file in index.all_files()))
        if hole:
            return Location(filled=hole.source, missing=(hole.value,))
        return Location(missing=(query.text,), is_in_parts=is_in_parts)

    def _narrowed(self, location: Location) -> Location:
        """Return a place as far as the change edits it; as it is if the change edits none of its lines.

        Words that match by chance, and an older copy of the text, are thus no part of what was added.
        """
        edited = [part for source in location.sources if (part := self._edited_part(source))]
        return replace(location, sources=tuple(dict.fromkeys(edited))) if edited else location

    def _edited_part(self, source: Source) -> Source | None:
        """Return `source` from its first edited line to its last; None if the change edits none of them."""
        edited = self._edited_lines(source.file)
        inside = [line for line in range(source.line, (source.end_line or source.line) + 1) if line in edited]
        if not inside:
            return None
        return Source(source.file, inside[0], inside[-1] if inside[-1] > inside[0] else None)

    def _edited_lines(self, path: str) -> frozenset[int]:
        """Return the lines (from 1) of a file that the change put in or changed, but not only indented."""
        if path not in self.changed:
            return frozenset()
        if path not in self._lines_edited:
            was, now = (_stripped(text) for text in (self.changed[path], self.files[path]))
            self._lines_edited[path] = frozenset(
                line + 1 for _, _, k, m in replaced(was, now) for line in range(k, m) if now[line]
            )
        return self._lines_edited[path]


def _stripped(text: str) -> list[str]:
    """Return the lines of a text without the white space around them."""
    return [line.strip() for line in text.split("\n")]


def is_outside(path: str) -> bool:
    """Return whether a path leads out of the folder that it is relative to."""
    return path.startswith("../")


def _indexes(files: Mapping[str, str]) -> tuple[_Index, _Index]:
    """Return the indexes of sources and of data files."""
    data = {path: text for path, text in files.items() if PurePosixPath(path).suffix.lower() in DATA}
    return (
        _Index({path: text for path, text in files.items() if path not in data}),
        _DataIndex(data),
    )


class _Index:
    """Find the files that hold words. All files are read when the index is made."""

    holds_data = False

    def __init__(self, files: Mapping[str, str]) -> None:
        self._texts = files
        self._files: dict[str, File] = {}
        self._paths: dict[str, Collection[str]] = self._read()

    def _read(self) -> dict[str, Collection[str]]:
        """Return the paths of the files that hold each word."""
        paths: dict[str, list[str]] = defaultdict(list)
        for path in self._texts:
            for word in set(self._file(path).text.words):
                paths[word].append(path)
        return dict(paths)

    def _holding(self, word: str) -> Collection[str]:
        return self._paths.get(word, ())

    def place(self, query: Query) -> Location | None:
        """Return where these files hold `query`; None if they hold nothing of it."""
        words, (start, end) = query.words, query.span
        context = [*words[:start], *words[end:]]
        files = {file.path: file for file in (*self.candidates(words[start:end]), *self.candidates(context))}
        found = [one for file in files.values() if (one := best_placement(query, file))]
        placed = sorted(found, key=Placed.rank, reverse=True)
        if not placed:
            return None
        best = placed[0]
        if not best.holds:
            runs = best.alignment.matched_in(query.span)
            is_in_parts = any(end - start >= _PART for start, end in runs)
            return Location(filled=best.filled, missing=best.missing, is_in_parts=is_in_parts)
        equals = [one for one in placed if one.rank() == best.rank()]
        sources = dict.fromkeys(source for one in equals for source in equal_places(one, query))
        return Location(tuple(sources)[:NAMED], best.filled, best.missing)

    def candidates(self, words: Sequence[str]) -> list[File]:
        """Return the files that hold most of the rarest of `words`.

        If many hold equally many, those come first that hold more runs of three of them.
        """
        known = [word for word in self._telling(words) if self._holding(word)]
        known.sort(key=lambda word: (len(self._holding(word)), word))
        votes = Counter(path for word in known[:_RARE] for path in self._holding(word)).most_common(_POOL)
        if len(votes) > _CANDIDATES and votes[_CANDIDATES - 1][1] == votes[_CANDIDATES][1]:
            wanted = set(grams_of(words, 3))
            shared = {path: self._file(path).shared(wanted, 3) for path, _ in votes}
            votes.sort(key=lambda vote: (-vote[1], -shared[vote[0]]))
        return [self._file(path) for path, _ in votes[:_CANDIDATES]]

    def _telling(self, words: Sequence[str]) -> Collection[str]:
        """Return those of `words` that are worth looking for."""
        return set(words)

    def all_files(self) -> list[File]:
        """Return every file, sorted by path."""
        return [self._file(path) for path in sorted(self._texts)]

    def _file(self, path: str) -> File:
        if path not in self._files:
            self._files[path] = File(path, read_words(path, self._texts[path]))
        return self._files[path]


class _DataIndex(_Index):
    """Find the data files that hold words. Each word is searched for in their texts, once, when it is needed.

    Data can be many megabytes, of which few words are ever needed.
    """

    holds_data = True

    def _read(self) -> dict[str, Collection[str]]:
        return {}

    def _holding(self, word: str) -> Collection[str]:
        if word not in self._paths:
            self._paths[word] = [path for path, text in self._texts.items() if word in text]
        return self._paths[word]

    def _telling(self, words: Sequence[str]) -> Collection[str]:
        """Return the longest words, since long words are rare; none that JSON may escape."""
        plain = {word for word in words if word.isascii() and word.isalnum()}
        return sorted(plain, key=lambda word: (-len(word), word))[:_RARE]


def _contains(words: Sequence[str], wanted: Sequence[str]) -> bool:
    first, size = wanted[0], len(wanted)
    return any(words[at : at + size] == wanted for at, word in enumerate(words) if word == first)


def _whole(word: str) -> re.Pattern[str]:
    """Return a pattern that finds `word`, and no longer one that holds it."""
    return re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])")


def _is_prose(path: str) -> bool:
    """Return whether a file tells of code, and is none."""
    return PurePosixPath(path).suffix.lower() in _PROSE
