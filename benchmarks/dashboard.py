"""How long the dashboard takes and how large it is: `dashboard.py [RUNS]`.

Scenarios of one to eight turns after a shared prompt grew: two of five over, some stale, new and improved.
`every` commit that changed every baseline is the worst that a history can be. Prints the median of RUNS.
"""

from __future__ import annotations

import gzip
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from tables import table

from pytest_tokenbudget.reports.dashboard import dashboard
from support.documents import many
from support.histories import history_of

CASES = [(20, 0, 0.0), (50, 40, 0.15), (500, 0, 0.0), (500, 100, 0.15), (500, 100, 1.0)]
"""Scenarios, commits, and the share of baselines that each commit changed."""


def main(runs: int) -> None:
    rows = []
    for scenarios, commits, share in CASES:
        document = many(scenarios)
        history = history_of(document, commits, share) if commits else None
        wall, cpu = [], []
        for _ in range(runs):
            began, used = time.perf_counter(), time.process_time()
            page = dashboard(document, history).encode()
            wall.append(time.perf_counter() - began)
            cpu.append(time.process_time() - used)
        rows.append(
            (
                scenarios,
                commits,
                "every" if share == 1 else f"{share:.0%}" if commits else "-",
                f"{median(wall):.2f}",
                f"{median(cpu):.2f}",
                f"{len(page) / 1e6:.2f}",
                f"{len(gzip.compress(page)) / 1e3:.0f}",
            )
        )
    print(table(("scenarios", "commits", "changed", "s", "CPU s", "MB", "KB gzipped"), rows))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
