"""Read the committed baselines of a folder: in its files, at a commit, and through history.

In a run each file is read once, and written at its end.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal, TypedDict

from pytest_tokenbudget.budget.accepted import (
    AcceptedCassette,
    accepted_digest,
    accepted_of,
    accepted_path,
    merged_or_edited,
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
    Baselines,
    Snapshot,
    VersionReader,
    by_id,
    is_baseline_file,
    trends,
)
from pytest_tokenbudget.errors import BaselineError, GitError, TokenBudgetError
from pytest_tokenbudget.files import locked
from pytest_tokenbudget.metering.pricing import Prices
from pytest_tokenbudget.model import Rate, Usage
from pytest_tokenbudget.reports.build import Place
from pytest_tokenbudget.reports.document import ScenarioEntry, is_measured, usage_of
from pytest_tokenbudget.reports.history import History, from_trends
from pytest_tokenbudget.repository.git import Commit, FileChange, Repository

COMMITS = 100
"""How many commits are looked back at."""


def files(folder: Path, pattern: str) -> list[tuple[str, Path]]:
    """Return the files below `folder` by a glob: as named from there, with `/`, and the path of each.

    In a repository, those that are not ignored.
    """
    try:
        paths = Repository.open(folder).files(pattern)
    except GitError:  # not everybody has one
        paths = sorted(path.relative_to(folder).as_posix() for path in folder.glob(pattern))
    return [(path, folder / path) for path in paths]


def in_files(folder: Path) -> dict[str, Usage]:
    """By scenario id, what the baseline files below `folder` hold now. Raises BaselineError."""
    return by_id({path: usages(read_baselines(file)) for path, file in files(folder, PATTERN)})


def remove(path: Path, names: Collection[str]) -> None:
    """Take scenarios out of a baseline file, with what was accepted of them. Raises BaselineError."""
    with locked(path.parent):
        beside = accepted_path(path)
        known = read_accepted(beside)
        remove_baselines(path, names)
        write_accepted(beside, {name: () for name in names if name in known})


def at_commit(repository: Repository, commit: Commit) -> dict[str, Usage]:
    """By scenario id, what the baseline files held at `commit`. Raises BaselineError."""
    tree = _baseline_files(repository, commit)
    contents = dict(repository.blobs(tree.values()))
    where = {path: f"{path} at {commit.id[:7]}" for path in tree}
    texts = {path: _text(contents[blob], where[path]) for path, blob in tree.items()}
    return by_id({path: usages(parse_baselines(text, where[path])) for path, text in texts.items()})


@dataclass(frozen=True, slots=True)
class Past:
    """What history holds of the baselines; commits oldest first."""

    commits: list[Commit]
    snapshots: list[Snapshot]
    """All baselines after each of the commits."""
    amiss: list[str]
    """Files that could not be read at a commit, in sentences; they keep what they held before."""


def in_history(repository: Repository, most: int) -> Past:
    """The newest `most` commits that changed a baseline. Raises GitError where history is cut off."""
    repository.require_history()
    past = Past([], [], [])
    changed = repository.changes(PATTERN, most=most) if repository.commit() else []
    first = _baseline_files(repository, changed[0][0]) if changed else {}
    blobs = {*first.values(), *(file.blob for _, files in changed for file in files if file.blob)}
    contents = dict(repository.blobs(blobs))
    reader, read = VersionReader(), dict[str, Baselines]()
    held: dict[str, Baselines] = {}
    for commit, files in changed:
        whole = not past.commits  # the oldest is taken as a whole: what came before it is not asked for
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
    """HISTORY of the newest `most` commits that changed a baseline, at the prices of today; what is amiss.

    Raises GitError where history is cut off.
    """
    past = in_history(repository, most)
    prices = Prices()
    history = from_trends(
        [{"commit": one.id, "date": one.date, "subject": one.subject} for one in past.commits],
        trends(past.snapshots),
        {"source": prices.source, "version": prices.version},
        prices.cost,
    )
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
"""What an update writes: what failed, improved or was recorded anew; all that changed; or what version 1 did
not say of baselines that still hold."""


@dataclass(slots=True)
class Updated:
    """What an update did."""

    written: list[Path] = field(default_factory=list)
    before: dict[str, Usage] = field(default_factory=dict)
    """By scenario id, what the baselines that changed were."""
    anew: set[str] = field(default_factory=set)
    """Those of them that were measured on another recording."""
    kept: list[str] = field(default_factory=list)
    """Scenarios whose baseline stays, though their numbers are others."""
    problems: list[str] = field(default_factory=list)
    """What could not be written, in sentences."""


class MeasuredOn(TypedDict):
    """What a baseline says beside its usage, as builtins, so that it crosses processes."""

    id: str
    recording: str | None
    """The digest of its recording; None where nobody knows what that holds after the run."""
    foreign_reads: Mapping[str, Mapping[str, int]]
    """Tokens by rate and ttl (`5m`, `1h`)."""
    counted_by: str | None
    due: bool
    """Whether an update writes it though nobody named it: it failed, improved, or was recorded anew."""
    accepted: str
    """The accepted requests, as the text of a file with this one scenario; empty where there are none."""


class Committed:
    """Those of all test files below `root`."""

    def __init__(self, root: Path, *, resolves: bool = False) -> None:
        """`resolves`: whether the conflicts of a merge are resolved, or are errors."""
        self._root = root
        self._resolves = resolves
        self._read: dict[Path, Mapping[str, Baseline]] = {}
        self._accepted: dict[Path, Sequence[Mapping[str, Sequence[AcceptedCassette]]]] = {}

    def of(self, place: Place) -> Baseline | None:
        """Return the baseline of a scenario, or None. Raises BaselineError."""
        path = self._path(place)
        if path not in self._read:
            self._read[path] = self._merged(path).baselines
        return self._read[path].get(place.name)

    def ids(self, folder: str) -> Iterator[str]:
        """Yield the ids of all scenarios with a baseline whose test files are in `folder`, from the root.

        Files that cannot be read are left out: their tests tell them.
        """
        at = self._root / folder
        for path in sorted((at / "token_budgets").glob("*.yaml")):
            if path not in self._read:
                with contextlib.suppress(BaselineError):
                    self._read[path] = self._merged(path).baselines
            for name in self._read.get(path, ()):
                yield f"{PurePosixPath(folder, path.stem)}.py::{name}"

    def _merged(self, path: Path) -> Merged:
        return read_merged(path, self._ancestor) if self._resolves else Merged(read_baselines(path))

    def _ancestor(self, path: Path) -> str | None:
        """Return what both sides of a merge came from; None where git does not know."""
        try:
            return Repository.open(self._root).ancestor(path)
        except GitError:
            return None

    def accepted(self, place: Place, *, lenient: bool = False) -> Sequence[AcceptedCassette]:
        """Return the accepted requests that the baseline of a scenario was measured on; none are read
        where it has none.

        Raises BaselineError where they are not those of the baseline, unless `lenient`: none then.
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
        """Return the accepted requests of the other scenarios of a scenario's file. Raises BaselineError."""
        self.of(place)
        others = (replace(place, id=f"{place.file}::{name}") for name in self._read[self._path(place)])
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
        """Write what was measured; what cannot be judged or is past a cap keeps the baseline that it has.

        `measured_on` holds by scenario id what a baseline says beside its usage. Another update of the same
        files waits for this one, and neither loses what the other wrote.
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
        """Write the live runs of scenarios beside their replayed baselines, in place of earlier ones."""
        updated = Updated()
        for path in sorted({self._path(place) for place in runs}):
            own = {place.name: tuple(found) for place, found in runs.items() if self._path(place) == path}
            try:
                kept = read_baselines(path)
                live = {name: replace(kept[name], live=own[name]) for name in own if name in kept}
                if live and write_baselines(path, live):
                    updated.written.append(path)
                updated.problems += [
                    f"{name}: live runs are kept beside a replayed baseline, and it has none. Record it, and "
                    f"write that first: {UPDATE}"
                    for name in own
                    if name not in kept
                ]
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
            told, before = measured_on.get(entry["id"]), kept.baselines.get(name)
            requests = parse_accepted(told["accepted"], name) if told else ()
            baseline = _baseline(entry, told, requests, before.live if before else ())
            if not _is_taken(before, baseline, told, taken):
                if before and before.usage != baseline.usage:
                    updated.kept.append(entry["id"])
                continue
            baselines[name], accepted[name] = baseline, requests
            if before and (before.usage, before.accepted) != (baseline.usage, baseline.accepted):
                updated.before[entry["id"]] = before.usage
                if before.recording not in (None, baseline.recording):
                    updated.anew.add(entry["id"])
        beside = accepted_path(path)
        sides = read_sides(beside)
        resolved = None if len(sides) == 1 else accepted_of(kept.baselines, sides)
        if write_baselines(path, baselines, kept):
            updated.written.append(path)
        if write_accepted(beside, accepted, resolved) and beside.exists():
            updated.written.append(beside)

    def _path(self, place: Place) -> Path:
        return baseline_path(self._root / place.file)


def _is_taken(before: Baseline | None, baseline: Baseline, told: MeasuredOn | None, taken: Taken) -> bool:
    """Return whether `baseline` is written over `before`.

    Where nothing is new but what version 1 did not say, that is left to a migration.
    """
    if before is None:
        return taken != "migration"
    is_of_version_1 = before.recording is None and before.accepted is None
    still_holds = is_of_version_1 and before.usage == baseline.usage and not baseline.accepted
    if taken == "migration" or still_holds:
        return taken == "migration" and still_holds
    is_anew = None not in (before.recording, baseline.recording) and before.recording != baseline.recording
    return taken == "all" or is_anew or told is None or told["due"]


def _baseline(
    entry: ScenarioEntry,
    told: MeasuredOn | None,
    accepted: Sequence[AcceptedCassette],
    live: Sequence[Usage],
) -> Baseline:
    """Return what was measured of a scenario as a baseline, beside the `live` runs that it has."""
    usage = usage_of(entry["measured"]) if entry["measured"] else Usage()
    if told is None:
        return Baseline(usage, live=tuple(live))
    foreign = {Rate.parse(rate): ttls for rate, ttls in told["foreign_reads"].items()}
    digest = accepted_digest(accepted) if accepted else None
    return Baseline(usage, foreign, told["recording"], digest, told["counted_by"], tuple(live))
