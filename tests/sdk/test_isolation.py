import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

LIBRARIES = ("torch", "onnx", "onnxscript", "monai", "safetensors", "skimage", "scipy", "PIL")
ROOMS = ("samsdk_training", "samsdk_export", "samsdk_kernels")

# Runs before anything else in the process: from then on the named packages do not exist.
BLOCK = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
"""


def run(code: str, blocked: tuple[str, ...], *argv: str) -> subprocess.CompletedProcess[str]:
    program = f"BLOCKED = {blocked!r}\n{BLOCK}\n{code}"
    return subprocess.run([sys.executable, "-c", program, *argv], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory, tissue: NDArray[np.uint8]) -> Path:
    path = tmp_path_factory.mktemp("picture") / "tissue.png"
    cv2.imwrite(str(path), tissue[..., ::-1])
    return path


@pytest.fixture(scope="module")
def expected(predictor: Any, tissue: NDArray[np.uint8]) -> Any:
    return predictor.segment(tissue, box=(120, 100, 300, 260))


def test_the_runtime_segments_without_any_training_or_export_package(
    exported_bundle: Path, picture: Path, expected: Any, tmp_path: Path
) -> None:
    code = """
import numpy, samsdk
for name in BLOCKED:
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"{name} was not blocked")
result = samsdk.segment(sys.argv[2], box=(120, 100, 300, 260), model=sys.argv[1], device="cpu")
result.save(sys.argv[3])
print(result.mask.shape, sorted({name.partition(".")[0] for name in sys.modules} & set(BLOCKED)))
"""
    out = tmp_path / "out.npz"
    process = run(code, LIBRARIES + ROOMS, str(exported_bundle), str(picture), str(out))
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == "(512, 512) []"
    with np.load(out) as saved:
        np.testing.assert_array_equal(saved["masks"][0], expected.mask)


MAIN = "from samsdk.cli import main\nsys.exit(main())"


def test_the_program_segments_without_the_training_libraries(
    exported_bundle: Path, picture: Path, expected: Any
) -> None:
    process = run(
        MAIN, LIBRARIES, "segment", str(picture), "--box", "120,100,300,260", "--model", str(exported_bundle), "--json"
    )
    assert process.returncode == 0, process.stderr
    data = json.loads(process.stdout)
    assert data["area"] == expected.area
    assert data["rle"] == expected.rle()


def test_the_program_examines_a_bundle_without_the_training_libraries(exported_bundle: Path) -> None:
    process = run(MAIN, LIBRARIES, "doctor", str(exported_bundle), "--json")
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["passed"] is True


def test_export_without_its_extra_names_the_install_command(tmp_path: Path) -> None:
    process = run(MAIN, LIBRARIES, "export", str(tmp_path), "-o", str(tmp_path / "bundle"), "--json")
    assert process.returncode == 1
    error = json.loads(process.stdout)["error"]
    assert error["type"] == "MissingExtraError"
    assert error["message"].startswith("samsdk export needs ")
    assert error["message"].endswith(": pip install 'samsdk[export]'")
    assert not (tmp_path / "bundle").exists()


def test_importing_samsdk_is_quick_and_loads_nothing_heavy() -> None:
    code = "import sys, time; start = time.perf_counter(); import {}; print(time.perf_counter() - start, *sys.modules)"
    times: dict[str, list[float]] = {"samsdk": [], "numpy, cv2, onnxruntime": []}
    for _ in range(8):
        for imported, took in times.items():
            done = subprocess.run(
                [sys.executable, "-c", code.format(imported)], capture_output=True, text=True, check=True
            )
            seconds, *modules = done.stdout.split()
            took.append(float(seconds))
            assert not {name.partition(".")[0] for name in modules} & {*LIBRARIES, *ROOMS}
        # Beside what it is built on, and the best of some: the rest tells of the machine's other work.
        own, below = (min(took) for took in times.values())
        if own < 3 * below:
            break
    assert own < 3 * below, f"imports took {times}"


def test_the_installed_program_is_there() -> None:
    program = Path(sys.executable).with_name("samsdk")
    if not program.exists() and shutil.which("samsdk") is None:
        pytest.skip("the console script is not installed")
    found = str(program) if program.exists() else str(shutil.which("samsdk"))
    process = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
    assert process.stdout.split()[0] == "samsdk"
