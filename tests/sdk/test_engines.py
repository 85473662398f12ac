"""What `auto` chooses among engines that only pretend to be there, and what really happens where one cannot start."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

import samsdk
from samsdk import BackendError, Bundle, BundleError, MissingExtraError, Predictor, engines
from samsdk.backends.options import BackendOptions
from samsdk.certificates import complete
from samsdk.engines import Engines, open_engines
from samsdk.tiers import Graph, Plan

BACKENDS = {"tensorrt": "tensorrt", "cuda": "onnxruntime-cuda", "openvino": "openvino", "cpu": "onnxruntime-cpu"}
ALL = ("onnxruntime", "openvino")
GRAPHS = Graph("encoder.onnx", "float32"), Graph("decoder.onnx", "float32")
FULL = Plan(*GRAPHS, ALL)
BUILT = Plan(*GRAPHS, ("tensorrt",), ("sm86",))
ENGINE = "engine 1"
PASSED = {"passed": True, "max_logit_difference": 0.0, "mean_mask_iou": 1.0}


@dataclass
class Loaded:
    """Stands for a loaded graph, and remembers how it was loaded."""

    provider: str
    file: str
    options: BackendOptions

    def run(self, feeds: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
        raise AssertionError("nothing runs here")


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Some devices are there, and some of those fail with an error when a graph is loaded."""

    def arrange(*devices: str, target: str = "sm86", **failures: Exception) -> None:
        def load(content: bytes, graph: Graph, device: Any, options: BackendOptions) -> Loaded:
            assert content  # read from the bundle
            if device in failures:
                raise failures[device]
            return Loaded(device, graph.file, options)

        monkeypatch.setattr(engines, "available_devices", lambda: list(devices))
        monkeypatch.setattr(engines, "backend_name", BACKENDS.__getitem__)
        monkeypatch.setattr(engines, "engine_name", lambda backend: ENGINE)
        monkeypatch.setattr(engines, "gpu_target", lambda device: target if device == "tensorrt" else None)
        monkeypatch.setattr(engines, "open_graph", load)

    return arrange


def certified(path: Path, *backends: str, plans: tuple[Plan, ...] = (BUILT, FULL)) -> Bundle:
    """The bundle with certificates for these backends alone."""
    bundle = Bundle.open(path)
    parity = {
        backend: complete(bundle, BUILT if backend == "tensorrt" else FULL, ENGINE, PASSED) for backend in backends
    }
    return Bundle(path, replace(bundle.manifest, tiers={"exact": plans}, parity={"exact": parity}))


def auto(bundle: Bundle, tier: str = "exact", **how: Any) -> Engines:
    return open_engines(bundle, "auto", tier, BackendOptions(), **how)


@pytest.mark.parametrize(
    ("there", "proved", "chosen"),
    [
        ("cpu cuda openvino tensorrt", "cpu cuda openvino tensorrt", "tensorrt"),
        ("cpu cuda openvino", "cpu cuda openvino tensorrt", "cuda"),
        ("cpu openvino", "cpu cuda openvino tensorrt", "openvino"),
        ("cpu", "cpu cuda openvino tensorrt", "cpu"),
        ("cpu cuda openvino tensorrt", "cpu cuda openvino", "cuda"),
        ("cpu cuda openvino tensorrt", "cpu openvino", "openvino"),
        ("cpu cuda openvino tensorrt", "cpu", "cpu"),
    ],
)
def test_auto_takes_the_first_that_is_there_and_certified(
    exported_bundle: Path, pretend: Callable[..., None], there: str, proved: str, chosen: str
) -> None:
    pretend(*there.split())
    bundle = certified(exported_bundle, *(BACKENDS[device] for device in proved.split()))
    # Nothing is wrong with what is left out, so nobody is warned.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = auto(bundle)
    assert (loaded.backend, loaded.tier, loaded.encoder.provider) == (BACKENDS[chosen], "exact", chosen)
    assert (loaded.encoder.file, loaded.decoder.file) == ("encoder.onnx", "decoder.onnx")  # type: ignore[attr-defined]
    assert loaded.plan is (BUILT if chosen == "tensorrt" else FULL)
    assert loaded.certificate == bundle.manifest.parity["exact"][BACKENDS[chosen]]


