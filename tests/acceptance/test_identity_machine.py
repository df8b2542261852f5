"""Any order of drops, changes of model and profile, pauses, kills, retries and restores: each mask is its model's.

The real daemon, driven by hypothesis. The oracle knows nothing of jobs: for every result in the outbox, the replica
whose attempt made it is looked up in the history; its identity must be the one on the JSON, and the mask must be what
that model gives for the bytes that were dropped under the name.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from PIL import Image

from tests.acceptance.invariants import check_at_any_moment, documents
from tests.acceptance.service import Service, png
from tests.tree import python_path
from watcherd.state import mailbox
from watcherd.store import backup

if TYPE_CHECKING:
    from numpy.typing import NDArray

pytestmark = pytest.mark.heavy

MODELS = (
    {"segmenter": "none"},
    {"segmenter": "fake"},
    {"segmenter": "fake", "dtype": "bfloat16"},
)
THRESHOLDS = (0.25, 0.5, 0.75)
SCANS = 3
"""Different bytes: few, so that they are dropped again and again."""

OUTLIVED = ("no row knows of it", "holds other bytes than were promised")
"""What may be said of results that were delivered after the backup that was restored."""

BELIEVED = """
from watcherd.flights import Flight
from watcherd.store import identity

identity.is_foreign = lambda row, model: False
Flight.model = property(lambda self: self.job.model)
"""
"""As it was once: whatever is loaded runs a job, and the record says what it was queued for. Either line alone is made
good by the other half: a job that was not renewed is corrected."""

MISREAD = """
from dataclasses import replace

from watcherd.pipeline.feed import Feed

