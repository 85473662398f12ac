"""What the tests of all rooms share: a tiny random model, exported once, and real images that packages carry."""

import os

# Tests run in a process a core: more threads than that would wait for each other, in processes that tests start, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import importlib
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from filelock import FileLock
from numpy.typing import NDArray

import samsdk
from samsdk.point_selection import PointSelection
from samsdk.splitting import Splitting
from samsdk_export.bundle_writer import write_bundle
from samsdk_training.checkpoints import Checkpoint
from samsdk_training.models.auto_prompt import AutoPromptConfig
from samsdk_training.models.sam import build_sam
from samsdk_training.models.sam_config import DecoderConfig, SamConfig
from samsdk_training.models.student import StudentEncoderConfig
from samsdk_training.models.tiny_vit import TinyViTConfig

# The labelled images that development uses; never committed, and no test needs them.
SHARED_DATA = Path(os.environ.get("SAMSDK_DATA", Path(__file__).parents[2] / "shared" / "data"))

CLASSES = {"0": "background", "1": "liver", "2": "spleen", "3": "left kidney", "4": "aorta"}


# What segment_anything imports from torchvision, whose wheels do not work with a CPU build of torch; none is used.
_TORCHVISION = {
    "torchvision": (),
    "torchvision.ops": (),
    "torchvision.ops.boxes": ("batched_nms", "box_area"),
    "torchvision.transforms": (),
    "torchvision.transforms.functional": ("resize", "to_pil_image"),
}


@pytest.fixture(scope="session")
def published() -> Callable[[str], types.ModuleType]:
    """Imports a module of segment-anything by its name; `sys.modules` is afterwards as it was before."""

    def load(module: str) -> types.ModuleType:
        before = dict(sys.modules)
        try:
            for name, members in _TORCHVISION.items():
                stub = types.ModuleType(name)
                for member in members:
                    setattr(stub, member, None)
                sys.modules[name] = stub
            return importlib.import_module(module)
        finally:
            for name in list(sys.modules):
                if name.partition(".")[0] in ("torchvision", "segment_anything"):
                    del sys.modules[name]
            sys.modules.update({k: v for k, v in before.items() if k not in sys.modules})

    return load


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache for each test: certificates and compiled graphs of this user must not decide what a test sees."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("SAMSDK_CACHE_DIR", str(folder))
        yield folder


def tiny_config() -> SamConfig:
    """A model of LiteMedSAM's architecture, small enough for a second: 64-pixel input, 16x16 embedding."""
    return SamConfig(
        encoder=TinyViTConfig(
            image_size=64,
            embed_dims=(8, 16),
            depths=(1, 1),
            num_heads=(1, 2),
            window_sizes=(7, 7),
            strides=(4,),
            out_channels=32,
        ),
        decoder=DecoderConfig(depth=2, num_heads=2, mlp_dim=64, iou_head_hidden_dim=32),
        mask_channels=8,
    )


@pytest.fixture(scope="session")
def tiny_checkpoint() -> Checkpoint:
    torch.manual_seed(7)
    model = build_sam(tiny_config())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Random instead of initial values, so that no term of the model (biases, norms, attention bias) is 0 or 1.
            parameter.add_(torch.randn_like(parameter) * (0.1 if "norm" in name else 0.15))
    return Checkpoint(
        model=tiny_config().to_dict(),
        geometry={"rule": "longest_pad_br", "input_size": 64, "interpolation": "area", "box_rounding": "truncate"},
        intensity={"rule": "uint8_or_minmax"},
        normalisation={"rule": "minmax"},
        prompts={"kinds": ["points", "box", "mask"], "trained": ["points", "box", "mask"], "mask": "logits"},
        classes={},
        licence={"id": "CC0-1.0", "source": "random weights", "attribution": "none"},
        lineage={"recipe": "random weights", "sha256": "0" * 64},
        state=model.state_dict(),
    )


