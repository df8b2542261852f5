"""Full disks and failing system calls under the real daemon: it pauses, says why once, and goes on by itself.

Full disks are small tmpfs file systems, where the tests may mount them. Failing calls come from `faults.c`, which is
built with the machine's C compiler and loaded before libc.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.invariants import check_at_any_moment, check_invariants, documents
from tests.acceptance.service import Service, broken, png
from watcherd.state import mailbox

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

SHIM = Path(__file__).with_name("faults.c")
EACH_TIME = 4
"""Scans that are dropped while a fault is armed."""


# ------------------------------------------------------------------------------------------------------- system calls


class Plan(ctypes.Structure):
    """``struct plan`` of faults.c."""

    _fields_ = (
        ("armed", ctypes.c_int),
        ("error", ctypes.c_int),
        ("left", ctypes.c_int),
        ("hits", ctypes.c_int),
        ("kind", ctypes.c_char * 16),
        ("path", ctypes.c_char * 480),
    )


class Faults:
    """Steers the faults of one daemon."""

    def __init__(self, file: Path) -> None:
        file.write_bytes(bytes(mmap.PAGESIZE))
        with file.open("r+b") as opened:
            self._memory = mmap.mmap(opened.fileno(), mmap.PAGESIZE)
        self._plan = Plan.from_buffer(self._memory)

    def arm(self, kind: str, path: str, error: int, times: int) -> None:
        """From now on calls of a kind on paths with this text fail; ``times``: so often, -1: always."""
        self._plan.kind, self._plan.path = kind.encode(), path.encode()
        self._plan.error, self._plan.left, self._plan.hits = error, times, 0
        self._plan.armed = 1

    def disarm(self) -> None:
        self._plan.armed = 0

    @property
    def hits(self) -> int:
        return int(self._plan.hits)


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """faults.c as a shared library."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, to make system calls fail")
    library = tmp_path_factory.mktemp("shim") / "faults.so"
    built = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", library, SHIM, "-ldl"], capture_output=True, text=True
    )
    if built.returncode != 0:
        pytest.skip(f"the C compiler cannot build a shared library here: {built.stderr.splitlines()[-1]}")
    return library


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, shim: Path) -> Iterator[Service]:
    """A daemon whose system calls can be made to fail."""
    service = Service(tmp_path_factory.mktemp("faults"))
    service.environment = {"LD_PRELOAD": str(shim), "WATCHERD_FAULTS": str(service.folder / "plan")}
    (service.folder / "plan").touch()
    try:
        yield service
    finally:
        service.end()


@pytest.fixture
def faults(service: Service) -> Iterator[Faults]:
    """The daemon, up and at rest, with nothing armed before and after."""
    plan = service.folder / "plan"
    if service.process is None or service.process.poll() is not None:
        service.faults = Faults(plan)  # type: ignore[attr-defined]  # the same memory for all tests of this daemon
        service.start()
        service.ready()
    armed: Faults = service.faults  # type: ignore[attr-defined]
    yield armed
    armed.disarm()


ASKED_ANEW = 1
"""So often it has tried again, before the log is looked at."""


