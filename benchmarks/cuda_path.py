"""The CUDA kernels before the encoder and behind the decoder: are they right on this GPU, and how fast are they.

    python benchmarks/cuda_path.py [--repeats 50]

Needs an NVIDIA GPU, its driver and the extra `tensorrt`; refuses without. Every case is held bit for bit against
`samsdk.transforms` and `samsdk.masks`, then GPU and CPU take turns. What is timed: `kernel_ms`, the kernel alone, by
CUDA events; `on_device_ms`, the whole call for an array that is on the GPU; `from_host_ms`, with the copy to the GPU;
`cpu_ms`, the runtime's own path from the same array to the same result in host memory. Medians; the first call, which
compiles, stands apart. The JSON goes to benchmarks/results/. Exits 1 if anything differs.
"""

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray

from results import ROOT, write_result
from samsdk.backends.cuda import DeviceArray, Queue, open_device
from samsdk.errors import BackendError, MissingExtraError
from samsdk.masks import upsample_region
from samsdk.transforms import Preprocessing
from samsdk_kernels.launch import Argument, CudaLauncher, Grid, Kernels, Launcher

# (height, width) of the images whose latency is measured; the last is a slide's overview.
SIZES = ((256, 256), (512, 512), (1024, 1024), (2400, 3000), (8000, 8000))
INPUTS = (256, 1024)
MASKS = 3
WARMUP = 3


class Timer(Protocol):
    """A launcher that knows how long the last kernel ran."""

    def launch(self, kernel: str, grid: Grid, arguments: Sequence[Argument], *, cooperative: bool) -> None:
        """See `Launcher`."""

    def elapsed(self) -> float:
        """Milliseconds of the last kernel."""


class EventTimer:
    """Puts a CUDA event before and behind each kernel."""

    def __init__(self, launcher: Launcher, queue: Queue) -> None:
        core = importlib.import_module("cuda.core")
        self._launcher, self._stream = launcher, core.Stream.from_handle(queue.handle)
        self._options = core.EventOptions(timing_enabled=True)
        self._start: Any = None
        self._stop: Any = None

    def launch(self, kernel: str, grid: Grid, arguments: Sequence[Argument], *, cooperative: bool) -> None:
        """See `Launcher`."""
        self._start = self._stream.record(options=self._options)
        self._launcher.launch(kernel, grid, arguments, cooperative=cooperative)
        self._stop = self._stream.record(options=self._options)

    def elapsed(self) -> float:
        """See `Timer`."""
        self._stop.sync()
        return float(self._stop - self._start)


