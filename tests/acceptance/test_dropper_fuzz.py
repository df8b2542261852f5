"""Whoever may drop files may drop any: names, depths, files in folders' places, sidecars, layouts, profiles, deletes
and renames, restarts between. The real daemon, driven by hypothesis.

The oracle: the daemon lives, the scans of everybody else arrive under their names, and in the end the fates add up.
What becomes of the dropper's own files is for the invariants to say, which know nothing of who dropped what.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.acceptance.invariants import check_at_any_moment
from tests.acceptance.service import Service, broken, png
from tests.tree import python_path
from watcherd.config import IGNORED_NAMES
from watcherd.file_names import show
from watcherd.inbox.sweep import IgnoreList

pytestmark = pytest.mark.heavy

EVERYBODY = "everybody"
"""The folder of those who drop good scans under good names; the dropper does not get into it."""

STEMS = (
    b"a",
    b"b",
    b"scan",
    b"M\xfcller",
    b"two\nlines",
    b"-rf",
    b"x" * 120,
    b"result",
    b"masks",
    b"..a",
    "ü".encode(),
)
SUFFIXES = (b".png", b".PNG", b"", b".tif", b".png.toml", b".json", b".part", b".dcm", b".nii.gz")
FOLDERS = (b"", b"w", b"w/deep", b"a.png", b"scan", b"d/" * 12, b"failed", b"masks", b"strict")
"""Some are called like a file, like a result, or like a folder of the outbox."""

SIDECARS = (
    b"",
    b"threshold = 0.3\n",
    b'{"threshold": 0.9}',
    b"threshold = 7\n",
    b'outputs = ["mask", "panel", "probability"]\n',
    rb'{"prompt": "half \ud800 a pair"}',
    b"[" * 3000,
    b".".join([b"a"] * 1500) + b" = 1\n",
    b'{"made by": "a phone"}',
    b"\xff\xfe\x00",
    b'prompt = "\\u0000"\n',
)

LAYOUTS = ("per-kind", "per-scan")
LIVES = 60
"""Steps of one example, at most: each begins with a daemon's start."""


