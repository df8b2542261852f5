"""How fast the inbox is: a sweep over many files, and small files copied durably into the spool.

    python benchmarks/ingest.py [--files 20000] [--folder DIR]

Prints one line for each figure. ``--folder`` chooses the file system; what else writes to it slows the syncs down.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

from watcherd.config import IGNORED_NAMES
from watcherd.inbox.archive import Source, dispose
from watcherd.inbox.folders import open_root
from watcherd.inbox.ingest import BATCH, take
from watcherd.inbox.settle import Settled
from watcherd.inbox.spool import Spool
from watcherd.inbox.sweep import IgnoreList, sweep
from watcherd.inbox.values import Ingested

SIZE = 4096


def make_files(inbox: Path, count: int) -> None:
    """Small files with bytes of their own, in a hundred folders."""
    for number in range(count):
        folder = inbox / f"{number % 100:02d}"
        if number < 100:
            folder.mkdir(parents=True)
        (folder / f"scan_{number:06d}.raw").write_bytes(number.to_bytes(8, "big") * (SIZE // 8))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        measure(Path(folder), chosen.files)


def measure(folder: Path, count: int) -> None:
    """Sweep, ingest and archive ``count`` files below ``folder``."""
    inbox = folder / "inbox"
    make_files(inbox, count)
    os.sync()
    root_fd = open_root(inbox)
    spool = Spool(folder / "spool")
    spool.prepare()

    start = time.perf_counter()
    found = [seen for chunk in sweep(root_fd, IgnoreList(IGNORED_NAMES)) for seen in chunk.candidates]
    report("sweep", len(found), start, 0.0)

    start, cpu = time.perf_counter(), time.process_time()
    taken: list[Ingested] = []
    for first in range(0, count, BATCH):
        batch = [Settled(candidate=seen, overdue=False) for seen in found[first : first + BATCH]]
        taken += [outcome for outcome in take(batch, root_fd, spool) if isinstance(outcome, Ingested)]
    assert count == len(taken)
    report("ingest, durable", count, start, cpu)

    start, cpu = time.perf_counter(), time.process_time()
    for first in range(0, count, BATCH):
        sources = [
            Source(path=scan.path, signature=scan.signature, sha256=scan.sha256, how="archive", ctime_ns=scan.ctime_ns)
            for scan in taken[first : first + BATCH]
        ]
        assert {"archived"} == {done.result for done in dispose(sources, inbox=inbox, archive=folder / "archive")}
    report("archive, durable", count, start, cpu)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MiB, the lists of this script included")
    os.close(root_fd)


def report(what: str, count: int, start: float, cpu: float) -> None:
    """One line of figures."""
    seconds = time.perf_counter() - start
    line = f"{what}: {count} files in {seconds:.2f} s, {count / seconds:,.0f} a second"
    print(line + (f", {(time.process_time() - cpu) / count * 1000:.2f} ms of CPU each" if cpu else ""))


if __name__ == "__main__":
    main()
