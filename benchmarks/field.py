"""The field renderer, forward and backward, beside what one would write without it.  Ratios of one run, one thread.

    python benchmarks/field.py [--size 64] [--repeats 7]            # uses nerfacc's own code where it is installed

    dense grid    trilinear interpolation with its own scatter, against `grid_sample`
    renderer      packed samples in occupied cells, against nerfacc's batched `rendering` of every sample of the same
                  rays (its pure-PyTorch path: `render_weight_from_density` and `accumulate_along_rays`)
    hash grid     16 levels of 2 features, 2^19 rows, against the encoding written plainly: a level at a time, all
                  its corners by `gather`

Both sides of a row get the same field, points and rays; what they return is compared first.  Times are the least of
several, taken in turn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from viewfold.camera import Cameras
from viewfold.data.toybox import sample_asset
from viewfold.evaluation.report import markdown_table
from viewfold.lifting.fit import FitSettings, fit
from viewfold.lifting.observation import observe
from viewfold.scene import trilinear
from viewfold.scene.field import BOX_RADIUS
from viewfold.scene.grid import GridField, GridSettings
from viewfold.scene.hashgrid import HashEncoding
from viewfold.scene.rasterize import rasterize
from viewfold.scene.trilinear import PRIMES, Lattice
from viewfold.scene.volume import SCENE_RADIUS, intersect_sphere
from viewfold.views import Views

try:
    from nerfacc.volrend import rendering as nerfacc_rendering  # pyright: ignore[reportMissingImports]
except ImportError:
    nerfacc_rendering = None

N_POINTS = 200_000


def fitted_toy(resolution: int, samples: int) -> GridField:
    """Return a grid that was fitted to a toy, so that empty space is as it is in a lift."""
    cameras = Cameras.orbit(8, elevation_deg=[5.0, 30.0] * 4)
    views = Views(rgb=rasterize(sample_asset(3).mesh(), cameras, size=64).over(0.5), cameras=cameras)
    settings = GridSettings(resolution=resolution, samples=samples)
    made = fit(observe(views), representation=settings, settings=FitSettings(steps=40)).representation
    assert isinstance(made, GridField)
    made.refresh()
    return made


def dense(field: Callable[[Tensor], tuple[Tensor, Tensor]], cameras: Cameras, size: int, n_samples: int) -> Tensor:
    """Return colour and alpha of all rays, every sample of every ray evaluated, as nerfacc composites them."""
    origins, directions = (x.reshape(-1, 3) for x in cameras.rays(size))
    near, far = intersect_sphere(origins, directions)
    delta = 2 * SCENE_RADIUS / n_samples
    start = near[:, None] + torch.arange(n_samples) * delta
    inside = start + delta / 2 < far[:, None]

    def shade(t_starts: Tensor, t_ends: Tensor, _rays: object = None) -> tuple[Tensor, Tensor]:
        middle = (t_starts + t_ends)[..., None] / 2
        density, rgb = field((origins[:, None] + directions[:, None] * middle).reshape(-1, 3))
        return rgb.reshape(*t_starts.shape, 3), density.reshape(t_starts.shape) * inside

    if nerfacc_rendering is not None:
        color, alpha, _, _ = nerfacc_rendering(start, start + delta, rgb_sigma_fn=shade)
        return torch.cat([color, alpha], dim=1)
    rgb, density = shade(start, start + delta)
    depth = density * delta
    weight = torch.exp(-torch.cumsum(torch.cat([torch.zeros_like(depth[:, :1]), depth[:, :-1]], 1), 1))
    weight = weight * (1 - torch.exp(-depth))
    return torch.cat([(weight[..., None] * rgb).sum(1), weight.sum(1, keepdim=True)], dim=1)


def values_of(field: GridField) -> Tensor:
    """Return the parameter that a grid lets be optimised: one density and three colours at each node."""
    return field.groups(1.0)[0]["params"][0]


def by_grid_sample(field: GridField) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return the same field with PyTorch's own interpolation; its points lie in the box."""
    values = values_of(field)

    def look(points: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        where = (points / BOX_RADIUS)[None, :, None, None]
        found = functional.grid_sample(values, where, padding_mode="border", align_corners=True)[0, :, :, 0, 0].T
        return scale * functional.softplus(found[:, 0]), found[:, 1:].sigmoid()

    middle = torch.zeros(1, 3)
    return partial(look, scale=float((field.density(middle) / look(middle)[0]).detach()))


def plain_hash(encoding: HashEncoding, tables: Sequence[Tensor], at: Tensor) -> Tensor:
    """Return the features of points, written plainly: equation 4 of Instant NGP, a level at a time.

    Each level has a table of its own and is looked up at all eight corners at once, a feature after the other by
    `gather`: on a CPU faster than `embedding`, indexing or `index_select` of rows.
    """
    corners = torch.tensor(list(product((0, 1), repeat=3)))[:, None]
    found = []
    for level, table in zip(encoding.lattices, tables, strict=True):
        place = at * level.resolution
        low = place.floor().clamp(0, level.resolution - 1)
        share, node = place - low, low.long() + corners
        weight = torch.where(corners > 0, share, 1 - share).prod(dim=-1, keepdim=True)
        if level.hashed:
            x, y, z = (node * torch.tensor(PRIMES)).unbind(-1)
            row = (x ^ y ^ z) % level.rows
        else:
            row = (node * torch.tensor(level.strides)).sum(-1)
        features = torch.stack([channel.gather(0, row.flatten()) for channel in table], dim=-1)
        found.append((weight * features.view(*row.shape, -1)).sum(0))
    return torch.cat(found, dim=1)


def timed(
    ours: Callable[[], Tensor], theirs: Callable[[], Tensor], parameters: Sequence[Tensor], repeats: int
) -> tuple[float, float, float]:
    """Return the seconds of a forward and a backward pass of both, and the largest difference of what they return."""
    seconds = [float("inf")] * 2
    results = [call().detach() for call in (ours, theirs)]
    for _ in range(repeats):
        for side, call in enumerate((ours, theirs)):
            for each in parameters:
                each.grad = None
            started = time.perf_counter()
            call().square().mean().backward()
            seconds[side] = min(seconds[side], time.perf_counter() - started)
    return seconds[0], seconds[1], float((results[0] - results[1]).abs().max())


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(N_POINTS, 3, generator=generator)
    rows = []

    def compare(name: str, ours: Callable[[], Tensor], theirs: Callable[[], Tensor], *parameters: Tensor) -> None:
        mine, other, apart = timed(ours, theirs, parameters, options.repeats)
        rows.append([name, f"{mine * 1e3:.0f}", f"{other * 1e3:.0f}", f"{other / mine:.2f}", f"{apart:.1e}"])
        print(f"{name}: {other / mine:.2f} times as fast", flush=True)

    grid = torch.randn(1, 4, 64, 64, 64, generator=generator).requires_grad_()
    lattice = Lattice(resolution=63, first=0, rows=64**3)
    compare(
        f"dense grid, 64^3 x 4, {N_POINTS} points",
        lambda: trilinear.interpolate(points, grid.reshape(4, -1), [lattice]),
        lambda: functional.grid_sample(grid, points[None, :, None, None] * 2 - 1, align_corners=True)[0, :, :, 0, 0].T,
        grid,
    )
    cameras = Cameras.orbit(4, elevation_deg=15)
    for resolution, samples in ((48, 40), (64, 96)):
        field = fitted_toy(resolution, samples)

        def packed(field: GridField = field) -> Tensor:
            drawn = field.render(cameras, size=options.size)
            return torch.cat([drawn.rgb, drawn.alpha], dim=1).permute(0, 2, 3, 1).reshape(-1, 4)

        for word, plain in (("the same field", field), ("a field by `grid_sample`", by_grid_sample(field))):
            compare(
                f"renderer, {resolution}^3, {samples} samples, 4 views of {options.size} px, against {word}",
                packed,
                lambda plain=plain, samples=samples: dense(plain, cameras, options.size, samples),
                values_of(field),
            )
    encoding = HashEncoding()
    few, rows_of = points[: N_POINTS // 4], encoding.table.detach()
    tables = [rows_of[:, each.first : each.first + each.rows].clone().requires_grad_() for each in encoding.lattices]
    compare(
        f"hash grid, {len(few)} points",
        lambda: encoding(few),
        lambda: plain_hash(encoding, tables, few),
        encoding.table,
        *tables,
    )
    peer = "nerfacc" if nerfacc_rendering is not None else "nerfacc's formula, for it is not installed"
    print(f"\nthe peer of the renderer is {peer}\n")
    print(markdown_table(["", "ours, ms", "theirs, ms", "ratio", "largest difference"], rows))


if __name__ == "__main__":
    main()
