"""What the options of a user's own cassette come to: what they let be played, and what they would hide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.replay.packing import Interaction
from pytest_tokenbudget.replay.playback import Ledger
from pytest_tokenbudget.replay.rules import Rules
from pytest_tokenbudget.replay.sent import Sent
from pytest_tokenbudget.wire.framing import compact_json
from pytest_tokenbudget.wire.prompt import Prompt

LedgerOf = Callable[[str, Sequence[Interaction], Rules], Ledger]
"""Makes the ledger of a user's cassette, given its path, what it holds, and what its options allow."""
_SHARE, _LEAST = 20, 100
"""A twentieth of a prompt, or about 25 tokens: what hides in less is within the default tolerance."""
_FILTERS = "filter_post_data_parameters or before_record_request"


def shown(path: object) -> str:
    """The path of a cassette as it is told: relative to where pytest runs, where that is above it."""
    here = Path.cwd()
    return str(Path(str(path)).relative_to(here)) if Path(str(path)).is_relative_to(here) else str(path)


def opened(ledger_of: LedgerOf, path: str, held: Sequence[Interaction], rules: Rules) -> Ledger:
    """The ledger of a cassette; where it is damaged the suite goes on, and cannot be judged by it."""
    try:
        return ledger_of(path, held, rules)
    except CassetteError as error:
        ledger = ledger_of(path, (), rules)
        ledger.doubt(f"{path}: {error}")
        return ledger


def filtered(live: Sent, kept: Sent | None, ledger: Ledger, path: str, *, replayed: bool) -> Sent:
    """A model call as the filters of a cassette leave it, `kept` (None: they leave nothing of it).

    Where they leave none, a real call counts as it is sent; raises ReplayMiss where it is `replayed`, or may
    not be called. A filter that takes out so much of a prompt that a growth could hide there is told to the
    ledger.
    """
    if kept is None or kept.request is None or live.request is None:
        if replayed or not ledger.rules.calls:
            _refuse(live, kept, ledger, path)
        return live
    if kept.body != live.body and (hidden := _hidden(live.request.prompt, kept.request.prompt)):
        ledger.doubt(
            f"an option of the cassette {path} ({_FILTERS}) hides {hidden:,} characters of the prompt of "
            f"{live}, so that nobody can tell whether they grew. Let it keep tools, system and messages."
        )
    return kept


def _refuse(live: Sent, kept: Sent | None, ledger: Ledger, path: str) -> None:
    """Raise ReplayMiss for a model call that the options keep from the cassette, or do not show as one."""
    option = "ignore_hosts, ignore_localhost or before_record_request" if kept is None else _FILTERS
    past = "sends {} past it, unmetered" if kept is None else "hides that {} is a model call"
    ledger.refuse(
        f"{ledger.name}: an option of the cassette {path} ({option}) {past.format(live)}. "
        "Let the option keep model calls."
    )


def no_match(path: str, matchers: Iterable[object], closest: Iterable[tuple[Any, Any, Any]]) -> str:
    """Why vcr has nothing to play for a request; `closest` as `find_requests_with_most_matches` has it."""
    names = [getattr(matcher, "__name__", str(matcher)) for matcher in matchers]
    if not names:
        return f"there is nothing in the cassette {path}, or it is not there."
    differs = next(([name for name, _ in failed] for _, _, failed in closest), names)
    advice = " Leave the body out of match_on, and the change is counted." if "body" in str(differs) else ""
    return f"match_on lets no request of {path} answer it, for {' and '.join(differs)} differs.{advice}"


def unpatched(path: str, libraries: Iterable[str]) -> str | None:
    """What `skip_patchers` leaves out, in a sentence."""
    if not (names := ", ".join(libraries)):
        return None
    return f"the cassette {path} leaves out {names} (skip_patchers): model calls by that way are not metered"


def _hidden(live: Prompt, kept: Prompt) -> int:
    """Characters of a prompt that its filters take out; 0 for few."""
    whole, left = (
        sum(len(compact_json(block.content)) for block in prompt.blocks) for prompt in (live, kept)
    )
    return whole - left if whole - left > max(whole // _SHARE, _LEAST) else 0
