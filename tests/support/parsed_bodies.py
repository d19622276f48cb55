"""YAML as pydantic-ai's own serializer has written it, with bodies that are parsed."""

from __future__ import annotations

import json
from typing import Any

import yaml


class ParsedBodies:
    """A serializer for vcr, of cassettes with parsed bodies and of plain ones; it writes none."""

    @staticmethod
    def deserialize(text: str) -> Any:
        cassette = yaml.load(text, Loader=yaml.CSafeLoader)
        for interaction in cassette["interactions"]:
            for part in (interaction["request"], interaction["response"]):
                if "parsed_body" in part:
                    body = json.dumps(part.pop("parsed_body"))
                    part["body"] = {"string": body} if part is interaction["response"] else body
                part.setdefault("body", {"string": b""} if part is interaction["response"] else None)
        return cassette

    @staticmethod
    def serialize(cassette: Any) -> str:
        raise AssertionError("a user's cassette was written")
