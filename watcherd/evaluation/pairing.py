"""Which mask belongs to which drawn one, by the names of files."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from watcherd.errors import InputError, UsageError
from watcherd.evaluation.figures import Matched, match

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

EXTENSIONS = (".gz",)
"""Endings that stand behind another one."""

MOST_SAID = 10
"""Files that belong to nothing, of which an error names this many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A mask to be judged, and what is known of it. ``probability``: its map of 16 bits, where one was kept.

    ``error``: why there is no mask. ``model``: name and revision. ``threshold``: that it was made with.
    ``own``: written by watcherd, so that there is nothing to find out about it.
    """

    mask: Path | None = None
    probability: Path | None = None
    error: str = ""
    model: str = ""
    threshold: float | None = None
    own: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A scan, or a mask that is judged without one, and the drawn mask. ``name``: for people."""

    name: str
    mask: Path
    image: Path | None = None
    fov: Path | None = None
    group: str = ""


@dataclass(kw_only=True, slots=True)
class Pairs:
    """What belongs together, by the key of the scan, and in ``problems`` what stands alone."""

    scans: dict[str, Pair]
    problems: list[str] = field(default_factory=list)


def files_of(folder: Path, without: Collection[Path] = ()) -> dict[str, Path]:
    """The files below a folder by their path without extension, ``a/b`` for ``a/b.png``.

    ``without``: folders below it that are something else. Raises `UsageError` for two of the same name.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder.")
    elsewhere = {path.resolve() for path in without} - {folder.resolve()}
    found: dict[str, Path] = {}
    for root, folders, names in os.walk(folder):
        here = Path(root)
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (here / name).resolve() not in elsewhere
        )
        for name in sorted(names):
            path = here / name
            if name.startswith(".") or name == "Thumbs.db" or not path.is_file():
                continue
            key = stem_of(path.relative_to(folder).as_posix())
            if key in found:
                raise UsageError(f"{path} and {found[key]} have the same name.", hint="Move one of them away.")
            found[key] = path
    return found


def stem_of(name: str) -> str:
    """A path without its extension; of ``a.nii.gz`` both endings go."""
    path = PurePath(name)
    if path.suffix in EXTENSIONS:
        path = path.with_suffix("")
    return str(path.with_suffix(""))


def belonging(names: Sequence[str], others: Sequence[str], suffix: str | None = None) -> Matched:
    """`figures.match` by whole paths; then, of what is left, by the names of files alone, where each occurs once."""
    whole = match(names, others, suffix)
    left, free = _by_file_name(whole.images), _by_file_name(whole.masks)
    loose = match(list(left), list(free), suffix)
    pairs = dict(whole.pairs) | {left[name]: free[other] for name, other in loose.pairs.items()}
    taken = set(pairs.values())
    return Matched(
        pairs={name: pairs[name] for name in names if name in pairs},
        images=tuple(name for name in whole.images if name not in pairs),
        masks=tuple(other for other in whole.masks if other not in taken),
        ambiguous=whole.ambiguous,
    )


def _by_file_name(keys: Sequence[str]) -> dict[str, str]:
    """Keys by the last part of theirs, of those that have it to themselves."""
    often = Counter(PurePath(key).name for key in keys)
    return {name: key for key in keys if often[name := PurePath(key).name] == 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """The folders that a person named, and how names are to be read.

    ``group``: ``folder``, or a regular expression whose first group (or all of which) names a scan's group; None: each
    scan is its own. ``either_way``: the drawn mask may also have the shorter name (``a.png`` for ``a_mask.png``).
    """

    masks: Path
    fov: Path | None = None
    suffix: str | None = None
    group: str | None = None
    either_way: bool = False

    def folders(self) -> tuple[Path, ...]:
        return (self.masks,) if self.fov is None else (self.masks, self.fov)


def pair_up(
    scans: Mapping[str, Path], wanted: Wanted, images: Mapping[str, Path] | None = None, *, where: str
) -> Pairs:
    """Find the drawn mask of each of ``scans``, files by their keys.

    ``images``: the scans' own files by the same keys, where ``scans`` are not these. ``where``: from where they are,
    for people. Raises `InputError` when nothing belongs together, and `UsageError` for a folder that is none.
    """
    drawn, fields = files_of(wanted.masks, wanted.folders()), files_of(wanted.fov) if wanted.fov else {}
    matched = belonging(list(scans), list(drawn), wanted.suffix)
    pairs = dict(matched.pairs)
    if wanted.either_way and wanted.suffix is None:
        pairs |= {scan: mask for mask, scan in belonging(matched.masks, matched.images).pairs.items()}
    problems = _alone(scans, drawn, pairs, matched, wanted.masks, where)
    views = belonging(list(scans), list(fields)).pairs if wanted.fov else None
    found = Pairs(scans={}, problems=problems)
    for key in scans:
        if key not in pairs:
            continue
        if views is not None and key not in views:
            problems.append(f"{scans[key]} has no field of view in {wanted.fov}, so it is left out.")
            continue
        found.scans[key] = Pair(
            name=key + "".join(scans[key].suffixes[-1:]),
            mask=drawn[pairs[key]],
            image=(scans if images is None else images).get(key),
            fov=fields[views[key]] if views is not None else None,
            group=group_of(key, wanted.group),
        )
    if not found.scans:
        raise InputError(
            f"No scan in {where} has a mask in {wanted.masks}.",
            hint="A mask is called as its scan, perhaps with something like _manual behind; see --suffix.\n"
            + "\n".join(problems[:MOST_SAID]),
        )
    return found


def _alone(
    scans: Mapping[str, Path],
    drawn: Mapping[str, Path],
    pairs: Mapping[str, str],
    matched: Matched,
    masks: Path,
    where: str,
) -> list[str]:
    """What belongs to nothing, or to too much."""
    taken = set(pairs.values())
    problems = [
        f"{scans[key]} has no mask in {masks}, so it is left out." for key in matched.images if key not in pairs
    ]
    problems += [
        f"{drawn[key]} belongs to no scan in {where}, so it is left out." for key in matched.masks if key not in taken
    ]
    for key, several in matched.ambiguous.items():
        problems.append(f"{scans[key]} has several masks ({', '.join(several)}): choose with --suffix. It is left out.")
    return problems


def group_of(key: str, group: str | None) -> str:
    """What scans have in common that are not independent. Raises `UsageError` when the name does not say it."""
    if group is None:
        return key
    if group == "folder":
        return str(PurePath(key).parent)
    try:
        found = re.search(group, key)
    except re.error as error:
        raise UsageError(
            f"--group {group} is no regular expression: {error}.", hint="Write folder, or for example '(patient\\d+)_'."
        ) from error
    if found is None:
        raise UsageError(f"--group {group} does not fit the name {key}.", hint="Each scan has to be of some group.")
    return found[1] if found.re.groups and found[1] is not None else found[0]


# --------------------------------------------------------------------------------------------- masks that exist already


@dataclass(frozen=True, kw_only=True, slots=True)
class Existing:
    """Masks by the keys of what they are called after. ``files``: themselves; ``images``: the scans that were named."""

    made: dict[str, Made]
    files: dict[str, Path]
    images: dict[str, Path]
    problems: list[str]


def existing(folder: Path, probabilities: Path | None, images: Path | None, wanted: Wanted) -> Existing:
    """The masks in a folder, with their maps, by the keys of ``images`` where these are given, else by their own."""
    apart = [path for path in (probabilities, images, *wanted.folders()) if path is not None]
    files = files_of(folder, apart)
    scans = files_of(images, [folder, *apart]) if images else {}
    problems: list[str] = []
    if images:
        matched = belonging(list(scans), list(files))
        problems = _alone(scans, files, matched.pairs, matched, folder, str(images))
        files = {scan: files[key] for scan, key in matched.pairs.items()}
    maps = files_of(probabilities, [folder, *apart]) if probabilities else {}
    of = belonging(list(files), list(maps)).pairs if maps else {}
    made = {
        key: Made(mask=path, probability=maps[of[key]] if key in of else None, model=str(folder))
        for key, path in files.items()
    }
    if probabilities:
        problems += [f"{files[key]} has no map in {probabilities}: it has no AUC." for key in files if key not in of]
    return Existing(made=made, files=files, images=scans, problems=problems)
