"""The page over HTTP: who is let in, what is shown, what is refused, and that every refusal is in words and guarded."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.service import png
from tests.integration.web.conftest import HOSTILE, WHERE, open_page
from watcherd import config
from watcherd.errors import ConfigError
from watcherd.web.guard import HEADERS, POLICY

if TYPE_CHECKING:
    from tests.integration.web.conftest import Page

PAGES = ("/", "/history", "/failures", "/report", "/try", "/reviews.csv", "/reviews.json", "/job/1", "/job/1/record")
REFUSED = (
    "/nothing",
    "/job/99",
    "/job/99999999999999999999",
    "/job/1/layer/scan/7",
    "/try/gone",
    "/failures?days=x",
    "/report?days=8",
)


def guarded(answer: object) -> None:
    """The headers that stand on every answer."""
    for name, value in HEADERS.items():
        assert value == answer.headers[name], name  # type: ignore[attr-defined]


# -------------------------------------------------------------------------------------------------------- who is let in


@pytest.mark.parametrize("address", [*PAGES, "/events", "/job/1/layer/scan/0", "/job/1/file/mask", "/job/1/log"])
def test_nobody_sees_anything_without_the_token(stranger: Page, address: str) -> None:
    answer = stranger.client.get(address, follow_redirects=False)
    assert (303, "/login") == (answer.status_code, answer.headers["location"])
    told = stranger.client.get(address, headers={"accept": "application/json"})
    assert 401 == told.status_code
    assert "log in" in told.json()["error"]
    guarded(answer)
    guarded(told)


def test_nobody_changes_anything_without_the_token(stranger: Page) -> None:
    for address in ("/job/1/retry", "/job/1/review", "/pause", "/try", "/history", "/logout"):
        answer = stranger.client.post(address, data={"csrf": "x"}, follow_redirects=False)
        assert 401 == answer.status_code
        guarded(answer)


def test_the_token_is_made_once_for_its_owner_alone(page: Page) -> None:
    file = page.folder / "state" / "web.token"
    assert 0o600 == file.stat().st_mode & 0o777
    again, _ = open_page(page.folder)
    assert again.sessions.is_secret(file.read_text().strip())


def test_a_session_is_a_cookie_that_scripts_and_other_sites_do_not_have(stranger: Page) -> None:
    secret = (stranger.folder / "state" / "web.token").read_text().strip()
    answer = stranger.client.post("/login", data={"secret": secret}, follow_redirects=False)
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path=/" in cookie


def test_logging_out_ends_the_session_for_whoever_has_a_copy(page: Page) -> None:
    copied = dict(page.client.cookies)
    page.post("/logout")
    page.client.cookies.update(copied)
    assert "/login" == page.client.get("/history", follow_redirects=False).headers["location"]


def test_a_forged_cookie_is_none(stranger: Page) -> None:
    for forged in ("", "x", "9999999999.a.b.c", ".", "9999999999.a.YQ." + "A" * 43):
        stranger.client.cookies.set("watcherd", forged)
        assert 303 == stranger.client.get("/", follow_redirects=False).status_code


def test_too_many_wrong_tries_have_to_wait(stranger: Page) -> None:
    codes = [stranger.client.post("/login", data={"secret": "wrong"}).status_code for _ in range(6)]
    assert [403] * 5 + [429] == codes
    secret = (stranger.folder / "state" / "web.token").read_text().strip()
    late = stranger.client.post("/login", data={"secret": secret})
    assert 429 == late.status_code
    assert int(late.headers["retry-after"]) > 0
    guarded(late)


def test_another_host_name_is_not_answered(page: Page) -> None:
    """A name of somebody else's that leads to this address (DNS rebinding)."""
    for host in ("evil.example", "evil.example:8470", "127.0.0.1.evil.example", "", "a@127.0.0.1:x"):
        answer = page.client.get("/", headers={"host": host})
        assert 421 == answer.status_code, host
        guarded(answer)
    assert 200 == page.client.get("/", headers={"host": "localhost:8470"}).status_code


