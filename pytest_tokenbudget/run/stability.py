"""Replay once more in another process, hash seed, home and clock: are the prompts the same in each byte?

This experiment proves that a changed prefix differs in every process. It runs by itself if a verdict depends
on it, and with `--token-budget-stability` for all scenarios.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypedDict

from pytest_tokenbudget.diagnosis.volatile import (
    Suspect,
    compare_prefixes,
    experiment,
    same_turns,
    ticking,
)
from pytest_tokenbudget.errors import RecordingError
from pytest_tokenbudget.model import Finding
from pytest_tokenbudget.reports.document import ScenarioEntry
from pytest_tokenbudget.repository.baseline_history import MeasuredOn
from pytest_tokenbudget.sources.words import Names
from pytest_tokenbudget.wire.prompt import Prompt, body_of, digest, parse_prompt

CLOCK = "TOKENBUDGET_CLOCK"
"""Names, in the environment of the second process, by how many seconds its clock is ahead."""
_AHEAD = timedelta(minutes=7, seconds=13)
"""Another minute and second, on the same day: a date alone proves nothing."""
_MOST_SECONDS = 30
"""How many seconds go by in a test at most."""
_SEED = "20077"
_OURS = "--token-budget"


def packed(prompt: Prompt) -> dict[str, Any]:
    """Return a prompt as builtins, so that it crosses processes."""
    return {"body": body_of(prompt, marked=True), "betas": sorted(prompt.betas or ())}


def unpacked(entry: Mapping[str, Any]) -> Prompt:
    """Return the prompt that `packed` made builtins of."""
    return parse_prompt(entry["body"], betas=entry["betas"])


@dataclass(frozen=True, slots=True)
class Replayed:
    """What one process asked in a scenario, and how it judged that."""

    prompts: Sequence[Prompt]
    """The prompts of its turns, those that were accepted with a clock at the accepted times."""
    asked: Sequence[Prompt]
    """The same as they were asked."""
    entry: ScenarioEntry
    measured_on: MeasuredOn | None
    """What a baseline of it says beside its usage, in an update."""
    loses_cache: bool
    """Whether it is over against its baseline by what the cache serves, and by no more."""


def keep_replay(folder: Path, scenario: str, replay: Replayed) -> None:
    """Write what a scenario asked, and its entry, to a file of its own in `folder`."""
    content = {
        "id": scenario,
        "prompts": [*map(packed, replay.prompts)],
        "asked": [*map(packed, replay.asked)],
        "entry": replay.entry,
        "measured_on": replay.measured_on,
        "loses_cache": replay.loses_cache,
    }
    (folder / f"{digest(scenario)}.json").write_text(json.dumps(content), encoding="utf-8")


def kept_replays(folder: Path) -> dict[str, Replayed]:
    """Read what `keep_replay` wrote, by scenario."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        prompts, asked = ([*map(unpacked, content[key])] for key in ("prompts", "asked"))
        found[content["id"]] = Replayed(
            prompts, asked, content["entry"], content["measured_on"], loses_cache=content["loses_cache"]
        )
    return found


def asked_elsewhere(
    tests: Sequence[str], arguments: Sequence[str], invoked_in: Path, root: Path, *, update: bool = False
) -> dict[str, Replayed]:
    """Replay `tests` once more and return what their scenarios ask in that process, by scenario.

    For the arguments and errors see `replay_again`.
    """
    with tempfile.TemporaryDirectory(prefix="token-budget-") as folder:
        replay_again(Path(folder), tests, arguments, invoked_in, root, update=update)
        return kept_replays(Path(folder))


