"""The third graph of a bundle that prompts itself: from the image to where points may go.

The points are picked outside (`samsdk.point_selection`): choosing has data-dependent shapes, which keep graphs from
building elsewhere.
"""

import torch
from torch import Tensor, nn

from samsdk_export.onnx_export import export_graph
from samsdk_training.models.auto_prompt import AutoPromptGenerator

PROMPTER_INPUTS = ("image",)
PROMPTER_OUTPUTS = ("point_probabilities",)


class PrompterGraph(nn.Module):
    """`image` [N, 3, S, S] to `point_probabilities` [N, 1, S, S], each in [0, 1]."""

    def __init__(self, generator: AutoPromptGenerator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, image: Tensor) -> Tensor:
        """Find foreground in images, float32, preprocessed as the manifest says."""
        logits: Tensor = self.generator(image)
        return logits.sigmoid()


def export_prompter(generator: AutoPromptGenerator) -> bytes:
    """The generator as an ONNX file, N dynamic.

    Args:
        generator: in evaluation mode.

    Raises:
        ExportError: the graph breaks the contract.
    """
    side = generator.image_size
    example = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    dynamic = {"image": {0: torch.export.Dim("N", min=1, max=64)}}
    return export_graph(PrompterGraph(generator), (example,), PROMPTER_INPUTS, PROMPTER_OUTPUTS, dynamic, ())
