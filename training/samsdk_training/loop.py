"""The training loop that all recipes share: AdamW, warm-up and cosine decay, accumulation, resume."""

import importlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from samsdk.errors import OutputError
from samsdk_training.loop_config import LoopConfig, learning_rate
from samsdk_training.placement import Placement, place, to_device, warn_if_emulated
from samsdk_training.run_folder import RunFolder
from samsdk_training.train_state import TrainingError, TrainState, WeightAverage

__all__ = ["LoopConfig", "TrainingError", "fit", "learning_rate"]

Batch = TypeVar("Batch")
logger = logging.getLogger(__name__)


def fit(
    model: nn.Module,
    *,
    batch_of: Callable[[int], Batch],
    loss_of: Callable[[nn.Module, Batch, torch.Generator], dict[str, Tensor]],
    validate: Callable[[nn.Module], dict[str, float]],
    save_best: Callable[[nn.Module, Path], None],
    run: str | os.PathLike[str],
    config: LoopConfig,
    score: str = "dice",
    recipe: Mapping[str, Any] | None = None,
    device: str = "auto",
    progress: bool = True,
) -> dict[str, Any]:
    """Train a model in a run folder, from where that folder has got to; a finished run returns at once.

    Parameters with `requires_grad` are trained. A module all of whose parameters are frozen runs in evaluation mode, so
    that its statistics stay frozen too. A run that was killed and called again ends with the same weights, bit for bit
    where the device's kernels are deterministic, as they are on the CPU. Random numbers of the caller are untouched.

    Args:
        model: trained in place; afterwards on the device, with the last step's weights (not their average).
        batch_of: the batch of a micro-step, counted from 0; a pure function, so that a resumed run sees the same data.
        loss_of: scalar losses by name, of which `loss` is differentiated. The CPU generator is seeded from the seed and
            the micro-step, as is torch's own, for dropout. The same names each time.
        validate: scores of the model in evaluation mode, without gradients and without autocast.
        save_best: writes the model, in evaluation mode, to the folder given, whenever `score` is higher than before.
        run: the run folder: `config.json`, `metrics.jsonl`, `curves.png`, `state/`, `best/`.
        config: how to train.
        score: which of the validation's numbers decides; higher is better.
        recipe: what else the run depends on, as JSON types; kept in `config.json` and compared like `config`.
        device: a torch device, or `auto`; see `placement.place` for several.
        progress: whether a terminal shows a progress bar on stderr.

    Returns:
        `step`, `best_score` and `best_step`, which is 0 where nothing beat what the run started from.

    Raises:
        TrainingError: nothing can be trained, a loss or gradient is not finite, the score is missing, or the run
            folder is of another configuration or model, or in use.
        OutputError: the system refuses a write, as where the disk is full. The state that was saved last stays whole,
            and the run goes on from it when there is space again.
    """
    placement = place(device)
    if config.precision == "bfloat16" and placement.main:
        warn_if_emulated(placement.device)
    folder = RunFolder(run)
    trainer = _Trainer(model, batch_of, loss_of, validate, save_best, folder, config, score, placement)
    with folder.held() if placement.main else nullcontext():
        trainer.resume({"format": 1, "loop": config.to_dict(), "score": score, "recipe": dict(recipe or {})})
        reached = trainer.state.progress
        if config.validate_start and reached.step == 0:
            trainer.validate_state()
        with _progress_bar(config.steps, reached.step, progress and placement.main) as show:
            while reached.step < config.steps and not trainer.out_of_patience:
                show(trainer.advance()["loss"])
    return {"step": reached.step, "best_score": reached.best_score, "best_step": reached.best_step}


