import copy
import json
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from samsdk_training.loop import LoopConfig, TrainingError, fit, learning_rate
from samsdk_training.recipes.volume_recipe import autoprosam
from samsdk_training.run_folder import RunFolder
from samsdk_training.train_state import TrainState, WeightAverage

# The same training as `train` below, in a process of its own: killed in the data of one micro-step, or one of several.
SCRIPT = """
import os, signal, sys
sys.path.insert(0, {folder!r})
import test_loop
def batch_of(number):
    if number == {kill_at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return test_loop.batch_of(number)
import torch
torch.set_num_threads(1)
test_loop.RunFolder.draw = lambda self: None
test_loop.train(test_loop.Path({run!r}), batch_of=batch_of, device="cpu", **{options})
"""

# The same, on a disk that is full from step 8 on, or from the saving of step 9: no file may grow beyond some bytes.
FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.path.insert(0, {folder!r})
import test_loop, torch
from samsdk.errors import OutputError
torch.set_num_threads(1)
test_loop.RunFolder.draw = lambda self: None
run, refused, save = test_loop.Path({run!r}), {refused!r}, test_loop.TrainState.save
def fill(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
def batch_of(number):
    if number == 15 and refused == "metrics.jsonl":
        fill((run / refused).stat().st_size)
    return test_loop.batch_of(number)
def saved(state, folder):
    if state.progress.step == 9 and refused == "state":
        fill(1000)
    save(state, folder)
test_loop.TrainState.save = saved
try:
    test_loop.train(run, batch_of=batch_of)
except OutputError as error:
    print(error)
"""


class Net(nn.Module):
    """A frozen part with statistics, dropout, and a trained part."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.frozen = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)).requires_grad_(False)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(6, 1)

    def scores(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.frozen(x)))


def batch_of(number: int) -> dict[str, Tensor]:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1000 + number))
    return {"x": x, "y": x.sum(1, keepdim=True)}


