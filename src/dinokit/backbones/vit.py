"""The DINOv3 vision transformer: patches, class token, registers, RoPE, LayerScale (DINOv3, section 3; ViT,
Dosovitskiy et al. 2021; registers, Darcet et al. 2024).

Attributes carry the names of the published files (`storage_tokens` are the registers), so the state dict is
theirs. Device, dtype and the form of attention are chosen from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinokit.backbones.features import Features
from dinokit.backbones.rope import Rope, RopeSpec, Table, rotate

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ViTSpec:
    """The shape of a vision transformer: everything that its weights do not say by themselves."""

    width: int
    depth: int
    heads: int
    ffn_hidden: int
    ffn: Literal["mlp", "swiglu"] = "mlp"
    patch_size: int = 16
    in_channels: int = 3
    registers: int = 4
    qkv_bias: bool = True
    mask_k_bias: bool = True
    """The bias of the keys is multiplied by zero, whatever the stored numbers are."""
    norm_eps: float = 1e-5
    layer_scale: float | None = 1e-5
    untied_cls_norm: bool = False
    """Class token and registers have a final norm of their own."""
    local_cls_norm: bool = False
    """Class token and registers of local crops have a final norm of their own while training."""
    drop_path: float = 0.0
    rope: RopeSpec = field(default_factory=RopeSpec)

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def side_multiple(self) -> int:
        """Sides of a picture are multiples of this many pixels."""
        return self.patch_size


def fused_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / sqrt(d)) v by PyTorch's fused operator; [B, heads, T, d] each."""
    return F.scaled_dot_product_attention(q, k, v)


def explicit_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same, written out: faster on a CPU while training, since the fused backward is slow there."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # [B, heads, T, T]
    mixed: Tensor = scores.softmax(dim=-1) @ v
    return mixed


class QKV(nn.Linear):
    """Queries, keys and values in one product, with the key bias masked if the network says so."""

    def __init__(self, width: int, bias: bool, mask_k_bias: bool) -> None:
        super().__init__(width, 3 * width, bias=bias)
        if bias and mask_k_bias:
            keep = torch.ones(3, width)
            keep[1] = 0
            self.register_buffer("bias_mask", keep.flatten())

    def forward(self, x: Tensor) -> Tensor:
        mask = self._buffers.get("bias_mask")
        bias = self.bias if mask is None else self.bias * mask
        return F.linear(x, self.weight, bias)


class SelfAttention(nn.Module):
    def __init__(self, spec: ViTSpec) -> None:
        super().__init__()
        self.heads = spec.heads
        self.qkv = QKV(spec.width, spec.qkv_bias, spec.mask_k_bias)
        self.proj = nn.Linear(spec.width, spec.width)
        self.attention: Attention = fused_attention

    def forward(self, x: Tensor, table: Table) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # [3, B, heads, T, d]
        q, k = rotate(qkv[:2], table)
        mixed = self.attention(q, k, qkv[2])  # [B, heads, T, d]
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return out


class MLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class SwiGLU(nn.Module):
    """Gated feed-forward network (Shazeer 2020): w1 gate, w2 value, w3 output."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, hidden)
        self.w2 = nn.Linear(width, hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w3(F.silu(self.w1(x)) * self.w2(x))
        return out


class LayerScale(nn.Module):
    """A learnt factor per channel on a residual branch (Touvron et al. 2021)."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), float(initial)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def kept_samples(batch: int, rate: float, device: torch.device) -> Tensor:
    """The samples that go through a branch in this step: a random subset, at least one."""
    return torch.randperm(batch, device=device)[: max(int(batch * (1 - rate)), 1)]


