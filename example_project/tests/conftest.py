"""The shop that the scenarios run in."""

from __future__ import annotations

import pytest

from support_agent import Shop


@pytest.fixture
def shop() -> Shop:
    """A shop without returns or cases."""
    return Shop()