def loss_of(model: Net, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    noise = torch.randn(batch["x"].shape, generator=generator) * 0.1
    error = (model.scores(batch["x"] + noise) - batch["y"]).square().mean()
    return {"loss": error, "half": error / 2}


def validate(model: Net) -> dict[str, float]:
    batch = batch_of(999)
    return {"dice": -float((model.scores(batch["x"]) - batch["y"]).square().mean())}


def save_head(model: Net, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    save_file(model.head.state_dict(), folder / "head.safetensors")


def config(**changes: Any) -> LoopConfig:
    values = {"steps": 12, "learning_rate": 0.05, "warmup_steps": 2, "accumulate": 2, "clip_norm": 1.0}
    return LoopConfig(**{**values, "ema_decay": 0.5, "validate_every": 4, "save_every": 3, "seed": 5, **changes})


def train(run: Path, model: nn.Module | None = None, changes: dict[str, Any] | None = None, **other: Any) -> nn.Module:
    model = Net() if model is None else model
    parts = {"batch_of": batch_of, "loss_of": loss_of, "validate": validate, "save_best": save_head}
    parts["progress"] = False
    fit(model, **{**parts, "run": run, "config": config(**(changes or {})), "device": "cpu", **other})
    return model


def run_script(run: Path, kill_at: int = -1, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen:
    script = SCRIPT.format(folder=str(Path(__file__).parent), kill_at=kill_at, run=str(run), options=options)
    return subprocess.Popen([sys.executable, "-c", script], env={**os.environ, **(env or {})})


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


def assert_same_run(mine: Path, theirs: Path, model: nn.Module, other: nn.Module) -> None:
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
    assert without_times(lines(mine)) == without_times(lines(theirs))
    best, other_best = (load_file(run / "best" / "head.safetensors") for run in (mine, theirs))
    assert all(torch.equal(best[key], other_best[key]) for key in best)
    # The states of the last step hold the averages and the moments too.
    states = [(run / "state" / "state.safetensors").read_bytes() for run in (mine, theirs)]
    assert states[0] == states[1]


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    # Drawing takes longer than these runs do; the straight one is made before this and has its curves.
    monkeypatch.setattr(RunFolder, "draw", lambda self: None)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A run that nothing interrupted."""
    run = tmp_path_factory.mktemp("runs") / "straight"
    return run, train(run)


def test_a_killed_run_resumes_to_the_same_result(straight, tmp_path: Path) -> None:
    # Micro-batch 15 belongs to step 8; the state is of step 6 and metrics.jsonl of step 7.
    assert run_script(tmp_path, kill_at=15).wait(60) == -signal.SIGKILL
    assert lines(tmp_path)[-1]["step"] == 7
    assert json.loads((tmp_path / "state" / "state.json").read_text())["step"] == 6
    assert_same_run(tmp_path, straight[0], train(tmp_path), straight[1])


@pytest.mark.parametrize("micro_step", [1, 13, 23])
def test_an_interrupted_run_resumes_to_the_same_result(straight, tmp_path: Path, micro_step: int) -> None:
    def failing(number: int) -> dict[str, Tensor]:
        if number == micro_step:
            raise KeyboardInterrupt
        return batch_of(number)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, batch_of=failing)
    assert_same_run(tmp_path, straight[0], train(tmp_path), straight[1])


def test_several_processes_train_as_one_does(straight, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    both = [run_script(tmp_path, env={**shared, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]
    assert [one.wait(100) for one in both] == [0, 0]
    assert [line["step"] for line in lines(tmp_path)] == [line["step"] for line in lines(straight[0])]
    # A finished run returns at once, with its weights.
    for key, value in train(tmp_path).state_dict().items():
        torch.testing.assert_close(value, straight[1].state_dict()[key], rtol=1e-5, atol=1e-6)


def test_a_finished_run_returns_at_once_with_its_weights(straight) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("a finished run has nothing to do")

    before = (straight[0] / "metrics.jsonl").read_bytes()
    model = train(straight[0], batch_of=never, loss_of=never, validate=never, save_best=never)
    assert torch.equal(model.head.weight, straight[1].head.weight)
    assert (straight[0] / "metrics.jsonl").read_bytes() == before


def test_the_run_folder_tells_the_whole_story(straight) -> None:
    run = straight[0]
    assert {path.name for path in run.iterdir()} >= {"config.json", "metrics.jsonl", "state", "best"}
    assert LoopConfig.from_dict(json.loads((run / "config.json").read_text())["loop"]) == config()
    steps = [line for line in lines(run) if "losses" in line]
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert [line["step"] for line in lines(run) if "validation" in line] == [4, 8, 12]
    for line in steps:
        assert set(line) == {"step", "lr", "gradient_norm", "losses", "seconds"}
        assert line["lr"] == pytest.approx(learning_rate(config(), line["step"]))
        assert line["losses"]["half"] == pytest.approx(line["losses"]["loss"] / 2)
        assert 0 < line["seconds"] < 10


def test_curves_are_drawn_without_choosing_a_backend(straight) -> None:
    pytest.importorskip("matplotlib")
    assert (straight[0] / "curves.png").read_bytes().startswith(b"\x89PNG")
    # In a process of its own: other libraries that tests use import pyplot.
    code = "import sys, pathlib; from samsdk_training.run_folder import RunFolder"
    code += "; RunFolder(pathlib.Path(sys.argv[1])).draw(); sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(straight[0])], check=False).returncode == 0


def test_frozen_parts_stay_as_they_were(straight) -> None:
    start, end = Net().state_dict(), straight[1].state_dict()
    for key, value in start.items():
        assert torch.equal(value, end[key]) == key.startswith("frozen"), key
    state = TrainState(Net(), dict(Net().head.named_parameters("head")), torch.optim.AdamW(Net().head.parameters()))
    state.load(straight[0] / "state")
    assert [entry["step"].item() for entry in state.optimiser.state_dict()["state"].values()] == [12.0, 12.0]


def test_random_numbers_of_the_caller_are_untouched(tmp_path: Path) -> None:
    model = Net()
    before = torch.get_rng_state()
    train(tmp_path, model, {"steps": 3})
    assert torch.equal(torch.get_rng_state(), before)


def test_each_micro_step_has_random_numbers_of_its_own_whatever_the_caller_drew(tmp_path: Path) -> None:
    drawn: list[tuple[float, float]] = []

    def look(model: Net, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        drawn.append((float(torch.rand(())), float(torch.rand((), generator=generator))))
        return loss_of(model, batch, generator)

    for seed, caller in ((5, 0), (5, 1), (6, 1)):
        model = Net()
        torch.manual_seed(caller)
        train(tmp_path / f"{seed}-{caller}", model, {"steps": 3, "seed": seed}, loss_of=look)
    assert drawn[:6] == drawn[6:12]
    # Two runs' worth of six micro-steps, two generators each: nothing is drawn twice.
    assert len({number for pair in drawn[6:] for number in pair}) == 24


def test_steps_are_as_long_as_the_schedule_says(tmp_path: Path) -> None:
    """Under a constant gradient AdamW moves each weight by just the learning rate."""
    plain = nn.Linear(4, 1, bias=False)
    start = plain.weight.detach().clone()
    changes = {"steps": 5, "learning_rate": 0.1, "weight_decay": 0.0, "warmup_steps": 2, "final_lr_share": 0.5}
    parts = {"validate": lambda _: {"dice": 0.0}, "save_best": lambda *_: None}
    train(tmp_path, plain, changes, loss_of=lambda model, *_: {"loss": model.weight.sum()}, **parts)
    # 0.05 + 0.1 in the warm-up, then 0.05 + 0.05 (1 + cos(pi k / 3)) / 2.
    torch.testing.assert_close(start - plain.weight.detach(), torch.full((1, 4), 0.05 + 0.1 + 0.0875 + 0.0625 + 0.05))


def test_the_last_step_is_validated_and_saved(tmp_path: Path) -> None:
    train(tmp_path, changes={"steps": 5})
    assert [line["step"] for line in lines(tmp_path) if "validation" in line] == [4, 5]
    assert json.loads((tmp_path / "state" / "state.json").read_text())["step"] == 5


def test_the_first_step_is_adamw(tmp_path: Path) -> None:
    """Recomputed by hand: the mean gradient of two micro-batches, clipped, in AdamW's first step."""
    changes = {"steps": 1, "warmup_steps": 0, "weight_decay": 0.1, "ema_decay": None, "clip_norm": 0.25}
    plain = nn.Linear(4, 1)
    start = plain.weight.detach().clone()

    def simple(model: nn.Module, batch: dict[str, Tensor], _: torch.Generator) -> dict[str, Tensor]:
        return {"loss": (model(batch["x"]) - batch["y"]).square().mean()}

    x = torch.cat([batch_of(0)["x"], batch_of(1)["x"]])
    error = x @ start.T + plain.bias.detach() - x.sum(1, keepdim=True)
    by_weight, by_bias = 2 * (error * x).mean(0, keepdim=True), 2 * error.mean(0)
    norm = math.sqrt(by_weight.square().sum() + by_bias.square().sum())
    assert norm > 0.25
    train(tmp_path, plain, changes, loss_of=simple, validate=lambda _: {"dice": 0.0}, save_best=lambda *_: None)
    assert lines(tmp_path)[0]["gradient_norm"] == pytest.approx(norm, rel=1e-5)
    # The mean of the micro-batches' gradients is that of one batch of both, then clipped to a norm of 0.25.
    torch.testing.assert_close(plain.weight.grad, by_weight * 0.25 / norm, rtol=0, atol=1e-6)
    torch.testing.assert_close(plain.bias.grad, by_bias * 0.25 / norm, rtol=0, atol=1e-6)
    torch.testing.assert_close(plain.weight.detach(), start * (1 - 0.05 * 0.1) - 0.05 * by_weight.sign())


def test_gradients_below_the_limit_are_not_clipped(tmp_path: Path) -> None:
    models = [
        train(tmp_path / str(limit), changes={"steps": 1, "clip_norm": limit, "warmup_steps": 0})
        for limit in (None, 1e6, 1e-3)
    ]
    assert torch.equal(models[0].head.weight.grad, models[1].head.weight.grad)
    squares = sum(float(one.grad.square().sum()) for one in models[2].head.parameters())
    assert math.sqrt(squares) == pytest.approx(1e-3, rel=1e-3)


def test_learning_rate_follows_the_schedule() -> None:
    rates = [
        learning_rate(config(steps=8, learning_rate=1.0, warmup_steps=4, final_lr_share=0.2), s) for s in range(1, 9)
    ]
    # 0.2 + 0.8 (1 + cos(pi k / 4)) / 2 after the warm-up.
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.8828427, 0.6, 0.3171573, 0.2], abs=1e-7)
    cold = [learning_rate(config(steps=3, learning_rate=2.0, warmup_steps=0, final_lr_share=0.0), s) for s in (1, 2, 3)]
    assert cold == pytest.approx([2.0, 1.0, 0.0], abs=1e-12)
    assert learning_rate(config(steps=1, warmup_steps=0), 1) == 0.05


def test_the_power_schedule_is_samed_s() -> None:
    """Rates that the released trainer sets: after its iteration t, counted from 0, for the next one."""
    samed = config(
        steps=14880, learning_rate=0.005, warmup_steps=250, decay="power", decay_steps=18600, decay_power=0.9
    )
    assert learning_rate(samed, 1) == learning_rate(samed, 2) == pytest.approx(0.005 / 250)
    assert learning_rate(samed, 251) == pytest.approx(0.005)
    # METHODS of SAMed: 0.001246 is what the last iteration sets.
    assert learning_rate(samed, 14881) == pytest.approx(0.001246, abs=5e-7)
    assert learning_rate(samed, 1000) == pytest.approx(0.005 * (1 - (998 - 250) / 18600) ** 0.9)


def test_the_polynomial_schedule_is_autoprosam_s() -> None:
    """Per epoch e of 200 steps: lr0 e^{10 (e / 5 - 1)} up to the fifth, then lr0 (1 - e / 400)^0.9."""
    published = autoprosam().loop
    rates = [learning_rate(published, 200 * epoch + 1) for epoch in (0, 1, 4, 5, 6, 200, 399)]
    expected = [5e-4 * math.exp(10 * (epoch / 5 - 1)) for epoch in (0, 1, 4)]
    expected += [5e-4 * (1 - epoch / 400) ** 0.9 for epoch in (5, 6, 200, 399)]
    assert rates == pytest.approx(expected, rel=1e-12)
    assert rates[0] == pytest.approx(2.27e-8, rel=1e-3)
    # One rate an epoch.
    assert learning_rate(published, 1000) == learning_rate(published, 801) < learning_rate(published, 1001)
    fine = config(steps=10, learning_rate=1.0, warmup_steps=2, warmup="linear", decay="polynomial", decay_power=1.0)
    assert [learning_rate(fine, step) for step in (1, 2, 3, 10)] == pytest.approx([0, 0.5, 0.8, 0.1])


def test_an_exponential_warm_up_ends_where_a_linear_one_does() -> None:
    for decay, first, step in (("cosine", 1, 4), ("power", 2, 5)):
        warm = config(steps=8, learning_rate=1.0, warmup_steps=4, warmup="exponential", decay=decay)
        assert learning_rate(warm, first) == pytest.approx(math.exp(-7.5))
        assert learning_rate(warm, step) == pytest.approx(1.0)


def test_gradients_are_clipped_by_groups_as_separate_optimisers_clip_theirs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({name: nn.Linear(4, 1) for name in ("encoder", "decoder", "head")})
    apart = {name: copy.deepcopy(module) for name, module in model.items()}

    def loss_of(model: nn.Module, batch: dict[str, Tensor], _: torch.Generator) -> dict[str, Tensor]:
        # Gradients of very different sizes: the encoder's alone is clipped.
        parts = zip((100.0, 1e-3, 1e-4), model.values(), strict=True)
        return {"loss": sum(size * module(batch["x"]).mean() for size, module in parts)}

    changes = {"steps": 3, "accumulate": 1, "warmup_steps": 0, "weight_decay": 0.1, "ema_decay": None}
    groups = {"clip_norm": 1.0, "clip_groups": ("encoder.*", "decoder.*")}
    parts = {"validate": lambda _: {"dice": 0.0}, "save_best": lambda *_: None}
    train(tmp_path, model, {**changes, **groups}, loss_of=loss_of, **parts)
    loop = config(**changes)
    optimisers = {
        name: torch.optim.AdamW(one.parameters(), lr=1.0, betas=loop.betas, weight_decay=0.1)
        for name, one in apart.items()
    }
    for step in (1, 2, 3):
        losses = loss_of(nn.ModuleDict(apart), batch_of(step - 1), torch.Generator())
        for optimiser in optimisers.values():
            optimiser.zero_grad()
            optimiser.param_groups[0]["lr"] = learning_rate(loop, step)
        losses["loss"].backward()
        norms = [float(nn.utils.clip_grad_norm_(one.parameters(), 1.0)) for one in apart.values()]
        for optimiser in optimisers.values():
            optimiser.step()
    assert norms[0] > 1 > norms[1] > norms[2]
    assert lines(tmp_path)[-2]["gradient_norm"] == pytest.approx(math.hypot(*norms), rel=1e-5)
    for name, one in apart.items():
        torch.testing.assert_close(model[name].weight, one.weight, rtol=0, atol=1e-7)


def test_parameters_have_rates_of_their_own_also_after_a_resume(tmp_path: Path) -> None:
    changes = {"steps": 4, "warmup_steps": 0, "final_lr_share": 1.0, "weight_decay": 0.0, "save_every": 2}
    model = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Linear(4, 1, bias=False), nn.Linear(4, 1, bias=False))
    starts = [one.weight.detach().clone() for one in model]
    parts = {"validate": lambda _: {"dice": 0.0}, "save_best": lambda *_: None}
    parts["loss_of"] = lambda model, *_: {"loss": sum(one.weight.sum() for one in model)}
    changes["rate_factors"] = (("2.*", 10.0), ("0.weight", 0.5), ("*.weight", 3.0))

    def stop(number: int) -> None:
        if number == 6:
            raise KeyboardInterrupt
        return None

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, model, changes, batch_of=stop, **parts)
    train(tmp_path, model, changes, batch_of=lambda _: None, **parts)
    # Under a constant gradient AdamW moves each weight by just its learning rate.
    for one, start, factor in zip(model, starts, (0.5, 3.0, 10.0), strict=True):
        torch.testing.assert_close(start - one.weight.detach(), torch.full((1, 4), 4 * 0.05 * factor))


