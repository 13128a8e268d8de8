"""USDZ files, opened by USD itself and held to its own validators."""

from __future__ import annotations

import importlib.util
import io
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_export import cube
from test_provenance import LABEL, RECORD

from viewfold.errors import InputError, MissingExtraError
from viewfold.origin.record import read_provenance
from viewfold.scene.color import srgb_from_linear
from viewfold.scene.export import save_mesh
from viewfold.scene.material import Material, Texture
from viewfold.scene.mesh import Mesh
from viewfold.scene.usd import identifier

SQUARE = torch.tensor([[-0.3, 0.0, -0.2], [0.3, 0.0, -0.2], [0.3, 0.0, 0.4], [-0.3, 0.0, 0.4]])
UV = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
FACES = torch.tensor([[0, 1, 2], [0, 2, 3]])
IMAGE = torch.rand(4, 6, 3, generator=torch.Generator().manual_seed(0))

needs_usd = pytest.mark.skipif(importlib.util.find_spec("pxr") is None, reason="needs usd-core")


def square(material: Material, **more: Any) -> Mesh:
    return Mesh(vertices=SQUARE, faces=FACES, uv=UV, materials=(material,), **more)


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Any]:
    def save_and_open(mesh: Mesh, *, name: str = "a red mug", file: str = "mug", **options: Any) -> Any:
        from pxr import Usd

        return Usd.Stage.Open(str(save_mesh(mesh, tmp_path / f"{file}.usdz", name=name, **options)))

    return save_and_open


def complaints(stage: Any) -> list[str]:
    """What USD's validators find: those of the core, geometry, materials and packages (the ARKit rules among them)."""
    from pxr import UsdValidation

    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    assert len(validators) > 20
    return [error.GetErrorAsString() for error in UsdValidation.ValidationContext(validators).Validate(stage)]


def surface_of(stage: Any, part: str) -> Any:
    """The inputs of the surface that a part is bound to: a value, or the shader that feeds it."""
    from pxr import UsdShade

    material, _ = UsdShade.MaterialBindingAPI(stage.GetPrimAtPath(part)).ComputeBoundMaterial()
    shader, _, _ = material.ComputeSurfaceSource()
    told = {}
    for each in shader.GetInputs():
        sources, _ = each.GetConnectedSources()
        told[each.GetBaseName()] = UsdShade.Shader(sources[0].source.GetPrim()) if sources else each.Get()
    return told


@needs_usd
def test_usd_opens_a_textured_thing_upright_and_its_validators_find_nothing(opened: Callable[..., Any]) -> None:
    from pxr import UsdGeom

    stage = opened(Mesh.cat([cube((0.2, 0.4, 0.9), (0.1, -0.3, 0.2)), square(Material(texture=Texture(image=IMAGE)))]))
    assert complaints(stage) == []
    assert UsdGeom.GetStageUpAxis(stage) == "Y" and UsdGeom.GetStageMetersPerUnit(stage) == 1
    assert stage.GetDefaultPrim().GetPath() == "/a_red_mug"
    parts = [UsdGeom.Mesh(prim) for prim in stage.Traverse() if prim.IsA(UsdGeom.Mesh)]
    assert [part.GetPath().pathString for part in parts] == ["/a_red_mug/a_red_mug_0", "/a_red_mug/a_red_mug_1"]
    box, flat = (np.array(part.GetPointsAttr().Get()) for part in parts)
    np.testing.assert_allclose([box.min(0), box.max(0)], [[-0.05, 0.05, 0.15], [0.25, 0.35, 0.45]], atol=1e-6)
    np.testing.assert_allclose(flat[2], [0.3, 0.4, 0.0], atol=1e-6)  # (0.3, 0, 0.4) of ours
    np.testing.assert_allclose(parts[1].GetNormalsAttr().Get(), [[0, 0, 1]] * 4, atol=1e-6)  # -y of ours
    np.testing.assert_allclose(parts[0].GetExtentAttr().Get(), [box.min(0), box.max(0)])
    assert parts[0].GetSubdivisionSchemeAttr().Get() == "none" and parts[0].GetDoubleSidedAttr().Get()
    counts = [len(part.GetFaceVertexCountsAttr().Get()) for part in parts]
    assert counts == [12, 2] and len(parts[1].GetFaceVertexIndicesAttr().Get()) == 6
    uv = UsdGeom.PrimvarsAPI(parts[1]).GetPrimvar("st")
    assert uv.GetInterpolation() == "vertex"
    np.testing.assert_allclose(uv.Get(), UV)