def test_another_site_cannot_post_through_a_browser(page: Page) -> None:
    form = page.form
    for headers in (
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://127.0.0.1:9999"},
    ):
        answer = page.client.post("/pause", data={"csrf": form}, headers=headers)
        assert 403 == answer.status_code
        guarded(answer)
    allowed = page.client.post("/pause", data={"csrf": form}, headers={"origin": WHERE}, follow_redirects=False)
    assert 303 == allowed.status_code


@pytest.mark.parametrize(
    "address", ["/job/1/retry", "/job/1/cancel", "/job/1/priority", "/job/1/review", "/pause", "/resume", "/history"]
)
def test_a_form_without_its_token_is_refused(page: Page, address: str) -> None:
    for said in ({}, {"csrf": ""}, {"csrf": "x" * 43}):
        answer = page.client.post(address, data=said)
        assert 403 == answer.status_code
        assert "Load the page again" in answer.text
        guarded(answer)


def test_an_upload_without_its_token_is_refused(page: Page) -> None:
    answer = page.client.post("/try", files=[("scan", ("a.png", png(9)))], headers={"accept": "application/json"})
    assert 403 == answer.status_code
    assert not (page.folder / "inbox" / "web").exists()


def test_a_proxy_says_who_comes_and_nobody_else_can(stranger: Page) -> None:
    site, client = open_page(stranger.folder, proxy_header="X-Remote-User", proxies=("10.0.0.9",))
    assert 303 == client.get("/", headers={"X-Remote-User": "anna"}, follow_redirects=False).status_code
    behind, client = open_page(stranger.folder, proxy_header="X-Remote-User", proxies=("127.0.0.1",))
    client._transport.client = ("127.0.0.1", 50000)  # type: ignore[attr-defined]  # where the request comes from
    assert 200 == client.get("/", headers={"X-Remote-User": "anna"}).status_code
    twice = [("X-Remote-User", "anna"), ("X-Remote-User", "root"), ("accept", "application/json")]
    assert 401 == client.get("/", headers=twice).status_code
    for one in (site, behind):
        one.pictures.stop()


def test_an_address_for_others_needs_a_password_or_a_proxy() -> None:
    with pytest.raises(ConfigError, match=r"web\.password"):
        config.build({"web": {"address": "0.0.0.0"}}, base=None)  # type: ignore[arg-type]  # noqa: S104
    for allowed in ({"password": "correct horse battery"}, {"proxy_header": "X-Remote-User"}):
        config.Web(address="0.0.0.0", **allowed)  # type: ignore[arg-type]  # noqa: S104


# ----------------------------------------------------------------------------------------------------- what is answered


@pytest.mark.parametrize("address", PAGES)
def test_every_page_is_answered_and_guarded(page: Page, address: str) -> None:
    answer = page.client.get(address)
    assert 200 == answer.status_code, answer.text
    guarded(answer)
    assert "style=" not in answer.text
    assert not re.search(r"<script(?![^>]* src=\"/static/)", answer.text)
    assert not re.search(r"\son[a-z]+=\"", answer.text)


@pytest.mark.parametrize("address", REFUSED)
def test_every_refusal_is_in_words_and_guarded(page: Page, address: str) -> None:
    answer = page.client.get(address)
    assert 400 <= answer.status_code < 500
    assert re.search(r"<h1>[A-Z][^<]+\.</h1><p>[A-Z][^<]+</p>", answer.text)
    guarded(answer)


