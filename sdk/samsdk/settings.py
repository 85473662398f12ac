"""Settings that come from JSON: flat dataclasses, every field a word or a number, checked by kind before by value."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_KINDS: Final[Mapping[Any, tuple[tuple[type, ...], str]]] = {
    str: ((str,), "a word"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a finite number"),
}


def kind_problems(settings: "DataclassInstance") -> list[str]:
    """A text for each field whose value is not of the kind that the class says."""
    return [
        f"{field.name} must be {_KINDS[field.type][1]}, got {getattr(settings, field.name)!r}"
        for field in fields(settings)
        if not _is_a(getattr(settings, field.name), field.type)
    ]


def check_fields(kind: "type[DataclassInstance]", values: object, what: str) -> dict[str, Any]:
    """Check that an object has all fields of the settings and no others.

    Args:
        kind: the settings' class.
        values: what JSON gave.
        what: the settings' name in errors, e.g. `point selection`.

    Returns:
        The values, to make the settings of.

    Raises:
        ValueError: it is no object, or a field is missing or unknown.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"a {what} must be an object, got {type(values).__name__}")
    names = {field.name for field in fields(kind)}
    missing, unknown = sorted(names - set(values)), sorted(set(values) - names, key=str)
    if missing or unknown:
        raise ValueError(f"the {what} is not valid: missing fields {missing}, unknown fields {unknown}")
    return dict(values)


def _is_a(value: object, kind: Any) -> bool:
    # bool is an int in Python, and never what a setting means by a number.
    fits = isinstance(value, _KINDS[kind][0]) and not isinstance(value, bool)
    return fits and (kind is str or math.isfinite(value))  # type: ignore[arg-type]
