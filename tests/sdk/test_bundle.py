import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import samsdk
from samsdk import BundleError
from samsdk.bundle import Bundle, stamp

FILES = ("MODEL_CARD.md", "decoder.onnx", "encoder.onnx", "golden.npz")
BOX = (120, 100, 300, 260)


def pack(folder: Path, target: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(target, "w", compression) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    return target


@pytest.fixture(scope="module")
def packed(exported_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(exported_bundle, tmp_path_factory.mktemp("packed") / "tiny.samsdk")


def edit_manifest(folder: Path, **fields: Any) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_bytes()), **fields}))


def test_folder_and_zip_give_identical_masks(exported_bundle: Path, packed: Path, tissue: NDArray[np.uint8]) -> None:
    folder, zipped = (samsdk.load(path, device="cpu") for path in (exported_bundle, packed))
    first, second = (one.decode(one.encode(tissue), box=BOX, multimask=True) for one in (folder, zipped))
    np.testing.assert_array_equal(first.low_res_logits, second.low_res_logits)
    np.testing.assert_array_equal(first.masks, second.masks)
    np.testing.assert_array_equal(first.scores, second.scores)
    assert first.masks.any()
    assert first.bundle == second.bundle
    # So that an embedding of one may be decoded by the other.
    np.testing.assert_array_equal(
        zipped.decode(folder.encode(tissue), box=BOX).mask, folder.segment(tissue, box=BOX).mask
    )


def test_the_identity_names_the_model_and_hashes_its_files(exported_bundle: Path, tiny_bundle: Path) -> None:
    bundle = Bundle.open(exported_bundle)
    lines = (f"{name}:{hashlib.sha256((exported_bundle / name).read_bytes()).hexdigest()}" for name in FILES)
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert bundle.identity == f"tiny@{digest[:16]}"
    card = tiny_bundle / "MODEL_CARD.md"
    card.write_text("another")
    files = json.loads((tiny_bundle / "manifest.json").read_bytes())["files"]
    files["MODEL_CARD.md"] = {"sha256": hashlib.sha256(card.read_bytes()).hexdigest(), "size": 7}
    edit_manifest(tiny_bundle, files=files)
    assert Bundle.open(tiny_bundle).identity != bundle.identity


