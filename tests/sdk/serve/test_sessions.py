import threading
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import samsdk
import samsdk.errors
from samsdk.serve.limits import Limits


def closed(api: Any) -> dict[str, float]:
    lines = [line for line in api.get("/metrics").text.splitlines() if line.startswith("samsdk_sessions_closed_total")]
    return {line.split('"')[1]: float(line.split()[-1]) for line in lines}


def test_what_was_used_least_recently_gives_way(calling: Any, cell: NDArray[np.uint8]) -> None:
    with calling(limits=Limits(sessions=2, burst=1000)) as api:
        first, second = api.open(cell), api.open(cell)
        assert api.get(first).status_code == 200
        third = api.open(cell)
        assert [api.get(session).status_code for session in (first, second, third)] == [200, 410, 200]
        assert "other images needed its room" in api.get(second).json()["detail"]
        assert closed(api) == {"room": 1}


def test_memory_stays_within_its_limit(calling: Any, cell: NDArray[np.uint8]) -> None:
    with calling() as api:
        api.open(cell)
        service = api.app.state.service
        one = service.sessions.nbytes
        session = next(iter(service.sessions._open.values()))
        embedding = sum(tensor.nbytes for tensor in session._whole.tensors.values())
        assert one == cell.nbytes + embedding
    with calling(limits=Limits(memory_bytes=int(one * 3.5), burst=1000)) as api:
        for _ in range(5):
            api.open(cell)
        assert len(api.app.state.service.sessions) == 3
        assert api.app.state.service.sessions.nbytes <= one * 3.5
        large = np.zeros((3000, 3000), np.uint8)
        reply = api.upload(large)
        assert (reply.status_code, reply.json()["error"]) == (413, "too_large")
        assert len(api.app.state.service.sessions) == 3, "nobody has to give way for what is refused"


def test_a_session_that_grows_forgets_what_it_could_undo(calling: Any, cell: NDArray[np.uint8]) -> None:
    with calling() as api:
        session = api.open(cell)
        start = api.app.state.service.sessions.nbytes
        api.ask(session, points=[[300, 300]], zoom=False)
        answer = api.app.state.service.sessions.nbytes - start
        assert answer > 0
    with calling(limits=Limits(memory_bytes=start + int(answer * 4.5), burst=1000)) as api:
        session = api.open(cell)
        for _ in range(6):
            api.ask(session, points=[[300, 300]], object=1, zoom=False)
            assert api.app.state.service.sessions.nbytes <= start + answer * 4.5
        assert 1 <= api.get(f"{session}/objects/1").json()["undo"] <= 4


def test_answers_hold_no_more_memory_than_is_counted(api: Any, cell: NDArray[np.uint8]) -> None:
    session = api.open(cell)
    first = api.ask(session, points=[[300, 300]], zoom=False)
    api.ask(session, points=[[300, 300], [200, 100]], labels=[1, 0], mask=first["answer"], object=1, zoom=False)
    api.post(f"{session}/batches", json={"prompts": [{"points": [[x, 200]]} for x in (50, 150, 250)], "zoom": False})
    api.ask(session, points=[[300, 300]], include=["png", "rle"])
    (kept,) = api.app.state.service.sessions._open.values()
    answers = [answer for one in kept.objects.values() for answer in one.answers]
    assert len(answers) == 6
    for answer in answers:
        # A view would hold on to the logits of all masks and of all prompts of a batch.
        assert answer.result.low_res_logits.base is None
        assert "mask" not in vars(answer.result), "a mask of the whole image was made and kept"
    assert answers[1].prompt.mask is answers[0].result
    held = sum(one.result.low_res_logits.nbytes + one.result.region.inside.nbytes for one in answers)
    embeddings = [kept._whole, *kept._windows.values()]
    held += sum(tensor.nbytes for embedding in embeddings for tensor in embedding.tensors.values())
    assert kept.nbytes == held + cell.nbytes
    # What a correction was made of is counted as long as it is held.
    before = kept.nbytes
    kept.objects[1].forget()
    kept.weigh()
    assert kept.nbytes == before, "the answer before is what the present one corrects"


