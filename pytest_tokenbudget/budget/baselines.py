"""Read and write the committed baselines: one YAML file for each test module, one value a line.

`docs/formats.md` describes the file. It is written as version 2 if a baseline has a key that version 1 did
not know, else as version 1, which will always be read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pytest_tokenbudget.errors import BaselineError
from pytest_tokenbudget.files import (
    conflict_in,
    dump_yaml,
    load_yaml,
    restoring,
    taking_a_side,
    write_atomically,
)
from pytest_tokenbudget.model import COUNTS, Rate, Tokens, Usage
from pytest_tokenbudget.wire.exchange import Exchange
from pytest_tokenbudget.wire.prompt import Block, digest
from pytest_tokenbudget.wording import next_step

VERSION = 2
"""The newest version of the file that is read and written."""
UPDATE = "pytest --token-budget --token-budget-update"
"""The command that writes baselines."""
_HEADER = f"# Token budgets. Written by `{UPDATE}`; commit it and review it like code.\n"
_OPTIONAL = "web_search_requests"
REQUIRED = tuple(count for count in COUNTS if count != _OPTIONAL)
"""The counts that every rate of a baseline must have."""
_COMMITTED = "It was committed so: name another commit to compare with."
_FOREIGN_READS = "foreign_reads"
_TTLS = ("5m", "1h")
_DIGESTS = ("recording", "accepted")
_LIVE = "live"
_DIGEST = re.compile(r"[0-9a-f]{12}")
_ADDED = (*_DIGESTS, "counted_by")
"""Optional keys of a scenario that version 2 added, beside `live`, and `foreign_reads` under a model."""


def _nothing() -> Mapping[Rate, Mapping[str, int]]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is committed for one scenario."""

    usage: Usage
    foreign_reads: Mapping[Rate, Mapping[str, int]] = field(default_factory=_nothing)
    """Tokens that were read from a cache which the run itself had not filled, by rate and ttl (`5m`, `1h`);
    those that are not 0."""
    recording: str | None = None
    """The `recording_digest` of the recording that it was measured on; None in a file of version 1."""
    accepted: str | None = None
    """The digest of its accepted requests; None if the requests are the recorded ones."""
    counted_by: str | None = None
    """The counter of the numbers that were counted (`ctok 1.3`); None if every number is recorded."""
    live: tuple[Usage, ...] = ()
    """Its live runs, with foreign reads counted as writes; never mixed with `usage`, which is replayed."""


def usages(baselines: Mapping[str, Baseline]) -> dict[str, Usage]:
    """Return the usage of each baseline, by scenario name."""
    return {name: baseline.usage for name, baseline in baselines.items()}


def recording_digest(turns: Iterable[Exchange]) -> str:
    """Return 12 hex digits that tell recordings apart: the same for the same turns in the same order.

    They cover the requests, and the models, prompt and output tokens of the answers. They do not cover what
    differs when the same is recorded again: the split of the prompt into read, written and uncached tokens,
    dates, and the ids of tool calls.
    """
    return digest(*(_digested(turn) for turn in turns))[:12]


def _digested(turn: Exchange) -> list[object]:
    prompt, usage = turn.request.prompt, turn.answer.usage or Usage()
    billed = [
        [str(rate), tokens.prompt_tokens, tokens.output_tokens] for rate, tokens in usage.by_rate.items()
    ]
    blocks = [
        [block.level, block.role, block.message, block.ttl, _without_ids(block)] for block in prompt.blocks
    ]
    limits = [prompt.max_tokens, prompt.stop_sequences, prompt.automatic_ttl]
    return [turn.request.endpoint.api, prompt.model, blocks, dict(prompt.options), limits, billed]


def _without_ids(block: Block) -> dict[str, Any]:
    return {key: value for key, value in block.content.items() if key not in ("id", "tool_use_id")}


def baseline_path(test_file: Path) -> Path:
    """Return where the baselines of a test module are: `<test dir>/token_budgets/<module>.yaml`."""
    return test_file.parent / "token_budgets" / f"{test_file.stem}.yaml"


