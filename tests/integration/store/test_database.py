"""One thread writes, durably; whoever reads never disturbs it; whatever goes wrong leaves a database that works."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.integration.store.helpers import IN_USE, NOW, claim_one, damage_quietly, enqueue, scan, start_run, succeed
from watcherd.errors import StaleJobError, StoreError
from watcherd.store import CorruptDatabaseError, Database, StoreUnavailableError, Turn, history, queue, reader, runs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Connection


def put(key: str, value: str = "x") -> object:
    return lambda connection: runs.set_setting(connection, key, value)


def settings(path: Path) -> set[str]:
    with reader(path) as connection:
        return set(connection.exec_driver_sql("SELECT key FROM setting").scalars())


def held(database: Database) -> threading.Event:
    """Keep the writing thread busy until the event is set, so that what is submitted meanwhile comes together."""
    release = threading.Event()
    started = threading.Event()

    def wait(_: Connection) -> None:
        started.set()
        release.wait(30)

    database.submit(wait)
    started.wait(30)
    return release


def test_what_was_written_is_there_for_a_reader_at_once(database: Database, path: Path) -> None:
    database.write(put("a"))
    assert settings(path) == {"a"}


def test_works_that_come_together_share_a_transaction(database: Database) -> None:
    """One sync for all of them."""
    release = held(database)
    begun = [database.submit(lambda connection: id(connection.get_transaction())) for _ in range(20)]
    release.set()
    assert len({future.result() for future in begun}) == 1


def test_what_is_to_be_done_soon_goes_first_and_is_committed_before_others(database: Database) -> None:
    """Whoever waits for a little does not wait for the long works behind it, nor for what nobody waits for."""
    release, done = held(database), []

    def note(name: str) -> Callable[[Connection], int]:
        return lambda connection: done.append(name) or id(connection.get_transaction())

    turns = {"later": Turn.LATER, "one": Turn.NORMAL, "another": Turn.NORMAL, "soon": Turn.SOON, "too": Turn.SOON}
    begun = {name: database.submit(note(name), turn=turn) for name, turn in turns.items()}
    release.set()
    transactions = {name: future.result() for name, future in begun.items()}
    assert done == ["soon", "too", "one", "another", "later"]
    assert transactions["soon"] == transactions["too"] != transactions["one"]


def test_a_long_transaction_is_committed_before_it_grows_longer(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watcherd.store.database.GROUP_SECONDS", 0.0)
    release = held(database)
    begun = [database.submit(lambda c: c.get_transaction()) for _ in range(3)]
    release.set()
    assert len({id(future.result()) for future in begun}) == 3


def test_a_transaction_that_cannot_be_begun_fails_who_waits_for_it(
    database: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those behind it get the next one."""
    begin = database._connection.begin
    refusals = [sqlite3.OperationalError("disk I/O error")]

    def refuse() -> object:
        if refusals:
            raise refusals.pop()
        return begin()

    monkeypatch.setattr(database._connection, "begin", refuse)
    with pytest.raises(StoreError, match="disk I/O error"):
        database.write(put("a"))
    database.write(put("b"))
    assert settings(path) == {"b"}


def test_a_work_that_fails_undoes_only_its_own_doing(database: Database, path: Path) -> None:
    def fails(connection: Connection) -> None:
        runs.set_setting(connection, "bad", "x")
        raise StaleJobError("moved")

    release = held(database)
    before, bad, after = database.submit(put("a")), database.submit(fails), database.submit(put("b"))
    release.set()
    before.result()
    after.result()
    with pytest.raises(StaleJobError):
        bad.result()
    assert settings(path) == {"a", "b"}


