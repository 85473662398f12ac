"""The published weights that come in by name: architecture, preprocessing and licence of each, as data."""

from dataclasses import dataclass

from samsdk.transforms import Preprocessing
from samsdk_training.models.sam_config import (
    SamConfig,
    lite_medsam_config,
    mobile_sam_config,
    sam_med2d_config,
    sam_vit_config,
)

SAM = "https://github.com/facebookresearch/segment-anything"
_ALL_KINDS = ("points", "box", "mask")


@dataclass(frozen=True)
class Published:
    """One kind of weights.

    Attributes:
        title: What its authors call it.
        config: Architecture.
        preprocessing: How its authors made an image the network's input; its side is that of `config`.
        trained: Kinds of prompt that it was trained with.
        source: Where it was published.
        attribution: Who is to be named.
        single_mask: Which mask answers a clear prompt: the `first`, or the `best` of the others.
        unused: Beginnings of the keys of tensors that its file holds beside the model's.
    """

    title: str
    config: SamConfig
    preprocessing: Preprocessing
    trained: tuple[str, ...]
    source: str
    attribution: str
    single_mask: str = "first"
    unused: tuple[str, ...] = ()


@dataclass(frozen=True)
class PublishedLora:
    """One kind of low-rank weights, which only together with those of a base are a model.

    Attributes:
        title: What its authors call it.
        base: Kind of the base.
        image_size: Side of the input in pixels.
        decoder: Whether the decoder's transformer is the base's with low-rank weights too, instead of a whole new one.
        preprocessing: As in `Published`.
        source: As in `Published`.
        attribution: As in `Published`.
    """

    title: str
    base: str
    image_size: int
    decoder: bool
    preprocessing: Preprocessing
    source: str
    attribution: str


def _sam(size: str) -> Published:
    return Published(
        title=f"Segment Anything, ViT-{size.upper()}",
        config=sam_vit_config(size),
        preprocessing=Preprocessing(1024, interpolation="antialiased", normalisation="imagenet_rgb"),
        trained=_ALL_KINDS,
        source=SAM,
        attribution="Kirillov et al., Segment Anything, ICCV 2023",
    )


def _samed(title: str, base: str, decoder: bool = False) -> PublishedLora:
    return PublishedLora(
        title=title,
        base=base,
        image_size=512,
        decoder=decoder,
        preprocessing=Preprocessing(512, "resize_square", interpolation="cubic", normalisation="unit"),
        source="https://github.com/hitachinsk/SAMed",
        attribution="Zhang and Liu, Customized Segment Anything Model for Medical Image Segmentation, 2023",
    )


PUBLISHED = {
    "sam-vit-b": _sam("b"),
    "sam-vit-l": _sam("l"),
    "sam-vit-h": _sam("h"),
    "medsam-vit-b": Published(
        title="MedSAM, ViT-B",
        config=sam_vit_config("b"),
        preprocessing=Preprocessing(1024, "resize_square", interpolation="cubic", normalisation="minmax"),
        trained=("box",),
        source="https://github.com/bowang-lab/MedSAM",
        attribution="Ma et al., Segment Anything in Medical Images, Nature Communications 2024",
    ),
    "mobile-sam": Published(
        title="MobileSAM",
        config=mobile_sam_config(),
        preprocessing=Preprocessing(1024, interpolation="antialiased", normalisation="imagenet_rgb"),
        trained=_ALL_KINDS,
        source="https://github.com/ChaoningZhang/MobileSAM",
        attribution="Zhang et al., Faster Segment Anything: Towards Lightweight SAM for Mobile Applications, 2023",
        # The classifier of ImageNet that TinyViT was first trained as.
        unused=("image_encoder.norm_head.", "image_encoder.head."),
    ),
    "lite-medsam": Published(
        title="LiteMedSAM",
        config=lite_medsam_config(),
        preprocessing=Preprocessing(256, box_rounding="truncate"),
        trained=("box",),
        source="https://github.com/bowang-lab/MedSAM (LiteMedSAM)",
        attribution="Ma et al., Segment Anything in Medical Images, Nature Communications 2024",
    ),
    "sam-med2d": Published(
        title="SAM-Med2D",
        config=sam_med2d_config(),
        preprocessing=Preprocessing(
            256,
            "pad_center_or_resize",
            interpolation="nearest",
            normalisation="imagenet_bgr_quirk",
            mask_prompt="sigmoid",
        ),
        trained=_ALL_KINDS,
        source="https://github.com/OpenGVLab/SAM-Med2D",
        attribution="Cheng et al., SAM-Med2D, 2023",
        single_mask="best",
    ),
}
"""Whole models by the name that `import_weights` takes."""

LORAS = {
    "samed": _samed("SAMed", "sam-vit-b"),
    "samed-s": _samed("SAMed_s", "sam-vit-b", decoder=True),
    "samed-h": _samed("SAMed_h", "sam-vit-h"),
}
"""Low-rank weights by the name that `import_weights` takes."""
