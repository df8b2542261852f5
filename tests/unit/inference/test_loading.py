"""Weights go where the placement says, tensor by tensor, and every name is accounted for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.fake_devices import NAME, fake_devices
from watcherd.errors import UnavailableError
from watcherd.inference import checks, loading
from watcherd.inference.base import Placement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CPU = Placement()


class Tiny(nn.Module):
    """A parameter of two names, a saved buffer, one that is not saved, and a tensor that torch does not know of."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.norm = nn.BatchNorm1d(4)
        self.last = nn.Linear(4, 4, bias=False)
        self.last.weight = self.first.weight
        self.register_buffer("angles", torch.linspace(0, 1, 4), persistent=False)
        self.table = torch.arange(4.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(self.norm(self.first(x))) * self.angles
        return found


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Tiny, Path]:
    torch.manual_seed(0)
    module = Tiny().eval()
    path = tmp_path / "model.safetensors"
    save_file({name: tensor for name, tensor in module.state_dict().items() if name != "last.weight"}, path)
    return module, path


def test_a_skeleton_has_no_parameters_in_memory_but_real_buffers_and_keeps_ties() -> None:
    module = loading.skeleton(Tiny)
    assert isinstance(module, Tiny)
    assert all(parameter.is_meta for parameter in module.parameters())
    assert not any(buffer.is_meta for buffer in module.buffers())
    assert module.last.weight is module.first.weight


def test_a_loaded_module_computes_what_the_saved_one_does(saved: tuple[Tiny, Path]) -> None:
    original, path = saved
    module = loading.skeleton(Tiny)
    loading.load_into(module, [path], CPU)
    checks.after_load(module, Tiny)
    x = torch.randn(3, 4)
    assert torch.equal(original(x), module.eval()(x))


def test_floats_come_at_the_run_dtype_and_integers_as_they_are(saved: tuple[Tiny, Path]) -> None:
    module = loading.skeleton(Tiny)
    loading.load_into(module, [saved[1]], Placement(dtype="bfloat16"))
    assert module.state_dict()["first.weight"].dtype == torch.bfloat16
    assert module.state_dict()["norm.num_batches_tracked"].dtype == torch.int64
    assert dict(module.named_buffers())["angles"].dtype == torch.float32


def test_a_parameter_of_two_names_stays_one(saved: tuple[Tiny, Path]) -> None:
    module = loading.skeleton(Tiny)
    loading.load_into(module, [saved[1]], CPU)
    assert isinstance(module, Tiny)
    assert module.last.weight is module.first.weight


def test_the_weights_outlive_their_file(saved: tuple[Tiny, Path]) -> None:
    """On a CPU a tensor could be a window onto the file, and crash the process when the file is cut short."""
    module = loading.skeleton(Tiny)
    loading.load_into(module, [saved[1]], CPU)
    saved[1].write_bytes(b"")
    assert torch.equal(saved[0].first.weight, module.state_dict()["first.weight"])


def test_progress_goes_from_0_to_1(saved: tuple[Tiny, Path]) -> None:
    marks: list[float] = []
    loading.load_into(loading.skeleton(Tiny), [saved[1]], CPU, mark=lambda _, done: marks.append(done or 0.0))
    assert sorted(marks) == marks
    assert marks[-1] == 1.0


def test_names_can_be_changed_on_the_way(saved: tuple[Tiny, Path], tmp_path: Path) -> None:
    state = {f"model.{name}": tensor.clone() for name, tensor in saved[0].state_dict().items()}
    save_file(state, tmp_path / "other.safetensors")
    module = loading.skeleton(Tiny)
    loading.load_into(module, [tmp_path / "other.safetensors"], CPU, rename=lambda name: name.removeprefix("model."))
    assert torch.equal(saved[0].first.weight, module.state_dict()["first.weight"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("norm.weight"), "missing (1): norm.weight"),
        (lambda state: state.update(extra=torch.zeros(1)), "left over (1): extra"),
        (lambda state: state.update({"norm.bias": torch.zeros(5)}), "norm.bias is (5,), expected (4,)"),
    ],
)
def test_a_name_that_does_not_fit_is_an_error_before_anything_is_read(
    saved: tuple[Tiny, Path], tmp_path: Path, change: object, said: str
) -> None:
    state = {name: tensor.clone() for name, tensor in saved[0].state_dict().items()}
    change(state)  # type: ignore[operator]
    save_file(state, tmp_path / "changed.safetensors")
    module = loading.skeleton(Tiny)
    with pytest.raises(UnavailableError) as caught:
        loading.load_into(module, [tmp_path / "changed.safetensors"], CPU)
    assert said in caught.value.message
    assert module.state_dict()["first.weight"].is_meta


