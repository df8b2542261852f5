"""A small real history, made once by the daemon, and the page on a copy of it."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from starlette.testclient import TestClient

from tests.acceptance.service import Service, broken, png
from watcherd import config
from watcherd.cli.web import doors_of
from watcherd.web.app import application
from watcherd.web.server import secret_of, site_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from watcherd.web.site import Site

HOSTILE = "<img src=x onerror=alert(1)>.png"
"""A file's name that would be a picture, and a script, in a page that does not escape it."""
SCANS = {"a.png": png(1), f"coronary/{HOSTILE}": png(2), "refused.png": broken(4)}
WHERE = "http://127.0.0.1:8470"


@pytest.fixture(scope="session")
def made_for_the_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a real daemon left after it has worked on `SCANS`."""
    service = Service(
        tmp_path_factory.mktemp("page"),
        model={"segmenter": "fake"},
        outbox={"outputs": ["mask", "overlay", "probability"]},
        **{"profiles.coronary": {"folder": "coronary", "threshold": 0.25}},
    )
    for name, content in SCANS.items():
        service.drop(name, content)
    assert service.once() == 0, service.tail()
    return service.folder


@dataclass(kw_only=True, slots=True)
class Page:
    """A browser without a screen. ``jobs``: numbers by name."""

    folder: Path
    site: Site
    client: TestClient
    jobs: dict[str, int]

    def log_in(self) -> Page:
        answer = self.client.post("/login", data={"secret": secret_of(self.site.settings)}, follow_redirects=False)
        assert 303 == answer.status_code, answer.text
        return self

    @property
    def form(self) -> str:
        """The token of this session's forms."""
        found = re.search(r'name="csrf" value="([^"]+)"', self.client.get("/history").text)
        assert found
        return found[1]

    def post(self, address: str, **said: Any) -> Any:
        return self.client.post(address, data={"csrf": self.form, **said})

    def upload(self, *files: tuple[str, bytes], **said: Any) -> Any:
        parts = [("scan", (name, content, "image/png")) for name, content in files]
        headers = {"x-csrf": self.form, "accept": "application/json"}
        return self.client.post("/try", files=parts, data=said, headers=headers)


def open_page(folder: Path, **web: Any) -> tuple[Site, TestClient]:
    """The application on a folder's configuration. ``web``: keys of the table ``[web]``."""
    settings = config.load(folder / "config.toml")
    settings = settings.model_copy(update={"web": config.Web(**web)})
    site = site_of(settings, doors_of(settings))
    return site, TestClient(application(site), base_url=WHERE)


def numbers(site: Site) -> dict[str, int]:
    from watcherd.store import Filter, history, reader

    with reader(site.settings.state.database) as connection:
        return {record["source"]: record["id"] for record in history.jobs(connection, Filter())}


@pytest.fixture
def stranger(made_for_the_page: Path, tmp_path: Path) -> Iterator[Page]:
    """Somebody who has not logged in, before a page of his own."""
    shutil.copytree(made_for_the_page, tmp_path, dirs_exist_ok=True)
    site, client = open_page(tmp_path)
    with client:
        yield Page(folder=tmp_path, site=site, client=client, jobs=numbers(site))
    site.pictures.stop()


@pytest.fixture
def page(stranger: Page) -> Page:
    """Somebody who has logged in."""
    return stranger.log_in()
