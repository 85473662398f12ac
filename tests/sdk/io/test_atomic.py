import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

from samsdk.errors import ImageError, OutputError
from samsdk.io.atomic import atomic_folder, atomic_path, atomic_write

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions and links")


def test_the_file_appears_whole_and_alone(tmp_path: Path) -> None:
    target = tmp_path / "mask.png"
    with atomic_write(target) as file:
        file.write(b"half")
        assert not target.exists()
        file.write(b" whole")
    assert target.read_bytes() == b"half whole"
    assert [path.name for path in tmp_path.iterdir()] == ["mask.png"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)])
def test_any_exception_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "mask.png"
    target.write_bytes(b"old")

    def interrupted() -> None:
        with atomic_write(target) as file:
            file.write(b"new")
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["mask.png"]


def test_errors_of_this_package_pass_through_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^mine$"), atomic_write(tmp_path / "a"):
        raise ImageError("mine")
    with pytest.raises(OutputError, match=r"^mine too$"), atomic_write(tmp_path / "a"):
        raise OutputError("mine too")


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left on device; check the name and the free space"):  # noqa: SIM117
        with atomic_write(tmp_path / "a.png"):
            raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught, atomic_write(tmp_path / "nowhere" / "a.png"):
        pass
    assert f"the folder {str(tmp_path / 'nowhere')!r} does not exist; create it first" in str(caught.value)


def test_a_folder_is_no_file_name(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="expected a file name, got a folder; add a file name"),
        atomic_write(tmp_path),
    ):
        pass


@posix_only
def test_a_device_is_not_replaced() -> None:
    with pytest.raises(OutputError, match="expected a regular file, got a device"), atomic_write("/dev/null"):
        pass
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_no_permission_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OutputError, match="Permission denied; choose a folder that you may write to"):  # noqa: SIM117
        with atomic_write(tmp_path / "a.png"):
            pass


def test_the_temporary_path_keeps_all_suffixes_for_writers_that_look_at_them(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "mask.nii.gz") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith("mask.nii.gz")
    with atomic_path(tmp_path / "a.npz") as temporary:
        np.savez(temporary, mask=np.arange(3))
    assert np.load(tmp_path / "a.npz")["mask"].tolist() == [0, 1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "mask.nii.gz"]


def test_a_name_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    target = tmp_path / ("m" * 251 + ".png")
    with atomic_write(target) as file:
        file.write(b"x")
    assert target.read_bytes() == b"x"


@posix_only
def test_permissions_follow_the_umask_and_then_the_file_that_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "a"
    before = os.umask(0o027)
    try:
        with atomic_write(target) as file:
            file.write(b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    target.chmod(0o604)
    with atomic_write(target) as file:
        file.write(b"2")
    assert stat.S_IMODE(target.stat().st_mode) == 0o604


@posix_only
def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"x"


def test_a_folder_with_folders_in_it_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "images" / "deep").mkdir(parents=True)
        (folder / "images" / "deep" / "a").write_bytes(b"1")
        (folder / "list").write_bytes(b"2")

    with atomic_folder(tmp_path / "set") as folder:
        fill(folder)
    assert (tmp_path / "set" / "images" / "deep" / "a").read_bytes() == b"1"
    assert (tmp_path / "set" / "list").read_bytes() == b"2"
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "other") as folder:
        (fill(folder), 1 / 0)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
