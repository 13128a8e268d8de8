"""OpenGL as an engine, by moderngl: the built-in engine's picture, several times faster, on a GPU or in software.

The same corners, normals, textures and light as `scene.rasterize` and `scene.light`, so that one may stand for the
other; `shaders` holds what runs on the card.  Surfaces that blend with what lies behind them are refused by name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from viewfold.camera import Cameras
from viewfold.data.engines import shaders
from viewfold.data.engines.settings import RenderSettings
from viewfold.data.engines.subject import Pictures, Subject
from viewfold.errors import AssetError, MissingExtraError
from viewfold.scene.light import Light
from viewfold.scene.material import Material, Texture
from viewfold.scene.mesh import Mesh
from viewfold.scene.visibility import NEAR

_CORNER = "3f 3f 4f 2f 2f 3f 3f"
_FIELDS = ("at", "normal", "color", "uv", "emission_uv", "surface", "emission")
_MAX_SAMPLES = 16384
"""Across and down; what every OpenGL 4 allows."""


class OpenGL:
    """Draws in this process, in a context of its own."""

    def __init__(self, *, threads: int | None = None) -> None:
        try:
            import moderngl  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingExtraError(
                "`engine` moderngl needs the package of that name. Install it: pip install 'moderngl>=5.12'."
            ) from error
        if threads is not None:
            os.environ.setdefault("LP_NUM_THREADS", str(threads))  # of Mesa's software renderer
        try:
            self._context = _new_context(moderngl)
        except Exception as error:
            raise MissingExtraError(
                f"`engine` moderngl needs OpenGL 3.3 with EGL; it says: {error}. Install a driver (apt install libegl1 "
                "libgl1-mesa-dri), or use the built-in engine."
            ) from error
        self.version = f"moderngl {version('moderngl')}, {self._context.info['GL_RENDERER']}"
        self._context.front_face = "cw"  # the projection looks down, so that row 0 is read first
        self._programs: dict[bool, Any] = {}
        self._screens: dict[tuple[int, int, bool], _Screen] = {}

    def draw(self, subject: Subject, cameras: Cameras, settings: RenderSettings) -> Pictures:
        """Return the pictures; see `Engine`."""
        mesh = subject.mesh
        if any(_blends(material, mesh) for material in mesh.materials):
            raise AssetError(
                f"`{subject.path or subject.uid}` cannot be drawn by moderngl: a material of it is translucent. "
                "Use another engine."
            )
        if settings.size * settings.supersample > _MAX_SAMPLES:
            raise AssetError(f"`size` x `supersample` must be at most {_MAX_SAMPLES} for moderngl. Ask for less.")
        wants_more = settings.depth or settings.normals
        screen = self._screen(settings, wants_more)
        program = self._program(wants_more)
        parts = _Parts(self._context, program, mesh)
        try:
            _set_light(program, settings.light_of(subject.uid))
            radius = float(mesh.vertices.norm(dim=1).max())
            views = []
            for pose, fov in zip(cameras.world_from_camera.double().numpy(), cameras.fov_deg.tolist(), strict=True):
                program["eye"] = tuple(pose[:3, 3])
                program["clip_from_world"].write(_projection(pose, fov, radius).T.astype("f4").tobytes())
                views.append(screen.photograph(parts))
        finally:
            parts.release()
        return _pictures(views, settings.size)

    def close(self) -> None:
        """Release the context."""
        self._context.release()

    def _program(self, wants_more: bool) -> Any:
        if wants_more not in self._programs:
            self._programs[wants_more] = shaders.surface_program(self._context, wants_more)
        return self._programs[wants_more]

    def _screen(self, settings: RenderSettings, wants_more: bool) -> _Screen:
        key = settings.size, settings.supersample, wants_more
        if key not in self._screens:
            self._screens[key] = _Screen(self._context, *key)
        return self._screens[key]


class _Screen:
    """What is drawn on: all samples, and the pixels that they are averaged to."""

    def __init__(self, context: Any, size: int, supersample: int, wants_more: bool) -> None:
        kinds = ("f1", "f4") if wants_more else ("f1",)
        n = size * supersample
        self.context, self.size = context, size
        self.samples = [context.texture((n, n), 4, dtype=kind) for kind in kinds]
        self.pixels = [context.texture((size, size), 4, dtype=kind) for kind in kinds]
        self.large = context.framebuffer(self.samples, context.depth_texture((n, n)))
        self.small = context.framebuffer(self.pixels)
        program = shaders.pooling_program(context, supersample, wants_more)
        self.pool = context.vertex_array(program, [])

    def photograph(self, parts: _Parts) -> list[np.ndarray]:
        """Return the arrays "h w 4" of one view: colour (bytes, straight), and normal and depth."""
        context = self.context
        self.large.use()
        self.large.clear(0.0, 0.0, 0.0, 0.0, depth=1.0)
        context.enable(context.DEPTH_TEST)
        parts.draw()
        self.small.use()
        context.disable(context.DEPTH_TEST)
        for number, texture in enumerate(self.samples):
            texture.use(number)
        self.pool.render(context.TRIANGLES, vertices=3)
        kinds = (np.uint8, np.float32)
        return [
            np.frombuffer(pixels.read(), kind).reshape(self.size, self.size, 4)
            for pixels, kind in zip(self.pixels, kinds, strict=False)
        ]


class _Parts:
    """A mesh on the card: its corners, sorted by material, and a range of them for each material with its textures."""

    def __init__(self, context: Any, program: Any, mesh: Mesh) -> None:
        self.context, self.program, self.textures = context, program, {}
        material = mesh.material_index()
        order = material.argsort(stable=True)
        self.buffer = context.buffer(_corners(mesh, order).tobytes())
        present = [f for f in _FIELDS if f in program]
        layout = " ".join(
            kind if field in present else f"{int(kind[0]) * 4}x"
            for field, kind in zip(_FIELDS, _CORNER.split(), strict=True)
        )
        self.array = context.vertex_array(program, [(self.buffer, layout, *present)])
        self.ranges: list[tuple[Material, int, int]] = []
        ends = torch.bincount(material, minlength=len(mesh.materials)).cumsum(0).tolist()
        for item, first, end in zip(mesh.materials, [0, *ends], ends, strict=False):
            if end == first:
                continue
            last = self.ranges[-1] if self.ranges else None
            if last is not None and _alike(last[0], item):
                self.ranges[-1] = (last[0], last[1], end)
            else:
                self.ranges.append((item, first, end))

    def draw(self) -> None:
        """Draw all of them."""
        for material, first, end in self.ranges:
            self._bind("image", 0, material.texture)
            self._bind("glow", 1, material.emission_texture)
            self.program["cutoff"] = material.alpha_cutoff if material.alpha_mode == "mask" else -1.0
            self.array.render(self.context.TRIANGLES, vertices=3 * (end - first), first=3 * first)

    def release(self) -> None:
        """Free the card's memory."""
        for thing in (*self.textures.values(), self.array, self.buffer):
            thing.release()

    def _bind(self, name: str, unit: int, texture: Texture | None) -> None:
        self.program[f"has_{name}"] = texture is not None
        if texture is None:
            return
        if id(texture) not in self.textures:
            self.textures[id(texture)] = _upload(self.context, texture)
        self.textures[id(texture)].use(unit)
        self.program[name] = unit
        self.program[f"{name}_mirrors"] = tuple(wrap == "mirror" for wrap in texture.wrap)


