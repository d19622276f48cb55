"""What kind of value differs between two texts."""

from __future__ import annotations

import pytest

from pytest_tokenbudget.diagnosis.values import Kind, is_reordered, kind_of_difference, values_in

D, U, P, C, R, T = Kind.DATE, Kind.ID, Kind.PATH, Kind.COUNTER, Kind.ORDER, Kind.TEXT

TABLE = [
    ("Now: 2026-11-21T10:00:01Z.", "Now: 2026-11-21T10:00:07Z.", D),
    ("Now: 2026-11-21 10:00:01.123+02:00", "Now: 2026-11-21 10:00:01.987+02:00", D),
    ("Today is Nov 21, 2026.", "Today is Nov 22, 2026.", D),
    ("Today is 21 November 2026", "Today is 1 December 2026", D),
    ("Tue, 21 Nov 2026 10:00:00 GMT", "Wed, 22 Nov 2026 10:00:00 GMT", D),
    ("Sat Nov 21 21:19:14 2026", "Sat Nov 21 21:19:15 2026", D),
    ("It is Monday.", "It is Tuesday.", D),
    ("Date: 21.11.2026", "Date: 22.11.2026", D),
    ("Date: 11/21/26", "Date: 11/22/26", D),
    ("at 10:02 AM", "at 11:59 PM", D),
    ("t=1763720000", "t=1763720055", D),
    ("t=1763720000123", "t=1763720000456", D),
    ("build 20261121", "build 20261122", D),
    ("in 2025 we", "in 2026 we", D),
    ("Sonntag, 22. November 2026", "Montag, 23. November 2026", D),
    ("le dimanche 22 novembre 2026", "le lundi 23 novembre 2026", D),
    ("22 de noviembre de 2026", "23 de noviembre de 2026", D),
    ("22 ноября 2026 г.", "23 ноября 2026 г.", D),
    ("2026年11月22日", "2026年11月23日", D),
    ("22-Nov-2026", "23-Nov-2026", D),
    ("2026-W47-7", "2026-W48-1", D),
    ("Q4 2026", "Q1 2027", D),
    ("10h15", "10h16", D),
    ("um 10.15 Uhr", "um 11.15 Uhr", D),
    ("Es ist Mittwoch.", "Es ist Freitag.", D),
    ("id 3f2b8c1e-0d6a-4f5e-9c1b-2a3d4e5f6a7b", "id 9a2b8c1e-0d6a-4f5e-9c1b-2a3d4e5f6a70", U),
    ("session sess_8Fk2LmQ9 go", "session sess_A1k2LmZ0 go", U),
    ("trace a8f3c2d1", "trace 77f3c2d1", U),
    ("<Box at 0x7f3a12b0>", "<Box at 0x7f3b99c4>", U),
    ("ULID 01HF8ZQ9", "ULID 01HF8ZQA", U),
    ("[47442edf]", "[41729853]", U),
    ("rev 5955580", "rev a12c90d", U),
    ("id -V1StGXR8Z5jdHi6BmyT", "id _Q2StGXR8Z5jdHi6BmyT", U),
    ("session: brave-otter", "session: calm-fox", U),
    ("request_id=deadbeef", "request_id=cafebabe", U),
    ("Turn 3 of", "Turn 4 of", C),
    ("Turn 9", "Turn 10", C),
    ("Turn 1", "Turn 12", C),
    ("You have 4,812 tokens", "You have 991 tokens", C),
    ("Request #7", "Request #8", C),
    ("weights: 0.5", "weights: 0.7", C),
    ("on runner-1 today", "on runner-2 today", C),
    ("after PT1H3M", "after PT1H4M", C),
    ("ISO9001 is met", "ISO14001 is met", C),
    ("cwd /home/a/x", "cwd /home/b/x", P),
    ("tmp /tmp/tmpab12cd/x", "tmp /tmp/tmpzz99cd/x", P),
    ("in C:\\Users\\a\\x", "in C:\\Users\\b\\x", P),
    ("see http://10.0.0.1:80/a", "see http://10.0.0.2:80/a", P),
    ("from 10.0.0.1", "from 10.0.0.12", P),
    ("from fe80::1ff:fe23:4567:890a", "from fe80::1ff:fe23:4567:890b", P),
    ("card 00:1a:2b:3c:4d:5e", "card 00:1a:2b:3c:4d:5f", P),
    ("read src/agent/a.py", "read src/agent/b.py", P),
    ("on web-1.internal", "on web-2.internal", P),
    ("Host: alpha", "Host: beta", P),
    ("a b c", "c b a", R),
    ('{"a":1,"b":[1,2]}', '{"b":[2,1],"a":1}', R),
    ("- one\n- two\n- three", "- three\n- one\n- two", R),
    ("Session 9d2b", "Session 1fe8", U),
    ("Ref nreuh", "Ref qffxe", U),
    ("# Trace d588", "# Trace 0891", U),
    ("Each request must be read.", "Each request should be read.", T),
    ("be kind", "be rude", T),
    ("Answer in German.", "Answer in French.", T),
    ("You may do", "You can do", T),
    ("Sun is up", "Moon is up", T),
    ("", "a whole text", T),
]


@pytest.mark.parametrize(("was", "now", "kind"), TABLE)
def test_kind(was: str, now: str, kind: Kind) -> None:
    assert kind_of_difference(was, now) == kind
    if was:
        assert kind_of_difference(now, was) == kind, "either way round"


@pytest.mark.parametrize(("was", "now", "kind"), TABLE)
def test_kind_in_the_middle_of_a_prompt(was: str, now: str, kind: Kind) -> None:
    if kind == R:
        return  # JSON inside of other text is text
    around = "You are helpful.\n{}\nYou are the agent of a shop that was founded in 1998. Be brief.\n"
    assert kind_of_difference(around.format(was), around.format(now)) == kind


def test_values_of_an_addition() -> None:
    text = "May I? At 2026-11-21T10:00:00Z, session 3f2b8c1e-0d6a-4f5e-9c1b-2a3d4e5f6a7b, in /tmp/x, 3 times."
    assert values_in(text) == [
        (D, "2026-11-21T10:00:00Z"),
        (U, "3f2b8c1e-0d6a-4f5e-9c1b-2a3d4e5f6a7b"),
        (P, "/tmp/x"),
    ]


def test_the_same_is_not_reordered() -> None:
    assert not is_reordered("a b", "a b")
    assert not is_reordered("a b", "a c")
    assert not is_reordered('{"a": 1}', '{"a": 2}')
