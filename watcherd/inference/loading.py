"""Put weights where a placement says, tensor by tensor, without a second copy of the model in host memory.

For segmenters with modules of their own: build them with `skeleton`, fill them with `load_into`, spread them with
`dispatch`, then let `checks.after_load` look at the result.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from typing import TYPE_CHECKING, Any

from watcherd.errors import UnavailableError
from watcherd.inference import folders
from watcherd.inference.machine.devices import cpu_has_bfloat16

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import nn

    from watcherd.inference.base import Mark, Placement
    from watcherd.inference.machine.devices import Device

MIXED = {"fp8-mlp": "bfloat16"}
"""Run dtypes that are torch's own in part only."""
SHOWN = 8
"""Names that an error lists before it only counts."""
SAMPLES = 64
SAMPLE_BYTES = 64 * 1024
"""A weights file's fingerprint reads so many places of so many bytes, its size, and what its format tells of."""


def resolve_dtype(setting: str, devices: Sequence[Device], *, on_cpu: Callable[[], bool] = cpu_has_bfloat16) -> str:
    """The run dtype, never the checkpoint's accident; ``auto`` is bfloat16 if every GPU computes in it, else float32.

    ``devices``: empty on a CPU; then ``on_cpu`` says whether it computes in bfloat16.
    """
    if setting != "auto":
        return setting
    native = all(device.has_bfloat16 for device in devices) if devices else on_cpu()
    return "bfloat16" if native else "float32"


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of that name; of a model some of whose weights are of another, that of all others."""
    import torch

    dtype: torch.dtype = getattr(torch, MIXED.get(name, name))
    return dtype


def device_of(name: str, device_map: Mapping[str, str]) -> str | None:
    """Where the map puts a tensor: the entry of the longest part of its name; None when there is none."""
    part = name
    while part:
        if part in device_map:
            return device_map[part]
        part = part.rpartition(".")[0]
    return device_map.get("")


def skeleton(build: Callable[[], nn.Module]) -> nn.Module:
    """The module that ``build`` makes, with its parameters on the meta device and its buffers computed for real."""
    from torch import nn

    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        # One that is there already is left as it is: a parameter of several names has to stay one.
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(module, name, parameter)

    nn.Module.register_parameter = register_on_meta  # type: ignore[assignment, method-assign]
    try:
        return build()
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def load_into(
    module: nn.Module,
    files: Iterable[Path],
    placement: Placement,
    *,
    rename: Callable[[str], str] = lambda name: name,
    mark: Mark = lambda *_: None,
) -> None:
    """Fill ``module``, a `skeleton`, from safetensors files: each tensor straight to its device, at the run dtype.

    ``rename``: from a name in the files to one in the module. Parameters and persistent buffers come from the files,
    floating-point ones at ``placement.dtype``; whatever else there is keeps its values and moves to its device.

    Raises `UnavailableError` when a file is not what it should be, or a name is missing, left over, there twice or of
    another shape; all of that is checked before anything is read.
    """
    files = sorted(files)
    folders.refuse_faulty(files)
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = _names(files, rename)
    _account(module, wanted, found)
    ties = {name: names for names in _ties(module) for name in names}
    dtype = torch_dtype(placement.dtype)
    read = ((name, tensor) for path in files for name, tensor in _tensors(path, rename))
    for done, (name, tensor) in enumerate(read, start=1):
        value = _moved(tensor, device_of(name, placement.device_map) or placement.devices[0], dtype)
        _replace(module, ties.get(name, [name]), value)
        mark("loading weights", done / len(found))
    for name, buffer in list(module.named_buffers()):
        if name not in wanted and not buffer.is_meta:
            _replace(module, [name], buffer.to(device_of(name, placement.device_map) or placement.devices[0]))


def dispatch(module: nn.Module, placement: Placement, *, force_hooks: bool = False) -> nn.Module:
    """Let a loaded module compute across its devices: hooks move inputs along; on a single device nothing is added.

    Where the first device is ``cpu``, parts on the CPU compute there; otherwise they are weights kept in host memory,
    and visit the first GPU when their turn comes (``devices.allow_offload``).
    """
    from accelerate import dispatch_model

    if len(set(placement.device_map.values())) == 1 and not force_hooks:
        return module
    with warnings.catch_warnings():
        # It warns of entries that are tensors, not modules; those are where they belong already.
        warnings.filterwarnings("ignore", message="The following device_map keys do not match")
        dispatched: nn.Module = dispatch_model(
            module,
            device_map=dict(placement.device_map),
            main_device=placement.devices[0],
            force_hooks=force_hooks,
        )
    return dispatched


def own_memory(module: nn.Module) -> None:
    """Give what lies on the CPU memory of its own, tensor by tensor, and let go of the files that it was read from.

    A loader may leave weights as windows onto their file: who overwrites that file would then change the masks of a
    model that is running, under the revision of the old one.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def fingerprint(folder: Path, *, extra: str = "") -> str:
    """A revision for a model folder: changes with its JSON files and with its weights, of which it reads samples.

    ``extra``: what else decides about masks. 16 hex digits; takes well under a second for any size.
    """
    return fingerprint_of(folder, sorted(folder.iterdir()), extra=extra)


