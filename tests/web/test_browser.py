"""What a person does with the page, in a real Chromium."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance.service import png
from tests.web.conftest import FRAMES, PATIENCE_MS, playwright, run_of_frames

if TYPE_CHECKING:
    from tests.web.conftest import World

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

expect = playwright.expect
expect.set_options(timeout=PATIENCE_MS)

SERIOUS = ("serious", "critical")


def drop(page: Any, *files: Path) -> None:
    """From the desktop: an event that the browser itself makes."""
    box = page.locator("#drop").bounding_box()
    data = {"items": [], "files": [str(file.resolve()) for file in files], "dragOperationsMask": 1}
    tools = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        tools.send("Input.dispatchDragEvent", {"type": kind, "x": box["x"] + 9, "y": box["y"] + 9, "data": data})


def try_it(world: World, page: Any, *files: Path) -> int:
    """Drop files, and wait for the last one's picture; its job."""
    page.goto(f"{world.base}/try")
    drop(page, *files)
    page.locator("#send").click()
    card = page.locator("#results > li").first
    expect(card.locator(".state")).to_have_text("succeeded")
    expect(card.locator("img")).to_be_visible()
    return int(str(card.locator(".now a").get_attribute("href")).rpartition("/")[2])


def viewer(page: Any) -> Any:
    """The viewer, once its picture is drawn."""
    found = page.locator(".viewer").first
    expect(found).to_have_attribute("data-ready", re.compile(r"\d+"))
    return found


def slide(page: Any, selector: str, value: int) -> None:
    page.locator(selector).evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input', {bubbles: true})) }", value
    )


def not_wider_than_its_window(page: Any) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_a_scan_is_dropped_looked_at_accepted_and_found(world: World, bundled: Path, tmp_path: Path) -> None:
    scan = tmp_path / "heart of anna.jpg"
    shutil.copy(bundled, scan)
    page = world.logged_in()
    job = try_it(world, page, scan)
    page.goto(f"{world.base}/job/{job}")
    shown = viewer(page)
    delivered = int(shown.get_attribute("data-pixels"))
    slide(page, ".cut", 250)
    expect(page.locator(".toml")).to_contain_text("threshold = 0.98")
    less = int(shown.get_attribute("data-pixels"))
    slide(page, ".cut", 5)
    more = int(shown.get_attribute("data-pixels"))
    assert less < more
    expect(page.locator(".tools.threshold")).to_contain_text("left out")
    page.locator(".delivered").click()
    assert delivered == int(shown.get_attribute("data-pixels"))
    page.locator("textarea[name=note]").fill("to the last branch")
    page.get_by_role("button", name="Accept").click()
    expect(page.locator(".said")).to_contain_text("1 accepted")
    page.goto(f"{world.base}/history")
    page.locator("input[name=name]").fill("of anna")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("tbody .verdict")).to_have_text("accepted")
    assert "anna" not in page.url

    phone = world.logged_in(viewport={"width": 390, "height": 844}, has_touch=True, color_scheme="dark")
    phone.goto(f"{world.base}/job/{job}")
    viewer(phone)
    assert not_wider_than_its_window(phone)
    for address in ("/", "/history", "/failures", "/report", "/try"):
        phone.goto(world.base + address)
        assert not_wider_than_its_window(phone), address


def test_a_picture_is_pasted(world: World) -> None:
    page = world.logged_in()
    page.goto(f"{world.base}/try")
    page.evaluate(
        """bytes => { const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "", {type: "image/png"}));
        document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true})); }""",
        list(png(401)),
    )
    expect(page.locator("#chosen")).to_contain_text("pasted")
    page.locator("#send").click()
    expect(page.locator("#results .state").first).to_have_text("succeeded")


def test_a_hostile_name_is_a_name(world: World, tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>.png"
    (tmp_path / name).write_bytes(png(402))
    page = world.logged_in()
    job = try_it(world, page, tmp_path / name)
    for address in ("/try", "/", "/history", f"/job/{job}"):
        page.goto(world.base + address)
        if address != "/try":
            expect(page.get_by_text(name).first).to_be_visible()
        assert 0 == page.locator('img[src="x"]').count()


def test_what_lies_about_its_kind_is_refused_in_words(world: World, tmp_path: Path) -> None:
    (tmp_path / "lie.png").write_bytes(b"<html><script>alert(1)</script>")
    page = world.logged_in()
    page.goto(f"{world.base}/try")
    drop(page, tmp_path / "lie.png")
    page.locator("#send").click()
    expect(page.locator("#told")).to_contain_text("no picture")
    expect(page.locator("#results > li")).to_have_count(0)


def test_two_tabs_see_the_same_and_only_what_is_there_is_accepted(world: World, tmp_path: Path) -> None:
    context = world.context()
    one, other = world.tab(context), world.tab(context)
    one.goto(f"{world.base}/login#{world.token}")
    one.wait_for_url(f"{world.base}/")
    other.goto(f"{world.base}/")
    world.service.drop("in both.png", png(403))
    for page in (one, other):
        expect(page.locator(".tile", has_text="in both.png")).to_be_visible()
    address = world.base + str(one.locator(".tile", has_text="in both.png").get_attribute("href"))
    one.goto(address)
    other.goto(address)
    one.get_by_role("button", name="Do it again").click()
    expect(one.locator(".said")).to_contain_text("queued again")
    one.goto(address)
    while "succeeded" not in one.locator(".of-job .state").inner_text():
        one.reload()
    other.get_by_role("button", name="Accept").click()
    expect(other.locator(".said")).to_contain_text("done again since you looked")
    other.get_by_role("button", name="Log out").click()
    other.wait_for_url(f"{world.base}/login")
    one.goto(address)
    assert one.url.endswith("/login")


def test_the_service_stops_and_starts_while_somebody_watches(world: World) -> None:
    page = world.logged_in()
    expect(page.locator("h1")).to_contain_text("watcherd is running")
    world.service.end()
    expect(page.locator("h1")).to_contain_text("watcherd is not running")
    world.service.start()
    world.service.ready()
    expect(page.locator("h1")).to_contain_text("watcherd is running")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("h1")).to_contain_text("PAUSED")
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("h1")).not_to_contain_text("PAUSED")


