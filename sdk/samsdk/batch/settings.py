"""What a run is made with: what every worker has to know, on this machine or on another."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from samsdk.errors import OutputError
from samsdk.everything.settings import EverythingSettings

MASKS: Final = "masks"
JOURNAL: Final = "journal.jsonl"
CONFIGURATION: Final = "run.json"
LOCK: Final = ".lock"
# A DICOM segmentation, of DICOM images.
DICOM: Final = "dcm"
IMAGE_FORMATS: Final = ("png", "json", "npz", "nii.gz", DICOM)
EVERYTHING_FORMATS: Final = ("png", "json", "npz", DICOM)
VOLUME_FORMATS: Final = ("nii.gz", "npz", "json")


@dataclass(frozen=True)
class Settings:
    """What every worker has to know.

    Attributes:
        folder: of the files, absolute.
        out: the run's folder, absolute.
        model: bundle or name, as `samsdk.load` takes it; a path is absolute.
        bundle: identity that the bundle must have.
        device: see `samsdk.load`.
        tier: see `samsdk.load`.
        zoom: see `Predictor.segment`.
        formats: suffixes of what is written for each object, without the dot.
        measure: whether masks are measured.
        variations: how many moved prompts give each measured value a range.
        everything: how all objects of an image are found without a prompt; None where they are not wanted.
        threads: of one worker.
    """

    folder: Path
    out: Path
    model: str | None
    bundle: str
    device: str = "auto"
    tier: str | None = None
    zoom: bool | None = None
    formats: tuple[str, ...] = ("png",)
    measure: bool = False
    variations: int = 0
    everything: EverythingSettings | None = None
    threads: int = 1

    def configuration(self, prompts: str | None) -> dict[str, Any]:
        """What decides about the results, as JSON can hold it; a run's folder belongs to one such configuration.

        Args:
            prompts: digest of the prompts, None without any.
        """
        return {
            "bundle": self.bundle,
            "tier": self.tier,
            "device": self.device,
            "zoom": self.zoom,
            "formats": list(self.formats),
            "measure": self.measure,
            "variations": self.variations,
            "everything": None if self.everything is None else self.everything.to_dict(),
            "prompts": prompts,
            # Not its path, which may name a patient.
            "folder": hashlib.sha256(str(self.folder).encode("utf-8", "surrogateescape")).hexdigest()[:16],
        }


def check_configuration(earlier: object, now: dict[str, Any], out: Path) -> None:
    """Check that a run goes on as it began.

    Args:
        earlier: configuration that the run's folder was made with.
        now: the one that is asked for.
        out: the run's folder.

    Raises:
        OutputError: something is different; the text says what.
    """
    before = earlier if isinstance(earlier, dict) else {}
    hidden = {"prompts": "the prompts are others", "folder": "the images' folder is another, or was moved"}
    changes = [
        hidden.get(name, f"{name} was {before.get(name)!r} and is {value!r}")
        for name, value in now.items()
        if before.get(name) != value
    ]
    if changes:
        raise OutputError(
            f"{out.name} belongs to a run with another configuration: {'; '.join(changes)}. Ask for the same again to "
            "go on with that run, or choose another -o"
        )
