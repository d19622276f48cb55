"""Whether a pair keeps its place in the conversations; if not, its answer is not the one to be had."""

from __future__ import annotations

from collections.abc import Container

from pytest_tokenbudget.model import Paired
from pytest_tokenbudget.replay.conversation import Conversation
from pytest_tokenbudget.replay.recorded import Match, Recorded
from pytest_tokenbudget.replay.similarity import is_rather

_SHARES_NOTHING = 0.1
"""Cosine similarity of two prompts below which nothing says that they are the same call."""


def is_reshaped(asked: Conversation, match: Match, recorded: Recorded, served: Container[int]) -> bool:
    """Whether a request has another place in the conversations than the recorded one that it is paired with.

    `served` has the exchanges that answered earlier requests of this run.
    """
    then, origin = recorded[match.index], recorded.origins[match.index]
    if not match.origin.agrees(origin):
        return True
    if match.how is Paired.EXACT:
        return False
    uncertain = match.origin.may_open or match.how is Paired.SIMILAR
    if uncertain and recorded.was_said_elsewhere(asked, match.index):
        return True
    if match.origin.parents.isdisjoint(origin.parents):
        return _is_another_call(asked, match, recorded, served)
    if asked.repeats_itself and not then.repeats_itself:
        return True
    if match.origin.position < 0:
        return False
    return asked.tool_results(match.origin.position) != then.tool_results(origin.position)


def _is_another_call(asked: Conversation, match: Match, recorded: Recorded, served: Container[int]) -> bool:
    """Whether an opening is not the recorded one: it goes on where that one ends, or rather repeats one that
    was asked already, or shares nothing with it, or little where the recording has several."""
    then = recorded[match.index]
    if asked.chain[-1] == then.chain[-1]:
        return False
    if asked.says_more_than(then):
        return True
    roots = recorded.roots(asked.request)
    asked_already = (recorded[index].words for index in roots if index in served)
    if not recorded.is_told_by(asked.words, match.index) and any(
        is_rather(asked.words, other, then.words) for other in asked_already
    ):
        return True
    if match.how is not Paired.ORDER:
        return False
    return len(roots) > 1 or recorded.shared(asked, match.index) < _SHARES_NOTHING