item = Feed._item
Feed._item = lambda self, flight: replace(
    item(self, flight), options=replace(flight.job.options, threshold=0.5)
)
"""
"""The model is asked for something else than the record says."""


def machine() -> settings:
    return settings(
        max_examples=2,
        stateful_step_count=50,
        phases=[Phase.generate],  # each example takes a minute: the steps that are printed have to do
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )


class Masks(RuleBasedStateMachine):
    """A daemon in folders of its own, and what was dropped."""

    planted = ""
    steps = 0
    """Steps of all examples: hypothesis chooses how long each is."""

    @initialize(model=st.sampled_from(MODELS))
    def begin(self, model: dict[str, str]) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.service = Service(self.folder)
        self.model, self.threshold = model, 0.5
        self.configure()
        (self.service.inbox / "ward").mkdir()
        self.contents: dict[str, bytes] = {hashlib.sha256(png(n)).hexdigest(): png(n) for n in range(SCANS)}
        self.checked: set[tuple[str, bytes]] = set()
        self.copies = 0
        self.paused = self.restored = False
        if self.planted:
            faults = self.folder / "faults"
            faults.mkdir()
            (faults / "sitecustomize.py").write_text(self.planted)
            self.service.environment = {"PYTHONPATH": python_path(faults)}
        self.start()

    def teardown(self) -> None:
        try:
            if hasattr(self, "service"):
                self.look()
        finally:
            if hasattr(self, "service"):
                self.service.end()
                shutil.rmtree(self.folder)

    @invariant()
    def count(self) -> None:
        type(self).steps += 1

    # What happens

    @rule(name=st.sampled_from(("a", "b", "ward/a", "ward/b")), number=st.integers(0, SCANS - 1))
    def drop(self, name: str, number: int) -> None:
        """Under a new name, under one that was there before, the same bytes or others."""
        partial = self.service.inbox / f"{name}.part"
        partial.write_bytes(png(number))
        partial.rename(self.service.inbox / f"{name}.png")

    @rule(model=st.sampled_from(MODELS), threshold=st.sampled_from(THRESHOLDS), kill=st.booleans())
    def restart_with(self, model: dict[str, str], threshold: float, kill: bool) -> None:
        """Another model, another profile, or the same ones; in good order or not."""
        self.service.kill() if kill else self.service.stop()
        self.model, self.threshold = model, threshold
        self.configure()
        self.start()

    @rule(threshold=st.sampled_from(THRESHOLDS))
    def change_the_profile(self, threshold: float) -> None:
        self.threshold = threshold
        self.configure()
        mailbox.send(self.service.state / "commands", "reload", {})

    @rule()
    def pause(self) -> None:
        self.paused = True
        mailbox.send(self.service.state / "commands", "pause", {})

    @precondition(lambda self: self.paused)
    @rule()
    def resume(self) -> None:
        self.paused = False
        mailbox.send(self.service.state / "commands", "resume", {})

    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        ids = [number for (number,) in self.service.rows("SELECT id FROM job WHERE finished_at IS NOT NULL")]
        if ids:
            chosen = data.draw(st.sampled_from(ids))
            mailbox.send(self.service.state / "commands", "retry", {"jobs": [chosen]})

    @rule()
    def back_up(self) -> None:
        self.copies += 1
        backup.backup(self.service.database, self.folder / f"copy-{self.copies}.db")

    @precondition(lambda self: self.copies)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        """Of what is visible by then no row may know."""
        self.look()
        number = data.draw(st.integers(1, self.copies))
        self.service.stop()
        backup.restore(self.folder / f"copy-{number}.db", self.service.database, now=datetime.now(UTC))
        mailbox.send(self.service.state / "commands", "resume", {})
        self.paused, self.restored = False, True
        self.start()

    @rule()
    def look(self) -> None:
        """Let it all be done, and compare."""
        self.resume()
        self.service.wait(self.is_done, "all to be done")
        wrong = check_at_any_moment(self.service)
        assert [] == [each for each in wrong if not (self.restored and each.endswith(OUTLIVED))]
        for path, document in documents(self.service):
            self.compare(path, document)

    # How it is judged

    def is_done(self) -> bool:
        inbox = [path for path in self.service.inbox.rglob("*") if path.is_file()]
        commands = list((self.service.state / "commands").glob("*.json"))
        return not inbox and not commands and not self.service.live().get("held") and self.service.at_rest()

    def compare(self, path: Path, document: dict[str, Any]) -> None:
        """One delivered result: who made it, and does it look like it?"""
        rows = self.service.rows(
            "SELECT replica.segmenter, replica.model, replica.model_revision, replica.dtype FROM output "
            "JOIN attempt ON attempt.id = output.attempt_id JOIN replica ON replica.id = attempt.replica_id "
            "WHERE output.path = ? AND output.state = 'delivered' AND output.sha256 = ?",
            os.fsencode(path.relative_to(self.service.outbox)),
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        known = (str(path), path.read_bytes())
        if not rows:
            assert known in self.checked, f"{path.name}: no attempt made it"  # of before the history was restored
        for row in rows:
            said = tuple(document[key] for key in ("segmenter", "model", "model_revision", "dtype"))
            assert row == said, f"{path.name}: computed by {row}, and the record says {said}"
        (mask,) = (output["path"] for output in document["outputs"] if output["kind"] == "mask")
        with Image.open(self.service.outbox / mask) as picture:
            found = np.asarray(picture) > 0
        wanted = expected(document["segmenter"], document["threshold"], self.contents[document["sha256"]])
        assert np.array_equal(wanted, found), f"{path.name}: {document['segmenter']} does not give this mask"
        self.checked.add(known)

    def configure(self) -> None:
        ward = {"folder": "ward", "threshold": self.threshold}
        self.service.configure(model=self.model, **{"profiles.ward": ward})

    def start(self) -> None:
        self.service.start()
        self.service.ready()


def expected(segmenter: str, threshold: float, content: bytes) -> NDArray[np.bool_]:
    """What a model gives for a scan: nothing, or its dark pixels (`watcherd.inference.fake`)."""
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    if segmenter == "none":
        return np.zeros(pixels.shape, bool)
    return np.asarray((1 - pixels.astype(np.float32) / 255) > threshold)


def run(kind: type[Masks], steps: int) -> None:
    """At least so many steps, one machine after the other."""
    kind.steps = 0
    number = 0
    while kind.steps < steps:
        number += 1
        run_state_machine_as_test(seed(number)(kind), settings=machine())


@pytest.mark.timeout(1200)
def test_200_steps_in_any_order_never_give_a_mask_another_name() -> None:
    run(Masks, 200)


@pytest.mark.slow_soak
@pytest.mark.timeout(7200)
def test_2000_steps_in_any_order_never_give_a_mask_another_name() -> None:
    run(Masks, 2000)


@pytest.mark.slow_soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("fault", "words"),
    [(BELIEVED, "the record says"), (MISREAD, "does not give this mask")],
    ids=["the job is believed", "other options are used"],
)
def test_a_planted_fault_is_found(fault: str, words: str) -> None:
    class Planted(Masks):
        planted = fault

    with pytest.raises(AssertionError, match=words):
        run(Planted, 1000)
