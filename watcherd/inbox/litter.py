"""Names of what systems and transfer programs leave in shared folders: never scans, whatever is in them.

This list always holds, beside `inbox.ignore`: a configuration that was written years ago has the list of its day. So
there is nothing in it that somebody might drop as a scan. docs/inbox.md says who writes each.
"""

from __future__ import annotations

BINS = (
    "$RECYCLE.BIN", "RECYCLER", "RECYCLED", "@Recycle", "#recycle", "Network Trash Folder", ".Trash", ".Trash-*",
    ".Trashes",
)  # fmt: skip
"""Folders of deleted files: Windows, QNAP, Synology, netatalk, Linux desktops, macOS."""

SNAPSHOTS = ("#snapshot", "@Recently-Snapshot", "~snapshot", ".snapshot", ".snapshots", ".zfs")
"""Folders of earlier states: Synology, QNAP, NetApp, snapper, ZFS."""

PARTIAL = (
    "*.part", "*.part-*", "*.partial", "*.filepart", "*.crdownload", "*.opdownload", "*.download",
    "*.sb-????????-*",
    "*.uploading", "*.writing", "*.inprogress", "*.!qB", "*.!ut", "*.bc!", "*.aria2", "*.temp", "*.tmp", "*~", "*.bak",
    ".syncthing.*", "~syncthing~*",
)  # fmt: skip
"""Files on their way, and copies of earlier ones: browsers, Nextcloud, macOS, download managers, editors, Syncthing."""

STREAMS = tuple(
    f"*[:\uf022\uf03a]{name}"
    for name in ("Zone.Identifier*", "AFP_AfpInfo*", "AFP_Resource*", "com.apple.*", "encryptable*")
)
"""Alternate data streams as files: what Windows and macOS keep beside a file, where a share knows no streams. Samba and
WSL write the colon as a character for private use."""

SYSTEM = (
    "System Volume Information", "Thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini",
    ".DS_Store", "._*", "Icon\r",
    "@eaDir", "@tmp", "lost+found", "*.lock", "*.camelLock", "~$*", "*.xmp", "*.md5", "*.sha1", "*.sha256", "*.sfv",
)  # fmt: skip
"""Files of systems and programs about others' files: Windows, macOS, Synology, ext4, locks, Office, checksums."""

LITTER = (*BINS, *SNAPSHOTS, *PARTIAL, *STREAMS, *SYSTEM)


def is_probe(name: bytes) -> bool:
    """Whether a file that is empty is an editor's try whether it may write: vim calls it 4913, or 123 more if that is
    there. With anything in it, it is a scan like any other."""
    return name.isdigit() and len(name) <= 5 and int(name) >= 4913 and (int(name) - 4913) % 123 == 0