@pytest.mark.parametrize(
    ("part", "kind", "path", "error"),
    [
        ("spool", "write", "/spool/tmp/", errno.ENOSPC),
        ("spool", "open", "/spool/tmp/", errno.EROFS),
        ("spool", "sync", "/spool", errno.EIO),
        ("spool", "rename", "/spool/", errno.EACCES),
        ("state", "write", "/state/watcherd.db", errno.ENOSPC),
        ("state", "write", "/state/watcherd.db", errno.EIO),
        ("state", "sync", "/state/watcherd.db", errno.EIO),
        ("outbox", "write", "/outbox/.staging/", errno.ENOSPC),
        ("outbox", "open", "/outbox/.staging/", errno.EACCES),
        ("outbox", "sync", "/outbox", errno.EIO),
        ("outbox", "rename", "/outbox/masks/", errno.EROFS),
        ("outbox", "rename", "/outbox/results/", errno.EDQUOT),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else str(value).replace("/", "."),
)
def test_a_failing_call_pauses_is_explained_once_and_passes(
    service: Service, faults: Faults, part: str, kind: str, path: str, error: int
) -> None:
    """Nothing is lost, nothing half-written is visible, and the work goes on when the cause is gone."""
    paused_before = len(service.log("intake_paused"))
    resumed_before = len(service.log("intake_resumed"))
    faults.arm(kind, path, error, times=-1)
    drop_some(service)
    service.wait(lambda: service.log("intake_paused")[paused_before:], "the pause")
    hits = faults.hits
    service.wait(lambda: faults.hits >= hits + ASKED_ANEW, "it to be tried again")
    said = service.log("intake_paused")[paused_before:]
    assert {entry["kind"] for entry in said} == {part}
    assert len({entry["error"] for entry in said}) == len(said), "the same was said more than once"
    if part != "state":
        assert os.strerror(error) in said[0]["error"]
    shown = service.wait(lambda: service.live().get("paused"), "the pause to be shown")
    assert set(shown) == {part}
    assert check_at_any_moment(service) == []

    faults.disarm()
    service.finished(len(service.dropped))
    service.wait(lambda: not service.live()["paused"], "the pause to be over")
    assert [entry["kind"] for entry in service.log("intake_resumed")[resumed_before:]] == [part]
    assert check_invariants(service) == []


def test_while_the_history_cannot_be_written_everything_waits_and_nothing_gives_up(
    service: Service, faults: Faults
) -> None:
    """Whatever happens meanwhile: a link in the inbox, a file that goes away, a dead replica, a person's command."""
    paused_before = len(service.log("intake_paused"))
    faults.arm("write", "/state/watcherd.db", errno.ENOSPC, times=-1)
    (service.inbox / "link").symlink_to("nowhere")
    (service.inbox / "fleeting.png").write_bytes(png(1))
    (service.inbox / "fleeting.png").unlink()
    service.wait(lambda: service.log("intake_paused")[paused_before:], "the pause")
    replica = service.live()["replicas"][0]["pid"]
    os.kill(replica, signal.SIGKILL)
    mailbox.send(service.state / "commands", "sweep", {})
    drop_some(service)
    hits = faults.hits
    service.wait(lambda: faults.hits > hits + 5, "every part to have tried again")
    faults.disarm()
    service.finished(len(service.dropped))
    service.wait(lambda: service.rows("SELECT 1 FROM command WHERE outcome = 'the inbox is swept'"), "the command")
    assert service.rows("SELECT end_reason LIKE '%SIGKILL' FROM replica WHERE pid = ?", replica) == [(1,)]
    assert service.rows("SELECT fate FROM arrival WHERE path_text = 'link'") == [("ignored",)]
    assert check_invariants(service) == []


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("write", "/spool/tmp/"),
        ("sync", "/spool"),
        ("rename", "/spool/"),
        ("write", "/outbox/.staging/"),
        ("sync", "/outbox"),
        ("rename", "/outbox/"),
        ("rename", "/archive/"),
        ("write", "/state/watcherd.db"),
    ],
)
def test_an_interrupted_call_costs_nothing(service: Service, faults: Faults, kind: str, path: str) -> None:
    """EINTR, three times: done again at once or soon, and seen by nobody."""
    faults.arm(kind, path, errno.EINTR, times=3)
    drop_some(service)
    service.finished(len(service.dropped))
    assert faults.hits == 3
    assert check_invariants(service) == []
    assert not any(path.is_file() for path in service.inbox.rglob("*"))


