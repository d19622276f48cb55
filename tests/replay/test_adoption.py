"""Suites that have cassettes of their own: metered as they are, and none of it breaks."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest
import vcr
import yaml
from vcr.cassette import Cassette

from pytest_tokenbudget.errors import ReplayMiss
from pytest_tokenbudget.model import Rate, Tokens, Usage
from pytest_tokenbudget.replay.cassette_file import Interaction
from pytest_tokenbudget.replay.credentials import STAND_IN
from pytest_tokenbudget.replay.playback import Ledger, Ledgers, Rules
from pytest_tokenbudget.replay.vcr_bridge import adopt, route
from support.blocks import body
from support.clients import COMMAND, MODEL, is_faithful, sdk
from support.messages_api import ApiError, Charge, MessagesApi

BRIEF, KIND = "Be brief.", "Be brief and kind."
URL = "http://127.0.0.1:9"


@pytest.fixture
def ledgers() -> Iterator[list[Ledger]]:
    """Of the cassettes that the test opens."""
    made: list[Ledger] = []

    def ledger_of(path: str, interactions: Sequence[Interaction], rules: Rules) -> Ledger:
        made.append(Ledger("test_it", COMMAND, interactions, rules))
        return made[-1]

    with adopt(ledger_of):
        yield made


@pytest.fixture
def cassette(tmp_path: Path) -> Path:
    """A user's cassette of two questions and something else, made by vcrpy alone."""
    path = tmp_path / "cassettes" / "test_it.yaml"
    with MessagesApi(lambda body: f"You said: {body['messages'][-1]['content']}") as api:
        with vcr.use_cassette(str(path)):
            sdk(api.url, "Hello", BRIEF)
            sdk(api.url, "Bye", BRIEF)
            httpx2.get(f"{api.url}/_charges", headers={"x-api-key": "sk"}, timeout=600)
        path.write_text(path.read_text().replace(api.url, URL))
    return path


def usage_of(charge: Charge) -> Usage:
    used = charge.usage
    return Usage.of(Rate(MODEL), Tokens(used.input_tokens, output_tokens=used.output_tokens))


def hows(ledger: Ledger) -> list[str]:
    return [pair.how.value for pair in ledger.recording.pairs]


# --- every way to open a cassette -----------------------------------------------------------------


def through_a_context_manager(path: Path, play: Callable[[], None]) -> None:
    with vcr.use_cassette(str(path)):
        play()


def through_a_decorator(path: Path, play: Callable[[], None]) -> None:
    vcr.use_cassette(str(path), record_mode="none")(play)()


def through_an_instance(path: Path, play: Callable[[], None]) -> None:
    my_vcr = vcr.VCR(cassette_library_dir=str(path.parent), match_on=["method", "uri"], record_mode="none")
    with my_vcr.use_cassette(path.name) as cassette:
        play()
    assert cassette.play_count == 2
    assert len(cassette) == 3


def through_an_injected_cassette(path: Path, play: Callable[[], None]) -> None:
    @vcr.use_cassette(str(path), inject_cassette=True)
    def test(cassette: Cassette) -> None:
        play()
        assert cassette.play_count == 2

    test()


def through_a_subclass(path: Path, play: Callable[[], None]) -> None:
    class Loud(Cassette):  # type: ignore[misc]
        @classmethod
        def load(cls, **options: Any) -> Loud:
            return super().load(**options)

    with Loud.use(path=str(path), record_mode="none"):
        play()


