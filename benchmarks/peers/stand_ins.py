"""Stand-ins for torchvision and timm, in a worker's process only.

Some peers import them for a handful of names: resizing a PIL image, initialising weights, registering a model. Both
want a torchvision that matches the installed build of torch, which not every machine has. Where the real one can be
imported, it is used. The stand-ins compute what the real ones do; a name that inference does not need is a refusal.
"""

import importlib
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def provide_torchvision() -> str:
    """Make `import torchvision` work; gives what has to be said of it in a result, empty if it is the real one."""
    if _works("torchvision"):
        return ""
    transforms = {"Compose": _Compose, "ToTensor": lambda: _to_tensor, "Normalize": _Normalize}
    _install("torchvision", {})
    _install("torchvision.ops", {})
    _install("torchvision.ops.boxes", {name: _refuse(name) for name in ("batched_nms", "box_area")})
    _install("torchvision.transforms", transforms)
    _install("torchvision.transforms.functional", {"resize": _resize, "to_pil_image": _to_pil_image})
    return "torchvision is a stand-in that calls PIL's resize as torchvision does"


def provide_timm() -> str:
    """Make what TinyViT imports of timm work; see `provide_torchvision`."""
    if _works("timm"):
        return ""
    import torch

    # Registering only names a model, and no path is dropped in evaluation.
    layers = {
        "DropPath": torch.nn.Identity,
        "to_2tuple": lambda value: value if isinstance(value, tuple) else (value, value),
        "trunc_normal_": torch.nn.init.trunc_normal_,
    }
    _install("timm", {})
    _install("timm.models", {})
    _install("timm.models.layers", layers)
    _install("timm.models.registry", {"register_model": lambda build: build})
    return "timm is a stand-in for the four names that TinyViT imports"


def _works(name: str) -> bool:
    # A torchvision that does not fit its torch raises RuntimeError where an operator is missing.
    try:
        importlib.import_module(name)
    except (ImportError, RuntimeError):
        for loaded in [module for module in sys.modules if module.split(".")[0] == name]:
            del sys.modules[loaded]
        return False
    return True


def _install(name: str, content: dict[str, Any]) -> None:
    module = types.ModuleType(name)
    vars(module).update(content)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def _refuse(name: str) -> Callable[..., Any]:
    def refuse(*_: object, **__: object) -> Any:
        raise NotImplementedError(f"the stand-in for torchvision has no {name}")

    return refuse


def _to_pil_image(image: Any) -> Any:
    from PIL import Image

    return Image.fromarray(image)


def _resize(image: Any, size: Sequence[int]) -> Any:
    from PIL import Image

    # torchvision's default for a PIL image; its size is (height, width).
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR)


def _to_tensor(image: Any) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float().div(255)


class _Compose:
    """`torchvision.transforms.Compose`."""

    def __init__(self, steps: Sequence[Callable[[Any], Any]]) -> None:
        self._steps = steps

    def __call__(self, image: Any) -> Any:
        for step in self._steps:
            image = step(image)
        return image


class _Normalize:
    """`torchvision.transforms.Normalize` of an image's three channels."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self._mean, self._std = mean, std

    def __call__(self, image: Any) -> Any:
        import torch

        mean, std = (torch.tensor(values, dtype=image.dtype)[:, None, None] for values in (self._mean, self._std))
        return (image - mean) / std