def test_auto_takes_only_what_has_a_plan(exported_bundle: Path, pretend: Callable[..., None]) -> None:
    everything = BACKENDS.values()
    pretend(*BACKENDS)
    assert auto(certified(exported_bundle, *everything, plans=(FULL,))).backend == "onnxruntime-cuda"
    alone = replace(FULL, engines=("openvino",))
    assert auto(certified(exported_bundle, *everything, plans=(alone,))).backend == "openvino"
    # The engine is for another generation of GPUs.
    pretend("cpu", "tensorrt", target="sm75")
    assert auto(certified(exported_bundle, *everything)).backend == "onnxruntime-cpu"


def test_auto_says_why_there_is_none(exported_bundle: Path, pretend: Callable[..., None]) -> None:
    pretend("cpu", "cuda", "tensorrt", target="sm75")
    with pytest.raises(BundleError) as caught:
        auto(certified(exported_bundle, "openvino"))
    unproved = "tier 'exact' of bundle 'tiny' has no valid parity certificate for {}: there is none. Measure it here"
    parts = [
        "no device can run it: tier 'exact' of bundle 'tiny' has no plan for tensorrt on sm75; it has: ",
        "tensorrt sm86, onnxruntime openvino; " + unproved.format("onnxruntime-cuda"),
        "; " + unproved.format("onnxruntime-cpu"),
    ]
    # In the order in which they were tried.
    places = [str(caught.value).index(part) for part in parts]
    assert places == sorted(places)
    assert places[:2] == [0, len(parts[0])]
    # One reason for all is said once.
    with pytest.raises(BundleError) as caught:
        auto(certified(exported_bundle), "fast")
    assert str(caught.value) == "bundle 'tiny' has no tier 'fast'; it has: exact"


@pytest.mark.parametrize("error", [BackendError("no driver"), MissingExtraError("no library")])
def test_auto_passes_what_cannot_start_with_a_warning(
    exported_bundle: Path, pretend: Callable[..., None], error: Exception
) -> None:
    pretend("cpu", "openvino", "cuda", cuda=error, openvino=error)
    bundle = certified(exported_bundle, *BACKENDS.values())
    with pytest.warns(RuntimeWarning) as caught:
        loaded = auto(bundle)
    assert loaded.backend == "onnxruntime-cpu"
    assert [str(one.message) for one in caught] == [
        f"device {device!r} is there but cannot be used: {error}" for device in ("cuda", "openvino")
    ]
    pretend("cpu", cpu=error)
    with pytest.warns(RuntimeWarning, match="'cpu' is there but"), pytest.raises(BundleError, match=str(error)):
        auto(bundle)


@pytest.mark.parametrize("device", ["cuda", "openvino", "tensorrt", "cpu"])
def test_a_device_that_was_named_is_never_replaced(
    exported_bundle: Path, pretend: Callable[..., None], device: str
) -> None:
    pretend(*BACKENDS, **{device: BackendError("it does not start")})
    with pytest.raises(BackendError, match=r"^it does not start$"):
        open_engines(certified(exported_bundle, *BACKENDS.values()), device, "exact", BackendOptions())
    pretend(*BACKENDS)
    others = [backend for name, backend in BACKENDS.items() if name != device]
    with pytest.raises(BundleError, match=f"no valid parity certificate for {BACKENDS[device]}: there is none"):
        open_engines(certified(exported_bundle, *others), device, "exact", BackendOptions())


