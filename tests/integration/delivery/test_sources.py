"""Sources leave the inbox through the history: what looks changed again and again is left there, and said once."""

from __future__ import annotations

import hashlib
import os
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from tests.integration.store.helpers import MODEL, NOW, OPTIONS, claim_one, start_run, succeed
from tests.runs import a_run
from watcherd.config import Config
from watcherd.delivery.sources import Sources
from watcherd.inbox.requests import IntakeRequests
from watcherd.inbox.values import signature_of
from watcherd.store import Database, NewArrival, PathSignature, arrivals

if TYPE_CHECKING:
    from pathlib import Path


def signature(path: Path) -> PathSignature:
    seen = path.stat()
    return PathSignature.at(os.fsencode(path.name), signature_of(seen), seen.st_ctime_ns)


def test_a_source_that_is_touched_all_the_time_stays_and_is_said_once(tmp_path: Path) -> None:
    """Each time it is taken from the inbox as it lies there, with the same bytes, and touched before it can leave."""
    scan = tmp_path / "inbox" / "a.png"
    scan.parent.mkdir()
    scan.write_bytes(b"the same bytes")
    sha256 = hashlib.sha256(b"the same bytes").hexdigest()
    config = Config.model_validate(
        {"inbox": {"path": str(scan.parent), "archive_path": str(tmp_path / "archive")}}, context={"base": tmp_path}
    )
    with Database.open(tmp_path / "watcherd.db") as database:
        sources = Sources(a_run(config, database), IntakeRequests())
        said: list[str] = []
        sources._log = cast("Any", type("Log", (), {"warning": lambda _, event, **__: said.append(event)})())
        run_id = database.write(start_run)
        for turn in range(4):
            found = signature(scan)
            with database.reader() as connection:
                if arrivals.known(connection, [found]):
                    break
            new = NewArrival(signature=found, sha256=sha256, spool_name=sha256, options=OPTIONS, seen_at=NOW)
            database.write(partial(arrivals.enqueue, arrivals=[new], model=MODEL, run_id=run_id, now=NOW))
            if turn == 0:
                database.write(lambda c: succeed(c, claim_one(c, run_id)))
            if turn < 2:
                os.utime(scan, ns=(turn, turn))
            sources.dispose()
        with database.reader() as connection:
            rows = connection.exec_driver_sql("SELECT disposal, present FROM arrival ORDER BY id").fetchall()
            assert {signature(scan)} == arrivals.known(connection, [signature(scan)])
    assert [("changed", 0), ("changed", 0), ("kept", 1)] == [tuple(row) for row in rows]
    assert ["source_left_in_inbox"] == said
    assert scan.read_bytes() == b"the same bytes"
