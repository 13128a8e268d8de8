"""Furniture that nobody here made: fourteen CC0 models of Debian's sweethome3d-furniture, and the recipe for all."""

from __future__ import annotations

import importlib.util
import io
import json
import lzma
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import torch

from viewfold.camera import Cameras
from viewfold.errors import AssetError
from viewfold.picture import read_image, to_pil
from viewfold.scene.meshfile import load_mesh
from viewfold.scene.rasterize import rasterize

HERE = Path(__file__).parent / "assets" / "furniture"
MODELS = sorted(path.name for path in HERE.iterdir() if path.is_dir())
SIZE = 96
VIEW = Cameras.orbit(1, elevation_deg=22.0, azimuth_deg=30.0, fov_deg=30.0)

PARTS = {  # faces after ear clipping, materials, those that can be seen through, textures
    "JapaneseLantern": (888, 2, 0, 1), "bedsideTable2": (288, 3, 0, 1), "crate": (864, 1, 0, 1),
    "emergencySign": (782, 3, 0, 1), "glassDoorCabinet": (436, 5, 1, 2), "headphones": (7640, 4, 0, 0),
    "outdoorLamp": (1646, 3, 0, 0), "pedestrianRailing1": (10461, 1, 0, 0), "rock2": (260, 1, 0, 1),
    "showerDoor": (2140, 2, 1, 0), "stoneLantern": (736, 1, 0, 1), "tatami": (36, 2, 0, 2),
    "upperCabinet": (324, 4, 0, 2), "upperShelves": (184, 1, 0, 1),
}  # fmt: skip


def draw(name: str) -> torch.Tensor:
    (path,) = (HERE / name).glob("*.obj")
    return rasterize(load_mesh(path).fit_sphere(), VIEW, size=SIZE).over(1.0)[0]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_someone_else_has_its_parts_and_looks_as_it_did_when_it_was_looked_at(name: str) -> None:
    (path,) = (HERE / name).glob("*.obj")
    mesh = load_mesh(path)
    sheer = sum(material.alpha_mode != "opaque" for material in mesh.materials)
    textures = sum(material.texture is not None for material in mesh.materials)
    assert (len(mesh.faces), len(mesh.materials), sheer, textures) == PARTS[name]
    column = MODELS.index(name) * SIZE
    expected = read_image(HERE / "renders.png")[:3, :, column : column + SIZE]
    error = float((draw(name) - expected).square().mean())
    assert error < 1e-3, f"{name} is drawn in another way: 30 dB and more are the same"


@pytest.mark.slow
def test_the_recipe_reads_a_package_and_tells_who_made_what(tmp_path: Path) -> None:
    """A .deb with one archive of two models: a turned one, and one whose texture is missing."""
    catalogue = "name=x\n" + "".join(
        f"name#{n}={name}\nmodel#{n}=/m/{n}/{n}.obj\nicon#{n}=/m/{n}.png\ncreator#{n}=Ann\nwidth#{n}=100\ndepth#{n}=50\n"
        f"height#{n}=200\n" for n, name in ((1, "Tall box"), (2, "Lost rug"))
    ) + "modelRotation#1=1 0 0 0 0 1 0 -1 0\n"  # fmt: skip
    box = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 0 0 1\nv 1 0 1\nv 1 1 1\nv 0 1 1\nf 1 2 3 4\nf 5 6 7 8\nf 1 2 6 5\n"
    sh3f = io.BytesIO()
    with zipfile.ZipFile(sh3f, "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", catalogue.encode("latin-1"))
        for n, mtl in ((1, "newmtl a\nKd 0.1 0.2 0.9\n"), (2, "newmtl a\nmap_Kd gone.jpg\n")):
            archive.writestr(f"m/{n}/{n}.obj", f"mtllib {n}.mtl\nusemtl a\n{box}")
            archive.writestr(f"m/{n}/{n}.mtl", mtl)
            archive.writestr(f"m/{n}.png", (HERE / "renders.png").read_bytes())
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as tar:
        info = tarfile.TarInfo("./usr/share/sweethome3d/furniture/Scopia.sh3f")
        info.size = len(sh3f.getvalue())
        tar.addfile(info, io.BytesIO(sh3f.getvalue()))
    member = data.getvalue()
    deb = tmp_path / "f.deb"
    header = f"{'data.tar.xz':16}{0:<12}{0:<6}{0:<6}{'100644':8}{len(member):<10}`\n"
    deb.write_bytes(b"!<arch>\n" + header.encode() + member)
    for part in (["unpack", str(deb), "--out", str(tmp_path / "f")], ["upright", str(tmp_path / "f")]):
        command = [sys.executable, "recipes/furniture.py", *part]
        done = subprocess.run(command, cwd=HERE.parents[2], capture_output=True, text=True, check=True)
    assert "1 models stand upright, 1 could not be read" in done.stdout and "gone.jpg" in done.stderr
    (glb,) = (tmp_path / "f").glob("models/*/*/*.glb")
    low, high = load_mesh(glb).vertices.aminmax(dim=0)
    torch.testing.assert_close(high - low, torch.tensor([1.0, 0.5, 2.0]), atol=1e-5, rtol=0)
    record = json.loads(glb.with_suffix(".json").read_text())
    assert record["captions"] == ["a tall box"] and (record["licence"], record["author"]) == ("CC-BY-3.0", "Ann")
    assert "- Tall box (Scopia-001-1): Ann" in (tmp_path / "f" / "ATTRIBUTION.md").read_text()