@needs_usd
def test_the_validators_that_found_nothing_find_what_is_wrong(opened: Callable[..., Any]) -> None:
    stage = opened(square(Material()))
    stage.ClearMetadata("upAxis")
    stage.ClearDefaultPrim()
    assert len(complaints(stage)) >= 2


@needs_usd
def test_a_package_holds_a_binary_layer_then_pictures_all_stored_at_multiples_of_64(tmp_path: Path) -> None:
    tinted = Material(texture=Texture(image=IMAGE), color=(0.5, 1.0, 1.0))
    path = save_mesh(square(tinted), tmp_path / "mug.usdz", name="a red mug", label=LABEL)
    data = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as package:
        found = package.infolist()
        assert [entry.filename for entry in found] == ["a_red_mug.usdc", "a_red_mug_0.png"]
        for entry in found:
            content = package.read(entry)
            assert entry.compress_type == zipfile.ZIP_STORED and data.index(content) % 64 == 0
        picture = np.asarray(Image.open(io.BytesIO(package.read("a_red_mug_0.png"))))
    assert data[64:72] == b"PXR-USDC"
    np.testing.assert_array_equal(picture, (IMAGE * torch.tensor([0.5, 1, 1]) * 255).round().byte().numpy())
    assert read_provenance(path).record == RECORD
    again = save_mesh(square(tinted), tmp_path / "again.usdz", name="a red mug", label=LABEL)
    assert again.read_bytes() == data, "the same thing makes the same file"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@needs_usd
def test_the_layer_says_who_made_it(opened: Callable[..., Any]) -> None:
    stage = opened(square(Material()), label=LABEL)
    layer = stage.GetRootLayer()
    assert layer.customLayerData["creator"].startswith("viewfold ") and RECORD["weights_sha256"] in layer.comment
    plain = opened(square(Material()), file="plain")
    assert plain.GetRootLayer().comment == ""


@needs_usd
def test_a_texture_is_srgb_wraps_as_ours_and_has_its_alpha(opened: Callable[..., Any]) -> None:
    image = torch.cat([IMAGE, torch.full((4, 6, 1), 0.5)], dim=2)
    cut = Material(
        texture=Texture(image=image, wrap=("clamp", "mirror")), alpha_mode="mask", alpha_cutoff=0.3, roughness=0.25,
        metallic=0.75,
    )  # fmt: skip
    stage = opened(square(cut))
    told = surface_of(stage, "/a_red_mug/a_red_mug_0")
    assert told["roughness"] == 0.25 and told["metallic"] == 0.75
    assert told["opacityThreshold"] == pytest.approx(0.3)
    texture = told["diffuseColor"]
    assert texture.GetPrim() == told["opacity"].GetPrim()
    values = {each.GetBaseName(): each.Get() for each in texture.GetInputs()}
    assert (values["sourceColorSpace"], values["wrapS"], values["wrapT"]) == ("sRGB", "clamp", "mirror")
    assert complaints(stage) == []


@needs_usd
def test_plain_colours_are_linear_and_glow_and_glass_are_kept(opened: Callable[..., Any]) -> None:
    glass = Material(color=(0.2, 0.5, 0.8), alpha_mode="blend", opacity=0.4, emission=(0.5, 0.0, 0.25))
    told = surface_of(opened(square(glass)), "/a_red_mug/a_red_mug_0")
    np.testing.assert_allclose(srgb_from_linear(np.array(told["diffuseColor"])), [0.2, 0.5, 0.8], atol=1e-5)
    np.testing.assert_allclose(srgb_from_linear(np.array(told["emissiveColor"])), [0.5, 0.0, 0.25], atol=1e-5)
    assert told["opacity"] == pytest.approx(0.4) and "opacityThreshold" not in told
    solid = surface_of(opened(square(Material(opacity=0.4)), file="solid"), "/a_red_mug/a_red_mug_0")
    assert "opacity" not in solid and "emissiveColor" not in solid


