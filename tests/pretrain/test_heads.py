"""The heads compute what the published ones do, load their weights by name, and start as they do."""

import pytest
import torch
from helpers_golden import load_golden

from dinokit.pretrain.prototype_head import ProjectionHead, PrototypeHead

GOLDEN, _ = load_golden("losses")


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_published_head_weights_load_and_give_the_published_scores(layers: int) -> None:
    name = f"head{layers}"
    prefix = f"{name}.state."
    head = PrototypeHead(16, 24, hidden_dim=20, bottleneck_dim=12, layers=layers)
    head.load_state_dict({key.removeprefix(prefix): t for key, t in GOLDEN.items() if key.startswith(prefix)})
    tokens = GOLDEN[f"{name}.x"].clone().requires_grad_()
    scores = head(tokens)
    (scores * GOLDEN[f"{name}.loss_weight"]).sum().backward()
    assert tokens.grad is not None
    assert torch.allclose(scores, GOLDEN[f"{name}.out"], atol=1e-5)
    assert torch.allclose(head.embed(tokens), GOLDEN[f"{name}.no_last_layer"], atol=1e-5)
    assert torch.allclose(tokens.grad, GOLDEN[f"{name}.grad_x"], atol=1e-5)


def test_head_keys_are_the_published_ones() -> None:
    keys = set(PrototypeHead(8, 4, hidden_dim=6, bottleneck_dim=5).state_dict())
    linears = {f"mlp.{i}.{part}" for i in (0, 2, 4) for part in ("weight", "bias")}
    assert keys == linears | {"last_layer.weight"}


def test_unit_prototypes_give_cosines_whatever_their_length() -> None:
    torch.manual_seed(0)
    head = PrototypeHead(8, 32, hidden_dim=16, bottleneck_dim=6, unit_prototypes=True)
    tokens = torch.randn(10, 8)
    scores = head(tokens)
    with torch.no_grad():
        head.last_layer.weight.mul_(100)
    assert torch.allclose(head(tokens), scores, atol=1e-6)
    assert 0.5 < scores.abs().max().item() <= 1 + 1e-6, "cosines reach far enough for sharp targets"


def test_heads_start_small_and_without_bias() -> None:
    torch.manual_seed(0)
    head = PrototypeHead(64, 512, hidden_dim=256, bottleneck_dim=64)
    for name, parameter in head.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name


def test_projection_head_keeps_lengths_and_refuses_no_layers() -> None:
    torch.manual_seed(0)
    head = ProjectionHead(8, hidden_dim=16, out_dim=5, layers=2)
    lengths = head(torch.randn(14, 8)).norm(dim=-1)
    assert lengths.shape == (14,)
    assert lengths.std().item() > 0, "projections must not be normalised here"
    with pytest.raises(ValueError, match="at least 1 layer"):
        ProjectionHead(8, layers=0)


def test_projections_do_not_see_what_all_tokens_share() -> None:
    torch.manual_seed(0)
    head, tokens = ProjectionHead(8, hidden_dim=16, out_dim=5), torch.randn(14, 8)
    for training in (True, False):
        assert torch.allclose(head.train(training)(tokens), head(3 * tokens + 5), atol=1e-3)
    assert not [name for name, _ in head.named_buffers()], "a checkpoint and the teacher have parameters alone"
