"""Steering while no daemon runs: the command line takes the daemon's place, under its lock. (With a daemon:
tests/acceptance/test_steering.py.)"""

from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from watcherd.cli import stop as stopping
from watcherd.outbox.deliver import hash_file
from watcherd.service import job_commands
from watcherd.state import lock, mailbox
from watcherd.status.starting import how_to_start

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.cli.conftest import CommandLine


def test_failed_jobs_are_queued_again_from_their_copy(watcherd: CommandLine) -> None:
    """All that failed in one class, without naming them; the others stay."""
    assert (
        "1 queued again" == watcherd("retry", "--state", "failed", "--error-class", "input", "--json").json["outcome"]
    )
    assert {"refused.png": "queued", "no vessel.png": "failed"}.items() <= watcherd.states().items()


def test_a_succeeded_job_is_done_again_from_the_archive(watcherd: CommandLine) -> None:
    """Its copy was given up; the archive's bytes are compared with the hash before they come back to the spool."""
    spool, job = watcherd.config.state.spool, watcherd.job("a.png")
    sha256 = watcherd("show", str(job), "--json").json["sha256"]
    assert not (spool / sha256[:2] / sha256).exists()
    assert "1 queued again" in watcherd("retry", str(job)).out
    assert "queued" == watcherd.states()["a.png"]
    assert sha256 == hash_file(bytes(spool / sha256[:2] / sha256))


def test_what_does_not_run_need_not_be_stopped(watcherd: CommandLine) -> None:
    assert "it is not running\n" == watcherd("stop").out


