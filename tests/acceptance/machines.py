"""Pretended machines of a cluster: each has processes, a network address, a name and shared memory of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RAYS = Path("/tmp/watcherd-rays")  # noqa: S108 - a mount point; each machine has a memory of its own on it
"""For Ray's sockets, whose paths must be short."""
IN_A_MACHINE = (
    'hostname "$0"; mount -t tmpfs tmpfs /dev/shm; mount -t tmpfs tmpfs "$1"; ip link set lo up; shift; exec "$@"'
)


class Network:
    """A switch, and cables from it to the machines: namespaces that only root can make."""

    def __init__(self) -> None:
        self.stem = f"w{os.getpid()}"
        self._made: list[str] = []
        RAYS.mkdir(exist_ok=True)
        _ip("netns", "add", f"{self.stem}s")
        self._made.append(f"{self.stem}s")
        self._on_switch("link", "add", "br0", "type", "bridge")
        self._on_switch("link", "set", "br0", "up")

    def plug(self, number: int) -> tuple[str, str]:
        """A namespace with a cable to the switch; its name and its address."""
        name, address = f"{self.stem}n{number}", f"10.78.0.{number}"
        _ip("netns", "add", name)
        self._made.append(name)
        _ip(
            "link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", f"p{number}", "netns", f"{self.stem}s"
        )
        self._on_switch("link", "set", f"p{number}", "master", "br0", "up")
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        return name, address

    def end(self) -> None:
        for name in reversed(self._made):
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", name)

    def _on_switch(self, *words: str) -> None:
        _ip("-n", f"{self.stem}s", *words)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Machine:
    """One of them, which runs a watcherd command as its first process."""

    def __init__(
        self, network: Network, number: int, name: str, words: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.log = log
        self._namespace, self.address = network.plug(number)
        said = [word.replace("ADDRESS", self.address) for word in words]
        with log.open("ab") as file:
            self._outer = subprocess.Popen(
                [
                    "ip", "netns", "exec", self._namespace, "unshare", "--mount", "--pid", "--fork", "--kill-child",
                    "--mount-proc", "--uts", "bash", "-c", IN_A_MACHINE, name, str(RAYS),
                    sys.executable, "-m", "watcherd", *said, "--temporary", str(RAYS),
                ],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, **environment},
            )  # fmt: skip

    def processes(self) -> list[psutil.Process]:
        """All that run in it."""
        try:
            return psutil.Process(self._outer.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def inside(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Another process in it."""
        deadline = time.monotonic() + 60
        while not (found := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        enter = ["nsenter", "-t", str(found[0].pid), "-m", "-n", "-p", "-u"]
        with log.open("ab") as file:
            return subprocess.Popen([*enter, *command], stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def kill(self) -> None:
        """As a power cut does it."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._outer.kill()
        self._outer.wait()

    def stop(self) -> None:
        """It stands still."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def cut(self) -> None:
        """Its cable is pulled."""
        _ip("-n", self._namespace, "link", "set", "eth0", "down")

    def plug_in(self) -> None:
        _ip("-n", self._namespace, "link", "set", "eth0", "up")

    def sees(self, path: str) -> Path:
        """A path of its own, as this machine sees it."""
        return Path(f"/proc/{self.processes()[0].pid}/root{path}")

    def kill_one(self, word: str) -> None:
        """Kill the processes whose program is called so."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                if Path(process.exe()).name == word:
                    process.kill()

    def end(self) -> None:
        if self._outer.poll() is None:
            self.go_on()
            self.kill()

    def _signal(self, number: signal.Signals) -> None:
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
