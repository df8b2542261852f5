"""One look serves everybody who watches, and nobody who does not watch costs one."""

from __future__ import annotations

import asyncio

from watcherd.web.poller import Poller


def test_many_watchers_share_one_look() -> None:
    async def watched() -> tuple[int, list[str]]:
        poller = Poller(lambda: "all is well", every=3600)
        first = [await anext(poller.watch()) for _ in range(1)]
        streams = [poller.watch() for _ in range(50)]
        found = [await anext(stream) for stream in streams]
        looks = poller.looks
        await poller.close()
        for stream in streams:
            await stream.aclose()  # type: ignore[attr-defined]
        assert poller._task is not None
        poller._task.cancel()
        return looks, first + found

    looks, found = asyncio.run(watched())
    assert 1 == looks
    assert ["all is well"] * 51 == found


def test_a_watcher_hears_of_changes_alone_and_is_let_go() -> None:
    async def watched() -> list[str]:
        said = iter(["a", "a", "b", *"b" * 1000])
        poller = Poller(lambda: next(said), every=0)
        found: list[str] = []
        async for text in poller.watch():
            found.append(text)
            if text == "b":
                await poller.close()
        return found

    assert ["a", "b"] == asyncio.run(watched())


def test_nobody_watches_and_nobody_looks() -> None:
    async def unwatched() -> int:
        poller = Poller(lambda: "x", every=0)
        stream = poller.watch()
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        assert poller._task is not None
        await asyncio.wait_for(poller._task, 60)
        before = poller.looks
        await asyncio.sleep(0)
        return poller.looks - before

    assert 0 == asyncio.run(unwatched())
