"""Who is playing: scenarios go on and off; the HTTP libraries are taken over while one has a cassette."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_tokenbudget.options import Options
from pytest_tokenbudget.replay.child import ChildProxy
from pytest_tokenbudget.replay.ledger import Ledger, Rules
from pytest_tokenbudget.replay.packing import Interaction
from pytest_tokenbudget.replay.redaction import Redactor
from pytest_tokenbudget.scenario import Scenario
from pytest_tokenbudget.spending import Spending

if TYPE_CHECKING:
    from pytest_tokenbudget.replay.cassette import Ledgers


class Stage:
    """A process-wide stack of scenarios; what is asked belongs to the one on top.

    Not by thread or task: an agent's threads and tasks ask in the name of the test that runs.
    """

    def __init__(
        self,
        options: Options,
        *,
        allowed_hosts: Sequence[str] = (),
        spending: Spending | None = None,
        redact: Sequence[str] = (),
    ) -> None:
        self._options = options
        self._allowed_hosts = allowed_hosts
        self._spending = spending
        self._redactor = Redactor(os.environ, redact)
        self._on: list[tuple[Scenario, contextlib.ExitStack]] = []
        self._ledgers: Ledgers | None = None
        self._routed = False
        self._fenced = False

    def enter(self, scenario: Scenario, *, fenced: bool = False) -> None:
        """Put a scenario on top; `fenced` closes the network as well, where nothing is to be called.

        Raises CassetteError, and leaves the stage as it was.
        """
        from pytest_tokenbudget.replay import cassette  # imports vcr

        self._ledgers = self._ledgers or cassette.Ledgers()
        with contextlib.ExitStack() as opening:
            opening.enter_context(cassette.adopt(self._adopted))
            if scenario.cassette is not None:
                ledger = scenario.own or scenario.open(
                    self._options,
                    self._spending,
                    self._redactor,
                    free_hosts=frozenset(self._allowed_hosts),
                )
                opening.enter_context(self._ledgers.using(ledger))
                if not self._routed:
                    opening.enter_context(cassette.route(self._ledgers))
                    opening.enter_context(self._marked("_routed"))
                if fenced and not self._options.calls and not self._fenced:
                    opening.enter_context(scenario.fenced(self._allowed_hosts))
                    opening.enter_context(self._marked("_fenced"))
            self._on.append((scenario, opening.pop_all()))

    @contextlib.contextmanager
    def proxy(self, scenario: Scenario) -> Iterator[ChildProxy]:
        """What agents in other processes ask while this is open belongs to the scenario on top as well.

        Raises SettingsError.
        """
        ledgers = self._ledgers
        assert ledgers is not None
        assert scenario.own is not None
        with ChildProxy(lambda: ledgers.top, os.environ) as proxy:
            scenario.proxies.append(proxy)
            yield proxy

    def leave(self, scenario: Scenario) -> None:
        """Take a scenario off, wherever it is; nothing where it never came on."""
        for index, (one, opened) in reversed(list(enumerate(self._on))):
            if one is scenario:
                del self._on[index]
                opened.close()
                return

    @contextlib.contextmanager
    def _marked(self, flag: str) -> Iterator[None]:
        """What is process-wide is opened once, however many scenarios are on."""
        setattr(self, flag, True)
        try:
            yield
        finally:
            setattr(self, flag, False)

    def _adopted(self, path: str, held: Sequence[Interaction], rules: Rules) -> Ledger:
        """The account of a cassette that the user's code opens now."""
        scenario = self._on[-1][0]
        command = f"record {path} as this suite does it"
        ledger = Ledger(scenario.place.id, command, held, rules)
        scenario.adopted.append(ledger)
        return ledger
