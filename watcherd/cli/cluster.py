"""``watcherd head``, ``worker`` and ``bridge``: the parts of a cluster; see docs/cluster.md."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from watcherd import config as configuration
from watcherd import logs
from watcherd.cli.common import ConfigOption, load_config
from watcherd.errors import ConfigError, UnavailableError
from watcherd.inference.cluster import keeper, starting
from watcherd.outputs import CLUSTER

if TYPE_CHECKING:
    from watcherd.config import Config

Address = Annotated[str, typer.Option(help="This machine's address, as the others reach it; else Ray finds one.")]
Ports = Annotated[int, typer.Option(min=1024, max=65000, help="The first of this node's ports.")]
Store = Annotated[int, typer.Option(min=100, help="MiB of memory for frames and masks on their way.")]
Temporary = Annotated[Path | None, typer.Option(help="For Ray's sockets and logs; a short path.")]


def head(
    config: ConfigOption = None,
    *,
    address: Address = "",
    port: Annotated[int, typer.Option(min=1024, max=65535, help="Where it listens.")] = starting.HEAD_PORT,
    ports: Ports = starting.PORTS + 100,
    store_mib: Store = starting.STORE_MIB,
    temporary: Temporary = None,
) -> None:
    """Run the head of a cluster on this machine, which the workers join. It computes nothing."""
    settings = _clustered(config)
    token = settings.cluster_token
    settings.state.path.mkdir(parents=True, exist_ok=True)
    if starting.made_token(token):
        typer.echo(f"Made the token {token}: copy it to every worker, with mode 0600.", err=True)
    starting.refuse_open_token(token)
    folder = temporary or _runtime("head")
    command = starting.head(address, port=port, ports=ports, store_mib=store_mib, temporary=folder)
    raise typer.Exit(keeper.keep(command, starting.environment(token, settings.state.cache), name="head"))


def worker(
    *,
    head_at: Annotated[str, typer.Option("--head", help="The machine of `watcherd head`: HOST or HOST:PORT.")],
    token: Annotated[Path, typer.Option(help="The head's token, copied here.")] = Path("/etc/watcherd/cluster.token"),
    folder: Annotated[
        Path | None, typer.Option(help="For copied models and measured reserves; else below the cache folder.")
    ] = None,
    cards: Annotated[str, typer.Option(help="Indexes or UUIDs of the GPUs to give, with commas; else all.")] = "",
    address: Address = "",
    ports: Ports = starting.PORTS,
    store_mib: Store = starting.STORE_MIB,
    temporary: Temporary = None,
) -> None:
    """Give this machine's GPUs to a cluster. It needs neither inbox nor outbox nor a configuration."""
    from watcherd.inference.cluster import host, nodes
    from watcherd.inference.machine import devices

    _need_ray()
    logs.setup(configuration.Log(), hidden_names=False)
    where = starting.head_of(head_at)
    starting.refuse_open_token(token)
    pretends = nodes.PRETEND in os.environ
    given = host.cards_here() if pretends else devices.inventory(cards.split(",") if cards else "auto")
    kept = folder or host.folder_here()
    kept.mkdir(parents=True, exist_ok=True)
    environment = starting.environment(token.absolute(), kept.absolute())
    environment[nodes.CARDS] = ",".join(card.uuid for card in given)
    environment.pop("CUDA_VISIBLE_DEVICES", None)  # each replica is shown its own cards
    typer.echo(f"Giving {len(given) or 'no'} GPU{'s' * (len(given) != 1)} to {where}.", err=True)
    command = starting.worker(where, given, address=address, ports=ports, store_mib=store_mib, temporary=temporary)
    raise typer.Exit(keeper.keep(command, environment, name="worker"))


def bridge(config: ConfigOption = None) -> None:
    """Stand between the service, which has no network, and the cluster."""
    settings = _clustered(config)
    path = configuration.find(config)
    settings.state.path.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "watcherd.inference.cluster.bridging", str(path)]
    raise typer.Exit(keeper.keep(command, os.environ, name="bridge"))


def _clustered(config: Path | None) -> Config:
    settings = load_config(config)
    _need_ray()
    if not settings.cluster.engine:
        raise ConfigError(
            'cluster.engine is "": there is no cluster.', hint='Set cluster.engine = "ray". docs/cluster.md says more.'
        )
    logs.setup(settings.log, hidden_names=settings.privacy.names == "hidden")
    return settings


def _need_ray() -> None:
    from importlib.util import find_spec

    if find_spec(CLUSTER.module) is None:
        what = f"This needs {CLUSTER.library}, which is not installed."
        raise UnavailableError(what, hint=f"Install it: {CLUSTER.command}")


def _runtime(name: str) -> Path:
    """A short folder for Ray: its sockets' paths may have 107 bytes."""
    below = os.environ.get("RUNTIME_DIRECTORY") or f"/tmp/watcherd-{os.getuid()}"  # noqa: S108 - mode 0700
    folder = Path(below) / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder
