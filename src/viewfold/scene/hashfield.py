"""A representation: density and colour of a hash encoding through two small networks; MVDream's own.

    features = encoding(point)                                          scene/hashgrid.py
    density  = density_scale softplus(network(features) + blob(point))          blob: what it began from, if anything
    colour   = sigmoid(network(features))

As threestudio's implicit volume, which MVDream was released with (`RELEASED`).  `HashField` is a `Field` for the
renderer and the extraction, and a `Representation` for the flows.  On a CPU a dense grid (scene/grid.py) is several
times faster at the sizes that a lift from views needs (`benchmarks/field.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.scene.blob import BLOB_SLOPE, Blob
from viewfold.scene.field import BOX_RADIUS, lattice
from viewfold.scene.hashgrid import HashEncoding, HashSettings, LevelGrowth
from viewfold.scene.occupancy import look_again, occupied
from viewfold.scene.perceptron import Perceptron
from viewfold.scene.rendering import Rendering
from viewfold.scene.representation import Solid
from viewfold.scene.surface import SurfaceResult, extract_surface
from viewfold.scene.texture import surface_color
from viewfold.scene.volume import SCENE_RADIUS, OccupancyGrid, density_normal, render_volume
from viewfold.scene.voxel import checked_detail

TABLE_SHARE, NETWORK_SHARE = 0.1, 0.01
"""Shares of the learning rate: at 0.1 the table's is 0.01 and the networks' 0.001, as released."""

EPSILON = 1e-15
"""Adam's, as released; 1e-8 would all but stop features that few points reach."""

EMPTY, SOLID = -8.0, 3.0
"""What softplus is taken of in a first guess, outside and inside; see `GridField`."""

GAIN = 8.0
"""How much a feature of size one means to what softplus is taken of, in a first guess; to a logit of colour, half."""

LEAST_LEVELS = 3
"""Levels that no share of the detail goes below; none of them is hashed, so that they can hold a first guess."""

FIRST_LOOKS = 8
"""Looks at the cells that the first refresh takes: a plate across an axis is found if a quarter of a cell thick."""


@dataclass(frozen=True, kw_only=True)
class HashGridSettings:
    """How a hash grid is made, drawn and kept plausible."""

    encoding: HashSettings = field(default_factory=HashSettings)
    """Its levels and tables; MVDream's by default."""

    level_growth: LevelGrowth | None = None
    """Levels that join while an optimisation runs; None: all that the detail allows, at once."""

    density_scale: float = 25.0
    """Density per unit length where softplus is 1.  threestudio's is 1 per unit of its own, two of which are one of
    ours, so 2 here (`RELEASED`); from views a fit is faster with the voxel grid's."""

    normals: Literal["analytic", "differences"] = "analytic"
    """From the derivative of density by the chain rule, or by finite differences."""

    samples: int = 48
    """Samples along a ray across the scene at full detail."""

    cells: int = 32
    """Cells along each axis of the grid that says where space is empty."""

    decay: float = 0.95
    """How fast a cell that is empty now is forgotten, from one refresh to the next."""

    kind: Literal["hashgrid"] = field(default="hashgrid", init=False)
    """Names the representation in records."""

    def __post_init__(self) -> None:
        ranges = (
            ("density_scale", 1e-3, 1e4),
            ("samples", 8, 1024),
            ("cells", 4, 128),
            ("decay", 0.0, 1.0),
        )
        for name, low, high in ranges:
            if not low <= getattr(self, name) <= high:
                raise InputError(f"`{name}` must lie between {low} and {high}; got {getattr(self, name)}.")
        if self.normals not in ("analytic", "differences"):
            raise InputError(f'`normals` must be "analytic" or "differences"; got "{self.normals}".')
        plain = sum(not lattice.hashed for lattice in self.encoding.lattices())
        if self.encoding.features < 2 or plain < LEAST_LEVELS:
            raise InputError(
                f"`encoding` must have 2 features or more, and {LEAST_LEVELS} levels or more that are not hashed; got "
                f"{self.encoding.features} and {plain}. Raise `log2_rows`, or lower `base`."
            )
        if self.level_growth is not None and self.level_growth.start < LEAST_LEVELS:
            raise InputError(
                f"`level_growth` must start with {LEAST_LEVELS} levels or more; got {self.level_growth.start}."
            )

    def levels(self, detail: float) -> int:
        """Return the number of levels at a share of the detail: that share of them, rounded up."""
        return max(LEAST_LEVELS, math.ceil(self.encoding.levels * detail))

    def begin(self, solid: Solid, *, detail: float = 1.0, device: torch.device | str = "cpu") -> HashField:
        """Return a hash grid that holds the first guess, without an optimisation; see `HashField.write`.

        A `Blob` stays what it is, beside networks that begin with nothing, as threestudio's `density_bias` does.
        """
        made = HashField(self, blob=solid if isinstance(solid, Blob) else None)
        made.detail = checked_detail(detail)
        made.encoding.resize(self.levels(detail))
        made = made.to(device)
        if made.blob is None:
            made.write(solid)
        return made