def test_a_run_ends_when_nothing_gets_better(tmp_path: Path) -> None:
    scores = iter([0.5, 0.7, 0.6, 0.65, 0.9])
    changes = {"steps": 100, "validate_every": 1, "save_every": 100, "patience": 2}
    train(tmp_path, changes=changes, validate=lambda _: {"dice": next(scores)})
    state = json.loads((tmp_path / "state" / "state.json").read_text())
    assert (state["step"], state["best_step"], state["since_best"]) == (4, 2, 2)
    # Called again, it is finished: there is no fifth validation.
    train(tmp_path, changes=changes, validate=lambda _: {"dice": next(scores)})
    assert next(scores) == 0.9


def test_what_a_run_starts_from_stays_the_best_if_nothing_beats_it(tmp_path: Path) -> None:
    changes = {"steps": 4, "validate_every": 2, "save_every": 4, "ema_decay": 0.5, "validate_start": True}
    model, scores, saved = Net(), iter([0.7, 0.6, 0.5]), []
    start = model.head.weight.detach().clone()

    def save_best(best: Net, folder: Path) -> None:
        saved.append(best.head.weight.detach().clone())

    train(tmp_path, model, changes, validate=lambda _: {"dice": next(scores)}, save_best=save_best)
    state = json.loads((tmp_path / "state" / "state.json").read_text())
    assert (state["step"], state["best_step"], state["best_score"]) == (4, 0, 0.7)
    assert len(saved) == 1
    assert torch.equal(saved[0], start)
    assert not torch.equal(model.head.weight, start)
    assert [line["step"] for line in lines(tmp_path) if "validation" in line] == [0, 2, 4]


