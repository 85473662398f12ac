"""How a training run goes: steps, learning-rate schedule, accumulation, precision, and when to validate and save."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from typing import Any, Literal

# Fields that are real numbers: what they must fulfil, and how to say so.
_REALS: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ("learning_rate", lambda value: value > 0, "a number above 0"),
    ("weight_decay", lambda value: value >= 0, "a number of at least 0"),
    ("final_lr_share", lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    ("clip_norm", lambda value: value > 0, "None or a number above 0"),
    ("ema_decay", lambda value: 0 <= value < 1, "None or a number from 0, below 1"),
    ("decay_power", lambda value: value > 0, "a number above 0"),
)


def _is_beta(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1


def _is_factor(pair: Any) -> bool:
    return (
        isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and _is_number(pair[1]) and pair[1] > 0
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# Fields that are tuples: what their members must fulfil, and how to say so.
_TUPLES: tuple[tuple[str, Callable[[tuple[Any, ...]], bool], str], ...] = (
    ("betas", lambda given: len(given) == 2 and all(map(_is_beta, given)), "two numbers from 0, below 1"),
    ("rate_factors", lambda given: all(map(_is_factor, given)), "pairs of a pattern and a number above 0"),
    ("clip_groups", lambda given: all(isinstance(one, str) for one in given), "patterns of parameter names"),
)
# Fields that have few values, and which.
_CHOICES: Mapping[str, tuple[object, ...]] = {
    "decay": ("cosine", "power", "polynomial"),
    "warmup": ("linear", "exponential"),
    "precision": ("float32", "bfloat16"),
    "validate_start": (False, True),
}
# An exponential warm-up begins at e to the minus this.
_RISE = 10.0


@dataclass(frozen=True)
class LoopConfig:
    """How to train. A run can only be resumed with the configuration that it was started with.

    Attributes:
        steps: optimiser steps.
        learning_rate: the highest.
        weight_decay: of AdamW, on every trained parameter.
        warmup_steps: over which the rate rises.
        warmup: how it rises: `linear` from 0, or `exponential`: AutoProSAM's, `learning_rate * e ** (10 * (share - 1))`
            where `linear` has `learning_rate * share`.
        final_lr_share: share of `learning_rate` that the cosine decay ends at, in the last step.
        betas: of AdamW.
        accumulate: micro-batches a step, over all devices; a multiple of the number of processes.
        clip_norm: largest norm of all gradients together; None does not clip.
        clip_groups: patterns of parameter names, as `mask_decoder.*`, whose gradients are clipped to `clip_norm` apart
            from the others, each pattern's together; what fits none is one group more.
        precision: `bfloat16` computes the losses under autocast; the weights stay as they are.
        ema_decay: of the average of the weights that is then validated and saved as best; None keeps no average.
        validate_every: steps between validations; the last step is always validated.
        save_every: steps between saved states; the last step is always saved.
        seed: of every random number in the loop.
        decay: `cosine`, or `power`: SAMed's, `learning_rate * (1 - t / decay_steps) ** decay_power`, t steps after the
            warm-up (Zhang and Liu, 2023); it sets each rate after a step, for the next one; or `polynomial`:
            AutoProSAM's, the same with t steps done since the start, the warm-up's too (Lee et al., 2023).
        decay_steps: of `power` and `polynomial`; None takes `steps`. SAMed's runs end before them.
        decay_power: of `power` and `polynomial`.
        epoch_steps: of `polynomial`: the rate changes after so many steps, where the publication sets one for an epoch.
        rate_factors: pairs of a pattern of parameter names, as `mask_decoder.*`, and what the rate of those parameters
            is multiplied by; the first pattern that fits counts.
        patience: validations in a row without a better score after which a run ends; None goes on to the last step.
        validate_start: whether what the run starts from is validated, too, and stays the best if nothing beats it.
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
    decay: Literal["cosine", "power", "polynomial"] = "cosine"
    decay_steps: int | None = None
    decay_power: float = 0.9
    rate_factors: tuple[tuple[str, float], ...] = ()
    patience: int | None = None
    validate_start: bool = False
    warmup: Literal["linear", "exponential"] = "linear"
    clip_groups: tuple[str, ...] = ()
    epoch_steps: int = 1

    def __post_init__(self) -> None:
        problems = [f"{name}: expected {expected}, got {got!r}" for name, expected, got in self._problems()]
        if problems:
            raise ValueError("\n  ".join(["the training configuration is not valid:", *problems]))

    def _problems(self) -> Iterator[tuple[str, str, Any]]:
        for name in ("steps", "accumulate", "validate_every", "save_every", "epoch_steps", "warmup_steps", "seed"):
            least, got = int(name not in ("warmup_steps", "seed")), getattr(self, name)
            if type(got) is not int or got < least:
                yield name, f"a whole number of at least {least}", got
            elif name == "warmup_steps" and type(self.steps) is int and got >= self.steps > 0:
                yield name, f"fewer than the {self.steps} steps", got
        for name, test, expected in _REALS:
            got = getattr(self, name)
            if not (got is None and expected.startswith("None")) and not (_is_number(got) and test(got)):
                yield name, expected, got
        for name, least, words in (("decay_steps", self.steps, "the steps"), ("patience", 1, "1")):
            got = getattr(self, name)
            if got is not None and (type(got) is not int or (type(least) is int and got < least)):
                yield name, f"None or a whole number of at least {words}", got
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                yield name, " or ".join(map(repr, choices)), getattr(self, name)
        for name, holds, expected in _TUPLES:
            got = getattr(self, name)
            if not (isinstance(got, tuple) and holds(got)):
                yield name, expected, got

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return {
            **asdict(self),
            "betas": list(self.betas),
            "rate_factors": [list(pair) for pair in self.rate_factors],
            "clip_groups": list(self.clip_groups),
        }

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
        betas, factors = content.get("betas", cls.betas), content.get("rate_factors", ())
        if isinstance(factors, list):
            factors = tuple(tuple(pair) if isinstance(pair, list) else pair for pair in factors)
        groups = content.get("clip_groups", ())
        read = {
            "betas": tuple(betas) if isinstance(betas, list) else betas,
            "rate_factors": factors,
            "clip_groups": tuple(groups) if isinstance(groups, list) else groups,
        }
        return cls(**{**content, **read})

    def rate_factor(self, name: str) -> float:
        """What the learning rate of the parameter of this name is multiplied by."""
        return next((factor for pattern, factor in self.rate_factors if fnmatchcase(name, pattern)), 1.0)

    def clip_group(self, name: str) -> str:
        """The pattern of `clip_groups` that the parameter of this name is clipped with; empty for the rest."""
        return next((pattern for pattern in self.clip_groups if fnmatchcase(name, pattern)), "")


