"""What is made of Ray's answers: which machines there are, and which may carry a replica. Ray itself is pretended."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from watcherd.config import Log, Model
from watcherd.inference.base import Placement
from watcherd.inference.cluster import on_ray
from watcherd.inference.cluster.nodes import CARD, Node
from watcherd.inference.machine.devices import parse_inventory
from watcherd.inference.messages import ReplicaSpec
from watcherd.inference.pool.carrier import Ended, NoRoomError


class RayError(Exception):
    pass


class GetTimeoutError(RayError, TimeoutError):
    pass


class PretendedRay:
    """Nodes by their ids, and what each says of itself (or raises)."""

    def __init__(self) -> None:
        self.there: dict[str, dict[str, Any]] = {}
        self.said: dict[str, Node | Exception] = {}
        self.actors: list[dict[str, Any]] = []
        self.trouble: Exception | None = None
        self.killed = 0

    def join(self, born: str, node: Node | Exception, *, host: str = "bee", port: int = 6381, **labels: str) -> None:
        self.there[born] = {
            "NodeID": born,
            "Alive": True,
            "NodeManagerHostname": host,
            "NodeManagerAddress": "10.0.0.2",
            "NodeManagerPort": port,
            "Resources": {f"{CARD}planned-0": 1.0},
            "Labels": labels,
        }
        self.said[born] = node

    def nodes(self) -> list[dict[str, Any]]:
        return list(self.there.values())

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "here")

    def wait(self, asked: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return asked, []

    def get(self, asked: Any, timeout: float = 0.0) -> Any:
        if isinstance(asked, Exception):
            raise asked
        return asked

    def kill(self, handle: Any) -> None:
        self.killed += 1

    def remote(self, *arguments: Any, **_: Any) -> Any:
        def agent() -> Any:
            return SimpleNamespace(describe=SimpleNamespace(remote=lambda born: self.said[born]))

        def host(_: ReplicaSpec) -> Any:
            return SimpleNamespace(start=SimpleNamespace(remote=lambda: self.trouble or 7))

        def options(**wanted: Any) -> Any:
            if arguments:
                self.actors.append(wanted)
            return SimpleNamespace(remote=host if arguments else agent)

        return SimpleNamespace(options=options) if arguments else lambda _: SimpleNamespace(options=options)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> PretendedRay:
    found = PretendedRay()
    modules: dict[str, Any] = {
        name: ModuleType(name) for name in ("ray.exceptions", "ray.util", "ray.util.scheduling_strategies")
    }
    modules["ray"] = found
    modules["ray.exceptions"].RayError, modules["ray.exceptions"].GetTimeoutError = RayError, GetTimeoutError
    strategy = lambda born, soft: (born, soft)  # noqa: E731 - stands for a class
    modules["ray.util.scheduling_strategies"].NodeAffinitySchedulingStrategy = strategy
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return found


def node(born: str, cards: str = "1x24GiB", *, host: str = "bee", of: str = "") -> Node:
    return Node(name=host, address="", born=born, version=of or version("watcherd"), cards=parse_inventory(cards))


def spec(name: str = "bee", *cards: str) -> ReplicaSpec:
    nowhere = Path("/nowhere")
    model = Model(segmenter="fake")
    return ReplicaSpec(
        number=0, model=model, placement=Placement(), visible=cards, cache=nowhere, stack=nowhere, log=Log(), node=name
    )


def seen(ray: PretendedRay, *, local: bool = False) -> on_ray.Ray:
    found = on_ray.Ray(local=local)
    found.look()
    return found


def test_a_machine_that_describes_itself_may_carry_replicas(ray: PretendedRay) -> None:
    ray.join("1", node("1"))
    (found,) = seen(ray).nodes()
    assert ("bee", "10.0.0.2", "") == (found.name, found.address, found.refused)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (node("1", of="0.0.1"), f"it has watcherd 0.0.1, and this machine {version('watcherd')}: install the same"),
        (ModuleNotFoundError("No module named 'watcherd'"), "No module named 'watcherd'"),
        (replace(node("1"), refused="the driver does not answer"), "the driver does not answer"),
    ],
)
def test_a_machine_with_another_watcherd_or_none_is_refused_with_the_reason(
    ray: PretendedRay, said: Node | Exception, why: str
) -> None:
    ray.join("1", said)
    engine = seen(ray)
    (found,) = engine.nodes()
    assert why in found.refused
    with pytest.raises(NoRoomError, match="the machine bee is refused"):
        engine.start(spec(), ship=False)


def test_the_head_carries_nothing_and_neither_does_this_machine_beside_the_service(ray: PretendedRay) -> None:
    ray.join("1", node("1"), **{"watcherd-role": "head"})
    ray.join("here", node("here"))
    assert () == seen(ray, local=True).nodes()
    assert 1 == len(seen(ray, local=False).nodes())


def test_two_machines_of_one_name_are_told_apart(ray: PretendedRay) -> None:
    """And so are two nodes on one machine."""
    for port in (1, 2, 3):
        ray.join(str(port), node(str(port)), port=port)
    assert ["bee", "bee@10.0.0.2", "bee@10.0.0.2-3"] == [each.name for each in seen(ray).nodes()]


def test_a_machine_that_is_back_before_anybody_knew_that_it_was_away_is_there_once(ray: PretendedRay) -> None:
    """Under its own name, so that its replicas find it."""
    ray.join("1", node("1"))
    engine = seen(ray)
    ray.join("2", node("2"))
    engine.look()
    engine.look()
    assert [("bee", "2")] == [(each.name, each.born) for each in engine.nodes()]
    del ray.there["1"]
    engine.look()
    assert ["2"] == [each.born for each in engine.nodes()]
    del ray.there["2"]
    engine.look()
    assert () == engine.nodes()


def test_an_actor_owns_the_cards_that_it_was_placed_on(ray: PretendedRay) -> None:
    """Whole cards, by name, on that machine alone, and Ray starts nothing again."""
    ray.join("1", node("1", "2x24GiB"))
    assert 7 == seen(ray).start(spec("bee", "planned-0", "planned-1"), ship=False).pid
    (wanted,) = ray.actors
    assert (2, ("1", False)) == (wanted["num_gpus"], wanted["scheduling_strategy"])
    assert {f"{CARD}planned-0": 1} == wanted["resources"], "those that the node has a name for"
    assert (0, 0) == (wanted["max_restarts"], wanted["max_task_retries"])


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (spec("cat"), "the machine cat is not there"),
        (spec("bee", "planned-9"), "the machine bee has not these cards"),
    ],
)
def test_what_is_not_there_is_no_death_of_the_models(ray: PretendedRay, wanted: ReplicaSpec, why: str) -> None:
    ray.join("1", node("1"))
    with pytest.raises(NoRoomError, match=why):
        seen(ray).start(wanted, ship=False)


@pytest.mark.parametrize(
    ("trouble", "why"),
    [(GetTimeoutError(), "Ray found no room on bee within 90 s"), (RayError("lost\nand more"), "bee: RayError: lost")],
)
def test_an_actor_that_does_not_come_is_given_up(ray: PretendedRay, trouble: Exception, why: str) -> None:
    ray.join("1", node("1"))
    ray.trouble = trouble
    with pytest.raises(NoRoomError, match=why):
        seen(ray).start(spec(), ship=False)
    assert 1 == ray.killed


def test_a_machine_that_is_lost_is_the_end_and_nobodys_fault(ray: PretendedRay) -> None:
    lost = SimpleNamespace(remote=lambda *_: RayError("the node is gone"))
    actor = on_ray.Actor(SimpleNamespace(receive=lost, bury=lost, end=lost, ask_for_stack=lost), 7)
    with pytest.raises(Ended, match="the node is gone") as end:
        actor.receive()
    assert end.value.lost
    assert actor.bury() is None
    actor.end()
    actor.ask_for_stack()
    assert 2 == ray.killed
