"""A real systemd to try the service on: process 1 of namespaces of its own, on an overlay over this machine's root."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
INIT = Path(__file__).with_name("box-init.sh")
DEPENDENCIES = "/opt/dependencies"
PATIENCE = 60.0
"""Seconds that anything in the box may take before a test gives up."""


Found = TypeVar("Found")


class Box:
    """The machine in namespaces; `run` runs a program in it, ``shared`` is /mnt/test there."""

    def __init__(self, folder: Path, *binds: str) -> None:
        self.shared = folder / "shared"
        self._work = folder / "box"
        self._cgroup = Path(_cgroup2(), f"watcherd-test-{os.getpid()}-{id(self)}")
        self._binds = binds
        self._pid = 0
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for made in (self.shared, self._work, self._cgroup):
            made.mkdir()
        self.shared.chmod(0o755)
        # Entered first, the group is the root of the box's own hierarchy.
        script = f'echo $$ > {self._cgroup}/cgroup.procs; exec "$@"'
        namespaces = ["--mount", "--propagation=private", "--pid", "--fork", "--ipc", "--uts", "--net", "--cgroup"]
        with (self.shared.parent / "console").open("wb") as console:
            self._outside = subprocess.Popen(
                ["sh", "-c", script, "sh", "unshare", *namespaces, "sh", INIT, self._work, self.shared, *self._binds],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        self._pid = self.wait(self._find_systemd, "systemd to start in the box")
        self.wait(lambda: self.run("test", "-S", "/run/dbus/system_bus_socket", check=False).returncode == 0, "dbus")
        self.run("systemctl", "is-system-running", "--wait", check=False)

    def _find_systemd(self) -> int:
        if self._outside.poll() is not None:
            raise RuntimeError((self.shared.parent / "console").read_text())
        children = Path(f"/proc/{self._outside.pid}/task/{self._outside.pid}/children").read_text().split()
        return next((int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text() == "systemd\n"), 0)

    def run(
        self, *command: str | Path, check: bool = True, text: str | None = None, seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run ``command`` as root in the box, with ``text`` on its standard input."""
        answer = subprocess.run(
            self._entered(command), input=text or "", capture_output=True, text=True, timeout=seconds
        )
        if check and answer.returncode != 0:
            raise AssertionError(f"{command} gave {answer.returncode}:\n{answer.stdout}{answer.stderr}")
        return answer

    def popen(self, *command: str | Path) -> subprocess.Popen[bytes]:
        """Start ``command`` in the box, with a pipe to its standard input."""
        started = subprocess.Popen(
            self._entered(command), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        self._started.append(started)
        return started

    @staticmethod
    def kill(started: subprocess.Popen[bytes]) -> None:
        """SIGKILL for what `popen` started; nsenter, which started it in turn, then ends too."""
        for pid in Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        started.kill()
        started.communicate()

    def _entered(self, command: tuple[str | Path, ...]) -> list[str | Path]:
        enter = ["nsenter", "-t", str(self._pid), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"]
        return [*enter, "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root", *command]

    def output(self, *command: str | Path) -> str:
        return self.run(*command).stdout.strip()

    def path(self, inside: str | Path) -> Path:
        """A path of the box as this machine reaches it."""
        return Path(f"/proc/{self._pid}/root", str(inside).lstrip("/"))

    def property(self, unit: str, name: str) -> str:
        return self.output("systemctl", "show", "-P", name, unit)

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        """The entries of the journal that ``matches`` choose, oldest first."""
        self.run("journalctl", "--sync")
        return [json.loads(line) for line in self.output("journalctl", "-o", "json", *matches).splitlines()]

    @staticmethod
    def wait(look: Callable[[], Found], what: str, seconds: float = PATIENCE) -> Found:
        """What ``look`` finds, once it finds something."""
        deadline = time.monotonic() + seconds
        while not (found := look()):
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds:.0f} s for {what}")
            time.sleep(0.05)
        return found

    def stop(self) -> None:
        for started in self._started:  # process 1 cannot end before what was started from outside is gone
            if started.poll() is None:
                self.kill(started)
            elif started.stdin:
                started.stdin.close()
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGRTMIN + 4)  # what systemctl poweroff does
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._outside.wait(30)
        if self._outside.poll() is None:
            os.kill(self._pid or self._outside.pid, signal.SIGKILL)
            self._outside.wait()
        for group in sorted(self._cgroup.rglob("*/"), reverse=True):
            group.rmdir()
        self._cgroup.rmdir()


def _cgroup2() -> str:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if " - cgroup2 " in line:
            return line.split()[4]
    return ""


def why_no_box() -> str | None:
    """Why this machine cannot carry a box; None: it can."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [name for name in ("unshare", "nsenter", "setpriv", "pivot_root", "journalctl") if not shutil.which(name)]
    if missing or not Path("/lib/systemd/systemd").exists():
        return f"needs systemd and util-linux; {', '.join(missing) or 'systemd'} is not installed"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "needs overlayfs in the kernel"
    group = _cgroup2()
    if not group or not os.access(group, os.W_OK):
        return "needs a writable cgroup2"
    tried = subprocess.run(["unshare", "-m", "-p", "-f", "-n", "-C", "true"], capture_output=True, text=True)
    return f"needs namespaces: {tried.stderr.strip()}" if tried.returncode else None


def why_no_environment() -> str | None:
    """Why the packages of this environment cannot be used by the distribution's Python; None: they can."""
    mine = ".".join(map(str, sys.version_info[:2]))
    tried = subprocess.run(
        ["/usr/bin/python3", "-c", "import venv, sys; print(sys.version)"], capture_output=True, text=True
    )
    if tried.returncode != 0:
        return "needs the distribution's python3 with venv"
    if not tried.stdout.startswith(f"{mine}."):
        return f"needs /usr/bin/python3 to be Python {mine}, as here: its packages are lent to the box"
    if Path(sys.prefix).is_relative_to("/tmp"):  # noqa: S108 - that the box has a /tmp of its own is the reason
        return "needs this environment outside of /tmp, of which the box has one of its own"
    return None


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Iterator[Box]:
    """A booted box with the wheel in /opt/watcherd, and nothing else done yet."""
    if reason := why_no_box() or why_no_environment():
        pytest.skip(f"the service cannot be tried for real here: {reason}")
    machine = Box(tmp_path_factory.mktemp("machine"), f"{sysconfig.get_path('purelib')}:{DEPENDENCIES}")
    try:
        machine.start()
        install_wheel(machine, wheel)
        yield machine
    finally:
        machine.stop()


def install_wheel(box: Box, wheel: Path) -> None:
    """What `python3 -m venv /opt/watcherd; pip install watcherd` gives; the dependencies are this environment's."""
    box.run("/usr/bin/python3", "-m", "venv", "--without-pip", "/opt/watcherd")
    shutil.copy(wheel, box.shared)
    pip = [sys.executable, "-m", "pip", "--python=/opt/watcherd/bin/python", "install", "--no-deps", "--no-index", "-q"]
    box.run(*pip, f"/mnt/test/{wheel.name}")
    site = box.output("/opt/watcherd/bin/python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    box.path(site).joinpath("dependencies.pth").write_text(f"{DEPENDENCIES}\n")


# ------------------------------------------------------------------------------------------------------------ stories


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "story: tests of one module that build on each other; after a failure the rest is skipped"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("story") and (failed := _FAILED.get(item.path)):
        pytest.skip(f"{failed} failed before")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        path, _, name = report.nodeid.partition("::")
        _FAILED.setdefault(ROOT / path, name)


_FAILED: dict[Path, str] = {}
"""The first test of each module that failed."""