WAYS = [
    through_a_context_manager,
    through_a_decorator,
    through_an_instance,
    through_an_injected_cassette,
    through_a_subclass,
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("system", [BRIEF, KIND])
def test_every_way_to_open_a_cassette_is_metered(
    way: Callable[[Path, Callable[[], None]], None], system: str, cassette: Path, ledgers: list[Ledger]
) -> None:
    before, heard = cassette.read_bytes(), []
    way(cassette, lambda: heard.extend(sdk(URL, words, system) for words in ("Bye", "Hello")))
    assert heard == ["You said: Bye", "You said: Hello"]
    (ledger,) = ledgers
    assert hows(ledger) == (["exact"] * 2 if system == BRIEF else ["similar"] * 2)
    assert is_faithful(ledger)
    assert cassette.read_bytes() == before


def test_a_decorator_that_took_the_class_before(cassette: Path) -> None:
    decorate = vcr.use_cassette(str(cassette), record_mode="none")
    made: list[Ledger] = []

    def ledger_of(path: str, interactions: Sequence[Interaction], rules: Rules) -> Ledger:
        made.append(Ledger("test_it", COMMAND, interactions, rules))
        return made[-1]

    with adopt(ledger_of):
        decorate(lambda: sdk(URL, "Hello", KIND))()
    assert [hows(ledger) for ledger in made] == [["similar"]]
    with pytest.raises(anthropic.APIConnectionError):  # vcr's own again, which has no match_on body
        decorate(lambda: [sdk(URL, "Hello", KIND) for _ in range(3)])()


def test_nested_cassettes_each_have_their_ledger(cassette: Path, ledgers: list[Ledger]) -> None:
    with vcr.use_cassette(str(cassette)):
        sdk(URL, "Hello", BRIEF)
        with vcr.use_cassette(str(cassette)):
            sdk(URL, "Bye", BRIEF)
    assert [hows(ledger) for ledger in ledgers] == [["exact"], ["exact"]]
    assert [len(ledger.recording.unplayed) for ledger in ledgers] == [1, 1]


def test_a_cassette_of_the_user_inside_a_scenario(cassette: Path, ledgers: list[Ledger]) -> None:
    scenario, own = Ledger("scenario", COMMAND), Ledgers()
    with route(own), own.using(scenario):
        with vcr.use_cassette(str(cassette)):
            sdk(URL, "Hello", BRIEF)
        with pytest.raises(ReplayMiss, match="scenario: the recording has no answer"):
            sdk(URL, "Bye", BRIEF)
    assert hows(ledgers[0]) == ["exact"]


# --- what the user has configured -----------------------------------------------------------------


def test_other_traffic_is_matched_and_missed_as_the_user_has_it(
    cassette: Path, ledgers: list[Ledger]
) -> None:
    with vcr.use_cassette(str(cassette), record_mode="none"):
        assert httpx2.get(f"{URL}/_charges", timeout=600).status_code == 200
        with pytest.raises(vcr.errors.CannotOverwriteExistingCassetteException):
            httpx2.get(f"{URL}/_charges", timeout=600)
    assert ledgers[0].problems == []


def test_filters_see_the_request_before_it_is_compared(tmp_path: Path, ledgers: list[Ledger]) -> None:
    """A filter that takes out what differs on every run keeps the request the same to the letter."""
    path, today = tmp_path / "test_it.yaml", iter(("2026-01-01", "2026-02-02"))

    def without_date(request: Any) -> Any:
        request.body = request.body.replace(b"2026-01-01", b"DATE").replace(b"2026-02-02", b"DATE")
        request.uri = "https://hidden/"
        return request

    options: Any = {"before_record_request": without_date, "filter_headers": ["authorization"]}
    with MessagesApi(lambda body: "Hello") as api:
        for _ in range(2):
            with vcr.use_cassette(str(path), **options):
                sdk(api.url, "Hello", f"Today is {next(today)}.")
    second = ledgers[1]
    assert [len(ledger.calls) for ledger in ledgers] == [1, 0]
    assert hows(second) == ["exact"]


def test_filters_are_applied_as_often_as_vcr_does(cassette: Path, ledgers: list[Ledger]) -> None:
    """To a request that is recorded when it is written, and when it is read."""

    def marked(request: Any) -> Any:
        request.body = request.body.replace(b"Be brief.", b"Be brief!.")
        return request

    with MessagesApi(lambda body: "Hello") as api:
        for _ in range(2):
            with vcr.use_cassette(f"{cassette}.new", before_record_request=marked):
                sdk(api.url, "Hello", BRIEF)
    assert hows(ledgers[1]) == ["exact"]


class Zipped:
    """A persister of the user."""

    @staticmethod
    def load_cassette(path: str, serializer: Any) -> Any:
        text = gzip.decompress(Path(f"{path}.gz").read_bytes()).decode()
        return vcr.serialize.deserialize(text, serializer)

    @staticmethod
    def save_cassette(path: str, cassette: Any, serializer: Any) -> None:
        Path(f"{path}.gz").write_bytes(gzip.compress(vcr.serialize.serialize(cassette, serializer).encode()))


def test_the_users_persister_and_serializer_read_and_write(
    cassette: Path, tmp_path: Path, ledgers: list[Ledger]
) -> None:
    my_vcr = vcr.VCR(record_mode="none", serializer="json")
    my_vcr.register_persister(Zipped)
    text = json.dumps(vcr.serializers.yamlserializer.deserialize(cassette.read_text()))
    (tmp_path / "zipped.gz").write_bytes(gzip.compress(text.encode()))
    with my_vcr.use_cassette(str(tmp_path / "zipped")):
        sdk(URL, "Hello", KIND)
    assert hows(ledgers[0]) == ["similar"]


@pytest.mark.parametrize(
    "option",
    [
        {"ignore_localhost": True},
        {"ignore_hosts": ["127.0.0.1"]},
        {"before_record_request": lambda request: None if "messages" in request.path else request},
    ],
)
def test_options_that_hide_model_calls_are_refused_by_name(
    option: dict[str, Any], cassette: Path, ledgers: list[Ledger]
) -> None:
    expected = "an option of the cassette .* sends POST /v1/messages .* past it, unmetered"
    with vcr.use_cassette(str(cassette), **option), pytest.raises(ReplayMiss, match=expected):
        sdk(URL, "Hello", BRIEF)
    assert len(ledgers[0].problems) == 1


NO_SYSTEM: Any = {"filter_post_data_parameters": [("system", "HIDDEN")]}
NO_MESSAGES: Any = {"filter_post_data_parameters": ["messages"]}


def test_a_filter_that_hides_that_it_is_a_model_call_is_refused_by_name(
    cassette: Path, ledgers: list[Ledger]
) -> None:
    expected = "(filter_post_data_parameters or before_record_request) hides that POST /v1/messages"
    with vcr.use_cassette(str(cassette), **NO_MESSAGES), pytest.raises(ReplayMiss, match=re.escape(expected)):
        sdk(URL, "Hello", BRIEF)


@pytest.mark.parametrize(("length", "hides"), [(100, False), (2000, True)])
def test_a_filter_that_hides_a_part_of_the_prompt_is_doubted(
    length: int, hides: bool, cassette: Path, ledgers: list[Ledger]
) -> None:
    """Its answer is served all the same: nothing else in the test is at fault."""
    with vcr.use_cassette(str(cassette), **NO_SYSTEM):
        assert sdk(URL, "Hello", "x" * length) == "You said: Hello"
    (ledger,) = ledgers
    said = f"hides {length - 6:,} characters of the prompt"
    assert [said in problem for problem in ledger.problems] == [True] * hides


def test_real_calls_that_the_options_keep_from_the_cassette_count(
    tmp_path: Path, ledgers: list[Ledger]
) -> None:
    path = str(tmp_path / "new.yaml")
    with MessagesApi(lambda body: "Hello") as api, vcr.use_cassette(path, ignore_localhost=True):
        sdk(api.url, "Hello", BRIEF)
    assert not Path(path).exists()
    assert [exchange.answer.usage for exchange in ledgers[0].calls] == [usage_of(api.charges[0])]


@pytest.mark.skipif(not hasattr(vcr.patch, "PATCHER_NAMES"), reason="skip_patchers is an option of vcrpy 9")
def test_a_library_that_is_left_out_is_named(cassette: Path, ledgers: list[Ledger]) -> None:
    with vcr.use_cassette(str(cassette), skip_patchers=["boto3", "httplib2"]):
        pass
    (warning,) = ledgers[0].warnings
    assert "leaves out boto3, httplib2 (skip_patchers)" in warning


def test_drop_unused_requests_keeps_what_was_played(cassette: Path, ledgers: list[Ledger]) -> None:
    with vcr.use_cassette(str(cassette), drop_unused_requests=True):
        sdk(URL, "Bye", KIND)
    assert "You said: Bye" in cassette.read_text()
    assert "You said: Hello" not in cassette.read_text()


def test_a_run_that_broke_off_drops_nothing(cassette: Path, ledgers: list[Ledger]) -> None:
    before = cassette.read_bytes()
    with vcr.use_cassette(str(cassette), drop_unused_requests=True), contextlib.suppress(ReplayMiss):
        for _ in range(2):
            sdk(URL, "Bye", BRIEF)
    assert len(ledgers[0].recording.misses) == 1
    assert cassette.read_bytes() == before


def test_playback_repeats_are_served_and_each_is_a_turn(cassette: Path, ledgers: list[Ledger]) -> None:
    with vcr.use_cassette(str(cassette), allow_playback_repeats=True):
        for words in ("Hello", "Hello", "Bye", "Hello"):
            sdk(URL, words, KIND)
    (ledger,) = ledgers
    assert [pair.index for pair in ledger.recording.pairs] == [0, 2, 1, 3]
    assert len(ledger.recording.exchanges) == 4
    assert is_faithful(ledger)


def test_playback_repeats_answer_what_was_never_recorded(cassette: Path, ledgers: list[Ledger]) -> None:
    """As vcr does it: it never records a second answer that its `match_on` cannot tell from the first."""
    with vcr.use_cassette(str(cassette), allow_playback_repeats=True):
        said = [sdk(URL, words, BRIEF) for words in ("Hello", "Bye", "Whatever else there may be to say")]
    assert said == ["You said: Hello", "You said: Bye", "You said: Hello"]
    assert hows(ledgers[0]) == ["exact", "exact", "order"]
    assert is_faithful(ledgers[0])


def test_what_is_rewound_is_asked_and_counts_anew(cassette: Path, ledgers: list[Ledger]) -> None:
    with vcr.use_cassette(str(cassette)) as opened:
        for _ in range(2):
            sdk(URL, "Hello", BRIEF)
            sdk(URL, "Bye", BRIEF)
            opened.rewind()
    assert [hows(ledger) for ledger in ledgers] == [["exact", "exact"], ["exact", "exact"], []]


class Parsed:
    """A serializer that keeps bodies as structures."""

    @staticmethod
    def serialize(cassette: Any) -> str:
        for interaction in cassette["interactions"]:
            if interaction["request"]["body"]:
                interaction["request"]["body"] = json.loads(interaction["request"]["body"])
        return yaml.safe_dump(cassette)

    @staticmethod
    def deserialize(text: str) -> Any:
        cassette = yaml.safe_load(text)
        for interaction in cassette["interactions"]:
            if interaction["request"]["body"]:
                interaction["request"]["body"] = json.dumps(interaction["request"]["body"])
        return cassette


class Wrapped:
    """A serializer of the suite's own that keeps the text of bodies."""

    @staticmethod
    def serialize(cassette: Any) -> str:
        return json.dumps({"ours": cassette})

    @staticmethod
    def deserialize(text: str) -> Any:
        return json.loads(text)["ours"]


@pytest.mark.parametrize(
    ("serializer", "parses"), [(Parsed, True), (Wrapped, False), ("yaml", False), ("json", False)]
)
def test_a_serializer_that_parses_bodies_is_seen(
    serializer: Any, parses: bool, tmp_path: Path, ledgers: list[Ledger]
) -> None:
    library = vcr.VCR(record_mode="once")
    library.register_serializer("own", serializer)
    name = serializer if isinstance(serializer, str) else "own"
    with MessagesApi(lambda body: "Yes.") as api:
        for _ in range(2):
            with library.use_cassette(str(tmp_path / "it"), serializer=name):
                sdk(api.url, "Hello", BRIEF)
        assert len(api.charges) == 1
    assert [ledger.rules.sort_keys for ledger in ledgers] == [False, parses]
    assert hows(ledgers[-1]) == ["exact"]


def test_bodies_that_vcr_itself_keeps_as_structures_have_no_order_of_keys(
    cassette: Path, ledgers: list[Ledger]
) -> None:
    """As of aiohttp's `json=`."""
    held = yaml.safe_load(cassette.read_text())
    for interaction in held["interactions"][:2]:
        interaction["request"]["body"] = json.loads(interaction["request"]["body"])
    cassette.write_text(yaml.safe_dump(held))
    with vcr.use_cassette(str(cassette)):
        sdk(URL, "Hello", BRIEF)
        sdk(URL, "Bye", "Be kind.")
    (ledger,) = ledgers
    assert ledger.rules.sort_keys
    assert hows(ledger)[0] == "exact"
    was, now = ledger.recording.pairs[1].recorded.prompt, ledger.recording.pairs[1].request.prompt
    differing = [b.where for a, b in zip(was.blocks, now.blocks, strict=True) if a.digest != b.digest]
    assert differing == ["system[0]"]


@pytest.mark.parametrize("names", [["method", "body"], ["raw_body"], ["method", "uri", "own"]])
def test_match_on_is_honoured(names: list[str], cassette: Path, ledgers: list[Ledger]) -> None:
    def own(now: Any, recorded: Any) -> None:
        assert now.body == recorded.body

    library = vcr.VCR(match_on=names, record_mode="none")
    library.register_matcher("own", own)
    with library.use_cassette(str(cassette)):
        assert sdk(URL, "Bye", BRIEF) == "You said: Bye"
        assert sdk(URL, "Hello", KIND) == "You said: Hello"
        with pytest.raises(ReplayMiss) as raised:
            sdk(URL, "Hello", KIND)
    (ledger,) = ledgers
    ((asker, told),) = ledger.mismatches
    assert asker == "test_it"
    assert f"match_on lets no request of {cassette} answer it, for {names[-1]} differs." in told
    assert f"match_on: {names[-1]} differs at system[0], character 9. Record it: {COMMAND}" in told
    assert f"for {names[-1]} differs." in str(raised.value)
    assert ledger.problems == [str(raised.value)]
    assert hows(ledger) == ["exact", "similar"]
    assert ledger.recording.misses == ()


@pytest.mark.parametrize("mode", ["new_episodes", "once"])
def test_what_would_be_recorded_but_for_a_key_is_counted_as_what_is_refused(
    mode: str, cassette: Path, ledgers: list[Ledger]
) -> None:
    """A suite that records what is new cannot, where only a stand-in for a key is set."""
    url = "https://api.example.invalid"
    cassette.write_text(cassette.read_text().replace(URL, url))
    asked = body("Hello", system=KIND)

    def ask() -> httpx2.Response:
        return httpx2.post(f"{url}/v1/messages", json=asked, headers={"x-api-key": STAND_IN}, timeout=600)

    with vcr.use_cassette(str(cassette), record_mode=mode, match_on=["method", "body"]):
        assert "You said: Hello" in ask().text
        with pytest.raises(ReplayMiss):  # there is no other turn that it might be
            ask(), ask()
    (ledger,) = ledgers
    assert "match_on: body differs at system[0], character 9." in ledger.mismatches[0][1]
    assert hows(ledger)[0] == "similar"


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/models"])
def test_no_server_on_this_machine_is_shown_what_stands_in_for_a_key(
    api: MessagesApi, cassette: Path, ledgers: list[Ledger], path: str
) -> None:
    """A suite that records what is new calls no server with it, be it one of its own: nothing is recorded."""
    before = cassette.read_text()
    with (
        vcr.use_cassette(str(cassette), record_mode="new_episodes"),
        pytest.raises(ReplayMiss, match="what stands in for one in replay is shown to no server"),
    ):
        httpx2.post(f"{api.url}{path}", json=body("Bye"), headers={"x-api-key": STAND_IN})
    assert api.requests == []
    assert cassette.read_text() == before


@pytest.mark.parametrize("names", [["method", "uri"], ["method", "scheme", "host", "port", "path", "query"]])
def test_what_is_asked_at_another_address_is_refused_where_match_on_looks_at_it(
    names: list[str], cassette: Path, ledgers: list[Ledger]
) -> None:
    """As vcr does: there is no change to count. The way out is not only another recording."""
    with (
        vcr.use_cassette(str(cassette), record_mode="none", match_on=names),
        pytest.raises(ReplayMiss) as raised,
    ):
        sdk("http://localhost:8/anthropic", "Bye", BRIEF)
    (ledger,) = ledgers
    assert not ledger.mismatches
    assert ledger.problems == [str(raised.value)]
    differing = "uri" if "uri" in names else "host, port and path"
    assert str(raised.value).endswith(
        f": it was recorded at {URL}/v1/messages. Set that base URL, or leave {differing} out of match_on. "
        f"Record it: {COMMAND}"
    )


def test_a_cassette_that_is_not_there_is_named(tmp_path: Path, ledgers: list[Ledger]) -> None:
    expected = "there is nothing in the cassette .*none.yaml, or it is not there"
    path = str(tmp_path / "none.yaml")
    with vcr.use_cassette(path, record_mode="none"), pytest.raises(ReplayMiss, match=expected):
        sdk(URL, "Hello", BRIEF)


DAMAGED: dict[str, Callable[[Any], Any]] = {
    "no status": lambda one: one["response"].pop("status"),
    "a status that is none": lambda one: one["response"]["status"].update(code=None),
    "no body": lambda one: one["response"].pop("body"),
    "a usage that is none": lambda one: one["response"]["body"].update(string='{"usage": "REDACTED"}'),
    "a broken gzip": lambda one: one["response"]["body"].update(string=b"\x1f\x8b?"),
    "no headers": lambda one: one["response"].update(headers=None),
    "messages that are none": lambda one: one["request"].update(body='{"model": 5, "messages": "none"}'),
    "a deep body": lambda one: one["request"].update(
        body='{"model": "m", "messages": ' + "[" * 9999 + "]" * 9999 + "}"
    ),
    "batch results that are none": lambda one: one["request"].update(
        method="GET", uri=f"{URL}/v1/messages/batches/msgbatch_1/results", body=None
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_cassette_opens_as_it_does_without_the_plugin(
    damage: str, cassette: Path, ledgers: list[Ledger]
) -> None:
    recorded = vcr.serializers.yamlserializer.deserialize(cassette.read_text())
    DAMAGED[damage](recorded["interactions"][0])
    cassette.write_text(vcr.serializers.yamlserializer.serialize(recorded))
    with vcr.use_cassette(str(cassette), record_mode="none"):
        assert httpx2.get(f"{URL}/_charges", timeout=600).status_code == 200
    assert len(ledgers[0].problems) == (damage == "batch results that are none")


def test_answers_are_served_as_they_were_recorded(tmp_path: Path, ledgers: list[Ledger]) -> None:
    """Compression and waits included, for a suite may look at them; in another framing only if need be."""
    path = tmp_path / "gzip.yaml"
    with MessagesApi(lambda body: "Hello", gzip=True) as api:
        api.fail_next(ApiError(429, retry_after=30))

        def ask(**more: Any) -> httpx2.Response:
            headers = {"x-api-key": "sk"}
            return httpx2.post(f"{api.url}/v1/messages", json=body(**more), headers=headers, timeout=600)

        with vcr.use_cassette(str(path)):
            recorded = [ask(), ask()]
        with vcr.use_cassette(str(path)):
            replayed = [ask(), ask()]
        with vcr.use_cassette(str(path)):
            streamed = [ask(stream=True), ask(stream=True)]
    assert [answer.headers for answer in recorded] == [answer.headers for answer in replayed]
    assert [answer.content for answer in recorded] == [answer.content for answer in replayed]
    assert replayed[0].headers["retry-after"] == "30"
    assert replayed[1].headers["content-encoding"] == "gzip"
    assert streamed[1].text.startswith("event: message_start")


# --- record modes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["none", "once"])
def test_a_miss_where_nothing_is_recorded(mode: str, cassette: Path, ledgers: list[Ledger]) -> None:
    with vcr.use_cassette(str(cassette), record_mode=mode), contextlib.suppress(ReplayMiss):
        for _ in range(2):
            sdk(URL, "Hello", BRIEF)
    assert len(ledgers[0].recording.misses) == 1


def test_what_the_user_records_is_metered_and_written_by_vcr(tmp_path: Path, ledgers: list[Ledger]) -> None:
    path = tmp_path / "test_it.yaml"
    with MessagesApi(lambda body: "Hello") as api:
        for _ in range(2):
            with vcr.use_cassette(str(path)):
                sdk(api.url, "Hello", BRIEF)
    assert len(api.charges) == 1
    recorded, replayed = ledgers
    assert [exchange.answer.usage for exchange in recorded.calls] == [
        pair.answer.usage for pair in replayed.recording.pairs
    ]
    assert hows(replayed) == ["exact"]


def test_new_episodes_replays_what_it_can_and_records_the_rest(tmp_path: Path, ledgers: list[Ledger]) -> None:
    path = tmp_path / "test_it.yaml"
    with MessagesApi(lambda body: "Hello") as api:
        for system, words in ((BRIEF, ["Hello"]), (KIND, ["Hello", "Bye"])):
            with vcr.use_cassette(str(path), record_mode="new_episodes"):
                for word in words:
                    sdk(api.url, word, system)
    assert len(api.charges) == 2
    assert hows(ledgers[1]) == ["similar"]
    assert len(ledgers[1].calls) == 1
    assert ledgers[1].recording.misses == ()


def test_new_episodes_plays_again_what_it_has_just_recorded(tmp_path: Path, ledgers: list[Ledger]) -> None:
    """As vcr does it; each is a turn."""
    path = tmp_path / "test_it.yaml"
    with MessagesApi(lambda body: "Hello") as api:
        for words in (["Bye"], ["Bye", "Hello", "Hello"]):
            with vcr.use_cassette(str(path), record_mode="new_episodes", match_on=["body"]):
                for word in words:
                    sdk(api.url, word, BRIEF)
    assert len(api.charges) == 2
    assert hows(ledgers[1]) == ["exact"]
    assert [exchange.answer.usage for exchange in ledgers[1].calls] == [usage_of(api.charges[1])] * 2


def test_an_exception_keeps_vcr_from_recording(tmp_path: Path, ledgers: list[Ledger]) -> None:
    path = tmp_path / "test_it.yaml"

    @vcr.use_cassette(str(path), record_on_exception=False)
    def ask() -> None:
        sdk(api.url, "Hello", BRIEF)
        raise ZeroDivisionError

    with MessagesApi(lambda body: "Hello") as api, pytest.raises(ZeroDivisionError):
        ask()
    assert not path.exists()
    assert len(ledgers[0].calls) == 1


def test_all_records_everything_anew(cassette: Path, ledgers: list[Ledger]) -> None:
    with MessagesApi(lambda body: "Hello") as api, vcr.use_cassette(str(cassette), record_mode="all"):
        sdk(api.url, "Hello", BRIEF)
    assert len(ledgers[0].calls) == 1
    assert ledgers[0].recording.pairs == ()


def test_adoptions_may_end_in_any_order(cassette: Path) -> None:
    before = Cassette.__dict__["load"]
    made: list[str] = []

    def called(name: str) -> Any:
        def ledger_of(path: str, interactions: Sequence[Interaction], rules: Rules) -> Ledger:
            made.append(name)
            return Ledger(name, COMMAND, interactions, rules)

        return adopt(ledger_of)

    outer, inner = called("outer"), called("inner")
    outer.__enter__()
    inner.__enter__()
    for ending in (None, outer, inner):
        if ending:
            ending.__exit__(None, None, None)
        with vcr.use_cassette(str(cassette)):
            pass
    assert made == ["inner", "inner"]
    assert Cassette.__dict__["load"] is before
