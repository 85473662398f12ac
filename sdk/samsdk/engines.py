"""From a device to loaded graphs: which backend runs a bundle's tier, with which plan, and by what right."""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from samsdk.backends import (
    Backend,
    available_devices,
    backend_name,
    engine_name,
    gpu_target,
    open_graph,
)
from samsdk.backends.onnxruntime import Providers
from samsdk.backends.options import BackendOptions
from samsdk.bundle import Bundle
from samsdk.certificates import find_certificate
from samsdk.errors import BackendError, BundleError, MissingExtraError
from samsdk.tiers import Plan

logger = logging.getLogger(__name__)

# What `auto` tries, fastest first (docs/adr/0006): GPUs before CPUs, compiled engines before interpreters.
PREFERENCE: Final = ("tensorrt", "cuda", "openvino", "cpu")


@dataclass(frozen=True)
class Engines:
    """A bundle's graphs, loaded, and what they were loaded as; only one that prompts itself has a `prompter`.

    `encoder` and `decoder` of a volume bundle are both its one network.
    """

    encoder: Backend
    decoder: Backend
    backend: str
    tier: str
    plan: Plan
    certificate: Mapping[str, Any] | None
    prompter: Backend | None = None


def open_engines(
    bundle: Bundle,
    device: str | Providers,
    tier: str,
    options: BackendOptions,
    uncertified: str | None = None,
) -> Engines:
    """Load a tier of a bundle on a device.

    Args:
        bundle: an opened bundle.
        device: `auto`, a device's name, or a list of ONNX Runtime providers.
        tier: e.g. `exact`.
        options: for the engine.
        uncertified: the backend (e.g. `onnxruntime-cuda`) that may run without a certificate.

    Raises:
        BundleError: there is no such tier, no plan for this backend, or no certificate.
        BackendError: the device is unknown or not there, or the engine cannot load the graphs.
        MissingExtraError: the device's engine is not installed.
    """
    if not isinstance(device, str) or device != "auto":
        return _open(bundle, device, tier, options, uncertified)
    present = available_devices()
    reasons: list[str] = []
    for candidate in (name for name in PREFERENCE if name in present):
        try:
            return _open(bundle, candidate, tier, options, uncertified)
        except BundleError as error:
            # Nothing is wrong with the machine: this bundle was not made, or not proved, for that backend.
            logger.info("device %s is left out: %s", candidate, error)
            reasons.append(str(error))
        except (BackendError, MissingExtraError) as error:
            warnings.warn(f"device {candidate!r} is there but cannot be used: {error}", RuntimeWarning, stacklevel=4)
            reasons.append(str(error))
    raise BundleError(reasons[-1] if len(set(reasons)) == 1 else "no device can run it: " + "; ".join(reasons))


def _open(
    bundle: Bundle, device: str | Providers, tier: str, options: BackendOptions, uncertified: str | None
) -> Engines:
    backend = backend_name(device)
    target = gpu_target(device)
    plan = bundle.manifest.plan(tier, backend, target)
    certificate = None
    if uncertified != backend:
        certificate = find_certificate(bundle, tier, backend, plan, engine_name(backend))
    loaded = [open_graph(bundle.read(graph.file), graph, device, options) for graph in plan.graphs]
    return Engines(loaded[0], loaded[min(1, len(loaded) - 1)], backend, tier, plan, certificate, *loaded[2:])
