"""The process of `watcherd web`: listens, answers, and stops when it is told to, whoever still watches."""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from watcherd import logs
from watcherd.errors import UnavailableError
from watcherd.notify.systemd import Notifier
from watcherd.web import access
from watcherd.web.app import application
from watcherd.web.guard import HEADERS
from watcherd.web.pictures import Pictures
from watcherd.web.site import Site

if TYPE_CHECKING:
    from watcherd.config import Config
    from watcherd.web.doors import Doors

STOP_SECONDS = 10
"""Seconds that a stop waits for answers that are under way."""
WAITING = 128
"""Connections that wait to be accepted."""
LONGEST_HEAD = 32 << 10
"""Bytes of a request's first lines."""
IDLE_SECONDS = 20
"""Seconds that a connection stays open between two requests."""


HEAD_SECONDS = 20.0
"""Seconds in which a request's first lines must have come."""


class Protocol(H11Protocol):
    """uvicorn's, with our headers on what it refuses by itself, a request that is none; and with an end for those whose
    first lines never come whole."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_a_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._has_its_head()
        elif self._head is None:
            self._wait_for_a_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._has_its_head()
        super().connection_lost(exc)

    def _wait_for_a_head(self) -> None:
        self._head = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _has_its_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def send_400_response(self, msg: str) -> None:
        headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        headers += [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=f"That is no request that can be read: {msg}\n".encode("ascii", "replace")),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class Server(uvicorn.Server):
    """Lets the watchers go before it waits for answers: an event stream never ends by itself."""

    def __init__(self, config: uvicorn.Config, site: Site) -> None:
        super().__init__(config)
        self._site = site
        self._manager = Notifier()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._manager.ready("answers")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._manager.stopping()
        if self._site.poller is not None:
            await self._site.poller.close()
        await super().shutdown(sockets)


def secret_of(config: Config) -> str:
    """What people log in with: the password of the configuration, or else the token, made at first use."""
    return config.web.password.get_secret_value() or access.token(config.state.path)


def site_of(config: Config, doors: Doors) -> Site:
    return Site(
        settings=config,
        doors=doors,
        sessions=access.Sessions(secret_of(config)),
        tries=access.Tries(),
        pictures=Pictures(config),
    )


def serve(config: Config, doors: Doors, *, listening: socket.socket) -> None:
    """Answer until a signal says stop."""
    site = site_of(config, doors)
    settings = uvicorn.Config(
        application(site),
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=True,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
        h11_max_incomplete_event_size=LONGEST_HEAD,
        backlog=WAITING,
    )
    logs.adopt("uvicorn")
    logs.adopt("uvicorn.error")
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn has handlers of its own while it runs, and raises the signal once more when it has stopped.
        signal.signal(number, lambda *_: None)
    try:
        asyncio.run(Server(settings, site).serve([listening]))
    finally:
        site.pictures.stop()


def listen(config: Config) -> socket.socket:
    """The socket at the configured address. Raises `UnavailableError` when somebody has it."""
    web = config.web
    family: Any = socket.AF_INET6 if ":" in web.address else socket.AF_INET
    try:
        listening = socket.create_server((web.address, web.port), family=family, backlog=WAITING)
    except OSError as error:
        raise UnavailableError(
            f"The page cannot listen at {web.address}:{web.port}: {error.strerror}.",
            hint="Another program has that port, or this machine has no such address: web.port, web.address.",
        ) from error
    # What is accepted inherits it. asyncio sets it on sockets whose protocol is said, which create_server does not do;
    # without it each answer, whose head and body are two writes, waits 40 ms for the browser's acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
