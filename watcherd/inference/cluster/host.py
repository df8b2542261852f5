"""What runs on the nodes, inside Ray's own processes: it starts the ordinary process of a replica beside itself.

So what measures memory, checks the golden image, makes batches and dies of faults is one code wherever a replica runs.
The process is started anew (never forked) and dies with the actor. Frames come as the bytes of their files and lie in
a folder of the node's memory while they are needed.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import threading
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil

from watcherd.errors import WatcherdError
from watcherd.inference.cluster import nodes
from watcherd.inference.cluster.nodes import Node
from watcherd.inference.machine import devices
from watcherd.inference.machine.devices import GIB
from watcherd.inference.messages import NotSegmented, Segmented
from watcherd.inference.pool.carrier import Ended, SilentError
from watcherd.inference.pool.local import LocalCarrier

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from watcherd.inference.cluster.shipping import File
    from watcherd.inference.messages import FromReplica, ReplicaSpec, WorkItem

    Content = NDArray[np.uint8]
    """A file's bytes. numpy's arrays go through Ray's object store without being copied."""

LISTEN_SECONDS = 5.0
"""Seconds that `Host.receive` waits for a word."""
_PRETENDED = "pretended-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a replica said together, with the files that it speaks of by job: mask, and probability where there is one.
    ``over``: its process has ended, for this reason, or (``lost``) cannot be used for one that is not its own."""

    messages: tuple[FromReplica, ...] = ()
    files: Mapping[int, tuple[Content, Content | None]]
    over: str | None = None
    stack: str = ""
    lost: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Parcel:
    """A scan with its files' bytes. Its paths are those of the machine that it comes from."""

    item: WorkItem
    decoded: Content
    volume: Content | None = None


def describe(born: str) -> Node:
    """This machine, as it is now. ``born``: what Ray calls it; how it is reached is not known here."""
    name = socket.gethostname()
    try:
        cards = cards_here()
    except WatcherdError as error:
        return Node(name=name, address="", born=born, version=version("watcherd"), refused=str(error))
    return Node(
        name=name,
        address="",
        born=born,
        version=version("watcherd"),
        cards=cards,
        cpu=not cards,
        host_free_gib=psutil.virtual_memory().available / GIB,
    )


def cards_here() -> tuple[devices.Device, ...]:
    """This machine's cards, pretended ones too. Raises `WatcherdError` when the driver does not answer."""
    if pretended := os.environ.get(nodes.PRETEND):
        host = socket.gethostname()
        made = devices.parse_inventory(pretended)
        return tuple(replace(card, uuid=f"{_PRETENDED}{host}-{card.index}", name="pretended") for card in made)
    given = os.environ.get(nodes.CARDS)
    if given is None:
        return devices.inventory(environ={})
    return devices.inventory([uuid for uuid in given.split(",") if uuid] or "cpu", environ={})


def folder_here() -> Path:
    """Where copied models and measured reserves are kept on this machine."""
    given = os.environ.get(nodes.FOLDER)
    return Path(given) if given else Path.home() / ".cache" / "watcherd"


class Agent:
    """Speaks for this machine: what it has, and which models are copied here. One for each node."""

    def __init__(self) -> None:
        from watcherd.inference.cluster.shipping import Copies

        self._copies = Copies(folder_here() / "models")

    def describe(self, born: str) -> Node:
        """See `describe`."""
        return describe(born)

    def missing(self, digest: str, files: Sequence[File]) -> dict[str, int]:
        """See `shipping.Copies`, as of the following ones."""
        return self._copies.missing(digest, files)

    def write(self, digest: str, name: str, offset: int, content: Content) -> None:
        self._copies.write(digest, name, offset, content)

    def complete(self, digest: str, file: File) -> bool:
        return self._copies.complete(digest, file)

    def place(self, digest: str, name: str) -> str:
        """Where the folder or file of this name lies in a copy."""
        return str(self._copies.place(digest) / name)


