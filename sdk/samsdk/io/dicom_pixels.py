"""From the numbers that a DICOM file stores to the greyscale or colours that a viewer shows, 8 bits."""

import types
from collections.abc import MutableSequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Greyscale = tuple[float, float]
"""A window of values: centre and width, as on a viewer."""

PIXEL_TAGS: Final = (
    "PhotometricInterpretation",
    "BitsStored",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    *(
        f"{colour}PaletteColorLookupTable{part}"
        for colour in ("Red", "Green", "Blue")
        for part in ("Descriptor", "Data")
    ),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
)
# Numbers of up to this many bytes are shown through a table of all of them: the image itself is never made floats.
_TABLE_BYTES: Final = 2
_SIGMOID: Final = "SIGMOID"
# Functions whose window is as wide as it says; others are a number less wide.
_EXACT: Final = ("LINEAR_EXACT", _SIGMOID)
# Pixels that are looked up at a time: numpy makes 8 bytes of each.
_BAND: Final = 2**20


@dataclass(frozen=True, eq=False)
class ModalityFrame:
    """A greyscale frame in its modality's numbers (Hounsfield units, for example), before a window cuts any off.

    Attributes:
        numbers: [H, W] integers; what the modality means is `start + step * number`.
        start: see `numbers`.
        step: see `numbers`; may be negative.
        black: what the modality means by black at first.
        white: what it means by white; less than `black` where the file says that 0 is white.
    """

    numbers: NDArray[Any]
    start: float
    step: float
    black: float
    white: float


def modality_frame(stored: NDArray[Any], dataset: Any, window: Greyscale | None) -> ModalityFrame:
    """A greyscale frame in its modality's numbers, and between which of them `show_grey` shows it.

    A file's own curve (a table of values of interest, a sigmoid) is told as the window that it spans.

    Args:
        stored: [H, W] integers as they are stored.
        dataset: the frame's elements.
        window: see `show_grey`.
    """
    step, start = (1.0, 0.0) if dataset.get("ModalityLUTSequence") else _rescale(dataset)
    numbers = _modality(stored, dataset).astype(np.int32) if dataset.get("ModalityLUTSequence") else stored
    windowed, table = _window(dataset, window), dataset.get("VOILUTSequence")
    if windowed is not None:
        black, white = _window_ends(*windowed)
    elif table:
        entries, first, _ = table[0].LUTDescriptor
        black, white = float(first), float(first + (entries or 2**16) - 1)
    elif _is_plain(dataset) and (step, start) == (1, 0):
        black, white = 0.0, 255.0
    else:
        padding = _padding(stored, dataset)
        counted = numbers if padding.all() else numbers[~padding]
        black, white = sorted((start + step * int(counted.min()), start + step * int(counted.max())))
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        black, white = white, black
    return ModalityFrame(numbers, start, step, black, white)


