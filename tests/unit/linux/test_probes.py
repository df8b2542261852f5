"""What the kernel says of clock and file events, by its real calls."""

from __future__ import annotations

import ctypes
import errno
import resource
from pathlib import Path

import pytest

from watcherd.linux import probes


@pytest.mark.parametrize(("answer", "kept"), [(0, True), (5, False), (-1, True)])
def test_only_the_kernels_own_word_makes_a_clock_doubtful(
    monkeypatch: pytest.MonkeyPatch, answer: int, kept: bool
) -> None:
    """Not a call that is forbidden here."""

    class Kernel:
        def adjtimex(self, _: object) -> int:
            return answer

    monkeypatch.setattr(probes, "_libc", Kernel())
    assert kept == probes.clock_is_kept()


def test_the_kernel_is_asked_and_nothing_is_set() -> None:
    """With modes 0 it answers with a state of its clock, 0 to 5, and needs no right."""
    assert ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(probes.TIMEX_BYTES)) in range(6)


def test_file_events_are_tried_and_let_go() -> None:
    """No descriptor is left behind, and one that cannot be had is an error."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    probes.try_file_events()
    assert before == len(list(Path("/proc/self/fd").iterdir()))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        with pytest.raises(OSError, match="open files") as caught:
            probes.try_file_events()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert errno.EMFILE == caught.value.errno
