"""A run comes over the network and goes back: DCMTK's storescu and storescp, watcherd, Debian's Orthanc.

All of it runs in a network of its own, since storescp and Orthanc listen on every address of a machine.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest

from tests.acceptance.service import PATIENCE, Service
from tests.unit.imaging.dicoms import cine, dicom

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.acceptance.service import Found

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd" / "watcherd-storescp.service"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
PROGRAMS = {"storescp": "dcmtk", "storescu": "dcmtk", "img2dcm": "dcmtk", "dciodvfy": "dicom3tools", "ip": "iproute2"}
PROGRAMS |= {"Orthanc": "orthanc"}
CLONE_NEWNET = 0x40000000
DICOM_PORT, ORTHANC_DICOM, ORTHANC_HTTP = 11112, 4242, 8042
"""Free for sure: nothing else is in this network."""

SECTIONS: dict[str, dict[str, Any]] = {
    "model": {"segmenter": "vesselness"},
    "outbox": {"outputs": ["mask", "overlay", "dicom-seg"]},
}
KEY = {"Authorization": "Basic " + base64.b64encode(b"test:secret").decode()}


def why_not() -> str | None:
    """Why the way over the network cannot be tried on this machine; None: it can."""
    if os.geteuid() != 0:
        return "a network of its own needs root"
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
    missing = {package for program, package in PROGRAMS.items() if not shutil.which(program, path=path)}
    if not PLUGIN.exists():
        missing.add("orthanc-dicomweb")
    return f"not installed: {', '.join(sorted(missing))}" if missing else None


@pytest.fixture(scope="module", autouse=True)
def _own_network() -> Iterator[None]:
    """This thread, and every process that it starts, alone in a network with nothing but lo in it."""
    if reason := why_not():
        pytest.skip(reason)
    libc = ctypes.CDLL(None, use_errno=True)
    outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    if libc.unshare(CLONE_NEWNET) != 0:
        os.close(outside)
        pytest.skip(f"the kernel gives no network of its own: {os.strerror(ctypes.get_errno())}")
    try:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        assert 0 == libc.setns(outside, CLONE_NEWNET)
        os.close(outside)


def until(look: Callable[[], Found], what: str, process: subprocess.Popen[bytes]) -> Found:
    """What ``look`` finds once it finds something, while ``process`` lives."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert process.poll() is None, f"waited for {what}, but {process.args} ended with {process.returncode}"
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.05)
    return found


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# ------------------------------------------------------------------------------------------------------------ Orthanc


