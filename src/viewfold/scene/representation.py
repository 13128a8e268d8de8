"""The protocol of 3D representations: all that the flows call, so that they know no particular one.

`GridField` (scene/grid.py), `SignedDistanceGrid` (scene/sdf.py), `HashField` (scene/hashfield.py) and `GaussianCloud`
(scene/gaussians.py) satisfy it, and so does `MeshForm` (scene/meshform.py), a mesh that is optimised itself.
Nothing outside a representation touches its tensors: an optimiser gets them from `groups` and gives them back unread.

    representation = settings.begin(solid, detail=0.5)             coarse, from a first guess
    optimizer = torch.optim.Adam(representation.groups(0.1))       anew after each `set_detail`
    loss = compare(representation.render(cameras, size=64)) + representation.prior_loss()
    representation.refresh()                                       every ten steps or so, and after the last
    surface = representation.to_mesh(resolution=96, max_faces=4000)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.scene.rendering import Rendering
from viewfold.scene.surface import SurfaceResult

Solid = Callable[[Float[Tensor, "p 3"]], tuple[Float[Tensor, "p"], Float[Tensor, "p 3"]]]
"""A first guess at an object: how surely each point lies inside, 0 to 1, and its sRGB colour in [0, 1].

`scene.blob.Blob` is the one for when nothing is known; a representation may know it, and begin with its exact law.
"""


@runtime_checkable
class Representation(Protocol):
    """An object that can be drawn, differentiated, optimised and made into a mesh.  It lies on one device."""

    @property
    def device(self) -> torch.device:
        """Where its tensors are, and so where cameras and points must be."""
        ...

    def render(
        self,
        cameras: Cameras,
        *,
        size: int,
        generator: torch.Generator | None = None,
        quality: float = 1.0,
        normals: bool = False,
    ) -> Rendering:
        """Draw it; differentiable in its parameters.

        Args:
            cameras: where from, on its device.
            size: pixels along each side.
            generator: of whatever is drawn at random on the way; None draws the same picture each time.
            quality: multiplies the effort: 1 is what a step of an optimisation needs, 2 what a check deserves.
            normals: also draw normals, for what may be much more work; otherwise they are zero.

        Raises:
            InputError: a number out of range.
        """
        ...

    def groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Return all that may be optimised as parameter groups of `torch.optim`, each with its "params" and "lr".

        Args:
            learning_rate: for numbers of order one, such as logits; what is smaller or larger gets a share of it.
        """
        ...

    def prior_loss(self) -> Float[Tensor, ""]:
        """Return its own regularisation, already weighted: area of the surface, say, and roughness of colour.

        Not finite wherever a parameter is not, so that whoever adds it to a loss notices.
        """
        ...

    def constrain(self) -> None:
        """Clamp parameters, in place after an optimiser's step, to where gradients can still move them out again."""
        ...

    def refresh(self) -> None:
        """Update what speeds up rendering, such as which cells are empty; due every ten or twenty steps.

        `restore` and `set_detail` do it themselves.  One that was never refreshed is drawn in full.
        """
        ...

    def set_detail(self, share: float) -> None:
        """Go to a share of the final detail, above 0 up to 1: coarse steps cost less, and shapes settle sooner.

        Parameters may become new ones: make the optimiser anew, and take another snapshot.

        Raises:
            InputError: a share out of range.
        """
        ...

    def snapshot(self) -> Any:
        """Return a copy of its parameters that only `restore` reads."""
        ...

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot, in place: the parameters stay the same objects.

        Raises:
            InputError: a snapshot of another detail.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Return all that decides how it goes on, for a file: what a snapshot holds, and what speeds up rendering.

        Of tensors, numbers and text, in dicts, lists and tuples.  Not a copy: it is written before the next step.
        """
        ...

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a state exactly as the one that it was taken from would, of the same settings and detail.

        In place, as `restore` does.

        Raises:
            InputError: a state of another detail.
        """
        ...

    def is_finite(self) -> bool:
        """Say whether no parameter is NaN or infinite; the host waits for the device."""
        ...

    def to_mesh(self, *, resolution: int, max_faces: int) -> SurfaceResult:
        """Return its surface, closed, without colour and on the CPU.

        Args:
            resolution: cells along each axis of the scene at which the surface is sampled.
            max_faces: the mesh is thinned out to this number.

        Raises:
            InputError: a number out of range.
            FitError: it is empty or not finite.
        """
        ...

    def surface_color(self, points: Float[Tensor, "p 3"], normals: Float[Tensor, "p 3"]) -> Float[Tensor, "p 3"]:
        """Return the sRGB colour in [0, 1] seen by looking at surface points against their unit normals."""
        ...

    def to(self, device: torch.device | str) -> Representation:
        """Move it, in place or not, and return it."""
        ...


@runtime_checkable
class RepresentationSettings(Protocol):
    """How a representation is made and drawn: a frozen dataclass beside its class, which can make one."""

    def begin(self, solid: Solid, *, detail: float = 1.0, device: torch.device | str = "cpu") -> Representation:
        """Return a representation that looks about like a first guess.

        Args:
            solid: asked for points anywhere in the scene, in pieces or at once.
            detail: share of the final detail to begin with; see `Representation.set_detail`.
            device: where it is to lie; `solid` is asked for points there.
        """
        ...
