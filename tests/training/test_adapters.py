"""Adapters: kept in a small file of their own, and merged into the base that they belong to and into no other."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from samsdk import cli, command
from samsdk_training import tensor_file
from samsdk_training.adapter_file import JSON_FILE, TENSORS_FILE, LoraAdapter, load_adapter, save_adapter
from samsdk_training.checkpoints import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from samsdk_training.cli import add_merge
from samsdk_training.loop import LoopConfig, fit
from samsdk_training.lora import LoraConfig, LoraError, LowRank, lora_sites, merge_pairs
from samsdk_training.merging import NotMergeable, combine, merge_adapter
from samsdk_training.models import SamConfig, VitConfig, build_sam
from samsdk_training.models.sam_config import DecoderConfig
from samsdk_training.tuning import Base, Tuning, load_base, split_state

VIT = SamConfig(
    VitConfig(image_size=64, embed_dim=16, depth=2, num_heads=2, global_blocks=(1,), window_size=3, out_channels=32),
    DecoderConfig(num_heads=2, mlp_dim=32, iou_head_hidden_dim=16),
    mask_channels=8,
)
TUNING = Tuning(
    LoraConfig(rank=3, alpha=6.0, decoder="qv"), ("prompt_encoder.no_mask_embed.*", "*.iou_prediction_head.*")
)
LINEAR = Tuning(LoraConfig(encoder="linear", decoder="qkv"))


@pytest.fixture
def vit_checkpoint(tiny_checkpoint, randomise) -> Checkpoint:
    return vit_base(tiny_checkpoint, randomise, VIT)


def vit_base(like: Checkpoint, randomise, config: SamConfig) -> Checkpoint:
    model = build_sam(config)
    randomise(model, 6)
    return replace(like, model=config.to_dict(), lineage={"recipe": "random weights"}, state=model.state_dict())


def saved(checkpoint: Checkpoint, folder: Path) -> Base:
    save_checkpoint(checkpoint, folder)
    return load_base(folder)


def train(base: Base, tuning: Tuning, config: SamConfig | None = None, seed: int = 0):
    """A model in the state that a training leaves it in: everything that is trained has random values."""
    model = base.tuned(tuning, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (one for one in model.parameters() if one.requires_grad):
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def described(tuned, base: Base, **changes) -> Checkpoint:
    return replace(base.checkpoint, lineage={"recipe": "test"}, state=tuned.state_dict(), **changes)


def kept(model, tuning: Tuning, base: Base) -> LoraAdapter:
    return LoraAdapter.of(described(model, base), tuning, base)


def answers(model, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(2, 3, model.image_size, model.image_size, generator=generator, dtype=torch.float64).to(dtype)
    boxes = torch.tensor([[5.0, 9, 40, 50], [20, 3, 60, 33]], dtype=dtype)
    with torch.inference_mode():
        embeddings = model.encode(image)
        return [embeddings["image_embeddings"], *model.decode(embeddings, boxes=boxes, multimask_output=True)]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize(
    ("fixture", "tuning"),
    [
        ("vit_checkpoint", TUNING),
        ("tiny_checkpoint", TUNING),
        ("student_checkpoint", LINEAR),
        ("vit_checkpoint", LINEAR),
    ],
)
def test_a_merged_model_computes_what_the_tuned_one_does(
    request, relative_error, fixture, tuning, dtype, bound
) -> None:
    base = Base(request.getfixturevalue(fixture), "0" * 64)
    model = train(base, tuning).to(dtype)
    sites = lora_sites(model, tuning.lora)
    plain, pairs = split_state(model.state_dict(), sites)
    merged = build_sam(SamConfig.from_dict(base.checkpoint.model)).to(dtype).eval()
    merged.load_state_dict(merge_pairs(plain, pairs, tuning.lora.scale))
    untuned = base.checkpoint.build().to(dtype)
    for got, expected, before in zip(
        answers(merged, dtype), answers(model, dtype), answers(untuned, dtype), strict=True
    ):
        assert relative_error(got, expected) <= bound
        # The pairs matter.
        assert relative_error(before, expected) > 1e-3


@pytest.mark.parametrize(
    ("fixture", "tuning"), [("vit_checkpoint", TUNING), ("tiny_checkpoint", TUNING), ("student_checkpoint", LINEAR)]
)
def test_file_and_base_are_the_trained_model_again(request, tmp_path, relative_error, fixture, tuning) -> None:
    base = saved(request.getfixturevalue(fixture), tmp_path / "base")
    model = train(base, tuning)
    save_adapter(kept(model, tuning, base), tmp_path / "adapter")
    checkpoint, report = merge_adapter(load_adapter(tmp_path / "adapter"), base)
    plain, pairs = split_state(model.state_dict(), lora_sites(model, tuning.lora))
    expected = merge_pairs(plain, pairs, tuning.lora.scale)
    assert checkpoint.state.keys() == expected.keys()
    assert all(torch.equal(checkpoint.state[key], tensor) for key, tensor in expected.items())
    assert report.merged == tuple(site.name for site in pairs)
    assert report.replaced == tuple(sorted(key for key in plain if tuning.is_whole(key)))
    assert (report.rank, report.scale, report.retained) == (tuning.lora.rank, tuning.lora.scale, ())
    lineage = checkpoint.lineage
    assert (lineage["recipe"], lineage["merged"], lineage["lora"]["merged"]) == ("test", True, len(pairs))
    assert lineage["base"] == {"sha256": base.sha256, "lineage": base.checkpoint.lineage}
    save_checkpoint(checkpoint, tmp_path / "merged")
    for got, wanted in zip(answers(load_checkpoint(tmp_path / "merged").build()), answers(model), strict=True):
        assert relative_error(got, wanted) <= 1e-5


def test_the_file_is_small_and_says_what_it_is(vit_checkpoint, tmp_path) -> None:
    base = saved(vit_checkpoint, tmp_path / "base")
    save_adapter(kept(train(base, TUNING), TUNING, base), tmp_path / "adapter")
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [JSON_FILE, TENSORS_FILE]
    content = json.loads((tmp_path / "adapter" / JSON_FILE).read_bytes())
    assert {name: content[name] for name in ("method", "rank", "alpha", "scale", "targets")} == {
        "method": "lora",
        "rank": 3,
        "alpha": 6.0,
        "scale": 2.0,
        "targets": {"encoder": "qv", "decoder": "qv"},
    }
    assert content["base_sha256"] == json.loads((tmp_path / "base" / "model.json").read_bytes())["tensors"]["sha256"]
    assert "prompt_encoder.no_mask_embed.weight" in content["replaced"]
    tensors = load_adapter(tmp_path / "adapter").tensors()
    assert {"image_encoder.blocks.1.attn.qkv.weight[v].b", *content["replaced"]} <= tensors.keys()
    floats = sum(tensor.numel() for tensor in tensors.values())
    assert (tmp_path / "adapter" / TENSORS_FILE).stat().st_size < 4 * floats + 10_000


def test_a_model_of_other_size_and_masks_than_its_base(vit_checkpoint, tmp_path, relative_error) -> None:
    base = saved(vit_checkpoint, tmp_path / "base")
    config = replace(
        VIT, encoder=replace(VIT.encoder, image_size=96), decoder=replace(VIT.decoder, num_multimask_outputs=2)
    )
    tuning = Tuning(LoraConfig(), ("prompt_encoder.*", "mask_decoder.*"))
    model = train(base, tuning, config)
    geometry = {**base.checkpoint.geometry, "input_size": 96}
    adapter = LoraAdapter.of(described(model, base, model=config.to_dict(), geometry=geometry), tuning, base)
    save_adapter(adapter, tmp_path / "adapter")
    checkpoint, _ = merge_adapter(load_adapter(tmp_path / "adapter"), base)
    merged = checkpoint.build()
    assert (merged.image_size, merged.mask_decoder.num_mask_tokens) == (96, 3)
    for got, expected in zip(answers(merged), answers(model), strict=True):
        assert relative_error(got, expected) <= 1e-5
    pairs_only = Tuning(LoraConfig())
    with pytest.raises(
        LoraError, match=r"differs from the base, but was not to be trained: mask_decoder\.iou_prediction"
    ):
        LoraAdapter.of(described(train(base, pairs_only, config), base, model=config.to_dict()), pairs_only, base)
    wider = replace(VIT, mask_channels=16)
    with pytest.raises(CheckpointError, match="expected a shape that differs in its input size"):
        base.tuned(tuning, wider)


def test_another_base_is_refused_with_both_hashes(vit_checkpoint, tmp_path) -> None:
    base = saved(vit_checkpoint, tmp_path / "base")
    adapter = kept(train(base, TUNING), TUNING, base)
    key = "mask_decoder.iou_token.weight"
    other = saved(
        replace(vit_checkpoint, state={**vit_checkpoint.state, key: vit_checkpoint.state[key] * 1.001}),
        tmp_path / "other",
    )
    assert base.sha256 != other.sha256
    with pytest.raises(LoraError, match=f"expected one of sha256 {base.sha256}, got {other.sha256}"):
        merge_adapter(adapter, other)


def test_what_is_merged_is_neither_merged_into_nor_trained_again(vit_checkpoint, tmp_path) -> None:
    base = saved(vit_checkpoint, tmp_path / "base")
    checkpoint, _ = merge_adapter(kept(train(base, TUNING), TUNING, base), base)
    save_checkpoint(checkpoint, tmp_path / "merged")
    with pytest.raises(LoraError, match=f"were merged into '.*merged' already.* of sha256 {base.sha256}"):
        load_base(tmp_path / "merged")


def test_adapters_that_stay_in_the_graph_are_told(tiny_checkpoint, randomise, tmp_path, relative_error) -> None:
    config = replace(VIT, encoder=replace(VIT.encoder, adapters="code"))
    base = saved(vit_base(tiny_checkpoint, randomise, config), tmp_path / "base")
    tuning = Tuning(LoraConfig(), ("image_encoder.blocks.*.Adapter.*",))
    model = train(base, tuning)
    adapter = kept(model, tuning, base)
    checkpoint, report = merge_adapter(adapter, base)
    assert report.retained == ("image_encoder.blocks.0.Adapter", "image_encoder.blocks.1.Adapter")
    assert len(report.replaced) == 12
    for got, expected in zip(answers(checkpoint.build()), answers(model), strict=True):
        assert relative_error(got, expected) <= 1e-5
    with pytest.raises(NotMergeable, match=r"2 adapters cannot be merged, .*: image_encoder\.blocks\.0\.Adapter, "):
        merge_adapter(adapter, base, strict=True)


def test_what_the_base_does_not_have_is_not_lost_silently(vit_checkpoint, tmp_path) -> None:
    base = saved(vit_checkpoint, tmp_path / "base")
    model = train(base, TUNING)
    with torch.no_grad():
        model.image_encoder.neck[1].bias.add_(1)
    with pytest.raises(
        LoraError, match=r"differs from the base, but was not to be trained: image_encoder\.neck\.1\.bias"
    ):
        kept(model, TUNING, base)
    with pytest.raises(LoraError, match=r"not of a model with this tuning: .* is missing"):
        kept(build_sam(VIT), TUNING, base)


def test_numbers_that_are_not_finite_are_refused(vit_checkpoint, tmp_path) -> None:
    base = saved(vit_checkpoint, tmp_path / "base")
    model = train(base, TUNING)
    adapter = kept(model, TUNING, base)
    with torch.no_grad():
        next(one for one in model.modules() if isinstance(one, LowRank)).b[1, 2] = math.nan
    message = r"not finite: image_encoder\.blocks\.0\.attn\.qkv\.weight\[q\]\.b \(1 of 48 values\)"
    with pytest.raises(LoraError, match=message):
        kept(model, TUNING, base)
    adapter.pairs[next(iter(adapter.pairs))][1][1, 2] = math.inf
    with pytest.raises(LoraError, match=message):
        save_adapter(adapter, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_a_failing_write_leaves_what_was_there(vit_checkpoint, tmp_path, monkeypatch) -> None:
    base = saved(vit_checkpoint, tmp_path / "base")
    save_adapter(kept(train(base, TUNING), TUNING, base), tmp_path / "run" / "adapter")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run" / "adapter").iterdir()}
    later = kept(train(base, TUNING, seed=1), TUNING, base)
    monkeypatch.setattr(tensor_file, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_adapter(later, tmp_path / "run" / "adapter")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run" / "adapter").iterdir()} == before
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["adapter"]
    monkeypatch.undo()
    save_adapter(later, tmp_path / "run" / "adapter")
    assert (tmp_path / "run" / "adapter" / TENSORS_FILE).read_bytes() != before[TENSORS_FILE]
    with pytest.raises(LoraError, match="other files are there"):
        save_adapter(later, tmp_path)


def full_disk(*_args) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("format", 2, "expected format 1 of lora, got 2 of 'lora'"),
        ("method", "dora", "expected format 1 of lora, got 1 of 'dora'"),
        ("rank", 5, "not of rank 5: image_encoder.blocks.0.attn.qkv.weight[q]"),
        ("rank", "5", "rank: expected a whole number of at least 1, got '5'"),
        ("scale", 1.0, "the scale 1.0 is not alpha / rank"),
        ("base_sha256", None, "base_sha256: expected the sha256 of the base's tensor file"),
        ("targets", {"encoder": "qkv", "decoder": "qv"}, "missing: image_encoder.blocks.0.attn.qkv.weight[k].a"),
        (
            "targets",
            {"encoder": "qv", "decoder": "none"},
            "unexpected: mask_decoder.transformer.layers.0.self_attn.q_proj",
        ),
        ("whole", [], "unexpected: prompt_encoder.no_mask_embed.weight"),
        ("replaced", [], "unexpected: prompt_encoder.no_mask_embed.weight"),
        ("replaced", "all", "replaced: expected a list of names"),
        ("checkpoint", {}, "checkpoint: expected the fields model, geometry"),
        ("tensors", {"sha256": "0" * 64}, "is damaged or belongs to another adapter: expected sha256 000000"),
        ("tensors", [], "tensors: expected the sha256 of the tensor file"),
        ("licence", "MIT", "unknown field: licence"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(vit_checkpoint, tmp_path, field, value, problem) -> None:
    base = Base(vit_checkpoint, "0" * 64)
    save_adapter(kept(train(base, TUNING), TUNING, base), tmp_path / "adapter")
    path = tmp_path / "adapter" / JSON_FILE
    content = {**json.loads(path.read_bytes()), field: value}
    if field == "rank" and value == 5:
        content["scale"] = 6 / 5
    path.write_text(json.dumps(content))
    with pytest.raises(LoraError) as caught:
        load_adapter(tmp_path / "adapter")
    assert problem in str(caught.value)


def test_damaged_files_are_refused(vit_checkpoint, tmp_path) -> None:
    base = Base(vit_checkpoint, "0" * 64)
    save_adapter(kept(train(base, TUNING), TUNING, base), tmp_path / "adapter")
    with pytest.raises(LoraError, match="cannot be read as an adapter"):
        load_adapter(tmp_path / "absent")
    (tmp_path / "adapter" / TENSORS_FILE).unlink()
    with pytest.raises(LoraError, match="cannot be read as an adapter"):
        load_adapter(tmp_path / "adapter")
    (tmp_path / "adapter" / JSON_FILE).write_text("{")
    with pytest.raises(LoraError, match="cannot be read as an adapter"):
        load_adapter(tmp_path / "adapter")


def test_adapters_of_one_base_are_summed(vit_checkpoint, tmp_path, relative_error) -> None:
    base = Base(vit_checkpoint, "0" * 64)
    configs = (LoraConfig(rank=2, decoder="qv"), LoraConfig(rank=3, alpha=1.0, decoder="qv"))
    one, other = (kept(train(base, Tuning(lora), seed=rank), Tuning(lora), base) for rank, lora in enumerate(configs))
    both = combine([(one, 0.75), (other, -0.5)])
    save_adapter(both, tmp_path / "both")
    checkpoint, report = merge_adapter(load_adapter(tmp_path / "both"), base)
    assert (report.rank, report.scale) == (5, 1.0)
    assert [part["weight"] for part in checkpoint.lineage["adapters"]] == [0.75, -0.5]
    merged = [merge_adapter(adapter, base)[0].state for adapter in (one, other)]
    for key, tensor in base.checkpoint.state.items():
        first, second = (state[key].double() - tensor.double() for state in merged)
        # Of a sum of rounded weights no more than a rounding is lost.
        expected = (tensor.double() + 0.75 * first - 0.5 * second).float()
        assert relative_error(checkpoint.state[key], expected) <= 1e-6
    with pytest.raises(LoraError, match="tensors that were trained whole cannot be summed"):
        combine([(one, 1.0), (kept(train(base, TUNING), TUNING, base), 1.0)])
    with pytest.raises(LoraError, match="the same base, model and targets"):
        combine([(one, 1.0), (replace(other, base_sha256="1" * 64), 1.0)])
    encoder = Tuning(LoraConfig(rank=2))
    with pytest.raises(LoraError, match="the same base, model and targets"):
        combine([(one, 1.0), (kept(train(base, encoder), encoder, base), 1.0)])


def test_the_loop_trains_saves_and_resumes_a_tuned_model(student_checkpoint, tmp_path) -> None:
    base = Base(student_checkpoint, "0" * 64)
    image, boxes = torch.rand(2, 3, 64, 64), torch.tensor([[5.0, 9, 40, 50], [20, 3, 60, 33]])

    def run(folder: Path, killed: bool = False) -> dict[str, Tensor]:
        def validate(_model):
            if killed and (folder / "state").exists():
                raise KeyboardInterrupt
            return {"dice": 0.5}

        torch.manual_seed(0)
        model = base.tuned(LINEAR)
        fit(
            model,
            batch_of=lambda number: number,
            loss_of=lambda model, _batch, _generator: {"loss": model(image, boxes=boxes)[0].square().mean()},
            validate=validate,
            save_best=lambda model, best: save_adapter(kept(model, LINEAR, base), best),
            run=folder,
            config=LoopConfig(steps=2, learning_rate=0.01, validate_every=1, save_every=1),
            device="cpu",
            progress=False,
        )
        return model.state_dict()

    expected = run(tmp_path / "through")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", killed=True)
    got = run(tmp_path / "killed")
    assert all(torch.equal(got[key], tensor) for key, tensor in expected.items())
    # Every B has left 0.
    assert all(pair[1].any() for pair in load_adapter(tmp_path / "through" / "best").pairs.values())


class Entry:
    name = "merge"

    def load(self):
        return add_merge


def test_the_command_merges_and_tells(tiny_checkpoint, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(command, "entry_points", lambda group: [Entry()] if group == command.EXTENSIONS else [])
    base = saved(tiny_checkpoint, tmp_path / "base")
    adapter = kept(train(base, TUNING), TUNING, base)
    save_adapter(adapter, tmp_path / "adapter")
    call = ["merge", str(tmp_path / "adapter"), "-o", str(tmp_path / "merged")]
    assert cli.main(call) == 2
    assert f"--base CHECKPOINT, of sha256 {base.sha256}" in capsys.readouterr().err
    assert cli.main([*call, "--base", str(tmp_path / "base"), "--strict"]) == 0
    assert "merged at 16 places, rank 3, scale 2; 7 tensors replaced" in capsys.readouterr().out
    expected, _ = merge_adapter(adapter, base)
    state = load_checkpoint(tmp_path / "merged").state
    assert all(torch.equal(state[key], tensor) for key, tensor in expected.state.items())
    assert cli.main([*call, "--base", str(tmp_path / "base"), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (len(data["merged"]), data["retained"], data["base_sha256"]) == (16, [], base.sha256)
    assert cli.main([*call, "--base", str(tmp_path / "merged")]) == 1
    assert "were merged into" in capsys.readouterr().err


def test_the_command_says_why_a_checkpoint_alone_is_not_merged(
    tiny_checkpoint, randomise, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(command, "entry_points", lambda group: [Entry()] if group == command.EXTENSIONS else [])
    config = replace(VIT, encoder=replace(VIT.encoder, adapters="figure"))
    save_checkpoint(vit_base(tiny_checkpoint, randomise, config), tmp_path / "base")
    call = ["merge", str(tmp_path / "base"), "-o", str(tmp_path / "merged")]
    assert cli.main(call) == 1
    assert "nothing to merge in the checkpoint" in (err := capsys.readouterr().err)
    assert "its 2 adapters have to stay in the graph" in err
    assert cli.main([*call, "--strict"]) == 1
    assert "NotMergeable: 2 adapters cannot be merged" in capsys.readouterr().err
    assert cli.main(["merge", str(tmp_path / "absent"), "-o", str(tmp_path / "merged")]) == 1
    assert "is not a checkpoint folder" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


def test_a_tensor_of_the_model_that_neither_has_is_told(vit_checkpoint) -> None:
    base = Base(vit_checkpoint, "0" * 64)
    adapter = kept(train(base, TUNING), TUNING, base)
    other = replace(VIT, encoder=replace(VIT.encoder, adapters="code")).to_dict()
    with pytest.raises(CheckpointError) as caught:
        merge_adapter(replace(adapter, description={**adapter.description, "model": other}), base)
    assert "missing: image_encoder.blocks.0.Adapter.norm.weight (16,)" in caught.value.problems