def _new_context(moderngl: Any) -> Any:
    try:
        return moderngl.create_context(standalone=True, backend="egl", require=330)
    except Exception:
        if os.name == "posix" and os.uname().sysname == "Linux":
            raise
        return moderngl.create_context(standalone=True, require=330)


def _blends(material: Material, mesh: Mesh) -> bool:
    """Tell whether something may be seen through a surface."""
    if material.alpha_mode != "blend":
        return False
    image = None if material.texture is None else material.texture.image
    has_alpha = image is not None and image.shape[2] == 4 and bool((image[..., 3] < 1).any())
    clear_vertices = mesh.vertex_alpha is not None and bool((mesh.vertex_alpha < 1).any())
    return material.opacity < 1 or has_alpha or clear_vertices


def _alike(a: Material, b: Material) -> bool:
    """Tell whether two materials differ in what their corners hold alone."""
    return not a.textures and not b.textures and "mask" not in (a.alpha_mode, b.alpha_mode)


def _corners(mesh: Mesh, order: torch.Tensor) -> np.ndarray:
    """Return the three corners of each face, "3f n" float32, in `_FIELDS`' order."""
    corner = mesh.faces[order]
    material = mesh.material_index()[order]

    def by_face(rows: Sequence[tuple[float, ...]]) -> torch.Tensor:
        return torch.tensor(rows, dtype=torch.float32)[material][:, None].expand(-1, 3, -1)

    color = by_face([(*m.color, m.opacity) for m in mesh.materials]).clone()
    if mesh.vertex_color is not None:
        color[..., :3] *= mesh.vertex_color[corner]
    if mesh.vertex_alpha is not None:
        color[..., 3] *= mesh.vertex_alpha[corner]
    uv = torch.zeros(len(mesh.vertices), 2) if mesh.uv is None else mesh.uv
    glow_uv = uv if mesh.emission_uv is None else mesh.emission_uv
    fields = [
        mesh.vertices[corner],
        mesh.normals()[order],
        color,
        uv[corner],
        glow_uv[corner],
        by_face([(m.roughness, m.metallic, float(m.lit)) for m in mesh.materials]),
        by_face([m.emission for m in mesh.materials]),
    ]
    return torch.cat(fields, dim=-1).numpy()