def test_uncertified_names_one_backend_only(exported_bundle: Path, pretend: Callable[..., None]) -> None:
    pretend("cpu", "cuda", "openvino")
    bundle = certified(exported_bundle, "onnxruntime-cpu")
    assert auto(bundle).backend == "onnxruntime-cpu"
    loaded = auto(bundle, uncertified="openvino")
    assert (loaded.backend, loaded.certificate) == ("openvino", None)
    # It is a permission, not a wish: what comes first and is certified still comes first.
    assert auto(certified(exported_bundle, "onnxruntime-cuda"), uncertified="openvino").backend == "onnxruntime-cuda"
    for device in ("cuda", "openvino"):
        with pytest.raises(BundleError, match=f"certificate for {BACKENDS[device]}"):
            open_engines(bundle, device, "exact", BackendOptions(), uncertified="onnxruntime-cpu")
    # The name of a device or of an engine is none of a backend.
    for name in ("cuda", "onnxruntime", ""):
        with pytest.raises(BundleError, match="certificate for onnxruntime-cuda"):
            open_engines(bundle, "cuda", "exact", BackendOptions(), uncertified=name)
    # And no plan is no plan.
    with pytest.raises(BundleError, match="has no plan for onnxruntime-cpu"):
        open_engines(
            certified(exported_bundle, plans=(BUILT,)), "cpu", "exact", BackendOptions(), uncertified="onnxruntime-cpu"
        )


def test_a_certificate_counts_for_the_engine_that_is_there(
    exported_bundle: Path, pretend: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from samsdk.certificates import keep_certificate

    bundle = certified(exported_bundle, "onnxruntime-cpu")
    pretend("cpu", "openvino")
    keep_certificate(bundle, "exact", "openvino", complete(bundle, FULL, ENGINE, PASSED))
    assert auto(bundle).backend == "openvino"
    monkeypatch.setattr(engines, "engine_name", lambda backend: "engine 2")
    assert auto(bundle).backend == "onnxruntime-cpu"


def test_options_reach_both_graphs(exported_bundle: Path, pretend: Callable[..., None]) -> None:
    pretend("cpu")
    options = BackendOptions(threads=3, cache=Path("somewhere"))
    bundle = certified(exported_bundle, "onnxruntime-cpu")
    for device in ("auto", "cpu"):
        loaded = open_engines(bundle, device, "exact", options)
        assert (loaded.encoder.options, loaded.decoder.options) == (options, options)  # type: ignore[attr-defined]


# For real ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_real_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime says that it has CUDA, and then cannot start it; OpenVINO and TensorRT are not there."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime really has CUDA")
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    monkeypatch.setattr("samsdk.backends.openvino.is_installed", lambda: False)
    monkeypatch.setattr("samsdk.backends.tensorrt.is_usable", lambda: False)


@pytest.mark.usefixtures("no_real_cuda")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_the_warning_of_a_gpu_that_cannot_start_points_at_the_call(
    exported_bundle: Path, predictor: Predictor, tissue: NDArray[np.uint8]
) -> None:
    with pytest.warns(
        RuntimeWarning, match="'cuda' is there but cannot be used: CUDAExecutionProvider could"
    ) as caught:
        mine = samsdk.load(exported_bundle, uncertified="onnxruntime-cuda")
    assert [warning.filename for warning in caught if warning.category is RuntimeWarning] == [__file__]
    assert (mine.provider, mine.engines.backend) == ("CPUExecutionProvider", "onnxruntime-cpu")
    one, two = (either.segment(tissue, box=(120, 100, 300, 260)).low_res_logits for either in (mine, predictor))
    np.testing.assert_array_equal(one, two)
    with pytest.raises(BackendError, match="CUDAExecutionProvider could not be started"):
        samsdk.load(exported_bundle, device="cuda", uncertified="onnxruntime-cuda")


@pytest.mark.usefixtures("no_real_cuda")
def test_a_gpu_without_a_certificate_is_not_even_started(exported_bundle: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert samsdk.load(exported_bundle).engines.backend == "onnxruntime-cpu"
    with pytest.raises(BundleError, match="no valid parity certificate for onnxruntime-cuda: there is none"):
        samsdk.load(exported_bundle, device="cuda")


def test_a_list_of_providers_goes_by_its_first(exported_bundle: Path) -> None:
    loaded = samsdk.load(exported_bundle, device=["CPUExecutionProvider"]).engines
    assert (loaded.backend, loaded.plan.precision) == ("onnxruntime-cpu", "float32")
    assert loaded.certificate is not None
    with_options = samsdk.load(exported_bundle, device=[("CPUExecutionProvider", {"use_arena": "0"})])
    assert with_options.engines.backend == "onnxruntime-cpu"
