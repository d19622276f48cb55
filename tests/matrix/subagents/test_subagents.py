"""Eight agents at once, six turns each, in an interleaving that is drawn by lot."""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import anthropic
import pytest

AGENTS, TURNS = 8, 6
CHANGED = "SUBAGENTS_CHANGED" in os.environ
SYSTEM = "You answer customers of a shop. Be brief and kind, and cite the policy that applies."
MORE = " Never promise a date that the carrier has not confirmed, and ask for what you do not know."
OPENING = "Find out for customer {0} when order {0}17 leaves, who delivers it, and what the voucher is worth."
REWORDED = "Please find out for customer {0} who delivers order {0}17, when it leaves, and what is owed."


class Baton:
    """Lets each agent ask when it is its turn; nobody waits for the answers of the others."""

    def __init__(self, seed: int) -> None:
        self._order = [number for number in range(AGENTS) for _ in range(TURNS)]
        random.Random(seed).shuffle(self._order)
        self._passed = asyncio.Condition()

    async def turn_of(self, number: int) -> None:
        async with self._passed:
            await self._passed.wait_for(lambda: self._order[0] == number)
            self._order.pop(0)
            self._passed.notify_all()


async def agent(client: anthropic.AsyncAnthropic, number: int, baton: Baton) -> None:
    opening = (REWORDED if CHANGED else OPENING).format(number)
    messages: list[Any] = [{"role": "user", "content": opening}]
    for turn in range(TURNS):
        request: dict[str, Any] = {
            "model": "claude-haiku-4-5",
            "max_tokens": 99,
            "system": SYSTEM + (MORE if CHANGED else ""),
            "messages": messages,
        }
        await baton.turn_of(number)
        if (number + turn) % 2:
            async with client.messages.stream(**request) as stream:
                answer: Any = await stream.get_final_message()
        else:
            answer = await client.messages.create(**request)
        assert answer.content[0].text == f"Agent {number}, step {turn}: done."
        messages += [
            {"role": "assistant", "content": answer.content[0].text},
            {"role": "user", "content": "Go on."},
        ]


@pytest.mark.token_budget
@pytest.mark.parametrize("seed", map(int, os.environ["SUBAGENTS_SEEDS"].split()))
def test_subagents(seed: int) -> None:
    async def all_of_them() -> None:
        baton = Baton(seed)
        async with anthropic.AsyncAnthropic() as client, asyncio.TaskGroup() as tasks:
            for number in range(AGENTS):
                tasks.create_task(agent(client, number, baton))

    asyncio.run(all_of_them())
