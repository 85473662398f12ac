"""The process behind one row of `samsdk bench`: `python -m samsdk.bench_worker`, spoken to in lines of JSON."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from samsdk.environment import peak_memory_mb
from samsdk.errors import SamsdkError
from samsdk.golden import golden_prompt, read_golden
from samsdk.predictor import Predictor
from samsdk.prompts import Prompt

_TURN: Final = "turn"


def main() -> int:
    """Load and make the first mask; then one turn for each line that says so."""
    request = json.loads(sys.stdin.readline())
    try:
        stages, first = _start(request)
        _say(first)
        while sys.stdin.readline().strip() == _TURN:
            _say({name: _time(call) for name, call in stages.items()})
        _say({"peak_memory_mb": peak_memory_mb()})
    except SamsdkError as error:
        _say({"error": str(error)})
        return 1
    return 0


def _start(request: Mapping[str, Any]) -> tuple[dict[str, Callable[[], object]], dict[str, Any]]:
    import samsdk

    begun = time.perf_counter()
    how = {name: request[name] for name in ("device", "threads", "tier")}
    predictor = samsdk.load(request["bundle"], **how)
    load_ms = (time.perf_counter() - begun) * 1e3
    images, _, cases = read_golden(predictor.bundle)
    # What its users will do: a model that knows points gets a point, one that prompts itself gets none.
    kind = "points" if "points" in predictor.manifest.trained_kinds else "box"
    case = next((case for case in cases if next(iter(case.prompt), None) == kind), cases[0])
    image = images[case.image]
    prompt = golden_prompt(case, cases) if predictor.manifest.auto is None else Prompt()
    embedding = predictor.encode(image)
    predictor.decode_batch(embedding, [prompt])
    cold_ms = (time.time() - request["started"]) * 1e3
    first = {
        "provider": predictor.provider,
        "precision": predictor.engines.plan.precision,
        "cold_start_ms": round(cold_ms, 1),
        "load_ms": round(load_ms, 1),
        "image_size": list(image.shape[:2]),
    }
    return _stages(predictor, image, prompt, request["prompts"]), first


def _stages(predictor: Predictor, image: object, prompt: Prompt, prompts: list[int]) -> dict[str, Callable[[], object]]:
    embedding = predictor.encode(image)
    stages: dict[str, Callable[[], object]] = {"encode": lambda: predictor.encode(image)}
    for count in prompts:
        batch = [prompt] * count
        stages[f"decode_{count}"] = lambda batch=batch: predictor.decode_batch(embedding, batch)  # type: ignore[misc]
    stages["end_to_end"] = lambda: predictor.decode_batch(predictor.encode(image), [prompt])
    return stages


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def _say(answer: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
