"""What the search for an unknown field of view finds, and what a lift gains by it.

    python benchmarks/lens.py [--toys 3] [--views 8 16] [--fovs 20 40 58]

True renders of held-out toys at one field of view, given with cameras that say 40 degrees.  Found: by the silhouettes,
and by the pictures.  Lifted with the field of view as given, as found by the pictures, and as it was: PSNR over the
picture from eight sides that no view shows, the field drawn with the lens that it was fitted with and the toy with its
own.  Nothing of it needs a network.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from toybox_subjects import BACKGROUND, SIZE, held_out_toys, world_of

from viewfold.camera import Cameras
from viewfold.evaluation.judge import load_judge
from viewfold.evaluation.likeness import psnr_db
from viewfold.evaluation.report import markdown_table
from viewfold.lifting.fit import fit
from viewfold.lifting.lens import find_lens
from viewfold.lifting.observation import Observed, ObserveSettings, observe
from viewfold.scene.mesh import Mesh
from viewfold.scene.rasterize import rasterize
from viewfold.views import Views

RUN = 31
"""Which toys of `held_out_toys`: others than those of the other benchmarks."""


def cameras_at(n_views: int, fov_deg: float) -> Cameras:
    """Return cameras around an object, at 15 degrees for four views, at 5 and 30 in turn for more."""
    heights = [15.0] if n_views == 4 else [5.0, 30.0]
    return Cameras.orbit(n_views, elevation_deg=[heights[i % len(heights)] for i in range(n_views)], fov_deg=fov_deg)


def unseen_psnr(observed: Observed, mesh: Mesh, true: float) -> float:
    """Fit, and compare the field with the toy from unseen sides, each through its own lens."""
    fitted = fit(observed, generator=torch.Generator().manual_seed(0)).representation
    found = float(observed.views.cameras.fov_deg[0])
    heights, around = [5.0, 25.0] * 4, [22.5 + 45 * i for i in range(8)]
    unseen = [Cameras.at(elevation_deg=heights, azimuth_deg=around, fov_deg=fov) for fov in (found, true)]
    with torch.no_grad():
        drawn = fitted.render(unseen[0], size=SIZE, quality=2.0).over(BACKGROUND)
    return psnr_db(drawn, rasterize(mesh, unseen[1], size=SIZE).over(BACKGROUND))


def main() -> None:
    """Search, fit and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toys", type=int, default=3)
    parser.add_argument("--views", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--fovs", type=float, nargs="+", default=[20.0, 40.0, 58.0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    toys = held_out_toys(options.toys, seed=RUN, world=world_of(load_judge()[0]))[: options.toys]
    rows = []
    for n_views in options.views:
        for true in options.fovs:
            found: dict[str, list[float]] = {"silhouettes": [], "pictures": []}
            gained: dict[str, list[float]] = {"as given": [], "as found": [], "as it was": []}
            for toy in toys:
                mesh = toy.mesh()
                rgb = rasterize(mesh, cameras_at(n_views, true), size=SIZE).over(BACKGROUND)
                given = observe(Views(rgb=rgb, cameras=cameras_at(n_views, 40.0)))
                looks = {how: find_lens(given, settings=ObserveSettings(lens=how)) for how in found}
                for how, look in looks.items():
                    found[how].append(float(look.views.cameras.fov_deg[0]))
                real = replace(given, views=replace(given.views, cameras=cameras_at(n_views, true)))
                for name, look in zip(gained, (given, looks["pictures"], real), strict=True):
                    gained[name].append(unseen_psnr(look, mesh, true))
            means = [f"{sum(values) / len(values):.1f}" for values in gained.values()]
            spread = [" ".join(f"{fov:.0f}" for fov in fovs) for fovs in found.values()]
            rows.append([str(n_views), f"{true:.0f}", *spread, *means])
            print(rows[-1], flush=True)
    print(markdown_table(["views", "true", "silhouettes", "pictures", *[f"PSNR {name}, dB" for name in gained]], rows))


if __name__ == "__main__":
    main()
