"""The model card that every bundle carries, written from its manifest so that the two cannot differ."""

from collections.abc import Mapping, Sequence
from typing import Any

from samsdk.manifest import AUTO, PROMPTABLE, SEMANTIC, VOLUME

CARD = "MODEL_CARD.md"
# A mean Dice below this is called a failure, whatever the prompt.
_POOR = 0.5
_PROMPTED = """
Dice on images that it was not trained on, with simulated users: a tight box; a first point at the
object's middle; further points in the largest error.

"""
_UNPROMPTED = """
Dice on images that it was not trained on: the mean over cases, each an image or a whole volume.

"""

_TEMPLATE = """# {name}

Version {version}, a samsdk bundle of format {format}. **For research; not a medical device.** Do not use it to
diagnose or to treat.

| | |
|---|---|
| task | {task} |
{takes}
| input | {input} |
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
the golden {golden} in `golden.npz`. `samsdk doctor` repeats that measurement on your device. The golden {golden} are
{sources}.
"""


def model_card(manifest: Mapping[str, Any]) -> str:
    """The card's text.

    Args:
        manifest: the bundle's manifest as JSON.
    """
    licence, lineage = manifest["licence"], manifest["lineage"]
    sets = lineage.get("sets")
    return _TEMPLATE.format(
        name=manifest["name"],
        version=manifest["version"],
        format=manifest["format"],
        task=manifest["task"],
        **_ABOUT[manifest["task"]](manifest),
        **(_volumes(manifest) if manifest["task"] == VOLUME else _images(manifest)),
        licence=licence.get("id", "unknown"),
        source=licence.get("source", "unknown"),
        recipe=lineage.get("recipe", "unknown"),
        weights=lineage.get("sha256", "unknown"),
        accuracy=_accuracy(manifest),
        sets=f"Trained on: {', '.join(sets)}.\n\n" if sets else "",
        attribution=licence.get("attribution", "unknown").replace("; ", "\n\n"),
    )


def _images(manifest: Mapping[str, Any]) -> dict[str, str]:
    size, rule = manifest["geometry"]["input_size"], manifest["geometry"]["rule"]
    intensity, normalisation = manifest["intensity"]["rule"], manifest["normalisation"]["rule"]
    return {
        "input": f"{size} x {size} pixels, rule `{rule}`, intensity `{intensity}`, normalisation `{normalisation}`",
        "golden": "images",
        "sources": "scikit-image's `cell`, `immunohistochemistry` and `retina`",
    }


def _volumes(manifest: Mapping[str, Any]) -> dict[str, str]:
    geometry = manifest["geometry"]
    crop, spacing = (" x ".join(map(str, geometry[name] or ())) for name in ("crop", "spacing"))
    return {
        "input": f"windows of {crop} voxels (z, y, x), spacing {f'{spacing} mm' if spacing else 'as given'}, "
        f"orientation {geometry['orientation'] or 'as given'}, overlap {geometry['overlap']:g}, blending "
        f"`{geometry['blending']}`, intensity `{manifest['intensity']['rule']}`",
        "golden": "crops",
        "sources": "nibabel's example volumes `example4d` and `anatomical`, stretched to a window",
    }


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
    element, images = ("voxel", "volumes") if manifest["task"] == VOLUME else ("pixel", "images")
    return {
        "takes": f"| prompts | none: it names the class of each {element} |\n| classes | {classes} |",
        "use": f"Outlining of its classes in medical {images} of the kind that it was trained on,",
        "limits": "It knows its classes alone, takes anything else for one of them or for background, and has no "
        "estimate of\nhow good its masks are.",
    }


def _auto(manifest: Mapping[str, Any]) -> dict[str, str]:
    prompts = manifest["prompts"]
    selection, splitting = prompts["selection"], prompts.get("splitting")
    picked = f"{selection['positives']} on objects, {selection['negatives']} on background, by {selection['strategy']}"
    parted = f"necks deeper than {splitting['depth']} pixels" if splitting else "not at all"
    return {
        "takes": "| prompts | none needed: it points by itself |\n"
        f"| points that it picks, at most | {picked} |\n"
        f"| prompts that it takes beside | {', '.join(prompts['kinds'])} |\n"
        f"| prompts that the weights were trained with | {', '.join(prompts['trained'])} |\n"
        f"| its mask is split into objects at | {parted} |",
        "use": "Outlining of all objects of its kind in medical images of the kind that it was trained on,",
        "limits": "It knows one kind of object, takes anything else for it or for background, and parts those that "
        "touch by\ntheir shape alone.",
    }


_ABOUT = {PROMPTABLE: _promptable, SEMANTIC: _semantic, AUTO: _auto, VOLUME: _semantic}


def _accuracy(manifest: Mapping[str, Any]) -> str:
    accuracy, prompted = manifest["accuracy"], manifest["task"] == PROMPTABLE
    if not accuracy.get("sets"):
        return ""
    columns, counted = list(accuracy["mean_dice"]), "objects" if prompted else "cases"
    heads = [_prompt(one) if prompted else one for one in columns]
    lines = [f"| set | {counted} | " + " | ".join(heads) + " |", "|---|---|" + "---|" * len(heads)]
    for name, row in accuracy["sets"].items():
        lines.append(f"| {name} | {row[counted]} | {_values(row['dice'], columns)} |")
    lines.append(f"| **mean over sets** | | {_values(accuracy['mean_dice'], columns)} |")
    poor = [
        name
        for name, row in accuracy["sets"].items()
        if any(value is not None and value < _POOR for value in row["dice"].values())
    ]
    on = "with one of these prompts" if prompted else "of one of these"
    failures = f"\nWhere it fails: a mean Dice under {_POOR} {on} on {', '.join(poor)}.\n" if poor else ""
    return "\n## Accuracy\n" + (_PROMPTED if prompted else _UNPROMPTED) + "\n".join(lines) + "\n" + failures


def _prompt(word: str) -> str:
    count = word.removeprefix("point")
    return "tight box" if word == "box" else f"{count} point{'s' if count != '1' else ''}"


def _values(row: Mapping[str, float | None], columns: Sequence[str]) -> str:
    values = (row.get(column) for column in columns)
    return " | ".join("-" if value is None else f"{value:.3f}" for value in values)


def _calibration(accuracy: Mapping[str, Any]) -> str:
    rows = list(accuracy.get("sets", {}).values())
    if not rows:
        return " and is not calibrated"
    count = sum(row["objects"] for row in rows)
    error = sum(row["calibration"]["mean_absolute_error"] * row["objects"] for row in rows) / count
    return f"; it is off by {error:.2f} in the mean over the objects above"
