"""Who does how much in the side-by-side benchmark, with systems that only say how long they took."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import runner as runner_module
from machine import EnergyMeter
from runner import Asked, Runner, System

PROMPTS = {1: {"boxes": [[0, 0, 1, 1]]}, 4: {"boxes": [[0, 0, 1, 1]] * 4}}
IMAGE = Path("image.npy")


class Said(Runner):
    """Answers at once that encoding took a number of ms, and each prompt 10 ms."""

    def __init__(self, encode_ms: float) -> None:
        super().__init__(System("said", Path("python"), Path("worker.py"), {}), 1, EnergyMeter())
        self.encode_ms, self.asked = encode_ms, []

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append(request)
        if request["do"] == "clients":
            return {"locked": False, "seconds": 2.0, "ms": [5.0] * request["requests"]}
        return {"ms": self.encode_ms if request["do"] == "encode" else 10.0 * len(request["boxes"])}


def turned(encode_ms: float, turns: int) -> Said:
    system = Said(encode_ms)
    for number in range(turns + 1):
        system.turn(number, IMAGE, PROMPTS)
    system.finish_turns({})
    return system


def test_the_first_turn_is_not_counted() -> None:
    fast = turned(100.0, 3)
    assert fast.row["turns"] == 3
    assert fast.row["ms"]["first_mask"]["p50"] == pytest.approx(110.0)
    assert fast.row["ms"]["decode_4"]["p50"] == pytest.approx(40.0)


def test_slow_systems_take_part_in_every_fourth_turn() -> None:
    slow = turned(6000.0, 8)
    assert slow.slow
    assert slow.row["turns"] == 3
    assert turned(6000.0, 3).row["turns"] == 1


@pytest.mark.parametrize(("encode_ms", "images"), [(90.0, 200), (990.0, 40), (4990.0, 8)])
def test_a_stream_ends_after_a_while(encode_ms: float, images: int) -> None:
    system = turned(encode_ms, 1)
    system.stream([Asked(IMAGE, PROMPTS[1])] * 200)
    assert system.row["stream"]["images"] == images


def test_clients_are_given_what_fits() -> None:
    system = turned(990.0, 1)
    system.clients(Asked(IMAGE, PROMPTS[1]), 100)
    assert system.asked[-1]["requests"] == 40
    assert system.row["clients"]["per_second"] == 20.0


@pytest.mark.parametrize(("ms", "starts"), [(500.0, 3), (16e3, 2), (40e3, 1)])
def test_long_starts_are_repeated_less_often(monkeypatch: pytest.MonkeyPatch, ms: float, starts: int) -> None:
    begun = []

    class Cold:
        def __init__(self, *args: object, **options: object) -> None:
            begun.append(self)

        def cold_start(self, *args: object) -> dict[str, Any]:
            return {"load_ms": ms, "loaded_ms": ms, "first_mask_ms": ms + len(begun), "ok": True, "version": "1"}

        def kill(self) -> None:
            pass

    monkeypatch.setattr(runner_module, "Worker", Cold)
    system = Said(1.0)
    system.start(Asked(IMAGE, PROMPTS[1]), 3)
    assert len(begun) == starts
    assert system.row["version"] == "1"
    assert system.row["cold"]["first_mask_ms"] == pytest.approx(ms + (1 + starts) / 2, abs=0.06)
