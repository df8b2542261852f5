"""Filling the network from a checkpoint: every tensor to its device, at our dtype, every name accounted for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from watcherd.errors import UnavailableError
from watcherd.inference.segmenters.sa2va.checkpoint import listed
from watcherd.inference.segmenters.sa2va.decoder import LeanLayer
from watcherd.inference.segmenters.sa2va.fp8 import ROUNDED, put_rounded
from watcherd.inference.segmenters.sa2va.network import NO_SPLIT, place
from watcherd.inference.segmenters.sa2va.renames import sources

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from watcherd.inference.base import Mark
    from watcherd.inference.segmenters.sa2va.checkpoint import Tensors
    from watcherd.inference.segmenters.sa2va.decoder import Layer
    from watcherd.inference.segmenters.sa2va.engine import Engine
    from watcherd.inference.segmenters.sa2va.network import Sa2vaNetwork
    from watcherd.inference.segmenters.sa2va.renames import Source

_TRUNK = "grounding_encoder.sam2_model."


def load(
    network: Sa2vaNetwork,
    checkpoint: Tensors,
    device_map: Mapping[str, str],
    dtype: torch.dtype,
    mark: Mark,
    *,
    eight_bits: bool = False,
) -> None:
    """Fill ``network``, a skeleton, from ``checkpoint``.

    Parameters come at ``dtype``; buffers keep theirs, because they hold positions, which bfloat16 would move.
    ``eight_bits``: the language model's MLPs are rounded (`fp8.Rounded`), each on its device.
    Raises `UnavailableError` when a name is missing, unexpected or of another shape, before anything is read.
    """
    tensors = network.state_dict()
    origins = sources(tensors, network.built_on)
    check_names(tensors, origins, checkpoint)
    check_map(network, device_map)
    parameters = dict(network.named_parameters())
    ordered = sorted(tensors, key=lambda name: checkpoint.position(origins[name].names[0]))
    for done, name in enumerate(ordered):
        mark("loading weights", done / len(ordered))
        read = [checkpoint.read(source) for source in origins[name].names]
        device = torch.device(str(place(name, device_map)))
        value = origins[name].take(read).to(device).to(dtype if name in parameters else torch.float32).contiguous()
        if eight_bits and ROUNDED.fullmatch(name):
            put_rounded(network.get_submodule(name.rpartition(".")[0]), value)
            continue
        put(network, name, value.clone() if _shares_memory(value, read) else value)
    place_buffers(network, device_map)
    mark("loading weights", 1.0)


def whole_layers(engine: Engine, checkpoint: Tensors) -> Iterator[Layer]:
    """The language model's layers with their MLPs as they are in ``checkpoint``, each read when it is asked for."""
    network = engine.network
    origins = sources(network.state_dict(), network.built_on)
    for number, layer in enumerate(engine.language.layers):
        assert isinstance(layer, LeanLayer)
        found = []
        for part in ("gate", "up", "down"):
            origin = origins[f"language.model.layers.{number}.mlp.{part}_proj.weight"]
            value = origin.take([checkpoint.read(source) for source in origin.names])
            found.append(value.to(layer.device).to(network.language.model.embed_tokens.weight.dtype))
        yield layer.at_full_width(*found)


def _shares_memory(value: torch.Tensor, read: Sequence[torch.Tensor]) -> bool:
    """Whether a tensor is still a window onto its file, which may be overwritten while the model runs."""
    memory = value.untyped_storage().data_ptr()
    return any(tensor.untyped_storage().data_ptr() == memory for tensor in read)


def check_names(tensors: Mapping[str, torch.Tensor], origins: Mapping[str, Source], checkpoint: Tensors) -> None:
    """Raise `UnavailableError` unless ``checkpoint`` holds exactly what ``tensors`` need, in the right shapes."""
    shapes = checkpoint.shapes()
    wanted = {name for origin in origins.values() for name in origin.names}
    missing, unexpected = sorted(wanted - shapes.keys()), sorted(shapes.keys() - wanted)
    whole = {name: origin for name, origin in origins.items() if set(origin.names) <= shapes.keys()}
    misfits = {name: origin for name, origin in whole.items() if origin.shape(shapes) != tuple(tensors[name].shape)}
    if not missing and not unexpected and not misfits:
        return
    lines = [f"The weights in {checkpoint.folder} are not those of the model that its config.json describes."]
    lines += [f"  missing ({len(missing)}): {listed(missing)}"] if missing else []
    lines += [f"  unexpected ({len(unexpected)}): {listed(unexpected)}"] if unexpected else []
    lines += [
        f"  another shape: {', '.join(origin.names)} is {origin.shape(shapes)}, expected {tuple(tensors[name].shape)}"
        for name, origin in list(misfits.items())[:12]
    ]
    wrong = [*missing, *unexpected, *(name for origin in misfits.values() for name in origin.names)]
    hint = "Download the folder again, or take the config.json that belongs to these weights."
    if all(name.startswith(_TRUNK) for name in wrong):
        hint = "SAM2 is of another size or version: only SAM2 (not 2.1) with the large Hiera trunk is supported."
    raise UnavailableError("\n".join(lines), hint=hint)


def check_map(network: nn.Module, device_map: Mapping[str, str]) -> None:
    """Raise `UnavailableError` unless every parameter has a device, and no part that may not be split is."""
    for name, module in network.named_modules():
        if type(module).__name__ not in NO_SPLIT:
            continue
        used = {place(f"{name}.{inner}", device_map) for inner, _ in module.named_parameters()}
        if len(used) > 1:
            raise UnavailableError(f"{name} may not be split, and the placement puts it on {sorted(map(str, used))}.")
    homeless = [name for name, _ in network.named_parameters() if place(name, device_map) in {None, "disk", "meta"}]
    if homeless:
        raise UnavailableError(
            f"The placement has no device for {listed(homeless)}.",
            hint="Weights on disk are not supported; use more devices or another dtype.",
        )


def place_buffers(network: nn.Module, device_map: Mapping[str, str]) -> None:
    """Move what no checkpoint holds (rotary frequencies, position ids) to where their modules are, as they are."""
    for name, buffer in list(network.named_buffers()):
        put(network, name, buffer.to(str(place(name, device_map) or "cpu")))


def put(network: nn.Module, name: str, value: torch.Tensor) -> None:
    """Replace one parameter or buffer of ``network``."""
    owner, _, leaf = name.rpartition(".")
    module = network.get_submodule(owner)
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(value, requires_grad=False)
    else:
        module._buffers[leaf] = value
