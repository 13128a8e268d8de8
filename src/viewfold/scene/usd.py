"""One mesh as a .usdz: what Apple's Quick Look shows in a room, and what Blender, Maya and Omniverse open.

A USDZ is a zip of stored files that begin at multiples of 64 bytes: first a layer of USD, then its textures.  Quick
Look demands of the layer that it is binary (.usdc, the "ARKit" rules of USD's own checker), y up, in metres, with a
default prim, and materials made of UsdPreviewSurface.  usd-core writes it (an optional package, the extra `usd`).

    /NAME                       Xform, the default prim
        NAME_0, NAME_1 ...      Mesh: the faces of one material
        Materials/NAME_0 ...    Material: UsdPreviewSurface, with readers of textures or of colours of vertices

Names are the part's name made an identifier.  Frame: y up, facing +z, as a GLB is once its node has turned it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.errors import InputError, MissingExtraError, OutputError
from viewfold.label import UNLABELLED, Label, software
from viewfold.scene.color import linear_from_srgb
from viewfold.scene.gltf.writer import png
from viewfold.scene.material import Material, Texture
from viewfold.scene.mesh import Mesh
from viewfold.scene.vertex import y_up

_ZIP_TIME = 946_684_800
"""2000-01-01, the date of every file in a package."""


def write_usdz(mesh: Mesh, normals: Float[Tensor, "k 3"], path: Path, *, name: str, label: Label = UNLABELLED) -> None:
    """Write the file; a material in use becomes a mesh and a material of its own.

    Kept are textures with alpha and wrap mode (the colour that multiplies one is in its pixels), colours and alpha of
    vertices (which not every program shows), alpha modes, emission, roughness and metal.  What is unlit shines in its
    colours: UsdPreviewSurface knows nothing closer.  Normal maps are left out.

    Args:
        mesh: on the CPU.
        normals: unit, of each vertex.
        path: of the file.
        name: of the thing.

    Raises:
        MissingExtraError: usd-core is not installed.
        InputError: colours of vertices beside a texture, which its materials cannot multiply.
        OutputError: USD could not write it.
    """
    check_usd()
    from pxr import Usd, UsdGeom  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as folder:
        layer = Path(folder) / f"{identifier(name)}.usdc"
        stage: Any = Usd.Stage.CreateNew(str(layer))
        UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
        UsdGeom.SetStageMetersPerUnit(stage, 1.0)
        root = UsdGeom.Xform.Define(stage, f"/{identifier(name)}")
        stage.SetDefaultPrim(root.GetPrim())
        Usd.ModelAPI(root).SetKind("component")
        stage.GetRootLayer().customLayerData = {"creator": software()}
        stage.GetRootLayer().comment = label.comment()
        writer = _Writer(stage, root.GetPath(), Path(folder), identifier(name), label)
        index = mesh.material_index()
        for number in index.unique().tolist():
            writer.part(mesh, normals, mesh.faces[index == number], mesh.materials[number], number)
        stage.GetRootLayer().Save()
        _zip(path, [layer, *writer.textures])


def identifier(name: str) -> str:
    """Return a name that USD accepts for a prim: ASCII letters, digits and "_", no digit first."""
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_") or "mesh"
    return f"_{plain}" if plain[0].isdigit() else plain


def check_usd() -> None:
    """Raise the `MissingExtraError` of `write_usdz`, before the work."""
    if importlib.util.find_spec("pxr") is None:
        raise MissingExtraError(".usdz needs usd-core: pip install usd-core==26.11, or write .glb")


def _zip(path: Path, files: list[Path]) -> None:
    """Write a package of these files, the layer first; its bytes depend on theirs alone."""
    from pxr import Sdf  # type: ignore[import-not-found]

    writer: Any = Sdf.ZipFileWriter.CreateNew(str(path))
    for file in files:
        os.utime(file, (_ZIP_TIME, _ZIP_TIME))
        if not writer.AddFile(str(file), file.name):
            raise OutputError(f"`{path.name}` cannot be written: usd-core cannot pack {file.name}. Write .glb.")
    writer.Save()


class _Writer:
    """Puts parts and materials on a stage, and textures beside its layer."""

    def __init__(self, stage: Any, root: Any, folder: Path, name: str, label: Label) -> None:
        self.stage, self.root, self.folder, self.name, self.label = stage, root, folder, name, label
        self.textures: list[Path] = []

    def part(self, mesh: Mesh, normals: Float[Tensor, "k 3"], faces: Tensor, material: Material, number: int) -> None:
        """Write the faces of one material with the vertices that they use."""
        from pxr import Sdf, UsdGeom, UsdShade, Vt  # type: ignore[import-not-found]

        used, faces = faces.unique(return_inverse=True)
        prim = UsdGeom.Mesh.Define(self.stage, self.root.AppendChild(f"{self.name}_{number}"))
        points = y_up(mesh.vertices[used]).numpy()
        prim.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(points))
        prim.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(np.stack([points.min(0), points.max(0)])))
        prim.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(faces), 3, np.int32)))
        prim.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(faces.reshape(-1).numpy().astype(np.int32)))
        prim.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(y_up(normals[used]).numpy()))
        prim.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
        prim.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)  # or it is taken for the cage of a smooth surface
        prim.CreateDoubleSidedAttr(True)
        place = UsdGeom.PrimvarsAPI(prim)

        def primvar(name: str, kind: Any, values: Any) -> None:
            place.CreatePrimvar(name, kind, UsdGeom.Tokens.vertex).Set(values)

        coordinates = {"st": mesh.uv, "st1": mesh.emission_uv}
        for name, uv in coordinates.items():
            if uv is not None and material.textures:
                primvar(name, Sdf.ValueTypeNames.TexCoord2fArray, Vt.Vec2fArray.FromNumpy(uv[used].numpy()))
        if mesh.vertex_color is not None:
            color = linear_from_srgb(mesh.vertex_color[used].double().numpy() * np.array(material.color))
            primvar("displayColor", Sdf.ValueTypeNames.Color3fArray, Vt.Vec3fArray.FromNumpy(color.astype(np.float32)))
        if mesh.vertex_alpha is not None:
            alpha = (mesh.vertex_alpha[used] * material.opacity).numpy()
            primvar("displayOpacity", Sdf.ValueTypeNames.FloatArray, Vt.FloatArray.FromNumpy(alpha))
        surface = self._material(mesh, material, number)
        UsdShade.MaterialBindingAPI.Apply(prim.GetPrim()).Bind(surface)

    def _material(self, mesh: Mesh, material: Material, number: int) -> Any:
        """Return the material of a part: a surface and what feeds it."""
        from pxr import Sdf, UsdGeom, UsdShade  # type: ignore[import-not-found]

        by_vertex = mesh.vertex_color is not None or mesh.vertex_alpha is not None
        if by_vertex and material.texture is not None:
            raise InputError("`path` must end in .glb: a USDZ cannot hold colours of vertices beside a texture.")
        UsdGeom.Scope.Define(self.stage, self.root.AppendChild("Materials"))
        made = UsdShade.Material.Define(self.stage, self.root.AppendPath(f"Materials/{self.name}_{number}"))
        surface = self._shader(made, "surface", "UsdPreviewSurface")
        made.CreateSurfaceOutput().ConnectToSource(surface.ConnectableAPI(), "surface")
        inputs = _Inputs(surface)
        inputs.set("roughness", Sdf.ValueTypeNames.Float, material.roughness)
        inputs.set("metallic", Sdf.ValueTypeNames.Float, material.metallic)
        color = "diffuseColor" if material.lit else "emissiveColor"
        if not material.lit:
            inputs.set("diffuseColor", Sdf.ValueTypeNames.Color3f, (0.0, 0.0, 0.0))
        texture = None
        if material.texture is not None:
            texture = self._texture(made, material.texture, f"{number}", material, reader="st")
            inputs.connect(color, Sdf.ValueTypeNames.Color3f, texture, "rgb")
        elif mesh.vertex_color is not None:
            inputs.connect(color, Sdf.ValueTypeNames.Color3f, self._reader(made, "displayColor", "float3"), "result")
        else:
            inputs.set(color, Sdf.ValueTypeNames.Color3f, _linear(material.color))
        self._alpha(made, inputs, mesh, material, texture)
        if material.lit and any(material.emission):
            if material.emission_texture is not None:
                reader = "st" if mesh.emission_uv is None else "st1"
                glow = self._texture(made, material.emission_texture, f"{number}_glow", None, reader=reader)
                inputs.connect("emissiveColor", Sdf.ValueTypeNames.Color3f, glow, "rgb")
            else:
                inputs.set("emissiveColor", Sdf.ValueTypeNames.Color3f, _linear(material.emission))
        return made

    def _alpha(self, made: Any, inputs: _Inputs, mesh: Mesh, material: Material, texture: Any) -> None:
        """Say how much is seen through, unless the material is opaque."""
        from pxr import Sdf  # type: ignore[import-not-found]

        if material.alpha_mode == "opaque":
            return
        if material.alpha_mode == "mask":
            inputs.set("opacityThreshold", Sdf.ValueTypeNames.Float, material.alpha_cutoff)
        if texture is not None and material.texture is not None and material.texture.image.shape[2] == 4:
            inputs.connect("opacity", Sdf.ValueTypeNames.Float, texture, "a")
        elif mesh.vertex_alpha is not None:
            inputs.connect("opacity", Sdf.ValueTypeNames.Float, self._reader(made, "displayOpacity", "float"), "result")
        else:
            inputs.set("opacity", Sdf.ValueTypeNames.Float, material.opacity)

    def _texture(self, made: Any, texture: Texture, name: str, tint: Material | None, *, reader: str) -> Any:
        """Return a reader of a picture, which is written beside the layer; `tint` multiplies its pixels."""
        from pxr import Sdf  # type: ignore[import-not-found]

        image = texture.image
        if tint is not None:
            image = image * torch.tensor([*tint.color, tint.opacity])[: image.shape[2]]
        file = self.folder / f"{self.name}_{name}.png"
        file.write_bytes(png(image, **self.label.picture_options(".png")))
        self.textures.append(file)
        shader = self._shader(made, f"texture_{name}", "UsdUVTexture")
        inputs = _Inputs(shader)
        inputs.set("file", Sdf.ValueTypeNames.Asset, Sdf.AssetPath(file.name))
        inputs.set("sourceColorSpace", Sdf.ValueTypeNames.Token, "sRGB")
        for axis, wrap in zip(("wrapS", "wrapT"), texture.wrap, strict=True):
            inputs.set(axis, Sdf.ValueTypeNames.Token, wrap)  # our words are USD's
        inputs.connect("st", Sdf.ValueTypeNames.Float2, self._reader(made, reader, "float2"), "result")
        shader.CreateOutput("rgb", Sdf.ValueTypeNames.Float3)
        if image.shape[2] == 4:
            shader.CreateOutput("a", Sdf.ValueTypeNames.Float)
        return shader

    def _reader(self, made: Any, primvar: str, kind: str) -> Any:
        """Return what reads values of vertices."""
        from pxr import Sdf  # type: ignore[import-not-found]

        types = Sdf.ValueTypeNames
        shader = self._shader(made, f"read_{primvar}", f"UsdPrimvarReader_{kind}")
        _Inputs(shader).set("varname", types.String, primvar)
        shader.CreateOutput("result", {"float": types.Float, "float2": types.Float2, "float3": types.Float3}[kind])
        return shader

    def _shader(self, made: Any, name: str, kind: str) -> Any:
        from pxr import UsdShade  # type: ignore[import-not-found]

        shader = UsdShade.Shader.Define(self.stage, made.GetPath().AppendChild(name))
        shader.CreateIdAttr(kind)
        return shader


class _Inputs:
    """The inputs of one shader."""

    def __init__(self, shader: Any) -> None:
        self.shader = shader

    def set(self, name: str, kind: Any, value: Any) -> None:
        """Give an input a value."""
        self.shader.CreateInput(name, kind).Set(value)

    def connect(self, name: str, kind: Any, source: Any, output: str) -> None:
        """Feed an input from another shader."""
        self.shader.CreateInput(name, kind).ConnectToSource(source.ConnectableAPI(), output)


def _linear(color: tuple[float, float, float]) -> tuple[float, ...]:
    return tuple(linear_from_srgb(np.array(color)).tolist())
