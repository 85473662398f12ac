"""Optional packages: whether one is there."""

import importlib.util


def is_importable(module: str) -> bool:
    """Whether a package can be found; it is not imported, which may take seconds."""
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # sys.modules holds None or a module without a spec
        return False