class Orthanc:
    """Debian's Orthanc with a configuration of its own, as a PACS."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "orthanc.json").write_text(
            json.dumps(
                {
                    "StorageDirectory": str(folder / "db"),
                    "IndexDirectory": str(folder / "db"),
                    "HttpPort": ORTHANC_HTTP,
                    "DicomPort": ORTHANC_DICOM,
                    "DicomAet": "ORTHANC",
                    "DicomCheckCalledAet": True,
                    "AuthenticationEnabled": True,
                    "RegisteredUsers": {"test": "secret"},
                    "Plugins": [str(PLUGIN)],
                    "DicomWeb": {"Root": "/dicom-web/"},
                }
            )
        )

    def start(self) -> None:
        path = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
        program = shutil.which("Orthanc", path=path)
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen([program, self._folder / "orthanc.json"], stdout=log, stderr=log)
        until(self._answers, "Orthanc", self.process)

    def _answers(self) -> bool:
        try:
            return bool(self.get("/system"))
        except OSError:
            return False

    def fetch(self, path: str, accept: str = "*/*") -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{ORTHANC_HTTP}{path}", headers=KEY | {"Accept": accept})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310 - http alone, from above
            found: bytes = answer.read()
        return found

    def get(self, path: str) -> Any:
        return json.loads(self.fetch(path))

    def delete_everything(self) -> None:
        for study in self.get("/studies"):
            url = f"http://127.0.0.1:{ORTHANC_HTTP}/studies/{study}"
            urllib.request.urlopen(urllib.request.Request(url, headers=KEY, method="DELETE"), timeout=PATIENCE).close()

    def instances(self) -> dict[str, str]:
        """What it keeps: modality to its own id of the instance."""
        return {self.get(f"/instances/{one}/simplified-tags")["Modality"]: one for one in self.get("/instances")}

    def by_wado(self, wanted: pydicom.Dataset) -> pydicom.Dataset:
        """The same object as WADO-RS serves it."""
        uids = (wanted.StudyInstanceUID, wanted.SeriesInstanceUID, wanted.SOPInstanceUID)
        path = "/dicom-web/studies/{}/series/{}/instances/{}".format(*uids)
        body = self.fetch(path, 'multipart/related; type="application/dicom"; transfer-syntax=*')
        boundary, _, rest = body.partition(b"\r\n")
        content = rest.partition(b"\r\n\r\n")[2].rpartition(b"\r\n" + boundary)[0]
        return pydicom.dcmread(pydicom.filebase.DicomBytesIO(content))


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory, _own_network: None) -> Iterator[Orthanc]:
    made = Orthanc(tmp_path_factory.mktemp("orthanc"))
    made.start()
    yield made
    end(made.process)


# ------------------------------------------------------------------------------------------------------- the receiver


def receive_command(service: Service) -> list[str]:
    """The line of the shipped unit, with the folders and the title of this test."""
    text = UNIT.read_text()
    line = re.search(r"^ExecStart=(.*)$", text, re.MULTILINE)
    values = dict(word.split("=") for word in re.findall(r"^Environment=(.*)$", text, re.MULTILINE)[0].split())
    assert line
    assert str(DICOM_PORT) == values["PORT"]
    command = line[1].replace("/srv/watcherd", str(service.folder))
    for name, value in values.items():
        command = command.replace(f"${{{name}}}", value)
    return shlex.split(command)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """The daemon, and beside it the receiver as its unit starts it."""
    made = Service(tmp_path, **SECTIONS)
    (tmp_path / "receiving").mkdir()
    receiver = subprocess.Popen(receive_command(made))
    try:
        until(lambda: listens(DICOM_PORT), "storescp", receiver)
        yield made
    finally:
        made.end()
        end(receiver)


def hook(*arguments: object, **more: Any) -> dict[str, Any]:
    """`[hooks]` that calls the sender with these arguments."""
    command = [sys.executable, "-m", "watcherd.notify.pacs", *map(str, arguments)]
    return {"command": command, "events": ["succeeded"], **more}


def an_angiogram(path: Path) -> pydicom.Dataset:
    """A run of 12 bits with a dark vessel that wanders, in a file that DCMTK sends."""
    path.write_bytes(dicom(3400 - cine(6, 64), FrameTime="66.7", ImagerPixelSpacing=[0.3, 0.3], InstanceNumber=1))
    return pydicom.dcmread(path)


def send(path: Path, title: str = "WATCHERD", port: int = DICOM_PORT) -> None:
    command = ["storescu", "-R", "-aec", title, "127.0.0.1", str(port), str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert 0 == done.returncode, done.stderr


def errors_in(path: Path) -> list[str]:
    said = subprocess.run(["dciodvfy", path], capture_output=True, text=True)
    return [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")]


def stored(service: Service, orthanc: Orthanc, tmp_path: Path) -> dict[str, Path]:
    """Wait until the hook has been called to the end; what Orthanc then keeps, as files, by modality."""
    service.wait(lambda: service.rows("SELECT 1 FROM hook WHERE state = 'called'"), "the hook to have sent everything")
    found = {}
    for modality, one in orthanc.instances().items():
        found[modality] = tmp_path / f"{modality}.dcm"
        found[modality].write_bytes(orthanc.fetch(f"/instances/{one}/file"))
    return found


def test_a_run_comes_back_as_a_segmentation_that_orthanc_serves(
    service: Service, orthanc: Orthanc, tmp_path: Path
) -> None:
    """C-STORE in, C-STORE out; what Orthanc serves is valid, refers to the run, and has the pixels that were sent."""
    orthanc.delete_everything()
    scan = an_angiogram(tmp_path / "run.dcm")
    service.configure(hooks=hook("127.0.0.1", ORTHANC_DICOM, "--called", "ORTHANC"), **SECTIONS)
    service.start()
    send(tmp_path / "run.dcm")
    send(tmp_path / "run.dcm", title="ORTHANC", port=ORTHANC_DICOM)
    found = stored(service, orthanc, tmp_path)
    assert {"XA", "SEG", "OT"} == set(found)
    ours = pydicom.dcmread(service.outbox / "dicom-seg" / f"XA.{scan.SOPInstanceUID}.dcm")
    theirs = orthanc.by_wado(ours)
    assert np.array_equal(ours.pixel_array, theirs.pixel_array)
    assert ours.pixel_array.any()
    assert ours.to_json_dict() == theirs.to_json_dict() == pydicom.dcmread(found["SEG"]).to_json_dict()
    instance = theirs.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]
    assert (scan.SOPInstanceUID, scan.StudyInstanceUID) == (instance.ReferencedSOPInstanceUID, theirs.StudyInstanceUID)
    overlay = pydicom.dcmread(found["OT"])
    assert (scan.StudyInstanceUID, scan.PatientID) == (overlay.StudyInstanceUID, overlay.PatientID)
    assert {"SEG": [], "OT": []} == {kind: errors_in(found[kind]) for kind in ("SEG", "OT")}
    (received,) = (path for path in service.archive.rglob("*") if path.is_file())
    # What came is what was sent, but for the meta group that storescp writes itself.
    assert scan.to_json_dict() == pydicom.dcmread(received).to_json_dict()
    assert [] == list((service.folder / "receiving").iterdir())


def test_what_is_sent_again_is_kept_once(service: Service, orthanc: Orthanc, tmp_path: Path) -> None:
    """The first call comes before there is a PACS; a call that is repeated gives the PACS nothing new."""
    orthanc.delete_everything()
    an_angiogram(tmp_path / "run.dcm")
    send(tmp_path / "run.dcm")
    assert 0 == service.once()
    job = json.dumps({**service.json("show", "1"), "outbox": str(service.outbox)})
    command = [sys.executable, "-m", "watcherd.notify.pacs", "127.0.0.1"]
    nobody = subprocess.run([*command, "9"], input=job, capture_output=True, text=True)
    assert 69 == nobody.returncode
    assert "storescu ended with" in nobody.stderr
    refused = subprocess.run([*command, str(ORTHANC_DICOM)], input=job, capture_output=True, text=True)
    assert 69 == refused.returncode, "Orthanc was called by another's title"
    for _ in range(2):
        arguments = [*command, str(ORTHANC_DICOM), "--called", "ORTHANC"]
        done = subprocess.run(arguments, input=job, capture_output=True, text=True)
        assert (0, "") == (done.returncode, done.stdout), done.stderr
    assert 2 == len(orthanc.get("/instances"))


@pytest.mark.skipif(find_spec("dicomweb_client") is None, reason="dicomweb-client is not installed")
def test_the_same_by_dicomweb(service: Service, orthanc: Orthanc, tmp_path: Path) -> None:
    """STOW-RS with a password from a file."""
    orthanc.delete_everything()
    scan = an_angiogram(tmp_path / "run.dcm")
    secret = tmp_path / "headers"
    secret.write_text("".join(f"{name}: {value}\n" for name, value in KEY.items()))
    url = f"http://127.0.0.1:{ORTHANC_HTTP}/dicom-web"
    service.configure(hooks=hook("--dicomweb", url, "--headers", secret), **SECTIONS)
    service.start()
    send(tmp_path / "run.dcm")
    found = stored(service, orthanc, tmp_path)
    assert {"SEG", "OT"} == set(found)
    ours = pydicom.dcmread(service.outbox / "dicom-seg" / f"XA.{scan.SOPInstanceUID}.dcm")
    assert ours.to_json_dict() == orthanc.by_wado(ours).to_json_dict()
    assert [] == errors_in(found["OT"])


def test_several_senders_at_once_lose_nothing(service: Service, tmp_path: Path) -> None:
    """Eight runs at the same time: eight files in the inbox, whole, and nothing in between."""
    for number in range(8):
        instance = f"1.2.3.4.5.{number}"
        data = dicom(cine(3, 64) + number, SOPInstanceUID=instance, InstanceNumber=number)
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(data)
        whole = pydicom.dcmread(path)
        whole.file_meta.MediaStorageSOPInstanceUID = instance
        whole.save_as(path, enforce_file_format=True)
    command = ["storescu", "-R", "-aec", "WATCHERD", "127.0.0.1", str(DICOM_PORT)]
    senders = [subprocess.Popen([*command, str(tmp_path / f"{number}.dcm")]) for number in range(8)]
    assert [0] * 8 == [sender.wait(PATIENCE) for sender in senders]
    arrived = files_in(service.inbox, 8)
    assert {f"XA.1.2.3.4.5.{number}.dcm" for number in range(8)} == {path.name for path in arrived}
    for path in arrived:
        assert (3, 64, 64) == pydicom.dcmread(path).pixel_array.shape


def files_in(folder: Path, count: int) -> list[Path]:
    """The files of a folder, as soon as there are ``count``: a sender is answered before its file is renamed."""
    deadline = time.monotonic() + PATIENCE
    while len(found := list(folder.iterdir())) < count:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found
