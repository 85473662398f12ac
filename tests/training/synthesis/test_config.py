import json
from dataclasses import fields, replace

import pytest

from samsdk_training.synthesis import LESIONS, PRESETS, IntensityChange, SynthesisConfig


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
def test_a_configuration_survives_json(config: SynthesisConfig) -> None:
    assert SynthesisConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_fields_replace_those_of_the_base_and_no_others() -> None:
    got = SynthesisConfig.from_dict({"angles": [-5, 5], "background": {"blur": 1.0}}, LESIONS)
    assert got == replace(LESIONS, angles=(-5, 5), background=replace(LESIONS.background, blur=1.0))


WRONG = {
    "sizes": [(0, 1), (2, 1), (1,), 1.0, (float("nan"), 1)],
    "angles": [(-400, 0)],
    "flip_horizontal": [-0.1, 1.1, True, "often"],
    "attempts": [0, 1.5],
    "spacing": [-1],
    "groups": ["organ"],
    "exemplar_rule": ["best"],
    "background_policy": ["none"],
    "known_labels": [1],
    "foreground": [{}],
    "elastic_sigma": [0],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_what_makes_no_sense_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected"):
        SynthesisConfig(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"), [("contrasts", (-1, 1)), ("noise", 2), ("pivot", "white"), ("blurs", (1, 0)), ("gammas", (0, 1))]
)
def test_a_change_that_would_turn_grey_values_round_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected"):
        IntensityChange(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [{"scale": [1, 2]}, {"background": {"hue": 1}}])
def test_unknown_fields_are_named(content: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"unknown fields: (scale|hue)"):
        SynthesisConfig.from_dict(content)


@pytest.mark.parametrize("kind", [SynthesisConfig, IntensityChange])
def test_every_field_is_documented_and_checked(kind: type) -> None:
    for one in fields(kind):
        assert f"        {one.name}: " in (kind.__doc__ or ""), one.name
        values = {**kind().__dict__, one.name: object()}
        with pytest.raises(ValueError, match=f"{one.name}: expected"):
            kind(**values)
