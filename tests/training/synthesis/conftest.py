"""Images with three classes of plain colours on plain grounds, so that a pixel tells where it comes from."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from samsdk_training.data import LabelledImage
from samsdk_training.synthesis import IntensityChange, SynthesisConfig

SHAPE = (96, 120)
# Grey value of each class in every exemplar; grounds are darker than 100.
GREY = {1: 150, 2: 190, 3: 230}
STEADY = IntensityChange(gammas=(1, 1), contrasts=(1, 1), brightnesses=(0, 0), noise=0, blur=0)


def shapes() -> NDArray[np.uint8]:
    label = np.zeros(SHAPE, np.uint8)
    cv2.ellipse(label, (35, 40), (24, 14), 20, 0, 360, 1, -1)
    label[20:60, 75:95] = 2
    cv2.circle(label, (60, 80), 10, 3, -1)
    return label


@pytest.fixture
def exemplar() -> LabelledImage:
    label = shapes()
    image = np.full(SHAPE, 50, np.uint8)
    for value, grey in GREY.items():
        image[label == value] = grey
    return LabelledImage("exemplar", image, label, False)


@pytest.fixture
def grounds() -> dict[str, NDArray[np.uint8]]:
    return {f"ground{grey}": np.full(SHAPE, grey, np.uint8) for grey in (10, 20, 30)}


@pytest.fixture
def steady() -> Callable[..., SynthesisConfig]:
    """Configurations without any change of intensity: what is pasted keeps its grey values."""

    def build(**given: object) -> SynthesisConfig:
        return SynthesisConfig(**{"foreground": STEADY, "background": STEADY, "same_image": 0.0} | given)  # type: ignore[arg-type]

    return build
