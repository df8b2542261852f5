"""No tensor meets one of another device, wherever the model is cut."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests import qwen_vl_tiny
from tests.fake_devices import NAME, fake_devices, real_values
from tests.sa2va_folder import DATA
from tests.sa2va_tiny import tiny_config
from watcherd.inference.base import Frame
from watcherd.inference.segmenters.sa2va import engine, language, network, patches, preprocess, video
from watcherd.inference.segmenters.sa2va.config import PATCHED_TEMPLATE
from watcherd.inference.segmenters.sa2va.prompt import Words
from watcherd.inference.segmenters.sa2va.weights import place_buffers, put
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LAYERS = 3
CHAIN = (
    "vision",
    "projector",
    "language.model.embed_tokens",
    *(f"language.model.layers.{layer}" for layer in range(LAYERS)),
    "language.model.norm",
    "language.lm_head",
    "text_hidden_fcs",
    "sam2",
)
"""The parts in the order in which they work; the model may be cut between any two."""
PATCHED = tuple(part for part in CHAIN if part != "projector")
"""Those of a model that sees in patches."""

FIRST, SECOND = f"{NAME}:0", f"{NAME}:1"
CUTS = [
    *({part: (FIRST if place < cut else SECOND) for place, part in enumerate(CHAIN)} for cut in range(1, len(CHAIN))),
    *({part: (SECOND if part == alone else FIRST) for part in CHAIN} for alone in ("projector", "text_hidden_fcs")),
    {part: "cpu" if part == "language.model.embed_tokens" else FIRST for part in CHAIN},
    {part: f"{NAME}:{place}" for place, part in enumerate(CHAIN)},
]
PATCHED_CUTS = [
    *({part: (FIRST if place < cut else SECOND) for place, part in enumerate(PATCHED)} for cut in (1, 2, 4, 7, 8)),
    {part: f"{NAME}:{place}" for place, part in enumerate(PATCHED)},
]
"""Behind the tower, behind the embedding, within the layers that get more of what was seen, and behind all of these."""

SEEN = Options(prompt="Please segment the blood vessel.", draft="Sure, [SEG] and [SEG].", decode="forced")


@pytest.fixture(scope="module", autouse=True)
def skeleton() -> Iterator[network.Sa2vaNetwork]:
    """Modules on pretended devices, built once; each test moves their parts."""
    torch.set_num_threads(1)
    with fake_devices(), torch.inference_mode():
        yield network.skeleton(tiny_config(num_hidden_layers=LAYERS))


@pytest.fixture(scope="module", params=qwen_vl_tiny.FAMILIES)
def patched(request: pytest.FixtureRequest) -> network.Sa2vaNetwork:
    return network.skeleton(qwen_vl_tiny.tiny_config(request.param, vocab_size=356, num_hidden_layers=LAYERS))


@pytest.fixture(scope="module")
def both() -> list[network.Sa2vaNetwork]:
    return [
        network.skeleton(qwen_vl_tiny.tiny_config(base, vocab_size=356, num_hidden_layers=LAYERS))
        for base in qwen_vl_tiny.FAMILIES
    ]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Words:
    return Words(qwen_vl_tiny.write_words(tmp_path_factory.mktemp("words")), template=PATCHED_TEMPLATE)


def cut_so(skeleton: network.Sa2vaNetwork, cut: Mapping[str, str], words: Words | None = None) -> engine.Engine:
    """An engine without values; what ``cut`` does not name (the rotary table) is on the first device."""
    device_map = {"": FIRST, **cut}
    # Tests below spoil the class.
    skeleton.__class__ = network.Sa2vaNetwork
    for name, parameter in skeleton.named_parameters():
        put(skeleton, name, torch.empty(parameter.shape, device=str(network.place(name, device_map))))
    place_buffers(skeleton, device_map)
    return engine.Engine(skeleton, words or Words(DATA / "tokenizer"), max_new_tokens=2)


def exercise(skeleton: network.Sa2vaNetwork, cut: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that a model does: a batch with drafts, one checked, one generated, and a run with a tracked frame."""
    model = cut_so(skeleton, cut)
    frames = [Frame(pixels=np.zeros(size, np.uint8), options=SEEN) for size in ((64, 64), (64, 200, 3))]
    found = model.segment(frames)
    assert torch.device(cut["sam2"]) == found[0].logits.device
    draft = (5, model.words.seg, 6)
    visual = torch.empty(256, 32, device=cut["projector"])
    turns = [
        language.Turn(prompt=model.words.prompt(text, [1]), visual=visual, draft=draft) for text in ("x", "longer")
    ]
    model.language.read(turns, check=True)
    head = model.language._say
    # Pretended tensors have no values: what is said is made up, after the head was asked.
    monkeypatch.setattr(model.language, "_say", lambda states: head(states) is not None and np.array([draft[1], 7]))
    answers = model.language.generate(turns, 2)
    model._replies([(answer, "generated") for answer in answers])
    monkeypatch.setattr(video, "CONDITIONING", 1)
    tracker = video.Tracker(model.grounding, torch.empty(2, 256, device=cut["text_hidden_fcs"]))
    features = model.encode([frames[0].pixels])
    tracker.step(features)
    tracker.step(features)