@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS, errno.EIO, errno.ENOSPC])
def test_a_source_that_cannot_be_archived_does_not_fail_its_job(service: Service, faults: Faults, error: int) -> None:
    """The results are there, the source stays in the inbox, the log says why; a later start archives it."""
    said = len(service.log("source_not_disposed"))
    faults.arm("rename", "/archive/", error, times=-1)
    drop_some(service)
    service.finished(len(service.dropped))
    assert len(service.log("source_not_disposed")) == said + EACH_TIME + 2
    assert os.strerror(error) in service.log("source_not_disposed")[-1]["error"]
    assert check_invariants(service) == []
    assert len([path for path in service.inbox.rglob("*") if path.is_file()]) == EACH_TIME + 2
    faults.disarm()
    assert service.stop() == 0
    service.start()
    service.ready()
    service.wait(lambda: not any(path.is_file() for path in service.inbox.rglob("*")), "the inbox to be empty")
    service.finished(len(service.dropped))
    assert check_invariants(service) == []


def test_an_archive_on_another_file_system_gets_copies(service: Service, faults: Faults) -> None:
    """EXDEV: copied, synced and compared, before the source is removed."""
    faults.arm("rename", "/archive/", errno.EXDEV, times=-1)
    drop_some(service)
    service.finished(len(service.dropped))
    assert faults.hits == EACH_TIME + 2
    assert check_invariants(service) == []
    assert not any(path.is_file() for path in service.inbox.rglob("*"))


def drop_some(service: Service) -> None:
    """New scans, a bad one, and the bytes of an earlier one under a new name."""
    first = len(service.dropped)
    for number in range(first, first + EACH_TIME):
        service.drop(f"scan {number}.png", png(number))
    service.drop(f"bad {first}.png", broken(first))
    service.drop(f"again {first}.png", png(first))


# ---------------------------------------------------------------------------------------------------------- full disks


@contextlib.contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[None]:
    """A file system of its own at ``folder``, of this size."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """Fill the file system to its last block; the file that does."""
    filler = folder / ".filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12):
            with contextlib.suppress(OSError):  # it is full
                while file.write(bytes(size)):
                    pass
    return filler


@pytest.mark.parametrize("full", ["state", "outbox", "archive"])
def test_a_full_disk_pauses_the_work_until_there_is_room(full: str, tmp_path: Path) -> None:
    """Said once in the log and by `status`; with room again everything is finished by itself."""
    service = Service(tmp_path)
    with small_disk(tmp_path / full, 16):
        try:
            service.drop("before.png", png(1))
            service.start()
            service.finished(1)
            filler = fill(tmp_path / full)
            for number in range(10, 20):
                service.drop(f"scan {number}.png", png(number))
            if full == "archive":
                service.finished(11)
                assert service.log("source_not_disposed")
            else:
                service.wait(lambda: service.log("intake_paused"), "the pause")
                shown = service.wait(lambda: service.live().get("paused"), "the pause to be shown")
                assert "room" in " ".join(shown.values())
                assert "paused" in service.command("status").stdout.lower()
            assert [problem for problem in check_at_any_moment(service) if filler.name not in problem] == []
            filler.unlink()
            service.finished(11)
            assert service.stop() == 0
            assert service.once() == 0
            assert len(service.log("intake_paused")) == (0 if full == "archive" else 1)
            assert service.states() == {"succeeded": 11}
            assert len(list(documents(service))) == 11
            assert check_invariants(service) == []
            assert not any(path.is_file() for path in service.inbox.rglob("*"))
        finally:
            service.end()


def test_a_disk_that_is_nearly_full_is_not_filled_up(tmp_path: Path) -> None:
    """With less room than is to be kept free nothing is taken; the reason says how much there is."""
    service = Service(tmp_path, limits={"min_free_mib": 1})
    with small_disk(tmp_path / "state", 100):
        try:
            service.start()
            service.ready()
            with (tmp_path / "state" / ".filler").open("wb") as filler:
                os.posix_fallocate(filler.fileno(), 0, shutil.disk_usage(tmp_path / "state").free - (1 << 19))
            service.drop("scan.png", png(1))
            service.wait(lambda: service.log("intake_paused"), "the pause")
            assert "less than 1 MiB" in service.log("intake_paused")[0]["error"]
            assert service.states() == {}
            (tmp_path / "state" / ".filler").unlink()
            service.finished(1)
            assert check_invariants(service) == []
        finally:
            service.end()


RUN_FOLDER_MIB = 2100
"""Room that a file system in memory must have to carry the run folder, and some more; none of it is used."""


def resize(folder: Path, size: str) -> None:
    """Give a file system of `small_disk` another size, as if somebody else filled it or made room."""
    subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)


def test_a_full_run_folder_is_a_pause_that_is_shown_and_passes(tmp_path: Path) -> None:
    """Somebody else has filled the memory's file system: nothing is begun, no try is counted, and it goes on."""
    service = Service(tmp_path / "service")
    with small_disk(tmp_path / "runtime", RUN_FOLDER_MIB):
        service.environment = {"RUNTIME_DIRECTORY": str(tmp_path / "runtime")}
        try:
            service.drop("before.png", png(1))
            service.start()
            service.finished(1)
            resize(tmp_path / "runtime", "8m")
            fill(tmp_path / "runtime")
            for number in range(10, 15):
                service.drop(f"scan {number}.png", png(number))
            shown = service.wait(lambda: service.live().get("paused"), "the pause to be shown")
            assert ["run folder"] == list(shown)
            assert "make room there" in shown["run folder"]
            assert "run folder" in service.command("status").stdout
            resize(tmp_path / "runtime", f"{RUN_FOLDER_MIB}m")
            service.finished(6, 10.0)
            assert [(1,)] * 6 == service.rows("SELECT attempts FROM job")
            assert check_invariants(service) == []
        finally:
            service.end()