def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("furniture", HERE.parents[2] / "recipes" / "furniture.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["furniture"] = module
    spec.loader.exec_module(module)
    return module


def ar(name: str, content: bytes, size: str | None = None) -> bytes:
    return b"!<arch>\n" + f"{name:48}{size or len(content):<10}`\n".encode() + content


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PK", "must be a Debian package"),
        (ar("data.tar.zst", b"x"), "data.tar.xz"),
        (ar("control.tar", b"", "-60"), "holds no data"),
        (ar("data.tar.xz", lzma.compress(bytes(4096))), "at most 1024 bytes once"),
    ],
    ids=["zip", "zstd", "a size that goes back", "a bomb"],
)
def test_a_package_that_is_none_is_refused_by_name(
    content: bytes, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = recipe()
    monkeypatch.setattr(module, "DEB_BYTES", 1024)
    (tmp_path / "f.deb").write_bytes(content)
    with pytest.raises(AssetError, match=says):
        list(module.catalogues(tmp_path / "f.deb"))


def test_likeness_ranks_another_shape_and_another_colour_below_the_same() -> None:
    likeness = recipe().likeness
    disc = torch.zeros(4, 64, 64)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    disc[3], disc[0] = ((x - 32) ** 2 + (y - 32) ** 2 < 400).float(), 1.0
    moved, square, blue = disc.roll(8, 2), disc.clone(), disc.clone()
    square[3] = ((x - 32).abs() < 20) & ((y - 32).abs() < 20)
    blue[0], blue[2] = 0.0, 1.0
    assert likeness(disc, moved) == pytest.approx((1.0, 0.0), abs=1e-5)
    assert likeness(disc, square)[0] == pytest.approx(torch.pi / 4, abs=0.05)  # drawn in pixels
    assert likeness(disc, blue)[1] == pytest.approx(2**0.5, abs=1e-5)
    assert likeness(disc, torch.zeros(4, 64, 64)) == (0.0, 1.0)


if __name__ == "__main__":  # draw the pictures again; look at them before they are committed
    sheet = torch.cat([draw(name) for name in MODELS], dim=2)
    to_pil(sheet).save(HERE / "renders.png", optimize=True)
    for name in MODELS:
        (path,) = (HERE / name).glob("*.obj")
        mesh = load_mesh(path)
        sheer = sum(material.alpha_mode != "opaque" for material in mesh.materials)
        textures = sum(material.texture is not None for material in mesh.materials)
        print(f'    "{name}": {(len(mesh.faces), len(mesh.materials), sheer, textures)},')
