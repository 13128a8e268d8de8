"""The terms of a distillation that keep shapes plausible, with their weights; scene/regularize.py has the formulas."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from viewfold.diffusion.schedule import Anneal
from viewfold.errors import InputError
from viewfold.scene.regularize import binary_entropy, orientation, sparsity, z_variance
from viewfold.scene.rendering import Rendering

NEVER = Anneal(start=0.0, end=0.0, steps=0)


@dataclass(frozen=True, kw_only=True)
class Regularizer:
    """Weights of terms that a distillation adds to its loss; the representation's own are beside them."""

    orientation: Anneal = NEVER
    """Of surfaces that turn their back (Ref-NeRF, equation 11)."""

    opacity: float = 0.0
    """Of pixels that are neither covered nor free: their binary entropy."""

    sparsity: float = 0.0
    """Of coverage (DreamFusion, appendix A.2)."""

    z_variance: float = 0.0
    """Of surfaces that are thick fog (HiFA, section 3.3)."""

    def __post_init__(self) -> None:
        weights = {name: getattr(self, name) for name in ("opacity", "sparsity", "z_variance")}
        weights |= {"orientation": min(self.orientation.start, self.orientation.end)}
        for name, weight in weights.items():
            if not 0 <= weight < float("inf"):
                raise InputError(f"`{name}` must be a finite weight of at least 0; got {weight}.")

    def needs_samples(self, step: int) -> bool:
        """Say whether pictures must come with the samples along their rays."""
        return self.orientation.at(step) > 0 or self.z_variance > 0

    def loss(self, rendered: Rendering, *, step: int) -> Float[Tensor, ""]:
        """Return the weighted sum of all terms whose weight is not zero.

        Raises:
            InputError: a term needs samples and the pictures have none.
        """
        total = rendered.alpha.new_zeros(())
        if self.needs_samples(step):
            if rendered.samples is None:
                raise InputError(
                    "`orientation` and `z_variance` must be 0 for a representation whose pictures have no samples "
                    "along their rays. Use one that is a volume, such as a grid."
                )
            if self.orientation.at(step) > 0:
                total = total + self.orientation.at(step) * orientation(rendered.samples)
            if self.z_variance > 0:
                total = total + self.z_variance * z_variance(rendered.samples, rendered.alpha)
        if self.opacity > 0:
            total = total + self.opacity * binary_entropy(rendered.alpha)
        if self.sparsity > 0:
            total = total + self.sparsity * sparsity(rendered.alpha)
        return total