def learning_rate(config: LoopConfig, step: int) -> float:
    """The learning rate of a step.

    Args:
        config: of the run.
        step: from 1 to `config.steps`; the highest rate is that of step `warmup_steps`, or of step 1 without warm-up.
    """
    if config.decay == "power":
        # A rate that is set after a step holds for the next, so that the second step has the rate of the first.
        before = max(step - 2, 0)
        if before < config.warmup_steps:
            return _warming(config, before + 1)
        left = 1 - (before - config.warmup_steps) / (config.decay_steps or config.steps)
        return config.learning_rate * math.pow(left, config.decay_power)
    if config.decay == "polynomial":
        before = (step - 1) // config.epoch_steps * config.epoch_steps
        if before < config.warmup_steps:
            return _warming(config, before)
        return config.learning_rate * math.pow(1 - before / (config.decay_steps or config.steps), config.decay_power)
    if step <= config.warmup_steps:
        return _warming(config, step)
    first = max(config.warmup_steps, 1)
    done = (step - first) / max(config.steps - first, 1)
    share = config.final_lr_share
    return config.learning_rate * (share + (1 - share) * (1 + math.cos(math.pi * done)) / 2)


def _warming(config: LoopConfig, done: int) -> float:
    share = done / config.warmup_steps
    return config.learning_rate * (math.exp(_RISE * (share - 1)) if config.warmup == "exponential" else share)