def show_grey(stored: NDArray[Any], dataset: Any, window: Greyscale | None) -> NDArray[np.uint8]:
    """Show a greyscale frame as a viewer does when it opens the file.

    Stored numbers become those of the modality (Hounsfield units, for example) by the rescale slope and intercept or a
    table. These become grey by `window`, or by the file's table of values of interest, or by its first window; a file
    that has none is stretched from its least to its greatest number, padding left out, unless it stores plain 8 bits.
    White is made black where the file says that 0 is white.

    Args:
        stored: [H, W] integers as they are stored.
        dataset: the frame's elements.
        window: centre and width in the modality's numbers, instead of what the file says.

    Returns:
        [H, W] uint8.
    """
    if stored.dtype.itemsize > _TABLE_BYTES:
        return _grey(stored, np.ones(stored.shape, np.bool_), dataset, window)
    lowest, highest = int(stored.min()), int(stored.max())
    present = np.zeros(highest - lowest + 1, np.bool_)
    rows = max(1, _BAND // stored.shape[1])
    bands = [slice(first, first + rows) for first in range(0, len(stored), rows)]
    for band in bands:
        present[stored[band].astype(np.intp) - lowest] = True
    table = _grey(np.arange(lowest, highest + 1), present, dataset, window)
    shown = np.empty(stored.shape, np.uint8)
    for band in bands:
        shown[band] = table[stored[band].astype(np.intp) - lowest]
    return shown


def show_colour(stored: NDArray[Any], dataset: Any, pydicom: types.ModuleType) -> NDArray[np.uint8]:
    """Show a frame in colour: RGB, or numbers of a palette.

    Args:
        stored: [H, W, 3] RGB, or [H, W] for a palette, unsigned.
        dataset: the frame's elements.
        pydicom: the library.

    Returns:
        [H, W, 3] uint8, RGB. Deeper colours lose their lower bits, they are never stretched.
    """
    if stored.ndim == 3:
        return _upper_bits(stored, int(dataset.BitsStored))
    coloured = pydicom.pixels.apply_color_lut(stored, dataset)
    return _upper_bits(coloured, int(dataset.RedPaletteColorLookupTableDescriptor[2]))[..., :3]


def _upper_bits(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    shown: NDArray[np.uint8] = (values if bits <= 8 else values >> (bits - 8)).astype(np.uint8)
    return shown


def _grey(
    values: NDArray[Any], present: NDArray[np.bool_], dataset: Any, window: Greyscale | None
) -> NDArray[np.uint8]:
    """Grey of stored numbers, those of them that the image has being `present`."""
    meant = _modality(values, dataset)
    table, windowed = dataset.get("VOILUTSequence"), _window(dataset, window)
    if windowed is not None:
        grey = _windowed(meant, *windowed)
    elif table:
        entries = _looked_up(np.rint(meant).astype(np.int64), table[0], dataset)
        grey = entries * (255 / (2 ** int(table[0].LUTDescriptor[2]) - 1))
    elif meant is values and _is_plain(dataset):
        grey = values
    else:
        grey = _stretched(meant, present & ~_padding(values, dataset))
    shown = np.rint(np.clip(grey, 0, 255)).astype(np.uint8)
    return np.uint8(255) - shown if dataset.PhotometricInterpretation == "MONOCHROME1" else shown


def _modality(values: NDArray[Any], dataset: Any) -> NDArray[Any]:
    """The modality's numbers; the same array where they are those that are stored."""
    table = dataset.get("ModalityLUTSequence")
    if table:
        return _looked_up(values.astype(np.int64), table[0], dataset)
    factor, summand = _rescale(dataset)
    return values if (factor, summand) == (1, 0) else values.astype(np.float64) * factor + summand


def _rescale(dataset: Any) -> tuple[float, float]:
    """The slope and the intercept from stored numbers to the modality's."""
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    return 1.0 if slope is None else float(slope), float(intercept or 0)


def _is_plain(dataset: Any) -> bool:
    """Whether 8 bits are stored, which are shown as they are if nothing else is said."""
    return int(dataset.BitsStored) == 8 and not dataset.PixelRepresentation


def _looked_up(values: NDArray[np.int64], item: Any, dataset: Any) -> NDArray[np.int64]:
    """Numbers through a table of DICOM's; those before its first or behind its last entry get that entry.

    pydicom's own counts the entries in the type of what they hold, which fails for more than 256 entries of 8 bits.
    """
    entries, first, _ = item.LUTDescriptor
    data = item.LUTData
    if isinstance(data, bytes):
        _, little = dataset.original_encoding
        data = np.frombuffer(data, "<u2" if little else ">u2")
    table = np.atleast_1d(np.asarray(data))[: entries or 2**16].astype(np.int64)
    return np.asarray(table[np.clip(values - first, 0, len(table) - 1)])


def _window(dataset: Any, window: Greyscale | None) -> tuple[Greyscale, str] | None:
    """The window that is wanted, else the file's, and its function; None where the file has none, or a table."""
    if window is not None:
        return window, "LINEAR"
    function = dataset.get("VOILUTFunction") or "LINEAR"
    own = None if dataset.get("VOILUTSequence") else _own_window(dataset, function)
    return None if own is None else (own, function)


def _window_ends(window: Greyscale, function: str) -> tuple[float, float]:
    """The last number that is black and the first that is white, see `_windowed`."""
    centre, width = window if function in _EXACT else (window[0] - 0.5, window[1] - 1)
    return centre - width / 2, centre + width / 2


def _own_window(dataset: Any, function: str) -> Greyscale | None:
    """The file's first window; None without one, and where it is none: devices write a width of 0."""
    values = [dataset.get(name) for name in ("WindowCenter", "WindowWidth")]
    first = [(value[0] if value else None) if isinstance(value, MutableSequence) else value for value in values]
    if first[0] is None or first[1] is None:
        return None
    centre, width = float(first[0]), float(first[1])
    wide = width >= 1 if function == "LINEAR" else width > 0
    return (centre, width) if wide and np.isfinite([centre, width]).all() else None


def _windowed(values: NDArray[Any], window: Greyscale, function: str) -> NDArray[np.float64]:
    """Grey 0 to 255 by a window, as PS3.3 C.11.2.1.2 and C.11.2.1.3 have it; a function that they lack is linear."""
    centre, width = window
    if function == _SIGMOID:
        with np.errstate(over="ignore"):  # far outside the window
            return np.asarray(255 / (1 + np.exp(-4 * (values - centre) / width)))
    if function not in _EXACT:
        centre, width = centre - 0.5, width - 1
        if width == 0:
            return np.where(values > centre, 255.0, 0.0)
    return np.asarray(((values - centre) / width + 0.5) * 255)


def _stretched(values: NDArray[Any], counted: NDArray[np.bool_]) -> NDArray[np.float64]:
    if not counted.any():
        return np.zeros(values.shape)
    low, high = float(values[counted].min()), float(values[counted].max())
    return (values.astype(np.float64) - low) * (255 / max(high - low, 1e-8))


def _padding(values: NDArray[Any], dataset: Any) -> NDArray[np.bool_]:
    """Which stored numbers mean that there is no image: those around the circle of a CT, for example."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if not isinstance(value, int):
        return np.zeros(values.shape, np.bool_)
    ends = [value, limit if isinstance(limit, int) else value]
    if dataset.PixelRepresentation:
        # Negative numbers are often written as if they were unsigned.
        ends = [end - 2**16 if end >= 2**15 else end for end in ends]
    return (values >= min(ends)) & (values <= max(ends))