def test_a_name_in_two_files_is_an_error(saved: tuple[Tiny, Path], tmp_path: Path) -> None:
    save_file({"norm.weight": torch.zeros(4)}, tmp_path / "second.safetensors")
    with pytest.raises(UnavailableError, match=r"norm\.weight twice"):
        loading.load_into(loading.skeleton(Tiny), [saved[1], tmp_path / "second.safetensors"], CPU)


@pytest.fixture
def pretended_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors with the files' names and shapes, but no values: pretended devices cannot read files."""

    def tensors(path: Path, rename: Callable[[str], str]) -> Iterator[tuple[str, torch.Tensor]]:
        yield from ((name, torch.empty(shape)) for name, shape in loading._names([path], rename).items())

    monkeypatch.setattr(loading, "_tensors", tensors)


def test_each_tensor_goes_straight_to_its_own_device(saved: tuple[Tiny, Path], pretended_files: None) -> None:
    devices = {"": f"{NAME}:0", "norm": f"{NAME}:1"}
    with fake_devices():
        module = loading.skeleton(Tiny)
        placement = Placement(devices=(f"{NAME}:0", f"{NAME}:1"), device_map=devices)
        loading.load_into(module, [saved[1]], placement)
        where = {name: str(tensor.device) for name, tensor in module.state_dict().items()}
    assert {name for name, device in where.items() if device == f"{NAME}:1"} == {
        name for name in where if name.startswith("norm.")
    }
    assert str(dict(module.named_buffers())["angles"].device) == f"{NAME}:0"


def test_the_pretended_devices_catch_a_forward_across_devices(saved: tuple[Tiny, Path], pretended_files: None) -> None:
    """The mistake that the tests above would miss: a split model that computes without hooks."""
    devices = {"": f"{NAME}:0", "norm": f"{NAME}:1"}
    with fake_devices():
        module = loading.skeleton(Tiny)
        loading.load_into(module, [saved[1]], Placement(devices=tuple(devices.values()), device_map=devices))
        with pytest.raises(RuntimeError, match="device"):
            module.eval()(torch.zeros(2, 4, device=f"{NAME}:0"))


def test_hooks_move_inputs_along_and_do_not_change_the_answer(saved: tuple[Tiny, Path]) -> None:
    """accelerate's hooks, run on a CPU: what a model over several GPUs goes through."""
    module = loading.skeleton(Tiny)
    loading.load_into(module, [saved[1]], CPU)
    hooked = loading.dispatch(module.eval(), Placement(device_map={"": "cpu"}), force_hooks=True)
    x = torch.randn(3, 4)
    assert hasattr(hooked, "_hf_hook")
    assert torch.equal(saved[0](x), hooked(x))
    checks.after_load(hooked, Tiny)


def test_on_one_device_there_are_no_hooks(saved: tuple[Tiny, Path]) -> None:
    module = loading.skeleton(Tiny)
    loading.load_into(module, [saved[1]], CPU)
    assert not hasattr(loading.dispatch(module, CPU), "_hf_hook")


def test_a_fingerprint_follows_the_weights_and_the_settings_but_not_the_folders_name(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(10_000_000))
    first = loading.fingerprint(folder)
    assert loading.fingerprint(folder.rename(tmp_path / "two")) == first
    folder = tmp_path / "two"
    assert loading.fingerprint(folder, extra="other") != first
    (folder / "model.safetensors").write_bytes(bytes(9_999_999) + b"x")
    assert loading.fingerprint(folder) != first
    (folder / "model.safetensors").write_bytes(bytes(10_000_000))
    (folder / "config.json").write_text("{ }")
    assert loading.fingerprint(folder) != first
