"""Exemplar-guided synthesis: a few annotated images and many without annotation become a stream of labelled ones.

After Cheap Lunch, whose structure is published and whose numbers are not (see `config`): each object of an exemplar
changes its geometry about its own centroid and its intensity, and is pasted on another image of the data set, whose
intensity changes independently. What is pasted later covers what was pasted before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.intensity import INTENSITY_RULES, to_uint8
from samsdk_training.data import DataError, LabelledImage
from samsdk_training.synthesis.config import SynthesisConfig
from samsdk_training.synthesis.exemplars import slice_levels
from samsdk_training.synthesis.geometry import (
    STILL,
    Motion,
    ObjectGroup,
    Patch,
    draw_motion,
    move,
    split_groups,
    whole_matrix,
)
from samsdk_training.synthesis.intensity import change_intensity, outside_body

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class SyntheticImage:
    """One image of the stream.

    Attributes:
        image: [H, W] grey or [H, W, 3] RGB, uint8, of the exemplar's size.
        label: [H, W] uint8, class ids of the exemplar; 0 is background.
        exemplar: the name of the image that the objects come from.
        background: the name of the image that they lie on; None where this is the exemplar itself, unchanged.
    """

    image: Bytes
    label: Bytes
    exemplar: str
    background: str | None


@dataclass(frozen=True)
class _Exemplar:
    name: str
    image: Bytes
    label: Bytes
    groups: list[ObjectGroup]
    areas: NDArray[np.int64]  # [256], pixels of each class


class Synthesiser:
    """Draws synthetic images by number."""

    def __init__(
        self,
        exemplars: Sequence[LabelledImage],
        backgrounds: Sequence[str],
        read_background: Callable[[str], NDArray[np.generic]],
        config: SynthesisConfig,
        *,
        seed: int = 0,
        intensity: str = INTENSITY_RULES[0],
    ) -> None:
        """Prepare the exemplars; backgrounds are read when they are drawn.

        Args:
            exemplars: annotated images with class ids; their names must differ.
            backgrounds: names of images, annotated or not. An exemplar's name stands for that exemplar. With no other
                image, objects are pasted on the exemplar that they come from.
            read_background: gives the image of such a name, [H, W] or [H, W, 3] RGB, any real dtype.
            config: what may happen.
            seed: another seed is another stream.
            intensity: rule that brings images to 8 bits, see `samsdk.intensity`.

        Raises:
            DataError: no exemplars, one without a label, with instances or ids above 255, names given twice; or no
                background that the policy allows.
        """
        if not exemplars or len({one.name for one in exemplars}) < len(exemplars):
            raise DataError(f"expected at least one exemplar and each once, got: {[one.name for one in exemplars]}")
        self.config = config
        self.seed = seed
        self.intensity = intensity
        self._exemplars = [_prepare(one, config, intensity) for one in exemplars]
        self._by_name = {one.name: one for one in self._exemplars}
        self._backgrounds = _allowed(backgrounds, list(self._by_name), config)
        self._places = {name: place for place, name in enumerate(self._backgrounds)}
        self._read = read_background

    @property
    def exemplars(self) -> list[str]:
        """Their names."""
        return list(self._by_name)

    @property
    def backgrounds(self) -> list[str]:
        """The names of those that the policy allows."""
        return list(self._backgrounds)

    def exemplar(self, name: str) -> SyntheticImage:
        """An exemplar as it is."""
        found = self._by_name[name]
        return SyntheticImage(found.image, found.label, name, None)

    def background(self, name: str) -> Bytes:
        """A background as it is, [H, W] or [H, W, 3] uint8, of its own size."""
        known = self._by_name.get(name)
        return _plain(to_uint8(self._read(name), self.intensity)) if known is None else known.image

    def sample(self, index: int) -> SyntheticImage:
        """The synthetic image of this number.

        Args:
            index: 0 or more. The same number, seed, images and configuration give the same image, bit for bit, in
                whatever order they are asked for.
        """
        rng = np.random.default_rng((self.seed, index))
        exemplar = self._exemplars[int(rng.integers(len(self._exemplars)))]
        for _ in range(self.config.attempts):
            name = self._draw_background(exemplar, rng)
            whole = whole_matrix(exemplar.label.shape, rng, self.config)
            motions = [draw_motion(group, whole, rng, self.config) for group in exemplar.groups]
            made, acceptable = self._compose(exemplar, name, motions, rng)
            if acceptable:
                return made
        return self._compose(exemplar, exemplar.name, [STILL] * len(exemplar.groups), rng)[0]

    def mixed(self, index: int) -> SyntheticImage:
        """The image of this number in a stream where exemplars as they are lie evenly among synthetic ones.

        Of any N successive numbers, N times `config.synthetic_share` are synthetic, rounded up or down; the others go
        through the exemplars in turn.

        Args:
            index: 0 or more.
        """
        before, after = (int(np.floor(number * self.config.synthetic_share)) for number in (index, index + 1))
        if after > before:
            return self.sample(before)
        return self.exemplar(self._exemplars[(index - before) % len(self._exemplars)].name)

    def _draw_background(self, exemplar: _Exemplar, rng: np.random.Generator) -> str:
        own = rng.random() < self.config.same_image
        itself = self._places.get(exemplar.name)
        others = len(self._backgrounds) - (itself is not None)
        place = int(rng.integers(max(others, 1)))
        if own or not others:
            return exemplar.name
        return self._backgrounds[place + (itself is not None and place >= itself)]

    def _compose(
        self, exemplar: _Exemplar, name: str, motions: Sequence[Motion], rng: np.random.Generator
    ) -> tuple[SyntheticImage, bool]:
        # Stretched to the exemplar's frame, so that a share of the width means the same place in both.
        size = exemplar.label.shape[::-1]
        background = _resized(self.background(name), size)
        body = ~outside_body(background)
        changed = change_intensity(background, rng, self.config.background, body if body.any() else None)
        picture, objects = _same_channels(changed, exemplar.image)
        label = np.zeros_like(exemplar.label)
        self._paste(picture, label, objects, exemplar.groups, motions, rng)
        acceptable = self._acceptable(exemplar, label, body)
        if self.config.known_labels and name in self._by_name:
            label = np.where(label > 0, label, _resized_label(self._by_name[name].label, size))
        return SyntheticImage(picture, label, exemplar.name, name), acceptable

    def _paste(
        self,
        picture: Bytes,
        label: Bytes,
        objects: Bytes,
        groups: Sequence[ObjectGroup],
        motions: Sequence[Motion],
        rng: np.random.Generator,
    ) -> None:
        """Paste all groups of an exemplar, whose image is `objects`, on picture and label in place."""
        feather = rng.uniform(*self.config.feathers)
        margin = int(np.ceil(feather / 2))
        mode = self.config.interpolation
        for number in rng.permutation(len(groups)):
            patch = move(objects, groups[number], motions[number], rng, interpolation=mode, margin=margin)
            if patch is not None and patch.label.any():
                changed = change_intensity(patch.image, rng, self.config.foreground, patch.label > 0)
                _lay(picture, label, Patch(patch.place, changed, patch.label), feather)

    def _acceptable(self, exemplar: _Exemplar, label: Bytes, body: NDArray[np.bool_]) -> bool:
        left = np.bincount(label.ravel(), minlength=256)[1:]
        asked = exemplar.areas[1:]
        lost = (left < (1 - self.config.largest_loss) * asked) | ((left == 0) & (asked > 0))
        outside = int(np.count_nonzero(label[~body]))
        return not lost.any() and outside <= self.config.largest_outside * int(left.sum())


def _prepare(labelled: LabelledImage, config: SynthesisConfig, intensity: str) -> _Exemplar:
    label = labelled.label
    if labelled.instances or label.min() < 0 or label.max() > 255:
        raise DataError(f"the mask of the exemplar {labelled.name} must hold class ids from 0 to 255, 8 bits")
    if not label.any():
        raise DataError(f"the exemplar {labelled.name} has no labelled pixel; choose another one")
    classes = label.astype(np.uint8)
    image = _plain(to_uint8(labelled.image, intensity))
    areas = np.bincount(classes.ravel(), minlength=256)
    return _Exemplar(labelled.name, image, classes, split_groups(classes, config.groups), areas)


def _allowed(names: Sequence[str], exemplars: Sequence[str], config: SynthesisConfig) -> list[str]:
    """The backgrounds that the policy allows."""
    if len(set(names)) < len(names):
        raise DataError("expected each background once")
    kept = list(names)
    if config.background_policy == "no_foreground_prior":
        levels = slice_levels({*names, *exemplars})
        if any(one not in levels for one in exemplars):
            raise DataError(
                "background_policy no_foreground_prior needs slices of volumes, named <volume>_<axis><number>, "
                f"e.g. case_z012; got exemplars {', '.join(exemplars)}"
            )
        taken = [levels[one] for one in exemplars]
        kept = [
            name
            for name in names
            if name in levels
            and all(
                levels[name][0] != axis or abs(levels[name][1] - level) > config.prior_margin for axis, level in taken
            )
        ]
        if not kept:
            raise DataError(
                f"no background lies farther than {config.prior_margin} of a volume from every exemplar's level; "
                "set a smaller prior_margin"
            )
    return kept


def _plain(image: Bytes) -> Bytes:
    """Grey where all channels are alike: noise must not bring colours into it."""
    if image.ndim == 3 and (image == image[..., :1]).all():
        return np.ascontiguousarray(image[..., 0])
    return image


def _same_channels(*images: Bytes) -> list[Bytes]:
    coloured = any(image.ndim == 3 for image in images)
    return [np.repeat(one[..., None], 3, axis=2) if coloured and one.ndim == 2 else one for one in images]


def _resized(image: Bytes, size: tuple[int, ...]) -> Bytes:
    if image.shape[1::-1] == size:
        return image
    shrinks = image.shape[0] * image.shape[1] > size[0] * size[1]
    return np.asarray(
        cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR), dtype=np.uint8
    )


def _resized_label(label: Bytes, size: tuple[int, ...]) -> Bytes:
    return np.asarray(cv2.resize(label, size, interpolation=cv2.INTER_NEAREST_EXACT), dtype=np.uint8)


def _lay(image: Bytes, label: Bytes, patch: Patch, feather: float) -> None:
    """Paste a patch, in place; `feather` is the width of the blended band in pixels."""
    inside = patch.label > 0
    label[patch.place][inside] = patch.label[inside]
    if feather <= 0:
        image[patch.place][inside] = patch.image[inside]
        return
    share = np.clip(0.5 + _signed_distance(inside) / feather, 0, 1)
    under = image[patch.place].astype(np.float32)
    share = share[..., None] if under.ndim == 3 else share
    image[patch.place] = (under + share * (patch.image - under)).round().astype(np.uint8)


def _signed_distance(inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Of each pixel's centre to the edge between the pixels inside and those outside; positive inside."""
    # The objects may be cut off by the frame, which is no edge of theirs: nothing is added around them.
    within, without = (
        cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for mask in (inside, ~inside)
    )
    return np.asarray(np.where(inside, within - 0.5, 0.5 - without), dtype=np.float32)