def test_a_run_that_was_stopped_before_its_first_state_validates_its_start_once(tmp_path: Path) -> None:
    changes = {"steps": 3, "validate_every": 3, "save_every": 3, "validate_start": True}

    def stop(number: int) -> dict[str, Tensor]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, changes=changes, batch_of=stop)
    train(tmp_path, changes=changes)
    assert [line["step"] for line in lines(tmp_path) if "validation" in line] == [0, 3]


def test_a_run_in_use_is_refused(tmp_path: Path) -> None:
    def second(number: int) -> dict[str, Tensor]:
        with pytest.raises(TrainingError, match="is in use by another process"):
            train(tmp_path)
        return batch_of(number)

    train(tmp_path, changes={"steps": 1, "warmup_steps": 0}, batch_of=second)


def test_average_of_the_weights_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    average = WeightAverage({"w": weight}, 0.75)
    for number, value in enumerate(([5.0, 2.0], [1.0, 6.0]), start=100):
        weight.data = torch.tensor(value)
        average.update(number)
    # 0.75 * 1 + 0.25 * 5 = 2, then 0.75 * 2 + 0.25 * 1; and 2, then 0.75 * 2 + 0.25 * 6.
    assert average.tensors["w"].tolist() == [1.75, 3.0]
    with average.applied():
        assert weight.tolist() == [1.75, 3.0]
    assert weight.tolist() == [1.0, 6.0]


