"""How Ray is started for us: the words of its command line, and its settings.

No dashboard, no autoscaler with its open port for figures, no statistics sent away, nothing spilled to a disk, a token
on every connection, and a dead node noticed within seconds (Ray's own default is a minute for a stopped one). Every
port is fixed, so that a firewall can know them.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from watcherd.errors import UnavailableError, UsageError
from watcherd.inference.cluster.nodes import CARD, FOLDER, ROLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from watcherd.inference.machine.devices import Device

HEAD_PORT = 6380
"""Where the head listens. Ray's own 6379 is also that of Redis."""
PORTS = 6381
"""The first of the ports of a node: six for its services, and from ten on one for each of its processes."""
PROCESSES = 60
"""Ports for a node's processes: its agent, one for each replica, and the bridge."""
STORE_MIB = 512
"""Of memory for frames and masks on their way, on each node."""
HEALTH = {"initial_delay_ms": 5000, "period_ms": 1000, "timeout_ms": 3000, "failure_threshold": 5}
"""When the head counts a silent node as dead: after about ten seconds. A busy machine may be slow for some."""


def environment(token: Path, folder: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables for a node. ``folder``: where copied models and measured reserves are kept."""
    ours = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_automatic_object_spilling_enabled": "0",
        "RAY_memory_monitor_refresh_ms": "0",  # else it kills replicas that the machine has room for
        FOLDER: str(folder),
    }
    ours |= {f"RAY_health_check_{name}": str(value) for name, value in HEALTH.items()}
    return {**environ, **ours}


def head(address: str, *, port: int, ports: int, store_mib: int, temporary: Path) -> list[str]:
    """The command line of the head, which carries no replicas."""
    listens = ["--head", f"--port={port}", "--include-dashboard=false", "--no-monitor"]
    known = [f"--node-ip-address={address}"] if address else []
    carries = ["--num-cpus=0", "--num-gpus=0", f"--labels={ROLE}=head", f"--temp-dir={temporary}"]
    return [*_ray(), *listens, *known, *carries, *_common(ports, store_mib)]


def worker(
    head_at: str, cards: Sequence[Device], *, address: str, ports: int, store_mib: int, temporary: Path | None = None
) -> list[str]:
    """The command line of a node that gives these cards away, each under its own name."""
    owned = json.dumps({f"{CARD}{card.uuid}": 1 for card in cards})
    joins = [f"--address={head_at}", f"--num-gpus={len(cards)}", "--num-cpus=1", f"--resources={owned}"]
    known = [f"--node-ip-address={address}"] if address else []
    kept = [f"--temp-dir={temporary}"] if temporary else []
    return [*_ray(), *joins, *known, *kept, *_common(ports, store_mib)]


def _ray() -> list[str]:
    program = Path(sys.executable).with_name("ray")
    return [str(program), "start", "--block", "--disable-usage-stats", "--log-color=false"]


def _common(ports: int, store_mib: int) -> list[str]:
    return [
        f"--node-manager-port={ports}",
        f"--object-manager-port={ports + 1}",
        f"--runtime-env-agent-port={ports + 2}",
        f"--dashboard-agent-grpc-port={ports + 3}",
        f"--dashboard-agent-listen-port={ports + 4}",
        f"--metrics-export-port={ports + 5}",
        "--include-log-monitor=false",
        f"--min-worker-port={ports + 10}",
        f"--max-worker-port={ports + 9 + PROCESSES}",
        f"--object-store-memory={store_mib * 2**20}",
    ]


def head_of(text: str) -> str:
    """HOST or HOST:PORT as HOST:PORT. Raises `UsageError`."""
    name, colon, port = text.rpartition(":")
    if not colon:
        return f"{text}:{HEAD_PORT}"
    if not name or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"--head {text!r} is no host.", hint=f"Write HOST, or HOST:PORT; the port is {HEAD_PORT}.")
    return text


def made_token(path: Path) -> bool:
    """Make the token if it is not there, for this user alone; whether it was made."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with open(descriptor, "w", encoding="ascii") as file:  # noqa: PTH123 - of a descriptor
        file.write(secrets.token_hex(32))
    return True


def refuse_open_token(path: Path) -> None:
    """Raise `UnavailableError` for a token that is missing, empty, or open to others: who has it runs programs here."""
    try:
        status, content = path.stat(), path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise UnavailableError(
            f"The token at {path} cannot be read: {error.strerror}.",
            hint="`watcherd head` makes it in its state folder; copy the file here, with mode 0600.",
        ) from error
    if status.st_mode & 0o077:
        raise UnavailableError(f"Others may read the token at {path}.", hint=f"chmod 600 {path}")
    if len(content) < 32:
        raise UnavailableError(f"The token at {path} has fewer than 32 characters.", hint="Copy the head's file anew.")
