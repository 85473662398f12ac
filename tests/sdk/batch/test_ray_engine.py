from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from samsdk.batch import run_batch
from samsdk.errors import MissingExtraError
from samsdk.everything import EverythingSettings


def test_ray_gives_what_the_local_engine_gives(tmp_path: Path, tissue: NDArray[np.uint8]) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'samsdk[ray]'")
    (tmp_path / "in").mkdir()
    for index in range(4):
        cv2.imwrite(str(tmp_path / "in" / f"{index}.png"), tissue[40 * index : 40 * index + 90, :100, ::-1])
    (tmp_path / "in" / "bad.png").write_bytes(b"words")

    def start(engine: str) -> tuple[list[object], dict[str, bytes]]:
        out = tmp_path / engine
        settings = EverythingSettings(points_per_side=4, crop_n_layers=0)
        report = run_batch(tmp_path / "in", out, device="cpu", everything=settings, processes=2, engine=engine)
        rows = [
            (one.file, row.state, row.instances, row.measurements, row.message)
            for one in report.outcomes
            for row in one.rows
        ]
        return list(rows), {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("labels.png")}

    rows, masks = start("local")
    assert (len(rows), len(masks)) == (5, 4)
    assert start("ray") == (rows, masks)


def test_without_ray_it_says_what_to_install(
    tmp_path: Path, tissue: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a.png"), tissue[:90, :100])
    (tmp_path / "p.csv").write_text('file,box\na.png,"20,16,72,60"\n')
    with pytest.raises(MissingExtraError, match=r"pip install 'samsdk\[ray\]'"):
        run_batch(tmp_path / "in", tmp_path / "out", prompts=tmp_path / "p.csv", engine="ray")