def test_the_average_soon_forgets_where_it_started() -> None:
    weight = torch.tensor([0.0])
    average = WeightAverage({"w": weight}, 0.999)
    weight += 1
    expected = 0.0
    for number in (1, 2, 3):
        average.update(number)
        decay = (1 + number) / (10 + number)  # 2/11, 3/12, 4/13
        expected = decay * expected + 1 - decay
        assert average.tensors["w"].item() == pytest.approx(expected)
    assert expected > 0.98


def test_the_average_of_what_never_changes_is_that_bit_for_bit() -> None:
    constant = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    average = WeightAverage({"c": constant}, 0.999)
    for number in range(1, 200):
        average.update(number)
    assert torch.equal(average.tensors["c"], constant)


def test_statistics_of_batch_norms_are_averaged_with_the_weights(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Normed(Net):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def scores(self, x: Tensor) -> Tensor:
            return super().scores(self.norm(x))

    def look(model: Normed) -> dict[str, float]:
        seen.append(model.norm.running_mean.clone())
        return {"dice": 0.0}

    changes = {"steps": 1, "warmup_steps": 0, "validate_every": 1, "ema_decay": 0.1}
    last = train(tmp_path, Normed(), changes, validate=look).norm.running_mean
    assert last.abs().min() > 0
    torch.testing.assert_close(seen[-1], 0.9 * last)  # it starts at 0


def test_the_average_is_what_is_validated_and_saved(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def look(model: Net) -> dict[str, float]:
        assert not model.training
        assert not torch.is_grad_enabled()
        seen.append(model.head.weight.clone())
        return {"dice": float(len(seen))}

    weights = [Net().head.weight.detach().clone()]
    for steps in (1, 2):
        # A constant rate, so that the shorter run is the longer one's start.
        changes = {"steps": steps, "warmup_steps": 0, "final_lr_share": 1.0, "validate_every": 2}
        seen.clear()
        weights.append(train(tmp_path / str(steps), changes=changes, validate=look).head.weight.detach())
    # The decay is 2/11 in the first step and 3/12 in the second.
    expected = 3 / 12 * (2 / 11 * weights[0] + 9 / 11 * weights[1]) + 9 / 12 * weights[2]
    torch.testing.assert_close(seen[-1], expected)
    assert torch.equal(load_file(tmp_path / "2" / "best" / "head.safetensors")["weight"], seen[-1])


def test_best_is_the_highest_score_also_across_a_resume(tmp_path: Path) -> None:
    scores = {1: 0.3, 2: 0.7, 3: 0.5, 4: 0.6, 5: 0.7, 6: 0.1}
    changes = {"steps": 6, "validate_every": 1, "save_every": 1, "accumulate": 1, "ema_decay": None}
    step = 0

    def count(number: int) -> dict[str, Tensor]:
        nonlocal step
        if number == 3 and not (tmp_path / "resumed").exists():
            (tmp_path / "resumed").touch()
            raise KeyboardInterrupt
        step = number + 1
        return batch_of(number)

    def note(model: nn.Module, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "step").write_text(str(step))

    parts = {"batch_of": count, "validate": lambda _: {"dice": scores[step], "loss": 1.0}, "save_best": note}
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, changes=changes, **parts)
    train(tmp_path, changes=changes, **parts)
    assert (tmp_path / "best" / "step").read_text() == "2"
    state = json.loads((tmp_path / "state" / "state.json").read_text())
    assert (state["step"], state["best_score"], state["best_step"]) == (6, 0.7, 2)
    assert [line["validation"]["dice"] for line in lines(tmp_path) if "validation" in line] == list(scores.values())


def test_another_configuration_is_refused_by_field(straight) -> None:
    with pytest.raises(TrainingError, match=r"(?s)loop\.learning_rate: the run has 0\.05, got 0\.1") as caught:
        train(straight[0], changes={"learning_rate": 0.1, "betas": (0.9, 0.95)}, recipe={"data": "other"})
    text = str(caught.value)
    assert "loop.betas: the run has [0.9, 0.999], got [0.9, 0.95]" in text
    assert "recipe.data: the run has 'nothing', got 'other'" in text
    assert "steps" not in text


def test_another_model_is_refused(straight) -> None:
    with pytest.raises(TrainingError, match=r"other parameters trained: \['frozen\.0\.bias'"):
        train(straight[0], Net().requires_grad_(True))
    wider = Net()
    wider.head = nn.Linear(6, 2)
    with pytest.raises(TrainingError, match="not of this model"):
        train(straight[0], wider)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, value: float) -> None:
    def broken(model: Net, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        losses = loss_of(model, batch, generator)
        return losses if not batch["x"].equal(batch_of(9)["x"]) else {**losses, "half": losses["half"] * value}

    with pytest.raises(TrainingError, match=rf"step 5 .*'half': {value}.*keeps the state"):
        train(tmp_path, loss_of=broken)
    assert json.loads((tmp_path / "state" / "state.json").read_text())["step"] == 3
    assert [line["step"] for line in lines(tmp_path) if "losses" in line] == [1, 2, 3, 4]
    kept = load_file(tmp_path / "failed_batch.safetensors")
    assert kept.keys() == {"batch.x", "batch.y"}
    assert all(torch.equal(kept[f"batch.{name}"], one) for name, one in batch_of(9).items())


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    model = Net()
    weight = model.head.weight.detach().clone()

    def infinite_slope(model: Net, *_: Any) -> dict[str, Tensor]:
        return {"loss": (model.head.weight * 0).sum().sqrt()}

    with pytest.raises(TrainingError, match=r"the gradient of step 1 is nan.*its batch is in .*failed_batch"):
        train(tmp_path, model, loss_of=infinite_slope)
    assert torch.equal(model.head.weight, weight)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_batches_of_a_gradient_that_is_not_finite_are_kept(tmp_path: Path, accumulate: int) -> None:
    def breaks(model: Net, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        losses = loss_of(model, batch, generator)
        # Of a root of 0 the value is finite, and the slope is not.
        broken = batch["x"].equal(batch_of(2 * accumulate)["x"])
        return {**losses, "loss": losses["loss"] + (model.head.weight * 0).sum().sqrt()} if broken else losses

    with pytest.raises(TrainingError, match="the gradient of step 3 is nan"):
        train(tmp_path, changes={"accumulate": accumulate, "save_every": 2}, loss_of=breaks)
    assert json.loads((tmp_path / "state" / "state.json").read_text())["step"] == 2
    kept = load_file(tmp_path / "failed_batch.safetensors")
    expected = {"batch": batch_of(2)} if accumulate == 1 else {"batch.0": batch_of(4), "batch.1": batch_of(5)}
    assert kept.keys() == {f"{name}.{part}" for name in expected for part in "xy"}
    assert all(torch.equal(kept[f"{name}.{part}"], one[part]) for name, one in expected.items() for part in "xy")


def test_a_batch_that_cannot_be_kept_does_not_hide_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("samsdk_training.tensor_file.save_file", full)
    with pytest.raises(TrainingError, match=r"losses of step 1 are not finite.*could not be kept: .*No space left"):
        train(tmp_path, loss_of=lambda model, *_: {"loss": model.head.weight.sum() * math.nan})


@pytest.mark.parametrize("refused", ["metrics.jsonl", "state"])
def test_a_full_disk_stops_the_run_and_loses_nothing(straight, tmp_path: Path, refused: str) -> None:
    pytest.importorskip("resource")
    script = FULL_DISK.format(folder=str(Path(__file__).parent), run=str(tmp_path), refused=refused)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"cannot write {str(tmp_path / refused)!r}: ")
    assert "File too large" in done.stdout
    assert "free space" in done.stdout
    # The state of step 6 is there, whole, and nothing half-written beside it.
    assert json.loads((tmp_path / "state" / "state.json").read_text())["step"] == 6
    assert not [path.name for path in tmp_path.iterdir() if path.suffix in (".partial", ".earlier")]
    assert_same_run(tmp_path, straight[0], train(tmp_path), straight[1])


@pytest.mark.parametrize(
    ("own", "precision", "warned"), [(False, "bfloat16", 1), (True, "bfloat16", 0), (False, "float32", 0)]
)
def test_bfloat16_that_a_processor_does_not_have_is_warned_of_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    own: bool,
    precision: str,
    warned: int,
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: own, raising=False)
    train(tmp_path, changes={"steps": 2, "warmup_steps": 0, "precision": precision})
    warnings = [one.message for one in caplog.records if "bfloat16" in one.message]
    assert len(warnings) == warned
    assert all("--precision float32" in one for one in warnings)


