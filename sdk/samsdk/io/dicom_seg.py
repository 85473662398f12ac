"""DICOM segmentations, through highdicom (extra `medical`)."""

import io
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from samsdk.errors import ImageError, OutputError
from samsdk.io.atomic import atomic_write
from samsdk.io.dicom_derived import MAKER, Concept, File, equipment, highdicom_library, quiet, read_headers
from samsdk.io.dicom_images import SourceImages
from samsdk.io.dicom_spacing import pixel_spacing
from samsdk.io.objects import ObjectMask

# PS3.16, CID 7150 and 7151: the word for what nobody said more of; it fits organs, lesions and cells alike.
TISSUE: Final = Concept("85756007", "Tissue")
_PLAIN_IMAGE: Final = "1.2.840.10008.5.1.4.1.1.7"
_SPACINGS: Final = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
# Characters of a label (VR LO), and bytes of the pixels of a file.
_LONGEST_LABEL: Final = 64
_MOST_BYTES: Final = 2**32 - 2
_MOST_SEGMENTS: Final = 2**16 - 1


@dataclass(frozen=True, eq=False)
class Segment:
    """One object of a segmentation, on one image or on several slices or frames.

    Attributes:
        masks: of the object; the whole of them is it.
        label: its name, unique in its file.
        category: what sort of thing it is, of PS3.16's CID 7150: tissue, anatomical structure (91723000),
            morphologically abnormal structure (49755003), ...
        kind: what it is, of CID 7151, as Concept("10200004", "Liver").
        tracking_uid: follows the object through studies; None makes a new one.
    """

    masks: Sequence[ObjectMask]
    label: str
    category: Concept = TISSUE
    kind: Concept = TISSUE
    tracking_uid: str | None = None


def segment_each(
    masks: Sequence[ObjectMask], concepts: Mapping[str, tuple[Concept, Concept]] | None = None
) -> list[Segment]:
    """One segment for each mask, in their order.

    Args:
        masks: of objects.
        concepts: category and kind by an object's name; where there is none it is tissue.

    Returns:
        Segments labelled with the objects' names; where several have the same, they are counted: `nucleus 1`.
    """
    names = [one.name for one in masks]
    repeated = {name: 0 for name in names if names.count(name) > 1}
    segments = []
    for one in masks:
        label = one.name
        if label in repeated:
            repeated[label] += 1
            label = f"{label} {repeated[label]}"
        category, kind = (concepts or {}).get(one.name, (TISSUE, TISSUE))
        segments.append(Segment([one], label, category, kind))
    return segments


def write_segmentation(
    path: str | os.PathLike[str], segments: Sequence[Segment], source: File | Sequence[File]
) -> None:
    """Write `encode_segmentation` to a file, mostly `.dcm`.

    Raises:
        ImageError, MissingExtraError: as there.
        OutputError: as there; or the file cannot be written.
    """
    data = encode_segmentation(segments, source)
    with atomic_write(path) as file:
        file.write(data)


def encode_segmentation(segments: Sequence[Segment], source: File | Sequence[File]) -> bytes:
    """Make a binary DICOM segmentation that refers to the images that it is of.

    Patient and study are those of the images; each frame of the file names the image or the frame that it belongs to,
    and lies where that lies. Series, object and dimension get new UIDs. Frames of a segment without any pixel are left
    out, as highdicom does.

    Args:
        segments: at least one, each with at least one pixel. Masks that know their DICOM object (`ObjectMask.source`)
            are matched with the files by it; one that does not is of the only file.
        source: the DICOM file that was segmented, path or bytes; or the slices of a series. A file without position in
            the patient (ultrasound, photographs) can be referred to by one frame only.

    Raises:
        ImageError: a mask is of another size or of another object than the files; a file cannot be read, has no pixels,
            or its header is not as the standard demands.
        OutputError: there is nothing to write: no segment, or one without a pixel; a label occurs twice; there is more
            than a DICOM file holds.
        MissingExtraError: highdicom is not installed.
    """
    highdicom = highdicom_library()
    _check_segments(segments)
    with quiet():
        images = SourceImages.of(read_headers(source), highdicom)
        placed = [[(images.place(mask), mask) for mask in segment.masks] for segment in segments]
        dataset = _Writer(highdicom, images, segments, placed).dataset()
        held = io.BytesIO()
        dataset.save_as(held, enforce_file_format=True)
    return held.getvalue()


def _check_segments(segments: Sequence[Segment]) -> None:
    if not 0 < len(segments) <= _MOST_SEGMENTS:
        raise OutputError(f"expected 1 to {_MOST_SEGMENTS} segments, got {len(segments)}; without any there is no file")
    for number, segment in enumerate(segments, 1):
        if not any(one.region.area for one in segment.masks):
            raise OutputError(f"segment {number} has no pixel: a DICOM segmentation holds what was found, leave it out")
        if not 0 < len(segment.label) <= _LONGEST_LABEL or "\\" in segment.label:
            raise OutputError(
                f"expected labels of 1 to {_LONGEST_LABEL} characters without backslashes, got {segment.label!r}"
            )
    if len({segment.label for segment in segments}) < len(segments):
        raise OutputError("expected each segment under a label of its own, got one label twice")


