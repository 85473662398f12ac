"""The model card that every bundle carries, written from its manifest so that the two cannot differ."""

from collections.abc import Mapping
from typing import Any

from samsdk.manifest import SEMANTIC

CARD = "MODEL_CARD.md"
# A mean Dice below this is called a failure, whatever the prompt.
_POOR = 0.5

_TEMPLATE = """# {name}

Version {version}, a samsdk bundle of format {format}. **For research; not a medical device.** Do not use it to
diagnose or to treat.

| | |
|---|---|
| task | {task} |
{takes}
| input | {size} x {size} pixels, rule `{geometry}`, intensity `{intensity}`, normalisation `{normalisation}` |
| licence | {licence} |
| source | {source} |
| recipe | {recipe} |
| sha256 of the weights it was made from | {weights} |

## Intended use

{use} by people who look at every mask, and research on it.
{accuracy}
## Limits

{limits} Nothing was tested on patients; check it on your own images.

## Data and attribution

{sets}{attribution}

## Proof

`manifest.json` holds the parity certificate: how far this bundle's answers are from those of the weights in PyTorch on
the golden images in `golden.npz`. `samsdk doctor` repeats that measurement on your device. The golden images are
scikit-image's `cell`, `immunohistochemistry` and `retina`.
"""


def model_card(manifest: Mapping[str, Any]) -> str:
    """The card's text.

    Args:
        manifest: the bundle's manifest as JSON.
    """
    licence, lineage = manifest["licence"], manifest["lineage"]
    accuracy, sets = manifest["accuracy"], lineage.get("sets")
    return _TEMPLATE.format(
        name=manifest["name"],
        version=manifest["version"],
        format=manifest["format"],
        task=manifest["task"],
        **(_semantic(manifest) if manifest["task"] == SEMANTIC else _promptable(manifest)),
        size=manifest["geometry"]["input_size"],
        geometry=manifest["geometry"]["rule"],
        intensity=manifest["intensity"]["rule"],
        normalisation=manifest["normalisation"]["rule"],
        licence=licence.get("id", "unknown"),
        source=licence.get("source", "unknown"),
        recipe=lineage.get("recipe", "unknown"),
        weights=lineage.get("sha256", "unknown"),
        accuracy=_accuracy(accuracy),
        sets=f"Trained on: {', '.join(sets)}.\n\n" if sets else "",
        attribution=licence.get("attribution", "unknown").replace("; ", "\n\n"),
    )


def _promptable(manifest: Mapping[str, Any]) -> dict[str, str]:
    prompts, zoom = manifest["prompts"], manifest["prompts"].get("zoom")
    look = f"a window of {zoom['context']} times the object's size" if zoom else "none"
    return {
        "takes": f"| prompts that the graph takes | {', '.join(prompts['kinds'])} |\n"
        f"| prompts that the weights were trained with | {', '.join(prompts['trained'])} |\n"
        f"| second look at the object (zoom) | {look} |",
        "use": "Interactive outlining of objects in medical images",
        "limits": "Prompts of other kinds than those it was trained with are accepted and give poor masks. The "
        f"predicted score is the\nmodel's own estimate of the mask's IoU{_calibration(manifest['accuracy'])}.",
    }


def _semantic(manifest: Mapping[str, Any]) -> dict[str, str]:
    classes = ", ".join(f"{number} {name}" for number, name in manifest["classes"].items())
    return {
        "takes": f"| prompts | none: it names the class of each pixel |\n| classes | {classes} |",
        "use": "Outlining of its classes in medical images of the kind that it was trained on,",
        "limits": "It knows its classes alone, takes anything else for one of them or for background, and has no "
        "estimate of\nhow good its masks are.",
    }


def _accuracy(accuracy: Mapping[str, Any]) -> str:
    if not accuracy.get("sets"):
        return ""
    prompts = list(accuracy["mean_dice"])
    heads = ["tight box" if one == "box" else f"{one} point{'s' if one != '1' else ''}" for one in prompts]
    lines = ["| set | objects | " + " | ".join(heads) + " |", "|---|---|" + "---|" * len(heads)]
    for name, row in accuracy["sets"].items():
        values = " | ".join(f"{row['dice'][one]:.3f}" for one in prompts)
        lines.append(f"| {name} | {row['objects']} | {values} |")
    mean = " | ".join(f"{accuracy['mean_dice'][one]:.3f}" for one in prompts)
    lines.append(f"| **mean over sets** | | {mean} |")
    poor = [name for name, row in accuracy["sets"].items() if min(row["dice"].values()) < _POOR]
    failures = (
        f"\nWhere it fails: a mean Dice under {_POOR} with one of these prompts on {', '.join(poor)}.\n" if poor else ""
    )
    note = (
        "\nDice on images that it was not trained on, with simulated users: a tight box; a first point at the\n"
        "object's middle; further points in the largest error.\n\n"
    )
    return "\n## Accuracy\n" + note + "\n".join(lines) + "\n" + failures


def _calibration(accuracy: Mapping[str, Any]) -> str:
    rows = list(accuracy.get("sets", {}).values())
    if not rows:
        return " and is not calibrated"
    count = sum(row["objects"] for row in rows)
    error = sum(row["calibration"]["mean_absolute_error"] * row["objects"] for row in rows) / count
    return f"; it is off by {error:.2f} in the mean over the objects above"
