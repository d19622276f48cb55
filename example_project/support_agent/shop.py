"""The shop behind the tools: a few orders, parcels and parts, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_ORDERS: Mapping[str, Mapping[str, Any]] = {
    "FW-20417": {
        "placed": "Monday 2 March",
        "parts": [{"stock_number": "CS-1134", "name": "Cassette 11-34", "price": 64.9}],
        "left": "Monday 2 March",
        "confirmed_delivery": "Wednesday 4 March",
        "tracking_number": "3SFW0020417",
    },
    "FW-20502": {
        "placed": "Thursday 5 March",
        "parts": [
            {
                "stock_number": "RT-160",
                "name": "Brake disc 160 mm, six-bolt",
                "price": 23.5,
                "sent": "RT-180",
            },
            {"stock_number": "BP-201", "name": "Brake pads, organic", "price": 12.0, "sent": "BP-201"},
        ],
        "left": "Friday 6 March",
        "confirmed_delivery": "Monday 9 March",
        "tracking_number": "3SFW0020502",
    },
}
_PARCELS = {
    "3SFW0020417": "Left the depot in Antwerp on Tuesday 3 March at 06:12. No scan for five working days.",
    "3SFW0020502": "Delivered on Monday 9 March at 11:40 to the neighbour at number 14.",
}
_STOCK = {
    "BB-7213": {"name": "Bottom bracket BSA, 24 mm spindle", "pieces": 12, "price": 31.5},
    "CS-1134": {"name": "Cassette 11-34", "pieces": 0, "price": 66.9, "next_delivery": "Friday 13 March"},
}


class UnknownNumberError(Exception):
    """There is no order, parcel or part of that number."""


@dataclass
class Shop:
    """What the tools look up, and what they set in motion."""

    returns: list[Mapping[str, Any]] = field(default_factory=list)
    cases: list[Mapping[str, Any]] = field(default_factory=list)

    def get_order(self, order_number: str) -> Mapping[str, Any]:
        """One order; raises UnknownNumberError."""
        return {"order_number": order_number, **_found(_ORDERS, "order", order_number)}

    def track_parcel(self, tracking_number: str) -> str:
        """Where a parcel is; raises UnknownNumberError."""
        return str(_found(_PARCELS, "parcel", tracking_number))

    def check_stock(self, stock_number: str) -> Mapping[str, Any]:
        """Pieces and price of a part; raises UnknownNumberError."""
        return {"stock_number": stock_number, **_found(_STOCK, "part", stock_number)}

    def start_return(self, **request: Any) -> Mapping[str, Any]:
        """Note a return; raises UnknownNumberError for an order that is none."""
        self.get_order(request["order_number"])
        self.returns.append(request)
        ours = request["reason"] in ("wrong_part", "fault", "lost")
        return {
            "return_number": f"R-{len(self.returns):04d}",
            "postage": "free" if ours else "4.95 off the refund",
            "replacement_leaves": "Tuesday 10 March" if request["replacement"] else None,
        }

    def escalate(self, **case: Any) -> Mapping[str, Any]:
        """Note a case for a person."""
        self.cases.append(case)
        return {"case_number": f"C-{len(self.cases):04d}", "answer_by": "Wednesday 11 March"}


def _found(table: Mapping[str, Any], kind: str, number: str) -> Any:
    if number not in table:
        raise UnknownNumberError(f"There is no {kind} with the number {number}.")
    return table[number]
