"""Prefixes that differ from process to process."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest

from pytest_tokenbudget.diagnosis.volatile import (
    Suspect,
    clocked,
    compare_prefixes,
    experiment,
    is_still_volatile,
    proved_volatile,
    suspects,
    ticking,
    timed_as_recorded,
    with_times_of,
)
from pytest_tokenbudget.model import Paired
from pytest_tokenbudget.wire.endpoints import Endpoint
from pytest_tokenbudget.wire.exchange import Answer, Pair, Request
from pytest_tokenbudget.wire.prompt import Prompt, parse_prompt
from support.blocks import text
from support.changes import (
    NOW,
    TEMPLATE,
    WHO,
    Case,
    before_system,
    each,
    put,
    question,
    system,
    tools_file,
    unchanged,
)
from support.seeded import (
    GET_ORDER,
    HANDBOOK,
    REFUND,
    SEARCH,
    Agent,
    Change,
    changed,
    request,
    subagents,
    support_agent,
    tool,
)


def per_process(name: str, line: str, value: str, kind: str, source: str = "") -> Case:
    """A value in front of the system prompt that is the same on every turn, and another in every process."""
    found = {
        "volatile system[0]": ("system_changed", kind, "is in no file of the repository", source),
        "growth system[0]": ("re-sent on 4 turns", source),
    }
    return Case(name, each(before_system(line, value)), found, TEMPLATE)


def another_value(name: str, line: str, was: str, now: str, kind: str, source: str) -> Case:
    """The same line as recorded, filled with another value of the same length."""
    return Case(
        name,
        each(before_system(line, now)),
        {"volatile system[0]": ("system_changed", kind, source)},
        TEMPLATE,
        before=each(before_system(line, was)),
    )


LAST = "Never promise a date.\n"
REASON_FIRST = tool(
    "refund", "Give a customer the money back.", reason="Why, in one sentence.", order="Number of the order."
)
REASON_FIRST["input_schema"]["required"].reverse()

VOLATILE = [
    per_process("a date", "Current time: {}.", "2026-11-21T10:00:01Z", "date or time", NOW),
    per_process("a session", "Session: {} on web", "brave-otter-9", "UUID or random id", WHO),
    per_process(
        "a path that no file knows", "Work in {}", "/tmp/pytest-of-ci/run-81/shop", "path or host name"
    ),
    Case(
        "words that no file knows: an edit, wherever they come from",
        each(before_system("{}", "Mr Jones wants it in verse.")),
        {"growth system[0]": ("its text is in no file of the repository", "")},
        TEMPLATE,
    ),
    another_value("another date", "Current time: {}.", "2026-11-20", "2026-11-21", "date or time", NOW),
    another_value("another counter", "Session: {} on web", "41", "42", "counter", WHO),
    another_value("another host", "Session: 1 on {}", "blue", "grey", "changed text", WHO),
    Case(
        "tools in hash order",
        each(lambda _, body: body["tools"].reverse()),
        {"volatile tools": ("another order", "differs from process to process", "")},
    ),
    Case(
        "tools that code sorts by name, in the same order in every process",
        each(lambda _, body: body["tools"].sort(key=lambda tool: tool["name"])),
        agent=lambda: support_agent(tools=[SEARCH, REFUND, GET_ORDER, tool("weather", "Tell the weather.")]),
    ),
    Case(
        "a day that code fills in: no other prefix in the next process",
        each(before_system("Today: {}.", "2026-11-29")),
        {
            "growth system[0]": ("", ""),
            "volatile system[0]": (
                '2026-11-29." is in no file',
                "if each day has another one, each has a prefix of its own",
                "",
            ),
        },
    ),
    Case(
        "tools that an edit put in another order",
        each(lambda _, body: body["tools"].reverse()),
        {},
        tools_file(REFUND, GET_ORDER, SEARCH),
    ),
    Case(
        "tools whose names an edit put in another order, in code that names them twice",
        each(lambda _, body: body["tools"].insert(0, body["tools"].pop())),
        {},
        {"agent/names.py": "from tools import get_order, refund\n\nTOOLS = [refund, search, get_order]\n"},
    ),
    Case(
        "tools in another order beside an edit that names them in a third",
        each(lambda _, body: body["tools"].reverse()),
        {"volatile tools": ("another order", "no changed file lists them so", "")},
        tools_file(GET_ORDER, SEARCH, REFUND),
    ),
    Case(
        "keys of a schema that an edit put in another order",
        each(lambda _, body: body.update(tools=[SEARCH, GET_ORDER, copy.deepcopy(REASON_FIRST)])),
        {},
        tools_file(SEARCH, GET_ORDER, REASON_FIRST),
    ),
    Case(
        "the keys of every tool in another order",
        each(lambda _, body: body.update(tools=[dict(reversed(tool.items())) for tool in body["tools"]])),
        {
            "volatile tools[search]": (
                "keys in another order",
                "the same of tools[get_order] and tools[refund]",
                "",
            ),
        },
    ),
    Case(
        "a line of the prompt that an edit moved",
        each(system(lambda _, words: words.replace(LAST, "").replace("\n\n1.", f"\n\n{LAST}1."))),
        {},
        {"agent/prompts/handbook.md": HANDBOOK.replace(LAST, "").replace("\n\n1.", f"\n\n{LAST}1.")},
    ),
    Case(
        "lines that no file has in that order",
        each(system(lambda _, words: words.replace(LAST, "").replace("\n\n1.", f"\n\n{LAST}1."))),
        {"volatile system[0]": ("another order", "either code puts them", "")},
    ),
    Case(
        "an edited constant in the prompt",
        each(before_system("Offer {} days to them.", "9000")),
        {"growth system[0]": ("filled in at agent/days.py:2", "agent/days.py:2")},
        {"agent/days.py": 'DAYS = 9000\nTEXT = f"Offer {DAYS} days to them."\n'},
        before=each(before_system("Offer {} days to them.", "7")),
    ),
    Case(
        "a new line with its arguments",
        each(before_system("Answer in {} sentences, and in Dutch, please.", "7")),
        {"growth system[0]": ("", "agent/days.py:1")},
        {"agent/days.py": 'TEXT = "Answer in {} sentences, and in {}, please.".format(SEVEN, LANGUAGE)\n'},
    ),
    Case(
        "a number of the process",
        each(before_system("Worker {}", "31877")),
        {
            "growth system[0]": ("filled in at agent/days.py:1", "agent/days.py:1"),
            "volatile system[0]": (
                "counter or other number",
                "is in no file of the repository: if each process has another one",
                "agent/days.py:1",
            ),
        },
        {"agent/days.py": 'TEXT = f"Worker {os.getpid()}"\n'},
    ),
    Case(
        "a number of the process, in a line of many words",
        each(before_system("You run as process {} of this machine, and as nobody else.", "31877")),
        {
            "growth system[0]": ("from agent/days.py:1", "agent/days.py:1"),
            "volatile system[0]": ("counter or other number", '"31877" is in no file', "agent/days.py:1"),
        },
        {"agent/days.py": 'T = f"You run as process {os.getpid()} of this machine, and as nobody else."\n'},
    ),
    Case(
        "a word of the machine, in a line of many words",
        each(before_system("You run on {}, which belongs to the shop.", "vm")),
        {
            "growth system[0]": ("from agent/days.py:1", "agent/days.py:1"),
            "volatile system[0]": ("path or host name", '"vm" is in no file', "agent/days.py:1"),
        },
        {"agent/days.py": 'T = f"You run on {gethostname()}, which belongs to the shop."\n'},
    ),
    Case(
        "a word of a list, in a line of many words",
        each(before_system("You answer for the {} of us, and for nobody else.", "workshop")),
        {"growth system[0]": ("from agent/days.py:1", "agent/days.py:1")},
        {"agent/days.py": 'T = f"You answer for the {next(iter(PARTS))} of us, and for nobody else."\n'},
    ),
    Case(
        "a value that is added to a text",
        each(before_system("Revision {}", "5955580")),
        {
            "growth system[0]": ("filled in at agent/days.py:1", "agent/days.py:1"),
            "volatile system[0]": ("counter or other number", "each process has another", "agent/days.py:1"),
        },
        {"agent/days.py": 'T = "Revision " + head_of(".") + "\\n"\n'},
    ),
    Case(
        "a time in the description of every tool",
        each(
            lambda _, body: [
                tool.update(description=f"{tool['description']} (as of Sat Nov 21 10:00:01 2026)")
                for tool in body["tools"]
            ]
        ),
        {
            "growth tools[search].description": ("", "agent/days.py:1"),
            "growth tools[get_order].description": ("", "agent/days.py:1"),
            "growth tools[refund].description": ("", "agent/days.py:1"),
            "volatile tools[search].description": (
                "date or time",
                "the same of tools[get_order].description and tools[refund].description",
                "agent/days.py:1",
            ),
        },
        {"agent/days.py": 'T = f"{tool.description} (as of {datetime.now():%c})"\n'},
    ),
    Case(
        "a flag of every tool, which is no text",
        each(lambda _, body: [tool.update(strict=True) for tool in body["tools"]]),
        {},
        {"agent/strict.py": 'tools = [{**tool, "strict": True} for tool in tools]\n'},
    ),
    Case(
        "a host",
        each(before_system("Host: {}", "vm")),
        {
            "growth system[0]": ("filled in at agent/days.py:1", "agent/days.py:1"),
            "volatile system[0]": ("path or host name", "agent/days.py:1"),
        },
        {"agent/days.py": 'TEXT = f"Host: {gethostname()}"\n'},
    ),
    Case(
        "names of a schema that an f-string makes: nothing shows that they are random",
        each(
            lambda _, body: body["tools"][1]["input_schema"]["properties"].update(
                zone={"type": "string", "enum": [f"zone-a{number}" for number in range(20)]}
            )
        ),
        {
            "growth tools[get_order].input_schema": ("", "agent/zones.py:1"),
            "volatile tools[get_order].input_schema": ("changed text", "is in no file", "agent/zones.py:1"),
        },
        {"agent/zones.py": 'ZONES = {"type": "string", "enum": [f"zone-a{n}" for n in range(20)]}\n'},
    ),
    Case(
        "a set in a schema",
        each(lambda _, body: body["tools"][2]["input_schema"]["required"].reverse()),
        {"volatile tools[refund].input_schema": ("tools_changed, another order", "")},
    ),
]


@pytest.mark.parametrize("case", VOLATILE, ids=str)
def test_volatile_prefixes(case: Case) -> None:
    case.check()


# --- the same scenario in two processes --------------------------------------------------------------------


def prompts(change: Change = unchanged, agent: Agent | None = None) -> list[Prompt]:
    return [request(body).prompt for body in changed((agent or support_agent()).bodies(), change)]


STABILITY: list[tuple[str, Change, Change, dict[str, tuple[str, ...]]]] = [
    ("the same", unchanged, unchanged, {}),
    (
        "another clock",
        each(before_system("Current time: {}.", "2026-11-21T10:00:01Z")),
        each(before_system("Current time: {}.", "2027-01-01T00:00:00Z")),
        {"system[0]": ("character 17", "date or time", "the prefix of another process")},
    ),
    (
        "another hash seed, in the tools and in a schema",
        unchanged,
        each(
            lambda _, body: body["tools"].reverse(),
            lambda _, body: body["tools"][0]["input_schema"]["required"].reverse(),
        ),
        {"tools": ("another order",), "tools[refund].input_schema": ("another order",)},
    ),
    (
        "another working directory, in the system prompt and the first message",
        each(
            before_system("You work in {}.", "/home/a/shop"),
            question(lambda _, words: f"(/home/a/shop) {words}"),
        ),
        each(before_system("You work in {}.", "/tmp/b"), question(lambda _, words: f"(/tmp/b) {words}")),
        {"system[0]": ("path or host name",), "messages[0] user text": ("path or host name",)},
    ),
    (
        "an option",
        unchanged,
        each(put(tool_choice={"type": "any"})),
        {"tool_choice": ("differs from process to process",)},
    ),
    ("what is no part of the prompt", unchanged, each(put(metadata={"user_id": "7"}, max_tokens=7)), {}),
]


@pytest.mark.parametrize(("name", "one", "other", "found"), STABILITY, ids=[row[0] for row in STABILITY])
def test_prefixes_of_two_processes(
    name: str, one: Change, other: Change, found: dict[str, tuple[str, ...]]
) -> None:
    told = compare_prefixes(prompts(one), prompts(other))
    assert {finding.where for finding in told} == set(found), told
    assert len(told) == len(found)
    for finding in told:
        assert finding.kind == "volatile"
        for phrase in found[finding.where]:
            assert phrase in finding.text


def test_concurrent_requests_are_compared_with_their_own() -> None:
    bodies = subagents().bodies()
    shuffled = [bodies[i] for i in (4, 0, 8, 1, 5, 9, 2, 10, 6, 3, 7, 11)]
    assert compare_prefixes([request(b).prompt for b in bodies], [request(b).prompt for b in shuffled]) == []


def test_a_process_that_asks_more_is_told() -> None:
    told = compare_prefixes(prompts(), prompts()[:3])
    assert [one.text for one in told] == ["a second process asks 3 turns, the first 4"]


def test_without_breakpoints_tools_and_system_are_compared() -> None:
    bare = support_agent(system=HANDBOOK, rolling=False)
    other = each(lambda _, body: body.update(system=body["system"] + "Host: blue"))
    (told,) = compare_prefixes(prompts(agent=bare), prompts(other, bare))
    assert told.where == "system[0]"
    later = each(question(lambda _, words: words + " Thanks."))
    assert compare_prefixes(prompts(agent=bare), prompts(later, bare)) == []


def test_the_attribution_block_of_claude_code_is_not_compared() -> None:
    def attributed(value: str) -> Change:
        return each(
            lambda _, body: body["system"].insert(0, text(f"x-anthropic-billing-header: cch={value};"))
        )

    assert compare_prefixes(prompts(attributed("a1")), prompts(attributed("b2"))) == []


RULES = "Be brief.\nNever promise a date.\nVersion of 2024-01-31.\n"
MARK = {"cache_control": {"type": "ephemeral"}}


def asked(words: str, tools: str = "look_up note") -> Prompt:
    """A cached system prompt behind tools of these names."""
    listed = [{"name": name, "input_schema": {"type": "object"}} for name in tools.split()]
    blocks = [{"type": "text", "text": words, **MARK}]
    return parse_prompt({"model": "m", "tools": listed, "system": blocks, "messages": []})


def suspected(was: Prompt, now: Prompt) -> list[Suspect]:
    before, after = (Request(Endpoint("messages"), prompt, "") for prompt in (was, now))
    return suspects([Pair(0, after, before, Answer(200), Paired.LINEAGE)])


@pytest.mark.parametrize(
    ("now", "places"),
    [
        (RULES, set()),
        (RULES + "Never promise an hour.\n", set()),
        (RULES.upper(), set()),
        ("It is 10:31:07.\n" + RULES, {"system[0]"}),
        (RULES + "Work in /srv/shop/app.\n", {"system[0]"}),
        (RULES + "Answer in 3 lines.\n", {"system[0]"}),
        ("Never promise a date.\nBe brief.\nVersion of 2024-01-31.\n", {"system[0]"}),
    ],
)
def test_the_look_of_a_change_says_where_to_look(now: str, places: set[str]) -> None:
    found = suspected(asked(RULES), asked(now))
    assert [set(one.places) for one in found] == ([places] if places else [])


@pytest.mark.parametrize(
    ("was", "now", "is_suspected"),
    [
        (["chain", "brake"], ["pedal", "chain", "wheel", "brake"], True),
        (["chain", "brake"], ["brake", "pedal", "chain"], True),
        (["chain", "brake"], ["wheel", "pedal"], False),
        (["chain", "brake"], ["chain", "brake", "pedal"], False),
        (["chain", "brake", "pedal"], ["chain", "pedal"], False),
        (["chain", "brake"], ["chain"], False),
        (["chain", "brake"], ["wheel", "chain", "pedal", "brake"], True),
        (["brake", "chain"], ["brake", "cable", "chain"], False),
    ],
)
def test_a_list_of_names_that_mixes_new_ones_in_may_be_a_set(
    was: list[str], now: list[str], is_suspected: bool
) -> None:
    def offering(parts: list[str]) -> Prompt:
        schema = {"type": "object", "properties": {"part": {"type": "string", "enum": parts}}}
        tool = {"name": "show", "input_schema": schema, **MARK}
        return parse_prompt({"model": "m", "tools": [tool], "messages": []})

    found = suspected(offering(was), offering(now))
    assert [set(one.places) for one in found] == ([{offering(now).blocks[0].where}] if is_suspected else [])
    if is_suspected:
        shown = experiment(found[0], offering(now[::-1]), lambda names: False)
        assert (shown.differs is not None, shown.on_both_sides) == (True, False)


@pytest.mark.parametrize("lasts", [True, False])
@pytest.mark.parametrize("here", ["b c a d", "a d c b", "d a b c", "c b a d"])
@pytest.mark.parametrize("there", ["c a b d", "b a d c", "d c b a"])
def test_tools_in_another_order_are_compared_as_a_whole(here: str, there: str, lasts: bool) -> None:
    """Tool by tool, what differs looks like an edit or a value, as the dice have it."""

    def offering(order: str) -> Prompt:
        said = {"a": "Find trains.", "b": "Look a visa up.", "c": "Find a room for 1 to 30 nights."}
        listed: list[dict[str, object]] = [
            {"name": name, "description": said.get(name, "List museums."), "input_schema": {"type": "object"}}
            for name in order.split()
        ]
        listed[-1] |= MARK
        return parse_prompt({"model": "m", "tools": listed, "messages": []})

    (suspect,) = suspected(offering("a b c d"), offering(here))
    shown = experiment(suspect, offering(there), lambda names: lasts)
    assert shown.differs is not None
    assert shown.differs.startswith("tools differ from process to process (another order)")
    assert shown.on_both_sides == (not lasts)


def clock(time: str) -> str:
    return f"It is {time}.\n{RULES}"


def run_of(*turns: tuple[str, str]) -> list[Pair]:
    """The turns of one run, by what was accepted and what is asked now; no request equals another one."""
    return [
        Pair(
            index,
            Request(Endpoint("messages"), asked(now), f"now {index}"),
            Request(Endpoint("messages"), asked(was), f"was {index}"),
            Answer(200),
            Paired.LINEAGE,
        )
        for index, (was, now) in enumerate(turns)
    ]


@pytest.mark.parametrize(
    ("was", "now", "places"),
    [
        (RULES, clock("10:31:07"), {"system[0]"}),
        (RULES, clock("2026-11-29T10:31:07+00:00"), {"system[0]"}),
        (RULES, clock("10:31:07 AM"), {"system[0]"}),
        (RULES, clock("10h31m07s"), {"system[0]"}),
        (RULES, clock("10時31分07秒"), {"system[0]"}),
        (RULES, clock("20261129_103107"), {"system[0]"}),
        (RULES, clock("1795974480"), {"system[0]"}),
        (RULES, clock("10:31"), None),
        (RULES, clock("Sunday, 2026-11-29"), None),
        (RULES, clock("29.11.26"), None),
        (RULES, RULES + "Answer in 30 lines, of 1,200 words.\n", None),
        (clock("09:12:40"), clock("10:31:07"), None),
    ],
)
def test_a_clock_of_seconds_says_where_time_is_to_go_by(was: str, now: str, places: set[str] | None) -> None:
    found = clocked(run_of((was, now), (was, now)))
    assert [one.places for one in found] == ([places] * 2 if places else [])
    assert clocked(run_of((was, now))) == [], "one turn has none to differ from"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (("103107", "103108"), {"It is 000000."}),
        (("103107", "520850"), {"It is 103107.", "It is 520850."}),
        (("520850", "103107", "214501"), {"It is 520850.", "It is 103107.", "It is 214501."}),
        (("10:31:07 after step 1", "10:31:08 after step 2"), None),
    ],
)
def test_a_number_that_looks_like_a_time_is_none_where_another_turn_has_another_number(
    values: Sequence[str], told: set[str] | None
) -> None:
    pairs = run_of(*((RULES, clock(value)) for value in values))
    timed = timed_as_recorded(pairs)
    prompts = [timed.get(pair.index, pair.request.prompt) for pair in pairs]
    lines = {prompt.level("system")[0].content["text"].splitlines()[0] for prompt in prompts}
    assert lines == (told or {"It is 00:00:00 after step 1.", "It is 00:00:00 after step 2."})


@pytest.mark.parametrize(
    ("times", "told"),
    [
        (("10:31:00", "10:31:01", "10:31:02"), 'turn to turn (date or time): "It is 10:31:00.'),
        (("10:31:00", "10:31:00", "10:31:00"), None),
    ],
)
def test_turns_between_which_time_goes_by_differ_or_do_not(times: Sequence[str], told: str | None) -> None:
    suspect = Suspect(asked(RULES), asked(clock("09:00:07")), frozenset({"system[0]"}))
    found = ticking([(suspect, asked(clock(time))) for time in times])
    assert told in found if found and told else found is told


NOW = clock("17:40:21")
TOLD = (clock("09:12:40"), clock("09:12:43"))


@pytest.mark.parametrize(
    ("turns", "to_the_cache"),
    [
        pytest.param([(TOLD[0], NOW), (TOLD[1], NOW)], [*TOLD], id="the same agent"),
        pytest.param(
            [(TOLD[0], f"{NOW}Be kind."), (TOLD[1], f"{NOW}Be kind.")],
            [f"{TOLD[0]}Be kind.", f"{TOLD[1]}Be kind."],
            id="one rule more",
        ),
        pytest.param([(TOLD[0], NOW), (TOLD[0], NOW)], [TOLD[0]] * 2, id="within one second"),
        pytest.param([(TOLD[0], RULES), (TOLD[1], RULES)], [RULES, RULES], id="no clock any more"),
        pytest.param(
            [(TOLD[0], clock("17:40")), (TOLD[1], clock("17:40"))],
            [clock("00:00")] * 2,
            id="minutes",
        ),
        pytest.param(
            [("Step 1.\n" + RULES, "Step 1.\n" + RULES), ("Step 2.\n" + RULES, "Step 1.\n" + RULES)],
            ["Step 1.\n" + RULES, "Step 1.\n" + RULES],
            id="a counter",
        ),
        pytest.param([(TOLD[0], NOW), (TOLD[1], clock("17:40:22"))], [*TOLD], id="time went by"),
        pytest.param(
            [(TOLD[0], NOW), (TOLD[0], clock("17:40:22"))], [TOLD[0]] * 2, id="a second ended in replay"
        ),
        pytest.param(
            [(RULES, clock("9:59")), (RULES, clock("10:00"))], [clock("00:00")] * 2, id="a minute ended"
        ),
        pytest.param(
            [(RULES, clock("1795974480")), (RULES, clock("1795974481"))],
            [clock("0000000000")] * 2,
            id="seconds since 1970",
        ),
        pytest.param(
            [(RULES, clock("10:31:07.125")), (RULES, clock("10:31:07.250"))],
            [clock("10:31:07.125"), clock("10:31:07.250")],
            id="a fraction differs in every replay",
        ),
        pytest.param(
            [(TOLD[0], f"Be kind.\n{NOW}Open till 17:30.") for _ in range(2)],
            [f"Be kind.\n{TOLD[0]}Open till 00:00."] * 2,
            id="an edit with a time of its own",
        ),
    ],
)
def test_the_cache_is_asked_with_the_time_of_the_recording(
    turns: Sequence[tuple[str, str]], to_the_cache: Sequence[str]
) -> None:
    pairs = run_of(*turns)
    timed = timed_as_recorded(pairs)
    prompts = [timed.get(pair.index, pair.request.prompt) for pair in pairs]
    assert prompts == [*map(asked, to_the_cache)]


@pytest.mark.parametrize(
    ("was", "first", "second", "proved"),
    [
        pytest.param(RULES, clock("10:31:07"), clock("10:31:08"), False, id="a second ended"),
        pytest.param(RULES, clock("9:59"), clock("10:00"), False, id="a minute ended"),
        pytest.param(clock("09:12"), clock("10:31"), clock("10:32"), False, id="the same agent"),
        pytest.param(RULES, clock("10:31:07.125"), clock("10:31:07.250"), True, id="fractions"),
        pytest.param(RULES, "Step 1.\n" + RULES, "Step 2.\n" + RULES, True, id="a counter"),
        pytest.param(RULES, clock("10:31") + "Step 1.", clock("10:31") + "Step 2.", True, id="both"),
        pytest.param(RULES, RULES + "Run 9f2c41d0.", RULES + "Run 77b0c2aa.", True, id="an id"),
    ],
)
def test_what_a_slow_machine_changes_between_two_turns_is_no_proof(
    was: str, first: str, second: str, proved: bool
) -> None:
    pairs = run_of((was, first), (was, second))
    assert proved_volatile(pairs) == (frozenset({0, 1}) if proved else frozenset())
    if not proved:
        assert len(clocked(pairs)) == (2 if was == RULES else 0), "the second replay decides"


def test_in_the_second_replay_time_goes_by_and_proves() -> None:
    pairs = run_of((RULES, clock("10:31:07")), (RULES, clock("10:31:08")))
    assert proved_volatile(pairs, time_goes_by=True) == {0, 1}
    assert timed_as_recorded(pairs, time_goes_by=True) == {}


@pytest.mark.parametrize(
    ("was", "now", "given"),
    [
        ("At 10:38:01, Z.", "At 11:05:09, Z.", "At 10:38:01, Z."),
        ("At 9:59:01, Z.", "At 11:05:09, Z.", "At 9:59:01, Z."),
        ("T 1795974480\n", "T 1795979999\n", "T 1795974480\n"),
        ("10:38:00 a 10:38:01", "11:05:09 a b 11:05:09", "10:38:00 a b 10:38:01"),
        ("At 10:38:01.", "At 11:05.", "At 11:05."),
        ("At 10:38:01.", "Late.", "Late."),
        ("At noon.", "At 11:05:09.", "At 11:05:09."),
        ("2026-11-29 10:38:01", "2026-11-30 11:05:09", "2026-11-30 10:38:01"),
        ("At 10:38:01.125", "At 11:05:09.250", "At 11:05:09.250"),
    ],
)
def test_a_time_of_the_same_form_is_given_back(was: str, now: str, given: str) -> None:
    assert with_times_of(was, now) == given


@pytest.mark.parametrize(
    ("was", "now", "volatile"),
    [
        pytest.param(clock("10:38:01"), clock("10:38:01"), True, id="the same"),
        pytest.param(RULES + "Run 9f2c41d0.", RULES + "Run 77b0c2aa.", True, id="another id"),
        pytest.param(RULES + "Run 9f2c41d0.", "Be kind.\n" + RULES + "Run 77b0c2aa.", True, id="a rule more"),
        pytest.param(RULES + "Run 9f2c41d0.", "Be kind.\n" + RULES + "Run 9f2c41d0.", True, id="by chance"),
        pytest.param(RULES + "Run 9f2c41d0.", RULES, False, id="no id any more"),
        pytest.param(clock("10:38:01"), "It is late.\n" + RULES, False, id="no clock any more"),
        pytest.param(RULES + "Worker 31877", RULES + "Worker 4021", True, id="another number"),
        pytest.param(RULES + "Worker 31877", RULES + "Worker", False, id="no number any more"),
    ],
)
def test_what_was_accepted_as_volatile_is_it_while_it_has_a_value(was: str, now: str, volatile: bool) -> None:
    assert is_still_volatile(asked(was), asked(now)) == volatile


def test_tools_in_another_order_than_the_accepted_one_are_as_volatile() -> None:
    assert is_still_volatile(asked(RULES, "a b c"), asked(RULES, "c a b"))


@pytest.mark.parametrize(
    ("was", "now", "elsewhere", "proved"),
    [
        pytest.param(RULES, clock("10:31:07"), clock("10:38:20"), True, id="a clock"),
        pytest.param(RULES, RULES + "Run 9f2c41d0.", RULES + "Run 77b0c2aa.", True, id="an id"),
        pytest.param(RULES, RULES + "Host: brave-otter", RULES + "Host: calm-fox", True, id="a host"),
        pytest.param(clock("09:11:40"), clock("10:31:07"), clock("10:38:20"), False, id="as accepted"),
        pytest.param(
            f"At 09:11:40\n{RULES}", clock("10:31:07"), clock("10:38:20"), False, id="a clock there already"
        ),
        pytest.param(
            RULES + "Host: calm-otter",
            RULES + "Host: old-heron",
            RULES + "Host: shy-fox",
            False,
            id="a host there already",
        ),
        pytest.param(
            RULES + "It is forbidden to shout.",
            RULES + "It is 10:31:07.",
            RULES + "It is 10:38:20.",
            True,
            id="words there",
        ),
        pytest.param(RULES, RULES + "It is 2026-11-29.", RULES + "It is 2026-11-29.", None, id="a date"),
        pytest.param(RULES, RULES + "Use 3 lines.", RULES + "Use 3 lines.", None, id="an edit"),
    ],
)
def test_a_second_replay_is_asked_of_both_sides(
    was: str, now: str, elsewhere: str, proved: bool | None
) -> None:
    (suspect,) = suspected(asked(was), asked(now))
    shown = experiment(suspect, asked(elsewhere), lambda names: False)
    assert (shown.differs is not None) == (proved is not None)
    assert proved is None or shown.on_both_sides == (not proved)


@pytest.mark.parametrize("lasts", [True, False])
def test_another_order_proves_what_was_in_a_lasting_one(lasts: bool) -> None:
    """Where nobody knows that the accepted order lasts, an unchanged agent would fail for ever."""
    was, now, other = (asked(RULES, names) for names in ("a b c", "b c a", "c a b"))
    (suspect,) = suspected(was, now)
    asked_of: list[tuple[str, ...]] = []

    def known(names: tuple[str, ...]) -> bool:
        asked_of.append(names)
        return lasts

    shown = experiment(suspect, other, known)
    assert shown.differs is not None
    assert shown.differs == 'tools differ from process to process (another order): "b, c, a" and "c, a, b"'
    assert shown.on_both_sides == (not lasts)
    assert asked_of == [("a", "b", "c")]
