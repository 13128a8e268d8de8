"""Numbers that results rest on: what the shipped data, the renderers and the exporters do where nothing is said.

One that changes here changes what is made, and what docs/data.md and the help say; it should be meant.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from viewfold import camera, limits, picture, views
from viewfold.camera import Cameras
from viewfold.data import assets, latents, packing, pictures, render, shards
from viewfold.label import UNLABELLED
from viewfold.pipeline import MultiViewPipeline, generate, generate_batch, load
from viewfold.pipeline.placement import Placement
from viewfold.scene import blob, field, grid, light, material, mesh, rasterize, surface, texture, visibility, volume

SAID: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (
        Cameras.orbit,
        {"elevation_deg": 15.0, "azimuth_deg": 0.0, "span_deg": 360.0, "fov_deg": 40.0, "distance": None},
    ),
    (Cameras.at, {"fov_deg": 40.0, "distance": None}),
    (Cameras.look_at, {"target": (0.0, 0.0, 0.0), "fov_deg": 40.0}),
    (grid.GridField, {"resolution": 48, "blob_radius": 0.3, "settings": None}),
    (field.lattice, {"radius": 0.6, "device": "cpu"}),
    (volume.render_volume, {"n_samples": 64, "occupancy": None, "generator": None, "normals": False}),
    (volume.intersect_sphere, {"radius": 0.55}),
    (volume.density_normal, {"step": 0.01}),
    (rasterize.rasterize, {"supersample": 2, "light": light.Light(), "shape": True}),
    (texture.bake_texture, {"size": 512, "max_faces": 4000}),
    (surface.taubin, {"shrink": 0.5, "inflate": -0.53}),
    (mesh.Mesh.fit_sphere, {"radius": 0.5}),
    (mesh.Mesh.normals, {"crease_deg": 40.0}),
    (
        material.Material,
        {
            "color": (1.0, 1.0, 1.0),
            "texture": None,
            "opacity": 1.0,
            "alpha_mode": "opaque",
            "alpha_cutoff": 0.5,
            "emission": (0.0, 0.0, 0.0),
            "emission_texture": None,
            "lit": True,
            "roughness": 0.8,
            "metallic": 0.0,
            "normal_texture": None,
        },
    ),
    (material.Texture, {"wrap": ("repeat", "repeat"), "nearest": False}),
    (light.Light, {"sky": 0.80, "ground": 0.55, "key": 0.30, "direction": (0.4, -0.7, 0.6)}),
    (picture.contact_sheet, {"columns": None, "gap": 2, "label": UNLABELLED}),
    (picture.write_turntable, {"frames_per_second": 15.0, "label": UNLABELLED}),
    (views.Views.save, {"turntable": True}),
    (pictures.import_emoji, {"size": 64, "without": frozenset(), "progress": None}),
    (
        packing.pack,
        {"samples_per_shard": 512, "selection": packing.Selection(), "prune": False, "pool": None, "progress": None},
    ),
    (latents.cache_latents, {"background": 0.5, "grounds": None, "progress": None}),
    (shards.Sample.pictures, {"background": 0.5}),
    (
        render.render_assets,
        {
            "settings": render.RenderSettings(),
            "workers": 1,
            "captions": None,
            "caption_from_name": False,
            "limits": render.Limits(),
            "blender": None,
            "webp": "small",
            "pool": None,
            "progress": None,
        },
    ),
    (render.Limits, {"timeout_s": None, "memory_gib": None, "retries": 1}),
    (load, {"name": "toybox", "device": None, "dtype": None, "placement": None}),
    (Placement, {"offload": "none", "int8": False, "compile": False, "channels_last": False, "tiling": False}),
    (MultiViewPipeline.load_lora_weights, {"scale": 1.0}),
    (
        surface.extract_surface,
        {
            "resolution": 96,
            "threshold": None,
            "renders": None,
            "cameras": None,
            "max_faces": 20_000,
            "smooth_voxels": 0.7,
            "smooth_steps": 4,
            "min_component": 0.02,
            "device": "cpu",
        },
    ),
]
SAMPLING = {"steps": None, "guidance": None, "rescale": 0.0}


@pytest.mark.parametrize(("verb", "said"), SAID, ids=lambda x: getattr(x, "__qualname__", ""))
def test_what_is_left_out_is_what_is_said(verb: Callable[..., Any], said: dict[str, Any]) -> None:
    parameters = inspect.signature(verb).parameters.values()
    assert {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty} == said


@pytest.mark.parametrize("verb", [MultiViewPipeline.__call__, generate, generate_batch])
def test_sampling_takes_the_models_own_where_nothing_is_said(verb: Callable[..., Any]) -> None:
    told = {name: p.default for name, p in inspect.signature(verb).parameters.items()}
    assert {name: told[name] for name in SAMPLING} == SAMPLING
    assert told.get("seeds", told.get("seed")) == 0


def test_the_shipped_models_pictures_and_the_papers() -> None:
    assert asdict(render.RenderSettings()) == {
        "size": 64,
        "supersample": 2,
        "orbits": 2,
        "views": 4,
        "elevation_deg": (0.0, 30.0),
        "random_azimuth": True,
        "fov_deg": (40.0, 40.0),
        "distance": None,
        "seed": 0,
        "frame": "sphere",
        "light": "fixed",
        "depth": False,
        "normals": False,
        "engine": "builtin",
        "cycles": None,
    }
    assert asdict(render.PAPER) == {
        "size": 256,
        "supersample": 2,
        "orbits": 2,
        "views": 32,
        "elevation_deg": (0.0, 30.0),
        "random_azimuth": False,
        "fov_deg": (15.0, 60.0),
        "distance": (0.9, 1.1),
        "seed": 0,
        "frame": "cube",
        "light": "random",
        "depth": False,
        "normals": False,
        "engine": "builtin",
        "cycles": None,
    }


def test_constants_with_a_unit_or_a_source() -> None:
    assert (camera.OBJECT_RADIUS, camera.FRAMING) == (0.5, 1.25)
    assert (field.BOX_RADIUS, grid.DENSITY_SCALE, grid.EMPTY_LOGIT, blob.BLOB_SLOPE) == (0.6, 25.0, -8.0, 10.0)
    assert (grid.SOLID_LOGIT, grid.LOWEST_LOGIT, grid.HIGHEST_LOGIT, grid.COARSEST) == (3.0, -9.0, 5.0, 8)
    assert (volume.SCENE_RADIUS, volume.MIN_TRANSMITTANCE, volume.OCCUPIED_DENSITY) == (0.55, 1e-3, 0.5)
    assert (texture.OUTSIDE, texture.INSIDE, texture.N_SAMPLES, texture.ROUGHNESS) == (0.02, 0.04, 7, 0.9)
    assert (surface.OPACITY_STEP, surface.MIN_OPACITY) == (0.02, 0.05)
    assert (mesh.CREASE_DEG, light.MATT, light.SMOOTH, visibility.NEAR) == (40.0, 0.7, 0.4, 0.01)
    assert (packing.SAMPLES_PER_SHARD, limits.SHARD_MEMBER_BYTES) == (512, 64 * 2**20)
    assert (limits.PICTURE_PIXELS, limits.JSON_BYTES) == (4096**2, 16 * 2**20)
    assert assets.LICENCE and assets.AUTHOR


def test_reports_begin_empty() -> None:
    assert asdict(render.RenderReport()) == {
        "done": 0,
        "skipped": 0,
        "renewed": 0,
        "failed": [],
        "remarks": [],
        "uncaptioned": [],
    }
    one, two = render.RenderReport(), render.RenderReport()
    assert one.failed is not two.failed
