"""MTL, the materials of an OBJ: what its many writers mean by it, or a refusal by name.

With `map_Kd` the texture is shown as it is, as Blender does: writers put anything into Kd beside it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from viewfold import limits
from viewfold.errors import AssetError
from viewfold.scene.assetfile import AssetFiles
from viewfold.scene.material import Material, Texture

_OPTIONS = {"-blendu": 1, "-blendv": 1, "-boost": 1, "-bm": 1, "-cc": 1, "-clamp": 1, "-colorspace": 1, "-imfchan": 1,
            "-mm": 2, "-texres": 1, "-type": 1, "-o": 3, "-s": 3, "-t": 3}  # fmt: skip
"""Options of a texture, and how many words follow each; the last three take one to three numbers."""

_BINARY_ALPHA = 0.9
"""Of the texels of a cut-out, at least so many are wholly there or not at all."""


@dataclass(frozen=True)
class Surface:
    """A material, and how texture coordinates are scaled and moved for it."""

    material: Material
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class _Map:
    file: str
    scale: tuple[float, float]
    offset: tuple[float, float]
    clamp: bool


def read_mtl(text: str) -> dict[str, dict[str, str]]:
    """Return the lines of each material of an MTL file, by name and keyword."""
    blocks: dict[str, dict[str, str]] = {}
    block: dict[str, str] = {}
    for line in re.sub(r"\\[ \t]*\r?\n", " ", text.removeprefix("\ufeff")).splitlines():
        word, _, rest = line.strip().replace("\t", " ").partition(" ")
        if word.lower() == "newmtl":
            block = blocks.setdefault(rest.strip(), {})
            if len(blocks) > limits.MESH_NODES:
                raise AssetError(f"it must have at most {limits.MESH_NODES} materials. Simplify it first.")
        elif word and not word.startswith("#"):
            block[word.lower()] = rest.strip()
    return blocks


class Surfaces:
    """Makes surfaces of materials, and reads each texture once; what no face uses is not asked for."""

    def __init__(self, files: AssetFiles) -> None:
        self._files = files
        self._images: dict[str, Float[Tensor, "h w c"]] = {}
        self._textures: dict[tuple[str, str | None, bool], Texture] = {}

    def surface(self, block: dict[str, str]) -> Surface:
        """Return what the lines of a material say.

        Raises:
            AssetError: a texture that is named is not there or cannot be read.
        """
        color = _color(block["kd"], "Kd") if "kd" in block else (1.0, 1.0, 1.0)
        glow = _color(block["ke"], "Ke") if "ke" in block else (0.0, 0.0, 0.0)
        opacity = _number(block["d"].removeprefix("-halo")) if "d" in block else 1.0
        if "d" not in block and "tr" in block:
            opacity = 1 - _number(block["tr"])
        material = Material(
            color=color,
            opacity=min(max(opacity, 0.0), 1.0),
            alpha_mode="opaque" if opacity >= 1 else "blend",
            emission=glow,
            roughness=min(max(_number(block["pr"]), 0.0), 1.0) if "pr" in block else 0.8,
            metallic=min(max(_number(block["pm"]), 0.0), 1.0) if "pm" in block else 0.0,
        )
        shown = _map(block["map_kd"]) if "map_kd" in block else None
        shine = _map(block["map_ke"]) if "map_ke" in block and any(glow) else None
        holes = _map(block["map_d"]) if "map_d" in block else None
        if shown is not None:
            texture = self._texture(shown, holes)
            alpha = texture.image[..., 3] if texture.image.shape[2] == 4 else None
            mode = material.alpha_mode
            if alpha is not None and mode == "opaque" and bool((alpha < 1).any()):
                cut = ((alpha < 0.02) | (alpha > 0.98)).float().mean()
                mode = "mask" if float(cut) >= _BINARY_ALPHA else "blend"
            material = replace(material, color=(1.0, 1.0, 1.0), texture=texture, alpha_mode=mode)
        elif holes is not None:
            raise AssetError("a material has map_d without map_Kd, which is not read. Put the alpha into map_Kd.")
        if shine is not None:
            material = replace(material, emission_texture=self._texture(shine, None))
        places = {(m.scale, m.offset) for m in (shown, shine, holes) if m is not None}
        if len(places) > 1:
            raise AssetError("textures of one material are scaled or moved differently, which is not read. Bake them.")
        scale, offset = places.pop() if places else ((1.0, 1.0), (0.0, 0.0))
        return Surface(material, scale, offset)

    def _texture(self, shown: _Map, holes: _Map | None) -> Texture:
        key = (shown.file, None if holes is None else holes.file, shown.clamp)
        if key not in self._textures:
            image = self._image(shown.file)
            if holes is not None and holes.file != shown.file:
                image = _with_alpha(image, self._image(holes.file))
            side = "clamp" if shown.clamp else "repeat"
            self._textures[key] = Texture(image=image, wrap=(side, side))
        return self._textures[key]

    def _image(self, name: str) -> Float[Tensor, "h w c"]:
        found = self._files.find(name)
        if found is None:
            raise AssetError(f"it refers to the texture `{name}`, which is not there. Put it beside it.")
        if found not in self._images:
            self._images[found] = self._files.image(self._files.read(found), name)
        return self._images[found]


def _map(line: str) -> _Map:
    """Read what follows map_Kd: options with their values, then a file whose name may hold spaces."""
    words, scale, offset, clamp = line.split(" "), [1.0, 1.0, 1.0], [0.0, 0.0, 0.0], False
    while words and (not words[0] or words[0].lower() in _OPTIONS):
        option = words.pop(0).lower()
        if not option:
            continue
        values: list[str] = []
        while words and len(values) < _OPTIONS[option] and (option not in ("-o", "-s", "-t") or _is_number(words[0])):
            values.append(words.pop(0))
        if option == "-clamp":
            clamp = values[:1] == ["on"]
        elif option in ("-s", "-o"):
            target = scale if option == "-s" else offset
            target[: len(values)] = [_number(value) for value in values]
    file = " ".join(words).strip()
    if not file:
        raise AssetError(f"`{line[:80]}` names no texture. Export it again.")
    return _Map(file, (scale[0], scale[1]), (offset[0], offset[1]), clamp)


def _with_alpha(image: Float[Tensor, "h w c"], holes: Float[Tensor, "y x d"]) -> Float[Tensor, "h w 4"]:
    alpha = holes[..., 3] if holes.shape[2] == 4 else holes[..., :3].mean(2)
    sized = torch.nn.functional.interpolate(alpha[None, None], image.shape[:2], mode="bilinear")[0, 0]
    return torch.cat([image[..., :3], sized[..., None]], dim=2)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _number(text: str) -> float:
    words = text.split()
    if not words or not _is_number(words[0]) or not np.isfinite(float(words[0])):
        raise AssetError(f"a material holds `{text[:40]}` where a number belongs. Export it again.")
    return float(words[0])


def _color(text: str, name: str) -> tuple[float, float, float]:
    words = text.split()
    if words and words[0] in ("spectral", "xyz"):
        raise AssetError(f"a material gives {name} as {words[0]}, which is not read. Export it as RGB.")
    values = [min(max(_number(word), 0.0), 1.0) for word in words[:3]]
    if not values:
        raise AssetError(f"a material's {name} holds no colour. Export it again.")
    red, green, blue = values if len(values) == 3 else [values[0]] * 3
    return red, green, blue