def test_a_service_of_systemd_is_left_to_systemd(
    watcherd: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the command that stops it; nothing is sent to the process."""
    monkeypatch.setattr(lock, "owner", lambda _: 7)
    monkeypatch.setattr(stopping, "PROC", tmp_path)
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a signal was sent"))
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text("0::/system.slice/watcherd@chest.service\n")
    said = watcherd("stop")
    assert 64 == said.code
    assert "systemctl stop watcherd@chest.service" in said.err


def test_who_may_not_stop_it_is_told_and_who_waited_in_vain(
    watcherd: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Exit code 69 for both."""
    monkeypatch.setattr(lock, "owner", lambda _: 7)
    monkeypatch.setattr(stopping, "PROC", tmp_path)
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *what: sent.append(what))
    said = watcherd("stop", "--wait", "0")
    assert (69, [(7, signal.SIGTERM)]) == (said.code, sent)
    assert "has not within 0 s" in said.err

    def refuse(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    said = watcherd("stop")
    assert 69 == said.code
    assert "You may not stop process 7" in said.err


@pytest.mark.parametrize("fate", ["gone", "changed"])
def test_a_scan_whose_bytes_are_lost_cannot_be_done_again(watcherd: CommandLine, fate: str) -> None:
    """Neither in the spool nor in the archive, or other bytes there: exit code 64, and nothing is queued."""
    for path in watcherd.config.inbox.archive_path.rglob("*.png"):
        path.unlink() if fate == "gone" else path.write_bytes(b"other bytes")
    answer = watcherd("retry", str(watcherd.job("a.png")))
    assert 64 == answer.code
    assert "neither in the spool nor in the archive" in answer.err
    assert "succeeded" == watcherd.states()["a.png"]


def test_of_several_the_lost_ones_are_named_and_the_others_done_again(watcherd: CommandLine) -> None:
    """The person hears of both."""
    shutil.rmtree(watcherd.config.inbox.archive_path)
    answer = watcherd("retry", str(watcherd.job("a.png")), str(watcherd.job("refused.png")))
    assert 64 == answer.code
    assert f"The bytes of job {watcherd.job('a.png')} are neither" in answer.err
    assert "Queued again: 1." in answer.err
    assert {"a.png": "succeeded", "refused.png": "queued"}.items() <= watcherd.states().items()


def test_a_command_names_no_more_jobs_than_it_may(watcherd: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too much is refused as a whole, with the figures."""
    monkeypatch.setattr(job_commands, "MOST_JOBS", 1)
    answer = watcherd("retry", "--state", "failed")
    assert 64 == answer.code
    assert "2 jobs are more than the 1 that one command may name" in answer.err
    assert 2 == list(watcherd.states().values()).count("failed")


def test_waiting_jobs_are_taken_back_and_put_first(watcherd: CommandLine) -> None:
    """What does not wait is named and left alone."""
    refused, done = watcherd.job("refused.png"), watcherd.job("a.png")
    watcherd("retry", str(refused))
    assert (
        f"1 given priority 7; not waiting, so left alone: {done}\n"
        == watcherd("prioritise", str(refused), str(done), "--priority", "7").out
    )
    assert 7 == watcherd("show", str(refused), "--json").json["priority"]
    assert "1 cancelled" in watcherd("cancel", "--state", "queued").out
    assert {"refused.png": "cancelled", "a.png": "succeeded"}.items() <= watcherd.states().items()


def test_nobody_is_meant_when_nobody_is_named(watcherd: CommandLine) -> None:
    """A bare ``retry`` or ``cancel`` does not take everything; a job that is not there is a mistake."""
    for command in ("retry", "cancel"):
        answer = watcherd(command)
        assert (64, "") == (answer.code, answer.out)
        assert "--state" in answer.err
    assert 64 == watcherd("prioritise").code
    answer = watcherd("retry", "4711")
    assert 64 == answer.code
    assert "There is no job 4711" in answer.err


def test_numbers_and_a_state_together_are_refused(watcherd: CommandLine) -> None:
    """``retry 2 --state failed`` could mean one job or all of them."""
    assert 64 == watcherd("retry", "1", "--state", "failed").code
    assert 2 == list(watcherd.states().values()).count("failed")


def test_no_job_matches_is_no_mistake(watcherd: CommandLine) -> None:
    """A script may ask for what is not there."""
    assert "0 queued again" == watcherd("retry", "--state", "quarantined", "--json").json["outcome"]


def test_what_only_a_daemon_can_do_says_that_none_runs(watcherd: CommandLine) -> None:
    """Exit code 69, with the way to start it."""
    answer = watcherd("reload")
    assert (69, "") == (answer.code, answer.out)
    assert "not running" in answer.err
    assert f"Start it: {how_to_start()}" in answer.err


def test_a_wrong_configuration_is_not_reloaded(watcherd: CommandLine) -> None:
    """Exit code 78, with or without a daemon."""
    watcherd.configure("[nonsense]\n")
    answer = watcherd("reload")
    assert 78 == answer.code
    assert "nonsense" in answer.err


def test_a_command_waits_for_a_daemon_that_does_not_answer(
    watcherd: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left for the daemon, and the person hears that it is not done yet."""
    monkeypatch.setattr("watcherd.cli.steer.PATIENCE_SECONDS", 0.0)
    config = watcherd.config
    with lock.sole_owner(config.state.lock):
        answer = watcherd("cancel", str(watcherd.job("a.png")))
    assert 69 == answer.code
    assert "has not answered" in answer.err
    ((_, command),) = mailbox.waiting(config.state.commands)
    assert command is not None
    assert "cancel" == command.verb


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_who_may_not_write_the_folder_of_commands_may_not_steer(watcherd: CommandLine) -> None:
    """Permissions are the state folder's."""
    config = watcherd.config
    config.state.commands.chmod(0o500)
    with lock.sole_owner(config.state.lock):
        answer = watcherd("pause")
    assert 69 == answer.code
    assert "as the service's user or as root" in answer.err


def test_a_folder_of_commands_that_is_gone_is_said_so(watcherd: CommandLine) -> None:
    """Whatever is wrong with it, the person hears where the command should have gone."""
    config = watcherd.config
    shutil.rmtree(config.state.commands)
    with lock.sole_owner(config.state.lock):
        answer = watcherd("pause")
    assert 69 == answer.code
    assert str(config.state.commands) in answer.err
