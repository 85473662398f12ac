"""What the tables of trained runs put beside each other, from the kept results."""

import re

import pytest

from report import README_RUNS
from training_tables import beside, published, run_table, seeded_runs, summary_table


def cells(name: str) -> list[str]:
    """A run's row in the README."""
    *_, row = [line for line in summary_table([name]).splitlines() if line.startswith("| ")]
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.mark.parametrize("name", README_RUNS)
def test_a_run_stands_beside_something_other_than_itself(name: str) -> None:
    run, other, own, _ = cells(name)
    assert run == name.replace("_", " ")
    assert other
    assert own not in other
    labels = [part.split(": ")[0] for part in other.split("; ")]
    recipe = seeded_runs()[name][0]["trained"]["config"]["recipe"]["recipe"]
    assert recipe not in labels


def test_a_model_that_prompts_itself_stands_beside_others_with_its_points() -> None:
    _, other, own, _ = cells("sac_nuclei")
    assert "LiteMedSAM, the whole image as a box: 0.246; default model, the same points: 0.684" in other
    assert own == "0.902"
    found = seeded_runs()
    table = run_table("sac_nuclei", found["sac_nuclei"], beside("sac_nuclei", found))
    assert "| default model, the same points | 0.684 | 0.480 | 0.570 |" in table
    # The points are those of one bundle: another run has nothing to do with them.
    assert beside("samed_s_hippocampus", found) == {}


def test_it_is_said_where_synthesis_makes_a_run_worse() -> None:
    assert cells("cheap_lunch_brats")[1:3] == ["without synthesis, which is better: 0.635", "0.494"]
    assert cells("cheap_lunch_hippocampus_16")[1].startswith("without synthesis: class 1 0.424")
    found = seeded_runs()
    assert list(beside("cheap_lunch_brats_plain", found)) == []
    table = run_table("cheap_lunch_brats", found["cheap_lunch_brats"], beside("cheap_lunch_brats", found))
    assert "| without synthesis, which is better | 0.635 | 0.409 |" in table
    assert "on `val.txt` (145 images, 1 case)" in table


def test_published_numbers_stand_beside_models_for_volumes_of_that_set_alone() -> None:
    found = seeded_runs()
    nnunet = "nnU-Net, published (Isensee et al. 2021): anterior 0.90, posterior 0.89"
    assert found["autoprosam_hippocampus"][0]["beside"] is None
    assert published(found["autoprosam_hippocampus"][0]) == nnunet
    assert published(found["swin_unetr_hippocampus"][0]) == nnunet
    assert re.match(r"nnU-Net on all training volumes", published(found["cheap_lunch_hippocampus_1"][0]))
    # Boxes and clicks on slices are another task; other sets have other numbers.
    assert published(found["adapt_mr_hippocampus"][0]) is None
    assert published(found["autoprosam_brats"][0]) is None
    assert f"| {nnunet} | | |" in run_table("autoprosam_hippocampus", found["autoprosam_hippocampus"], {})
