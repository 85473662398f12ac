"""DICOM measurement reports (TID 1500), through highdicom (extra `medical`)."""

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from samsdk.errors import ImageError
from samsdk.io.atomic import atomic_write
from samsdk.io.dicom import is_dicom
from samsdk.io.dicom_derived import MAKER, Concept, File, equipment, highdicom_library, quiet, read_headers
from samsdk.io.dicom_spacing import Spacing, pixel_spacing
from samsdk.io.encoded import read_encoded
from samsdk.measuring.measurement import measure

_SEGMENTATION: Final = "1.2.840.10008.5.1.4.1.1.66.4"
_DIAMETER: Final = Concept("81827009", "Diameter")
_MAXIMUM: Final = Concept("56851009", "Maximum")
_MINIMUM: Final = Concept("255605001", "Minimum")
# PS3.16, CID 7469: what each value of `Dimensions.values` is called, and how it was derived. That which is not here
# follows from one that is: the equivalent diameter from the area.
_MEASURES: Final = {
    "area": (Concept("42798000", "Area"), None),
    "perimeter": (Concept("131191004", "Perimeter"), None),
    "longest_diameter": (_DIAMETER, _MAXIMUM),
    "shortest_diameter": (_DIAMETER, _MINIMUM),
    "ellipse_circumference": (Concept("74551000", "Circumference"), None),
    "ellipse_major": (Concept("131187009", "Major Axis"), None),
    "ellipse_minor": (Concept("131188004", "Minor Axis"), None),
}
_UNITS: Final = {
    "mm": Concept("mm", "millimeter", "UCUM"),
    "mm2": Concept("mm2", "square millimeter", "UCUM"),
    "px": Concept("{pixels}", "pixels", "UCUM"),
    "px2": Concept("{pixels}", "pixels", "UCUM"),
}
# PS3.16, CID 100.
_PROCEDURE: Final = Concept("363679005", "Imaging procedure")


def write_report(path: str | os.PathLike[str], segmentation: File, source: File | Sequence[File]) -> None:
    """Write `encode_report` to a file, mostly `.dcm`.

    Raises:
        ImageError, MissingExtraError: as there.
        OutputError: the file cannot be written.
    """
    data = encode_report(segmentation, source)
    with atomic_write(path) as file:
        file.write(data)


def encode_report(segmentation: File, source: File | Sequence[File]) -> bytes:
    """Make a structured report of a segmentation's measurements that refers to it and to its images.

    Each frame of the segmentation is one planar region (TID 1410) with its segment's label, tracking UID, category and
    kind, and with what `samsdk.measuring.measure` says of its pixels: area, perimeter, longest and shortest diameter
    (SNOMED CT: diameter, maximum and minimum), and axes and circumference of the fitted ellipse, in millimetres where
    the size of a pixel is known, else in pixels. The report is complete, not verified: nobody has signed it.

    Args:
        segmentation: a binary DICOM segmentation, as `write_segmentation` writes it; path or bytes.
        source: the DICOM file or files that it is of.

    Raises:
        ImageError: the segmentation is none, has no pixel, or is of other files; a file cannot be read.
        MissingExtraError: highdicom is not installed.
    """
    highdicom = highdicom_library()
    with quiet():
        headers = read_headers(source)
        dataset, masks = _read_segmentation(segmentation)
        images = {str(header.SOPInstanceUID): header for header in headers}
        groups = [_group(highdicom, dataset, plane) for plane in _planes(dataset, masks, images)]
        if not groups:
            raise ImageError("expected a segmentation with something to measure, got one without a pixel")
        report = _report(highdicom, [*headers, dataset], groups)
        held = io.BytesIO()
        report.save_as(held, enforce_file_format=True)
    return held.getvalue()


@dataclass(frozen=True, eq=False)
class _Plane:
    """One frame of a segmentation.

    Attributes:
        number: of the frame, from 1 on.
        segment: the item that describes its segment.
        mask: [H, W] bool.
        spacing: of its pixels.
        image: header of the file that it is of.
        frame: number of the frame of that file; None where it has one.
    """

    number: int
    segment: Any
    mask: NDArray[np.bool_]
    spacing: Spacing | None
    image: Any
    frame: int | None


def _read_segmentation(file: File) -> tuple[Any, NDArray[np.bool_]]:
    """The segmentation's data set, and its frames [N, H, W]."""
    import pydicom

    data, name = read_encoded(file)
    dataset = pydicom.dcmread(io.BytesIO(data)) if is_dicom(data) else pydicom.Dataset()
    if dataset.get("SOPClassUID") != _SEGMENTATION or dataset.get("SegmentationType") != "BINARY":
        raise ImageError(f"cannot read {name}: expected a binary DICOM segmentation, got something else")
    return dataset, dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns).astype(np.bool_)


