"""Textures read at points: bilinear, wrapped as they say, from the level of their pyramid that fits the picture."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from viewfold.scene.material import Texture, Wrap


def sample_texture(
    texture: Texture, uv: Float[Tensor, "p 2"], texels: Float[Tensor, "p"], *, premultiplied: bool = False
) -> Float[Tensor, "p c"]:
    """Return a texture's colour, and its alpha if it has any; see `Pyramid` for what is read often."""
    return Pyramid(texture, premultiplied=premultiplied).read(uv[:, 0], uv[:, 1], texels).T


class Pyramid:
    """A texture and its halves, quarters, ... down to one texel, each made when it is first read.

    Args:
        premultiplied: weigh colours by their alpha where texels are averaged, so that what is absent leaves no fringe.
    """

    def __init__(self, texture: Texture, *, premultiplied: bool = False) -> None:
        image = texture.image.float()
        self._weighed = premultiplied and image.shape[2] == 4
        if self._weighed:
            image = torch.cat([image[..., :3] * image[..., 3:], image[..., 3:]], dim=2)
        self._texture = texture
        self._levels = [image.permute(2, 0, 1).contiguous()]

    def read(self, u: Float[Tensor, "p"], v: Float[Tensor, "p"], texels: Float[Tensor, "p"]) -> Float[Tensor, "c p"]:
        """Return colour, and alpha if there is any, at points.

        Args:
            u, v: to the right and upwards.
            texels: that one sample covers; from 2 on, a level is read where it covers about one.
        """
        level = (texels.clamp(min=1).log2_() / 2).round_().long()
        out = torch.empty(len(self._levels[0]), len(u), device=u.device)
        least, most = (int(q) for q in level.aminmax()) if len(level) else (0, -1)
        for number in range(least, most + 1):
            image = self._level(number)
            last = max(image.shape[1:]) == 1
            if least == most or (last and number == least):
                return self._separated(self._read_level(image, number, u, v))
            chosen = (level >= number if last else level == number).nonzero()[:, 0]
            if len(chosen):
                read = self._read_level(image, number, u.index_select(0, chosen), v.index_select(0, chosen))
                for channel, values in zip(out, read, strict=True):
                    channel.scatter_(0, chosen, values)
            if last:
                break
        return self._separated(out)

    def _level(self, number: int) -> Float[Tensor, "c h w"]:
        """Return a level, or the smallest."""
        while len(self._levels) <= number and max(self._levels[-1].shape[1:]) > 1:
            self._levels.append(_halved(self._levels[-1]))
        return self._levels[min(number, len(self._levels) - 1)]

    def _read_level(
        self, image: Float[Tensor, "c h w"], number: int, u: Float[Tensor, "p"], v: Float[Tensor, "p"]
    ) -> Float[Tensor, "c p"]:
        read = _nearest if self._texture.nearest and number == 0 else _bilinear
        return read(image, u, v, self._texture.wrap)

    def _separated(self, values: Float[Tensor, "c p"]) -> Float[Tensor, "c p"]:
        """Return colours that are not weighed by alpha."""
        if self._weighed:
            values[:3] /= values[3:].clamp(min=1e-4)
        return values


def _halved(image: Float[Tensor, "c h w"]) -> Float[Tensor, "c i j"]:
    """Return the means of 2x2 texels, or of 2 where the picture is one wide; an odd last one is left out."""
    _, height, width = image.shape
    rows = [image[:, i : height - height % 2 : 2] for i in (0, 1)] if height > 1 else [image]
    parts = [row[..., j : width - width % 2 : 2] if width > 1 else row for row in rows for j in range(min(2, width))]
    return sum(parts[1:], start=parts[0]) / len(parts)


def _bilinear(
    image: Float[Tensor, "c h w"], u: Float[Tensor, "p"], v: Float[Tensor, "p"], wrap: tuple[Wrap, Wrap]
) -> Float[Tensor, "c p"]:
    height, width = image.shape[1:]
    x, y = (u * width).sub_(0.5), (1 - v).mul_(height).sub_(0.5)
    left, top = x.floor(), y.floor()
    fx, fy = x.sub_(left), y.sub_(top)
    columns = [_wrapped(left.long().add_(i), width, wrap[0]) for i in (0, 1)]
    rows = [_wrapped(top.long().add_(i), height, wrap[1]).mul_(width) for i in (0, 1)]
    places = [[row + column for column in columns] for row in rows]
    gx, gy = 1 - fx, 1 - fy
    channels = []
    for texels in image.flatten(1):
        upper, lower = (
            texels.index_select(0, one).mul_(gx).add_(texels.index_select(0, two).mul_(fx)) for one, two in places
        )
        channels.append(upper.mul_(gy).add_(lower.mul_(fy)))
    return torch.stack(channels)


def _nearest(
    image: Float[Tensor, "c h w"], u: Float[Tensor, "p"], v: Float[Tensor, "p"], wrap: tuple[Wrap, Wrap]
) -> Float[Tensor, "c p"]:
    height, width = image.shape[1:]
    column = _wrapped((u * width).floor_().long(), width, wrap[0])
    row = _wrapped(((1 - v) * height).floor_().long(), height, wrap[1])
    return image.flatten(1).index_select(1, row.mul_(width).add_(column))


def _wrapped(index: Int[Tensor, "p"], size: int, wrap: Wrap) -> Int[Tensor, "p"]:
    """Return which texel stands for one that may lie outside of the picture."""
    if wrap == "clamp":
        return index.clamp_(0, size - 1)
    if wrap == "mirror":
        index = index % (2 * size)
        return torch.where(index < size, index, 2 * size - 1 - index)
    return index % size
