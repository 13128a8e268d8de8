"""Materials, textures and images (glTF 2.0, 3.8 and 3.9), in our terms.

glTF's factors are linear and become sRGB.  Our light is soft and has no exposure, so that colour, emission and mean
roughness are all that a picture needs: normal and occlusion maps are passed over, and a metallic-roughness map counts
by its mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.errors import AssetError
from viewfold.scene.color import srgb_from_linear
from viewfold.scene.gltf.document import Document
from viewfold.scene.material import AlphaMode, Material, Texture, Wrap

_WRAPS: dict[int, Wrap] = {10497: "repeat", 33071: "clamp", 33648: "mirror"}
_NEAREST = 9728
_MODES: dict[str, AlphaMode] = {"OPAQUE": "opaque", "MASK": "mask", "BLEND": "blend"}


@dataclass(frozen=True)
class Place:
    """Which texture coordinates a texture is looked up at, and how they are moved (KHR_texture_transform)."""

    set: int = 0
    offset: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)

    def move(self, uv: Float[np.ndarray, "k 2"]) -> Float[np.ndarray, "k 2"]:
        """Return glTF's coordinates (v downwards) under translation x rotation x scale."""
        u, v = uv[:, 0] * self.scale[0], uv[:, 1] * self.scale[1]
        c, s = np.cos(self.rotation), np.sin(self.rotation)
        return np.stack([c * u + s * v + self.offset[0], -s * u + c * v + self.offset[1]], axis=1)


@dataclass(frozen=True)
class Look:
    """A material, and where its two textures are looked up."""

    material: Material
    color: Place | None = None
    emission: Place | None = None


class Looks:
    """Reads materials, each once, and each image once for all of them."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._looks: dict[int | None, Look] = {}
        self._images: dict[int, Float[Tensor, "h w c"]] = {}
        self._textures: dict[tuple[int, int, int, Any], Texture] = {}

    def of(self, index: int | None) -> Look:
        """Return a material; None is the format's default."""
        if index not in self._looks:
            source = {} if index is None else self._document.entry("materials", index)
            self._looks[index] = self._read(source)
        return self._looks[index]

    def _read(self, source: dict[str, Any]) -> Look:
        extensions = source.get("extensions", {})
        base = source.get("pbrMetallicRoughness", {})
        factor, image = base.get("baseColorFactor"), base.get("baseColorTexture")
        metallic, roughness = _number(base.get("metallicFactor", 1)), _number(base.get("roughnessFactor", 1))
        if "metallicRoughnessTexture" in base:
            red_green_blue = self._mean(base["metallicRoughnessTexture"])
            roughness, metallic = roughness * red_green_blue[1], metallic * red_green_blue[2]
        glossy = extensions.get("KHR_materials_pbrSpecularGlossiness")
        if glossy is not None:
            factor, image = glossy.get("diffuseFactor"), glossy.get("diffuseTexture")
            metallic, roughness = 0.0, 1 - _number(glossy.get("glossinessFactor", 1))
        red, green, blue, opacity = _vector(factor, (1.0, 1.0, 1.0, 1.0))
        strength = extensions.get("KHR_materials_emissive_strength", {}).get("emissiveStrength", 1.0)
        glow = [component * _number(strength) for component in _vector(source.get("emissiveFactor"), (0.0, 0.0, 0.0))]
        shines = any(component > 0 for component in glow)
        emissive = source.get("emissiveTexture") if shines else None
        mode = source.get("alphaMode", "OPAQUE")
        if mode not in _MODES:
            raise AssetError(f"its alphaMode must be {', '.join(_MODES)}; got {mode!r}. Export it again.")
        return Look(
            material=Material(
                color=_srgb((red, green, blue)),
                texture=None if image is None else self._texture(image),
                opacity=min(max(opacity, 0.0), 1.0),
                alpha_mode=_MODES[mode],
                alpha_cutoff=_number(source.get("alphaCutoff", 0.5)),
                emission=_srgb((glow[0], glow[1], glow[2])),
                emission_texture=None if emissive is None else self._texture(emissive),
                lit="KHR_materials_unlit" not in extensions,
                roughness=min(max(roughness, 0.0), 1.0),
                metallic=min(max(metallic, 0.0), 1.0),
            ),
            color=None if image is None else _place(image),
            emission=None if emissive is None else _place(emissive),
        )

    def _texture(self, info: dict[str, Any]) -> Texture:
        source = self._document.entry("textures", info.get("index"))
        sampler = {} if "sampler" not in source else self._document.entry("samplers", source["sampler"])
        key = (self._source(source), sampler.get("wrapS", 10497), sampler.get("wrapT", 10497), sampler.get("magFilter"))
        if key not in self._textures:
            number, across, down, magnify = key
            if across not in _WRAPS or down not in _WRAPS:
                raise AssetError(f"its sampler wraps by {across!r} and {down!r}, which are no modes. Export it again.")
            wrap = (_WRAPS[across], _WRAPS[down])
            self._textures[key] = Texture(image=self._image(number), wrap=wrap, nearest=magnify == _NEAREST)
        return self._textures[key]

    @staticmethod
    def _source(texture: dict[str, Any]) -> int:
        webp = texture.get("extensions", {}).get("EXT_texture_webp", {})
        source = webp.get("source", texture.get("source"))
        if source is None:
            raise AssetError(
                f"a texture has no picture that is read ({', '.join(texture.get('extensions', {})) or 'none at all'}). "
                "Export it with PNG or JPEG textures."
            )
        return source

    def _image(self, index: int) -> Float[Tensor, "h w c"]:
        if index not in self._images:
            image = self._document.entry("images", index)
            name = str(image.get("uri", image.get("name", f"number {index}")))[:80]
            if "bufferView" in image:
                content = bytes(self._document.view(image["bufferView"])[0])
            else:
                content = self._document.resource(image.get("uri"))
            self._images[index] = self._document.files.image(content, name)
        return self._images[index]

    def _mean(self, info: dict[str, Any]) -> list[float]:
        image = self._image(self._source(self._document.entry("textures", info.get("index"))))
        return image[..., :3].mean((0, 1)).tolist()