class _Trainer(Generic[Batch]):
    def __init__(
        self,
        model: nn.Module,
        batch_of: Callable[[int], Batch],
        loss_of: Callable[[nn.Module, Batch, torch.Generator], dict[str, Tensor]],
        validate: Callable[[nn.Module], dict[str, float]],
        save_best: Callable[[nn.Module, Path], None],
        folder: RunFolder,
        config: LoopConfig,
        score: str,
        placement: Placement,
    ) -> None:
        self.batch_of, self.loss_of, self.validate, self.save_best = batch_of, loss_of, validate, save_best
        self.folder, self.config, self.score, self.placement = folder, config, score, placement
        if config.accumulate % placement.processes:
            raise TrainingError(
                f"accumulate must be a multiple of the {placement.processes} processes, got {config.accumulate}"
            )
        self.model = model.to(placement.device)
        trained = {name: one for name, one in self.model.named_parameters() if one.requires_grad}
        if not trained:
            raise TrainingError("the model has no parameter that requires a gradient, so there is nothing to train")
        # The optimiser numbers parameters group by group, and a saved state finds them by their numbers.
        groups = _by_rate(trained, config)
        self.parameters = {name: trained[name] for names in groups.values() for name in names}
        optimiser = torch.optim.AdamW(
            [{"params": [trained[name] for name in names], "factor": factor} for factor, names in groups.items()],
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        placement.share_weights(self.model)
        average = None
        if config.ema_decay is not None:
            statistics = {name: one for name, one in self.model.named_buffers() if one.is_floating_point()}
            average = WeightAverage({**self.parameters, **statistics}, config.ema_decay)
        self.state = TrainState(self.model, self.parameters, optimiser, average)

    @property
    def out_of_patience(self) -> bool:
        """Whether so many validations brought nothing better that the run ends."""
        return self.config.patience is not None and self.state.progress.since_best >= self.config.patience

    def resume(self, content: dict[str, Any]) -> None:
        self.folder.check(content)
        if self.placement.main:
            self.folder.open(content)
        self.placement.wait()
        done = -1
        if self.folder.state.exists():
            self.state.load(self.folder.state)
            done = self.state.progress.step
            logger.info("resuming %s at step %d", self.folder.path, done)
        if self.placement.main:
            self.folder.truncate(done)

    def advance(self) -> dict[str, float]:
        started, progress, config = time.perf_counter(), self.state.progress, self.config
        step = progress.step + 1
        rate = learning_rate(config, step)
        losses, norm = self._optimise(step, rate)
        if self.state.average:
            self.state.average.update(step)
        progress.step = step
        self._log(step, lr=rate, gradient_norm=norm, losses=losses, seconds=time.perf_counter() - started)
        last = step == config.steps
        if last or step % config.validate_every == 0:
            self.validate_state()
        last = last or self.out_of_patience
        if last or step % config.save_every == 0:
            if self.placement.main:
                self.state.save(self.folder.state)
                self.folder.draw()
            self.placement.wait()
        return losses

    def _optimise(self, step: int, rate: float) -> tuple[dict[str, float], float]:
        _training_mode(self.model)
        for group in self.state.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        self.state.optimiser.zero_grad(set_to_none=True)
        losses = self._backward(step)
        self.placement.sum_gradients(self.parameters.values())
        norm = self._clip()
        if not math.isfinite(norm):
            count = self.config.accumulate
            # Of a sum nothing says which micro-batch broke it. Batches are functions of their number, drawn once more.
            batches = [self.batch_of(number) for number in range((step - 1) * count, step * count)]
            self._give_up(f"the gradient of step {step} is {norm}, with the losses {losses}", batches)
        self.state.optimiser.step()
        return losses, norm

    def _clip(self) -> float:
        """Clip the gradients, group by group; the norm of all of them together before."""
        groups: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.parameters.items():
            groups.setdefault(self.config.clip_group(name), []).append(parameter)
        # An infinite limit clips nothing, so that the norm is known in either case.
        limit = math.inf if self.config.clip_norm is None else self.config.clip_norm
        return math.hypot(*(float(nn.utils.clip_grad_norm_(group, limit)) for group in groups.values()))

    def _backward(self, step: int) -> dict[str, float]:
        count, device = self.config.accumulate, self.placement.device
        totals: dict[str, Tensor] = {}
        # Each process takes every n-th micro-batch, so that a step is the same whatever the number of devices.
        for part in range(self.placement.index, count, self.placement.processes):
            number = (step - 1) * count + part
            batch = to_device(self.batch_of(number), device)
            with _seeded(device, self.config.seed, number) as generator, self._autocast():
                losses = self.loss_of(self.model, batch, generator)
            if not all(bool(value.isfinite().all()) for value in losses.values()):
                broken = {name: float(value.detach()) for name, value in losses.items()}
                self._give_up(f"the losses of step {step} are not finite: {broken}", [batch])
            (losses["loss"] / count).backward()  # type: ignore[no-untyped-call]
            for name, value in losses.items():
                totals[name] = totals.get(name, 0) + value.detach().float() / count
        names = sorted(totals)
        values = self.placement.sum(torch.stack([totals[name] for name in names])).tolist()
        return dict(zip(names, values, strict=True))

    def _give_up(self, reason: str, batches: Sequence[Batch]) -> NoReturn:
        try:
            kept = f"its batch is in {self.folder.keep_batch(batches[0] if len(batches) == 1 else batches)}"
        except OutputError as error:
            kept = f"its batch could not be kept: {error}"
        raise TrainingError(self._stopped(f"{reason}; {kept}"))

    def validate_state(self) -> None:
        """Score what the run has reached, and save it if nothing was better."""
        started, average, progress = time.perf_counter(), self.state.average, self.state.progress
        self.model.eval()
        with average.applied() if average else nullcontext():
            with torch.no_grad(), _seeded(self.placement.device, self.config.seed):
                scores = {name: float(value) for name, value in self.validate(self.model).items()}
            self._log(progress.step, validation=scores, seconds=time.perf_counter() - started)
            mine = scores.get(self.score, math.nan)
            if not math.isfinite(mine):
                raise TrainingError(self._stopped(f"expected a finite {self.score!r} from validation, got {scores}"))
            progress.since_best += 1
            if progress.best_score is None or mine > progress.best_score:
                progress.best_score, progress.best_step, progress.since_best = mine, progress.step, 0
                if self.placement.main:
                    self.save_best(self.model, self.folder.best)

    def _autocast(self) -> torch.autocast:
        enabled = self.config.precision == "bfloat16"
        return torch.autocast(self.placement.device.type, dtype=torch.bfloat16, enabled=enabled)

    def _log(self, step: int, **record: Any) -> None:
        if self.placement.main:
            self.folder.append({"step": step, **record})

    def _stopped(self, reason: str) -> str:
        return f"{reason}; the run {str(self.folder.path)!r} keeps the state that was saved last"


def _by_rate(parameters: Mapping[str, nn.Parameter], config: LoopConfig) -> dict[float, list[str]]:
    """The names of the parameters by the factor of their learning rate."""
    groups: dict[float, list[str]] = {}
    for name in parameters:
        groups.setdefault(config.rate_factor(name), []).append(name)
    return groups


def _training_mode(model: nn.Module) -> None:
    model.train()
    for module in model.modules():
        own = list(module.parameters())
        if own and not any(one.requires_grad for one in own):
            module.eval()


@contextmanager
def _seeded(device: torch.device, *seeds: int) -> Iterator[torch.Generator]:
    """Seed torch's own generators, which dropout draws from, and a new one; the former are as before afterwards."""
    first, second = (int(word) for word in np.random.SeedSequence(seeds).generate_state(2))
    forked = [device.index or 0] if device.type in ("cuda", "xpu") else []
    with torch.random.fork_rng(forked, device_type=device.type if forked else "cuda"):
        # torch.manual_seed would seed the accelerators too, whose state is not forked for a model on the CPU.
        (torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed)(first)
        yield torch.Generator().manual_seed(second)


@contextmanager
def _progress_bar(steps: int, done: int, shown: bool) -> Iterator[Callable[[float], None]]:
    try:
        tqdm = importlib.import_module("tqdm").tqdm
    except ImportError:
        yield lambda loss: None
        return
    # None shows the bar on a terminal only, so that log files are not flooded.
    with tqdm(total=steps, initial=done, desc="training", unit="step", disable=None if shown else True) as bar:

        def update(loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            bar.update()

        yield update
