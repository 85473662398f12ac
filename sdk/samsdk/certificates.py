"""Certificates: the proof that a backend computes, in one tier, what the checkpoint computes.

Export measures them and writes them into the manifest, for the backends that its machine has. `samsdk doctor
--certify` measures those of a device and keeps them in the cache of that device. Either holds for the very files that
were measured, and one made here for the very version of the engine.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from samsdk import hub
from samsdk.bundle import Bundle
from samsdk.errors import BundleError, DownloadError, OutputError
from samsdk.io.atomic import atomic_path
from samsdk.tiers import Plan

Certificate = Mapping[str, Any]


def find_certificate(bundle: Bundle, tier: str, backend: str, plan: Plan, engine: str) -> Certificate:
    """The certificate that lets a backend run a tier.

    Args:
        bundle: an opened bundle.
        tier: e.g. `exact`.
        backend: e.g. `onnxruntime-cpu`.
        plan: what would run.
        engine: name and version of the engine that would run it; a certificate of this device holds for no other.

    Raises:
        BundleError: there is none, it was failed, or it holds for other files.
    """
    shipped = bundle.manifest.parity.get(tier, {}).get(backend)
    kept = read_kept(bundle).get(tier, {}).get(backend)
    reasons = []
    # What was measured on this very device counts more than what the exporting machine measured.
    found: list[tuple[str, Certificate | None]] = [("measured here", kept), ("of the bundle", shipped)]
    for where, certificate in found:
        if certificate is None:
            continue
        is_kept = certificate is kept
        if _holds_for(bundle, plan) != certificate.get("holds_for"):
            reasons.append(f"the one {where} is for other files")
        elif certificate.get("passed") is not True:
            reasons.append(f"failed the one {where}")
            break
        elif is_kept and certificate.get("engine") != engine:
            reasons.append(f"the one {where} is for {certificate.get('engine')}, this is {engine}")
        else:
            return certificate
    raise BundleError(
        f"tier {tier!r} of bundle {bundle.manifest.name!r} has no valid parity certificate for {backend}: "
        f"{'; '.join(reasons) or 'there is none'}. Measure it here (`samsdk doctor BUNDLE --device DEVICE --certify`), "
        "or export the bundle again"
    )


def complete(bundle: Bundle, plan: Plan, engine: str, measured: Certificate) -> dict[str, Any]:
    """Measurements with what they hold for: the files' hashes, the plan, and the engine's name and version."""
    return {**measured, "holds_for": _holds_for(bundle, plan), "engine": engine}


def keep_certificate(bundle: Bundle, tier: str, backend: str, certificate: Certificate) -> Path:
    """Write a certificate of this device into the cache.

    Returns:
        The file, which holds all certificates of this bundle on this device.

    Raises:
        OutputError: the cache cannot be written.
    """
    kept = read_kept(bundle)
    kept.setdefault(tier, {})[backend] = dict(certificate)
    path = _path(bundle)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot keep the certificate in {path.parent}: {error}") from error
    with atomic_path(path) as staging:
        staging.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return path


def read_kept(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """The certificates of this bundle that were measured on this device: tier to backend to certificate."""
    try:
        kept = json.loads(_path(bundle).read_bytes())
    except (OSError, ValueError, RecursionError, DownloadError):
        # None yet, a damaged file, or no place for a cache: then there is no proof, which is what an empty answer says.
        return {}
    tiers = list(kept.values()) if isinstance(kept, dict) else [None]
    valid = all(isinstance(tier, dict) and all(isinstance(one, dict) for one in tier.values()) for tier in tiers)
    return kept if valid else {}


def _holds_for(bundle: Bundle, plan: Plan) -> dict[str, str]:
    # Which layers stay in float32 is not in the files: the plan counts too.
    how = json.dumps([asdict(graph) for graph in plan.graphs], sort_keys=True)
    hashes = {file: bundle.manifest.files[file]["sha256"] for file in plan.files}
    return {**hashes, "plan": hashlib.sha256(how.encode()).hexdigest()}


def _path(bundle: Bundle) -> Path:
    return hub.cache_dir() / "certificates" / (re.sub(r"[^\w.@-]", "_", bundle.identity) + ".json")