def test_many_threads_may_write_at_once(database: Database, path: Path) -> None:
    def work(number: int) -> None:
        for step in range(25):
            database.write(put(f"{number}-{step}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(settings(path)) == 200


def test_many_threads_claim_each_job_once(database: Database) -> None:
    run_id = database.write(start_run)
    database.write(lambda c: enqueue(c, run_id, *(scan(f"{number}.png") for number in range(100))))
    claimed: list[int] = []

    def work() -> None:
        while jobs := database.write(lambda c: queue.claim(c, run_id=run_id, limit=3, now=NOW, in_use=IN_USE)):
            claimed.extend(job.id for job in jobs)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == list(range(1, 101))


def test_a_cancelled_future_is_never_run(database: Database, path: Path) -> None:
    release = held(database)
    future = database.submit(put("a"))
    assert future.cancel()
    release.set()
    database.write(put("b"))
    assert settings(path) == {"b"}


def test_a_full_disk_is_said_to_pass_and_the_work_may_be_repeated(database: Database, path: Path) -> None:
    """SQLite's own limit of pages stands for the disk: the error is the same."""
    database._connection.connection.dbapi_connection.execute("PRAGMA max_page_count = 70").close()
    with pytest.raises(StoreUnavailableError, match="Make room") as caught:
        database.write(put("a", "x" * 2_000_000))
    assert caught.value.transient
    database._connection.connection.dbapi_connection.execute("PRAGMA max_page_count = 100000").close()
    database.write(put("a", "x" * 2_000_000))
    assert settings(path) == {"a"}


def test_a_full_disk_fails_all_that_shared_the_transaction_and_loses_nothing_before(
    database: Database, path: Path
) -> None:
    database.write(put("before"))
    database._connection.connection.dbapi_connection.execute("PRAGMA max_page_count = 70").close()
    release = held(database)
    small, large = database.submit(put("small")), database.submit(put("large", "x" * 2_000_000))
    release.set()
    for future in (small, large):
        with pytest.raises(StoreUnavailableError):
            future.result()
    assert settings(path) == {"before"}


FILE_LIMIT = """
import resource, signal, sys
from pathlib import Path
from watcherd.store import Database, StoreUnavailableError, runs
path = Path(sys.argv[1])
database = Database.open(path)
database.write(lambda c: runs.set_setting(c, "before", "x"))
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100_000, hard))
for _ in range(3):
    try:
        database.write(lambda c: runs.set_setting(c, "large", "x" * 5_000_000))
    except StoreUnavailableError as error:
        assert error.transient
    else:
        raise SystemExit("the limit did not bite")
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
database.write(lambda c: runs.set_setting(c, "after", "x"))
database.close()
"""


def test_writes_that_the_system_refuses_pass(path: Path) -> None:
    """A limit on the size of files makes write(2) itself fail, in the middle of a commit."""
    subprocess.run([sys.executable, "-c", FILE_LIMIT, path], check=True, timeout=60)
    assert settings(path) == {"before", "after"}


def test_a_person_who_reads_does_not_disturb_the_writer(database: Database, path: Path) -> None:
    """An open read transaction sees its own moment while hundreds of transactions go by."""
    with reader(path) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM setting").scalar() == 0
        for number in range(300):
            database.write(put(str(number)))
        assert connection.exec_driver_sql("SELECT count(*) FROM setting").scalar() == 0
    assert len(settings(path)) == 300


def test_a_person_who_reads_delays_the_end_by_a_second_at_most(path: Path) -> None:
    database = Database.open(path)
    database.write(put("a"))
    with reader(path) as connection:
        connection.exec_driver_sql("SELECT count(*) FROM setting").scalar()
        begun = time.monotonic()
        database.close()
        assert time.monotonic() - begun < 1.5
    with Database.open(path):
        assert settings(path) == {"a"}


def test_a_person_who_reads_a_database_at_rest_delays_the_start_and_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watcherd.store.connections.PATIENCE_MS", 50)
    with sqlite3.connect(path, isolation_level=None) as person:
        person.execute("BEGIN")
        person.execute("SELECT count(*) FROM job").fetchone()
        with pytest.raises(StoreUnavailableError, match="close shells") as caught:
            Database.open(path)
        assert caught.value.transient
        person.execute("ROLLBACK")
        Database.open(path).close()
    person.close()


def test_after_a_clean_end_the_file_stands_alone(path: Path) -> None:
    """Nothing lies beside it, and it can be read from a folder that cannot be written (``sqlite3 -readonly``)."""
    with Database.open(path) as database:
        database.write(put("a"))
    assert [entry.name for entry in path.parent.iterdir()] == ["watcherd.db"]
    assert path.read_bytes()[18:20] == b"\x01\x01", "it wants a log beside it (https://sqlite.org/fileformat2.html)"
    with sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True) as person:
        assert person.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    person.close()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("sqlite3"), reason="needs root and the sqlite3 shell")
