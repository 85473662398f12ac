"""How much a model computes."""

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

from samsdk.manifest import AUTO, PROMPTABLE, SEMANTIC
from samsdk_training.models.sam import Sam


def count_flops(model: Sam, task: str = PROMPTABLE) -> dict[str, int]:
    """Floating-point operations of `encoder` (one image) and `decoder` (one prompt of two points); 2 a multiplication.

    As PyTorch counts them: convolutions and matrix products, of the model as trained. The decoder of a semantic model
    has no prompt; a model that prompts itself has a `prompter` (one image), too.
    """
    side = model.image_size
    with torch.inference_mode(), torch.device("meta"):
        # Shapes alone, which cost nothing.
        model = copy.deepcopy(model).to("meta")
        points = torch.empty(1, 2, 2), torch.empty(1, 2)
        image = torch.empty(1, 3, side, side)
        with FlopCounterMode(display=False) as encoder:
            embeddings = model.encode(image)
        with FlopCounterMode(display=False) as decoder:
            model.decode_all(embeddings) if task == SEMANTIC else model.decode(embeddings, points=points)
        counts = {"encoder": encoder.get_total_flops(), "decoder": decoder.get_total_flops()}
        if task == AUTO and model.auto_prompt_generator is not None:
            with FlopCounterMode(display=False) as prompter:
                model.auto_prompt_generator(image)
            counts["prompter"] = prompter.get_total_flops()
    return counts