def read_baselines(path: Path) -> Mapping[str, Baseline]:
    """Read the baselines of a file by scenario name (the node id without its file); none without a file.

    Raises BaselineError, which names the file, what is wrong in it and the fix.
    """
    text = _text_of(path)
    if text is None:
        return MappingProxyType({})
    return parse_baselines(text, where=str(path), fix=resolve(path) if conflict_in(text) else _restore(path))


def resolve(path: Path) -> str:
    """Return the next step of a file in conflict."""
    side = next_step("Or take one side (yours; --theirs is the other)", taking_a_side(path))
    return f"{next_step('Resolve it scenario by scenario', UPDATE)}\n{side}"


def _restore(path: Path) -> str:
    """Return the next step of a file that is damaged, also one that a merge has left unmerged."""
    return next_step("Restore it, then write what changed", restoring(path), UPDATE)


def _text_of(path: Path) -> str | None:
    """Return the text of a baseline file, or None if there is no file. Raises BaselineError."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise BaselineError(f"{path}: cannot be read: {why}.\n{_restore(path)}") from error


@dataclass(frozen=True, slots=True)
class Merged:
    """What a baseline file holds, with a merge conflict resolved scenario by scenario."""

    baselines: Mapping[str, Baseline]
    """Baselines that are equal on both sides, or changed on only one."""
    contested: Mapping[str, Baseline | None] = field(default_factory=dict)
    """Scenarios that changed on both sides, as the first side has them: they have to be measured again."""
    conflict: bool = False
    """Whether the file holds conflict marks."""

    def of(self, name: str) -> Baseline | None:
        """Return the baseline that a run which resolves the conflict is compared with, if there is one."""
        return self.baselines.get(name) or self.contested.get(name)

    def names(self) -> Iterator[str]:
        """Yield the names of the scenarios that have one."""
        yield from self.baselines
        yield from (name for name, first in self.contested.items() if first)


def read_merged(path: Path, ancestor: Callable[[Path], str | None]) -> Merged:
    """Read a baseline file that may be in conflict.

    `ancestor` returns the text that both sides came from, or None. Raises BaselineError if the file cannot be
    read, or its conflict marks do not pair.
    """
    conflict = conflict_in(_text_of(path) or "")
    if conflict is None or conflict.sides is None:
        return Merged(read_baselines(path))
    ours, theirs = (parse_baselines(side, str(path), resolve(path)) for side in conflict.sides)
    text = ancestor(path) if conflict.base is None else conflict.base
    base = None if text is None else parse_baselines(text, f"{path}, before both sides", resolve(path))
    taken: dict[str, Baseline] = {}
    contested: dict[str, Baseline | None] = {}
    for name in {**ours, **theirs}:
        sides = [ours.get(name), theirs.get(name)]
        known = None if base is None else base.get(name)
        news = [side for side in sides if side != known]
        if sides[0] == sides[1]:
            taken[name] = ours[name]
        elif None in sides and (base is None or len(news) > 1):  # whose test is gone nobody can measure
            taken[name] = {**ours, **theirs}[name]
        elif base is None or len(news) > 1:
            contested[name] = ours.get(name)
        elif news[0] is not None:
            taken[name] = news[0]
    return Merged(MappingProxyType(taken), contested, conflict=True)


def parse_baselines(text: str, where: str, fix: str = _COMMITTED) -> Mapping[str, Baseline]:
    """Read the text of a baseline file, by scenario name.

    Raises BaselineError, in which `where` names the text and `fix` is the next step.
    """
    if conflict := conflict_in(text):
        raise BaselineError(f"{where}: holds conflict marks of a merge (line {conflict.line}).\n{fix}")
    try:
        document = load_yaml(text)
    except ValueError as error:
        raise BaselineError(f"{where}: is no YAML: {error}.\n{fix}") from error
    if not isinstance(document, dict) or "version" not in document:
        raise BaselineError(f"{where}: is no baseline file: it has no `version`.\n{fix}")
    version = document["version"]
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise BaselineError(f"{where}: `version` is {version!r}, not 1 to {VERSION}.\n{fix}")
    if version > VERSION:
        raise BaselineError(
            f"{where}: is of version {version!r}; this pytest-tokenbudget reads 1 to {VERSION}. "
            "Install the newer version that wrote it."
        )
    scenarios = document.get("scenarios")
    if not isinstance(scenarios, dict):
        raise BaselineError(f"{where}: `scenarios` is not a table.\n{fix}")
    try:
        _refuse_unknown(document, ("version", "scenarios"), "the file")
        return MappingProxyType({str(k): _baseline(v, str(k), version) for k, v in scenarios.items()})
    except ValueError as error:
        raise BaselineError(f"{where}: {error}.\n{fix}") from None


def _baseline(value: object, where: str, version: int) -> Baseline:
    """Read one scenario of a file of this version.

    Raises ValueError, which says what is wrong, and `where`; so do the functions below.
    """
    if not isinstance(value, dict) or not isinstance(value.get("models"), dict):
        raise ValueError(f"{where}: is not `turns` and `models`")
    added = _ADDED if version > 1 else ()
    _refuse_unknown(value, ("turns", "models", *added, *((_LIVE,) if version > 1 else ())), where)
    by_rate = read_models(value["models"], where, (_FOREIGN_READS,) if version > 1 else ())
    foreign_reads = {
        Rate.parse(str(name)): _foreign_reads(counts[_FOREIGN_READS], f"{where}: {name}: {_FOREIGN_READS}")
        for name, counts in value["models"].items()
        if _FOREIGN_READS in counts
    }
    return Baseline(
        Usage(_count(value.get("turns"), f"{where}: turns"), by_rate),
        MappingProxyType(foreign_reads),
        live=_live(value.get(_LIVE, []), f"{where}: {_LIVE}"),
        **{
            key: _text(value[key], f"{where}: {key}", digest=key in _DIGESTS) for key in added if key in value
        },
    )


def _live(value: object, where: str) -> tuple[Usage, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{where}: is not a list of runs")
    runs = []
    for number, run in enumerate(value, 1):
        its = f"{where}, run {number}"
        if not isinstance(run, dict) or not isinstance(run.get("models"), dict):
            raise ValueError(f"{its}: is not `turns` and `models`")
        _refuse_unknown(run, ("turns", "models"), its)
        runs.append(Usage(_count(run.get("turns"), f"{its}: turns"), read_models(run["models"], its)))
    return tuple(runs)


def read_models(models: Mapping[Any, Any], where: str, beside: Sequence[str] = ()) -> Mapping[Rate, Tokens]:
    """Read tokens by rate, in the order of the file; `beside` names keys that may stand beside the counts.

    Raises ValueError, which says what is wrong, and `where`.
    """
    read = {
        Rate.parse(str(name)): _tokens(counts, f"{where}: {name}", beside) for name, counts in models.items()
    }
    return MappingProxyType(read)


def _foreign_reads(value: object, where: str) -> Mapping[str, int]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: is not a table of tokens by ttl")
    _refuse_unknown(value, _TTLS, where)
    return MappingProxyType({ttl: _count(tokens, f"{where}: {ttl}") for ttl, tokens in value.items()})


def _text(value: object, where: str, *, digest: bool) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where}: is {value!r}, not a text; put it in quotes")
    if digest and not _DIGEST.fullmatch(value):
        raise ValueError(f"{where}: is {value!r}, not 12 hex digits")
    return value


def _tokens(value: object, where: str, beside: Sequence[str]) -> Tokens:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: is not a table of token counts")
    _refuse_unknown(value, (*COUNTS, *beside), where)
    counts = {key: _count(value.get(key), f"{where}: {key}") for key in REQUIRED}
    return Tokens(**counts, web_search_requests=_count(value.get(_OPTIONAL, 0), f"{where}: {_OPTIONAL}"))


def _refuse_unknown(table: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    """Raise ValueError for an unknown key: it means nothing, and would be lost on the next writing."""
    for key in table:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}")


def _count(value: object, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f"{where}: is {value!r}, not a count")


def format_baselines(baselines: Mapping[str, Baseline]) -> str:
    """Return the text of a baseline file: sorted, one value a line, equal bytes for equal baselines."""
    scenarios = {name: _as_table(baselines[name]) for name in sorted(baselines)}
    version = 2 if any(map(_needs_version_2, baselines.values())) else 1
    return _HEADER + dump_yaml({"version": version, "scenarios": scenarios})


def _needs_version_2(baseline: Baseline) -> bool:
    added = any(getattr(baseline, key) for key in _ADDED)
    return added or bool(baseline.live) or any(map(_not_zero, baseline.foreign_reads.values()))


def _as_table(baseline: Baseline) -> dict[str, Any]:
    models = format_models({rate: baseline.usage.by_rate[rate] for rate in sorted(baseline.usage.by_rate)})
    for rate, by_ttl in baseline.foreign_reads.items():
        if reads := _not_zero(by_ttl):
            models[str(rate)][_FOREIGN_READS] = reads
    added = {key: value for key in _ADDED if (value := getattr(baseline, key))}
    runs = [
        {
            "turns": run.turns,
            "models": format_models({rate: run.by_rate[rate] for rate in sorted(run.by_rate)}),
        }
        for run in baseline.live
    ]
    return {"turns": baseline.usage.turns, "models": models, **added, **({_LIVE: runs} if runs else {})}


def format_models(by_rate: Mapping[Rate, Tokens]) -> dict[str, dict[str, Any]]:
    """Return tokens by rate as they are written, in the given order."""
    models = {}
    for rate, tokens in by_rate.items():
        table: dict[str, Any] = {key: getattr(tokens, key) for key in REQUIRED}
        if tokens.web_search_requests:
            table[_OPTIONAL] = tokens.web_search_requests
        models[str(rate)] = table
    return models


def _not_zero(reads: Mapping[str, int]) -> dict[str, int]:
    return {ttl: reads[ttl] for ttl in _TTLS if reads.get(ttl)}


def write_baselines(path: Path, changed: Mapping[str, Baseline], kept: Merged | None = None) -> bool:
    """Write `changed` over what the file holds and keep the rest; return whether the file was written.

    `kept` is what it holds, if that was read already. Nothing is removed. A file whose baselines stay the
    same keeps every byte. The file is replaced whole or not at all. Raises BaselineError if it cannot be read
    or written, or if `changed` does not resolve a conflict in it.
    """
    kept = kept or Merged(read_baselines(path))
    if left := sorted(kept.contested.keys() - changed.keys()):
        raise BaselineError(
            f"{path}: stays in conflict. What changed on both sides of the merge has to be measured, and was "
            f"not in this run: {', '.join(left)}.\n{next_step('Measure all of it', UPDATE)}"
        )
    merged = {**kept.baselines, **changed}
    if merged == kept.baselines and not kept.conflict:
        return False
    try:
        write_atomically(path, format_baselines(merged).encode())
    except OSError as error:
        raise not_written(path, error) from error
    return True


def remove_baselines(path: Path, names: Collection[str]) -> None:
    """Remove scenarios from a baseline file, and the file if none are left. Raises BaselineError."""
    kept = {name: baseline for name, baseline in read_baselines(path).items() if name not in names}
    try:
        if kept:
            write_atomically(path, format_baselines(kept).encode())
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise not_written(path, error) from error


def not_written(path: Path, error: OSError) -> BaselineError:
    """Return the error for a file of the baselines that cannot be written, with the next step."""
    return BaselineError(
        f"{path}: cannot be written: {error.strerror or error}. The baselines on disk are as they were.\n"
        + next_step("Make the folder writable, and run it again", UPDATE)
    )