def fingerprint_of(folder: Path, files: Iterable[Path], *, extra: str = "") -> str:
    """The same for these files of the folder alone."""
    digest = hashlib.sha256(extra.encode())
    for path in files:
        name = path.relative_to(folder)
        if path.suffix in {".json", ".txt", ".model"}:
            digest.update(f"{name}\0".encode() + path.read_bytes())
        elif path.suffix in {".safetensors", ".bin", ".pt", ".pth"}:
            digest.update(f"{name}\0{path.stat().st_size}\0".encode())
            inside = tensor_samples(path) if path.suffix == ".safetensors" else ()
            for sample in (*inside, *_samples(path)):
                digest.update(sample)
    return digest.hexdigest()[:16]


def tensor_samples(path: Path) -> Iterator[bytes]:
    """A safetensors file's header and a kilobyte of every tensor; of a broken file its beginning.

    Training changes all of a tensor, and may change a single one. The format: eight bytes of the header's length, the
    header as JSON with each tensor's offsets, then the data.
    """
    with path.open("rb") as file:
        header = file.read(min(int.from_bytes(file.read(8), "little"), 100_000_000))
        yield header
        try:
            tensors = json.loads(header)
        except ValueError:
            return
        for name, tensor in sorted(tensors.items()):
            if name != "__metadata__":
                begin, end = tensor["data_offsets"]
                file.seek(8 + len(header) + (begin + end) // 2)
                yield file.read(min(1024, end - begin))


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    every = sorted(names)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more


def _samples(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    step = max(SAMPLE_BYTES, size // SAMPLES)
    with path.open("rb") as file:
        for start in (*range(0, size, step), max(0, size - SAMPLE_BYTES)):
            file.seek(start)
            yield file.read(SAMPLE_BYTES)


def _names(files: Sequence[Path], rename: Callable[[str], str]) -> dict[str, tuple[int, ...]]:
    """Every tensor in the files under its new name, with its shape."""
    from safetensors import safe_open

    found: dict[str, tuple[int, ...]] = {}
    for path in files:
        with safe_open(path, framework="pt") as opened:
            for old in opened.keys():  # noqa: SIM118 - not a mapping
                name = rename(old)
                if name in found:
                    raise UnavailableError(f"The weights hold {name} twice; the second is {old} in {path.name}.")
                found[name] = tuple(opened.get_slice(old).get_shape())
    return found


def _account(module: nn.Module, wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `UnavailableError` unless the files hold what the module needs: no more, no less."""
    missing = wanted.keys() - found.keys() - _tied_to(module, found)
    left_over = found.keys() - wanted.keys()
    misfits = [
        f"{name} is {found[name]}, expected {wanted[name]}"
        for name in wanted.keys() & found.keys()
        if found[name] != wanted[name]
    ]
    lines = [f"  missing ({len(missing)}): {listed(missing)}"] if missing else []
    lines += [f"  left over ({len(left_over)}): {listed(left_over)}"] if left_over else []
    lines += [f"  of another shape ({len(misfits)}): {listed(misfits)}"] if misfits else []
    if lines:
        raise UnavailableError(
            "\n".join(["The weights are not those of this model.", *lines]),
            hint="Take the weights and the config.json from one folder, and download it whole.",
        )


def _ties(module: nn.Module) -> list[list[str]]:
    """Names that share one parameter."""
    owners: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    return [names for names in owners.values() if len(names) > 1]


def _tied_to(module: nn.Module, found: Mapping[str, Any]) -> set[str]:
    """Names that the files may leave out, because another name of the same parameter is there."""
    return {name for names in _ties(module) if any(other in found for other in names) for name in names}


def _tensors(path: Path, rename: Callable[[str], str]) -> Iterator[tuple[str, torch.Tensor]]:
    """The file's tensors one at a time, as mapped memory."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as opened:
        for old in opened.keys():  # noqa: SIM118 - not a mapping
            yield rename(old), opened.get_tensor(old)


def _moved(tensor: torch.Tensor, device: str, dtype: torch.dtype) -> torch.Tensor:
    """The tensor on its device, at the run dtype if it holds fractions."""
    value = tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else tensor.dtype)
    # On a CPU this may still be a window onto the file, which can be changed or cut short under us.
    return value.clone() if value is tensor else value


def _replace(module: nn.Module, names: Sequence[str], value: torch.Tensor) -> None:
    """Put one tensor where it belongs: under each of its names, as the same object."""
    from torch import nn

    shared = nn.Parameter(value, requires_grad=False)
    for name in names:
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        if leaf in owner._parameters:
            owner._parameters[leaf] = shared
        else:
            owner._buffers[leaf] = value
