"""Options that rule how much a model answers: a replay has the answers of those that were recorded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from pytest_tokenbudget.diagnosis.findings import Finding
from pytest_tokenbudget.diagnosis.wording import turns
from pytest_tokenbudget.metering.betas import counted_betas
from pytest_tokenbudget.metering.run import Run
from pytest_tokenbudget.wire.prompt import Prompt

_UNSET = "not set"
_BETAS = "anthropic-beta"
_OUTPUT = "Their output tokens are those of then, and may be others now"
_BOTH = "Their output tokens are those of then, and what a beta does to prompt and output is not known"


def answer_options(run: Run) -> Iterator[Finding]:
    """Effort, thinking and betas that differ from the recorded ones: what they do to the output is not
    known."""
    changed: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for index, turn in enumerate(run.turns):
        was, now = _ruling(turn.pair.recorded.prompt), _ruling(turn.pair.request.prompt)
        for name in now:
            if was[name] != now[name]:
                changed[name, was[name], now[name]].append(index)
    for (name, before, after), indexes in changed.items():
        text = (
            f"{turns(indexes)}: {name} is {after}, and was {before} when the answers were recorded. "
            f"{_BOTH if name == _BETAS else _OUTPUT}"
        )
        yield Finding("answer_options", name, text)


def _ruling(prompt: Prompt) -> dict[str, str]:
    output, thinking = prompt.options.get("output_config"), prompt.options.get("thinking")
    effort = output.get("effort") if isinstance(output, Mapping) else None
    betas = ", ".join(sorted(counted_betas(prompt)))
    return {"effort": str(effort or _UNSET), "thinking": _thinking(thinking), _BETAS: betas or _UNSET}


def _thinking(option: object) -> str:
    if not isinstance(option, Mapping):
        return _UNSET
    budget = option.get("budget_tokens")
    told = f" with {budget:,} tokens" if isinstance(budget, int) else ""
    return f"{option.get('type', _UNSET)}{told}"
