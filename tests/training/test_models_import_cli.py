import importlib
import json
import sys
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from samsdk import cli, command
from samsdk_training.checkpoints import load_checkpoint
from samsdk_training.cli import add_models_import
from samsdk_training.importers import KINDS
from samsdk_training.importers.published import PUBLISHED
from samsdk_training.models import SamConfig, VitConfig, build_sam
from samsdk_training.models.sam_config import DecoderConfig

SMALL = SamConfig(
    VitConfig(image_size=64, embed_dim=16, depth=1, num_heads=2, global_blocks=(0,), out_channels=16),
    DecoderConfig(num_heads=2, mlp_dim=16, iou_head_hidden_dim=16),
    mask_channels=8,
)


@dataclass
class Entry:
    name: str = "import"

    def load(self):
        return add_models_import


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Whether or not this installation has been made again since the entry point came.
    monkeypatch.setattr(command, "entry_points", lambda group: [Entry()] if group == command.MODEL_EXTENSIONS else [])
    monkeypatch.setitem(PUBLISHED, "sam-vit-b", replace(PUBLISHED["sam-vit-b"], config=SMALL))
    torch.save(build_sam(SMALL).state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_the_program_s_extensions_are_there() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {group: project["entry-points"][group] for group in (command.EXTENSIONS, command.MODEL_EXTENSIONS)}
    assert groups[command.MODEL_EXTENSIONS] == {"import": "samsdk_training.cli:add_models_import"}
    for target in (target for group in groups.values() for target in group.values()):
        module, _, name = target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_a_file_becomes_a_checkpoint(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["models", "import", str(weights), "--as", "sam-vit-b", "-o", str(tmp_path / "sam"), "--image-size", "96"]
    assert cli.main(call) == 0
    assert "(not a published file that samsdk knows)" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "sam").build().image_size == 96
    assert cli.main([*call, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["lineage"]["resized"]["to"] == 96
    assert (data["kind"], data["checkpoint"]) == ("sam-vit-b", str(tmp_path / "sam"))


def test_errors_are_told(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = ["-o", str(tmp_path / "out")]
    assert cli.main(["models", "import", str(weights), "--as", "sam3", *target]) == 2
    assert f"known kinds: {', '.join(KINDS)}" in capsys.readouterr().err
    assert cli.main(["models", "import", str(weights), "--as", "samed", *target]) == 1
    assert "SAMed's file holds changes to Segment Anything, ViT-B: give that as the base" in capsys.readouterr().err
    assert cli.main(["models", "import", str(tmp_path / "absent.pth"), "--as", "sam-vit-b", *target]) == 1
    assert "`samsdk models pull sam-vit-b` fetches the published ones" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_the_extra_it_says_what_to_install(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("samsdk_training.importers", "samsdk_training.checkpoints"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert cli.main(["models", "import", str(weights), "--as", "sam-vit-b", "-o", str(tmp_path / "out")]) == 1
    assert "samsdk models import needs safetensors: pip install 'samsdk[train]'" in capsys.readouterr().err