def test_a_fault_of_ours_says_nothing_of_itself_and_is_guarded(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("watcherd.web.past.history.jobs", lambda *_: 1 / 0)
    answer = page.client.get("/history")
    assert 500 == answer.status_code
    assert "division" not in answer.text
    guarded(answer)


def test_other_methods_are_refused(page: Page) -> None:
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"):
        guarded(answer := page.client.request(method, "/"))
        assert 405 == answer.status_code
    guarded(answer := page.client.get("/job/1/retry"))
    assert answer.status_code in (404, 405)


def test_a_request_that_is_too_large_is_refused(page: Page) -> None:
    answer = page.client.post("/history", content=b"x" * (70 << 10), headers={"content-type": "text/plain"})
    assert 413 == answer.status_code
    guarded(answer)
    site, client = open_page(page.folder, upload_mib=1)
    client.cookies.update(dict(page.client.cookies))
    large = client.post("/try", files=[("scan", ("a.png", bytes(2 << 20)))], headers={"x-csrf": page.form})
    assert 413 == large.status_code
    begins = b'--x\r\nContent-Disposition: form-data; name="scan"; filename="a"\r\n\r\n'
    chunks = [begins, *(b"x" * 65536 for _ in range(40))]  # without saying how many
    headers = {"content-type": "multipart/form-data; boundary=x", "x-csrf": page.form}
    assert 413 == client.post("/try", content=iter(chunks), headers=headers).status_code
    site.pictures.stop()


def test_forms_that_are_none_are_refused_in_words(page: Page) -> None:
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"):
        answer = page.client.post("/history", content=b"--x\r\n\0\xff", headers={"content-type": kind})
        assert answer.status_code in (400, 403), kind
        guarded(answer)


@pytest.mark.parametrize("where", ["/static/{}", "/job/1/file/{}", "/job/1/layer/{}/0", "/try/{}", "/{}"])
@pytest.mark.parametrize(
    "path",
    ["../config.toml", "..%2fconfig.toml", "%2e%2e/state/web.token", "....//etc/passwd", "/etc/passwd", "%00", "a%0ab"],
)
def test_no_address_leads_to_a_file(page: Page, where: str, path: str) -> None:
    answer = page.client.get(where.format(path), headers={"accept": "application/json"})
    assert answer.status_code in (400, 404)
    guarded(answer)
    token = (page.folder / "state" / "web.token").read_text().strip()
    assert token not in answer.text
    assert "root:" not in answer.text


# ------------------------------------------------------------------------------------------------------ scans and files


def test_a_hostile_name_shows_as_what_it_is_and_stands_in_no_address(page: Page) -> None:
    job = page.jobs[f"coronary/{HOSTILE}"]
    for address in ("/", "/history", f"/job/{job}"):
        text = page.client.get(address).text
        assert "&lt;img src=x onerror=alert(1)&gt;.png" in text
        assert HOSTILE not in text
        assert not [found for found in re.findall(r'(?:href|src|action)="([^"]*)"', text) if "img" in found]


def test_a_search_by_name_goes_with_the_body(page: Page) -> None:
    found = page.post("/history", name="onerror")
    assert 200 == found.status_code
    assert f"/job/{page.jobs[f'coronary/{HOSTILE}']}" in found.text
    assert f'/job/{page.jobs["a.png"]}"' not in found.text
    by_address = page.client.get("/history?name=onerror")
    assert f'/job/{page.jobs["a.png"]}"' in by_address.text


@pytest.mark.parametrize(
    "said",
    [
        {"state": "x"},
        {"before": "-1"},
        {"before": "9" * 40},
        {"since": "x"},
        {"name": "x" * 400},
        {"review": "x"},
        {"until": "9999-99-99"},
    ],
)
def test_what_cannot_be_searched_for_is_refused(page: Page, said: dict[str, str]) -> None:
    answer = page.post("/history", **said)
    assert 400 == answer.status_code
    guarded(answer)


def test_failures_are_grouped_with_what_to_do(page: Page) -> None:
    text = page.client.get("/failures").text
    record = json.loads(page.client.get(f"/job/{page.jobs['refused.png']}/record").text)
    assert record["advice"].split(";")[0] in text
    assert f"/job/{page.jobs['refused.png']}" in text


def test_the_report_is_there_with_its_charts(page: Page) -> None:
    """As `watcherd report` makes it, within the strict policy: nothing in it has a style of its own."""
    answer = page.client.get("/report?days=1")
    guarded(answer)
    for words in ("Throughput", "Failures", "<svg", "jobs ended", 'href="/report.css"'):
        assert words in answer.text
    assert "style=" not in answer.text
    assert "<style" not in answer.text
    style = page.client.get("/report.css")
    assert "text/css; charset=utf-8" == style.headers["content-type"]
    assert ".line.s0" in style.text


def test_a_report_is_made_once_a_minute(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of another length is made for itself."""
    from watcherd.web import report

    made: list[object] = []
    real = report.gather
    monkeypatch.setattr(report, "gather", lambda *each: made.append(each) or real(*each))
    for _ in range(3):
        assert 200 == page.client.get("/report?days=30").status_code
    assert 1 == len(made)
    page.client.get("/report?days=365")
    assert 2 == len(made)


def test_layers_are_the_scan_the_mask_and_its_map(page: Page) -> None:
    import numpy as np
    from PIL import Image

    job = page.jobs["a.png"]
    layers = {}
    for layer in ("scan", "mask", "probability"):
        answer = page.client.get(f"/job/{job}/layer/{layer}/0")
        assert 200 == answer.status_code, answer.text
        guarded(answer)
        layers[layer] = np.asarray(Image.open(io.BytesIO(answer.content)))
    with Image.open(next((page.folder / "outbox" / "masks").glob("a.png"))) as mask:
        assert np.array_equal(np.asarray(mask), layers["mask"])
    with Image.open(next((page.folder / "outbox" / "probabilities").glob("a.png"))) as probability:
        assert np.array_equal(np.asarray(probability) // 257, layers["probability"])
    with Image.open(io.BytesIO(png(1))) as scan:
        assert np.abs(np.asarray(scan.convert("L"), float) - layers["scan"].reshape(scan.size[::-1])).mean() < 3
    assert 200 == page.client.get(f"/job/{job}/thumbnail").status_code


def test_what_somebody_put_in_the_place_of_a_result_is_not_served(page: Page) -> None:
    job, mask = page.jobs["a.png"], page.folder / "outbox" / "masks" / "a.png"
    whole = page.client.get(f"/job/{job}/file/mask")
    assert mask.read_bytes() == whole.content
    assert 'filename="a.png"' in whole.headers["content-disposition"]
    size = mask.stat().st_size
    mask.unlink()
    mask.symlink_to(page.folder / "state" / "web.token")
    for address in (f"/job/{job}/file/mask", f"/job/{job}/layer/mask/0"):
        refused = page.client.get(address)
        assert 404 == refused.status_code
        guarded(refused)
    mask.unlink()
    mask.write_bytes(bytes(size))
    assert 404 == page.client.get(f"/job/{job}/file/mask").status_code


def test_a_scan_that_others_bytes_lie_in_the_place_of_is_not_shown(page: Page) -> None:
    job = page.jobs["a.png"]
    for copy in [*page.folder.rglob("archive/**/a.png"), *page.folder.glob("state/spool/**/*")]:
        if copy.is_file():
            copy.write_bytes(png(77))
    refused = page.client.get(f"/job/{job}/layer/scan/0")
    assert 404 == refused.status_code
    assert "not there any more" in refused.text


def test_jobs_of_two_scans_are_not_compared(page: Page) -> None:
    one, other = page.jobs["a.png"], page.jobs[f"coronary/{HOSTILE}"]
    assert 400 == page.client.get(f"/job/{one}/compare/{other}").status_code
    assert 200 == page.client.get(f"/job/{one}/compare/{one}").status_code


# ------------------------------------------------------------------------------------------------------- hidden names


@pytest.mark.parametrize("way", ["privacy", "web"])
def test_hidden_names_are_nowhere(page: Page, way: str) -> None:
    if way == "privacy":
        with (page.folder / "config.toml").open("a") as file:
            file.write('[privacy]\nnames = "hidden"\n')
    site, client = open_page(page.folder, **({"hide_names": True} if way == "web" else {}))
    client.cookies.update(dict(page.client.cookies))
    job, failed = page.jobs["a.png"], page.jobs["refused.png"]
    site.doors.steer("review", {"jobs": [job], "verdict": "accepted", "note": "", "reviewer": ""})
    addresses = ["/", "/history", "/failures", "/report", "/reviews.csv", "/reviews.json"]
    addresses += [f"/job/{number}{rest}" for number in (job, failed) for rest in ("", "/record")]
    for address in addresses:
        text = client.get(address).text
        assert not [name for name in ("a.png", "refused", "onerror", "coronary/") if name in text], address
    for kept in (f"/job/{job}/file/result", f"/job/{failed}/file/failed", f"/job/{job}/log"):
        assert client.get(kept).status_code in (403, 404)
    mask = client.get(f"/job/{job}/file/mask")
    assert f'filename="job-{job}.mask.png"' in mask.headers["content-disposition"]
    form = re.search(r'name="csrf" value="([^"]+)"', client.get("/history").text)
    assert form
    assert 400 == client.post("/history", data={"csrf": form[1], "name": "refused"}).status_code
    site.pictures.stop()


# ---------------------------------------------------------------------------------------------------- what people do


def test_a_review_is_written_by_a_command_and_shown(page: Page) -> None:
    job = page.jobs["a.png"]
    told = page.post(f"/job/{job}/review", verdict="accepted", note="=1+1", reviewer="Anna <b>", attempt="")
    assert "1 accepted" in told.text
    assert "Anna &lt;b&gt;" in told.text
    assert 'class="verdict accepted"' in page.client.get("/history?review=accepted").text
    assert "No job matches" in page.client.get("/history?review=rejected").text
    (row,) = page.client.get("/reviews.json").json()
    assert (job, "accepted", "=1+1", False) == (row["job_id"], row["verdict"], row["note"], row["outdated"])
    (cells,) = csv.DictReader(io.StringIO(page.client.get("/reviews.csv").text))
    assert "'=1+1" == cells["note"]
    page.post(f"/job/{job}/review", verdict="")
    assert [] == page.client.get("/reviews.json").json()


def test_a_mask_that_was_not_the_one_that_was_seen_is_not_accepted(page: Page) -> None:
    job = page.jobs["a.png"]
    told = page.post(f"/job/{job}/review", verdict="accepted", attempt="999")
    assert "done again since you looked" in told.text
    assert [] == page.client.get("/reviews.json").json()


def test_a_failed_scan_has_no_mask_to_accept(page: Page) -> None:
    told = page.post(f"/job/{page.jobs['refused.png']}/review", verdict="accepted")
    assert "there is no mask to review" in told.text


def test_a_job_is_done_again_sooner_and_cancelled(page: Page) -> None:
    job = page.jobs["a.png"]
    assert "1 queued again" in page.post(f"/job/{job}/retry").text
    assert "given priority 10" in page.post(f"/job/{job}/priority", priority="10").text
    assert 400 == page.post(f"/job/{job}/priority", priority="many").status_code
    assert "1 cancelled" in page.post(f"/job/{job}/cancel").text
    assert "cancelled" == json.loads(page.client.get(f"/job/{job}/record").text)["state"]


def test_pausing_is_said_and_taken_back(page: Page) -> None:
    assert "paused" in page.post("/pause").text
    assert 'data-held="1"' in page.client.get("/").text
    page.post("/resume")
    assert 'data-held=""' in page.client.get("/").text


def test_without_a_history_the_page_says_so(stranger: Page) -> None:
    stranger.log_in()
    (stranger.folder / "state" / "watcherd.db").unlink()
    answer = stranger.client.get("/")
    assert 200 == answer.status_code
    assert "There is no history" in answer.text
    guarded(refused := stranger.client.get("/history"))
    assert 503 == refused.status_code


def test_the_policy_allows_nothing_from_elsewhere() -> None:
    assert "default-src 'none'" in POLICY
    assert "unsafe" not in POLICY
    assert "http" not in POLICY