def replay_again(
    folder: Path,
    tests: Sequence[str],
    arguments: Sequence[str],
    invoked_in: Path,
    root: Path,
    *,
    update: bool = False,
) -> None:
    """Run `tests`, as pytest takes them, in another process, which keeps its prompts in `folder`.

    `arguments` are those of this run, given in `invoked_in`. For an `update`, that process also keeps what is
    to be accepted, and writes nothing. Raises RecordingError if the second run does not get as far as its
    tests.
    """
    command = [sys.executable, "-m", "pytest", f"--rootdir={root}", "-p", "no:cacheprovider"]
    ours = [f"{_OURS}-update" if update else _OURS, f"{_OURS}-prompts={folder}"]
    command += [*repeatable(arguments, invoked_in), *ours, *tests]
    with tempfile.TemporaryDirectory(prefix="elsewhere-") as elsewhere:
        environment = {
            **os.environ,
            "PYTHONHASHSEED": _SEED,
            "PYTHONPATH": os.pathsep.join(path or str(invoked_in) for path in [str(invoked_in), *sys.path]),
            CLOCK: str(ahead(datetime.now()).total_seconds()),  # the day of this machine
            **dict.fromkeys(("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP"), elsewhere),
        }
        done = subprocess.run(  # noqa: S603  # this run's own command
            command, cwd=invoked_in, env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode not in (0, 1):
        reason = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise RecordingError(f"The second replay did not run (exit status {done.returncode}):\n{reason}")


def ahead(now: datetime) -> timedelta:
    """Return by how much the clock of the second process is ahead of `now`, or behind it before midnight."""
    return _AHEAD if (now + _AHEAD).date() == now.date() else -_AHEAD


def clock_problem() -> str | None:
    """Return why the clock of the second process cannot be moved, or None if it can."""
    if find_spec("time_machine") is not None:
        return None
    return (
        "The second replay had the clock of the first, so that it says nothing of dates and times. To move "
        "it, pip install time-machine"
    )


class Clock:
    """The clock of a process: that of the machine, or in the second process one that is some minutes off.

    That one goes on by a second with each answer, as a replay takes no time, and no model answers in none.
    Each test begins with a whole minute, and no more than half of that is added in it, so that a clock of
    minutes stands still.
    """

    def __init__(self) -> None:
        """Move the clock of this process for good if it is the second one, and its clock can be moved."""
        self._moved: Any = None
        self._left = 0
        self._lock = threading.Lock()
        ahead = os.environ.get(CLOCK)
        if ahead and find_spec("time_machine") is not None:
            import time

            import time_machine

            self._begin = (time.time() + float(ahead)) // 60 * 60
            self._moved = time_machine.travel(self._begin, tick=True).start()

    def begin(self) -> None:
        """Begin a test with a whole minute."""
        if self._moved is not None:
            with self._lock:
                self._left = _MOST_SECONDS
                self._moved.move_to(self._begin)

    def step(self) -> None:
        """Let a second go by: a model has answered."""
        with self._lock:
            if self._left:
                self._left -= 1
                self._moved.shift(1)


def differences(first: Mapping[str, Replayed], second: Mapping[str, Replayed]) -> dict[str, list[Finding]]:
    """Return what differs between the two processes, by scenario; only for those that both ran."""
    both = {
        name: compare_prefixes(replay.asked, second[name].asked)
        for name, replay in first.items()
        if name in second
    }
    return {name: findings for name, findings in both.items() if findings}


def unstable_text(findings: Sequence[Finding]) -> str:
    """Return why a test fails the check."""
    lines = [f"  * {one.where}: {one.text}" for one in findings]
    return "\n".join(["The prompts differ from process to process, so that no cache is shared:", *lines])


_WRITES = ("--junitxml", "--junit-xml", "--report-log", "--html")
_STOPS = ("-x", "--exitfirst", "--maxfail", "--pdb", "--lf", "--last-failed", "--ff", "--failed-first")
_CACHED = ("--nf", "--new-first", "--sw", "--stepwise", "--stepwise-skip", "--cache-clear")


def repeatable(arguments: Sequence[str], folder: Path) -> Iterator[str]:
    """Yield the arguments of this run that do not choose its tests, write its files or end it early."""
    value_of = ""
    for argument in arguments:
        option = argument.partition("=")[0]
        taken, value_of = value_of, option if option == argument else ""
        if (
            taken in (*_WRITES, "--maxfail")
            or option in (*_WRITES, *_STOPS, *_CACHED)
            or argument.startswith(_OURS)
        ):
            continue
        if argument.startswith("-") or not (folder / argument.partition("::")[0]).exists():
            yield argument


class SuspectEntry(TypedDict):
    """A suspected turn, as builtins."""

    was: dict[str, Any]
    now: dict[str, Any]
    places: list[str]


class LostEntry(TypedDict):
    """The entry of a scenario in case some suspected turns lose the cache."""

    turns: list[int]
    """Which of the suspected turns."""
    entry: ScenarioEntry
    measured_on: MeasuredOn | None
    """What a baseline of that says beside its usage, in an update."""


class Suspicion(TypedDict):
    """A scenario whose verdict depends on a second replay; builtins only, so that it crosses processes."""

    id: str
    turns: list[SuspectEntry]
    lost: list[LostEntry]
    """All turns together first; each fails."""
    clocked: list[SuspectEntry]
    """Turns with a clock of seconds; it fails if each has a prefix of its own."""


@dataclass(frozen=True, slots=True)
class Finished:
    """What a second replay shows of a suspicion."""

    entry: ScenarioEntry | None
    """The entry as it is judged with the loss, if that is proved; else None."""
    measured_on: MeasuredOn | None
    """What a baseline of that entry says beside its usage, in an update."""
    differs: list[str]
    """Where the two processes differ, in sentences."""
    edits: frozenset[str]
    """Places that both processes fill alike: they are edits."""
    on_both_sides: bool = False
    """Whether what was accepted has a value of the kind wherever the two processes differ."""
    ticks: str | None = None
    """Where turns of one run differ since time goes by between them, in a sentence; `entry` is judged so."""

    @property
    def proof(self) -> str:
        """The sentence that says what is proved."""
        if self.ticks:
            return f"a second replay proves it, in which a second goes by with each answer: {self.ticks}"
        return f"a second replay proves it: {'; '.join(self.differs)}; every process caches its own prefix"


def suspicion(
    scenario: str,
    suspects: Sequence[Suspect],
    lost: Sequence[tuple[Sequence[int], ScenarioEntry, MeasuredOn | None]],
    clocked: Sequence[Suspect] = (),
) -> Suspicion:
    """Return a suspicion as builtins.

    `lost` holds (numbers of the lost turns, entry in that case, what an update takes then).
    """
    return {
        "id": scenario,
        "turns": [*map(_packed_suspect, suspects)],
        "lost": [
            {"turns": list(numbers), "entry": entry, "measured_on": measured_on}
            for numbers, entry, measured_on in lost
        ],
        "clocked": [*map(_packed_suspect, clocked)],
    }


def _packed_suspect(one: Suspect) -> SuspectEntry:
    return {"was": packed(one.was), "now": packed(one.now), "places": sorted(one.places)}


def _suspect(entry: SuspectEntry) -> Suspect:
    return Suspect(unpacked(entry["was"]), unpacked(entry["now"]), frozenset(entry["places"]))


def resolved(suspicion: Suspicion, second: Replayed, lasts: Callable[[Names], bool]) -> Finished:
    """Compare a suspicion of the first process with what its scenario asks in the second one.

    For `lasts` see `experiment`.
    """
    suspects = [*map(_suspect, suspicion["turns"])]
    numbers = {id(one.now): number for number, one in enumerate(suspects)}
    shown = {
        numbers[id(now)]: experiment(suspects[numbers[id(now)]], other, lasts)
        for now, other in same_turns([one.now for one in suspects], second.prompts)
    }
    proved = {number for number, one in shown.items() if one.differs and not one.on_both_sides}
    lost = next((one for one in suspicion["lost"] if proved.issuperset(one["turns"])), None)
    entry, measured_on = (lost["entry"], lost["measured_on"]) if lost else (None, None)
    ticks = _ticks(suspicion, second.prompts, lasts) if second.loses_cache else None
    if ticks:
        entry, measured_on = second.entry, second.measured_on
    alike = [suspects[number].places for number, one in shown.items() if one.differs is None]
    differing = [
        one.places for number, one in enumerate(suspects) if number not in shown or shown[number].differs
    ]
    edits = frozenset().union(*alike) - frozenset().union(*differing)
    differs = list(dict.fromkeys(one.differs for one in shown.values() if one.differs))
    return Finished(entry, measured_on, differs, edits, not proved, ticks)


def _ticks(suspicion: Suspicion, second: Sequence[Prompt], lasts: Callable[[Names], bool]) -> str | None:
    """Return where turns of the second process differ from one another as time goes by, or None.

    Turns are left out that were accepted with a value there too.
    """
    suspects = [*map(_suspect, suspicion["clocked"])]
    by_prompt = {id(one.now): one for one in suspects}
    paired = [(by_prompt[id(now)], other) for now, other in same_turns([one.now for one in suspects], second)]
    return ticking([pair for pair in paired if not experiment(*pair, lasts).on_both_sides])