def test_the_keyboard_is_enough(world: World) -> None:
    world.service.drop("by keys.png", png(404))
    page = world.tab(world.context())
    page.goto(f"{world.base}/login")
    page.keyboard.type(world.token)  # the field has the focus
    page.keyboard.press("Enter")
    page.wait_for_url(f"{world.base}/")
    tile = page.locator(".tile", has_text="by keys.png")
    expect(tile).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    while not tile.evaluate("tile => tile === document.activeElement"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    viewer(page)
    stage = page.locator(".stage")
    while not stage.evaluate("stage => stage === document.activeElement"):
        page.keyboard.press("Tab")
    before = page.locator(".stage canvas").evaluate("canvas => canvas.toDataURL()")
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    assert before != page.locator(".stage canvas").evaluate("canvas => canvas.toDataURL()")
    page.keyboard.press("0")
    assert before == page.locator(".stage canvas").evaluate("canvas => canvas.toDataURL()")
    accept = page.get_by_role("button", name="Accept")
    while not accept.evaluate("button => button === document.activeElement"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".said")).to_contain_text("1 accepted")


def test_a_run_is_scrubbed_and_played(world: World, tmp_path: Path) -> None:
    (tmp_path / "run.tif").write_bytes(run_of_frames())
    page = world.logged_in()
    page.goto(f"{world.base}/try")
    drop(page, tmp_path / "run.tif")
    page.locator("#send").click()
    card = page.locator("#results > li").first
    expect(card.locator(".state")).to_have_text("succeeded")
    card.locator(".now a").click()
    viewer(page)
    slide(page, ".scrub", FRAMES)
    expect(page.locator(".viewer")).to_have_attribute("data-ready", str(FRAMES - 1))
    last = page.locator(".stage canvas").evaluate("canvas => canvas.toDataURL()")
    slide(page, ".scrub", 1)
    expect(page.locator(".viewer")).to_have_attribute("data-ready", "0")
    assert last != page.locator(".stage canvas").evaluate("canvas => canvas.toDataURL()")
    page.locator(".play").click()
    expect(page.locator(".viewer")).to_have_attribute("data-ready", "3")
    page.locator(".play").click()
    expect(page.locator(".play")).to_have_text("Play")


def test_two_jobs_of_one_scan_are_compared(world: World, bundled: Path, tmp_path: Path) -> None:
    shutil.copy(bundled, tmp_path / "same.jpg")
    page = world.logged_in()
    page.goto(f"{world.base}/try")
    drop(page, tmp_path / "same.jpg")
    page.locator("#threshold").fill("0.9")
    page.locator("#send").click()
    card = page.locator("#results > li").first
    expect(card.locator(".state")).to_have_text("succeeded")
    job = int(str(card.locator(".now a").get_attribute("href")).rpartition("/")[2])
    shutil.copy(bundled, tmp_path / "again.jpg")
    try_it(world, page, tmp_path / "again.jpg")
    page.goto(f"{world.base}/job/{job}")
    page.get_by_text("compare with job").first.click()
    expect(page.locator("#agreement")).to_contain_text("Dice of")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(world: World, scheme: str) -> None:
    package = pytest.importorskip("axe_playwright_python", reason="axe-core is not installed: make test-web")
    source = next(Path(package.__file__).parent.rglob("axe.min.js")).read_text()
    world.service.drop("for axe.png", png(405))
    world.service.drop("broken.png", b"\x89PNG\r\n\x1a\n" + bytes(64))
    page = world.logged_in(color_scheme=scheme)
    tile = page.locator(".tile", has_text="for axe.png")
    expect(tile).to_be_visible()
    job = str(tile.get_attribute("href"))
    for address in (
        "/",
        "/history",
        "/failures",
        "/report",
        "/try",
        job,
        f"{job}/compare/{job.rpartition('/')[2]}",
        "/nothing",
    ):
        page.goto(world.base + address)
        page.evaluate(source)
        found = page.evaluate("axe.run()")["violations"]
        serious = [(one["id"], [node["html"] for node in one["nodes"]]) for one in found if one["impact"] in SERIOUS]
        assert [] == serious, address
    page.get_by_role("link", name="Go to the first page").click()
    page.get_by_role("button", name="Log out").click()
    page.evaluate(source)
    assert [] == [one["id"] for one in page.evaluate("axe.run()")["violations"] if one["impact"] in SERIOUS]
