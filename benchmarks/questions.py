"""A person's ten questions, as the README asks them, of a history of a million jobs.

    python -m benchmarks.questions [--jobs 1000000] [--folder DIR] [--shell]

Each is asked five times, each time over a fresh connection; the median counts. ``--shell`` runs the ``sqlite3`` program
for each question instead, so that its start counts too. Making the history takes some minutes; a folder keeps it.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sqlite3
import statistics
import subprocess
import tempfile
import time
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.long_history import make

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

README = Path(__file__).parents[1] / "README.md"
LIMIT_MS = 200.0


def of_the_readme() -> dict[str, str]:
    """Question to select: those of the section "Ten questions", word for word."""
    section = README.read_text(encoding="utf-8").partition("\n## Ten questions\n")[2].partition("\n## ")[0]
    sql = "\n".join(re.findall(r"^```sql\n(.*?)^```", section, re.DOTALL | re.MULTILINE))
    return {
        found[1].strip(): found[2].strip()
        for found in re.finditer(r"^-- (.+?\?)[^\n]*\n(.+?;)(?=\n\n|\n*\Z)", sql, re.DOTALL | re.MULTILINE)
    }


def midnight() -> datetime:
    """The end of today, by this clock: in a history up to then a whole day's jobs are today's."""
    return (datetime.now().astimezone() + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)


def in_python(path: Path, sql: str) -> Sequence[Any]:
    """The answer over a connection of its own."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


def in_the_shell(path: Path, sql: str) -> Sequence[Any]:
    """The answer as ``sqlite3 -readonly`` prints it."""
    return subprocess.run(
        ["sqlite3", "-readonly", str(path), sql], check=True, capture_output=True, text=True
    ).stdout.splitlines()


def measure(
    path: Path, ask: Callable[[Path, str], Sequence[Any]] = in_python, times: int = 5
) -> dict[str, tuple[float, int]]:
    """The median in milliseconds and the number of rows, by question."""
    measured = {}
    for question, sql in of_the_readme().items():
        taken = []
        for _ in range(times):
            begun = time.perf_counter()
            rows = len(ask(path, sql))
            taken.append((time.perf_counter() - begun) * 1000)
        measured[question] = (statistics.median(taken), rows)
    return measured


def main() -> int:
    """Make the history, ask, print; 1 when a question takes too long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the database is made (and kept)")
    parser.add_argument("--shell", action="store_true", help="ask the sqlite3 program")
    wanted = parser.parse_args()
    folder = wanted.folder or Path(tempfile.mkdtemp())
    path = folder / f"questions-{wanted.jobs}.db"
    try:
        if not path.exists():
            make(path, wanted.jobs, now=midnight())
        measured = measure(path, in_the_shell if wanted.shell else in_python)
    finally:
        if wanted.folder is None:
            shutil.rmtree(folder)
    for question, (taken, rows) in measured.items():
        print(f"{taken:9.1f} ms  {rows:6} rows  {question}")
    return int(any(taken > LIMIT_MS for taken, _ in measured.values()))


if __name__ == "__main__":
    raise SystemExit(main())