@pytest.fixture(scope="session")
def student_checkpoint(tiny_checkpoint: Checkpoint) -> Checkpoint:
    """A small model of the default one's architecture, with batch norms."""
    encoder = StudentEncoderConfig(64, stem_channels=8, widths=(8, 16, 16, 24), depths=(1, 1, 1, 1), out_channels=32)
    config = SamConfig(encoder, DecoderConfig(num_heads=2, mlp_dim=64, iou_head_hidden_dim=32))
    torch.manual_seed(3)
    model = build_sam(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        for _ in range(3):  # batch norms get statistics other than 0 and 1
            model.train().encode(torch.rand(4, 3, 64, 64))
    return replace(tiny_checkpoint, model=config.to_dict(), state=model.state_dict())


@pytest.fixture(scope="session")
def semantic_checkpoint(student_checkpoint: Checkpoint) -> Checkpoint:
    """A small model of the student's architecture that names each pixel's class instead of taking prompts."""
    config = SamConfig.from_dict(student_checkpoint.model)
    config = replace(config, decoder=replace(config.decoder, num_multimask_outputs=len(CLASSES) - 1))
    torch.manual_seed(5)
    model = build_sam(config)
    model.load_state_dict({k: v for k, v in student_checkpoint.state.items() if k.startswith("image_encoder.")}, False)
    with torch.no_grad():
        for parameter in (*model.prompt_encoder.parameters(), *model.mask_decoder.parameters()):
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return replace(
        student_checkpoint,
        model=config.to_dict(),
        prompts={"kinds": [], "trained": [], "mask": "logits"},
        classes=CLASSES,
        state=model.state_dict(),
        task="semantic",
    )


def _write_once(checkpoint: Checkpoint, name: str, temporary: pytest.TempPathFactory) -> Path:
    """A bundle that all processes of a test run share: the first that needs it exports it, the others wait."""
    folder = temporary.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    bundle = folder / f"bundle-{name}" / name
    bundle.parent.mkdir(exist_ok=True)
    with FileLock(folder / f"{name}.lock"):
        return bundle if bundle.exists() else write_bundle(checkpoint, bundle, name=name)


@pytest.fixture(scope="session")
def semantic_bundle(semantic_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the semantic model, made by the real exporter. Do not change it."""
    return _write_once(semantic_checkpoint, "organs", tmp_path_factory)


@pytest.fixture(scope="session")
def auto_checkpoint(tiny_checkpoint: Checkpoint) -> Checkpoint:
    """A tiny model that prompts itself: bright parts of an image are foreground, so that it points at real things."""
    config = replace(tiny_config(), auto_prompt=AutoPromptConfig(64, base_channels=4, depth=2))
    torch.manual_seed(11)
    model = build_sam(config)
    model.load_state_dict(tiny_checkpoint.state, strict=False)
    generator = model.auto_prompt_generator
    assert generator is not None
    optimiser = torch.optim.Adam(generator.parameters(), 0.02)
    for _ in range(80):
        # Blobs of any brightness: `minmax` puts an image's values into 0 to 1.
        noise = torch.nn.functional.interpolate(torch.rand(4, 1, 8, 8), size=64, mode="bilinear").expand(-1, 3, -1, -1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(generator(noise), (noise[:, :1] > 0.6).float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    selection = PointSelection(positives=6, negatives=4, smallest=4.0, margin=3.0).to_dict()
    return replace(
        tiny_checkpoint,
        model=config.to_dict(),
        prompts={**tiny_checkpoint.prompts, "selection": selection, "splitting": Splitting(4, 0.5).to_dict()},
        state=model.eval().state_dict(),
        task="auto",
    )


@pytest.fixture(scope="session")
def auto_bundle(auto_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the model that prompts itself, made by the real exporter. Do not change it."""
    return _write_once(auto_checkpoint, "nuclei", tmp_path_factory)


@pytest.fixture(scope="session")
def exported_bundle(tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the tiny model, made by the real exporter. Do not change it: copy it with `tiny_bundle`."""
    return _write_once(tiny_checkpoint, "tiny", tmp_path_factory)


@pytest.fixture
def tiny_bundle(exported_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test may damage."""
    return Path(shutil.copytree(exported_bundle, tmp_path / "tiny"))


@pytest.fixture(scope="session")
def predictor(exported_bundle: Path) -> samsdk.Predictor:
    return samsdk.load(exported_bundle, device="cpu")


@pytest.fixture(scope="session")
def cell() -> NDArray[np.uint8]:
    """A grey, upright image, 660x550: one bright cell."""
    return skimage.data.cell()


@pytest.fixture(scope="session")
def tissue() -> NDArray[np.uint8]:
    """An RGB, square image, 512x512: a stained section."""
    return skimage.data.immunohistochemistry()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no labelled images at {SHARED_DATA}; set SAMSDK_DATA to their folder")
    return SHARED_DATA
