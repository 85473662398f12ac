"""The model card that every bundle carries, written from its manifest so that the two cannot differ."""

from typing import Any

CARD = "MODEL_CARD.md"

_TEMPLATE = """# {name}

Version {version}, a samsdk bundle of format {format}. **For research; not a medical device.** Do not use it to
diagnose or to treat.

| | |
|---|---|
| task | {task} |
| prompts that the graph takes | {kinds} |
| prompts that the weights were trained with | {trained} |
| input | {size} x {size} pixels, rule `{geometry}`, intensity `{intensity}`, normalisation `{normalisation}` |
| licence | {licence} |
| source | {source} |
| attribution | {attribution} |
| recipe | {recipe} |
| sha256 of the weights it was made from | {weights} |

## Intended use

Interactive outlining of objects in medical images by people who look at every mask, and research on it.

## Limits

Prompts of other kinds than those it was trained with are accepted and give poor masks. The predicted score is the
model's own estimate of the mask's IoU and is not calibrated. Nothing was tested on patients; check it on your own
images.

## Proof

`manifest.json` holds the parity certificate: how far this bundle's answers are from those of the weights in PyTorch on
the golden images in `golden.npz`. `samsdk doctor` repeats that measurement on your device. The golden images are
scikit-image's `cell`, `immunohistochemistry` and `retina`.
"""


def model_card(manifest: dict[str, Any]) -> str:
    """The card's text.

    Args:
        manifest: the bundle's manifest as JSON.
    """
    licence, lineage = manifest["licence"], manifest["lineage"]
    return _TEMPLATE.format(
        name=manifest["name"],
        version=manifest["version"],
        format=manifest["format"],
        task=manifest["task"],
        kinds=", ".join(manifest["prompts"]["kinds"]),
        trained=", ".join(manifest["prompts"]["trained"]),
        size=manifest["geometry"]["input_size"],
        geometry=manifest["geometry"]["rule"],
        intensity=manifest["intensity"]["rule"],
        normalisation=manifest["normalisation"]["rule"],
        licence=licence.get("id", "unknown"),
        source=licence.get("source", "unknown"),
        attribution=licence.get("attribution", "unknown"),
        recipe=lineage.get("recipe", "unknown"),
        weights=lineage.get("sha256", "unknown"),
    )
