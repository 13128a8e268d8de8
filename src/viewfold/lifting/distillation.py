"""Distil a representation against the prior, from cameras that the views did not have, or with no views at all.

Four views leave corners that no silhouette cuts and sides that no picture shows; the prior knows what belongs there.
Every third step is held to the pictures, so that the object stays the one that was sampled; a guard (lifting/guard.py)
goes back to the last good state when the object fills the scene, empties or turns to NaN.  From a blob the prior
decides everything, as in the paper (`presets.MVDREAM`).

    loss = score / (latent numbers of a view) + prior_loss + regularisers + [every third step] weight photometric

`studio` takes the pictures that the prior sees, `settings` says how.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from viewfold.diffusion.schedule import Anneal
from viewfold.lifting.critic import Critic, Opinion
from viewfold.lifting.descent import REFRESH_EVERY, Progress
from viewfold.lifting.fit import Fitted
from viewfold.lifting.guard import MAX_ROLLBACKS, Guard, largest_coverage
from viewfold.lifting.keeping import Keeper, Note
from viewfold.lifting.observation import Observed
from viewfold.lifting.preview import Look
from viewfold.lifting.prior import Prior
from viewfold.lifting.ration import Ration
from viewfold.lifting.settings import DistilSettings
from viewfold.lifting.start import observe_itself
from viewfold.lifting.studio import Shot, Studio
from viewfold.scene.representation import Representation

__all__ = ["DistilSettings", "Refined", "distil"]

PHOTOMETRIC_EVERY = 3
"""Steps between two comparisons with the pictures."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Refined:
    """A representation that looks like the views, and from everywhere else like what the prior believes."""

    representation: Representation

    observed: Observed
    """The views; without any, pictures of the representation itself."""

    rollbacks: int
    """How often it had to go back to a good state."""


def distil(
    fitted: Fitted,
    prior: Prior,
    prompt: str,
    *,
    settings: DistilSettings | None = None,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
    look: Look | None = None,
    note: Note | None = None,
    keeper: Keeper | None = None,
    ration: Ration | None = None,
) -> Refined:
    """Improve what was fitted, or the blob that nothing was fitted to, in place.

    Args:
        fitted: where the prior is.
        prior: the frozen model.
        prompt: what the views show.
        settings: see `DistilSettings`.
        generator: of everything random.
        progress: see `Progress`; the stage is "distil".
        look: see `Look`.
        note: told of each return to a good state, and why.
        keeper: keeps the state every so many seconds and at the end, and is asked for one to go on from.
        ration: of what is rendered at once; None begins a new one.  VSD's copy learns from a step that is done again as
            often as it is done.

    Raises:
        FitError: the prior returned NaN, or gradients stayed NaN after every return.
        InputError: the prior cannot give this score.
    """
    settings = settings or DistilSettings()
    progress = progress or (lambda stage, step, total: None)
    representation, observed = fitted.representation, fitted.observed
    if settings.steps == 0:
        return Refined(representation=representation, observed=observed, rollbacks=0)
    studio = Studio(settings, lens=observed.lens, ground=observed.ground, generator=generator, ration=ration)
    critic = Critic(prior, prompt, settings)
    pictures = None
    if fitted.pictures is not None:
        pictures = fitted.pictures.shrunk(min(prior.image_size, fitted.pictures.size))
    decay = Anneal(start=1.0, end=settings.optimizer.last_rate, steps=settings.steps)
    run = _Run(guard=_watch(fitted, studio), critic=critic, ration=studio.ration, generator=generator)
    guard = run.guard
    kept = None if keeper is None else keeper.load("distil")
    first = 0 if kept is None else run.resume(kept)

    def descend(step: int) -> tuple[Shot, Opinion, Tensor]:
        """Put the gradients of a step in place."""
        shot = studio.shoot(representation, step=step, image_size=prior.image_size, generator=generator)
        opinion = critic.judge(shot, step=step, generator=generator)
        loss = opinion.loss + representation.prior_loss() + settings.regularizer.loss(shot.rendered, step=step)
        if pictures is not None and step % PHOTOMETRIC_EVERY == 0 and settings.photometric_weight > 0:
            rationed = studio.ration.of(representation)
            loss = loss + settings.photometric_weight * pictures.loss(rationed, generator=generator)
        guard.backward(loss)
        return shot, opinion, loss.detach()

    for step in range(first, settings.steps):
        if keeper is not None and step > first:
            keeper.keep("distil", partial(run.state, step))
        progress("distil", step, settings.steps)
        if look is not None:
            look(representation, "distil", step, settings.steps)
        if step % REFRESH_EVERY == 0:
            representation.refresh()
        shot, opinion, loss = studio.ration.attempt(partial(descend, step), generator=generator)
        if not guard.advance(loss, coverage=shot.rendered.alpha.detach().mean(), decay=decay.at(step)):
            opinion.blame(shot)
            _tell(note, guard, step + 1)
            if guard.rollbacks > MAX_ROLLBACKS:
                break
    if keeper is not None and first < settings.steps:
        keeper.keep("distil", partial(run.state, settings.steps), now=True)
    if not guard.finish():
        _tell(note, guard, settings.steps)
    representation.refresh()
    progress("distil", settings.steps, settings.steps)
    if look is not None:
        look(representation, "distil", settings.steps, settings.steps)
    if pictures is None:
        observed = observe_itself(representation, fov_deg=observed.lens[0])
    return Refined(representation=representation, observed=observed, rollbacks=guard.rollbacks)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Run:
    """All of a distillation that changes from step to step."""

    guard: Guard
    critic: Critic
    ration: Ration
    generator: torch.Generator | None

    def state(self, step: int) -> dict[str, Any]:
        """Return it, before a step, for a file."""
        drawn = None if self.generator is None else self.generator.get_state()
        state = {"guard": self.guard.state(), "critic": self.critic.state(), "ration": self.ration.share}
        return {"step": step, **state, "generator": drawn}

    def resume(self, state: dict[str, Any]) -> int:
        """Go on from a state, and return its step; the generator last, for scores that begin draw from it."""
        self.guard.resume(state["guard"])
        self.ration.resume(state)
        self.critic.resume(state["critic"], generator=self.generator)
        if self.generator is not None:
            self.generator.set_state(state["generator"])
        return state["step"]


def _tell(note: Note | None, guard: Guard, step: int) -> None:
    """Say that the guard went back, and why."""
    if note is not None:
        count = f"return {guard.rollbacks} of {MAX_ROLLBACKS}" if guard.rollbacks <= MAX_ROLLBACKS else "it ends there"
        note(f"distil, step {step}: {guard.reason}; back to the last good state ({count}).")


def _watch(fitted: Fitted, studio: Studio) -> Guard:
    """Return the guard: bounded by the silhouettes, where there are any."""
    settings = studio.settings
    coverage = None if fitted.pictures is None else float(fitted.observed.foreground.alpha.mean())
    return Guard(
        fitted.representation,
        coverage=coverage,
        most=largest_coverage(*studio.nearest),
        learning_rate=settings.learning_rate,
        optimizer=settings.optimizer,
        background=studio.background,
        background_rate=1.0 if settings.backdrop is None else settings.backdrop.rate,
    )
