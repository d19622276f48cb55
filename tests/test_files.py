"""Files are written whole or not at all, and what is no file is not replaced by one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_tokenbudget.files import Conflict, conflict_in, write_atomically


def test_makes_its_folder_and_replaces_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    for content in (b"one", b"two"):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_link_stays_one(tmp_path: Path) -> None:
    link, there = tmp_path / "link.yaml", tmp_path / "elsewhere" / "real.yaml"
    link.symlink_to(there)
    for content in (b"one", b"two"):
        write_atomically(link, content)
        assert link.is_symlink()
        assert there.read_bytes() == content


def test_a_folder_is_refused_and_left(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path, b"x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="needs /dev/stdout")
def test_a_device_is_written_to(tmp_path: Path) -> None:
    """As `-o /dev/stdout` in a container, where root could replace it for all that run there."""
    out = tmp_path / "stdout"
    out.symlink_to("/dev/stdout")
    code = (
        "import sys, pathlib; from pytest_tokenbudget.files import write_atomically as write;"
        "write(pathlib.Path(sys.argv[1]), b'whole')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(out)], capture_output=True, check=True, timeout=600
    )
    assert done.stdout == b"whole"
    assert out.is_symlink()


OURS, BASE, THEIRS = "<<<<<<< HEAD\n", "||||||| 1a2b3c\n", ">>>>>>> topic\n"


@pytest.mark.parametrize(
    ("text", "conflict"),
    [
        ("a\n=======\nb\n", None),
        (f"a\n{OURS}b\n=======\nc\n{THEIRS}d\n", Conflict(2, ("a\nb\nd\n", "a\nc\nd\n"), None)),
        (f"{OURS}b\n{BASE}=======\nc\n{THEIRS}", Conflict(1, ("b\n", "c\n"), "")),
        (
            f"{OURS}b\n{BASE}x\n=======\nc\n{THEIRS}d\n{OURS}e\n{BASE}y\n=======\nf\n{THEIRS}",
            Conflict(1, ("b\nd\ne\n", "c\nd\nf\n"), "x\nd\ny\n"),
        ),
        (f"{OURS}=======\r\nc\r\n{THEIRS}", Conflict(1, ("", "c\r\n"), None)),
        (f"a\n{OURS}b\n", Conflict(2, None, None)),
        (f"a\n{THEIRS}b\n", Conflict(2, None, None)),
        (f"{OURS}a\n=======\n{BASE}b\n{THEIRS}", Conflict(1, None, None)),
    ],
    ids=[
        "none",
        "two sides",
        "empty base",
        "with bases",
        "other line ends",
        "cut",
        "no begin",
        "out of order",
    ],
)
def test_the_sides_of_a_conflict(text: str, conflict: Conflict | None) -> None:
    assert conflict_in(text) == conflict
