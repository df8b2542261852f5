"""Between the main process and the bridge: whole messages, of classes that are named, to this user alone."""

from __future__ import annotations

import os
import pickle
import socket
import stat
from pathlib import Path

import pytest

from watcherd.inference.cluster import nodes, wire
from watcherd.inference.messages import Marked


def ends(*, trusting: bool = False) -> tuple[socket.socket, wire.Channel]:
    raw, other = socket.socketpair()
    return raw, wire.Channel(other, trusting=trusting)


def test_messages_come_whole_and_in_order_however_they_are_cut() -> None:
    raw, channel = ends()
    said = [wire.Said(messages=(Marked(stage="loading", fraction=part / 7),)) for part in range(8)]
    near, far = socket.socketpair()
    sender = wire.Channel(near)
    for each in said:
        sender.send(each)
    content = far.recv(1 << 20)
    for byte in range(0, len(content), 5):
        raw.sendall(content[byte : byte + 5])
        channel.receive()
    assert said == list(channel.waiting)
    for end in (raw, channel, sender, far):
        end.close()


@pytest.mark.parametrize("wrong", [os.system, pickle.dumps, nodes.Cluster])
def test_the_main_process_unpickles_nothing_but_messages(wrong: object) -> None:
    """Whatever a bridge sends that somebody has taken over."""
    raw, channel = ends()
    content = pickle.dumps(wrong)
    raw.sendall(len(content).to_bytes(4, "big") + content)
    with pytest.raises(pickle.UnpicklingError, match="none of its messages"):
        channel.receive()
    raw.close()
    channel.close()


def test_what_only_looks_like_a_message_is_none() -> None:
    """One of our own classes, made of what it is not made of."""
    raw, channel = ends()
    content = pickle.dumps(Marked(stage="loading")).replace(b"Marked", b"Worn")
    raw.sendall(len(content).to_bytes(4, "big") + content)
    with pytest.raises(pickle.UnpicklingError):
        channel.receive()
    raw.close()
    channel.close()


def test_a_message_of_gigabytes_is_none() -> None:
    raw, channel = ends()
    raw.sendall(b"\xff\xff\xff\xff")
    with pytest.raises(pickle.UnpicklingError, match="4294967295 bytes"):
        channel.receive()
    raw.close()
    channel.close()


def test_the_socket_is_this_users_alone_and_its_path_may_be_long(tmp_path: Path) -> None:
    """One that a dead bridge has left is replaced."""
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    for _ in range(2):
        with wire.listen(folder / "bridge.sock"):
            assert 0o600 == stat.S_IMODE((folder / "bridge.sock").stat().st_mode)
            wire.connect(folder / "bridge.sock").close()


def test_without_a_bridge_it_is_said_how_to_start_one(tmp_path: Path) -> None:
    seen = nodes.Cluster(tmp_path / "bridge.sock")
    seen.look()
    assert () == seen.nodes
    assert "watcherd bridge" in seen.trouble
    assert "" == nodes.Cluster(None).trouble
