"""How a training run goes: steps, learning-rate schedule, accumulation, precision, and when to validate and save."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

# Fields that are real numbers: what they must fulfil, and how to say so.
_REALS: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ("learning_rate", lambda value: value > 0, "a number above 0"),
    ("weight_decay", lambda value: value >= 0, "a number of at least 0"),
    ("final_lr_share", lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    ("clip_norm", lambda value: value > 0, "None or a number above 0"),
    ("ema_decay", lambda value: 0 <= value < 1, "None or a number from 0, below 1"),
)


@dataclass(frozen=True)
class LoopConfig:
    """How to train. A run can only be resumed with the configuration that it was started with.

    Attributes:
        steps: optimiser steps.
        learning_rate: the highest.
        weight_decay: of AdamW, on every trained parameter.
        warmup_steps: over which the rate rises linearly from 0.
        final_lr_share: share of `learning_rate` that the cosine decay ends at, in the last step.
        betas: of AdamW.
        accumulate: micro-batches a step, over all devices; a multiple of the number of processes.
        clip_norm: largest norm of all gradients together; None does not clip.
        precision: `bfloat16` computes the losses under autocast; the weights stay as they are.
        ema_decay: of the average of the weights that is then validated and saved as best; None keeps no average.
        validate_every: steps between validations; the last step is always validated.
        save_every: steps between saved states; the last step is always saved.
        seed: of every random number in the loop.
    """

    steps: int
    learning_rate: float
    weight_decay: float = 0.01
    warmup_steps: int = 0
    final_lr_share: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    accumulate: int = 1
    clip_norm: float | None = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"
    ema_decay: float | None = None
    validate_every: int = 500
    save_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [f"{name}: expected {expected}, got {got!r}" for name, expected, got in self._problems()]
        if problems:
            raise ValueError("\n  ".join(["the training configuration is not valid:", *problems]))

    def _problems(self) -> Iterator[tuple[str, str, Any]]:
        for name in ("steps", "accumulate", "validate_every", "save_every", "warmup_steps", "seed"):
            least, got = int(name not in ("warmup_steps", "seed")), getattr(self, name)
            if type(got) is not int or got < least:
                yield name, f"a whole number of at least {least}", got
            elif name == "warmup_steps" and type(self.steps) is int and got >= self.steps > 0:
                yield name, f"fewer than the {self.steps} steps", got
        for name, test, expected in _REALS:
            got = getattr(self, name)
            if not (got is None and expected.startswith("None")) and not (_is_number(got) and test(got)):
                yield name, expected, got
        betas: Any = self.betas
        if not isinstance(betas, tuple) or len(betas) != 2 or not all(_is_number(b) and 0 <= b < 1 for b in betas):
            yield "betas", "two numbers from 0, below 1", betas
        if self.precision not in ("float32", "bfloat16"):
            yield "precision", "'float32' or 'bfloat16'", self.precision

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return {**asdict(self), "betas": list(self.betas)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "LoopConfig":
        """Build the configuration that `to_dict` gave.

        Raises:
            ValueError: fields are unknown, missing or not valid.
        """
        unknown = sorted(content.keys() - {one.name for one in fields(cls)})
        missing = sorted({"steps", "learning_rate"} - content.keys())
        if unknown or missing:
            raise ValueError(f"the training configuration has unknown fields {unknown} and lacks {missing}")
        betas = content.get("betas", cls.betas)
        return cls(**{**content, "betas": tuple(betas) if isinstance(betas, list) else betas})


def learning_rate(config: LoopConfig, step: int) -> float:
    """The learning rate of a step.

    Args:
        config: of the run.
        step: from 1 to `config.steps`; the highest rate is that of step `warmup_steps`, or of step 1 without warm-up.
    """
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    first = max(config.warmup_steps, 1)
    done = (step - first) / max(config.steps - first, 1)
    share = config.final_lr_share
    return config.learning_rate * (share + (1 - share) * (1 + math.cos(math.pi * done)) / 2)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