def exercise_patched(
    skeleton: network.Sa2vaNetwork, cut: Mapping[str, str], words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What differs in a model that sees in patches: what it sees, a batch with drafts, and generated answers."""
    model = cut_so(skeleton, cut, words)
    laid_out = patches.layout_for

    def outside(*given: Any) -> Any:
        """Layouts follow from sizes, on the CPU; what is moved from there has no values any more."""
        with real_values():
            known = laid_out(*given)
        tensors = {name: torch.empty_like(each) for name, each in known.tensors.items()}
        groups = {name: tuple(map(torch.empty_like, each.groups)) for name, each in known.segments.items()}
        segments = {name: replace(each, groups=groups[name]) for name, each in known.segments.items()}
        return replace(known, tensors=tensors, segments=segments)

    monkeypatch.setattr(patches, "layout_for", outside)
    frames = [Frame(pixels=np.zeros(size, np.uint8), options=SEEN) for size in ((64, 64), (64, 200, 3))]
    found = model.segment(frames)
    assert torch.device(cut["sam2"]) == found[0].logits.device
    width = 32
    turns = [
        language.Turn(
            prompt=words.prompt(text, [(2, 3)]),
            visual=torch.empty(6, width, device=cut["vision"]),
            deep=(torch.empty(6, width, device=cut["vision"]),) * 2,
        )
        for text in ("x", "longer")
    ]
    head = model.language._say
    monkeypatch.setattr(model.language, "_say", lambda rows: head(rows) is not None and np.array([words.seg, 7]))
    model.language.generate(turns, 2)


@pytest.mark.parametrize("cut", PATCHED_CUTS, ids=lambda cut: "".join(device[-1] for device in cut.values()))
def test_every_cut_works_in_models_that_see_in_patches(
    cut: dict[str, str], patched: network.Sa2vaNetwork, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    exercise_patched(patched, cut, words, monkeypatch)


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: "".join(device[-1] for device in cut.values()))
def test_every_cut_between_parts_and_between_layers_works(
    cut: dict[str, str], skeleton: network.Sa2vaNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two devices cut at each place in turn, small parts alone on the second one, and every part on one of its own."""
    exercise(skeleton, cut, monkeypatch)


class Waits(TorchDispatchMode):
    """Notes what makes the host wait until a device has done all that it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {each.name: value for each, value in zip(func._schema.arguments, args, strict=False)} | (kwargs or {})
        tensors = [each for each in torch.utils._pytree.tree_leaves(given) if isinstance(each, torch.Tensor)]
        kinds = {each.device.type for each in tensors}
        if func._schema.name in {"aten::to", "aten::_to_copy", "aten::copy_"}:
            if kinds | {made.device.type} == {NAME, "cpu"} and not given.get("non_blocking"):
                self.found.append(f"{func} from {kinds} to {made.device.type}")
        elif NAME in kinds and any(each.numel() > 1 for each in tensors if each.device.type == "cpu"):
            self.found.append(f"{func} over {kinds}")
        elif func._schema.name in {"aten::_local_scalar_dense", "aten::item"} and NAME in kinds:
            self.found.append(str(func))
        return made


@pytest.mark.parametrize("decode", ["forced", "verify"])
def test_a_batch_is_launched_whole_without_waiting_for_the_device(
    decode: str, skeleton: network.Sa2vaNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From bytes to maps, with drafts that are checked too; what they say is read later, in `transfer.to_host`.

    The first batch of a kind may wait, for what then stays on the device.
    """
    model = cut_so(skeleton, dict.fromkeys(CHAIN, FIRST))
    read: list[int] = []
    monkeypatch.setattr(engine, "to_host", lambda tensors: read.append(len(tensors)))
    monkeypatch.setattr(preprocess, "channels", lru_cache(preprocess._brought))
    options = replace(SEEN, decode=decode)
    frames = [Frame(pixels=np.zeros(size, np.uint8), options=options) for size in ((64, 64), (64, 200, 3))]
    model.launch(frames)
    with Waits() as waits:
        launched = model.launch(frames)
        model.maps(launched.found, [(64, 64), (64, 200)])
    assert [] == waits.found
    assert len(read) == (0 if decode == "forced" else 4)


OF_PATCHES = ("qwen_vl", "patches")
"""Modules that only models have that see in patches."""

MOVES = re.compile(r"\.to\((?:self\.)?(?:device|rows\.device|coarse\.device)(?:_of\([\w.]+\))?(?:, [\w.=]+)?\)")
"""Every hand-over of a tensor to a device, as it stands in the code."""

MODULES = [
    importlib.import_module(f"{engine.__package__}.{name}")
    for name in (
        "preprocess",
        "network",
        "eyes",
        "qwen_vl",
        "patches",
        "language",
        "grounding",
        "engine",
        "video",
    )
]


def code_of(module: ModuleType) -> str:
    return Path(str(module.__file__)).read_text()


SEAMS = [
    pytest.param(module, seam.span(), id=f"{module.__name__.rpartition('.')[2]}-{number}")
    for module in MODULES
    for number, seam in enumerate(MOVES.finditer(code_of(module)))
]


def test_the_seams_are_found() -> None:
    """The pattern still finds the hand-overs, so that the next test is about something."""
    assert len(SEAMS) >= 12


@pytest.mark.parametrize(("module", "seam"), SEAMS)
def test_without_any_one_of_the_hand_overs_a_tensor_meets_another_device(
    module: ModuleType,
    seam: tuple[int, int],
    skeleton: network.Sa2vaNetwork,
    both: list[network.Sa2vaNetwork],
    words: Words,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So the tests above see each of them, and none is there for nothing."""
    code = code_of(module)
    spoiled = ModuleType(module.__name__)
    spoiled.__dict__["__file__"] = module.__file__
    monkeypatch.setitem(sys.modules, module.__name__, spoiled)
    exec(compile(code[: seam[0]] + code[seam[1] :], str(module.__file__), "exec"), spoiled.__dict__)  # noqa: S102 - our own code
    own = {name: thing for name, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__}
    for user in MODULES:
        for name, thing in own.items():
            if getattr(user, name, None) is thing:
                monkeypatch.setattr(user, name, getattr(spoiled, name))
    with pytest.raises(RuntimeError, match="device"):
        exercise_all(module, skeleton, both, words, monkeypatch)


def exercise_all(
    module: ModuleType,
    skeleton: network.Sa2vaNetwork,
    both: list[network.Sa2vaNetwork],
    words: Words,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every model that ``module`` is for, until one fails."""
    if module.__name__.rpartition(".")[2] not in OF_PATCHES:
        exercise(skeleton, CUTS[-1], monkeypatch)
    for each in both:
        exercise_patched(each, PATCHED_CUTS[-1], words, monkeypatch)
