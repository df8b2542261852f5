"""The service on a real systemd: installed from the wheel, started, hurt, reloaded, stopped and taken away.

The tests of this file are one story: they run in order, on one box.
"""

from __future__ import annotations

import json
import pwd
import re
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from watcherd.logs import MESSAGE_IDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.conftest import Box

pytestmark = [pytest.mark.slow, pytest.mark.story, pytest.mark.xdist_group("box")]

HOME_OF_ROOT = pwd.getpwuid(0).pw_dir
UNIT = "watcherd.service"
PROGRAM = "/opt/watcherd/bin/watcherd"
CONFIG = "/etc/watcherd/config.toml"
INBOX = "/srv/watcherd/inbox"
OUTBOX = "/srv/watcherd/outbox"


def a_scan(seed: int) -> Image.Image:
    """A grey picture with dark lines on it, another one for each seed."""
    noise = np.random.default_rng(seed).normal(150, 8, (96, 96))
    for offset in (20, 50, 75):
        noise[offset : offset + 3, 10:86] -= 70
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8))


def drop(box: Box, name: str, seed: int) -> None:
    """Put a scan into the inbox as a member of the group would: under another name first."""
    part = box.path(f"{INBOX}/.{name}.part")
    a_scan(seed).save(part, format="png")
    part.rename(part.with_name(name))


def result_of(box: Box, name: str) -> dict[str, Any]:
    """What the result's JSON says, as soon as it is there."""
    path = box.path(f"{OUTBOX}/results/{Path(name).stem}.json")
    box.wait(path.exists, f"the result of {name}")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def jobs(box: Box) -> dict[str, dict[str, Any]]:
    """Every job by the path of its scan."""
    answer = box.output("runuser", "-u", "watcherd", "--", PROGRAM, "jobs", "--json", "--config", CONFIG)
    return {job["source"]: job for job in json.loads(answer)}


def set_in_config(box: Box, **changes: object) -> None:
    """Set keys of the configuration, wherever they stand: they are unique names there."""
    path = box.path(CONFIG)
    text = path.read_text()
    for key, value in changes.items():
        text, count = re.subn(rf"^{key} = [^#\n]*", f"{key} = {json.dumps(value)} ", text, flags=re.MULTILINE)
        assert 1 == count, key
    path.write_text(text)


def replicas(box: Box) -> list[int]:
    """Process ids, as the box counts them, of the replicas that are ready; the daemon says so every few seconds."""
    try:
        said = json.loads(box.path("/var/lib/watcherd/status.json").read_text())
    except FileNotFoundError:
        return []
    ready = [replica["pid"] for replica in said.get("replicas", []) if replica["phase"] in {"idle", "busy"}]
    return [pid for pid in ready if box.path(f"/proc/{pid}").exists()]


def send(box: Box, signal: str, pid: int | str) -> None:
    """Send a signal to a process of the box."""
    box.run("sh", "-c", f"kill {signal} {pid}")


def is_active(box: Box) -> bool:
    return "active" == box.property(UNIT, "ActiveState")


def restarts(box: Box) -> int:
    return int(box.property(UNIT, "NRestarts"))


@pytest.fixture(scope="module", autouse=True)
def _journal_on_failure(box: Box, request: pytest.FixtureRequest) -> Iterator[None]:
    """Shows what the service said when a test of this story fails."""
    failed_before = request.session.testsfailed
    yield
    if request.session.testsfailed > failed_before:
        print(box.run("journalctl", "-u", "watcherd*", "-n", "150", "--no-pager", check=False).stdout)


# ------------------------------------------------------------------------------------------------------ installation