def draw_image(size: tuple[int, int], channels: int) -> NDArray[np.uint8]:
    """A stained section, tiled to a size; one channel of it for grey."""
    tissue = skimage.data.immunohistochemistry()
    repeats = [-(-wanted // have) for wanted, have in zip(size, tissue.shape, strict=False)]
    image = np.tile(tissue, (*repeats, 1))[: size[0], : size[1]]
    return np.ascontiguousarray(image if channels == 3 else image[..., 0])


def draw_logits(side: int) -> NDArray[np.float32]:
    """Logits [MASKS, side, side] of smooth random objects."""
    coarse = np.random.default_rng(0).normal(-0.7, 1.0, (MASKS, 6, 6)).astype(np.float32)
    return np.stack([8 * cv2.resize(one, (side, side), interpolation=cv2.INTER_CUBIC) for one in coarse])


def check_correctness(kernels: Kernels) -> list[dict[str, Any]]:
    """A row for each image: how many numbers and pixels differ from the runtime's."""
    rng = np.random.default_rng(1)
    sizes = [(1, 1), (3, 20_000), (20_000, 2), (640, 480), (255, 257), (512, 512), (97, 31), (2400, 3000)]
    sizes += [tuple(rng.integers(1, 2000, 2).tolist()) for _ in range(40)]
    rows = []
    for index, size in enumerate(sizes):
        shape = (*size, 3) if index % 2 else size
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        preprocessing = Preprocessing(INPUTS[index % 3 == 0], interpolation=("area", "linear")[index % 5 == 0])
        expected, frame = preprocessing.apply_image(image)
        unequal = 0
        for dtype in (np.float32, np.float16):
            output, _ = kernels.preprocess(image, preprocessing, dtype=dtype)
            unequal += int(np.count_nonzero(output.numpy() != expected.astype(dtype)))
        logits = draw_logits(64) + rng.normal(0, 0.5, (MASKS, 64, 64)).astype(np.float32)
        packed = kernels.postprocess(logits, frame)
        wrong, measures = 0, 0
        for index_mask, region in enumerate(packed.regions()):
            mask = upsample_region(logits[index_mask], frame)
            wrong += int(np.count_nonzero(region.full() != mask.full()))
            measures += (packed.areas[index_mask], packed.boxes[index_mask]) != (mask.area, mask.box)
        rows.append(
            {
                "shape": list(shape),
                "input_size": preprocessing.input_size,
                "interpolation": preprocessing.interpolation,
                "numbers_that_differ": unequal,
                "mask_pixels_that_differ": wrong,
                "measures_that_differ": measures,
            }
        )
    return rows


def take_turns(timer: Timer, calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each call, and of the kernel in those called `on_device_ms`."""
    times: dict[str, list[float]] = {name: [] for name in (*calls, "kernel_ms")}
    for turn in range(repeats + WARMUP):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            elapsed = (time.perf_counter() - start) * 1e3
            if turn >= WARMUP:
                times[name].append(elapsed)
                if name == "on_device_ms":
                    times["kernel_ms"].append(timer.elapsed())
    return {name: round(statistics.median(values), 4) for name, values in times.items()}


def on_device(queue: Queue, array: NDArray[Any]) -> DeviceArray:
    """A copy of an array on the GPU."""
    queue.activate()
    memory = queue.allocate(array.nbytes)
    queue.upload(array, memory)
    queue.synchronize()
    return DeviceArray(array.shape, array.dtype, memory, queue)


def measure_latency(kernels: Kernels, queue: Queue, timer: Timer, repeats: int) -> list[dict[str, Any]]:
    """A row for each image size, input size and kernel."""
    rows = []
    for size in SIZES:
        image = draw_image(size, 3)
        there = on_device(queue, image)
        for side in INPUTS:
            preprocessing = Preprocessing(side)
            frame = preprocessing.frame(size)
            logits = draw_logits(side // 4)
            logits_there = on_device(queue, logits)
            # Bound as defaults, as the names change before the last call is done with.
            before = {
                "on_device_ms": lambda a=there, p=preprocessing: kernels.preprocess(a, p),
                "from_host_ms": lambda a=image, p=preprocessing: kernels.preprocess(a, p),
                "cpu_ms": lambda a=image, p=preprocessing: p.apply_image(a),
            }
            after = {
                "on_device_ms": lambda a=logits_there, f=frame: kernels.postprocess(a, f),
                "from_host_ms": lambda a=logits, f=frame: kernels.postprocess(a, f).regions(),
                "cpu_ms": lambda a=logits, f=frame: [(r.area, r.box) for r in (upsample_region(one, f) for one in a)],
            }
            for kernel, calls in (("preprocess", before), ("postprocess", after)):
                about = {"kernel": kernel, "image": list(size), "input_size": side}
                rows.append({**about, **take_turns(timer, calls, repeats)})
                print(rows[-1], file=sys.stderr)
    return rows


def main() -> int:
    """Check, measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=50)
    repeats = parser.parse_args().repeats
    try:
        device = open_device()
    except (BackendError, MissingExtraError) as error:
        print(f"this benchmark needs an NVIDIA GPU: {error}", file=sys.stderr)
        return 1
    queue = device.open_queue()
    timer = EventTimer(CudaLauncher(device, queue), queue)
    kernels = Kernels.from_parts(queue, timer)
    start = time.perf_counter()
    kernels.preprocess(np.zeros((8, 8), np.uint8), Preprocessing(64))
    first = time.perf_counter() - start
    checks = check_correctness(kernels)
    same = not any(value for row in checks for name, value in row.items() if name.endswith("that_differ"))
    rows = measure_latency(kernels, queue, timer, repeats)
    about = {"device": device.name, "target": device.target, "repeats": repeats, "first_call_s": round(first, 3)}
    path = write_result("cuda_path", {**about, "bit_for_bit": same, "masks": MASKS, "checks": checks, "rows": rows})
    print(path.relative_to(ROOT))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
