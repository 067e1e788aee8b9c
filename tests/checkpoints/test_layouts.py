"""Models go out in every layout and come back, and other programs compute the same features from what they read."""

import itertools
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.networks import SPECS, VIT, difference, pictures, random_model
from helpers_golden import GOLDEN
from safetensors.torch import load_file, save_file

from dinokit.backbones.catalog import NETWORKS
from dinokit.backbones.network import build
from dinokit.backbones.rope import RopeSpec
from dinokit.checkpoints.export import NAMES, LossWarning, export_model
from dinokit.checkpoints.layouts import meta, timm, transformers
from dinokit.checkpoints.load import load_model
from dinokit.checkpoints.model import AssumptionWarning, LoadedModel
from dinokit.errors import UserError
from dinokit.images.normalize import IMAGENET

KEYS = json.loads((GOLDEN / "keys.json").read_text())
pytestmark = [
    pytest.mark.filterwarnings("ignore::dinokit.checkpoints.export.LossWarning"),
    pytest.mark.usefixtures("one_thread"),
]


def export(folder: Path, model: LoadedModel, layout: str) -> Path:
    return export_model(folder, model.network.state_dict(), model.info, layout)


def load(path: Path, like: LoadedModel, **overrides: Any) -> LoadedModel:
    """Load what is in `path`, telling what a bare `.pth` file cannot tell."""
    spec = like.info.spec
    given = {"norm_eps": spec.norm_eps, **overrides} if path.suffix == ".pth" else overrides
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssumptionWarning)
        return load_model(path, **given)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(NAMES, 2)))
def test_round_trips_between_all_layouts(name: str, first: str, second: str, tmp_path: Path) -> None:
    model = random_model(SPECS[name])
    there = load(source(export(tmp_path / "a", model, first)), model)
    back = load(source(export(tmp_path / "b", there, second)), model)
    for found in (there, back):
        assert difference(model.network, found.network) <= 1e-5
    facts = [(back.info.image_size, back.info.statistics), (model.info.image_size, model.info.statistics)]
    assert facts[0] == facts[1] or "meta" in (first, second)


def source(weights: Path) -> Path:
    """What a person gives to load it again: the folder, or Meta's file."""
    return weights if weights.suffix == ".pth" else weights.parent


