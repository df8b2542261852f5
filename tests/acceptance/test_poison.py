"""Scans that kill or hang what works on them: quarantined after two tries alone, and nobody else suffers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.acceptance.invariants import check_invariants, documents, notes
from tests.acceptance.service import Service, marked_png, png
from tests.tree import python_path

if TYPE_CHECKING:
    from collections.abc import Iterator

HASTE = '''
"""Loaded by every Python process that the daemon is: waits are short, and scans can poison the decoder."""

import functools
import os
import time
from datetime import timedelta

from watcherd import retry
from watcherd.imaging import worker
from watcherd.inference.pool.pool import ReplicaPool

retry.DELAYS = (timedelta(seconds=0.5),) * 3
ReplicaPool.__init__.__kwdefaults__["back_off"] = lambda restarts: 0.1
decode = worker.timed_decode


@functools.wraps(decode)
def poisoned(source, *more):
    content = source.read_bytes()
    if content.endswith(b"kill the decoder"):
        os.abort()
    if content.endswith(b"hang the decoder"):
        time.sleep(3600)
    return decode(source, *more)


worker.timed_decode = poisoned
'''

POISON = ("kills the model.png", "hangs the model.png", "kills the decoder.png", "hangs the decoder.png")
INNOCENT = 12


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One run over a dozen good scans with four poisonous ones among them."""
    folder = tmp_path_factory.mktemp("poison")
    service = Service(
        folder, model={"segmenter": "fake"}, devices={"batch_seconds": 3}, limits={"decode_seconds": 3, "workers": 2}
    )
    haste = folder / "haste"
    haste.mkdir()
    (haste / "sitecustomize.py").write_text(HASTE)
    service.environment = {"PYTHONPATH": python_path(haste)}
    for number in range(INNOCENT // 2):
        service.drop(f"innocent {number}.png", png(number))
    service.drop(POISON[0], marked_png(100, "kill"))
    service.drop(POISON[1], marked_png(101, "hang"))
    service.drop(POISON[2], png(102) + b"kill the decoder")
    service.drop(POISON[3], png(103) + b"hang the decoder")
    for number in range(INNOCENT // 2, INNOCENT):
        service.drop(f"innocent {number}.png", png(number))
    assert service.once() == 0, service.tail()
    yield service
    service.end()


def test_the_others_finish_and_pay_nothing(service: Service) -> None:
    """Each has one counted attempt, also where its batch died under it."""
    rows = service.rows("SELECT state, attempts FROM job WHERE source LIKE 'innocent%'")
    assert rows == [("succeeded", 1)] * INNOCENT


@pytest.mark.parametrize("name", POISON)
def test_poison_is_quarantined_after_two_tries_alone(service: Service, name: str) -> None:
    """With what it did as the reason, a note beside the results, and its copy kept for a retry."""
    rows = service.rows("SELECT id, state, error_class, crashes_alone, attempts FROM job WHERE source = ?", name)
    (number, *facts) = rows[0]
    assert facts == ["quarantined", "crash", 2, 2]
    alone = service.rows("SELECT outcome FROM attempt WHERE job_id = ? ORDER BY id DESC LIMIT 2", number)
    assert alone == [("quarantined",), ("retry",)]
    assert notes(service).count(name) == 1
    assert service.rows("SELECT spool_name IS NULL FROM job JOIN scan ON scan.id = scan_id WHERE source = ?", name) == [
        (0,)
    ]


def test_a_hang_is_killed_and_its_stack_logged(service: Service) -> None:
    """The log says where the model hung, to the function."""
    reasons = [(entry["reason"], entry.get("stack_dump", "")) for entry in service.log("replica_died")]
    hung = [stack for reason, stack in reasons if "no sign of life for 3 s" in reason]
    assert hung
    assert all("fake.py" in stack and "predict" in stack for stack in hung)
    assert any("SIGKILL" in reason for reason, _ in reasons)


def test_every_death_is_in_the_history(service: Service) -> None:
    """Each replica that died has its row, with the reason."""
    recorded = service.rows("SELECT count(*) FROM replica WHERE end_reason LIKE 'its process ended%'")
    hung = service.rows("SELECT count(*) FROM replica WHERE end_reason LIKE 'no sign of life%'")
    assert recorded[0][0] + hung[0][0] == len(service.log("replica_died"))


def test_all_of_it_adds_up(service: Service) -> None:
    """And what is quarantined succeeds when its cause is gone and a person asks for it."""
    assert check_invariants(service) == []
    assert len(list(documents(service))) == INNOCENT
    assert service.json("retry", "--state", "quarantined")["outcome"].startswith("4 queued again")
    service.environment = {}
    service.configure(model={"segmenter": "none"})
    assert service.once() == 0
    assert service.states() == {"succeeded": INNOCENT + len(POISON)}
    assert notes(service) == []
    assert check_invariants(service) == []
