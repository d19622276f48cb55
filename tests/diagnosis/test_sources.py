"""The line of an added text, however the file holds it."""

from __future__ import annotations

import json

import pytest

from pytest_tokenbudget.sources import SourceTree
from pytest_tokenbudget.sources.words import read_words
from support.changes import UUIDS

BEFORE = "You are the agent of a shop.\nAnswer in the language of the customer.\nNever promise a date.\n"
ADDED = "Ask for the number of the order before you look anything up."
AFTER = BEFORE.replace("Never", f"{ADDED}\nNever")
LINES = AFTER.splitlines()


def literal(lines: list[str]) -> str:
    return "\n".join(f'    "{line}\\n"' for line in lines)


FORMS = [
    ("prompts/a.md", AFTER, "3"),
    ("prompts/a.txt", AFTER.replace("\n", "\r\n"), "3"),
    ("prompts/a.j2", "{% block system %}\n" + AFTER + "{% endblock %}\n", "4"),
    ("prompts/a.yaml", "system: |\n" + "".join(f"  {line}\n" for line in LINES), "4"),
    ("prompts/folded.yaml", "system: >\n" + "\n".join(f"  {word}" for word in AFTER.split()), "16-27"),
    ("prompts/quoted.yaml", f"system: {json.dumps(AFTER)}\n", "1"),
    ("prompts/a.json", json.dumps({"name": "x", "system": AFTER}, indent=1), "3"),
    ("prompts/ascii.json", json.dumps({"system": AFTER.replace("anything", "änything")}, indent=1), "2"),
    ("prompts/a.toml", 'system = """\n' + AFTER + '"""\n', "4"),
    ("prompts/a.xml", f"<prompt>\n<p>{LINES[0]}</p>\n<p>{LINES[1]}</p>\n<p>{ADDED}</p>\n</prompt>\n", "4"),
    ("agent/triple.py", f'X = """\\\n{AFTER}"""\n', "4"),
    ("agent/joined.py", f"X = (\n{literal(LINES)}\n)\n", "4"),
    ("agent/plus.py", 'X = "' + '\\n" + \\\n    "'.join(LINES) + '"\n', "3"),
    ("agent/single.py", f"X = {AFTER!r}\n", "1"),
    (
        "agent/dedent.py",
        "X = dedent('''\n" + "".join(f"        {line}\n" for line in LINES) + "    ''')\n",
        "4",
    ),
    ("agent/list.py", "X = '\\n'.join([\n" + "".join(f"    {line!r},\n" for line in LINES) + "])\n", "4"),
    ("agent/doc.py", f'def agent():\n    """Do it.\n\n    {ADDED}\n    """\n', "4"),
    (
        "agent/wrapped.py",
        (
            'X = """You are the agent of a shop.\nAnswer in the language of the customer. Ask for the\n'
            'number of the order before you look\nanything up. Never promise a date."""'
        ),
        "2-4",
    ),
    ("agent/inner.py", f"X = f'''Hello {{name}}.\n{{\"{ADDED}\" if asks else ''}} Bye.'''\n", "2"),
    ("agent/nested.py", f'X = f"Hello {{"{ADDED}" if d["asks"] else ""}} and bye."\n', "1"),
    ("agent/folded.py", f"X = f'{{\n    x or\n    \"{ADDED}\"\n}}'\n", "3"),
    ("agent/open.py", f"X = f'{{x'\nY = '{ADDED}'\n", "2"),
    ("agent/a.ts", f"export const X = `\n{AFTER}`;\n", "4"),
    ("agent/a.go", f"const X = {json.dumps(BEFORE)} +\n\t{json.dumps(ADDED)}\n", "2"),
    ("agent/a.rb", f"X = <<~TEXT\n{AFTER}TEXT\n", "4"),
    ("agent/a.js", f"const X = {json.dumps(AFTER)};\n", "1"),
    ("prompts/a.tpl", AFTER, "3"),
    ("agent/broken.py", f'def (:\n  it\'s "{ADDED}"\n', "2"),
    ("agent/comment.py", f"# don't\nX = \"{ADDED}\"  # it's\n", "2"),
]