def test_measurements_are_not_kept_without_end(api: Any, cell: NDArray[np.uint8]) -> None:
    session = api.open(cell)
    api.ask(session, box=[200, 200, 300, 300])
    (kept,) = api.app.state.service.sessions._open.values()
    for side in range(1, 9):
        api.patch(session, json={"spacing": [side / 10]})
        api.get(f"{session}/objects/1?variations={side}")
        api.get(f"{session}/objects/1")
    assert len(kept.objects[1].current.measured) <= 2


def test_nobody_waits_for_ranges_of_a_client_that_is_gone(api: Any, cell: NDArray[np.uint8]) -> None:
    session = api.open(cell)
    api.ask(session, points=[[300, 300]])
    (kept,) = api.app.state.service.sessions._open.values()
    asked = iter([False, False, True])
    with pytest.raises(samsdk.errors.CancelledError):
        kept.vary(kept.objects[1].current, 8, lambda: next(asked))
    assert next(asked, None) is None


def test_answers_beyond_the_limit_are_forgotten_from_the_oldest_on(calling: Any, cell: NDArray[np.uint8]) -> None:
    with calling(limits=Limits(answers=3, burst=1000)) as api:
        session = api.open(cell)
        for x in (100, 200, 300, 400, 500):
            last = api.ask(session, points=[[x, 300]], object=1)
        assert api.get(f"{session}/objects/1").json()["undo"] == 3
        assert api.post(f"{session}/prompts", json={"points": [[1, 1]], "mask": 2}).status_code == 404
        assert api.ask(session, points=[[1, 1]], mask=last["answer"])["object"] == 1


def test_sessions_that_nobody_uses_are_closed(
    calling: Any, cell: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = 0.0
    real = time.monotonic
    with calling(limits=Limits(idle_seconds=60, burst=1000)) as api:
        monkeypatch.setattr("samsdk.serve.sessions.time.monotonic", lambda: real() + late)
        used, idle = api.open(cell), api.open(cell)
        late = 40.0
        assert api.get(used).status_code == 200
        late = 80.0
        assert api.get(idle).status_code == 410
        assert api.get(used).status_code == 200
        late = 200.0
        api.app.state.service.sessions.close_idle()
        assert len(api.app.state.service.sessions) == 0
        assert closed(api) == {"idle": 2}


def test_sessions_have_names_that_nobody_guesses(api: Any, cell: NDArray[np.uint8]) -> None:
    names = {api.open(cell).rpartition("/")[2] for _ in range(5)}
    assert len(names) == 5
    assert all(len(name) == 32 for name in names)  # 24 random bytes


def test_windows_are_encoded_once_and_few_are_kept(
    api: Any, cell: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = api.open(cell)
    (kept,) = api.app.state.service.sessions._open.values()
    encoded = []
    real = kept.predictor.encode

    def encode(image: object, *, window: Any = None) -> samsdk.Embedding:
        encoded.append(window)
        return real(image, window=window)

    monkeypatch.setattr(kept.predictor, "encode", encode)
    for _ in range(3):
        reply = api.ask(session, box=[200, 200, 260, 260], zoom=True)
    assert encoded == [tuple(reply["window"])]
    assert reply["timings"]["encode"] == 0
    for left in range(0, 480, 40):
        api.ask(session, box=[left, 200, left + 60, 260], zoom=True)
    assert len(kept._windows) == 8


def test_sessions_share_no_state_between_threads(api: Any, cell: NDArray[np.uint8], tissue: NDArray[np.uint8]) -> None:
    """Two images, four clients, each answer compared with that of one thread alone."""
    places = [(60, 40), (200, 300), (333, 222), (480, 500)]
    sessions = {api.open(image): image for image in (cell[:510, :510], tissue)}
    predictor = api.app.state.service.predictors["tiny"]
    expected = {
        (session, place): predictor.segment(image, points=[place], zoom=True).rle()
        for session, image in sessions.items()
        for place in places
    }
    wrong: list[object] = []

    def work(order: list[tuple[str, tuple[int, int]]]) -> None:
        for session, place in order:
            answer = api.ask(session, points=[place], zoom=True, object=1)
            if answer["rle"] != expected[session, place]:
                wrong.append((session, place))

    orders = [list(expected), list(expected)[::-1], list(expected)[1::2], list(expected)[::2]]
    threads = [threading.Thread(target=work, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len({str(rle) for rle in expected.values()}) > 4, "the answers differ, so that a mix-up shows"
