"""What customers write, what the agent must do about it, and what that may cost."""

from __future__ import annotations

import pytest

from support_agent import Shop, answer


@pytest.mark.token_budget
def test_a_late_parcel_counts_as_lost(shop: Shop) -> None:
    """Two look-ups, and the customer gets the choice."""
    reply = answer("Where is my order FW-20417? It was promised for Wednesday and nothing came.", shop)

    assert reply.category == "delivery"
    assert reply.tools == ("get_order", "track_parcel")
    assert "replacement or a refund" in reply.text


@pytest.mark.token_budget
def test_a_wrong_part_is_replaced(shop: Shop) -> None:
    """The right part leaves before the wrong one is back."""
    reply = answer(
        "You sent me a disc of 180 mm instead of 160 in order FW-20502. I want to exchange it.",
        shop,
    )

    assert reply.category == "return"
    assert [entry["reason"] for entry in shop.returns] == ["wrong_part"]
    assert "Tuesday 10 March" in reply.text


@pytest.mark.token_budget(
    tolerance={"prompt_tokens": "3%"}, max_turns=9, max_prompt_tokens=14_000, max_cost_usd=0.05
)
def test_three_researchers_find_out_whether_it_fits(shop: Shop) -> None:
    """The dearest scenario, held closer than the others: nine requests, six of them in parallel."""
    reply = answer("Does the bottom bracket BB-7213 fit a steel frame with a BSA shell of 68 mm?", shop)

    assert reply.category == "fit"
    assert reply.tools == ("check_stock",)
    assert "2.5 mm" in reply.text


@pytest.mark.token_budget
def test_an_injury_goes_to_a_person(shop: Shop) -> None:
    """At once, and the agent discusses neither cause nor compensation."""
    reply = answer("The stem from order FW-20417 broke and I crashed. My lawyer will write to you.", shop)

    assert reply.category == "person"
    assert [case["urgency"] for case in shop.cases] == ["now"]
    assert "do not ride" in reply.text.lower()


@pytest.mark.token_budget
def test_an_unknown_order_is_asked_for_again(shop: Shop) -> None:
    """A tool's error is read, and nothing is set in motion."""
    reply = answer("When does my order FW-99999 arrive?", shop)

    assert reply.tools == ("get_order",)
    assert "packing slip" in reply.text
    assert shop.returns == []