@pytest.mark.parametrize(("path", "content", "lines"), FORMS, ids=[row[0] for row in FORMS])
def test_line_in_every_form_of_file(path: str, content: str, lines: str) -> None:
    now = AFTER.replace("anything", "änything") if "ascii" in path else AFTER
    tree = SourceTree({"README.md": "# A shop\n\nIt has an agent.\n", path: content})
    assert str(tree.locate(BEFORE, now).source) == f"{path}:{lines}"


TEMPLATES = [
    (
        "f-string",
        "a.py",
        'X = f"""Hello {user.name}!\nYou have {len(items):>3} items in your basket.\n{rest}"""',
        "2",
    ),
    ("nested quotes", "a.py", "X = f\"Hello {d['x']}! You have {n['y']} items in your basket.\"\n", "1"),
    ("str.format", "a.py", 'X = "Hello {name}!\\n" \\\n    "You have {count} items in your basket."\n', "2"),
    ("percent", "a.py", "X = '''Hello %(name)s!\nYou have %d items in your basket.''' % x\n", "2"),
    ("string.Template", "a.txt", "Hello $name!\nYou have ${count} items in your basket.\n", "2"),
    (
        "Jinja",
        "a.j2",
        "Hello {{ name }}!\n{% if items %}\nYou have {{ items|length }} items in your basket.\n",
        "3",
    ),
    (
        "added expressions",
        "a.py",
        'X = "Hello " + name + "!\\n" \\\n    "You have " + str(count) + " items in your basket."\n',
        "2",
    ),
    ("escaped braces", "a.py", 'X = f"Hello {name}!\\nYou have {count} items in your basket. {{}}"\n', "1"),
]


@pytest.mark.parametrize(("name", "path", "content", "line"), TEMPLATES, ids=[row[0] for row in TEMPLATES])
def test_line_of_a_template_that_was_filled(name: str, path: str, content: str, line: str) -> None:
    tree = SourceTree({path: content, "other.md": "You have to pay. Hello there! Items are in the basket.\n"})
    location = tree.locate("Hello Ann!\n", "Hello Ann!\nYou have 17 items in your basket.\n")
    assert str(location.source) == f"{path}:{line}"


def test_only_the_added_lines_of_a_text() -> None:
    text = "".join(f"Line {i} says something of its own, number {i * 7}.\n" for i in range(40))
    longer = text.replace("Line 20", "A first new line.\nA second new line.\nLine 20")
    tree = SourceTree({"a.md": longer})
    assert str(tree.locate(text, longer).source) == "a.md:21-22"


def test_the_largest_of_several_additions_is_the_line_and_the_others_are_named() -> None:
    text = "".join(f"Line {i} says something of its own, number {i * 7}.\n" for i in range(40))
    longer = text.replace("Line 5 ", "One short new line.\nLine 5 ")
    longer = longer.replace("Line 20", "A first new line, long.\nA second new line.\nLine 20")
    location = SourceTree({"a.md": longer}).locate(text, longer)
    assert str(location.source) == "a.md:22-23"
    assert [str(source) for source in location.elsewhere] == ["a.md:6"]


def test_a_changed_word_is_found_by_what_stands_around_it() -> None:
    was = "Answer in at most 5 sentences, and name the page.\n"
    tree = SourceTree({"a.md": "Five: 7, 7, 7.\n", "b.md": f"# Rules\n\n{was.replace('5', '7')}"})
    assert str(tree.locate(was, was.replace("5", "7")).source) == "b.md:3"


def test_changed_files_come_first() -> None:
    files = {"old.md": AFTER, "new.md": f"# New\n\n{AFTER}"}
    assert str(SourceTree(files, {"new.md": ""}).locate(BEFORE, AFTER).source) == "new.md:5"


MUSEUMS = '''
class FindMuseums(BaseModel):
    """List museums of a city that are open on a day, with hours and entrance fees."""

    city: str = Field(description="City of the visit")
'''
TABLES = '''

class ReserveTable(BaseModel):
    """Reserve a table in a restaurant for a day, an hour and a number of guests, by name."""

    restaurant: str = Field(description="Name of the restaurant, as in the list of the city")
    hour: str = Field(description="Hour, as HH:MM, in the time zone of the restaurant")
'''
SCHEMA = """reserve_table
Reserve a table in a restaurant for a day, an hour and a number of guests, by name.
description
Reserve a table in a restaurant for a day, an hour and a number of guests, by name.
properties
restaurant
description
Name of the restaurant, as in the list of the city
hour
description
Hour, as HH:MM, in the time zone of the restaurant
"""
"""The strings of the tool as pydantic writes its schema: with the docstring once more."""


