"""Holds a document against `document.schema.json`, in the part of JSON Schema that the schema uses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

Schema = Mapping[str, Any]

_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
_ARTICLES = {"object": "an object", "array": "a list", "integer": "a whole number", "null": "null"}


@cache
def schema() -> Schema:
    """The JSON schema (draft 2020-12) of the document."""
    text = files("pytest_tokenbudget.reports").joinpath("document.schema.json").read_text("utf-8")
    loaded: Schema = json.loads(text)
    return loaded


def problems(value: object, rule: Schema | None = None, key: str = "") -> Iterator[str]:
    """Sentences like `scenarios[3].line must be a whole number or null, not "x"`, in document order."""
    rule = schema() if rule is None else rule
    if "$ref" in rule:
        yield from problems(value, _resolve(rule["$ref"]), key)
    elif "anyOf" in rule:
        answers = [list(problems(value, option, key)) for option in rule["anyOf"]]
        if all(answers):
            yield from answers[0]
    elif "const" in rule or "enum" in rule:
        allowed = rule.get("enum", [rule.get("const")])
        if not any(value == one and type(value) is type(one) for one in allowed):
            yield _must(key, "be " + " or ".join(json.dumps(one) for one in allowed), value)
    elif not _is_a(value, rule["type"]):
        names = [rule["type"]] if isinstance(rule["type"], str) else rule["type"]
        yield _must(key, "be " + " or ".join(_ARTICLES.get(name, f"a {name}") for name in names), value)
    elif isinstance(value, (int, float)) and value < rule.get("minimum", value):
        yield _must(key, f"be at least {rule['minimum']}", value)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from problems(item, rule["items"], f"{key}[{index}]")
    elif isinstance(value, dict):
        yield from _object_problems(value, rule, key)


def _object_problems(value: dict[str, object], rule: Schema, key: str) -> Iterator[str]:
    known, others = rule.get("properties", {}), rule.get("additionalProperties", True)
    for name in rule.get("required", ()):
        if name not in value:
            yield f"{_join(key, name)} is missing"
    for name, item in value.items():
        if name in known:
            yield from problems(item, known[name], _join(key, name))
        elif others is False:
            yield f"{_join(key, name)} is not a key of this version"
        elif others is not True:
            yield from problems(item, others, _join(key, name))


def _resolve(reference: str) -> Schema:
    found: Schema = schema()["$defs"][reference.removeprefix("#/$defs/")]
    return found


def _is_a(value: object, types: str | list[str]) -> bool:
    names = [types] if isinstance(types, str) else types
    if isinstance(value, bool):  # an int to Python, not to JSON
        return "boolean" in names
    return any(isinstance(value, _TYPES[name]) for name in names)


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _must(key: str, what: str, value: object) -> str:
    shown = {dict: "an object", list: "a list"}.get(type(value)) or json.dumps(value)
    return f"{key or 'the document'} must {what}, not {shown if len(shown) <= 60 else shown[:57] + '...'}"
