"""What exemplar-guided synthesis may do: every number that the publication leaves open is a field here.

The publication (Cheap Lunch) fixes the structure: objects of an annotated exemplar change their geometry and their
intensity, and are pasted on another image of the data set. Ranges and counts are not published; the defaults below were
read off its one figure, and are defaults only.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal, get_args

Range = tuple[float, float]
Groups = Literal["class", "component", "together"]
ExemplarRule = Literal["richest", "quantiles"]
Pivot = Literal["black", "mean"]
BackgroundPolicy = Literal["any", "no_foreground_prior"]
Interpolation = Literal["linear", "cubic"]

_SHARE: Final = (0.0, 1.0)
# The least and the largest that a number, or both ends of a range, may be; factors end where arithmetic would.
_LIMITS: Final[Mapping[str, Range]] = {
    "gammas": (0.01, 100),
    "contrasts": (0.01, 100),
    "brightnesses": (-1, 1),
    "noise": _SHARE,
    "noises": _SHARE,
    "blur": _SHARE,
    "blurs": (0, 100),
    "spacing": (0, math.inf),
    "flip_horizontal": _SHARE,
    "flip_vertical": _SHARE,
    "shift": _SHARE,
    "shifts": (-1, 1),
    "sizes": (0.01, 100),
    "stretches": (0.01, 100),
    "angles": (-360, 360),
    "shears": (-80, 80),
    "elastic": _SHARE,
    "elastic_alphas": (0, math.inf),
    "elastic_sigma": (0.1, 1000),
    "feathers": (0, 100),
    "same_image": _SHARE,
    "prior_margin": _SHARE,
    "largest_loss": _SHARE,
    "largest_outside": _SHARE,
    "attempts": (1, 10000),
    "synthetic_share": _SHARE,
}
_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "pivot": get_args(Pivot),
    "exemplar_rule": get_args(ExemplarRule),
    "groups": get_args(Groups),
    "background_policy": get_args(BackgroundPolicy),
    "interpolation": get_args(Interpolation),
}


@dataclass(frozen=True)
class IntensityChange:
    """How grey values change: `clip(contrast * value^gamma + brightness)`, values 0 to 1; then blur, then noise.

    Gamma and contrast are positive, so the order of grey values is kept. Everything is drawn uniformly from its range,
    gamma uniformly in its logarithm.

    Attributes:
        gammas: exponents; below 1 brightens the middle.
        contrasts: factors.
        pivot: the grey value that a contrast leaves as it is: `black`, or the `mean` of the body (all that is not 0) or
            of the objects that change, which does not drive what is bright into white.
        keep_black: pixels of value 0 stay so: what lies outside the body, in images that were cut out.
        brightnesses: offsets, as share of white.
        noise: probability of additive Gaussian noise.
        noises: its standard deviation, as share of white.
        blur: probability of a Gaussian blur.
        blurs: its standard deviation, pixels.
    """

    gammas: Range = (math.exp(-0.5), math.exp(0.5))
    contrasts: Range = (0.7, 1.3)
    pivot: Pivot = "black"
    keep_black: bool = False
    brightnesses: Range = (-0.15, 0.15)
    noise: float = 0.3
    noises: Range = (0.0, 0.05)
    blur: float = 0.2
    blurs: Range = (0.0, 1.0)

    def __post_init__(self) -> None:
        _expect_valid(self)


@dataclass(frozen=True)
class SynthesisConfig:
    """Which exemplars are taken, what happens to their objects, and what they are pasted on.

    Ranges are drawn from uniformly. Geometry is about the centroid of the pixels that move together, so that an object
    stays where the exemplar has it; lengths are pixels of the exemplar.

    Attributes:
        exemplar_rule: `richest` takes the slices with the most classes, then the most labelled pixels; `quantiles`
            takes slices of all sizes of object, from as many patients as possible (lesions).
        cover_classes: `richest` first takes slices with classes that no slice taken so far has.
        spacing: slices of one volume and axis that are both taken lie at least so many slices apart.
        flip_horizontal: probability that the whole foreground is mirrored left and right about the image's middle.
        flip_vertical: the same, up and down.
        shift: probability that the whole foreground is moved.
        shifts: by which share of the image's width and of its height.
        groups: what moves and changes together: each `class`, each connected `component` of a class, or all classes
            `together`, as parts of one organ must.
        sizes: factor of the lengths of an object.
        stretches: further factors, one drawn for its width and one for its height.
        angles: rotation, degrees counter-clockwise as seen.
        shears: degrees by which vertical lines lean.
        elastic: probability of an elastic deformation (Simard et al., 2003).
        elastic_alphas: its strength, pixels: uniform noise of -1 to 1 is smoothed and multiplied by it.
        elastic_sigma: standard deviation of that smoothing, pixels; at 5 and alpha 30 pixels move by about 1.
        interpolation: of grey values; labels are always taken from the nearest pixel.
        foreground: how the grey values of each group change.
        background: how those of the background change, drawn independently.
        feathers: width, pixels, of the band in which object and background are blended; 0 is a hard edge. The label's
            edge lies in the middle of the band.
        same_image: probability that the exemplar itself is the background.
        background_policy: `any` other image may be the background; `no_foreground_prior` leaves out slices at the
            level of an exemplar, in any volume cut along the same axis, where the same organs are to be expected.
        prior_margin: for that policy, how near a level is "at the level", as share of the volume's slices.
        known_labels: a background that is itself an exemplar keeps its own labels where nothing is pasted; else its
            objects become unlabelled, as those of all other backgrounds are.
        largest_loss: a draw that leaves a class fewer than 1 minus this share of its pixels is rejected.
        largest_outside: a draw with a larger share of its labelled pixels where the background is 0, outside the body,
            is rejected too; 1 rejects none.
        attempts: draws of background and geometry, before objects stay on the exemplar's own image, where they are.
        synthetic_share: share of synthetic images in a stream that mixes them with the exemplars.
    """

    exemplar_rule: ExemplarRule = "richest"
    cover_classes: bool = True
    spacing: int = 10
    flip_horizontal: float = 0.0
    flip_vertical: float = 0.0
    shift: float = 0.0
    shifts: Range = (-0.05, 0.05)
    groups: Groups = "class"
    sizes: Range = (0.6, 1.6)
    stretches: Range = (0.8, 1.2)
    angles: Range = (-40.0, 40.0)
    shears: Range = (-10.0, 10.0)
    elastic: float = 0.5
    elastic_alphas: Range = (0.0, 30.0)
    elastic_sigma: float = 5.0
    interpolation: Interpolation = "linear"
    foreground: IntensityChange = field(default_factory=IntensityChange)
    background: IntensityChange = field(default_factory=lambda: IntensityChange(contrasts=(0.5, 1.5), blurs=(0.0, 2.0)))
    feathers: Range = (0.0, 0.0)
    same_image: float = 0.1
    background_policy: BackgroundPolicy = "any"
    prior_margin: float = 0.25
    known_labels: bool = True
    largest_loss: float = 0.8
    largest_outside: float = 1.0
    attempts: int = 20
    synthetic_share: float = 0.5

    def __post_init__(self) -> None:
        _expect_valid(self)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON can hold them."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], base: "SynthesisConfig | None" = None) -> "SynthesisConfig":
        """Build what `to_dict` gave.

        Args:
            content: fields by name; those of `foreground` and `background` may be given in part.
            base: supplies the fields that are left out; None takes the defaults.

        Raises:
            ValueError: a field is unknown or not valid.
        """
        whole = (base or cls()).to_dict()
        for name in ("foreground", "background"):
            if isinstance(content.get(name), Mapping):
                content = {**content, name: whole[name] | content[name]}
        whole |= content
        given = {name: _frozen(value) for name, value in whole.items()}
        for name in ("foreground", "background"):
            if isinstance(given[name], Mapping):
                given[name] = IntensityChange(**_expect_known(IntensityChange, given[name]))
        return cls(**_expect_known(cls, given))


def _expect_known(cls: Any, content: Mapping[str, Any]) -> Mapping[str, Any]:
    unknown = sorted(content.keys() - {one.name for one in fields(cls)})
    if unknown:
        raise ValueError(f"the synthesis configuration has unknown fields: {', '.join(unknown)}")
    return content


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _frozen(one) for name, one in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _expect_valid(config: IntensityChange | SynthesisConfig) -> None:
    problems = list(_problems(config))
    if problems:
        raise ValueError("\n  ".join(["the synthesis configuration is not valid:", *problems]))


def _problems(config: IntensityChange | SynthesisConfig) -> Iterator[str]:
    for one in fields(config):
        value, default = getattr(config, one.name), one.default
        if one.name in _CHOICES:
            if value not in _CHOICES[one.name]:
                yield f"{one.name}: expected one of {', '.join(_CHOICES[one.name])}; got {value!r}"
        elif one.name not in _LIMITS:
            expected = bool if isinstance(default, bool) else IntensityChange
            if not isinstance(value, expected):
                yield f"{one.name}: expected {expected.__name__}, got {value!r}"
        elif isinstance(default, tuple):
            low, high = _LIMITS[one.name]
            pair = isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value))
            if not pair or not low <= value[0] <= value[1] <= high:
                yield f"{one.name}: expected (from, to) with {low} <= from <= to <= {high}, got {value!r}"
        else:
            low, high = _LIMITS[one.name]
            whole = not isinstance(default, int) or isinstance(value, int)
            if not _is_number(value) or not whole or not low <= value <= high:
                kind = "a whole number" if isinstance(default, int) else "a number"
                yield f"{one.name}: expected {kind} from {low} to {high}, got {value!r}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


ORGANS: Final = SynthesisConfig()
"""Organs of the trunk, each in its place: the publication's Synapse figure."""
LESIONS: Final = SynthesisConfig(
    exemplar_rule="quantiles",
    flip_horizontal=0.5,
    flip_vertical=0.5,
    angles=(-15.0, 15.0),
    background=IntensityChange(contrasts=(0.5, 1.5), pivot="mean", keep_black=True, blurs=(0.0, 2.0)),
    largest_outside=0.2,
)
"""One lesion in a symmetric organ that was cut out, which may lie anywhere in it: the publication's BraTS figure."""
PARTS: Final = SynthesisConfig(
    groups="together",
    sizes=(0.7, 1.4),
    angles=(-20.0, 20.0),
    foreground=IntensityChange(pivot="mean"),
    background=IntensityChange(contrasts=(0.5, 1.5), pivot="mean", blurs=(0.0, 2.0)),
)
"""Classes that are parts of one organ and touch: apart from each other they would teach borders that nobody has."""
PRESETS: Final[Mapping[str, SynthesisConfig]] = {"organs": ORGANS, "lesions": LESIONS, "parts": PARTS}
