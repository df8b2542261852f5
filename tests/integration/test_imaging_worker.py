"""A bad scan costs an imaging worker one task, and nothing else."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from pebble import ProcessExpired, ProcessPool
from PIL import Image

from watcherd.errors import InputError
from watcherd.imaging.decode import DecodeLimits, TruncatedError, decode
from watcherd.imaging.encode import RenderRequest, render
from watcherd.imaging.worker import start_worker

MEMORY_MIB = 300


@pytest.fixture(scope="module")
def pool():
    made = ProcessPool(1, initializer=start_worker, initargs=(MEMORY_MIB, os.getpid()), context=get_context("spawn"))
    with made:
        yield made
        made.stop()


def state() -> dict[str, object]:
    """What a worker says about itself."""
    import resource as limits
    import signal as signals
    import sys as system

    size, resident = (int(part) for part in Path("/proc/self/statm").read_text().split()[:2])
    page = limits.getpagesize()
    return {
        "room_mib": (limits.getrlimit(limits.RLIMIT_AS)[0] - size * page) / 2**20,
        "resident_mib": resident * page / 2**20,
        "cores": limits.getrlimit(limits.RLIMIT_CORE),
        "heavy": sorted({"torch", "scipy", "skimage", "sqlalchemy", "tifffile"} & set(system.modules)),
        "interrupts": signals.getsignal(signals.SIGINT) == signals.SIG_IGN,
        "threads": len(os.listdir("/proc/self/task")),  # noqa: PTH208 - names are all that is wanted
        "pid": os.getpid(),
    }


def test_a_worker_is_light_limited_and_deaf_to_interrupts(pool):
    found = pool.schedule(state).result()
    assert found["heavy"] == []
    assert found["resident_mib"] < 90
    assert found["room_mib"] == pytest.approx(MEMORY_MIB, abs=30)
    assert found["cores"] == (0, 0)
    assert found["interrupts"]
    assert found["threads"] == 1


def test_decode_and_render_run_in_a_worker(pool, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 80), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = pool.schedule(decode, args=(tmp_path / "a.png", tmp_path / "a.npy", DecodeLimits())).result()
    assert np.array_equal(pixels, np.load(found.path)[0])
    np.save(tmp_path / "mask.npy", (pixels > 128).astype(np.uint8)[np.newaxis])
    request = RenderRequest(pixels=found.path, mask=tmp_path / "mask.npy", folder=tmp_path, stem="1")
    answer = pool.schedule(render, args=(request,)).result()
    assert ["mask", "overlay"] == [file.kind for file in answer.files]


def test_a_scan_that_needs_more_memory_fails_and_the_worker_lives(pool, tmp_path):
    before = pool.schedule(state).result()["pid"]
    Image.new("RGB", (11_000, 9_000)).save(tmp_path / "a.png", compress_level=1)
    task = pool.schedule(decode, args=(tmp_path / "a.png", tmp_path / "a.npy", DecodeLimits(memory_mib=MEMORY_MIB)))
    words = (
        f"11000 x 9000 pixels, of 7 bytes while they are unpacked, need at least 661 MiB, and there are {MEMORY_MIB}"
    )
    with pytest.raises(InputError, match=words) as caught:
        task.result()
    assert "limits.worker_memory_mib in the configuration above 661" in caught.value.hint
    assert before == pool.schedule(state).result()["pid"]


@pytest.mark.parametrize("kind", ["8 bits", "16 bits", "floats", "colours"])
def test_a_scan_that_the_limits_allow_is_decoded_and_drawn(pool, tmp_path, kind):
    """Of 8 bytes to a pixel, as `max_pixels` and `worker_memory_mib` have it: large frames are computed in pieces."""
    side = 5000
    row = np.arange(side)
    pixels = {
        "8 bits": np.tile((row % 250).astype(np.uint8), (side, 1)),
        "16 bits": np.tile((row * 12).astype(np.uint16), (side, 1)),
        "floats": np.tile(row.astype(np.float32), (side, 1)),
        "colours": np.stack([np.tile((row % 250).astype(np.uint8), (side, 1))] * 3, axis=-1),
    }[kind]
    Image.fromarray(pixels).save(tmp_path / "a", "TIFF" if kind == "floats" else "PNG", compress_level=1)
    limits = DecodeLimits(memory_mib=MEMORY_MIB)
    found = pool.schedule(decode, args=(tmp_path / "a", tmp_path / "a.npy", limits)).result()
    assert (side, side) == (found.width, found.height)
    np.save(tmp_path / "mask.npy", (pixels.reshape(side, side, -1)[np.newaxis, ..., 0] > 100).astype(np.uint8))
    request = RenderRequest(pixels=found.path, mask=tmp_path / "mask.npy", folder=tmp_path, stem="1")
    answer = pool.schedule(render, args=(request,)).result()
    assert (["mask", "overlay"], None) == ([file.kind for file in answer.files], answer.note)


def test_a_volume_larger_than_the_workers_memory_keeps_its_numbers(pool, tmp_path):
    """They are written slice by slice, as the frames are."""
    import nibabel  # here, for the workers import this file

    shape = (512, 512, 320)
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.float32)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with (tmp_path / "a.nii").open("wb") as file:
        file.write(header.binaryblock + bytes(4))
        file.truncate(352 + 4 * int(np.prod(shape)))
    assert 4 * np.prod(shape) > MEMORY_MIB * 2**20
    limits = DecodeLimits(memory_mib=MEMORY_MIB)
    call = (tmp_path / "a.nii", tmp_path / "a.npy", limits, (), tmp_path / "a-volume.npy")
    decoded = pool.schedule(decode, args=call).result()
    stored = decoded.volume.stored()
    assert (320, 512, 512) == stored.shape
    assert np.float32 == stored.dtype


def test_numbers_that_would_fill_the_run_folder_are_refused(tmp_path):
    """They count by their own type; nothing of them is left."""
    import nibabel  # here, for the workers import this file

    nibabel.save(nibabel.Nifti1Image(np.zeros((64, 64, 20), np.float32), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(InputError, match="too large"):
        decode(
            tmp_path / "a.nii", tmp_path / "a.npy", DecodeLimits(max_bytes=64 * 64 * 40), (), tmp_path / "a-volume.npy"
        )
    assert not (tmp_path / "a-volume.npy").exists()


def test_our_errors_come_out_as_they_were_raised(pool, tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    with pytest.raises(TruncatedError) as caught:
        pool.schedule(decode, args=(tmp_path / "a.png", tmp_path / "a.npy", DecodeLimits())).result()
    assert caught.value.hint


def test_a_crash_costs_one_task(pool, tmp_path):
    """As a native decoder's would."""
    with pytest.raises(ProcessExpired):
        pool.schedule(os.kill, args=(pool.schedule(state).result()["pid"], signal.SIGSEGV)).result()
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    found = pool.schedule(decode, args=(tmp_path / "a.png", tmp_path / "a.npy", DecodeLimits())).result()
    assert (found.width, found.height) == (8, 8)


def test_a_hang_ends_at_its_deadline(pool):
    with pytest.raises(TimeoutError):
        pool.schedule(time.sleep, args=(600,), timeout=0.3).result()


PARENT = '''
import os, time
from multiprocessing import get_context
from pebble import ProcessPool
from watcherd.imaging.worker import start_worker

def busy():
    """A busy worker does not see that nobody waits for it any more."""
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    pool = ProcessPool(1, initializer=start_worker, initargs=(300, os.getpid()), context=get_context("spawn"))
    pool.schedule(busy).result()
'''


def test_workers_die_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = os.pidfd_open(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert select.select([worker], [], [], 10)[0], "the worker outlived its parent"
    os.close(worker)


def test_the_limits_are_the_workers_own():
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
