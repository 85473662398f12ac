"""What people read of a table of before and after."""

from samsdk_training.recipes.before_after import describe


def test_each_set_has_a_line_and_several_have_a_mean() -> None:
    before, after = {"box": 0.7, "point1": 0.5, "point3": 0.6}, {"box": 0.8, "point1": 0.65, "point3": 0.7004}
    one = {
        "sets": {"knee": {"images": 4, "before": before, "after": after}},
        "mean": {"before": before, "after": after},
    }
    line = "box 0.700 -> 0.800  point1 0.500 -> 0.650  point3 0.600 -> 0.700"
    assert describe(one).splitlines() == ["Dice on held-back images, before and after:", f"knee  {line}"]
    two = {**one, "sets": {**one["sets"], "hip": one["sets"]["knee"]}}
    assert describe(two).splitlines()[1:] == [
        f"knee            {line}",
        f"hip             {line}",
        f"mean over sets  {line}",
    ]


def test_what_got_worse_is_said() -> None:
    before, after = {"box": 0.7, "point1": 0.4, "point3": 0.69}, {"box": 0.73, "point1": 0.37, "point3": 0.64}
    table = {
        "sets": {"glands": {"images": 6, "before": before, "after": after}},
        "mean": {"before": before, "after": after},
    }
    last = describe(table).splitlines()[-1]
    assert last == "Worse than the base with point1, point3: keep the base for these, or label more images."
