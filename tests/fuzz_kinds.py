"""Files of each kind that strangers give us, valid ones to damage, and how the package reads them; see `fuzz`."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import trimesh
import trimesh.exchange.gltf
from clouds import cloud
from fakes import LATENT_SIZE, tiny_model
from fuzz_weights import read_lora_file, read_tokenizer, write_loras, write_tokenizers
from glb import Glb
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_shards import write_shards
from webdataset.writer import TarWriter

from viewfold.camera import Cameras
from viewfold.data.batches import LatentSet
from viewfold.data.captions import read_sidecar, read_table
from viewfold.data.gallery import find_pictures
from viewfold.data.shards import open_shards
from viewfold.data.toybox import Asset
from viewfold.errors import ViewfoldError
from viewfold.picture import read_image
from viewfold.pipeline import MultiViewPipeline
from viewfold.scene.export import save_mesh
from viewfold.scene.gaussian.splatfile import PLAIN, read_splats, write_splats
from viewfold.scene.gaussian.tiles import draw_gaussians
from viewfold.scene.meshfile import load_mesh
from viewfold.scene.rasterize import rasterize
from viewfold.views import Views
from viewfold.weights.checkpoint import read_checkpoint
from viewfold.weights.original import split, unet_from_original

HERE = Path(__file__).parent
CAMERAS = Cameras.orbit(1, elevation_deg=20)


@dataclass(frozen=True)
class Kind:
    """Valid files, or folders, in a folder; and what reads one of them: how far it came, or a `ViewfoldError`."""

    write: Callable[[Path], None]
    read: Callable[[Path], str]


def write_models(folder: Path) -> None:
    stored = load_file(HERE / "parity" / "unet_small.safetensors")
    tensors = {k.removeprefix("weights."): v for k, v in stored.items() if k.startswith("weights.")}
    few = {name: torch.randn(2, 3) for name in ("model.diffusion_model.a", "model.diffusion_model.b")}
    save_file(tensors, folder / "unet.safetensors")
    save_file(few, folder / "few.safetensors")
    torch.save({"state_dict": tensors, "epoch": 3}, folder / "unet.pt")
    torch.save({"state_dict": few, "optimizer": {"lr": 0.1, "betas": (0.9, 0.99)}}, folder / "few.pt")
    torch.save(few, folder / "former.pt", _use_new_zipfile_serialization=False)
    tiny_model(folder / "folder")


def read_model(path: Path) -> str:
    if path.is_dir():
        MultiViewPipeline.from_pretrained(path)
    else:
        tensors = read_checkpoint(path)
        try:
            unet_from_original(split(tensors)["unet"], head_channels=8)
        except ViewfoldError:
            return "read"
    return "loaded"


def write_meshes(folder: Path) -> None:
    """Our own writer's, trimesh's, one made by hand with a bit of everything, and furniture with textures."""
    toy = Asset.of("mug", "red", "blue", seed=3).mesh()
    for name in ("toy.glb", "toy.obj", "toy.ply"):
        (folder / name.replace(".", "_")).mkdir()
        save_mesh(toy, folder / name.replace(".", "_") / name)
    box = trimesh.creation.box()
    for name, options in (("box.gltf", {}), ("box.ply", {"encoding": "ascii"}), ("ball.glb", {})):
        place = folder / f"theirs_{name.replace('.', '_')}"
        place.mkdir()
        shape = trimesh.creation.icosphere(subdivisions=1) if name.startswith("ball") else box
        if name.endswith(".gltf"):
            for file, content in trimesh.exchange.gltf.export_gltf(trimesh.Scene(shape)).items():
                (place / ("box.gltf" if file.endswith(".gltf") else file)).write_bytes(content)
        else:
            shape.export(place / name, **options)
    (folder / "hand").mkdir()
    everything().save(folder / "hand" / "hand.glb")
    for name in ("headphones", "showerDoor", "crate"):
        shutil.copytree(HERE / "assets" / "furniture" / name, folder / name)


def everything() -> Glb:
    """Return a GLB with a texture, a skin, a morph, sparse values and an instance."""
    made = Glb()
    picture = io.BytesIO()
    Image.new("RGBA", (4, 4), (200, 30, 30, 128)).save(picture, "PNG")
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], "f4")
    place = made.add(points)
    sparse_at, sparse_to = made.view(np.array([1], "u2").tobytes()), made.view(np.ones((1, 3), "f4").tobytes())
    made.tree["accessors"][place]["sparse"] = {
        "count": 1, "indices": {"bufferView": sparse_at, "componentType": 5123}, "values": {"bufferView": sparse_to},
    }  # fmt: skip
    primitive = {
        "attributes": {
            "POSITION": place, "TEXCOORD_0": made.add(np.zeros((4, 2), "u1"), "u1", normalized=True),
            "COLOR_0": made.add(np.full((4, 4), 200, "u1"), "u1", normalized=True),
            "JOINTS_0": made.add(np.zeros((4, 4), "u1"), "u1"), "WEIGHTS_0": made.add(np.eye(4)[[0] * 4], "f4"),
        },
        "indices": made.add(np.array([0, 1, 2, 0, 2, 3], "u2"), "u2"), "material": 0,
        "targets": [{"POSITION": made.add(points * 0.1)}],
    }  # fmt: skip
    made.tree |= {
        "images": [{"bufferView": made.view(picture.getvalue()), "mimeType": "image/png"}],
        "textures": [{"source": 0, "sampler": 0}], "samplers": [{"wrapS": 33071}],
        "materials": [{"alphaMode": "BLEND", "emissiveFactor": [0.1, 0, 0], "pbrMetallicRoughness": {
            "baseColorTexture": {"index": 0, "extensions": {"KHR_texture_transform": {"scale": [2, 2]}}}}}],
        "extensionsUsed": ["KHR_texture_transform"],
    }  # fmt: skip
    mesh = made.mesh(primitive, weights=[0.5])
    nodes = {"mesh": mesh, "skin": 0}, {"translation": [0, 0, 0.2]}, {"mesh": mesh, "scale": [2, 1, 1]}
    made.nodes(*nodes, roots=[0, 1, 2])
    made.tree["skins"] = [{"joints": [1], "inverseBindMatrices": made.add(np.eye(4).reshape(1, 16), "f4")}]
    return made


def read_mesh(path: Path) -> str:
    files = [file for file in sorted(path.iterdir()) if file.suffix in (".glb", ".gltf", ".obj", ".ply")]
    for file in files:
        mesh = load_mesh(file)
        drawn = rasterize(mesh, CAMERAS, size=16)
        assert bool(drawn.rgb.isfinite().all()) and bool(drawn.alpha.isfinite().all())
    return "loaded" if files else "empty"


def write_views(folder: Path) -> None:
    alpha = np.zeros((12, 16, 4), np.uint8)
    alpha[3:9, 4:12] = (200, 100, 50, 255)
    lenses = {
        "plain": {"camera_angle_x": 0.7},
        "nerfstudio": {"fl_x": 20.0, "fl_y": 19.0, "cx": 8.5, "cy": 5.5, "w": 16, "h": 12, "k1": 0.1, "k2": -0.01,
                       "p1": 0.001, "camera_model": "OPENCV"},
        "fisheye": {"fl_x": 9.0, "w": 16, "h": 12, "k1": 0.05, "k4": 0.001, "camera_model": "OPENCV_FISHEYE"},
    }  # fmt: skip
    for name, lens in lenses.items():
        (folder / name).mkdir()
        frames = []
        for number, pose in enumerate(Cameras.orbit(4, elevation_deg=15).world_from_camera.tolist()):
            Image.fromarray(alpha).save(folder / name / f"{number}.png")
            frames.append({"file_path": f"./{number}", "transform_matrix": pose})
        (folder / name / "transforms.json").write_text(json.dumps({**lens, "frames": frames}))


def read_views(path: Path) -> str:
    views = Views.load(path)
    assert bool(views.rgb.isfinite().all()) and bool(views.cameras.world_from_camera.isfinite().all())
    return "loaded"


def write_shard_folders(folder: Path) -> None:
    write_shards(folder / "means")
    write_shards(folder / "moments", grounds=(0.0, 1.0), samples=3)


def read_shards(path: Path) -> str:
    for sample in open_shards(path):
        assert sample.meta and sample.orbits > 0 and (path.name != "means" or sample.latents().ndim == 4)
    latents = LatentSet(path, shape=None, views=4)
    batch = latents.draw(4, torch.Generator().manual_seed(0), views=4)
    assert bool(batch.latents.isfinite().all()) and batch.latents.shape[-1] == LATENT_SIZE
    return "loaded"


def write_pictures(folder: Path) -> None:
    rng = np.random.default_rng(0)
    grey = Image.fromarray(rng.integers(0, 65535, (9, 7), np.uint16))
    colour = Image.fromarray(rng.integers(0, 255, (9, 7, 4), np.uint8))
    grey.save(folder / "grey.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.png", "a.webp", "a.gif", "a.bmp"):
        colour.convert("RGBA" if name != "a.bmp" else "RGB").save(folder / name, exif=exif)
    colour.convert("RGB").save(folder / "a.jpg", exif=exif)
    colour.convert("P").save(folder / "palette.png", transparency=3)


def read_picture(path: Path) -> str:
    assert bool(read_image(path).isfinite().all())
    return "loaded"


def write_galleries(folder: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (9, 7), (200, 30, 30)).save(picture, "PNG")
    for name, lines in (
        ("jsonl", b'{"file_name": "a.png", "text": "a mug"}\n'),
        ("csv", b"file_name,text\na.png,a mug\n"),
    ):
        (folder / name).mkdir()
        (folder / name / "a.png").write_bytes(picture.getvalue())
        (folder / name / f"metadata.{name}").write_bytes(lines)
    (folder / "tars").mkdir()
    with tarfile.open(folder / "tars" / "00000.tar", "w") as tar:
        for uid in ("000", "001"):
            for suffix, content in (
                ("png", picture.getvalue()),
                ("txt", b"a red mug"),
                ("json", b'{"caption": "a mug"}'),
            ):
                member = tarfile.TarInfo(f"./{uid}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))

    (folder / "theirs").mkdir()
    with TarWriter(str(folder / "theirs" / "00000.tar")) as writer:
        for uid in ("a", "b"):
            writer.write({"__key__": uid, "png": picture.getvalue(), "txt": "a red mug", "json": {"caption": "a mug"}})


def read_gallery(path: Path) -> str:
    items = find_pictures(path)
    for item in items:
        item.read()
    return "loaded" if items else "empty"


def write_tables(folder: Path) -> None:
    rows = [{"uid": "a", "caption": "a red mug", "license": "CC0"}, {"uid": "b", "captions": ["a", "b"]}]
    about = {
        "a": {"name": "Mug", "license": "by", "user": {"username": "me"}, "tags": [{"name": "red"}], "viewerUrl": "x"}
    }
    (folder / "cap3d.csv").write_text('a,"a red, shiny mug"\nb,a car\n')
    (folder / "headed.csv").write_text("uid,caption,license\na,a mug,CC0\n")
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "000-023.json.gz").write_bytes(gzip.compress(json.dumps({"a": about}).encode()))
    (folder / "lvis-annotations.json.gz").write_bytes(gzip.compress(b'{"bow_(decorative)": ["a"]}'))
    (folder / "sidecar.txt").write_text("a red mug\na mug\n")


def read_captions(path: Path) -> str:
    if path.suffix == ".txt":
        read_sidecar(path.with_suffix(".glb"))
    else:
        read_table(path, wanted={"a", "b"})
    return "loaded"


def write_splat_files(folder: Path) -> None:
    """Our own, of both degrees, and one of degree 3 as others write it, binary and ascii."""
    for degree, count in ((0, 9), (1, 4)):
        write_splats(folder / f"ours_{degree}.ply", cloud(count, degree=degree))
    names = [*PLAIN[:6], *(f"f_rest_{i}" for i in range(45)), *PLAIN[6:], "extra"]
    header = "".join(f"property float {name}\n" for name in names)
    numbers = np.random.default_rng(0).normal(size=(3, len(names))).astype("<f4")
    for order, body in (
        ("binary_little_endian", numbers.tobytes()),
        ("ascii", "\n".join(" ".join(map(str, row)) for row in numbers.tolist()).encode()),
    ):
        start = f"ply\nformat {order} 1.0\nelement vertex 3\n{header}end_header\n"
        (folder / f"{order}.ply").write_bytes(start.encode() + body)


def read_splat_file(path: Path) -> str:
    made = read_splats(path)
    drawn = draw_gaussians(made, CAMERAS, size=8)
    assert bool(made.is_finite().all()) and bool(drawn.rgb.isfinite().all() & drawn.depth.isfinite().all())
    return "loaded"


KINDS = {
    "models": Kind(write_models, read_model),
    "meshes": Kind(write_meshes, read_mesh),
    "transforms": Kind(write_views, read_views),
    "shards": Kind(write_shard_folders, read_shards),
    "pictures": Kind(write_pictures, read_picture),
    "galleries": Kind(write_galleries, read_gallery),
    "captions": Kind(write_tables, read_captions),
    "tokenizers": Kind(write_tokenizers, read_tokenizer),
    "lora": Kind(write_loras, read_lora_file),
    "splats": Kind(write_splat_files, read_splat_file),
}
