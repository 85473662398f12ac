import numpy as np
import pytest

from samsdk.answers import check_finite, wanted_masks
from samsdk.errors import BackendError

# Two prompts, of each the single mask and three others; the first score is the highest, and must never decide.
LOGITS = np.arange(2 * 4 * 2 * 2, dtype=np.float32).reshape(2, 4, 2, 2)
SCORES = np.array([[9.0, 0.1, 0.7, 0.2], [9.0, 0.5, 0.3, 0.4]], np.float32)


@pytest.mark.parametrize(("single", "chosen"), [("first", (0, 0)), ("best", (2, 1))])
def test_the_single_mask_is_the_first_or_the_best_of_the_others(single: str, chosen: tuple[int, int]) -> None:
    logits, scores = wanted_masks(LOGITS, SCORES, multimask=False, single=single)
    np.testing.assert_array_equal(logits, [[LOGITS[0, chosen[0]]], [LOGITS[1, chosen[1]]]])
    np.testing.assert_array_equal(scores, [[SCORES[0, chosen[0]]], [SCORES[1, chosen[1]]]])


@pytest.mark.parametrize("single", ["first", "best"])
def test_the_masks_for_ambiguous_prompts_are_all_others(single: str) -> None:
    logits, scores = wanted_masks(LOGITS, SCORES, multimask=True, single=single)
    np.testing.assert_array_equal(logits, LOGITS[:, 1:])
    np.testing.assert_array_equal(scores, SCORES[:, 1:])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_value_that_is_not_finite_is_an_error_that_names_the_output(value: float) -> None:
    check_finite({"low_res_masks": LOGITS, "iou_predictions": SCORES})
    spoilt = SCORES.copy()
    spoilt[1, 3] = value
    with pytest.raises(BackendError, match="output iou_predictions holds NaN or infinity; run `samsdk doctor`"):
        check_finite({"low_res_masks": LOGITS, "iou_predictions": spoilt})
