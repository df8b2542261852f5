"""A real Chromium before a real page, with a real service behind it; skipped where there is no browser."""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.acceptance.service import Service
from tests.integration.web.test_server import Process

if TYPE_CHECKING:
    from collections.abc import Iterator

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make test-web installs it")

CHROMIUM = shutil.which("chromium")
QUIET = [
    "--no-sandbox",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 120_000
FRAMES = 40


def run_of_frames() -> bytes:
    """A run of 40 frames, in which a bright bar moves from frame to frame."""
    pages = []
    for number in range(FRAMES):
        pixels = np.full((96, 128), 60, np.uint8)
        pixels[:, 2 * number : 2 * number + 12] = 220
        pages.append(Image.fromarray(pixels))
    buffer = io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    return buffer.getvalue()


@dataclass(kw_only=True)
class World:
    """A service, its page, and a browser. No slots: Playwright keeps notes on whoever's method listens to it."""

    service: Service
    process: Process
    browser: Any
    troubles: list[str] = field(default_factory=list)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.process.port}"

    @property
    def token(self) -> str:
        return (self.service.folder / "state" / "web.token").read_text().strip()

    def context(self, **options: Any) -> Any:
        made = self.browser.new_context(**({"viewport": {"width": 1400, "height": 900}} | options))
        made.set_default_timeout(PATIENCE_MS)
        return made

    def tab(self, context: Any) -> Any:
        """A page whose errors, and breaches of the content policy, are kept."""
        page = context.new_page()
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("console", self._note)
        page.on("dialog", lambda dialog: (self.troubles.append(dialog.message), dialog.dismiss()))
        return page

    def _note(self, said: Any) -> None:
        if said.type == "error" and "Content Security Policy" in said.text:
            self.troubles.append(said.text)

    def logged_in(self, **options: Any) -> Any:
        page = self.tab(self.context(**options))
        page.goto(f"{self.base}/login#{self.token}")
        page.wait_for_url(f"{self.base}/")
        return page


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt install chromium")
    service = Service(
        tmp_path_factory.mktemp("browser"),
        model={"segmenter": "fake"},
        outbox={"outputs": ["mask", "overlay", "probability"]},
        **{"profiles.coronary": {"folder": "coronary", "threshold": 0.25}},
    )
    service.start()
    service.ready()
    process = Process(service.folder)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield World(service=service, process=process, browser=browser)
        browser.close()
    process.process.kill()
    process.process.wait()
    process.log.close()
    service.end()


@pytest.fixture
def world(running: World) -> Iterator[World]:
    """No test leaves an error in the browser's console, or a breach of the policy."""
    running.troubles.clear()
    yield running
    for context in running.browser.contexts:
        context.close()
    assert [] == running.troubles


@pytest.fixture
def bundled() -> Path:
    """A real angiogram."""
    return Path(__file__).parents[2] / "watcherd" / "demo" / "angiogram-2.jpg"