@pytest.mark.parametrize("end", ["clean", "killed", "running"])
def test_another_user_may_read_whatever_state_the_daemon_is_in(path: Path, end: str) -> None:
    for folder in path.parents:
        if "pytest-" in str(folder):  # pytest keeps its folders private
            folder.chmod(0o755)
    writer = subprocess.Popen(
        [sys.executable, "-c", KEEPS_WRITING, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with writer:
        assert writer.stdout is not None
        assert writer.stdin is not None
        assert writer.stdout.readline() == "ready\n"
        if end == "killed":
            writer.kill()
            writer.wait()
        elif end == "clean":
            writer.stdin.close()
            writer.wait()
        shown = subprocess.run(
            ["sqlite3", "-readonly", path, "SELECT count(*) > 0 FROM setting"],
            capture_output=True,
            text=True,
            timeout=30,
            user=65534,
            group=65534,
            extra_groups=[],
        )
        writer.kill()
    assert (shown.stdout, shown.stderr) == ("1\n", "")


KEEPS_WRITING = """
import sys, itertools
from pathlib import Path
from watcherd.store import Database, runs
with Database.open(Path(sys.argv[1])) as database:
    for number in range(20):
        database.write(lambda c: runs.set_setting(c, str(number), "x"))
    print("ready", flush=True)
    sys.stdin.read()
"""

DIES_IN_THE_MIDDLE = """
import os, signal, sys
from pathlib import Path
from watcherd.store import Database, runs
database = Database.open(Path(sys.argv[1]))
database.write(lambda c: runs.set_setting(c, "committed", "x"))
def dies(connection):
    for number in range(2000):
        runs.set_setting(connection, f"lost-{number}", "x" * 5000)
    os.kill(os.getpid(), signal.SIGKILL)
database.write(dies)
"""


def test_killed_in_the_middle_of_a_transaction_it_keeps_what_was_committed_and_nothing_else(path: Path) -> None:
    """The transaction is larger than the cache: part of it has reached the log."""
    done = subprocess.run([sys.executable, "-c", DIES_IN_THE_MIDDLE, path], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert settings(path) == {"committed"}
    with Database.open(path) as database:
        database.write(put("more"))
    assert settings(path) == {"committed", "more"}


def test_commits_are_synced(database: Database) -> None:
    """FULL: after a power cut a disposed source must not lack its record."""
    pragmas = {
        name: database.write(lambda c, name=name: c.exec_driver_sql(f"PRAGMA {name}").scalar())
        for name in ("journal_mode", "synchronous", "foreign_keys", "auto_vacuum")
    }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "auto_vacuum": 2}


def test_a_closed_database_takes_no_more_work(path: Path) -> None:
    database = Database.open(path)
    database.close()
    database.close()
    with pytest.raises(StoreError, match="is closed"):
        database.submit(put("a"))


def test_what_was_submitted_before_the_end_is_done(path: Path) -> None:
    database = Database.open(path)
    release = held(database)
    futures = [database.submit(put(str(number))) for number in range(100)]
    threading.Timer(0.05, release.set).start()
    database.close()
    for future in futures:
        future.result()
    assert len(settings(path)) == 100


@pytest.mark.parametrize("damage", ["text", "header", "middle", "quiet"])
def test_a_damaged_file_is_recognised_at_the_start(path: Path, damage: str) -> None:
    with Database.open(path) as database:
        run_id = database.write(start_run)
        database.write(lambda c: enqueue(c, run_id, *(scan(f"{number}.png") for number in range(500))))
    content = bytearray(path.read_bytes())
    if damage == "quiet":
        damage_quietly(path)
        content = bytearray(path.read_bytes())
    elif damage == "text":
        content = bytearray(b"this is no database\n" * 1000)
    elif damage == "header":
        content[:16] = b"\0" * 16
    else:
        content[4096 * 30 : 4096 * 60] = os.urandom(4096 * 30)
    path.write_bytes(content)
    with pytest.raises(CorruptDatabaseError, match="is damaged"):
        Database.open(path)
    assert path.read_bytes() == bytes(content)


def test_reading_where_there_is_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There is no history"), reader(tmp_path / "none.db"):
        pass
    assert not (tmp_path / "none.db").exists()


def test_a_path_with_odd_characters_is_opened_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a?mode=rw#b %41.db"
    with Database.open(path) as database:
        database.write(put("a"))
    assert settings(path) == {"a"}


def test_a_reader_cannot_write(path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="readonly"), reader(path) as connection:
        connection.exec_driver_sql("DELETE FROM setting")


def test_history_is_readable_while_the_daemon_writes(database: Database) -> None:
    run_id = database.write(start_run)
    database.write(lambda c: enqueue(c, run_id, scan("a.png")))
    database.write(lambda c: succeed(c, claim_one(c, run_id)))
    with database.reader() as connection:
        assert [record["state"] for record in history.jobs(connection)] == ["succeeded"]
