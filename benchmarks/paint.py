"""What the paint of a lift is worth: true renders of toys, lifted, and the files redrawn at sides that no view shows.

    python benchmarks/paint.py [--toys 8] [--seed 80000000] [--views 16] [--sheet out/paint.png]

Held-out toys are drawn in the renderer's light, 64 pixels, at elevations of 5 and 30 degrees, over grey; fitted,
extracted and painted without distillation; and the GLBs, read back, are drawn in that light again from eight other
sides.  Figures are PSNR in dB over the pixels that toy and file both cover by half, the mean over the toys.

The bake of before took the field's colours, light and all, and is the first row; the second says how much of its error
is light that is lit again: the same texture, unlit.  The others are `lifting.paint` with the light known, estimated
from the views, and left in.  "Albedo" compares both without any light.  Also how near the lights that were estimated
are to the true one (relative, over the normals of the toy), and how many were told; and by how many degrees the mesh's
normals, and those of a normal map of the surface before it was thinned out, miss the toy's, where both show the same
surface.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from toybox_subjects import BACKGROUND, FIRST_SEED, SIZE, UNSEEN

from viewfold.camera import Cameras
from viewfold.data.toybox import Asset, sample_asset
from viewfold.evaluation.likeness import compare_pictures
from viewfold.lifting.distillation import Refined
from viewfold.lifting.extraction import Extracted, MeshSettings, extract
from viewfold.lifting.fit import fit
from viewfold.lifting.light import Estimate, PaintedIn
from viewfold.lifting.observation import observe
from viewfold.lifting.paint import PaintSettings, paint
from viewfold.scene.export import save_mesh
from viewfold.scene.light import Light
from viewfold.scene.material import Material, Texture
from viewfold.scene.mesh import Mesh
from viewfold.scene.meshfile import load_mesh
from viewfold.scene.rasterize import rasterize
from viewfold.scene.relief import fine_normals
from viewfold.scene.rendering import Rendering
from viewfold.scene.texture import Texels, bake_texture, unwrap
from viewfold.views import Views

LIGHTS = {"known": Light(), "estimated": Estimate(), "left in": PaintedIn()}
APART = 0.03
"""Depths that differ by more, in world units, show different surfaces."""


def lifted(asset: Asset, n_views: int) -> Extracted:
    """Return the surface that comes of a toy's own renders."""
    cameras = Cameras.orbit(n_views, elevation_deg=[5.0 if i % 2 == 0 else 30.0 for i in range(n_views)])
    rgb = rasterize(asset.mesh(), cameras, size=SIZE).over(BACKGROUND)
    fitted = fit(observe(Views(rgb=rgb, cameras=cameras)), generator=torch.Generator().manual_seed(0))
    refined = Refined(representation=fitted.representation, observed=fitted.observed, rollbacks=0)
    return extract(refined, settings=MeshSettings())


def redrawn(mesh: Mesh, light: Light | None) -> Rendering:
    """Return a mesh as a file shows it at the unseen sides."""
    with tempfile.TemporaryDirectory() as folder:
        return rasterize(load_mesh(save_mesh(mesh, Path(folder) / "toy.glb")), UNSEEN, size=SIZE, light=light)


def angles_deg(extracted: Extracted, true: Rendering) -> tuple[float, float]:
    """Return how far the mesh's normals, and its normal map's, are from the toy's on average."""
    texels = Texels.of(unwrap(extracted.surface.mesh, size=512), size=512)
    assert extracted.surface.fine is not None
    own = rasterize(texels.mesh, UNSEEN, size=true.rgb.shape[-1], light=None)
    both = (true.alpha > 0.99) & (own.alpha > 0.99) & ((true.depth - own.depth).abs() < APART)

    def drawn(normals: Tensor) -> float:
        image = texels.picture((normals + 1) / 2)
        mesh = replace(texels.mesh, materials=(Material(texture=Texture(image=image)),))
        seen = 2 * rasterize(mesh, UNSEEN, size=true.rgb.shape[-1], light=None).rgb - 1
        cosine = torch.nn.functional.cosine_similarity(seen, true.normal, dim=1)[:, None]
        return float(cosine.clamp(-1, 1).acos().rad2deg()[both].mean())

    return drawn(texels.normals), drawn(fine_normals(texels, extracted.surface.fine))


def main() -> None:
    """Lift, paint each way, redraw, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toys", type=int, default=8)
    parser.add_argument("--seed", type=int, default=FIRST_SEED)
    parser.add_argument("--views", type=int, default=16)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[tuple[float, ...]]] = {}
    sheet, errors, angles = [], [], []
    for number in range(options.toys):
        asset = sample_asset(options.seed + number, held_out=True)
        extracted, true = lifted(asset, options.views), rasterize(asset.mesh(), UNSEEN, size=SIZE)
        bare = rasterize(asset.mesh(), UNSEEN, size=SIZE, light=None)
        before = bake_texture(extracted.surface.mesh, extracted.representation.surface_color, size=512)
        meshes = {"field's colour, lit again (before)": (before, 0.0)}
        meshes["field's colour, unlit"] = replace(before, materials=(replace(before.materials[0], lit=False),)), 0.0
        for name, light in LIGHTS.items():
            started = time.process_time()
            made = paint(extracted, settings=PaintSettings(light=light), prompt=asset.captions[0])
            meshes[f"views, light {name}"] = made.mesh, time.process_time() - started
            if name == "estimated" and made.found.light is not None:
                normals = asset.mesh().face_normals()
                ratio = made.found.light.shade(normals) / Light().shade(normals.clone())
                errors.append(float((ratio / ratio.median() - 1).square().mean().sqrt()))
        sheet.append(true.over(BACKGROUND))
        for name, (mesh, spent) in meshes.items():
            drawn = redrawn(mesh, Light())
            albedo = compare_pictures(redrawn(mesh, None), bare).both_psnr_db
            rows.setdefault(name, []).append((compare_pictures(drawn, true).both_psnr_db, albedo, spent))
            sheet.append(drawn.over(BACKGROUND))
        angles.append(angles_deg(extracted, bare))
        print(f"{asset.captions[0]}: " + ", ".join(f"{v[-1][0]:.1f}" for v in rows.values()), flush=True)
    print("\n| paint | redrawn in the light, dB | albedo, dB | CPU s |\n|---|---|---|---|")
    for name, figures in rows.items():
        lit, albedo, spent = torch.tensor(figures).mean(0).tolist()
        print(f"| {name} | {lit:.2f} | {albedo:.2f} | {f'{spent:.1f}' if spent else ''} |")
    own, fine = torch.tensor(angles).mean(0).tolist()
    print(f"\nlights told: {len(errors)} of {options.toys}, off by {sum(errors) / max(1, len(errors)):.3f} rms")
    print(f"normals off by {own:.1f} degrees (mesh), {fine:.1f} (normal map)")
    if options.sheet:
        save_sheet(sheet, options.sheet)


def save_sheet(rows: list[Tensor], path: Path) -> None:
    """Save a picture with a row for each toy and each way: the truth, then the ways in the table's order."""
    from viewfold.picture import to_pil

    path.parent.mkdir(parents=True, exist_ok=True)
    to_pil(torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2)).save(path)


if __name__ == "__main__":
    main()
