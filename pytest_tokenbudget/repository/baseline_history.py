"""Read the committed baselines of a folder (in its files, at a commit, and through history), and update them.

In a run, `Committed` reads each file once. Files are written at the end of the run.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal, TypedDict

from pytest_tokenbudget.budget.accepted import (
    AcceptedCassette,
    NewlyAccepted,
    accepted_digest,
    accepted_of,
    accepted_path,
    merged_or_edited,
    newly_accepted,
    newly_changed_tools,
    parse_accepted,
    read_accepted,
    read_sides,
    write_accepted,
)
from pytest_tokenbudget.budget.baselines import (
    UPDATE,
    Baseline,
    Merged,
    baseline_path,
    not_written,
    parse_baselines,
    read_baselines,
    read_merged,
    remove_baselines,
    usages,
    write_baselines,
)
from pytest_tokenbudget.budget.changes import (
    PATTERN,
    Snapshot,
    VersionReader,
    by_id,
    is_baseline_file,
    module_of,
    trends,
)
from pytest_tokenbudget.errors import BaselineError, GitError, TokenBudgetError
from pytest_tokenbudget.files import locked
from pytest_tokenbudget.metering.pricing import Prices
from pytest_tokenbudget.model import Rate, ScenarioId, Usage
from pytest_tokenbudget.reports.build import Place, starts
from pytest_tokenbudget.reports.document import ScenarioEntry, is_measured, usage_of
from pytest_tokenbudget.reports.history import History, from_trends
from pytest_tokenbudget.repository.git import Commit, FileChange, Repository
from pytest_tokenbudget.repository.source_files import read_source_tree
from pytest_tokenbudget.sources import SourceTree
from pytest_tokenbudget.wording import next_step

COMMITS = 100
"""How many commits a history goes back by default."""


def files(folder: Path, pattern: str) -> list[tuple[str, Path]]:
    """Return the files below `folder` that match a glob: (path from `folder`, with `/`; whole path).

    In a repository, files that git ignores are left out.
    """
    try:
        paths = Repository.open(folder).files(pattern)
    except GitError:  # no repository
        paths = sorted(path.relative_to(folder).as_posix() for path in folder.glob(pattern))
    return [(path, folder / path) for path in paths]


def in_files(folder: Path) -> dict[str, Usage]:
    """Return what the baseline files below `folder` hold now, by scenario id. Raises BaselineError."""
    return usages(baselines_in_files(folder))


def baselines_in_files(folder: Path) -> dict[str, Baseline]:
    """Return the baselines below `folder` as they are now, by scenario id. Raises BaselineError."""
    return by_id({path: read_baselines(file) for path, file in files(folder, PATTERN)})


def remove(path: Path, names: Collection[str]) -> None:
    """Remove scenarios from a baseline file, with what was accepted of them. Raises BaselineError."""
    with locked(path.parent):
        beside = accepted_path(path)
        known = read_accepted(beside)
        remove_baselines(path, names)
        write_accepted(beside, {name: () for name in names if name in known})


def at_commit(repository: Repository, commit: Commit) -> dict[str, Usage]:
    """Return what the baseline files held at `commit`, by scenario id. Raises BaselineError."""
    return usages(baselines_at_commit(repository, commit))


def baselines_at_commit(repository: Repository, commit: Commit) -> dict[str, Baseline]:
    """Return the baselines as they were at `commit`, by scenario id. Raises BaselineError."""
    tree = _baseline_files(repository, commit)
    contents = dict(repository.blobs(tree.values()))
    where = {path: f"{path} at {commit.id[:7]}" for path in tree}
    texts = {path: _text(contents[blob], where[path]) for path, blob in tree.items()}
    return by_id({path: parse_baselines(text, where[path]) for path, text in texts.items()})


ACCEPTED = "**/token_budgets/accepted/*.yaml"
"""The glob of files of accepted requests below any folder."""


def accepted_since(repository: Repository, commit: Commit) -> dict[str, NewlyAccepted]:
    """Return what is accepted otherwise than at `commit`, by scenario id; what grew most comes first."""
    paths = [path for path, _ in files(repository.folder, ACCEPTED)]
    tree = repository.tree(commit.id, ".yaml") if paths else {}
    found: dict[str, dict[str, list[tuple[str, str]]]] = {}
    tools: dict[str, list[str]] = {}
    for path, was, now in repository.texts(tree, paths):
        module = module_of(path.replace("/accepted/", "/"))
        for name, fields in newly_accepted(was, now).items():
            found[f"{module}::{name}"] = fields
        for name, names in newly_changed_tools(was, now).items():
            tools[f"{module}::{name}"] = names
    sources = read_source_tree(repository.folder) if found else SourceTree({})
    return {
        name: replace(_located(fields, sources, repository.prefix), tools=tools[name])
        for name, fields in found.items()
    }


def _located(
    fields: Mapping[str, Sequence[tuple[str, str]]], sources: SourceTree, prefix: str
) -> NewlyAccepted:
    added = (text for texts in fields.values() for text in texts)
    texts = sorted(added, key=lambda text: len(text[0]) - len(text[1]))
    places = dict.fromkeys(source for text in texts if (source := sources.locate(*text).source))
    from_top = [replace(source, file=posixpath.normpath(prefix + source.file)) for source in places]
    return NewlyAccepted([*fields], from_top)


@dataclass(frozen=True, slots=True)
class Past:
    """What history holds of the baselines. `commits` and `snapshots` are parallel, oldest first."""

    commits: list[Commit]
    snapshots: list[Snapshot]
    """All baselines after each of the commits."""
    amiss: list[str]
    """Sentences about files that could not be read at a commit; they keep what they held before it."""


def in_history(repository: Repository, most: int) -> Past:
    """Read the newest `most` commits that changed a baseline. Raises GitError if history is cut off."""
    repository.require_history()
    past = Past([], [], [])
    changed = repository.changes(PATTERN, most=most) if repository.commit() else []
    first = _baseline_files(repository, changed[0][0]) if changed else {}
    blobs = {*first.values(), *(file.blob for _, files in changed for file in files if file.blob)}
    contents = dict(repository.blobs(blobs))
    reader, read = VersionReader(), dict[str, Mapping[str, Baseline]]()
    held: dict[str, Mapping[str, Baseline]] = {}
    for commit, files in changed:
        whole = not past.commits  # of the oldest commit all files are read, since none before it are known
        told = [FileChange(path, path, blob) for path, blob in first.items()] if whole else files
        for gone in {file.was for file in told if file.blob is None or file.was != file.path}:
            held.pop(gone, None)
        for file in told:
            if file.blob is None:
                continue
            where = f"{file.path} at {commit.id[:7]}"
            try:
                if file.blob not in read:
                    read[file.blob] = reader.read(_text(contents[file.blob], where), where)
                held[file.path] = read[file.blob]
            except BaselineError as error:
                past.amiss.append(str(error))
        past.commits.append(commit)
        moved = {file.path: file.was for file in told if file.was != file.path}
        past.snapshots.append(Snapshot(by_id(held), moved))
    return past


def read_history(repository: Repository, most: int = COMMITS) -> tuple[History, list[str]]:
    """Return HISTORY at the prices of today, and sentences about what could not be read.

    It covers the newest `most` commits that changed a baseline. Raises GitError if history is cut off.
    """
    past = in_history(repository, most)
    prices = Prices()
    series, apart = trends(past.snapshots)
    history = from_trends(
        [{"commit": one.id, "date": one.date, "subject": one.subject} for one in past.commits],
        series,
        {"source": prices.source, "version": prices.version},
        prices.cost,
        repository.web(),
    )
    if apart:
        history["other_start"] = sorted(apart)
    if past.snapshots:
        history["start"] = starts(past.snapshots[-1].baselines.values(), prices.cost)
    return history, past.amiss


def _baseline_files(repository: Repository, commit: Commit) -> Mapping[str, str]:
    files = repository.tree(commit.id, ".yaml")
    return {path: blob for path, blob in files.items() if is_baseline_file(path)}


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BaselineError(f"{where}: is not UTF-8 text: {error}.") from error


Taken = Literal["due", "all", "migration"]
"""Which baselines an update writes. `due`: those that failed, improved or were recorded anew. `all`: all that
changed. `migration`: those that still hold, to add what version 1 of the file did not say."""


@dataclass(slots=True)
class Updated:
    """What an update did: the files it wrote, and the scenarios that changed or stayed."""

    written: list[Path] = field(default_factory=list)
    before: dict[str, Usage] = field(default_factory=dict)
    """The old usage of each baseline that changed, by scenario id."""
    anew: set[str] = field(default_factory=set)
    """Ids of those among them that were measured on another recording."""
    counters: dict[str, str] = field(default_factory=dict)
    """What had counted those among them that another counter counts now, by scenario id."""
    kept: list[str] = field(default_factory=list)
    """Ids of scenarios whose baseline stays although their numbers changed."""
    problems: list[str] = field(default_factory=list)
    """Sentences about what could not be written."""


class MeasuredOn(TypedDict):
    """What a baseline says beside its usage, in built-in types, so that it can be sent between processes."""

    id: str
    recording: str | None
    """The digest of its recording; None if what the recording holds after the run is not known."""
    foreign_reads: Mapping[str, Mapping[str, int]]
    """Tokens by rate and ttl (`5m`, `1h`)."""
    counted_by: str | None
    due: bool
    """Whether an update writes it without being told to: it failed, improved, or was recorded anew."""
    accepted: str
    """The accepted requests, as the text of a file with this one scenario; empty without any."""


class Committed:
    """The committed baselines of all test files below `root`."""

    def __init__(self, root: Path, *, resolves: bool = False) -> None:
        """Prepare to read below `root`; `resolves`: merge conflicts are resolved, else they are errors."""
        self._root = root
        self._resolves = resolves
        self._read: dict[Path, Merged] = {}
        self._reviewed: dict[Path, Mapping[str, Baseline]] = {}
        self._accepted: dict[Path, Sequence[Mapping[str, Sequence[AcceptedCassette]]]] = {}

    def of(self, place: Place) -> Baseline | None:
        """Return the baseline of a scenario, or None. Raises BaselineError."""
        return self._merged_of(place).of(place.name)

    def is_contested(self, place: Place) -> bool:
        """Return whether both sides of a merge changed the baseline of a scenario. Raises BaselineError."""
        return place.name in self._merged_of(place).contested

    def _merged_of(self, place: Place) -> Merged:
        path = self._path(place)
        if path not in self._read:
            self._read[path] = self._merged(path)
        return self._read[path]

    def ids(self, folder: str) -> Iterator[str]:
        """Yield the ids of all scenarios with a baseline whose test files are in `folder` (below the root).

        Files that cannot be read are left out: the tests in them report that.
        """
        at = self._root / folder
        for path in sorted((at / "token_budgets").glob("*.yaml")):
            if path not in self._read:
                with contextlib.suppress(BaselineError):
                    self._read[path] = self._merged(path)
            for name in self._read[path].names() if path in self._read else ():
                yield f"{PurePosixPath(folder, path.stem)}.py::{name}"

    def _merged(self, path: Path) -> Merged:
        return read_merged(path, self._ancestor) if self._resolves else Merged(read_baselines(path))

    def _ancestor(self, path: Path) -> str | None:
        """Return the text that both sides of a merge came from; None if git does not know it."""
        try:
            return Repository.open(self._root).ancestor(path)
        except GitError:
            return None

    def is_in_base(self, place: Place, cassette: Path | None = None) -> bool:
        """Return whether the baseline of a scenario, and its cassette, are as they were reviewed.

        That is where HEAD left the default branch. True where nobody knows: outside of a repository, or where
        its history is cut off.
        """
        path = self._path(place)
        if self._base is None or not self._touched & {path, accepted_path(path), cassette}:
            return True
        if cassette in self._touched:
            return False
        if path not in self._reviewed:
            repository, commit = self._base
            text = repository.text(commit, path)
            with contextlib.suppress(BaselineError):
                self._reviewed[path] = parse_baselines(text or "", str(path)) if text else {}
        return self._reviewed.get(path, {}).get(place.name) == self.of(place)

    @cached_property
    def _base(self) -> tuple[Repository, str] | None:
        try:
            repository = Repository.open(self._root)
            return repository, repository.base()
        except GitError:
            return None

    @cached_property
    def _touched(self) -> Set[Path | None]:
        """The files that are not as in the base."""
        if self._base is None:
            return frozenset()
        repository, commit = self._base
        names = repository.touched(commit) | repository.untracked()
        return frozenset(self._root / name for name in names)

    def accepted(self, place: Place, *, lenient: bool = False) -> Sequence[AcceptedCassette]:
        """Return the accepted requests that a scenario's baseline was measured on; none without a baseline.

        Raises BaselineError if they are not those of the baseline; with `lenient`, return none instead.
        """
        baseline, path = self.of(place), accepted_path(self._path(place))
        if baseline is None or baseline.accepted is None:
            return ()
        if path not in self._accepted:
            self._accepted[path] = read_sides(path) if self._resolves else (read_accepted(path),)
        found = accepted_of({place.name: baseline}, self._accepted[path])
        if found:
            return found[place.name]
        if lenient:
            return ()
        raise merged_or_edited(path, place.name)

    def accepted_beside(self, place: Place) -> Sequence[AcceptedCassette]:
        """Return the accepted requests of the other scenarios in a scenario's file. Raises BaselineError."""
        others = (replace(place, id=f"{place.file}::{name}") for name in self._merged_of(place).names())
        return [
            cassette
            for other in others
            if other.id != place.id
            for cassette in self.accepted(other, lenient=True)
        ]

    def update(
        self,
        scenarios: Iterable[ScenarioEntry],
        measured_on: Mapping[str, MeasuredOn],
        taken: Taken = "due",
    ) -> Updated:
        """Write what was measured as baselines, and return what was done.

        A scenario that cannot be judged, or is past a cap, keeps its baseline. `measured_on` holds what a
        baseline says beside its usage, by scenario id. Another update of the same files waits for this one,
        and neither loses what the other wrote.
        """
        changed: dict[Path, dict[str, ScenarioEntry]] = defaultdict(dict)
        for entry in scenarios:
            if is_measured(entry) and entry["verdict"] != "over":
                place = Place(entry["id"], entry["file"], entry["line"])
                changed[self._path(place)][place.name] = entry
        updated = Updated()
        for path, entries in sorted(changed.items()):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with locked(path.parent):
                    self._update(path, entries, measured_on, taken, updated)
            except TokenBudgetError as error:
                updated.problems.append(str(error))
            except OSError as error:
                updated.problems.append(str(not_written(path, error)))
        return updated

    def update_live(self, runs: Mapping[Place, Sequence[Usage]]) -> Updated:
        """Write the live runs of scenarios beside their replayed baselines, in place of earlier live runs."""
        updated = Updated()
        for path in sorted({self._path(place) for place in runs}):
            own = {place.name: tuple(found) for place, found in runs.items() if self._path(place) == path}
            try:
                kept = read_baselines(path)
                live = {name: replace(kept[name], live=own[name]) for name in own if name in kept}
                if live and write_baselines(path, live):
                    updated.written.append(path)
                updated.problems += [not_replayed(name) for name in own if name not in kept]
            except TokenBudgetError as error:
                updated.problems.append(str(error))
        return updated

    def _update(
        self,
        path: Path,
        entries: Mapping[str, ScenarioEntry],
        measured_on: Mapping[str, MeasuredOn],
        taken: Taken,
        updated: Updated,
    ) -> None:
        kept = self._merged(path)
        baselines: dict[str, Baseline] = {}
        accepted: dict[str, Sequence[AcceptedCassette]] = {}
        for name, entry in entries.items():
            told, before = measured_on.get(entry["id"]), kept.of(name)
            requests = parse_accepted(told["accepted"], name) if told else ()
            baseline = _baseline(entry, told, requests, before.live if before else ())
            resolves = name in kept.contested and taken != "migration"
            if not (resolves or _is_taken(before, baseline, told, taken)):
                is_left = taken == "migration" and before and _is_of_version_1(before)
                if before and (before.usage != baseline.usage or is_left):
                    updated.kept.append(entry["id"])
                continue
            baselines[name], accepted[name] = baseline, requests
            was = before or self._formerly(entry)
            if was and (was.usage, was.accepted) != (baseline.usage, baseline.accepted):
                updated.before[entry["id"]] = was.usage
                if was.recording not in (None, baseline.recording):
                    updated.anew.add(entry["id"])
                if was.counted_by and baseline.counted_by not in (None, was.counted_by):
                    updated.counters[entry["id"]] = was.counted_by
        beside = accepted_path(path)
        sides = read_sides(beside)
        resolved = None if len(sides) == 1 else accepted_of(kept.baselines, sides)
        if write_baselines(path, baselines, kept):
            updated.written.append(path)
        if write_accepted(beside, accepted, resolved) and beside.exists():
            updated.written.append(beside)

    def _formerly(self, entry: ScenarioEntry) -> Baseline | None:
        """Return the baseline of a renamed scenario under its old name; None if it has none, or several."""
        names = entry["formerly"]["baselines"] if "formerly" in entry else []
        if len(names) != 1:
            return None
        return self.of(Place(names[0], ScenarioId(names[0]).file, 1))

    def _path(self, place: Place) -> Path:
        return baseline_path(self._root / place.file)


