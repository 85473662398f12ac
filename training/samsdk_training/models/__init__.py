"""The models in torch, written here without torchvision or timm, with the state-dict keys of the published weights."""

from samsdk_training.models.attention import use_attention
from samsdk_training.models.layer_norm import LayerNorm2d
from samsdk_training.models.mask_decoder import MaskDecoder
from samsdk_training.models.prompt_encoder import PromptEncoder
from samsdk_training.models.sam import Sam, build_sam
from samsdk_training.models.sam_config import (
    SamConfig,
    lite_medsam_config,
    mobile_sam_config,
    sam_med2d_config,
    sam_vit_config,
    student_config,
)
from samsdk_training.models.student import StudentEncoder, StudentEncoderConfig
from samsdk_training.models.tiny_vit import TinyViT, TinyViTConfig
from samsdk_training.models.transformer import TwoWayTransformer
from samsdk_training.models.vit import VitConfig, VitEncoder

__all__ = [
    "LayerNorm2d",
    "MaskDecoder",
    "PromptEncoder",
    "Sam",
    "SamConfig",
    "StudentEncoder",
    "StudentEncoderConfig",
    "TinyViT",
    "TinyViTConfig",
    "TwoWayTransformer",
    "VitConfig",
    "VitEncoder",
    "build_sam",
    "lite_medsam_config",
    "mobile_sam_config",
    "sam_med2d_config",
    "sam_vit_config",
    "student_config",
    "use_attention",
]