def test_lines_that_the_change_does_not_touch_are_no_part_of_the_place() -> None:
    tree = SourceTree({"tools.py": MUSEUMS + TABLES}, {"tools.py": MUSEUMS})
    assert str(tree.locate("", SCHEMA).source) == "tools.py:8-12"


def test_of_two_places_in_one_file_the_edited_one_is_meant() -> None:
    tree = SourceTree({"a.md": f"{AFTER}\n---\n\n{AFTER}"}, {"a.md": f"{AFTER}\n---\n\n{BEFORE}"})
    assert str(tree.locate(BEFORE, AFTER).source) == "a.md:10"


def test_what_stood_there_before_the_change_keeps_its_place() -> None:
    tree = SourceTree({"a.md": f"# Rules\n{AFTER}"}, {"a.md": AFTER})
    assert str(tree.locate(BEFORE, AFTER).source) == "a.md:4"


def test_an_order_is_listed_in_the_names_of_classes_too() -> None:
    tree = SourceTree({"tools.py": "REGISTRY = [FindTrains, CheckVisa, FindHotels]\n"})
    assert tree.lists(("find_trains", "check_visa", "find_hotels"))
    assert tree.lists(("find-trains", "checkVisa", "find_hotels"))
    assert not tree.lists(("check_visa", "find_trains", "find_hotels"))


def test_what_stands_in_several_places_is_ambiguous_and_up_to_three_are_named() -> None:
    files = {f"{name}.md": AFTER for name in "abcd"}
    location = SourceTree(files).locate(BEFORE, AFTER)
    assert location.source is None
    assert [str(source) for source in location.sources] == ["a.md:3", "b.md:3", "c.md:3"]


def test_twice_in_one_file_is_ambiguous_too() -> None:
    location = SourceTree({"a.md": f"{AFTER}\n---\n\n{AFTER}"}).locate(BEFORE, AFTER)
    assert location.source is None
    assert [str(source) for source in location.sources] == ["a.md:3", "a.md:10"]


def test_twice_on_one_line_is_that_line() -> None:
    content = f"# Rules\n\n{ADDED} -- {ADDED}\n"
    assert str(SourceTree({"a.md": content}).locate(BEFORE, AFTER).source) == "a.md:3"


def test_among_many_similar_files_the_one_that_holds_the_text_is_found() -> None:
    files = {f"rules/{n:02}.md": BEFORE.replace("shop", f"shop {n}") for n in range(40)}
    files["rules/23.md"] = AFTER.replace("shop", "shop 23")
    was, now = BEFORE.replace("shop", "shop 23"), files["rules/23.md"]
    assert str(SourceTree(files).locate(was, now).source) == "rules/23.md:3"
    files["rules/31.md"] = AFTER.replace("shop", "shop 31")
    both = SourceTree(files).locate("", ADDED)
    assert [str(source) for source in both.sources] == ["rules/23.md:3", "rules/31.md:3"]


DATA_FILES = [
    ("tests/data/answers.json", json.dumps({"prompt": AFTER})),
    ("tests/data/prompts.jsonl", json.dumps({"prompt": AFTER}) + "\n"),
    ("tests/data/prompts.csv", f'id,prompt\n7,"{AFTER}"\n'),
    ("tests/data/prompts.xml", f"<a>{AFTER}</a>\n"),
]