def _is_taken(before: Baseline | None, baseline: Baseline, told: MeasuredOn | None, taken: Taken) -> bool:
    """Return whether `baseline` is written over `before`.

    If only what version 1 of the file did not say is new, it is left to a migration.
    """
    if before is None:
        return taken != "migration"
    still_holds = _is_of_version_1(before) and before.usage == baseline.usage and not baseline.accepted
    if taken == "migration" or still_holds:
        return taken == "migration" and still_holds
    return taken == "all" or told is None or is_due(before, told)


def is_due(before: Baseline, told: MeasuredOn) -> bool:
    """Return whether an update that takes what is due writes over `before`: it fails, improves or is anew."""
    is_anew = None not in (before.recording, told["recording"]) and before.recording != told["recording"]
    return is_anew or told["due"]


def _is_of_version_1(baseline: Baseline) -> bool:
    """Return whether a baseline does not say which recording it was measured on."""
    return baseline.recording is None and baseline.accepted is None


def not_replayed(name: str) -> str:
    """Return why live runs of a scenario cannot be kept."""
    return f"{name}: live runs are kept beside a replayed baseline, and it has none.\n" + next_step(
        "Record it, and write that first", "pytest --token-budget-record=once", UPDATE
    )


def _baseline(
    entry: ScenarioEntry,
    told: MeasuredOn | None,
    accepted: Sequence[AcceptedCassette],
    live: Sequence[Usage],
) -> Baseline:
    """Return what was measured of a scenario as a baseline, with the `live` runs that it has already."""
    usage = usage_of(entry["measured"]) if entry["measured"] else Usage()
    if told is None:
        return Baseline(usage, live=tuple(live))
    foreign = {Rate.parse(rate): ttls for rate, ttls in told["foreign_reads"].items()}
    digest = accepted_digest(accepted) if accepted else None
    return Baseline(usage, foreign, told["recording"], digest, told["counted_by"], tuple(live))