def _upload(context: Any, texture: Texture) -> Any:
    """Return a texture with the same pyramid as the built-in engine's."""
    image = texture.image.float()
    if image.shape[2] == 3:
        image = torch.cat([image, torch.ones_like(image[..., :1])], dim=2)
    made = context.texture((image.shape[1], image.shape[0]), 4, _bytes(image))
    made.build_mipmaps()
    made.filter = (context.LINEAR_MIPMAP_NEAREST, context.NEAREST if texture.nearest else context.LINEAR)
    made.repeat_x, made.repeat_y = (wrap == "repeat" for wrap in texture.wrap)
    level = 0
    while max(image.shape[:2]) > 1:
        level += 1
        window = (min(2, image.shape[0]), min(2, image.shape[1]))
        image = functional.avg_pool2d(image.permute(2, 0, 1)[None], window)[0].permute(1, 2, 0)
        made.write(_bytes(image), level=level)
    return made


def _bytes(image: torch.Tensor) -> bytes:
    return (image.clamp(0, 1) * 255).round().byte().contiguous().numpy().tobytes()


def _projection(pose: np.ndarray, fov_deg: float, radius: float) -> np.ndarray:
    """Return the 4x4 that takes world to clip coordinates, y down, so that row 0 is read first."""
    distance = float(np.linalg.norm(pose[:3, 3]))
    near, far = max(NEAR, 0.99 * (distance - radius)), 1.01 * (distance + radius)
    focal = 1 / np.tan(np.deg2rad(fov_deg) / 2)
    clip_from_camera = np.array(
        [
            [focal, 0, 0, 0],
            [0, -focal, 0, 0],
            [0, 0, -(far + near) / (far - near), -2 * far * near / (far - near)],
            [0, 0, -1, 0],
        ]
    )
    return clip_from_camera @ np.linalg.inv(pose)


def _set_light(program: Any, light: Light | None) -> None:
    program["is_lit"] = light is not None
    light = light or Light()
    direction = np.array(light.direction) / np.linalg.norm(light.direction)
    program["light"] = (light.sky, light.ground, light.key)
    program["lamp"] = tuple(direction)


def _pictures(views: Sequence[Sequence[np.ndarray]], size: int) -> Pictures:
    rgba = torch.from_numpy(np.stack([view[0] for view in views])).permute(0, 3, 1, 2).float() / 255
    if len(views[0]) == 1:
        nothing = torch.zeros(len(views), 1, size, size)
        return Pictures(rgba=rgba, depth=nothing, normal=nothing.expand(-1, 3, -1, -1))
    more = torch.from_numpy(np.stack([view[1] for view in views])).permute(0, 3, 1, 2)
    return Pictures(rgba=rgba, depth=more[:, 3:], normal=functional.normalize(more[:, :3], dim=1))