class Block(nn.Module):
    def __init__(self, spec: ViTSpec) -> None:
        super().__init__()
        self.drop_path = spec.drop_path
        self.norm1 = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.attn = SelfAttention(spec)
        self.norm2 = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.mlp = (MLP if spec.ffn == "mlp" else SwiGLU)(spec.width, spec.ffn_hidden)
        if spec.layer_scale is not None:
            self.ls1 = LayerScale(spec.width, spec.layer_scale)
            self.ls2 = LayerScale(spec.width, spec.layer_scale)
        self.scaled = spec.layer_scale is not None

    def forward(self, x: Tensor, table: Table) -> Tensor:
        x = self._residual(x, lambda y: self._attend(y, table))
        return self._residual(x, self._feed_forward)

    def _attend(self, x: Tensor, table: Table) -> Tensor:
        out: Tensor = self.attn(self.norm1(x), table)
        return self.ls1(out) if self.scaled else out

    def _feed_forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mlp(self.norm2(x))
        return self.ls2(out) if self.scaled else out

    def _residual(self, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """x + branch(x); while training with drop path, for a random subset of the samples, scaled up."""
        if not self.training or self.drop_path == 0:
            return x + branch(x)
        kept = kept_samples(len(x), self.drop_path, x.device)
        update = branch(x[kept]) * (len(x) / len(kept))
        return x.index_add(0, kept, update.to(x.dtype))


class PatchEmbed(nn.Module):
    """Cuts a picture into patches and projects each; a remainder at the bottom and right is left out.

    The weights are a convolution's, the product is a linear map of unfolded pixels: the same numbers,
    without the convolution's slow backward pass.
    """

    def __init__(self, spec: ViTSpec) -> None:
        super().__init__()
        self.proj = nn.Conv2d(spec.in_channels, spec.width, spec.patch_size, stride=spec.patch_size)

    def forward(self, pictures: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, h, w, D]."""
        patch = self.proj.kernel_size[0]
        batch, channels, height, width = pictures.shape
        rows, cols = height // patch, width // patch
        cells = pictures[..., : rows * patch, : cols * patch].reshape(batch, channels, rows, patch, cols, patch)
        pixels = cells.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows, cols, -1)  # [B, h, w, C*p*p]
        return F.linear(pixels, self.proj.weight.flatten(1), self.proj.bias)


class VisionTransformer(nn.Module):
    """A DINOv3 ViT. Normalised pictures [B, C, H, W] in, `Features` out."""

    def __init__(self, spec: ViTSpec) -> None:
        super().__init__()
        self.spec = spec
        self.patch_embed = PatchEmbed(spec)
        self.cls_token = nn.Parameter(torch.empty(1, 1, spec.width))
        if spec.registers:
            self.storage_tokens = nn.Parameter(torch.empty(1, spec.registers, spec.width))
        self.mask_token = nn.Parameter(torch.empty(1, spec.width))
        self.rope_embed = Rope(spec.head_dim, spec.rope)
        self.blocks = nn.ModuleList([Block(spec) for _ in range(spec.depth)])
        self.norm = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        if spec.untied_cls_norm:
            self.cls_norm = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        if spec.local_cls_norm:
            self.local_cls_norm = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.initialize()

    def initialize(self) -> None:
        """Draw all weights as the published training does (truncated normal, deviation 0.02)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        bound = self.patch_embed.proj.weight[0].numel() ** -0.5
        nn.init.uniform_(self.patch_embed.proj.weight, -bound, bound)
        if self.patch_embed.proj.bias is not None:
            nn.init.uniform_(self.patch_embed.proj.bias, -bound, bound)
        nn.init.normal_(self.cls_token, std=0.02)
        if self.spec.registers:
            nn.init.normal_(self.storage_tokens, std=0.02)
        nn.init.zeros_(self.mask_token)

    def use_attention(self, attention: Attention) -> None:
        """Choose the form of attention in every block: `fused_attention` or `explicit_attention`."""
        for block in self.blocks:
            block.attn.attention = attention  # type: ignore[union-attr]

    def forward(self, pictures: Tensor, masks: Tensor | None = None, *, local: bool = False) -> Features:
        """Features after the final norm.

        pictures [B, C, H, W] normalised; masks bool [B, h*w], True where the mask token stands in;
        `local` says that these are local crops, which matters only to a `local_cls_norm` while training.
        """
        x, rows, cols = self._embed(pictures, masks)
        for table, block in zip(self._tables(rows, cols), self.blocks, strict=True):
            x = block(x, table)
        return self._features(x, rows, cols, norm=True, local=local)

    def intermediate(self, pictures: Tensor, layers: Sequence[int], norm: bool = True) -> list[Features]:
        """Features after each of the blocks `layers` (from 0, negative from the end), in the order asked for."""
        depth = self.spec.depth
        if not all(-depth <= layer < depth for layer in layers):
            raise IndexError(f"layers {list(layers)}: this network has blocks 0 to {depth - 1}")
        wanted = [layer % depth for layer in layers]
        x, rows, cols = self._embed(pictures, None)
        found = {}
        for index, (table, block) in enumerate(zip(self._tables(rows, cols), self.blocks, strict=True)):
            x = block(x, table)
            if index in wanted:
                found[index] = self._features(x, rows, cols, norm=norm)
        return [found[layer] for layer in wanted]

    def _tables(self, rows: int, cols: int) -> list[Table]:
        """One RoPE table a block: drawn anew for each while training with perturbed coordinates."""
        prefix, rope = 1 + self.spec.registers, self.spec.rope
        perturbed = self.training and any((rope.shift, rope.jitter, rope.rescale))
        draws = self.spec.depth if perturbed else 1
        tables = [self.rope_embed(rows, cols, prefix) for _ in range(draws)]
        return tables if perturbed else tables * self.spec.depth

    def _embed(self, pictures: Tensor, masks: Tensor | None) -> tuple[Tensor, int, int]:
        """Pictures -> token sequence [B, 1 + R + h*w, D]."""
        patches = self.patch_embed(pictures)
        rows, cols = patches.shape[1:3]
        patches = patches.flatten(1, 2).to(self.cls_token.dtype)  # [B, h, w, D] -> [B, h*w, D]
        if masks is not None:
            patches = torch.where(masks[..., None], self.mask_token, patches)
        prefix = [self.cls_token] + ([self.storage_tokens] if self.spec.registers else [])
        return torch.cat([*(token.expand(len(patches), -1, -1) for token in prefix), patches], dim=1), rows, cols

    def _features(self, x: Tensor, rows: int, cols: int, *, norm: bool, local: bool = False) -> Features:
        count = 1 + self.spec.registers
        prefix, patches = x[:, :count], x[:, count:]
        if norm:
            own = self.spec.local_cls_norm and local and self.training
            cls_norm = self.local_cls_norm if own else self.cls_norm if self.spec.untied_cls_norm else self.norm
            prefix, patches = cls_norm(prefix), self.norm(patches)
        return Features(prefix[:, 0], prefix[:, 1:], patches.unflatten(1, (rows, cols)))