def _place(info: dict[str, Any]) -> Place:
    moved = info.get("extensions", {}).get("KHR_texture_transform", {})
    offset, scale = _vector(moved.get("offset"), (0.0, 0.0)), _vector(moved.get("scale"), (1.0, 1.0))
    return Place(
        set=int(_number(moved.get("texCoord", info.get("texCoord", 0)))),
        offset=(offset[0], offset[1]),
        rotation=_number(moved.get("rotation", 0.0)),
        scale=(scale[0], scale[1]),
    )


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise AssetError(f"it holds {value!r} where a number belongs. Export it again.")
    return float(value)


def _vector(value: Any, default: tuple[float, ...]) -> tuple[float, ...]:
    if value is None:
        return default
    if not isinstance(value, list) or len(value) not in (len(default), 3 if len(default) == 4 else len(default)):
        raise AssetError(f"it holds {value!r} where {len(default)} numbers belong. Export it again.")
    return (*(_number(x) for x in value), *default[len(value) :])


def _srgb(linear: tuple[float, float, float]) -> tuple[float, float, float]:
    red, green, blue = srgb_from_linear(np.clip(np.array(linear), 0, 1)).tolist()
    return red, green, blue


def vertex_colors(values: Float[np.ndarray, "k w"]) -> tuple[Float[Tensor, "k 3"], Float[Tensor, "k"] | None]:
    """Return COLOR_0, linear, as sRGB and alpha (None where it has three channels)."""
    if values.shape[1] not in (3, 4):
        raise AssetError(f"its COLOR_0 must have 3 or 4 channels; it has {values.shape[1]}. Export it again.")
    values = np.clip(np.nan_to_num(values), 0, 1)
    color = torch.from_numpy(srgb_from_linear(values[:, :3])).float()
    return color, None if values.shape[1] == 3 else torch.from_numpy(values[:, 3].copy()).float()
