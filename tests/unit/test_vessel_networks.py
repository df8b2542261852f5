"""The networks of the default model: MONAI's for old folders, ours for new ones, and how weights are kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from watcherd.inference.segmenters.vessel.compact import Compact, fold
from watcherd.inference.segmenters.vessel.network import CHANNELS, build, packed, unpacked
from watcherd.inference.segmenters.vessel.segresnet import SegResNet

FORMAT_1 = {
    "init_filters": 16,
    "blocks_down": [1, 2, 2, 4],
    "blocks_up": [1, 1, 1],
    "norm": ["GROUP", {"num_groups": 8}],
}
SMALL = {"widths": [8, 12, 16], "blocks_down": [1, 1, 2], "blocks_up": [1, 1]}


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("network", [FORMAT_1, FORMAT_1 | {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [2]}])
def test_the_network_of_format_1_is_monais(network: dict[str, object]) -> None:
    """The same names of tensors, and the same answers to 1e-5."""
    module = pytest.importorskip("monai.networks.nets.segresnet", reason="MONAI is the reference, and is not installed")
    torch.manual_seed(0)
    reference = module.SegResNet(spatial_dims=2, in_channels=CHANNELS, out_channels=1, **network).eval()
    own = SegResNet(channels=CHANNELS, **network).eval()  # type: ignore[arg-type]
    own.load_state_dict(reference.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(own(noise(2, 4, 64, 96)), reference(noise(2, 4, 64, 96)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", [["BATCH", {}], ["GROUP", {}], "GROUP"])
def test_another_normalisation_is_refused(norm: object) -> None:
    with pytest.raises(ValueError, match="num_groups"):
        build(FORMAT_1 | {"norm": norm}, members=1)


def test_folded_it_computes_what_was_trained() -> None:
    torch.manual_seed(0)
    trained, folded = Compact(channels=4, folded=False, **SMALL), Compact(channels=4, **SMALL)  # type: ignore[arg-type]
    trained(noise(4, 4, 64, 64))  # statistics that are not those of a fresh layer
    fold(trained.eval(), folded.eval())
    with torch.inference_mode():
        torch.testing.assert_close(folded(noise(1, 4, 50, 34)), trained(noise(1, 4, 50, 34)), atol=1e-5, rtol=1e-4)


def test_any_size_goes_through() -> None:
    [net] = build(SMALL, members=1, architecture="Compact")
    assert (1, 1, 33, 47) == tuple(net(noise(1, 4, 33, 47)).shape)


def test_weights_are_kept_in_a_quarter_of_their_size() -> None:
    tensors = {"a.weight": noise(8, 4, 3, 3) - 0.5, "a.bias": noise(8)}
    kept = packed(tensors)
    assert torch.int8 == kept["a.weight"].dtype
    found = unpacked(kept)
    assert tensors.keys() == found.keys()
    torch.testing.assert_close(found["a.bias"], tensors["a.bias"])
    torch.testing.assert_close(found["a.weight"], tensors["a.weight"], atol=0.5 / 127, rtol=0)


def test_a_replica_imports_no_library_that_it_does_not_use() -> None:
    """Each costs seconds at the start and memory for good."""
    code = (
        "import json, sys\n"
        "from watcherd.config import Model\n"
        "from watcherd.inference.base import Placement\n"
        "from watcherd.inference.segmenters import create\n"
        "create(Model(segmenter='vessel')).load(Placement(), lambda *_: None)\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=Path.cwd())
    loaded = set(json.loads(run.stdout))
    unused = {"monai", "transformers", "accelerate", "skimage", "torch._dynamo", "torch.onnx", "sympy"}
    assert not unused & loaded
