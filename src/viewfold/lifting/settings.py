"""The settings of a distillation; what a number means is said beside it, and which the paper has in lifting/presets.py.

They describe what the prior is shown, how noisy, which loss is made of its answer, and how it is descended.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from viewfold.diffusion.schedule import Anneal, NoiseRange
from viewfold.errors import InputError
from viewfold.lifting.backdrop import Backdrop
from viewfold.lifting.descent import OptimizerSettings
from viewfold.lifting.phase import Phase, check_phases
from viewfold.lifting.regularizer import Regularizer
from viewfold.lifting.score import Reconstruction, Score, check_score
from viewfold.lifting.shading import Shading
from viewfold.lifting.viewpoint import DrawnLens


@dataclass(frozen=True, kw_only=True)
class DistilSettings:
    """How a representation is distilled."""

    steps: int = 60
    """Steps of the optimiser; 0 leaves the fit as it is."""

    guidance: float = 3.0
    """Classifier-free guidance; MVDream's 50 is for a start from nothing.  From a fit, 10 for 140 steps speckled the
    shipped model's chair with colours that no view has (re-render 21.6 dB instead of 23.2)."""

    score: Score | str = Reconstruction()
    """The loss that is minimised: `Reconstruction(rescale=...)`, as MVDream does, or another of lifting/score."""

    negative: str = ""
    """What to keep away from."""

    noise_at_start: tuple[float, float] = (0.30, 0.60)
    """Range of noise levels at the first step, as fractions of the schedule; low ones keep the shape of the fit."""

    noise_at_end: tuple[float, float] = (0.02, 0.30)
    """Range of noise levels at the last step of the anneal; both ends move in straight lines, as MVDream's do."""

    anneal_steps: int | None = None
    """Steps over which the noise levels move, constant afterwards; None: all steps (MVDream: 8,000 of 10,000)."""

    views: int = 4
    """Cameras of a step, spread evenly around the object, as the prior was trained."""

    elevation_deg: tuple[float, float] = (0.0, 30.0)
    """Range of the cameras' elevation, one for all views of a step (MVDream: 0 to 30)."""

    elevation_by_area: float = 0.0
    """Share of the steps, 0 to 1, whose elevation is even over the sphere's area instead of over degrees (MVDream:
    0.5)."""

    lens: DrawnLens | None = None
    """Field of view and distance, drawn anew for each object; None: those of the views."""

    phases: tuple[Phase, ...] = (Phase(),)
    """How large pictures are, and how many, from which step on; the first begins at step 0."""

    backdrop: Backdrop | None = None
    """What is behind the object; None: the views' ground."""

    shading: Shading | None = None
    """The light that the prior sees the object in; None: none, colours alone."""

    regularizer: Regularizer = field(default_factory=Regularizer)
    """Weights of what keeps the shape plausible."""

    sample_posterior: bool = False
    """Whether latents are drawn from the encoder's posterior, as MVDream's are, instead of being its mean."""

    score_mean: Literal["latents", "views"] | str = "latents"
    """What the score is averaged over: all numbers of the latents, or the views alone (as released), which is larger by
    the numbers of a view's latents, 4,096 for the released model; it matters beside the regularisers."""

    learning_rate: float = 0.05
    """The optimiser's at the first step, for parameters of order one; see `OptimizerSettings.last_rate`."""

    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    """Adam's other numbers."""

    photometric_weight: float = 30.0
    """Weight of the pictures beside the prior; they are compared every third step."""

    precision: Literal["float32", "bfloat16"] | str = "float32"
    """What the prior's network computes in; "bfloat16" is faster where the device has it natively
    (`benchmarks/distillation.py`).  The representation, and pictures on their way to latents, stay as they are."""

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise InputError(f'`precision` must be "float32" or "bfloat16"; got "{self.precision}".')
        if self.steps < 0:
            raise InputError(f"`steps` must not be negative; got {self.steps}.")
        if not 1 <= self.views <= 64:
            raise InputError(f"`views` must lie between 1 and 64; got {self.views}.")
        if not 0 <= self.guidance < float("inf"):
            raise InputError(f"`guidance` must be a finite number of at least 0; got {self.guidance}.")
        if not 0 <= self.elevation_by_area <= 1:
            raise InputError(f"`elevation_by_area` must lie between 0 and 1; got {self.elevation_by_area}.")
        if self.score_mean not in ("latents", "views"):
            raise InputError(f'`score_mean` must be "latents" or "views"; got "{self.score_mean}".')
        check_phases(self.phases)
        check_score(self.score)
        low, high = self.elevation_deg
        if not -89 <= low <= high <= 89:
            raise InputError(f"`elevation_deg` must be a range within -89 to 89; got {self.elevation_deg}.")
        if self.anneal_steps is not None and self.anneal_steps < 0:
            raise InputError(f"`anneal_steps` must not be negative; got {self.anneal_steps}.")
        for name in ("noise_at_start", "noise_at_end"):
            low, high = getattr(self, name)
            if not 0 <= low <= high < 1:
                raise InputError(f"`{name}` must be a range within 0 to 1, without 1; got {getattr(self, name)}.")

    @property
    def noise(self) -> NoiseRange:
        """The range of noise levels over the run."""
        (low, high), (last_low, last_high) = self.noise_at_start, self.noise_at_end
        steps = self.steps if self.anneal_steps is None else self.anneal_steps
        return NoiseRange(
            low=Anneal(start=low, end=last_low, steps=steps), high=Anneal(start=high, end=last_high, steps=steps)
        )