@needs_usd
def test_a_glowing_texture_has_its_own_coordinates(opened: Callable[..., Any]) -> None:
    glow = Material(
        texture=Texture(image=IMAGE), emission=(1.0, 1.0, 1.0), emission_texture=Texture(image=IMAGE.flip(0))
    )
    stage = opened(square(glow, emission_uv=UV.flip(0)))
    assert complaints(stage) == []
    told = surface_of(stage, "/a_red_mug/a_red_mug_0")
    names = []
    for name in ("diffuseColor", "emissiveColor"):
        (source,), _ = told[name].GetInput("st").GetConnectedSources()
        names.append(source.source.GetInput("varname").Get())
    assert names == ["st", "st1"]


@needs_usd
def test_what_is_unlit_shines_in_its_colours_alone(opened: Callable[..., Any]) -> None:
    told = surface_of(opened(square(Material(color=(0.2, 0.5, 0.8), lit=False))), "/a_red_mug/a_red_mug_0")
    assert tuple(told["diffuseColor"]) == (0, 0, 0)
    np.testing.assert_allclose(srgb_from_linear(np.array(told["emissiveColor"])), [0.2, 0.5, 0.8], atol=1e-5)


@needs_usd
def test_colours_of_vertices_are_read_where_there_is_no_texture_and_refused_where_there_is(
    opened: Callable[..., Any],
) -> None:
    from pxr import UsdGeom

    colors = torch.rand(4, 3, generator=torch.Generator().manual_seed(1))
    sheer = Material(color=(0.5, 1.0, 1.0), alpha_mode="blend", opacity=0.5)
    mesh = square(sheer, vertex_color=colors, vertex_alpha=torch.tensor([1.0, 0.5, 0.25, 0.0]))
    stage = opened(mesh)
    assert complaints(stage) == []
    place = UsdGeom.PrimvarsAPI(stage.GetPrimAtPath("/a_red_mug/a_red_mug_0"))
    shown = srgb_from_linear(np.array(place.GetPrimvar("displayColor").Get()))
    np.testing.assert_allclose(shown, (colors * torch.tensor([0.5, 1, 1])).numpy(), atol=1e-5)
    np.testing.assert_allclose(place.GetPrimvar("displayOpacity").Get(), [0.5, 0.25, 0.125, 0.0])
    told = surface_of(stage, "/a_red_mug/a_red_mug_0")
    assert told["diffuseColor"].GetIdAttr().Get() == "UsdPrimvarReader_float3"
    assert told["opacity"].GetInput("varname").Get() == "displayOpacity"
    with pytest.raises(InputError, match="colours of vertices beside a texture"):
        opened(replace(mesh, materials=(Material(texture=Texture(image=IMAGE)),)))


@needs_usd
@pytest.mark.parametrize("name", ["3 mugs", 'a/b"c', "кружка", "--", "x" * 200])
def test_any_prompt_makes_a_name_that_usd_takes(name: str, opened: Callable[..., Any]) -> None:
    from pxr import Sdf

    stage = opened(square(Material()), name=name)
    assert complaints(stage) == [] and Sdf.Path.IsValidIdentifier(stage.GetDefaultPrim().GetName())


def test_identifiers_by_hand() -> None:
    asked = ["a red mug", "3 mugs", "Кружка", "_x_", "a--b"]
    assert [identifier(name) for name in asked] == ["a_red_mug", "_3_mugs", "mesh", "x", "a_b"]


def test_without_usd_core_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install usd-core"):
        save_mesh(square(Material()), tmp_path / "a.usdz")
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_none_has_no_record(tmp_path: Path) -> None:
    from viewfold.errors import AssetError

    (tmp_path / "a.usdz").write_bytes(b"no zip at all")
    with pytest.raises(AssetError, match="does not start like a USDZ"):
        read_provenance(tmp_path / "a.usdz")
