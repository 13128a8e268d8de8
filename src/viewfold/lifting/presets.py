"""Named settings of a lift.  Where a number comes from is said beside it, or at the field that has it by default."""

from __future__ import annotations

from dataclasses import replace

from viewfold.diffusion.schedule import Anneal, NoiseRange
from viewfold.lifting.stages import LiftSettings

STANDARD = LiftSettings()
"""Fits, then distils: the default of `lift`."""

DRAFT = replace(STANDARD, distil=replace(STANDARD.distil, steps=0))
"""Only fits: no network runs, in a third of the time.  Sides that no view shows keep what the hull guessed."""

MVDREAM_NOISE = NoiseRange(low=Anneal(start=0.98, end=0.02, steps=8000), high=Anneal(start=0.98, end=0.50, steps=8000))
"""MVDream's noise levels, from a blob and over 10,000 steps (MVDream-threestudio, mvdream-sd21.yaml); too high for a
start from a fit.  `DistilSettings(noise_at_start=(0.98, 0.98), noise_at_end=(0.02, 0.50), anneal_steps=8000)`."""