@dataclass(frozen=True, eq=False)
class _Writer:
    """Makes the data set of segments, `placed` being the masks of each and the planes that they lie on."""

    highdicom: Any
    images: SourceImages
    segments: Sequence[Segment]
    placed: Sequence[Sequence[tuple[int, ObjectMask]]]

    def dataset(self) -> Any:
        used = sorted({plane for _, plane, _ in self._masks()})
        if not self.images.positioned and len(used) > 1:
            raise ImageError(
                f"the masks are of {len(used)} frames of images without a position in the patient, expected one frame; "
                "write a file for each"
            )
        if self.images.positioned:
            return self._make(self.images.headers, self._pixels(range(self.images.planes)), None)
        return self._make_flat(used[0])

    def _make_flat(self, plane: int) -> Any:
        """A segmentation of one frame that lies nowhere, which highdicom knows only of images of a single frame."""
        several = len(self.images.headers) > 1
        original = self.images.headers[plane if several else 0]
        header = _without_frames(original)
        made = self._make([header], self._pixels([plane]), self._measures(header))
        made.PatientOrientation = original.get("PatientOrientation") or ""
        # Both of these hold the same item.
        made.SourceImageSequence[0].ReferencedSOPClassUID = original.SOPClassUID
        made.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPClassUID = original.SOPClassUID
        for groups in made.PerFrameFunctionalGroupsSequence:
            reference = groups.DerivationImageSequence[0].SourceImageSequence[0]
            reference.ReferencedSOPClassUID = original.SOPClassUID
            if self.images.planes > 1 and not several:
                reference.ReferencedFrameNumber = plane + 1
        return made

    def _make(self, headers: Sequence[Any], pixels: NDArray[Any], measures: Any) -> Any:
        from pydicom.uid import generate_uid

        return self.highdicom.seg.Segmentation(
            source_images=headers,
            pixel_array=pixels,
            segmentation_type="BINARY",
            segment_descriptions=[self._describe(number) for number in range(1, len(self.segments) + 1)],
            series_instance_uid=generate_uid(prefix=None),
            series_number=1,
            sop_instance_uid=generate_uid(prefix=None),
            instance_number=1,
            content_label="SEGMENTATION",
            content_description="Segmentation by samsdk, for research",
            series_description="Segmentation by samsdk, for research",
            pixel_measures=measures,
            **equipment(),
        )

    def _pixels(self, planes: Sequence[int]) -> NDArray[Any]:
        """[N, H, W] numbers of segments, or [N, H, W, K] where two of them share a pixel."""
        shape = (len(planes), *self.images.size)
        frames = len({(number, plane) for number, plane, _ in self._masks()})
        if frames * shape[1] * shape[2] // 8 > _MOST_BYTES:
            raise OutputError(f"{frames} frames of {shape[1:]} (H, W) are more than a DICOM file holds; write several")
        numbers = np.zeros(shape, np.uint8 if len(self.segments) < 256 else np.uint16)
        index = {plane: place for place, plane in enumerate(planes)}
        overlapping = False
        for number, plane, mask in self._masks():
            part = _part(numbers[index[plane]], mask)
            taken = part[mask.region.inside]
            overlapping = overlapping or bool(((taken != 0) & (taken != number)).any())
            part[mask.region.inside] = number
        if not overlapping:
            return numbers
        stacked = np.zeros((*shape, len(self.segments)), np.uint8)
        for number, plane, mask in self._masks():
            _part(stacked[index[plane], ..., number - 1], mask)[mask.region.inside] = 1
        return stacked

    def _masks(self) -> list[tuple[int, int, ObjectMask]]:
        """Number of the segment, plane and mask of all masks with a pixel."""
        return [
            (number, plane, mask)
            for number, masks in enumerate(self.placed, 1)
            for plane, mask in masks
            if mask.region.area
        ]

    def _measures(self, header: Any) -> Any:
        """The spacing of an ultrasound image, which highdicom does not look for; None where it is no such image."""
        if any(name in header for name in _SPACINGS):
            return None
        spacing = pixel_spacing(header)
        return spacing and self.highdicom.PixelMeasuresSequence(spacing[::-1], slice_thickness=None)

    def _describe(self, number: int) -> Any:
        from pydicom.sr.codedict import codes
        from pydicom.uid import generate_uid

        segment = self.segments[number - 1]
        bundles = sorted({one.bundle for one in segment.masks if one.bundle})
        return self.highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=segment.label,
            segmented_property_category=_coded(self.highdicom, segment.category),
            segmented_property_type=_coded(self.highdicom, segment.kind),
            algorithm_type="SEMIAUTOMATIC" if any(one.prompted for one in segment.masks) else "AUTOMATIC",
            algorithm_identification=self.highdicom.AlgorithmIdentificationSequence(
                name=MAKER,
                version=version("samsdk"),
                family=codes.cid7162.ArtificialIntelligence,
                parameters={"bundle": ",".join(bundles)} if bundles else None,
            ),
            tracking_uid=segment.tracking_uid or generate_uid(prefix=None),
            tracking_id=segment.label,
        )


def _coded(highdicom: Any, concept: Concept) -> Any:
    return highdicom.sr.CodedConcept(concept.value, concept.scheme, concept.meaning)


def _part(plane: NDArray[Any], mask: ObjectMask) -> NDArray[Any]:
    """The part of a plane [H, W] that a mask is stored over, not copied."""
    region = mask.region
    height, width = region.inside.shape
    return plane[region.top : region.top + height, region.left : region.left + width]


def _without_frames(header: Any) -> Any:
    """A header as of a plain picture of one frame."""
    plain = deepcopy(header)
    plain.SOPClassUID = _PLAIN_IMAGE
    plain.pop("NumberOfFrames", None)
    return plain
