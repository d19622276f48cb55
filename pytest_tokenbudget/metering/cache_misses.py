"""Why a turn did not read what an earlier turn had cached."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pytest_tokenbudget.metering.cache_chain import Chain
from pytest_tokenbudget.wire.prompt import LEVELS, Block

Cause = Literal[
    "cold",
    "no_breakpoint",
    "below_minimum",
    "unexplained",
    "parameter",
    "changed",
    "moved",
    "look_back",
    "expired",
    "concurrent",
]


@dataclass(frozen=True, slots=True)
class Miss:
    """Why a turn read less than the nearest earlier chain had cached."""

    cause: Cause
    """
    - `cold`: nothing was cached before that begins like this turn.
    - `no_breakpoint`, `below_minimum`: the turn marks nothing, or nothing that is long enough.
    - `unexplained`: the recording cached nothing here, although it could have.
    - `parameter`: the same content was cached under other `parameters`.
    - `changed`: this turn's chain leaves the cached one at `block`.
    - The cached prefix was there, but `moved`: every breakpoint stands before its end; `look_back`: it ends
      more than 20 positions before the next breakpoint; `expired`; `concurrent`: the recording shows that
      this turn could not read it.
    """
    turn: int | None = None
    """Whose chain was nearest; None where there is none, or where it was cached before the first turn."""
    block: Block | None = None
    """The first block of this turn that was not read, although it, or what stood there, was cached."""
    was: Block | None = None
    """What stands there in the nearest chain."""
    parameters: tuple[str, ...] = ()
    """Those that differ: `model`, `tool_choice`, `images`, `thinking`, ... Only where the cause says so."""
    lost: int = 0
    """Tokens that the two chains share and that were cached, but not read."""


@dataclass(frozen=True, slots=True)
class _Path:
    chain: Chain
    end: int
    """Position of its last cached prefix."""


class CachedPaths:
    """The cached part of every turn's chain, to find the one that a later turn is nearest to."""

    def __init__(self) -> None:
        self._paths: dict[int, _Path] = {}
        self._by_text: dict[str, int] = {}
        self._latest: int | None = None

    def add(self, turn: int, chain: Chain, end: int) -> None:
        """Enter a turn's chain up to its last cached prefix; `turn` is negative before the first."""
        self._paths[turn] = _Path(chain, end)
        self._latest = turn
        self._by_text.update((link.text, turn) for link in chain.links[: end + 1])

    def miss(self, chain: Chain, sizes: tuple[int, ...], hit: int | None) -> Miss | None:
        """What a turn that read up to `hit` lost against the nearest chain; None where it lost nothing.

        The cause is `parameter` or `changed`, or, where the cached prefix is this turn's own, `moved`: the
        caller knows better which of the others it is.
        """
        shared = -1
        for position, link in enumerate(chain.links):
            if link.text not in self._by_text:
                break
            shared = position
        nearest = self._by_text[chain.links[shared].text] if shared >= 0 else self._latest
        if nearest is None:
            return None
        path = self._paths[nearest]
        reach = min(shared, path.end)
        read = -1 if hit is None else hit
        if read >= path.end or (read >= shared and shared + 1 >= len(chain.links)):
            return None
        same = _same_keys(chain, path.chain, reach)
        first = max(same, read) + 1
        miss = Miss(
            "moved",
            turn=nearest if nearest >= 0 else None,
            block=_block(chain, first),
            was=_block(path.chain, first),
            lost=max(sizes[reach] - (sizes[read] if read >= 0 else 0), 0) if reach >= 0 else 0,
        )
        if same < reach:
            return replace(miss, cause="parameter", parameters=_differing(chain, path.chain))
        return replace(miss, cause="changed") if shared < path.end else miss


def _same_keys(one: Chain, other: Chain, reach: int) -> int:
    """Last position up to which two chains that share their content are one to the cache; -1 for none."""
    for position in range(reach, -1, -1):
        if one.links[position].key == other.links[position].key:
            return position
    return -1


def _differing(one: Chain, other: Chain) -> tuple[str, ...]:
    """Names of the parameters that differ, those of the first level that does."""
    for level in LEVELS:
        a, b = one.scopes.get(level, {}), other.scopes.get(level, {})
        if a != b:
            return tuple(sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name)))
    return ()


def _block(chain: Chain, position: int) -> Block | None:
    return chain.links[position].block if position < len(chain.links) else None