def test_read_gives_the_files_bytes_and_only_of_listed_files(exported_bundle: Path, packed: Path) -> None:
    for path in (exported_bundle, packed):
        bundle = Bundle.open(path)
        for name in FILES:
            assert bundle.read(name) == (exported_bundle / name).read_bytes()
        assert bundle.read_manifest_text() == (exported_bundle / "manifest.json").read_bytes()
        with pytest.raises(BundleError, match=r"lists no file other.onnx; it lists: MODEL_CARD.md, decoder.onnx"):
            bundle.read("other.onnx")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_one_changed_byte_in_any_file_is_refused(tiny_bundle: Path, name: str, kind: str) -> None:
    expected = hashlib.sha256((tiny_bundle / name).read_bytes()).hexdigest()
    content = bytearray((tiny_bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tiny_bundle / name).write_bytes(content)
    path = tiny_bundle if kind == "folder" else pack(tiny_bundle, tiny_bundle.with_suffix(".samsdk"))
    with pytest.raises(BundleError) as caught:
        samsdk.load(path)
    text = str(caught.value)
    assert (
        f"{name} in {path} was changed: expected sha256 {expected}, got {hashlib.sha256(content).hexdigest()}" in text
    )
    assert "export the bundle or copy it to this machine again" in text


def test_a_changed_byte_in_a_stored_zip_is_refused(packed: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        places = {info.filename: info.header_offset + 30 + len(info.filename) for info in archive.infolist()}
    assert set(places) == {*FILES, "manifest.json"}
    for name, place in places.items():
        content = bytearray(packed.read_bytes())
        content[place + 20] ^= 1
        (tmp_path / "bad.samsdk").write_bytes(content)
        with pytest.raises(BundleError, match=f"{name} in .*bad.samsdk cannot be read: Bad CRC-32"):
            samsdk.load(tmp_path / "bad.samsdk")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tiny_bundle: Path, name: str) -> None:
    (tiny_bundle / name).unlink()
    for path in (tiny_bundle, pack(tiny_bundle, tiny_bundle.with_suffix(".samsdk"))):
        with pytest.raises(BundleError, match=f"lacks {name}, which its manifest lists; export the bundle or copy it"):
            samsdk.load(path)


def test_a_file_that_vanishes_after_opening_is_an_error_not_a_crash(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    (tiny_bundle / "encoder.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"encoder.onnx in .* was changed"):
        samsdk.Predictor(bundle)
    (tiny_bundle / "encoder.onnx").unlink()
    (tiny_bundle / "encoder.onnx").mkdir()
    with pytest.raises(BundleError, match=r"encoder.onnx in .* cannot be read"):
        bundle.read("encoder.onnx")


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle at .*expected a bundle folder, a \*.samsdk file or the name"):
        samsdk.load(tmp_path / "absent")
    with pytest.raises(BundleError, match="no bundle at"):
        Bundle.open(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"is not a bundle: it has no manifest.json"):
        samsdk.load(tmp_path / "empty")
    note = tmp_path / "note.samsdk"
    for content in (b"", b"hello", b"PK\3\4 but no zip"):
        note.write_bytes(content)
        with pytest.raises(BundleError, match=r"note.samsdk is neither a folder nor a zip file \(\*.samsdk\)"):
            samsdk.load(note)
    with zipfile.ZipFile(note, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(BundleError, match=r"is not a bundle: it has no manifest.json"):
        samsdk.load(note)
    (tmp_path / "weights.pth").write_bytes(b"weights")
    with pytest.raises(BundleError, match="got a file that is neither"):
        samsdk.load(tmp_path / "weights.pth")


@pytest.mark.parametrize(
    "name", ["../evil.onnx", "/evil.onnx", "a/../../evil.onnx", "a\\evil.onnx", "C:evil.onnx", "./evil.onnx"]
)
def test_a_zip_whose_names_lead_out_is_refused(packed: Path, tmp_path: Path, name: str) -> None:
    bad = shutil.copy(packed, tmp_path / "bad.samsdk")
    with zipfile.ZipFile(bad, "a") as archive:
        archive.writestr(name, b"evil")
    with pytest.raises(BundleError) as caught:
        samsdk.load(bad)
    assert f"holds names that lead out of the bundle and is refused: {name}" in str(caught.value)


def test_a_manifest_whose_names_lead_out_is_refused(tiny_bundle: Path) -> None:
    (tiny_bundle.parent / "outside").write_bytes(b"secret")
    files = json.loads((tiny_bundle / "manifest.json").read_bytes())["files"]
    edit_manifest(tiny_bundle, files={**files, "../outside": {"sha256": hashlib.sha256(b"secret").hexdigest()}})
    with pytest.raises(BundleError, match=r"files.../outside leads out of the bundle"):
        samsdk.load(tiny_bundle)


def test_a_compressed_member_is_refused(tiny_bundle: Path) -> None:
    path = pack(tiny_bundle, tiny_bundle.with_suffix(".samsdk"), zipfile.ZIP_DEFLATED)
    with pytest.raises(BundleError, match="is compressed; bundles are stored uncompressed"):
        samsdk.load(path)


def test_an_enormous_manifest_is_refused_before_it_is_parsed(tiny_bundle: Path) -> None:
    os.truncate(tiny_bundle / "manifest.json", 2**24 + 1)
    for path in (tiny_bundle, pack(tiny_bundle, tiny_bundle.with_suffix(".samsdk"))):
        with pytest.raises(BundleError, match=r"manifest.json in .* is larger than 16777216 bytes"):
            samsdk.load(path)


@pytest.mark.parametrize("part", [0.0005, 0.3, 0.7, 0.999])
def test_a_truncated_zip_is_refused(packed: Path, tmp_path: Path, part: float) -> None:
    content = packed.read_bytes()
    bad = tmp_path / "bad.samsdk"
    bad.write_bytes(content[: int(len(content) * part)])
    # The second text, because a bundle holds a zip, golden.npz, whose end may now be the file's.
    with pytest.raises(
        BundleError, match=r"is neither a folder nor a zip file|is not a bundle: it has no manifest.json"
    ):
        samsdk.load(bad)
    # The directory of a zip is at its end: without its head it still looks like one.
    bad.write_bytes(content[int(len(content) * part) + 1 :])
    with pytest.raises(BundleError, match=r"bad.samsdk"):
        samsdk.load(bad)


def test_damage_anywhere_in_a_zips_directory_is_a_bundle_error(packed: Path, tmp_path: Path) -> None:
    content = packed.read_bytes()
    with zipfile.ZipFile(packed) as archive:
        start = archive.start_dir
    bad, refused = tmp_path / "bad.samsdk", 0
    for place in range(start, len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        bad.write_bytes(damaged)
        try:
            Bundle.open(bad)
        except BundleError:
            refused += 1
    # Dates, attributes and the like may change without harm; nothing else may, and nothing else but BundleError comes.
    assert refused > (len(content) - start) / 2


def test_an_encrypted_member_is_refused(packed: Path, tmp_path: Path) -> None:
    content = bytearray(packed.read_bytes())
    with zipfile.ZipFile(packed) as archive:
        start = archive.start_dir
    content[start + 8] |= 1
    (tmp_path / "bad.samsdk").write_bytes(content)
    with pytest.raises(BundleError, match=r"MODEL_CARD.md in .*bad.samsdk cannot be read: .*encrypted"):
        samsdk.load(tmp_path / "bad.samsdk")


def test_unknown_format_and_broken_manifest_on_disk(tiny_bundle: Path) -> None:
    edit_manifest(tiny_bundle, format=99)
    with pytest.raises(BundleError, match="bundle format 99 is unknown, this samsdk reads format 1; export the model"):
        samsdk.load(tiny_bundle)
    (tiny_bundle / "manifest.json").write_text("[]")
    with pytest.raises(BundleError, match=r"manifest.json must hold one JSON object, got list"):
        samsdk.load(tiny_bundle)
    (tiny_bundle / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match=r"manifest.json is not JSON"):
        samsdk.load(tiny_bundle)


def test_load_refuses_a_tier_that_is_unknown_or_not_certified(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match="bundle 'tiny' has no tier 'fast'; it has: exact"):
        samsdk.load(tiny_bundle, tier="fast")
    with pytest.raises(BundleError, match="has no tier 'fast'"):
        samsdk.Predictor(Bundle.open(tiny_bundle), device="cpu", tier="fast", uncertified="onnxruntime-cpu")
    measured = json.loads((tiny_bundle / "manifest.json").read_bytes())["parity"]["exact"]["onnxruntime-cpu"]
    edit_manifest(tiny_bundle, parity={"exact": {"onnxruntime-cpu": {**measured, "passed": False}}})
    needed = "tier 'exact' of bundle 'tiny' has no valid parity certificate for onnxruntime-cpu: "
    with pytest.raises(BundleError, match=needed + "failed the one of the bundle"):
        samsdk.load(tiny_bundle, device="cpu")
    edit_manifest(tiny_bundle, parity={})
    with pytest.raises(BundleError, match=needed + "there is none.*export the bundle again"):
        samsdk.load(tiny_bundle, device="cpu")


def test_the_stamp_changes_with_the_manifest_or_the_zip(tiny_bundle: Path) -> None:
    path = pack(tiny_bundle, tiny_bundle.with_suffix(".samsdk"))
    for place, file in ((tiny_bundle, tiny_bundle / "manifest.json"), (path, path)):
        before = stamp(place)
        assert before == stamp(place)
        os.utime(file, ns=(1, before[1] + 1))
        assert stamp(place) == (before[0], before[1] + 1)
