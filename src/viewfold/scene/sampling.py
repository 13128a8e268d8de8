"""Textures read at points: bilinear, wrapped as they say, from the level of their pyramid that fits the picture."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from viewfold.scene.material import Texture, Wrap


def sample_texture(
    texture: Texture, uv: Float[Tensor, "p 2"], texels: Float[Tensor, "p"], *, premultiplied: bool = False
) -> Float[Tensor, "p c"]:
    """Return a texture's colour, and its alpha if it has any.

    Args:
        uv: u right and v up.
        texels: that one sample covers; from 2 on, a level of the pyramid is read where it covers about one.
        premultiplied: weigh colours by their alpha where texels are averaged, so that what is absent leaves no fringe.
    """
    level = (texels.clamp(min=1).log2() / 2).round().long()
    image = texture.image.float()
    weighed = premultiplied and image.shape[2] == 4
    if weighed:
        image = torch.cat([image[..., :3] * image[..., 3:], image[..., 3:]], dim=2)
    out = torch.empty(len(uv), image.shape[2], device=uv.device)
    for number in range(int(level.max()) + 1 if len(level) else 0):
        chosen = (level == number).nonzero()[:, 0]
        smallest = max(image.shape[:2]) == 1
        if smallest:
            chosen = (level >= number).nonzero()[:, 0]
        if len(chosen):
            magnified = texture.nearest and number == 0
            read = _nearest if magnified else _bilinear
            out[chosen] = read(image, uv[chosen], texture.wrap)
        if smallest:
            break
        window = (min(2, image.shape[0]), min(2, image.shape[1]))
        image = functional.avg_pool2d(image.permute(2, 0, 1)[None], window)[0].permute(1, 2, 0)
    if weighed:
        out[:, :3] /= out[:, 3:].clamp(min=1e-4)
    return out


def _bilinear(image: Float[Tensor, "h w c"], uv: Float[Tensor, "p 2"], wrap: tuple[Wrap, Wrap]) -> Float[Tensor, "p c"]:
    height, width = image.shape[:2]
    place = torch.stack([uv[:, 0] * width, (1 - uv[:, 1]) * height], dim=1) - 0.5
    low = place.floor()
    fx, fy = (place - low)[:, :1], (place - low)[:, 1:]
    left, top = low.long().unbind(1)
    columns = [_wrapped(left + i, width, wrap[0]) for i in (0, 1)]
    rows = [_wrapped(top + i, height, wrap[1]) for i in (0, 1)]
    upper, lower = (image[row, columns[0]] * (1 - fx) + image[row, columns[1]] * fx for row in rows)
    return upper * (1 - fy) + lower * fy


def _nearest(image: Float[Tensor, "h w c"], uv: Float[Tensor, "p 2"], wrap: tuple[Wrap, Wrap]) -> Float[Tensor, "p c"]:
    height, width = image.shape[:2]
    column = _wrapped((uv[:, 0] * width).floor().long(), width, wrap[0])
    row = _wrapped(((1 - uv[:, 1]) * height).floor().long(), height, wrap[1])
    return image[row, column]


def _wrapped(index: Int[Tensor, "p"], size: int, wrap: Wrap) -> Int[Tensor, "p"]:
    """Return which texel stands for one that may lie outside of the picture."""
    if wrap == "clamp":
        return index.clamp(0, size - 1)
    if wrap == "mirror":
        index = index % (2 * size)
        return torch.where(index < size, index, 2 * size - 1 - index)
    return index % size