def bytes_of_a_file(number: int) -> bytes:
    """Good scans, few of them, bad ones, and files that look unfinished."""
    content = png(number % 7)
    return (content, content, broken(number % 3), b"", content[: len(content) // 2], b"\x89PNG\r\n\x1a\n")[number % 6]


NAMES = st.builds(
    lambda folder, stem, suffix: b"/".join(filter(None, (folder.strip(b"/"), stem + suffix))),
    st.sampled_from(FOLDERS),
    st.sampled_from(STEMS),
    st.sampled_from(SUFFIXES),
)


def machine() -> settings:
    return settings(
        max_examples=2,  # the first is the simplest there is
        stateful_step_count=LIVES,
        phases=[Phase.generate],  # an example takes long: the steps that are printed have to do
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )


class Dropper(RuleBasedStateMachine):
    """A daemon in folders of its own, and somebody who may drop what he likes beside everybody else."""

    planted = ""
    steps = 0
    """Steps of all examples: hypothesis chooses how long each is."""

    @initialize(layout=st.sampled_from(LAYOUTS), on_success=st.sampled_from(("archive", "delete", "keep")))
    def begin(self, layout: str, on_success: str) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.service = Service(self.folder)
        self.layout, self.on_success, self.threshold = layout, on_success, 0.5
        self.configure()
        (self.service.inbox / EVERYBODY).mkdir()
        self.good: dict[int, str] = {}
        if self.planted:
            faults = self.folder / "faults"
            faults.mkdir()
            (faults / "sitecustomize.py").write_text(self.planted)
            self.service.environment = {"PYTHONPATH": python_path(faults)}
        self.start()

    def configure(self) -> None:
        self.service.configure(
            inbox={"on_success": self.on_success, "settle_limit_seconds": 0.5},
            outbox={"layout": self.layout},
            **{"profiles.strict": {"folder": "strict", "threshold": self.threshold, "outputs": ["mask", "panel"]}},
        )

    def start(self) -> None:
        self.service.start()
        self.service.ready()

    def teardown(self) -> None:
        try:
            if hasattr(self, "service") and sys.exception() is None:  # what a step has found is said, and nothing else
                self.look()
        finally:
            if hasattr(self, "service"):
                self.service.end()
                shutil.rmtree(self.folder)

    @invariant()
    def lives(self) -> None:
        """After every step."""
        type(self).steps += 1
        if hasattr(self, "service"):
            self.service.live()

    # What the dropper does

    def path(self, name: bytes) -> Path:
        return self.service.inbox / os.fsdecode(name)

    @rule(name=NAMES, number=st.integers(0, 41))
    def drop(self, name: bytes, number: int) -> None:
        """A file, in place; where its folder is a file, or its name a folder's, there is nothing to be dropped."""
        self.put(name, bytes_of_a_file(number))

    @rule(name=NAMES, content=st.sampled_from(SIDECARS), suffix=st.sampled_from((b".toml", b".json")))
    def drop_with_a_sidecar(self, name: bytes, content: bytes, suffix: bytes) -> None:
        self.put(name + suffix, content)
        self.put(name, bytes_of_a_file(0))

    @rule(folder=st.sampled_from(FOLDERS), content=st.sampled_from(SIDECARS))
    def say_for_a_folder(self, folder: bytes, content: bytes) -> None:
        self.put(b"/".join(filter(None, (folder.strip(b"/"), b"_options.toml"))), content)

    @rule(name=NAMES, content=st.binary(max_size=40))
    def drop_any_bytes(self, name: bytes, content: bytes) -> None:
        self.put(name, content)

    def put(self, name: bytes, content: bytes) -> None:
        with contextlib.suppress(OSError):
            self.path(name).parent.mkdir(parents=True, exist_ok=True)
            self.path(name).write_bytes(content)

    @rule(name=NAMES)
    def make_a_folder(self, name: bytes) -> None:
        """Also one that is called like a scan, in whose place one may have been a moment ago."""
        with contextlib.suppress(OSError):
            self.path(name).mkdir(parents=True)

    @rule(name=NAMES, to=NAMES)
    def rename(self, name: bytes, to: bytes) -> None:
        """A file or a folder, onto whatever is there."""
        with contextlib.suppress(OSError):
            self.path(name).rename(self.path(to))

    @rule(name=NAMES)
    def delete(self, name: bytes) -> None:
        path = self.path(name)
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    @rule(name=NAMES, to=NAMES)
    def link(self, name: bytes, to: bytes) -> None:
        with contextlib.suppress(OSError):
            self.path(name).symlink_to(self.path(to))

    # What everybody else, and the person who looks after the service, do

    @rule()
    def a_good_scan(self) -> None:
        """Of everybody else's: it has to arrive."""
        number = len(self.good) + 1
        content = png(1000 + number)
        (self.service.inbox / EVERYBODY / f"{number}.png").write_bytes(content)
        self.good[number] = hashlib.sha256(content).hexdigest()

    @rule(kill=st.booleans(), layout=st.sampled_from(LAYOUTS), threshold=st.sampled_from((0.2, 0.8)))
    def restart(self, kill: bool, layout: str, threshold: float) -> None:
        """In good order or not, with another layout and another profile."""
        self.service.kill() if kill else self.service.stop()
        self.layout, self.threshold = layout, threshold
        self.configure()
        self.start()

    @rule()
    def look(self) -> None:
        """Let it all be done, and add up."""
        for _ in range(2):
            self.a_good_scan()
        self.service.wait(self.good_ones_are_there, "everybody else's results")
        self.service.wait(self.is_quiet, "all to be done")
        assert [] == check_at_any_moment(self.service)
        assert [] == self.without_fate(), "nobody knows of it"

    def good_ones_are_there(self) -> bool:
        """Each under its own name, with its own bytes, whatever the layout was then."""
        rows = self.service.rows(
            "SELECT arrival.path_text, output.path FROM output JOIN arrival ON arrival.id = output.arrival_id "
            "WHERE output.kind = 'result' AND output.state = 'delivered' AND arrival.path_text GLOB ?",
            f"{EVERYBODY}/*",
        )
        found = {}
        for source, path in rows:
            document = json.loads((self.service.outbox / os.fsdecode(path)).read_text())
            found[source] = document["sha256"] if document["source"] == source else ""
        return all(found.get(f"{EVERYBODY}/{number}.png") == sha256 for number, sha256 in self.good.items())

    def is_quiet(self) -> bool:
        """Whether nothing is to be done now; what failed in a way that may pass is to be done later."""
        busy = self.service.rows(
            "SELECT 1 FROM job WHERE state IN ('running', 'delivering') OR (state = 'queued' AND not_before IS NULL) "
            "UNION ALL SELECT 1 FROM arrival WHERE delivery IN ('due', 'intended') OR disposal = 'pending' "
            "AND delivery IN ('delivered', 'none') OR fate = 'settling' AND present = 1 LIMIT 1"
        )
        return not busy and not self.without_fate()

    def without_fate(self) -> list[str]:
        """What lies in the inbox, is not on a list of names that are nobody's scans, and has no row."""
        with_fate = {bytes(path) for (path,) in self.service.rows("SELECT path FROM arrival WHERE present = 1")}
        inbox = os.fsencode(self.service.inbox)
        found = []
        for folder, below, files in os.walk(inbox):
            links = [name for name in below if os.path.islink(os.path.join(folder, name))]  # noqa: PTH114, PTH118
            found += [os.path.relpath(os.path.join(folder, name), inbox) for name in (*files, *links)]  # noqa: PTH118
        return [
            show(path)
            for path in found
            if path not in with_fate and not IGNORED.has_any(path) and not path.endswith((b".toml", b".json"))
        ]


IGNORED = IgnoreList(IGNORED_NAMES)


def run(kind: type[Dropper], steps: int) -> None:
    """At least so many steps, one machine after the other."""
    kind.steps = 0
    number = 0
    while kind.steps < steps:
        number += 1
        run_state_machine_as_test(seed(number)(kind), settings=machine())


@pytest.mark.timeout(900)
def test_60_steps_of_a_dropper_cost_nobody_else_anything() -> None:
    run(Dropper, 60)


@pytest.mark.slow_soak
@pytest.mark.timeout(7200)
def test_2000_steps_of_a_dropper_cost_nobody_else_anything() -> None:
    run(Dropper, 2000)


STORED = """
from watcherd import set_aside
from watcherd.inbox import sidecar_options
from watcherd.job import Options

sidecar_options._check = lambda given: None
Options.checked = lambda self: self
set_aside.concerns_all = lambda error: True
"""
"""As it was once: what a sidecar says is stored, whether or not it can be, and an error with it ends the service."""

PASSED_OVER = r"""
from watcherd.inbox.sweep import IgnoreList

has = IgnoreList.has
IgnoreList.has = lambda self, name: has(self, name) or "\udcfc" in name
"""
"""Names that are no UTF-8 are passed over."""

GIVEN_TWICE = """
from watcherd.delivery.result_names import Names

Names._place = lambda self, final: "free"
"""
"""A name is given to whoever asks for it."""


@pytest.mark.slow_soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (STORED, "the daemon ended with"),
        (PASSED_OVER, "M.*xfcller|waited"),
        (GIVEN_TWICE, "the daemon ended with|waited"),
    ],
    ids=["a sidecar is stored unseen", "a name is passed over", "a name is given twice"],
)
def test_a_planted_fault_is_found(fault: str, words: str) -> None:
    class Planted(Dropper):
        planted = fault

    with pytest.raises(AssertionError, match=words):
        run(Planted, 1000)