@pytest.mark.parametrize(("path", "content"), DATA_FILES, ids=[row[0] for row in DATA_FILES])
def test_data_is_looked_into_last(path: str, content: str) -> None:
    other = {"b.md": "# Something else\n", path: content}
    assert SourceTree(other).locate(BEFORE, AFTER).sources[0].file == path
    assert SourceTree(other).holds("number of the order")
    source = SourceTree({**other, "prompts/a.md": AFTER}).locate(BEFORE, AFTER).source
    assert str(source) == "prompts/a.md:3"
    both = {**other, "prompts/a.md": AFTER}
    assert str(SourceTree(both, dict.fromkeys(both, "")).locate(BEFORE, AFTER).source) == "prompts/a.md:3"
    changed = SourceTree(both, {path: ""}).locate(BEFORE, AFTER).sources[0]
    assert changed.file == path, "what the change touches comes first"


def test_data_is_not_read_word_by_word_until_a_text_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(
        "pytest_tokenbudget.sources.read_words",
        lambda path, text: (read.append(path), read_words(path, text))[1],
    )
    files = {f"data/{n}.json": json.dumps({"text": f"Entry {n} of many."}) for n in range(100)}
    tree = SourceTree({**files, "a.md": AFTER, "data/order.json": json.dumps({"text": "Pay at once."})})
    assert tree.locate(BEFORE, AFTER).source is not None
    assert read == ["a.md"]
    assert str(tree.locate("", "Pay at once.").source) == "data/order.json:1"
    assert read == ["a.md", "data/order.json"]
    tree.locate("", "Pay at once, please.")
    assert read == ["a.md", "data/order.json"], "each file once a run"


def test_a_long_file_is_searched_as_a_short_one_is() -> None:
    filler = "".join(f"def test_{n}():\n    assert answer({n}) == '{n} parcels'\n" for n in range(6000))
    content = f'{filler}X = """\\\n{AFTER}"""\n{filler.replace("answer", "reply")}'
    location = SourceTree({"tests/test_all.py": content}).locate(BEFORE, AFTER)
    assert str(location.source) == f"tests/test_all.py:{12000 + 4}"


def test_context_decides_between_two_places() -> None:
    line = "Ask before you pay."
    files = {
        "a.md": f"Refunds take five days.\n{line}\nNever promise.\n",
        "b.md": f"Parcels are late.\n{line}\nWait.\n",
    }
    was, now = "Parcels are late.\nWait.\n", f"Parcels are late.\n{line}\nWait.\n"
    assert str(SourceTree(files).locate(was, now).source) == "b.md:2"


@pytest.mark.parametrize("now", ["Mr Jones wants all of it in verse today.", "x", "Answer customer never."])
def test_what_no_file_holds_is_not_found(now: str) -> None:
    location = SourceTree({"a.md": BEFORE}).locate("", now)
    assert location.sources == ()
    assert location.missing == (now.removesuffix("."),) or location.missing == (now,)


def test_what_several_files_hold_together_is_in_no_one_of_them() -> None:
    chapters = {
        f"{name}.md": f"The chapter on {name} tells in many words what the house asks of {name}, and why."
        for name in ("leave", "travel", "laptops", "parking")
    }
    tree = SourceTree(chapters)
    location = tree.locate("Be brief.", "Be brief. " + "".join(chapters.values()))
    assert (location.sources, location.is_in_parts) == ((), True)
    assert not tree.locate("Be brief.", "Be brief. Mr Jones wants all of it in verse today.").is_in_parts


def test_a_value_is_filled_in_at_the_line_of_its_hole() -> None:
    tree = SourceTree({"a.py": 'X = f"Be kind.\\n" \\\n    f"Today is {date}, so hurry.\\n"\n'})
    location = tree.locate(
        "Be kind.\nToday is 2026-11-20, so hurry.\n", "Be kind.\nToday is 2026-11-21, so hurry.\n"
    )
    assert location.source is None
    assert str(location.filled) == "a.py:2"
    assert location.missing == ("21",)


