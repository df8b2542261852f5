"""A connection whose request never comes whole is closed; one that has asked is answered, however slowly."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from watcherd.web import server
from watcherd.web.server import Protocol

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

PATIENCE = 60.0


async def slow(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answers when more time than that for a head has passed."""
    await asyncio.sleep(3 * server.HEAD_SECONDS)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def said_to(*parts: bytes) -> bytes:
    """What a connection is answered until it is closed, when these parts are sent one after the other."""

    async def talk() -> bytes:
        config = uvicorn.Config(slow, http=Protocol, ws="none", lifespan="off", log_config=None)
        config.load()
        made: Any = lambda: Protocol(config=config, server_state=ServerState(), app_state={})  # noqa: E731
        listening = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
        host, port = listening.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port)
        for part in parts:
            writer.write(part)
            await writer.drain()
        answer = await asyncio.wait_for(reader.read(), PATIENCE)
        writer.close()
        listening.close()
        return answer

    return asyncio.run(talk())


@pytest.mark.parametrize("parts", [(), (b"GET / HTTP/1.1\r\n",), (b"GET / ", b"HTTP/1.1\r\nHost: a\r\n")])
def test_who_says_nothing_or_half_of_it_is_let_go(parts: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.05)
    assert b"" == said_to(*parts)


def test_who_has_asked_waits_as_long_as_the_answer_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.05)
    answer = said_to(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"ok")
