"""The simulated prompt cache against real recordings, where they are at hand (`docs/prompt-cache.md`)."""

from __future__ import annotations

import os
import subprocess
import sys
from json import loads
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.whole_run

CORPUS = Path(os.environ.get("TOKENBUDGET_CORPUS", ROOT.parent / "shared" / "corpus"))


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if not CORPUS.is_dir():
        pytest.skip(f"no recordings at {CORPUS}; TOKENBUDGET_CORPUS names another place")
    pytest.importorskip("yaml")
    out = tmp_path_factory.mktemp("figures") / "cache.json"
    script = str(ROOT / "benchmarks" / "cache_accuracy.py")
    subprocess.run([sys.executable, script, str(CORPUS), "--json", str(out)], check=True, capture_output=True)
    found: dict[str, Any] = loads(out.read_text("utf-8"))
    return found


@pytest.mark.parametrize("table", ["cold", "both sides"])
def test_reads_and_writes_are_right_and_the_split_is_close(figures: dict[str, Any], table: str) -> None:
    its = figures[table]
    assert its["requests"] >= 100
    assert its["share_right"] >= 0.95
    assert its["split"]["largest of these"]["p90"] <= 0.03


def test_every_disagreement_has_a_cause(figures: dict[str, Any]) -> None:
    listed = [one for table in ("cold", "warm", "both sides") for one in figures[table]["disagreements"]]
    assert all(one["cause"] for one in listed)