@pytest.mark.parametrize("left", [0, 3])
def test_work_goes_on_soon_after_descriptors_ran_out(tmp_path: Path, left: int) -> None:
    """Files in folders that could not be read meanwhile too, without waiting for the next usual sweep."""
    service = Service(tmp_path)
    try:
        service.start()
        service.drop("before.png", png(1))
        service.finished(1)
        before = resource.prlimit(service.pid, resource.RLIMIT_NOFILE)
        used = len(os.listdir(f"/proc/{service.pid}/fd"))  # noqa: PTH208 - names alone
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (used + left, before[1]))
        for number in range(10, 20):
            service.drop(f"folder {number}/scan.png", png(number))
        service.wait(lambda: service.log("intake_paused"), "the pause")
        assert "too many" in service.log("intake_paused")[0]["error"].lower()
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, before)
        service.finished(11, 10.0)
        assert check_invariants(service) == []
    finally:
        service.end()


def children(pid: int) -> list[int]:
    """The processes that a process's threads have started with multiprocessing."""
    found = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return [child for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.parametrize("left", [0, 3])
def test_processes_that_ended_while_there_were_no_descriptors_are_started_again(tmp_path: Path, left: int) -> None:
    """The replica and the imaging worker: none can be started before there are descriptors, and no try is counted."""
    service = Service(tmp_path)
    try:
        service.start()
        service.drop("before.png", png(1))
        service.finished(1)
        before = resource.prlimit(service.pid, resource.RLIMIT_NOFILE)
        used = len(os.listdir(f"/proc/{service.pid}/fd"))  # noqa: PTH208 - names alone
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (used + left, before[1]))
        for child in children(service.pid):
            os.kill(child, signal.SIGKILL)
        for number in range(10, 20):
            service.drop(f"scan {number}.png", png(number))
        service.wait(lambda: service.log("replica_died"), "the replica's end")
        service.wait(lambda: "cannot be started" in str(service.live()["replicas"]), "its restart to fail")
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, before)
        service.finished(11, 10.0)
        assert [(1,)] * 11 == service.rows("SELECT attempts FROM job")
        assert check_invariants(service) == []
    finally:
        service.end()
