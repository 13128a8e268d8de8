"""Compare an exported mesh with the representation that it was made from: write, read back, draw, measure."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.scene.export import save_mesh
from viewfold.scene.harmonic import AnyLight
from viewfold.scene.mesh import Mesh
from viewfold.scene.meshfile import load_mesh
from viewfold.scene.rasterize import rasterize
from viewfold.scene.representation import Representation
from viewfold.scene.standing import Standing

CHECK_VIEWS = 8
CHECK_SIZE = 96
"""The exported file is drawn from this many sides at this size and compared with the representation."""

CHECK_QUALITY = 2.0
"""The representation is drawn with this many times the effort of an optimiser's step."""


@torch.no_grad()
def measure_export(
    mesh: Mesh,
    representation: Representation,
    *,
    ground: Float[Tensor, "3"],
    lens: tuple[float, float],
    light: AnyLight | None = None,
    standing: Standing = Standing(),  # noqa: B008
) -> dict[str, float]:
    """Write the mesh as GLB, read it back, draw it, and compare with the representation from sides of its own.

    Args:
        mesh: on the CPU.
        representation: as it was last refreshed.
        ground: sRGB colour that both are laid over.
        lens: field of view in degrees, and distance.
        light: that the representation shows and the mesh does not; None: both hold it, or none is.
        standing: of the file; what is read is brought back to where the representation is.

    Returns:
        `rerender_psnr_db`: -10 log10(mean squared error) of the file's pictures against the representation's, over
            pixels that it covers by half;
        `silhouette_iou`: intersection over union of the silhouettes, over all sides together.
    """
    fov_deg, distance = lens
    cameras = Cameras.orbit(
        CHECK_VIEWS,
        elevation_deg=[0.0, 30.0] * (CHECK_VIEWS // 2),
        azimuth_deg=22.5,
        fov_deg=fov_deg,
        distance=distance,
    )
    with tempfile.TemporaryDirectory() as folder:
        save_mesh(standing.apply(mesh), Path(folder) / "check.glb")
        exported = standing.undo(load_mesh(Path(folder) / "check.glb"), mesh)
    drawn = rasterize(exported, cameras, size=CHECK_SIZE, light=light)
    there = cameras.to(representation.device)
    truth = representation.render(there, size=CHECK_SIZE, quality=CHECK_QUALITY).to("cpu")
    behind = ground.cpu()
    inside, outline = truth.alpha > 0.5, drawn.alpha > 0.5
    error = (truth.over(behind) - drawn.over(behind)).square().mean(dim=1, keepdim=True)[inside].mean()
    union = (inside | outline).sum().clamp_min(1)
    return {
        "rerender_psnr_db": round(float(-10 * error.clamp_min(1e-10).log10()), 2),
        "silhouette_iou": round(float((inside & outline).sum() / union), 4),
    }