RELEASED = HashGridSettings(density_scale=2.0, samples=325)
"""MVDream's, as released (mvdream-sd21.yaml): a step is 1.732 x 2 / 512 of threestudio's units, 0.0034 of ours."""


class HashField(nn.Module):
    """A hash encoding, and a network each for density and for colour."""

    def __init__(self, settings: HashGridSettings | None = None, *, blob: Blob | None = None) -> None:
        """Make a grey blob, or else a fog all over that `write` is to replace.

        Args:
            settings: None: the usual ones.
            blob: added to what softplus is taken of, for good.  Its radius is 0.25 of our units for MVDream, whose 0.5
                is in threestudio's: there the scene has radius 1, here 0.5.
        """
        super().__init__()
        self.settings, self.blob = settings or HashGridSettings(), blob
        self.encoding = HashEncoding(self.settings.encoding)
        width = self.settings.encoding.levels * self.settings.encoding.features
        self.for_density, self.for_color = Perceptron(width, 1, seed=1), Perceptron(width, 3, seed=2)
        self.detail, self.steps, self.looks = 1.0, 0, 0
        self.peak: Tensor | None
        self.occupied: Tensor | None
        for name in ("peak", "occupied"):  # buffers move with the field
            self.register_buffer(name, None, persistent=False)
        self._show_levels()

    @property
    def device(self) -> torch.device:
        """Where the table lies."""
        return self.encoding.table.device

    def density(self, points: Float[Tensor, "p 3"]) -> Float[Tensor, "p"]:
        """Return the density per unit length at world points; zero outside the box."""
        return self._activate(self.for_density(self.encoding(_in_cube(points)))[:, 0], points)

    def forward(self, points: Float[Tensor, "p 3"]) -> tuple[Float[Tensor, "p"], Float[Tensor, "p 3"]]:
        """Return the density per unit length and the sRGB colour in [0, 1] at world points."""
        features = self.encoding(_in_cube(points))
        return self._activate(self.for_density(features)[:, 0], points), self.for_color(features).sigmoid()

    def with_normal(
        self, points: Float[Tensor, "p 3"]
    ) -> tuple[Float[Tensor, "p"], Float[Tensor, "p 3"], Float[Tensor, "p 3"]]:
        """Return density, colour and the unit normal -grad density / |grad density|; see `Oriented`.

        Softplus rises with its argument u, so -grad u has the same direction.  Differentiable in all parameters.
        """
        if self.settings.normals == "differences":
            return *self(points), density_normal(self, points)
        features, slope = self.encoding.with_slope(_in_cube(points))
        value, gradient = self.for_density.with_slope(features, slope / (2 * BOX_RADIUS))
        if self.blob is not None:
            gradient = gradient - BLOB_SLOPE / self.blob.radius * functional.normalize(points.detach(), dim=-1)
        normal = functional.normalize(-gradient, dim=-1, eps=1e-8)
        return self._activate(value, points), self.for_color(features).sigmoid(), normal

    @torch.no_grad()
    def write(self, solid: Solid) -> None:
        """Replace all but the fine levels by a first guess, in closed form.

        Every feature gets a role: the first of a level belongs to density, the others to one channel of colour each.
        Hidden units pass the sum of a role's features through, so that one level holds the guess, exact at its nodes,
        and the others what is to be learned beside it.
        """
        roles, n_features = [self._slots(role) for role in range(4)], self.settings.encoding.features
        self.for_density.pass_through(roles[:1], GAIN)
        self.for_color.pass_through(roles[1:], GAIN / 2)
        for role, slots in enumerate(roles):
            level, k = max(divmod(slot, n_features) for slot in slots if slot < LEAST_LEVELS * n_features)
            held = self.encoding.lattices[level]
            points = lattice(held.resolution + 1, device=self.device)
            inside, rgb = solid(points)
            if role == 0:
                wanted = (EMPTY + (SOLID - EMPTY) * inside) / GAIN
            else:
                wanted = rgb[:, role - 1].clamp(0.02, 0.98).logit() / (GAIN / 2)
            self.encoding.table[k, held.first : held.first + held.rows] = wanted
        self.peak, self.occupied, self.looks = None, None, 0

    def _slots(self, role: int) -> list[int]:
        """Return which features of a point belong to density (role 0), or to red, green, blue (1 to 3)."""
        n_features = self.settings.encoding.features
        slots = range(self.settings.encoding.levels * n_features)
        if role == 0:
            return [slot for slot in slots if slot % n_features == 0]
        return [slot for slot in slots if slot % n_features][role - 1 :: 3]

    # What the flows see: see `Representation` for what each promises.

    def render(
        self,
        cameras: Cameras,
        *,
        size: int,
        generator: torch.Generator | None = None,
        quality: float = 1.0,
        normals: bool = False,
    ) -> Rendering:
        """Draw the volume; `generator` draws the place of each sample in its step."""
        occupancy = None if self.occupied is None else OccupancyGrid(cells=self.occupied)
        n_samples = max(2, int(self.settings.samples * self.detail * quality))
        return render_volume(
            self, cameras, size=size, n_samples=n_samples, occupancy=occupancy, generator=generator, normals=normals
        )

    def groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Return the table, and the networks at a tenth of its rate."""
        networks = [*self.for_density.parameters(), *self.for_color.parameters()]
        return [
            {"params": [self.encoding.table], "lr": TABLE_SHARE * learning_rate, "eps": EPSILON},
            {"params": networks, "lr": NETWORK_SHARE * learning_rate, "eps": EPSILON},
        ]

    def prior_loss(self) -> Float[Tensor, ""]:
        """Return zero, as MVDream has no loss of the field's own; NaN if a parameter is not finite."""
        networks = [*self.for_density.parameters(), *self.for_color.parameters()]
        return 0 * sum((p.sum() for p in networks), self.encoding.table.detach().sum())

    def constrain(self) -> None:
        """Count the step, and let the next level join if it is its turn; nothing has to be clamped."""
        self.steps += 1
        self._show_levels()

    def refresh(self) -> None:
        """Look again at one place in each cell; see scene/occupancy.py."""
        n_cells, delta = self.settings.cells, 2 * SCENE_RADIUS / self.settings.samples
        peak, looks = self.peak, 1
        if peak is None:
            peak, looks = torch.zeros(n_cells, n_cells, n_cells, device=self.device), FIRST_LOOKS
        for _ in range(looks):
            peak = look_again(self, peak, self.looks, delta=delta, decay=self.settings.decay)
            self.looks += 1
        self.peak, self.occupied = peak, occupied(peak)

    def set_detail(self, share: float) -> None:
        """Hold a share of the levels, the coarse ones, and take that share of the samples."""
        self.detail = checked_detail(share)
        if self.settings.levels(share) != self.encoding.held:
            self.encoding.resize(self.settings.levels(share))
        self._show_levels()
        self.refresh()

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of the parameters, of what the cells were seen to hold, and of the steps so far."""
        copied = {name: value.detach().clone() for name, value in self.state_dict().items()}
        peak = None if self.peak is None else self.peak.clone()
        return {"parameters": copied, "peak": peak, "looks": self.looks, "steps": self.steps}

    @torch.no_grad()
    def restore(self, snapshot: dict[str, Any]) -> None:
        """Copy a snapshot into the parameters."""
        there, here = snapshot["parameters"]["encoding.table"].shape, self.encoding.table.shape
        if there != here:
            raise InputError(
                f"`snapshot` must be of the detail that the field has, {here[1]} rows; got {there[1]}. Take another "
                "after `set_detail`."
            )
        for name, value in self.state_dict().items():
            value.copy_(snapshot["parameters"][name])
        peak = snapshot["peak"]
        self.peak = None if peak is None else peak.to(self.device)
        self.looks, self.steps = snapshot["looks"], snapshot["steps"]
        self.occupied = None if self.peak is None else occupied(self.peak)
        self._show_levels()

    def state(self) -> dict[str, Any]:
        """Return a snapshot: it holds what the cells were seen to hold, and the steps that levels join by."""
        return self.snapshot()

    def resume(self, state: dict[str, Any]) -> None:
        """Go back to it."""
        self.restore(state)

    def is_finite(self) -> bool:
        """Look at every parameter."""
        return bool(torch.stack([p.detach().isfinite().all() for p in self.parameters()]).all())

    def to_mesh(self, *, resolution: int, max_faces: int) -> SurfaceResult:
        """Extract the surface by marching cubes."""
        return extract_surface(self, resolution=resolution, max_faces=max_faces, device=self.device)

    def surface_color(self, points: Float[Tensor, "p 3"], normals: Float[Tensor, "p 3"]) -> Float[Tensor, "p 3"]:
        """Composite the volume from just outside to just inside."""
        return surface_color(self, points, normals)

    def _show_levels(self) -> None:
        growth = self.settings.level_growth
        held = self.encoding.held
        self.encoding.active = held if growth is None else min(held, growth.at(self.steps))

    def _activate(self, value: Float[Tensor, "p"], points: Float[Tensor, "p 3"]) -> Float[Tensor, "p"]:
        if self.blob is not None:
            value = value + self.blob.logit(points)
        inside = points.detach().abs().amax(dim=-1) <= BOX_RADIUS
        return self.settings.density_scale * functional.softplus(value) * inside


def _in_cube(points: Float[Tensor, "p 3"]) -> Float[Tensor, "p 3"]:
    return (points / BOX_RADIUS + 1) / 2
