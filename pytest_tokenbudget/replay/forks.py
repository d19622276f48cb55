"""Processes that a test forks: each has a copy of the account, and what it writes there nobody reads."""

from __future__ import annotations

import mmap
import os

FORKED = (
    "a process that the test has forked asks a model, and nobody can see there what it asks. "
    'Start it anew (as a command, or with the start method "spawn"), with the environment of '
    "token_budget_proxy."
)


class Forks:
    """Whether a fork of the process that made this has asked for anything; told to that process by one byte
    that they share.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._told = mmap.mmap(-1, 1)

    @property
    def inside(self) -> bool:
        """Whether this is a fork."""
        return os.getpid() != self._process

    def tell(self) -> None:
        """Called in a fork, which asks for something."""
        self._told[0] = 1

    def told(self) -> bool:
        """Whether one has, since this was asked last."""
        told = bool(self._told[0])
        self._told[0] = 0
        return told
