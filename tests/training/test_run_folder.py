import importlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from samsdk_training.run_folder import RunFolder
from samsdk_training.train_state import Progress, TrainingError, TrainState, WeightAverage


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    one = RunFolder(tmp_path / "deep" / "run")
    one.open({"format": 1})
    return one


def make_state(seed: int = 0) -> TrainState:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    parameters = dict(model.named_parameters())
    optimiser = torch.optim.AdamW(parameters.values())
    for _ in range(2):
        model(torch.randn(4, 3)).square().sum().backward()
        optimiser.step()
    return TrainState(model, parameters, optimiser, WeightAverage(parameters, 0.9), Progress(2 + seed, 0.5, 1))


def test_lines_after_the_resumed_step_and_broken_ones_are_dropped(folder: RunFolder) -> None:
    for step in (1, 2, 3):
        folder.append({"step": step, "losses": {"loss": 0.1 * step}})
        folder.append({"step": step, "validation": {"dice": float("nan")}})
    path = folder.path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 4, "los')
    assert len(folder.metrics()) == 6
    folder.truncate(2)
    assert path.read_text().splitlines() == [
        '{"step": 1, "losses": {"loss": 0.1}}',
        '{"step": 1, "validation": {"dice": null}}',
        '{"step": 2, "losses": {"loss": 0.2}}',
        '{"step": 2, "validation": {"dice": null}}',
    ]


def test_a_state_that_a_kill_left_under_its_other_name_comes_back(folder: RunFolder) -> None:
    make_state().save(folder.state)
    folder.state.replace(folder.path / ".state.0123.earlier")
    (folder.path / ".state.0123.partial").mkdir()
    folder.open({"format": 1})
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.json", "state"]
    other = make_state(1)
    other.load(folder.state)
    assert other.progress == Progress(2, 0.5, 1)


def test_what_an_old_save_left_is_removed(folder: RunFolder) -> None:
    make_state(3).save(folder.state)
    make_state().save(folder.path / ".state.0123.earlier")
    folder.open({"format": 1})
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.json", "state"]
    assert json.loads((folder.state / "state.json").read_text())["step"] == 5


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    mine, other = make_state(), make_state(1)
    mine.save(tmp_path / "state")
    other.load(tmp_path / "state")
    for key, value in mine.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[key]), key
    theirs = other.optimiser.state_dict()["state"]
    for index, entry in mine.optimiser.state_dict()["state"].items():
        assert entry.keys() == theirs[index].keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(value, theirs[index][key]) for key, value in entry.items())
    assert mine.average is not None
    assert other.average is not None
    assert all(torch.equal(value, other.average.tensors[key]) for key, value in mine.average.tensors.items())


@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
def test_a_damaged_state_says_so(tmp_path: Path, name: str) -> None:
    make_state().save(tmp_path / "state")
    path = tmp_path / "state" / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(TrainingError, match="cannot be read"):
        make_state().load(tmp_path / "state")


def test_a_state_of_another_format_is_refused(tmp_path: Path) -> None:
    make_state().save(tmp_path / "state")
    path = tmp_path / "state" / "state.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(TrainingError, match="not of format 1"):
        make_state().load(tmp_path / "state")


def test_without_matplotlib_a_log_line_takes_the_place_of_the_curves(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with caplog.at_level(logging.INFO):
        folder.draw()
    assert "matplotlib is not installed" in caplog.text
    assert not (folder.path / "curves.png").exists()


def test_curves_show_what_the_lines_hold(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = pytest.importorskip("matplotlib.axes")
    drawn = {}

    def plot(self: Any, x: Any, y: Any, label: str) -> list[Any]:
        drawn[label] = (tuple(x), tuple(y))
        return original(self, x, y, label=label)

    original = axes.Axes.plot
    monkeypatch.setattr(axes.Axes, "plot", plot)
    folder.append({"step": 1, "losses": {"loss": 0.5}})
    folder.append({"step": 2, "losses": {"loss": 0.25, "dice": 0.75}})
    folder.append({"step": 2, "validation": {"score": 0.9, "unknown": float("nan")}})
    folder.draw()
    assert drawn == {"loss": ((1, 2), (0.5, 0.25)), "dice": ((2,), (0.75,)), "score": ((2,), (0.9,))}
    assert (folder.path / "curves.png").read_bytes().startswith(b"\x89PNG")
