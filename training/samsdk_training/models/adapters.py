"""SAM-Med2D's adapter: what the ViT of Segment Anything learns of medical images in each of its blocks.

After Cheng et al., 2023, https://github.com/OpenGVLab/SAM-Med2D (Apache-2.0); the state-dict keys are those of the
published weights. Its gate and its ReLUs depend on the data, so it cannot be merged into the layers around it.
"""

from torch import Tensor, nn

# Where a block has its adapter: nowhere; beside its MLP, as code and weights have it; or after its attention, as the
# paper's figure has it.
ADAPTERS = ("none", "code", "figure")
REDUCTION = 4


class Adapter(nn.Module):
    """A channel gate, then a detour at half the resolution, with a residual and a layer norm.

    Because of the norm a new adapter is not the identity: it changes a pretrained encoder from the first step.

    Args:
        dim: Width C of the tokens.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.channel = nn.Sequential(
            nn.Linear(dim, dim // REDUCTION, bias=False),
            nn.ReLU(),
            nn.Linear(dim // REDUCTION, dim, bias=False),
            nn.Sigmoid(),
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(dim, dim, kernel_size=3, stride=2, padding=1, bias=False),
            nn.ReLU(),
            nn.ConvTranspose2d(dim, dim, kernel_size=4, stride=2, padding=1, bias=False),
            nn.ReLU(),
        )
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Adapt tokens.

        Args:
            x: [N, H, W, C]; H and W even, since the detour halves and doubles them.

        Returns:
            [N, H, W, C].
        """
        gate = self.channel(x.mean(dim=(1, 2)))[:, None, None]  # [N, 1, 1, C]
        detour = self.spatial((gate * x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: Tensor = self.norm(x + detour)
        return out