class Host:
    """One replica's process on this node, with its files. Ray calls it in several threads: `receive` waits in one while
    others send; batches go to the process in the order of their numbers."""

    def __init__(self, spec: ReplicaSpec) -> None:
        vars(sys.modules["__main__"]).pop("__file__", None)  # a new Python would run Ray's own program first
        memory = Path("/dev/shm")  # noqa: S108 - a folder of our own in it, mode 0700
        self._folder = Path(tempfile.mkdtemp(prefix="watcherd-replica-", dir=memory if memory.is_dir() else None))
        self._asked: dict[int, WorkItem] = {}
        self._turn = threading.Condition()
        self._next = 0
        self._trouble = ""
        cache = folder_here() / "cache"
        cache.mkdir(parents=True, exist_ok=True)
        pretends = any(uuid.startswith(_PRETENDED) for uuid in spec.visible)
        self._carrier = LocalCarrier(
            replace(
                spec,
                cache=cache,
                stack=self._folder / "stack",
                visible=() if pretends else spec.visible,
                placement=replace(spec.placement, devices=("cpu",), device_map={"": "cpu"})
                if pretends
                else spec.placement,
            )
        )

    def start(self) -> int:
        """Start the process in a thread that lives as long as this one: it dies with the thread that started it."""
        pids: list[int] = []
        errors: list[Exception] = []
        started, lasting = threading.Event(), threading.Event()

        def begin() -> None:
            try:
                pids.append(self._carrier.start())
            except Exception as error:  # told to whoever waits
                errors.append(error)
            started.set()
            lasting.wait()

        threading.Thread(target=begin, name="starter", daemon=True).start()
        started.wait()
        for error in errors:
            raise error
        return pids[0]

    def work(self, number: int, parcels: Sequence[Parcel]) -> None:
        """Put the batch's files into memory, and hand it over after the one with the number before."""
        try:
            items = [self._unpacked(parcel) for parcel in parcels]
        except OSError as error:
            self._trouble = f"the node has no room for the scans: {error.strerror}"  # told by `receive`
            return
        with self._turn:
            self._turn.wait_for(lambda: self._next == number)
            self._asked |= {item.job_id: item for item in items}
            try:
                self._carrier.send(items)
            except Ended:
                return  # `receive` tells
            finally:
                self._next = number + 1
                self._turn.notify_all()

    def receive(self) -> Answer:
        """What the process says next; nothing after `LISTEN_SECONDS` of silence."""
        if self._trouble:
            return Answer(files={}, over=self._trouble, lost=True)
        try:
            messages = self._carrier.receive(LISTEN_SECONDS) or ()
        except SilentError:
            return Answer(files={})
        except Ended as end:
            return Answer(files={}, over=end.reason, stack=end.stack)
        files = {}
        for message in messages:
            if isinstance(message, Segmented):
                files[message.job_id] = _files_of(message)
            if isinstance(message, Segmented | NotSegmented):
                self._forget(message.job_id)
        return Answer(messages=tuple(messages), files=files)

    def ask_for_stack(self) -> bool:
        """See `Carrier.ask_for_stack`."""
        return self._carrier.ask_for_stack()

    def bury(self) -> str:
        """Kill the process, and wait until the cards' memory is free; what it wrote of its stack."""
        self._carrier.kill()
        self._carrier.join()
        self._carrier.wait_released(threading.Event())
        stack = self._carrier.stack()
        shutil.rmtree(self._folder, ignore_errors=True)
        return stack

    def end(self) -> None:
        """End the process in good order."""
        self._carrier.end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _unpacked(self, parcel: Parcel) -> WorkItem:
        item = parcel.item
        target = self._folder / item.target.name
        decoded = target.with_name(f"{target.name}.npy")
        parcel.decoded.tofile(decoded)
        volume = item.volume
        if volume is not None and parcel.volume is not None:
            volume = replace(volume, path=target.with_name(f"{target.name}-volume.npy"))
            parcel.volume.tofile(volume.path)
        return replace(item, decoded=decoded, target=target, volume=volume)

    def _forget(self, job: int) -> None:
        item = self._asked.pop(job, None)
        if item is not None:
            item.decoded.unlink(missing_ok=True)
            if item.volume is not None:
                item.volume.path.unlink(missing_ok=True)


def _files_of(outcome: Segmented) -> tuple[Content, Content | None]:
    return _taken(outcome.mask), None if outcome.probability is None else _taken(outcome.probability)


def _taken(path: Path) -> Content:
    content = np.fromfile(path, np.uint8)
    path.unlink()
    return content