FILLED = [
    ('X = f"Session {uuid4()}\\n" + text', "Session {}", "UUIDs", UUIDS[:2]),
    ('X = f"Session {uuid4()}\\n" + text', "Session {}", "short ids", ("9d2b", "1fe8")),
    (
        'X = f"It is {now()}.\\n" + text',
        "It is {}.",
        "times",
        ("2026-11-21T10:00:01+00:00", "2026-11-21T10:07:00+00:00"),
    ),
    ('X = f"[{now()}] " + text', "[{}]", "brackets", ("10:00:01", "10:07:59")),
    ('X = "Ref {ref}\\n{text}".format(ref=ref, text=text)', "Ref {}", "str.format", ("nreuh", "qffxe")),
    ('X = "Worker %d\\n" % pid() + text', "Worker {}", "percent", ("7594", "81")),
    (
        'X = Template("Host $h\\n").substitute(h=host()) + text',
        "Host {}",
        "Template",
        ("vm-7.org", "vm-8.org"),
    ),
    ('X = Template("On ${h}\\n").substitute(h=host()) + text', "On {}", "braces", ("vm-7.org", "vm-8.org")),
]


@pytest.mark.parametrize(("line", "prompt", "name", "values"), FILLED, ids=[row[2] for row in FILLED])
def test_a_word_before_its_hole_is_enough_where_the_change_touches_the_file(
    line: str, prompt: str, name: str, values: tuple[str, str]
) -> None:
    files = {"a.py": f"from uuid import uuid4\n\nY = f'Basket {{uuid4()}}'\n{line}\n", "b.md": BEFORE}
    first, second = (f"{prompt.format(value)}\n{BEFORE}" for value in values)
    for was in (BEFORE, first):
        location = SourceTree(files, {"a.py": ""}).locate(was, second)
        assert (str(location.filled), location.source) == ("a.py:4", None)
    assert SourceTree(files).locate(BEFORE, second).filled is None, "in a file as it was, it may be chance"


def test_a_word_before_several_holes_is_no_place() -> None:
    code = "X = f'Session {a}'\nY = f'Session {b}'\n"
    location = SourceTree({"a.py": code}, {"a.py": ""}).locate(BEFORE, f"Session 7\n{BEFORE}")
    assert (location.source, location.filled, location.sources) == (None, None, ())


def test_marks_of_another_format_do_not_count() -> None:
    tree = SourceTree({"shop.py": 'ORDER = {\n    "remark": "Asked for twice in the evening",\n}\n'})
    was, now = '{"order": 7}', '{"order": 7, "remark": "Asked for twice in the evening"}'
    assert str(tree.locate(was, now).source) == "shop.py:2"


def test_a_file_that_is_put_in_twice_is_found_once() -> None:
    tree = SourceTree({"tone.md": "Speak as a friend would.\n", "b.md": BEFORE})
    location = tree.locate(BEFORE, BEFORE + "Speak as a friend would.\n" * 2)
    assert (str(location.source), location.elsewhere) == ("tone.md:1", ())


def test_two_files_that_are_put_together_are_both_named() -> None:
    tree = SourceTree(
        {"a.md": "Speak as a friend would who knows it.\n", "b.md": "Answer in one sentence.\n"}
    )
    location = tree.locate("", "Speak as a friend would who knows it.\nAnswer in one sentence.\n")
    assert (str(location.source), list(map(str, location.elsewhere))) == ("a.md:1", ["b.md:1"])


def test_an_empty_tree_finds_nothing() -> None:
    assert SourceTree({}).locate("", "Be kind.").missing == ("Be kind.",)
    assert SourceTree({}).locate("a b", "a").sources == ()


def test_holds() -> None:
    tree = SourceTree({"a.md": AFTER, "b.py": 'X = "Acme & Sons"\n'}, {"a.md": ""})
    assert tree.holds("number of the order")
    assert tree.holds("Acme & Sons")
    assert not tree.holds("Sons & Acme")
    assert not tree.holds("Jones")
    assert tree.holds("")


def test_the_index_is_asked_many_times() -> None:
    files = {
        f"p/{i}.md": "".join(f"File {i}, line {j}: {i * j} of them.\n" for j in range(100))
        for i in range(100)
    }
    tree = SourceTree(files)
    for i in range(100):
        line = f"File {i}, line 77: {i * 77} of them."
        assert str(tree.locate("", line).source) == f"p/{i}.md:78"


# --- where the change edits what code says -----------------------------------------------------------------

