"""Options of the test suite itself."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("suite", deadline=None)  # the machine may be busy
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-golden", action="store_true", help="write the golden files anew")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What needs the optional group runs only when it is asked for: it installs and starts heavy things."""
    if "frameworks" in config.getoption("-m"):
        return
    for item in items:
        if item.get_closest_marker("frameworks"):
            item.add_marker(pytest.mark.skip(reason="runs under make test-frameworks (-m frameworks)"))
