"""Configurations between dataclasses and JSON: what a checkpoint says of its model, checked field by field."""

from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from typing import Any, TypeVar

Config = TypeVar("Config")

# Metadata of a field that came after the first checkpoints: where it is absent, its default is meant.
OPTIONAL = {"optional": True}
# Metadata of a field whose numbers may be 0.
FROM_ZERO = {"least": 0}


def to_json(config: Any) -> dict[str, Any]:
    """Return a configuration's fields as JSON types: lists for tuples, dictionaries for dataclasses.

    Args:
        config: A dataclass instance.
    """
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return {key: _json_value(value) for key, value in values.items()}


def from_json(kind: type[Config], name: str, values: object) -> Config:
    """Build a configuration from what `to_json` returned, possibly after a way through JSON.

    Args:
        kind: The dataclass; its fields are of type `int`, `float`, `bool`, `str`, `tuple[int, ...]` or dataclasses
            of such.
        name: What the configuration is called in errors.
        values: The dictionary.

    Raises:
        ValueError: A field is missing or unknown, a value is of the wrong type or sign, or the values do not fit
            together.
    """
    declared = fields(kind)  # type: ignore[arg-type]
    optional = {field.name for field in declared if field.metadata.get("optional")}
    given = expect_fields(name, values, {field.name for field in declared}, optional)
    nested = {field.name: field.type for field in declared if is_dataclass(field.type) and field.name in given}
    plain = [field for field in declared if field.name in given and field.name not in nested]
    problems = [text for field in plain for text in _problems(field, given[field.name])]
    if problems:
        raise ValueError("; ".join(f"{name}: {text}" for text in problems))
    present = {field.name: given[field.name] for field in plain}
    built = {key: from_json(inner, key, given[key]) for key, inner in nested.items()}  # type: ignore[arg-type]
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in present.items()}, **built)


def expect_fields(
    name: str, values: object, expected: set[str], optional: set[str] | frozenset[str] = frozenset()
) -> Mapping[str, Any]:
    """Return `values` if it is a dictionary with these keys.

    Args:
        name: What the dictionary is called in errors.
        values: Anything.
        expected: The keys, no more and no fewer.
        optional: Those of them that may be absent.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{name}: expected an object, got {type(values).__name__}")
    missing, unknown = sorted(expected - optional - set(values)), sorted(set(values) - expected)
    if missing or unknown:
        raise ValueError(f"{name}: missing fields {missing}, unknown fields {unknown}")
    return values


def _problems(field: Field[Any], value: object) -> list[str]:
    least = field.metadata.get("least", 1)
    if field.type is bool:
        fits, expected = isinstance(value, bool), "true or false"
    elif field.type is str:
        fits, expected = isinstance(value, str), "a word"
    elif field.type is float:
        fits, expected = _is_number(value, (int, float)) and value > 0, "a positive number"  # type: ignore[operator]
    elif field.type is int:
        fits, expected = _is_number(value, (int,)) and value >= least, "a positive number"
    else:
        numbers = value if isinstance(value, list | tuple) else ["none"]
        fits = all(_is_number(number, (int,)) and number >= least for number in numbers)
        expected = "a list of positive numbers" if least else "a list of numbers from 0 on"
    return [] if fits else [f"{field.name}: expected {expected}, got {value!r}"]


def _json_value(value: Any) -> Any:
    if is_dataclass(value):
        return to_json(value)
    return list(value) if isinstance(value, tuple) else value


def _is_number(value: object, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)
