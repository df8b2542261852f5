"""A hook that sends what a job gave to a PACS: the DICOM segmentation, and the overlay as a secondary capture.

    python -m watcherd.notify.pacs HOST PORT          C-STORE, by DCMTK's storescu
    python -m watcherd.notify.pacs --dicomweb URL     STOW-RS, by dicomweb-client

The job comes on standard input, as hooks are told it (docs/hooks.md). Exit status 0: everything is stored, or there is
nothing to send. Sent again, an object has the UID that it had before: the PACS keeps one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watcherd.errors import ConfigError, UnavailableError, UsageError, WatcherdError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONNECT_SECONDS = 10
"""Seconds for a connection to the PACS; what comes after it ends with `hooks.timeout_seconds`."""
SERIES_NUMBER = 9002
"""Number of the overlays' series: next to that of the segmentations."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Send what the job on standard input gave; the exit status."""
    try:
        options = _parser().parse_args(arguments)
        if not options.dicomweb and options.port is None:
            raise UsageError("Where to is not said.", hint="Name HOST and PORT, or --dicomweb URL.")
        send(json.load(sys.stdin), options)
    except WatcherdError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m watcherd.notify.pacs", description="Send a job's segmentation and overlay to a PACS."
    )
    parser.add_argument("host", nargs="?", help="the PACS, for C-STORE")
    parser.add_argument("port", nargs="?", type=int, help="its DICOM port, often 104 or 11112")
    parser.add_argument("--called", default="ANY-SCP", help="the PACS's application entity title")
    parser.add_argument("--calling", default="WATCHERD", help="ours")
    parser.add_argument("--dicomweb", metavar="URL", help="instead of host and port: where DICOMweb is served")
    parser.add_argument("--headers", type=Path, metavar="FILE", help="lines such as 'Authorization: Bearer ...'")
    parser.add_argument("--no-overlay", action="store_true", help="send the segmentation alone")
    return parser


def send(job: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Send the results of ``job``; nothing when it has none that a PACS takes, such as the mask of a PNG.

    Raises `UnavailableError` when the PACS does not take them all: then the call is to be made again.
    """
    found = {output["kind"]: Path(job["outbox"], output["path"]) for output in job["outputs"]}
    if job["state"] != "succeeded" or "dicom-seg" not in found:
        return
    with tempfile.TemporaryDirectory() as folder:
        objects = [found["dicom-seg"]]
        if "overlay" in found and not options.no_overlay:
            objects.append(secondary_capture(found["overlay"], found["dicom-seg"], Path(folder, "overlay.dcm")))
        if options.dicomweb:
            store_on_the_web(objects, options.dicomweb, headers(options.headers))
        else:
            store(objects, options)


def secondary_capture(overlay: Path, seg: Path, path: Path) -> Path:
    """Write the JPEG ``overlay`` as a DICOM object to ``path``, for the patient and the study of ``seg``."""
    digest = hashlib.sha256(overlay.read_bytes() + seg.read_bytes()).hexdigest()
    values = {
        "SOPInstanceUID": uid(f"{digest} overlay"),
        "SeriesInstanceUID": uid(f"{digest} series"),
        "SeriesNumber": str(SERIES_NUMBER),
        "SeriesDescription": "watcherd overlay",
        "InstanceNumber": "1",
        "Modality": "OT",
        "ConversionType": "WSD",  # a workstation made it
        "ImageType": "DERIVED\\SECONDARY",
        "Laterality": "",  # of a paired organ; unknown here
    }
    keys = [word for name, value in values.items() for word in ("--key", f"{name}={value}")]
    _run("img2dcm", "--study-from", str(seg), *keys, str(overlay), str(path))
    return path


def uid(name: str) -> str:
    """A UID that the same name gives again (DICOM PS3.5 B.2: one that is made from a UUID)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'watcherd {name}').int}"


def store(objects: Sequence[Path], options: argparse.Namespace) -> None:
    """C-STORE. ``-R``: no more is proposed than the objects need; ``-xy``: among it JPEG, in which overlays are."""
    _run(
        *("storescu", "-R", "-xy", "-to", str(CONNECT_SECONDS), "-aet", options.calling, "-aec", options.called),
        *(options.host, str(options.port), *map(str, objects)),
    )


def store_on_the_web(objects: Sequence[Path], url: str, headers: Mapping[str, str]) -> None:
    """STOW-RS."""
    try:
        from dicomweb_client.api import DICOMwebClient
    except ModuleNotFoundError as error:
        raise UnavailableError(
            "dicomweb-client is not installed.", hint=f"Install it: {sys.executable} -m pip install dicomweb-client"
        ) from error
    from pydicom import dcmread

    try:
        answer = DICOMwebClient(url, headers=dict(headers)).store_instances([dcmread(path) for path in objects])
    except OSError as error:  # requests' errors are of this kind
        raise UnavailableError(f"{url} took nothing: {error}") from error
    stored = len(answer.get("ReferencedSOPSequence", ()))
    if stored < len(objects):
        raise UnavailableError(f"{url} stored {stored} of {len(objects)} objects.")


def headers(path: Path | None) -> dict[str, str]:
    """The headers in a file, one a line: passwords on a command line can be seen by everybody."""
    if path is None:
        return {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--headers {path} cannot be read: {error}") from error
    pairs = [line.partition(":") for line in lines if line.strip()]
    if any(not colon for _, colon, _ in pairs):
        raise ConfigError(f"--headers {path} has a line without a colon.", hint="One header a line: Name: value")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _run(*command: str) -> None:
    """Run one of DCMTK's programs. Raises `UnavailableError` with what it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError as error:
        raise UnavailableError(f"{command[0]} is not installed.", hint="It comes with dcmtk.") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()[-5:]
        raise UnavailableError(f"{command[0]} ended with {done.returncode}: {' '.join(said)}")


if __name__ == "__main__":
    sys.exit(main())