@pytest.mark.parametrize("name", SPECS)
@torch.no_grad()
def test_transformers_computes_the_same(name: str, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoModel

    model = random_model(SPECS[name])
    export(tmp_path, model, "transformers")
    theirs, told = AutoModel.from_pretrained(tmp_path, output_loading_info=True, dtype=torch.float32)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    found, ours = theirs.eval()(pictures(model.info.spec)), model.network(pictures(model.info.spec))
    assert (found.pooler_output - ours.cls).abs().max() <= 1e-5
    tokens = torch.cat([ours.cls[:, None], ours.registers, ours.tokens], dim=1)
    assert (found.last_hidden_state - tokens).abs().max() <= 1e-5
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert tuple(processor.image_mean) == model.info.statistics.mean
    assert (processor.size["height"], processor.size["width"]) == (96, 96)


@pytest.mark.parametrize("name", SPECS)
@torch.no_grad()
def test_timm_computes_the_same(name: str, tmp_path: Path) -> None:
    from timm import create_model
    from timm.data import resolve_model_data_config

    model = random_model(SPECS[name])
    export(tmp_path, model, "timm")
    theirs = create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    ours = model.network(pictures(model.info.spec))
    assert (theirs(pictures(model.info.spec)) - ours.cls).abs().max() <= 1e-5
    found = theirs.forward_features(pictures(model.info.spec))
    if found.shape[1:3] == ours.tokens.shape[1:] or found.ndim == 3:  # a ViT: tokens after the norm
        assert (found[:, -ours.tokens.shape[1] :] - ours.tokens).abs().max() <= 1e-5
    else:  # a ConvNeXt: the map before it
        assert (theirs.head.norm(found).permute(0, 2, 3, 1) - ours.patches).abs().max() <= 1e-5
    assert tuple(resolve_model_data_config(theirs)["mean"]) == model.info.statistics.mean


@torch.no_grad()
def test_timm_reads_a_published_shape_by_its_name(tmp_path: Path) -> None:
    from timm import create_model

    model = random_model(replace(NETWORKS["dinov3_vits16"], depth=12))  # type: ignore[call-arg]
    weights = export(tmp_path, model, "timm")
    theirs = create_model("vit_small_patch16_dinov3_qkvb", checkpoint_path=str(weights), num_classes=0).eval()
    found, ours = theirs.forward_features(pictures(VIT)), model.network(pictures(VIT))
    assert (found[:, 0] - ours.cls).abs().max() <= 1e-5
    assert (found[:, 5:] - ours.tokens).abs().max() <= 1e-5


def meta_keys(name: str) -> dict[str, list[int]]:
    keys: dict[str, list[int]] = KEYS["meta"][name]["keys"]
    return keys


@pytest.mark.parametrize("name", [name for name in KEYS["meta"] if "(" not in name])
@pytest.mark.parametrize("layout", [meta, transformers, timm])
def test_keys_and_shapes_are_those_of_the_published_networks(name: str, layout: Any) -> None:
    spec = NETWORKS[name]
    with torch.device("meta"):
        state = build(spec).state_dict()
        named = {key: list(value.shape) for key, value in layout.to_theirs(state, spec).items()}
    if layout is meta:
        assert named == meta_keys(name)
    elif layout is transformers:
        published = name.replace("dinov3_", "dinov3-").replace("_", "-") + "-pretrain-lvd1689m"
        expected = KEYS["transformers5"].get(published, {"keys": named})["keys"]
        assert named == {key.removeprefix("model."): shape for key, shape in expected.items()}
    elif name != "dinov3_vitl16plus":  # which timm has not
        told = timm.architecture(spec)
        told += ".dinov3_lvd1689m" if told.startswith("convnext") else ""
        assert named == KEYS["timm"].get(told, {"keys": named})["keys"]


@pytest.mark.parametrize("name", ["mlp", "swiglu", "convnext"])
@pytest.mark.parametrize("layout", ["transformers", "timm"])
@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pth"])
def test_a_bare_file_of_any_name_is_read(name: str, layout: str, suffix: str, tmp_path: Path) -> None:
    model = random_model(SPECS[name])
    state = load_file(export(tmp_path / "out", model, layout))
    path = tmp_path / f"anything{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    vit = "convnext" not in name
    with pytest.warns(AssumptionWarning, match="heads=1" if vit else "norm_eps"):
        assert load_model(path).info.spec.width == model.info.spec.width
    found = load(path, model, **({"heads": 2} if vit else {}))
    assert difference(model.network, found.network) <= 1e-5


def test_what_transformers_has_in_memory_is_read(tmp_path: Path) -> None:
    from transformers import AutoModel

    for name in ("mlp", "convnext"):
        model = random_model(SPECS[name])
        export(tmp_path / name, model, "transformers")
        theirs = AutoModel.from_pretrained(tmp_path / name)
        assert any(key.startswith("model.") for key in theirs.state_dict())
        torch.save(theirs.state_dict(), tmp_path / "memory.pth")
        heads = {"heads": 2} if name == "mlp" else {}
        assert difference(model.network, load(tmp_path / "memory.pth", model, **heads).network) <= 1e-5
        theirs.save_pretrained(tmp_path / "again", max_shard_size="100KB")
        assert (tmp_path / "again" / "model.safetensors.index.json").is_file() or name == "convnext"
        assert difference(model.network, load(tmp_path / "again", model).network) <= 1e-5


def test_the_plain_form_of_timm_and_a_pickle_in_shards_are_read(tmp_path: Path) -> None:
    model = random_model(SPECS["no bias"])
    weights = export(tmp_path, model, "timm")
    state = list(load_file(weights).items())
    weights.unlink()
    names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    for name, part in zip(names, (state[:9], state[9:]), strict=True):
        torch.save(dict(part), tmp_path / name)
    index = {"weight_map": {key: names[place >= 9] for place, (key, _) in enumerate(state)}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    found = load_model(tmp_path)
    assert difference(model.network, found.network) <= 1e-5
    assert found.info.spec.qkv_bias is False


@pytest.mark.parametrize("layout", ["transformers", "timm"])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"untied_cls_norm": True}, "untied_cls_norm"),
        ({"rope": RopeSpec(normalize="max")}, "rope_normalize"),
        ({"rope": RopeSpec(None, 1.0, 50.0)}, "rope_min_period"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused_by_name(layout: str, changes: Any, said: str, tmp_path: Path) -> None:
    model = random_model(replace(VIT, **changes))
    with pytest.raises(UserError, match=rf"{layout} cannot hold .*{said}.*: choose another layout: dinokit and meta"):
        export(tmp_path / "out", model, layout)
    assert not (tmp_path / "out").exists()
    for other in ("dinokit", "meta"):
        rope = {"rope_normalize": "max"} if said == "rope_normalize" and other == "meta" else {}
        back = load(source(export(tmp_path / other, model, other)), model, **rope)
        assert difference(model.network, back.network) == 0


def test_timm_refuses_what_only_transformers_can_hold(tmp_path: Path) -> None:
    model = random_model(replace(VIT, mask_k_bias=False))
    with pytest.raises(UserError, match=r"timm cannot hold a bias of the keys \(mask_k_bias=False\)"):
        export(tmp_path, model, "timm")
    with pytest.raises(UserError, match=r"timm cannot hold a norm epsilon of 0\.001"):
        export(tmp_path, random_model(replace(VIT, norm_eps=1e-3)), "timm")
    back = load(source(export(tmp_path, model, "transformers")), model)
    assert difference(model.network, back.network) <= 1e-5
    assert not back.info.spec.mask_k_bias


def test_what_is_lost_is_said(tmp_path: Path) -> None:
    model = random_model(replace(VIT, local_cls_norm=True))
    model.network.rope_embed.periods.copy_(model.network.rope_embed.periods.bfloat16().float())  # type: ignore[operator, union-attr]
    with pytest.warns(LossWarning, match=r"timm leaves out the mask token; the norm of local crops.*; the rounding of"):
        export(tmp_path, model, "timm")
    with pytest.warns(LossWarning, match=r"meta leaves out mean and std of the pictures; the size of 96 px"):
        export(tmp_path / "again", model, "meta")
    usual = replace(model, info=replace(model.info, statistics=IMAGENET, image_size=224))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export(tmp_path / "usual", usual, "meta")


def test_an_unknown_layout_and_a_file_in_the_way(tmp_path: Path) -> None:
    model = random_model(VIT)
    with pytest.raises(UserError, match=r"no layout 'onnx': known are dinokit, transformers, timm, meta"):
        export(tmp_path, model, "onnx")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        export(tmp_path / "file", model, "timm")


def test_the_file_of_meta_has_its_hash_in_its_name_and_it_is_checked(tmp_path: Path) -> None:
    model = random_model(VIT, name="dinov3_vits16")
    weights = export(tmp_path, model, "meta")
    assert weights.name.startswith("dinov3_vits16_pretrain_lvd1689m-")
    load(weights, model)
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"does not have the hash that its name promises"):
        load(weights, model)


def test_files_that_do_not_belong_together_are_noticed(tmp_path: Path) -> None:
    for layout, name in (("transformers", "hidden_size"), ("timm", "num_features")):
        weights = export(tmp_path / layout, random_model(VIT), layout)
        config = json.loads((weights.parent / "config.json").read_text())
        config[name] = 999
        (weights.parent / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="it says width 999, the weights 64"):
        load_model(tmp_path / "transformers")
    assert load_model(tmp_path / "timm").info.spec == VIT  # a remark, of which nothing is made


def test_configs_of_other_models_are_called_what_they_are(tmp_path: Path) -> None:
    weights = export(tmp_path, random_model(VIT), "transformers")
    for content, said in (
        ({"model_type": "dinov2"}, "that of a 'dinov2' model: dinokit reads dinov3_vit"),
        ({"architecture": "resnet50"}, "that of timm's resnet50"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=said):
            load_model(weights.parent)
