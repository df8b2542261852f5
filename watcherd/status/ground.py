"""What the service stands on, besides its folders and its history: GPUs, file events, its port, its libraries."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from watcherd.errors import WatcherdError
from watcherd.inference import builds
from watcherd.inference.machine.devices import inventory
from watcherd.inference.segmenters import OF_TRANSFORMERS
from watcherd.linux.probes import try_file_events
from watcherd.state.live import read as read_live
from watcherd.status.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from watcherd.config import Config

PCI = Path("/sys/bus/pci/devices")
DRIVER = Path("/proc/driver/nvidia/version")
INOTIFY = Path("/proc/sys/fs/inotify")
CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
"""The versions that were tested together, in a wheel; a checkout has them one folder further up."""

NVIDIA = "0x10de"
DISPLAY = "0x03"
"""NVIDIA's number as a vendor, and the first byte of the class of what draws (PCI Code and ID Assignment)."""

MOST_FOLDERS = 100_000
"""Folders of the inbox that are counted at most."""

NAMED = 5
"""Libraries that are named of those with another version."""


def examine_ground(config: Config) -> Iterator[Finding]:
    """All of it."""
    yield from _gpus(config)
    yield from _events(config)
    yield from _port(config)
    yield from _libraries()
    yield from _torchvision(config)


def _gpus(config: Config) -> Iterator[Finding]:
    """The cards, the driver, NVML, and whether torch could use them."""
    use = config.devices.use
    if use == "cpu":
        yield Finding(check="gpu", level="ok", text='not used: devices.use = "cpu"')
        return
    try:
        lost: list[str] = []
        devices = inventory(use, warn=lost.append)
    except WatcherdError as error:
        yield Finding(check="gpu", level="error", text=error.message, todo=error.hint)
        return
    for words in lost:
        yield Finding(check="gpu", level="warning", text=words, todo="Restart the machine if nvidia-smi misses it too.")
    if not devices:
        yield _without_gpus(asked_for=use != "auto")
        return
    names = ", ".join(f"{device.name}" for device in devices)
    if _version_of("torch").endswith("+cpu"):
        yield Finding(
            check="gpu",
            level="warning",
            text=f"torch is built for CPUs and uses none of {names}",
            todo="Install it for GPUs: uv pip install --reinstall --torch-backend auto torch",
        )
        return
    yield Finding(check="gpu", level="ok", text=f"{names}{_driver()}")


def _without_gpus(*, asked_for: bool) -> Finding:
    if _has_a_card():
        return Finding(
            check="gpu",
            level="warning",
            text="this machine has an NVIDIA card, and no driver answers for it",
            todo='Install NVIDIA\'s driver until nvidia-smi works; or set devices.use = "cpu".',
        )
    if asked_for:
        text = "devices.use names GPUs, and there are none: the model runs on the CPU"
        return Finding(check="gpu", level="warning", text=text, todo='Set devices.use to "auto" or "cpu".')
    return Finding(check="gpu", level="ok", text="there is none: the model runs on the CPU")


def _has_a_card() -> bool:
    """Whether the PCI bus has an NVIDIA card, with a driver or without."""
    for device in PCI.glob("*"):
        with suppress(OSError):
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
            if vendor == NVIDIA and kind.startswith(DISPLAY):
                return True
    return False


def _driver() -> str:
    with suppress(OSError, IndexError):
        words = DRIVER.read_text().splitlines()[0].split()
        return ", driver " + next((word for word in words if word.count(".") >= 1 and word[0].isdigit()), "unknown")
    return ""


def _events(config: Config) -> Iterator[Finding]:
    """Each user has a limit of inotify instances and of watched folders; beyond them scans are found later."""
    if not config.inbox.events or not config.inbox.path.is_dir():
        return
    try:
        try_file_events()
    except OSError as error:
        yield Finding(
            check="file events",
            level="warning",
            text=f"none can be had by uid {os.geteuid()}: {error.strerror}",
            todo="Raise fs.inotify.max_user_instances with sysctl and in /etc/sysctl.d. Until then scans are found by "
            "sweeps, later.",
        )
        return
    try:
        limit = int((INOTIFY / "max_user_watches").read_text())
    except (OSError, ValueError):
        return  # no Linux that has them
    folders = sum(1 for _ in islice(os.walk(config.inbox.path), MOST_FOLDERS))
    low = folders > limit
    yield Finding(
        check="file events",
        level="warning" if low else "ok",
        text=f"{folders:,} folders in the inbox, and the kernel watches {limit:,} for each user",
        todo=f"sysctl fs.inotify.max_user_watches={2 * folders}, and the same in /etc/sysctl.d. Until then what comes "
        "into the other folders is found by sweeps, later."
        if low
        else "",
    )


def _port(config: Config) -> Iterator[Finding]:
    """The port for Prometheus is free, or our own daemon has it."""
    port = config.metrics.port
    if not port or read_live(config.state.path, config.state.lock) is not None:
        return
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("127.0.0.1", port))
        except OSError as error:
            yield Finding(
                check="port",
                level="error",
                text=f"metrics.port = {port} cannot be served: {error.strerror}",
                todo=f"See who has it (ss -ltnp 'sport = :{port}'), or set another metrics.port.",
            )
            return
    yield Finding(check="port", level="ok", text=f"metrics.port = {port} is free")


def _libraries() -> Iterator[Finding]:
    """Whether these are the versions that were tested together. Others are allowed, and good to know of."""
    tested = tested_versions()
    if not tested:
        return
    there = {name: found for name in tested if (found := _version_of(name))}
    others = [
        f"{name} {found} (tested: {' or '.join(sorted(tested[name]))})"
        for name, found in there.items()
        if found.partition("+")[0] not in tested[name]
    ]
    named = ", ".join(others[:NAMED]) + (f" and {len(others) - NAMED} more" if others[NAMED:] else "")
    text = f"not as tested: {named}" if others else f"{len(there)} in the versions that were tested"
    yield Finding(check="libraries", level="ok", text=text)


def _torchvision(config: Config) -> Iterator[Finding]:
    """Whether it fits torch; nothing is said where it is not installed. Where it does not, an error for a model that
    cannot be imported then, else good to know before such a one is configured."""
    if not builds.is_there():
        return
    found = builds.misfit_apart()
    needed = config.model.segmenter in OF_TRANSFORMERS
    yield Finding(
        check="torchvision",
        level="ok" if not found else "error" if needed else "warning",
        text=f"{found}: semantic and sa2va models cannot be loaded" if found else "it fits torch",
        todo=builds.MEND if found else "",
    )


def tested_versions() -> dict[str, set[str]]:
    """Library to its tested versions: more than one where they differ by the version of Python."""
    found: dict[str, set[str]] = {}
    for place in (CONSTRAINTS, CONSTRAINTS.parents[1] / CONSTRAINTS.name):
        if place.is_file():
            for line in place.read_text(encoding="utf-8").splitlines():
                name, equals, wanted = line.partition(";")[0].partition("==")
                if equals and not line.startswith("#"):
                    found.setdefault(name.strip(), set()).add(wanted.strip())
            break
    return found


def _version_of(name: str) -> str:
    """The version that is installed; empty for none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
