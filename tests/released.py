"""Files in the layout of MVDream's releases, in miniature: every part, the original's names, random weights.

released(kind)     the tensors of a whole checkpoint: "sd21" (OpenCLIP tower) or "sd15" (CLIP tower)
unet(kind)         those of its network, with the settings of `convert` that fit
OpenClipTower      the text tower of SD 2.1 as OpenCLIP computes it, in plain torch
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from viewfold.model.presets import UNetLayout
from viewfold.weights.keymap import original_name, unet_modules, vae_modules

WIDTH, N_TOKENS, LENGTH = 64, 49408, 77
LAYOUTS = {
    "sd21": UNetLayout(channels=(32, 64), attention=(True, False), n_resnets=1, text_dim=WIDTH, head_channels=16),
    "sd15": UNetLayout(
        channels=(32, 64), attention=(True, False), n_resnets=1, text_dim=WIDTH, heads=4, linear_projection=False
    ),
}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (32, 32),
    "layers_per_block": 1,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}


def random_tensors(shapes: dict[str, tuple[int, ...]], *, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def shapes_of(network: nn.Module, modules: dict[str, str]) -> dict[str, tuple[int, ...]]:
    state = network.state_dict()
    return {original_name(name, modules): tuple(tensor.shape) for name, tensor in state.items()}


def unet_tensors(kind: str, *, camera: bool = True) -> dict[str, Tensor]:
    layout = LAYOUTS[kind]
    with torch.device("meta"):
        shapes = shapes_of(layout.build(), unet_modules(layout))
    return random_tensors({k: v for k, v in shapes.items() if camera or not k.startswith("camera_embed")}, seed=1)


def vae_tensors() -> dict[str, Tensor]:
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        network = AutoencoderKL(**VAE)
    tensors = random_tensors(shapes_of(network, vae_modules(VAE)), seed=2)
    squares = {name for name in tensors if ".mid.attn_1." in name and name.endswith("weight") and "norm" not in name}
    return {name: tensor[:, :, None, None] if name in squares else tensor for name, tensor in tensors.items()}


class Block(nn.Module):
    """A residual block of OpenCLIP's text transformer."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, n_heads)  # tokens first, as OpenCLIP feeds it
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class OpenClipTower(nn.Module):
    """Token states after the last but one block and the final norm, as MVDream reads them."""

    def __init__(self, *, width: int = WIDTH, n_blocks: int = 3, n_heads: int = 1) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(N_TOKENS, width)
        self.positional_embedding = nn.Parameter(torch.randn(LENGTH, width))
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList([Block(width, n_heads) for _ in range(n_blocks)])
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, width))
        self.logit_scale = nn.Parameter(torch.ones(()))
        self.register_buffer("attn_mask", torch.full((LENGTH, LENGTH), float("-inf")).triu(1))

    def forward(self, ids: Tensor) -> Tensor:
        x = (self.token_embedding(ids) + self.positional_embedding).movedim(1, 0)
        for block in list(self.transformer.resblocks)[:-1]:  # type: ignore[arg-type]
            x = block(x, self.attn_mask)
        return self.ln_final(x.movedim(0, 1))


def open_clip_tower(**sizes: int) -> OpenClipTower:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        tower = OpenClipTower(**sizes).eval()
        for parameter in tower.parameters():
            if parameter.ndim:
                parameter.normal_(0.0, 0.3)
    return tower


def clip_tensors() -> dict[str, Tensor]:
    """The tower of SD 1.5 in the names that transformers had, with the stray positions."""
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng():
        torch.manual_seed(4)
        config = CLIPTextConfig(
            hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=2, num_attention_heads=1
        )
        state = CLIPTextModel(config).state_dict()
    tensors = {f"transformer.text_model.{name}": tensor for name, tensor in state.items()}
    return {**tensors, "transformer.text_model.embeddings.position_ids": torch.arange(LENGTH)[None]}


def text_tensors(kind: str) -> dict[str, Tensor]:
    if kind == "sd15":
        return clip_tensors()
    return {f"model.{name}": tensor for name, tensor in open_clip_tower().state_dict().items()}


def released(kind: str, *, camera: bool = True) -> dict[str, Tensor]:
    """The tensors of a whole checkpoint, schedule buffers included."""
    parts = {
        "model.diffusion_model.": unet_tensors(kind, camera=camera),
        "first_stage_model.": vae_tensors(),
        "cond_stage_model.": text_tensors(kind),
    }
    tensors = {prefix + name: tensor for prefix, part in parts.items() for name, tensor in part.items()}
    buffers = ("betas", "alphas_cumprod", "sqrt_one_minus_alphas_cumprod", "posterior_mean_coef1")
    return {**tensors, **{name: torch.linspace(0, 1, 1000) for name in buffers}}


def heads_of(kind: str) -> dict[str, int]:
    """What the shapes do not tell."""
    layout = LAYOUTS[kind]
    return {"heads": layout.heads} if layout.heads else {"head_channels": layout.head_channels or 0}
