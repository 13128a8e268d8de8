"""The guard of a distillation: steps a representation's optimiser, and takes back what went wrong.

It watches coverage, loss and gradients, and goes back to the last good state when the object fills the scene, empties
or turns to NaN.  Knows a representation and a loss, and nothing of priors or pictures.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.errors import FitError
from viewfold.lifting.descent import OptimizerSettings, make_optimizer
from viewfold.scene.background import Background
from viewfold.scene.representation import Representation
from viewfold.scene.volume import intersect_sphere

MAX_ROLLBACKS = 3
"""After so many returns to a good state the distillation ends: in an error if NaN was the reason."""

EMPTY_BELOW, FULL_ABOVE = 0.25, 2.5
"""Coverage, as a multiple of the silhouettes', beyond which the object counts as collapsed."""

THIN_COVERAGE = 0.5
"""Less coverage than this is no sign of a full scene: what is thin from one side is broad from another."""

FULL_SHARE = 0.6
"""An object that fills this share of what the silhouettes left free counts as collapsed in any case."""


GONE_BELOW, ALL_ABOVE = 0.002, 0.95
"""Coverage of a picture, and share of `most`, beyond which an object counts as collapsed that no silhouette bounds."""


def collapse_limits(coverage: float | None, *, most: float = 1.0) -> tuple[float, float]:
    """Return the least and the greatest coverage of a healthy object whose silhouettes cover `coverage`.

        least    = 0.25 coverage
        greatest = min(max(2.5 coverage, 0.5), coverage + 0.6 (most - coverage))

    The second term keeps the limit below `most`, the coverage of an object that fills the whole scene.  Without
    silhouettes (None) all is healthy but nothing at all and the whole scene: 0.002 and 0.95 most.
    """
    if coverage is None:
        return GONE_BELOW, ALL_ABOVE * most
    free = max(most - coverage, 0.0)
    greatest = min(max(FULL_ABOVE * coverage, THIN_COVERAGE), coverage + FULL_SHARE * free)
    return EMPTY_BELOW * coverage, greatest


def largest_coverage(fov_deg: float, distance: float) -> float:
    """Return the share of a picture that an object can fill at all: the sphere that is rendered."""
    origins, directions = Cameras.orbit(1, fov_deg=fov_deg, distance=distance).rays(64)
    near, far = intersect_sphere(origins.reshape(-1, 3), directions.reshape(-1, 3))
    return float((far > near).float().mean())


class Guard:
    """Steps the optimiser of a representation and keeps the last state that was neither collapsed nor NaN."""

    SAVE_EVERY = 10

    def __init__(
        self,
        representation: Representation,
        *,
        coverage: float | None,
        learning_rate: float,
        most: float = 1.0,
        optimizer: OptimizerSettings | None = None,
        background: Background | None = None,
        background_rate: float = 1.0,
    ) -> None:
        """Watch a representation, and a background that is learned along.

        Args:
            representation: stepped in place.
            coverage: the share of a picture that a healthy object fills; None if nobody knows.
            learning_rate: see `Representation.groups`.
            most: the share that any object can fill.
            optimizer: which one.
            background: stepped and taken back with the representation.
            background_rate: its learning rate, as a share of `learning_rate`.
        """
        self.representation, self.learning_rate = representation, learning_rate
        self.optimizer, self.background, self.background_rate = optimizer, background, background_rate
        self.limits = collapse_limits(coverage, most=most)
        self.rollbacks, self.reason = 0, ""
        """How often it went back to the last good state, and why it did so last."""
        self._steps = 0
        self._good = self._snapshot()
        self._renew()

    def step(self, loss: Tensor, *, coverage: float | Tensor, decay: float = 1.0) -> bool:
        """Descend once; return False if the representation went back to its last good state instead.

        `coverage` is the mean alpha of the render that `loss` was computed from: it judges the state before the step.
        `decay` multiplies the learning rates.  The host waits for the device once.

        Raises:
            FitError: NaN again after `MAX_ROLLBACKS` returns.
        """
        self.backward(loss)
        return self.advance(loss, coverage=coverage, decay=decay)

    def backward(self, loss: Tensor) -> None:
        """Do the first half of `step`: put the gradients in place.  May be done again if it failed."""
        self._optimizer.zero_grad()
        loss.backward()

    def advance(self, loss: Tensor, *, coverage: float | Tensor, decay: float = 1.0) -> bool:
        """Do the second half of `step`, whose arguments these are."""
        finite, share = self._look(loss.detach(), coverage)
        lowest, highest = self.limits
        if not (finite and lowest <= share <= highest):
            where = f"less than {lowest:.1%}" if share < lowest else f"more than {highest:.1%}"
            covers = f"the object covered {share:.1%} of the pictures, {where}"
            self._roll_back(covers if finite else "the loss or its gradients were not finite")
            if not finite and self.rollbacks > MAX_ROLLBACKS:
                raise FitError(
                    f"the distillation must stay finite; it turned to NaN {self.rollbacks} times. "
                    "Try another seed, less guidance or float32."
                )
            return False
        if self._steps % self.SAVE_EVERY == 0:
            self._good = self._snapshot()
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * decay
        self._optimizer.step()
        self.representation.constrain()
        self._steps += 1
        return True

    def _look(self, loss: Tensor, coverage: float | Tensor) -> tuple[bool, float]:
        """Return whether loss and gradients are finite, and the coverage, in one trip from the device.

        A loss that reaches no parameter counts as not finite.
        """
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        finite = loss.isfinite()
        for gradient in gradients:
            finite = finite & gradient.isfinite().all()
        share = torch.as_tensor(coverage, dtype=torch.float32, device=loss.device)
        seen, share = torch.stack([finite.float(), share]).tolist()
        return bool(seen) and bool(gradients), share

    def finish(self) -> bool:
        """Undo the last steps if they left something that is not finite; return False if they did."""
        if self.representation.is_finite():
            return True
        self._roll_back("the last steps left numbers that are not finite")
        return False

    def state(self) -> dict[str, Any]:
        """Return all that decides how it goes on, the representation and the background too, for a file; no copy."""
        return {
            "scene": self.representation.state(),
            "background": {} if self.background is None else self.background.state_dict(),
            "good": self._good,
            "optimizer": self._optimizer.state_dict(),
            "learning_rate": self.learning_rate,
            "rollbacks": self.rollbacks,
            "steps": self._steps,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a state, of the same settings."""
        self.learning_rate, self.rollbacks = state["learning_rate"], state["rollbacks"]
        self._steps, self._good = state["steps"], state["good"]
        self.representation.resume(state["scene"])
        if self.background is not None:
            self.background.load_state_dict(state["background"])
        self._renew()
        self._optimizer.load_state_dict(state["optimizer"])

    def _roll_back(self, reason: str) -> None:
        self.rollbacks += 1
        self.reason = reason
        self.learning_rate /= 2
        scene, behind = self._good
        self.representation.restore(scene)
        if self.background is not None:
            self.background.load_state_dict(behind)
        self._renew()

    def _snapshot(self) -> tuple[Any, dict[str, Tensor]]:
        behind = {} if self.background is None else self.background.state_dict()
        return self.representation.snapshot(), {name: value.clone() for name, value in behind.items()}

    def _renew(self) -> None:
        """Forget the optimiser's momentum."""
        behind = None
        if self.background is not None:
            behind = self.background.groups(self.background_rate * self.learning_rate)
        self._optimizer = make_optimizer(self.representation, self.learning_rate, self.optimizer, beside=behind)
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