def test_an_interpreter_under_root_is_refused(box: Box) -> None:
    """With the reason and the commands that put it right; nothing is written."""
    box.run("/usr/bin/python3", "-m", "venv", "--without-pip", f"{HOME_OF_ROOT}/venv")
    site = box.output(f"{HOME_OF_ROOT}/venv/bin/python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    ours = box.output("/opt/watcherd/bin/python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    box.path(site).joinpath("ours.pth").write_text(f"{ours}\n/opt/dependencies\n")
    refused = box.run(f"{HOME_OF_ROOT}/venv/bin/python", "-m", "watcherd", "install-service", check=False)
    assert 64 == refused.returncode
    assert f"the service sees nothing of {HOME_OF_ROOT} (ProtectHome=yes)" in refused.stderr
    assert "python3 -m venv /opt/watcherd && /opt/watcherd/bin/pip install watcherd" in refused.stderr
    assert not box.path(CONFIG).exists()


def test_install_service_puts_up_a_ready_service(box: Box) -> None:
    """Units, user, folders, configuration; enabled and started; it says what to do next."""
    before = box.output("find", "/etc", "-type", "f")
    answer = box.output(PROGRAM, "install-service")
    assert "usermod -aG watcherd" in answer
    assert is_active(box)
    assert "enabled" == box.output("systemctl", "is-enabled", UNIT)
    assert "active" == box.property("watcherd-prune.timer", "ActiveState")
    assert "2770 watcherd watcherd" == box.output("stat", "-c", "%a %U %G", INBOX)
    assert "/var/lib/watcherd" == tomllib.loads(box.path(CONFIG).read_text())["state"]["path"]
    written = set(box.output("find", "/etc", "-type", "f").split("\n")) - set(before.split("\n"))
    users = {"/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/.pwd.lock", "/etc/gshadow"}
    assert {
        CONFIG,
        "/etc/systemd/system/watcherd.service",
        "/etc/systemd/system/watcherd.service.d/10-watcherd.conf",
        "/etc/systemd/system/watcherd-prune.service",
        "/etc/systemd/system/watcherd-prune.service.d/10-watcherd.conf",
        "/etc/systemd/system/watcherd-prune.timer",
        "/etc/systemd/system/watcherd-web.service",
        "/etc/systemd/system/watcherd-web.service.d/10-watcherd.conf",
        "/etc/systemd/system/watcherd.slice",
        "/etc/sysusers.d/watcherd.conf",
        "/etc/tmpfiles.d/watcherd.conf",
    } == written - users


def test_installing_again_leaves_the_configuration_alone(box: Box) -> None:
    """As after an upgrade: nothing to write, and the service runs."""
    set_in_config(box, segmenter="vesselness")  # it loads in no time; the second instance keeps the default model
    mine = box.path(CONFIG).read_text()
    answer = json.loads(box.output(PROGRAM, "install-service", "--json"))
    assert [] == answer["written"]
    assert mine == box.path(CONFIG).read_text()
    assert is_active(box)


def test_start_blocks_until_the_model_is_ready(box: Box) -> None:
    """systemctl start returns when READY was sent, not when the process exists."""
    box.run("systemctl", "stop", UNIT)
    box.run("systemctl", "start", "--no-block", UNIT)
    box.wait(lambda: "activating" == box.property(UNIT, "ActiveState"), "the start to begin", seconds=5)
    box.run("systemctl", "start", UNIT)
    assert is_active(box)
    assert 1 == len(replicas(box))


def test_systemd_sees_the_service_as_hardened(box: Box) -> None:
    """The unit that runs, drop-in and all, is exposed no more than the shipped one."""
    answer = box.output("systemd-analyze", "security", "--no-pager", UNIT)
    found = re.search(r"exposure level for .*: ([\d.]+)", answer)
    assert found
    assert float(found[1]) <= 0.6


# ------------------------------------------------------------------------------------------------------------- work


def test_a_scan_becomes_a_mask(box: Box) -> None:
    """Dropped into the inbox, found in the outbox, gone from the inbox; all of it the group's."""
    drop(box, "first.png", 1)
    result = result_of(box, "first.png")
    mask = Image.open(box.path(f"{OUTBOX}/masks/first.png"))
    assert (96, 96) == mask.size
    assert {0, 255} == set(np.unique(np.asarray(mask)).tolist())
    assert "succeeded" == result["state"]
    assert "watcherd watcherd" == box.output("stat", "-c", "%U %G", f"{OUTBOX}/masks/first.png")
    box.wait(lambda: box.path("/srv/watcherd/archive/first.png").exists(), "the scan to be archived")
    assert not box.path(f"{INBOX}/first.png").exists()


def test_status_shows_what_the_service_does(box: Box) -> None:
    """systemctl status has a line from the daemon."""
    text = box.wait(lambda: box.property(UNIT, "StatusText"), "a status")
    assert text in box.run("systemctl", "status", "--no-pager", UNIT).stdout
    assert "replica" in text


def test_the_journal_is_searched_by_fields(box: Box) -> None:
    """JOB_ID, EVENT and PRIORITY are fields of the entries, not words in them."""
    job = str(jobs(box)["first.png"]["id"])
    entries = box.journal("-u", UNIT, f"JOB_ID={job}")
    assert entries
    assert {job} == {entry["JOB_ID"] for entry in entries}
    assert all(entry["EVENT"] == entry["MESSAGE"].split()[0] for entry in entries)
    assert {"watcherd"} == {entry["SYSLOG_IDENTIFIER"] for entry in entries}
    assert box.journal("-u", UNIT, "EVENT=daemon_ready")
    assert [] == box.journal("-u", UNIT, "-p", "warning", f"JOB_ID={job}")


def test_a_failure_is_found_by_its_message_id(box: Box) -> None:
    """What monitoring asks for, with the class of the error beside it."""
    box.path(f"{INBOX}/.bad.part").write_bytes(b"not a picture")
    box.path(f"{INBOX}/.bad.part").rename(box.path(f"{INBOX}/bad.png"))
    box.wait(box.path(f"{OUTBOX}/failed/bad.txt").exists, "the failure to be told")
    (entry,) = box.wait(lambda: box.journal(f"MESSAGE_ID={MESSAGE_IDS['job_failed']}"), "its entry")
    assert ("job_failed", str(jobs(box)["bad.png"]["id"]), "input") == (
        entry["EVENT"],
        entry["JOB_ID"],
        entry["ERROR_CLASS"],
    )


def test_members_of_the_group_read_results_and_history(box: Box) -> None:
    """`usermod -aG watcherd anna` is all that anna needs; others read nothing."""
    box.run("useradd", "--groups", "watcherd", "anna")
    box.run("useradd", "stranger")
    ask = (PROGRAM, "jobs", "--json", "--config", CONFIG)
    assert "first.png" in box.output("runuser", "-u", "anna", "--", *ask)
    assert 0 != box.run("runuser", "-u", "stranger", "--", *ask, check=False).returncode
    see = ("cat", f"{OUTBOX}/results/first.json")
    assert "first.png" in box.output("runuser", "-u", "anna", "--", *see)
    assert 0 != box.run("runuser", "-u", "stranger", "--", *see, check=False).returncode


def test_journalctl_accepts_the_lines_of_the_manual(box: Box) -> None:
    """Every one in docs/operations.md that does not follow for ever."""
    manual = Path(__file__).parents[2].joinpath("docs/operations.md").read_text()
    lines = [line for line in re.findall(r"^\$ (journalctl .*)$", manual, re.MULTILINE) if not line.endswith(" -f")]
    assert len(lines) > 5
    for line in lines:
        answer = box.run("sh", "-c", f"{line} --no-pager")
        assert "" == answer.stderr, line


# ----------------------------------------------------------------------------------------------------------- healing


def test_kill_9_of_the_main_process_heals(box: Box) -> None:
    """systemd starts it again, its children are gone with it, and it works."""
    count, old, (replica,) = restarts(box), box.property(UNIT, "MainPID"), replicas(box)
    send(box, "-9", old)
    box.wait(lambda: restarts(box) == count + 1 and is_active(box), "the restart")
    assert old != box.property(UNIT, "MainPID")
    box.run("sh", "-c", f"! kill -0 {replica}")
    drop(box, "after-kill.png", 2)
    assert "succeeded" == result_of(box, "after-kill.png")["state"]


def test_kill_9_of_a_replica_heals(box: Box) -> None:
    """The daemon stays and loads the model again."""
    main, (old,) = box.property(UNIT, "MainPID"), replicas(box)
    send(box, "-9", old)
    box.wait(lambda: replicas(box) and old not in replicas(box), "another replica")
    drop(box, "after-replica.png", 3)
    assert "succeeded" == result_of(box, "after-replica.png")["state"]
    assert main == box.property(UNIT, "MainPID")


def test_a_service_that_stops_pinging_is_killed_and_restarted(box: Box) -> None:
    """The watchdog of systemd ends a process that hangs, here one that is stopped; its stacks are in the journal."""
    box.path("/etc/systemd/system/watcherd.service.d/90-test.conf").write_text("[Service]\nWatchdogSec=4s\n")
    box.run("systemctl", "daemon-reload")
    box.run("systemctl", "restart", UNIT)
    time.sleep(6)  # longer than the watchdog waits: the pings come
    assert is_active(box)
    assert 0 == restarts(box)
    old = box.property(UNIT, "MainPID")
    send(box, "-STOP", old)
    box.wait(lambda: restarts(box) == 1 and is_active(box), "the watchdog to act")
    assert old != box.property(UNIT, "MainPID")
    assert any("atchdog" in entry["MESSAGE"] for entry in box.journal("-u", UNIT, "_PID=1"))
    said = [entry["MESSAGE"] for entry in box.journal("-u", UNIT, f"_PID={old}")]
    assert any("Fatal Python error: Aborted" in message for message in said), "where it hung"
    box.path("/etc/systemd/system/watcherd.service.d/90-test.conf").unlink()
    box.run("systemctl", "daemon-reload")


# ---------------------------------------------------------------------------------------------------- reload and stop


def test_reload_applies_a_new_threshold(box: Box) -> None:
    """When systemctl reload returns, the next scan is done with it; the model stays loaded."""
    before = replicas(box)
    set_in_config(box, threshold=0.25)
    box.run("systemctl", "reload", UNIT)
    drop(box, "reloaded.png", 4)
    assert 0.25 == result_of(box, "reloaded.png")["threshold"]
    assert before == replicas(box)


def test_reload_of_a_bad_file_fails_and_keeps_the_old(box: Box) -> None:
    """systemctl reload says so by its exit status, and the service goes on as it was."""
    set_in_config(box, threshold=7)
    assert 0 != box.run("systemctl", "reload", UNIT, check=False).returncode
    assert is_active(box)
    drop(box, "kept.png", 5)
    assert 0.25 == result_of(box, "kept.png")["threshold"]
    entries = box.journal("-u", UNIT)
    assert any("model.threshold" in entry["MESSAGE"] for entry in entries if isinstance(entry["MESSAGE"], str))
    set_in_config(box, threshold=0.25)
    box.run("systemctl", "reload", UNIT)


def test_stop_requeues_a_long_job(box: Box) -> None:
    """A batch that does not end is given back: stopped in time, queued, and done after the next start."""
    set_in_config(box, stop_seconds=2.0)
    box.run("systemctl", "restart", UNIT)
    (replica,) = replicas(box)
    send(box, "-STOP", replica)
    drop(box, "long.png", 6)
    box.wait(lambda: "running" == jobs(box).get("long.png", {}).get("state"), "the job to run")
    started = time.monotonic()
    box.run("systemctl", "stop", UNIT)
    assert time.monotonic() - started < 90
    assert ("inactive", "success") == (box.property(UNIT, "ActiveState"), box.property(UNIT, "Result"))
    assert "queued" == jobs(box)["long.png"]["state"]
    box.run("systemctl", "start", UNIT)
    assert "succeeded" == result_of(box, "long.png")["state"]


def test_a_bad_configuration_is_not_started_again_and_again(box: Box) -> None:
    """Exit status 78 is final: a person has to mend the file."""
    set_in_config(box, threshold=7)
    assert 0 != box.run("systemctl", "restart", UNIT, check=False).returncode
    time.sleep(3)  # longer than RestartSec
    assert ("failed", "78", 0) == (
        box.property(UNIT, "ActiveState"),
        box.property(UNIT, "ExecMainStatus"),
        restarts(box),
    )
    set_in_config(box, threshold=0.5)
    box.run("systemctl", "start", UNIT)
    assert is_active(box)


# ------------------------------------------------------------------------------------------------- several, and none


def test_pruning_runs_as_confined_as_the_service(box: Box) -> None:
    """The timer's service does its work beside the running daemon."""
    box.run("systemctl", "start", "watcherd-prune.service")
    assert "success" == box.property("watcherd-prune.service", "Result")


def test_an_inbox_that_is_mounted_later_appears(box: Box) -> None:
    """The sandbox of a running service sees shares that the host mounts afterwards."""
    box.run("mount", "-t", "tmpfs", "-o", "mode=2770,uid=watcherd,gid=watcherd", "share", INBOX)
    try:
        main = box.property(UNIT, "MainPID")
        assert f" {INBOX} " in box.output("cat", f"/proc/{main}/mountinfo")
        drop(box, "mounted.png", 7)
        assert "succeeded" == result_of(box, "mounted.png")["state"]
    finally:
        box.run("umount", "-l", INBOX)


def test_a_second_instance_stands_beside_the_first(box: Box) -> None:
    """Another inbox, configuration and history; taking it away leaves the first as it is."""
    box.run(PROGRAM, "install-service", "--instance", "left", "--inbox", "/data/left in", "--outbox", "/data/left out")
    assert "active" == box.property("watcherd@left.service", "ActiveState")
    assert is_active(box)
    a_scan(8).save(box.path("/data/left in/a.png"))
    box.wait(lambda: box.path("/data/left out/results/a.json").exists(), "the second instance's result")
    box.run(PROGRAM, "uninstall-service", "--instance", "left")
    assert "inactive" == box.property("watcherd@left.service", "ActiveState")
    assert not box.path("/etc/systemd/system/watcherd@.service").exists()
    assert box.path("/etc/systemd/system/watcherd.slice").exists()
    assert is_active(box)


def test_uninstall_takes_away_what_was_put_there_and_leaves_the_data(box: Box) -> None:
    """Inbox, outbox, archive, history and configuration stay; no unit does."""
    box.path("/etc/systemd/system/watcherd.service.d/override.conf").write_text("[Service]\nNice=1\n")
    answer = box.output(PROGRAM, "uninstall-service")
    assert "left /var/lib/watcherd" in answer
    assert "inactive" == box.property(UNIT, "ActiveState")
    left = box.output("find", "/etc", "-name", "*watcherd*").split("\n")
    assert ["/etc/systemd/system/watcherd.service.d", "/etc/watcherd"] == sorted(left)
    for path in (
        CONFIG,
        "/var/lib/watcherd/watcherd.db",
        f"{OUTBOX}/masks/first.png",
        "/srv/watcherd/archive/first.png",
    ):
        assert box.path(path).exists(), path
    assert box.path(INBOX).is_dir()


def test_purge_asks_twice(box: Box) -> None:
    """One yes is not enough; two take configuration and history away, never scans or results."""
    box.run(PROGRAM, "install-service")
    assert 0 != box.run(PROGRAM, "uninstall-service", "--purge", text="y\nno\n", check=False).returncode
    assert is_active(box)
    assert box.path(CONFIG).exists()
    box.run(PROGRAM, "uninstall-service", "--purge", text="y\nwatcherd\n")
    assert not box.path(CONFIG).exists()
    assert not box.path("/var/lib/watcherd").exists()
    assert box.path(f"{OUTBOX}/masks/first.png").exists()
    assert box.path("/srv/watcherd/archive/first.png").exists()