CALL = """
def call(messages):
    return client.messages.create(
        model="claude-haiku-4-5",
        system=[{"type": "text", "text": RULES, "cache_control": {"type": "ephemeral"}}],
        max_tokens=900,
        messages=messages,
    )
"""
TTL = CALL.replace('"ephemeral"}', '"ephemeral", "ttl": "1h"}')
CHOICE = CALL.replace("        max_tokens", '        tool_choice={"type": "any"},\n        max_tokens')
HELPED = """
def marked(block):
    return {**block, "cache_control": {"type": "ephemeral"}}


def ask(block):
    return send(marked(block), limit=900)
"""
UNMARKED = CALL.replace(', "cache_control": {"type": "ephemeral"}', "")


@pytest.mark.parametrize(
    ("was", "now", "words", "place"),
    [
        (CALL, CALL.replace("haiku", "opus"), ("claude-opus-4-5", "claude-haiku-4-5"), "agent.py:4"),
        (CALL, CALL.replace('"claude-haiku-4-5"', "LARGE"), ("claude-x", "claude-haiku-4-5"), "agent.py:4"),
        (CALL, CALL.replace("haiku-4-5", "haiku-4-5-20251001"), ("claude-haiku-4-5",), "agent.py:4"),
        (CALL, CALL.replace("900", "80"), ("claude-haiku-4-5",), ""),
        (CALL, UNMARKED, ("cache_control",), "agent.py:5"),
        (
            CALL,
            CALL.replace("        system=", "        # was system="),
            ("ttl", "cache_control"),
            "agent.py:5",
        ),
        (CALL, CALL.replace(CALL.splitlines(keepends=True)[5], ""), ("max_tokens",), "agent.py:5"),
        (CALL, TTL, ("1h", "ttl"), "agent.py:5"),
        (TTL, CALL, ("1h", "ttl"), "agent.py:5"),
        (CALL, CHOICE, ("tool_choice",), "agent.py:6"),
        (CHOICE, CALL, ("tool_choice",), "agent.py:5"),
        (CALL, CALL.replace("\n    ", "\n        "), ("cache_control",), ""),
        (CALL, CALL.replace("def call", "X = 1\n\n\ndef call"), ("cache_control",), ""),
        (CALL * 2, UNMARKED * 2, ("cache_control",), "agent.py:5, agent.py:13"),
        (CALL * 4, UNMARKED * 4, ("cache_control",), ""),
        (HELPED, HELPED.replace("marked(block),", "block,"), ("ttl", "cache_control"), "agent.py:7"),
        (HELPED, HELPED.replace("def ask", "LIMIT = 80\n\n\ndef ask"), ("cache_control",), ""),
        ("", CALL, ("cache_control",), "agent.py:5"),
        ("", CALL * 4, ("cache_control",), ""),
    ],
)
def test_edits_are_named_where_they_are_few(was: str, now: str, words: tuple[str, ...], place: str) -> None:
    files = {"agent.py": now, "CHANGES.md": "No cache_control, no 1h, and claude-opus-4-5.\n", "b.py": CALL}
    tree = SourceTree(files, {"agent.py": was, "CHANGES.md": ""})
    assert ", ".join(map(str, tree.edited_through(*words))) == place
    if was != HELPED:
        assert tree.edited(*words) == tree.edited_through(*words)


def test_an_edit_in_two_files_is_named_in_both() -> None:
    files = {"a.py": CALL.replace("haiku", "opus"), "b.yaml": "model: claude-opus-4-5\n"}
    tree = SourceTree(files, {"a.py": CALL, "b.yaml": "model: claude-haiku-4-5\n"})
    assert [*map(str, tree.edited("claude-opus-4-5", "claude-haiku-4-5"))] == ["a.py:4", "b.yaml:1"]


@pytest.mark.parametrize("times", [2, 20, 300])
@pytest.mark.parametrize("before", [f"{LINES[0]} ", f"{ADDED} "], ids=["behind another", "once before"])
def test_a_text_that_is_said_over_and_over_has_the_line_of_one(before: str, times: int) -> None:
    """What a test makes long by `TEXT * 20`: the file says it once."""
    files = {"a.py": f'X = "{LINES[0]} " + (\n    "{ADDED} " * {times}\n)\n'}
    location = SourceTree(files).locate(before, before + f"{ADDED} " * times)
    assert (str(location.source), location.missing) == ("a.py:2", ())