@pytest.mark.parametrize("scores", [{"iou": 1.0}, {"dice": math.nan}])
def test_a_validation_without_its_score_stops_the_run(tmp_path: Path, scores: dict[str, float]) -> None:
    with pytest.raises(TrainingError, match="expected a finite 'dice'"):
        train(tmp_path, validate=lambda _: scores)
    assert lines(tmp_path)[-1]["validation"] == {name: None if math.isnan(v) else v for name, v in scores.items()}


def test_a_model_without_trained_parameters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nothing to train"):
        train(tmp_path, Net().requires_grad_(False))


def test_bfloat16_is_of_the_losses_only(tmp_path: Path) -> None:
    kinds: list[torch.dtype] = []

    def look(model: Net, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        kinds.append(model.scores(batch["x"]).dtype)
        return loss_of(model, batch, generator)

    for precision in ("float32", "bfloat16"):
        changes = {"steps": 1, "warmup_steps": 0, "accumulate": 1, "precision": precision}
        model = train(tmp_path / precision, changes=changes, loss_of=look)
        assert model.head.weight.dtype == torch.float32
    assert kinds == [torch.float32, torch.bfloat16]


def test_configuration_survives_json() -> None:
    mine = config(betas=(0.8, 0.9), ema_decay=None, precision="bfloat16")
    assert LoopConfig.from_dict(json.loads(json.dumps(mine.to_dict()))) == mine
    assert LoopConfig.from_dict({"steps": 5, "learning_rate": 0.1}) == LoopConfig(5, 0.1)
    with pytest.raises(ValueError, match=r"unknown fields \['step'\] and lacks \['steps'\]"):
        LoopConfig.from_dict({"step": 5, "learning_rate": 0.1})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", True),
        ("learning_rate", 0),
        ("learning_rate", math.nan),
        ("learning_rate", "0.1"),
        ("weight_decay", -0.1),
        ("warmup_steps", 12),
        ("warmup_steps", -1),
        ("final_lr_share", 1.5),
        ("betas", (0.9, 1.0)),
        ("betas", 0.9),
        ("accumulate", 1.5),
        ("clip_norm", 0),
        ("precision", "float16"),
        ("ema_decay", 1),
        ("validate_every", 0),
        ("save_every", 0),
        ("seed", -1),
        ("decay", "linear"),
        ("decay_steps", 11),
        ("decay_power", 0),
        ("rate_factors", (("head.*", 0.0),)),
        ("patience", 0),
        ("validate_start", None),
        ("warmup", "sudden"),
        ("clip_groups", ["head.*"]),
        ("epoch_steps", 0),
    ],
)
def test_a_configuration_that_is_not_valid_says_why(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{field}: expected .*, got ") as caught:
        config(**{field: value})
    assert str(caught.value).count("expected") == 1
    assert repr(value) in str(caught.value)


def test_every_problem_of_a_configuration_is_listed() -> None:
    with pytest.raises(ValueError, match=r"(?s)steps: .*learning_rate: .*precision: "):
        config(steps=0, learning_rate=-1, precision="half")
