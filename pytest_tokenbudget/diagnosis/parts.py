"""The parts of a turn's difference, told against the turn's own recording."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from pytest_tokenbudget.metering.estimate import Part
from pytest_tokenbudget.metering.meter import Turn


def with_own_parts(turn: Turn) -> Turn:
    """The turn with every part that is no difference to its own recorded request folded into `framing`.

    An estimate may be counted from a neighbouring turn's request; what differs between the two neighbours
    then stands among its parts although this turn always had it. The sum stays what it is.
    """
    parts = turn.estimate.parts
    if not parts:
        return turn
    was = Counter(block.digest for block in turn.pair.recorded.prompt.blocks)
    now = Counter(block.digest for block in turn.pair.request.prompt.blocks)

    def is_own(part: Part) -> bool:
        gone = part.was is None or was[part.was.digest] > now[part.was.digest]
        new = part.now is None or now[part.now.digest] > was[part.now.digest]
        return gone and new

    own = [part for part in parts if is_own(part) and part.where != "framing"]
    rest = sum(part.tokens for part in parts) - sum(part.tokens for part in own)
    if rest:
        own.append(Part("framing", "changed", rest))
    return replace(turn, estimate=replace(turn.estimate, parts=tuple(own)))
