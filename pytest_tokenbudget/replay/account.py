"""Who asked what of a cassette: one that a fixture of wider scope holds open serves many tests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from pytest_tokenbudget.replay.pairing import Recording
from pytest_tokenbudget.wire.exchange import Exchange, Pair, Request

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Account:
    """What one test or fixture asked of a recording, and how it left it: as in `Recording`."""

    pairs: tuple[Pair, ...]
    misses: tuple[Request, ...]
    unplayed: tuple[Exchange, ...]
    reshaped: tuple[Pair, ...]
    problems: tuple[str, ...]


class Accounts:
    """The accounts of all that ask one recording."""

    def __init__(self, recording: Recording, opener: str) -> None:
        """`opener` is told what nobody asks for."""
        self._recording = recording
        self._opener = opener
        self._asked: dict[int, str] = {}
        self._missed: list[str] = []
        self._problems: list[tuple[str, str]] = []

    def asked(self, number: int, asker: str) -> None:
        """For the exchange of this number."""
        self._asked[number] = asker

    def missed(self, asker: str) -> None:
        """In step with the misses of the recording."""
        self._missed.append(asker)

    def refused(self, asker: str, problem: str) -> None:
        """For another reason."""
        self._problems.append((asker, problem))

    def of(self, asker: str, *, shared: bool) -> Account:
        """Of one of them. Where several share the recording, what nobody asks for says nothing."""
        recording = self._recording
        return Account(
            pairs=self._mine(asker, recording.pairs),
            misses=_by(asker, zip(self._missed, recording.misses, strict=False)),
            unplayed=recording.unplayed if asker == self._opener and not shared else (),
            reshaped=self._mine(asker, recording.reshaped),
            problems=_by(asker, self._problems),
        )

    def _mine(self, asker: str, pairs: Iterable[Pair]) -> tuple[Pair, ...]:
        return tuple(pair for pair in pairs if self._asked.get(pair.index) == asker)


def _by(asker: str, told: Iterable[tuple[str, _T]]) -> tuple[_T, ...]:
    return tuple(one for who, one in told if who == asker)