def _planes(dataset: Any, masks: NDArray[np.bool_], images: dict[str, Any]) -> Iterator[_Plane]:
    """The frames that have a pixel.

    Raises:
        ImageError: one is not of the images.
    """
    segments = {int(item.SegmentNumber): item for item in dataset.SegmentSequence}
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for number, (groups, mask) in enumerate(zip(dataset.PerFrameFunctionalGroupsSequence, masks, strict=True), 1):
        reference = groups.DerivationImageSequence[0].SourceImageSequence[0]
        image = images.get(str(reference.ReferencedSOPInstanceUID))
        if image is None:
            raise ImageError(
                "the segmentation is of other DICOM files than those given: give those that it was made of"
            )
        if mask.any():
            identified = groups if "SegmentIdentificationSequence" in groups else shared
            segment = segments[int(identified.SegmentIdentificationSequence[0].ReferencedSegmentNumber)]
            frame = reference.get("ReferencedFrameNumber")
            spacing = _spacing(groups) or _spacing(shared) or pixel_spacing(image)
            yield _Plane(number, segment, mask, spacing, image, None if frame is None else int(frame))


def _spacing(groups: Any) -> Spacing | None:
    measures = groups.get("PixelMeasuresSequence")
    return pixel_spacing(measures[0]) if measures else None


def _group(highdicom: Any, dataset: Any, plane: _Plane) -> Any:
    """The measurements of one frame."""
    sr, segment = highdicom.sr, plane.segment
    image = sr.SourceImageForSegmentation.from_source_image(
        plane.image, referenced_frame_numbers=None if plane.frame is None else [plane.frame]
    )
    region = sr.ReferencedSegmentationFrame(
        sop_class_uid=dataset.SOPClassUID,
        sop_instance_uid=dataset.SOPInstanceUID,
        frame_number=plane.number,
        segment_number=int(segment.SegmentNumber),
        source_image=image,
    )
    # The frame is of one segment, and PS3.3 10.3 wants either number, not both as highdicom writes them.
    del region[0].ReferencedSOPSequence[0].ReferencedSegmentNumber
    algorithm = sr.AlgorithmIdentification(name=f"{MAKER}.measuring.measure", version=version("samsdk"))
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=segment.get("TrackingUID"), identifier=segment.get("TrackingID") or segment.SegmentLabel
        ),
        referenced_segment=region,
        finding_category=_known(sr, segment.SegmentedPropertyCategoryCodeSequence[0]),
        finding_type=_known(sr, segment.SegmentedPropertyTypeCodeSequence[0]),
        algorithm_id=algorithm,
        measurements=_measurements(sr, plane),
    )


def _measurements(sr: Any, plane: _Plane) -> list[Any]:
    measured = measure(plane.mask, plane.spacing)
    dimensions = measured.mm or measured.px
    found = []
    for name, value in dimensions.values().items():
        measure_name, _, unit = name.rpartition("_")
        if measure_name in _MEASURES:
            concept, derivation = _MEASURES[measure_name]
            found.append(
                sr.Measurement(
                    name=_coded(sr, concept),
                    value=value,
                    unit=_coded(sr, _UNITS[unit]),
                    derivation=None if derivation is None else _coded(sr, derivation),
                )
            )
    return found


def _report(highdicom: Any, evidence: Sequence[Any], groups: Sequence[Any]) -> Any:
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    sr = highdicom.sr
    made_by = equipment()
    device = sr.DeviceObserverIdentifyingAttributes(
        # The same of all reports of one version, so that what a version did can be found again.
        uid=generate_uid(prefix=None, entropy_srcs=[MAKER, version("samsdk")]),
        name=MAKER,
        manufacturer_name=made_by["manufacturer"],
        model_name=made_by["manufacturer_model_name"],
        serial_number=made_by["device_serial_number"],
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=sr.ObserverContext(codes.DCM.Device, device),
        ),
        procedure_reported=_coded(sr, _PROCEDURE),
        imaging_measurements=groups,
    )
    return sr.ComprehensiveSR(
        evidence=evidence,
        content=content,
        series_instance_uid=generate_uid(prefix=None),
        series_number=1,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        is_complete=True,
        series_description="Measurements by samsdk, for research",
        **made_by,
    )


def _coded(sr: Any, concept: Concept) -> Any:
    return sr.CodedConcept(concept.value, concept.scheme, concept.meaning)


def _known(sr: Any, item: Any) -> Any:
    return sr.CodedConcept(item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning)
