"""From where was a picture taken?  The network is asked which camera explains it best.

    error(camera) = E over t, noise || noise - predicted(x_t; text, camera, t) ||^2,      pose = argmin over cameras

A multi-view network knows what a class looks like from each side, whatever its colours, so that under the same noises
the error of one picture tells cameras apart.  Source: the diffusion classifier (Li et al., arXiv 2303.16203, equation 5
and algorithm 2, which spends its noises on the better candidates), with cameras in the place of classes.

Each picture is looked at alone first, and then beside others whose cameras are clearer: the network sees all views at
once, and a picture that could be of two sides fits the others from one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.diffusion.guidance import compose
from viewfold.errors import InputError
from viewfold.pipeline.multiview import MultiViewPipeline

LEVELS = (0.2, 0.4)
"""Shares of the noise schedule at which candidates are compared (`benchmarks/posing.py` tries others)."""

AZIMUTHS = 24
"""Candidates around the object in the first round, all at the model's own elevation."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round of the search, over what the one before has left."""

    azimuth_deg: tuple[float, ...] = (0.0,)
    elevation_deg: tuple[float, ...] = (0.0,)
    """Each candidate that was left becomes one for each pair of these, added to it."""
    draws: int
    """Noises at each of `LEVELS`; those of an earlier round come first."""
    keep: int
    """How many candidates are left."""


ROUNDS = (
    Round(draws=2, keep=5),
    Round(draws=2, keep=2, elevation_deg=(-15.0, 0.0, 15.0)),
    Round(draws=2, keep=1, azimuth_deg=(-7.5, 0.0, 7.5), elevation_deg=(-7.5, 0.0, 7.5)),
)
"""228 predictions of a single view for each picture at most, after 48 for each framing that there is to choose from."""

COMPANIONS = 3
"""Other pictures, the clearest, that a picture is looked at beside."""

BESIDE = Round(azimuth_deg=tuple(30.0 * step for step in range(12)), draws=2, keep=1)
"""The last round, with companions, around the camera that was found alone: 48 predictions of four views a picture."""

HIGHEST_DEG = 85.0
"""No candidate is steeper."""

AT_ONCE = 72
"""Candidates in one call; bounds memory, changes nothing else."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Poses:
    """Where some pictures were taken from."""

    framing: int
    """Which of the framings is the model's own."""

    cameras: Cameras
    """One a picture."""

    clarity: Float[Tensor, "n"]
    """By which share the error of the best camera of the first round lies below the mean over all of that round: near 0
    for a thing that is the same all round, and for one that the model does not know."""


@torch.no_grad()
def find_cameras(
    model: MultiViewPipeline,
    latents: Float[Tensor, "framings n c h w"],
    prompt: str,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Poses:
    """Return where each of some pictures of one thing was taken from, as far as the model can tell.

    The cameras look at the origin from the distance and through the lens that `Cameras.at` has by default, so a picture
    should show the whole thing in its middle, as large as the model draws it.  How large that is, the model is asked as
    well: of several framings of the same pictures it takes the one at which prompt and camera explain most, by the
    error of the best camera as a share of the error without either, which allows for emptier pictures being easier.

    Args:
        model: made for cameras; what an azimuth of 0 looks at is what it was trained on.
        latents: of the pictures, as `MultiViewPipeline.encode` makes them, in each of their framings.
        prompt: what they show, in words that the model knows: "a mug".
        seed: of the noises, which all candidates and all pictures share.
        progress: called with (pictures done, pictures in all): each once in a framing, once alone, once beside others.

    Raises:
        InputError: a network that was not made for cameras.
        PromptError: a prompt that says nothing.
    """
    if not takes_cameras(model):
        raise InputError(
            "`model` must have been made for cameras to tell where a picture was taken from; it is a plain 2D network."
        )
    model.text.check(prompt)
    search = Search(model, prompt, latents.shape[2:], seed=seed)
    n_framings, n = latents.shape[:2]
    todo, done = n * (1 + (n > 1) + (n_framings if n_framings > 1 else 0)), 0

    def each(pictures: Tensor) -> Iterator[Tensor]:
        nonlocal done
        for picture in pictures:
            if progress is not None:
                progress(done, todo)
            yield picture
            done += 1

    shares = [sum(search.share(picture) for picture in each(framing)) if n_framings > 1 else 0.0 for framing in latents]
    framing = min(range(n_framings), key=shares.__getitem__)
    found = [search.camera(picture) for picture in each(latents[framing])]
    places, clarity = torch.stack([place for place, _ in found]), torch.tensor([clear for _, clear in found])
    if n > 1:
        for row in each(clarity.argsort(stable=True)):
            places[row] = search.camera_beside(latents[framing], places, int(row), clarity)
    if progress is not None:
        progress(todo, todo)
    azimuth, elevation = places.unbind(dim=1)
    return Poses(
        framing=framing,
        cameras=Cameras.at(azimuth_deg=azimuth % 360, elevation_deg=elevation),
        clarity=clarity,
    )


def takes_cameras(model: MultiViewPipeline) -> bool:
    """Return whether the network was made for cameras, of whatever kind it is."""
    return model.unet.example_inputs(1, Cameras.orbit(1))[3] is not None


def _spread(candidates: Float[Tensor, "n 2"], turn: Round) -> Float[Tensor, "m 2"]:
    """Return the candidates (azimuth, elevation) around those that were left, each once."""
    if len(turn.azimuth_deg) == len(turn.elevation_deg) == 1:
        return candidates
    offsets = torch.cartesian_prod(
        torch.tensor(turn.azimuth_deg, dtype=torch.float64), torch.tensor(turn.elevation_deg, dtype=torch.float64)
    )
    around = (candidates[:, None] + offsets).flatten(0, 1)
    azimuth, elevation = around[:, 0] % 360, around[:, 1].clamp(-HIGHEST_DEG, HIGHEST_DEG)
    return torch.stack([azimuth, elevation], dim=1).unique(dim=0)


class Search:
    """The errors of one model under the same noises, and what is searched by them."""

    def __init__(self, model: MultiViewPipeline, prompt: str, shape: Sequence[int], *, seed: int) -> None:
        self.model = model
        self.condition, self.nothing = model.condition([prompt]), model.condition([""])
        most = max(turn.draws for turn in ROUNDS)
        noises = torch.randn(most, *shape, generator=torch.Generator().manual_seed(seed))
        self.noises = noises.to(model.device)
        generator = torch.Generator().manual_seed(seed + 1)
        self.beside = torch.randn(most, COMPANIONS, *shape, generator=generator).to(model.device)
        azimuths = torch.arange(AZIMUTHS, dtype=torch.float64) * (360 / AZIMUTHS)
        self.all_round = torch.stack([azimuths, torch.full_like(azimuths, model.defaults.elevation_deg)], dim=1)

    def share(self, picture: Float[Tensor, "c h w"]) -> float:
        """Return the error of the best of the coarse cameras as a share of the error without camera and prompt."""
        told, untold = self.errors(picture, self.all_round, draws=1), self.errors(picture, None, draws=1)
        return float((told / untold).mean(dim=1).min())

    def camera(self, picture: Float[Tensor, "c h w"]) -> tuple[Float[Tensor, "2"], float]:
        """Return azimuth and elevation of the best camera, and how clearly it is so."""
        candidates, scale, clarity = self.all_round, None, 0.0
        for turn in ROUNDS:
            candidates = _spread(candidates, turn)
            errors = self.errors(picture, candidates, draws=turn.draws)
            if scale is None:
                scale = errors.mean(dim=0)  # of a level, which says nothing of the camera
                clarity = float(1 - (errors / scale).mean(dim=1).min())
            candidates = candidates[(errors / scale).mean(dim=1).argsort(stable=True)[: turn.keep]]
        return candidates[0], clarity

    def camera_beside(
        self,
        pictures: Float[Tensor, "n c h w"],
        places: Float[Tensor, "n 2"],
        row: int,
        clarity: Float[Tensor, "n"],
    ) -> Float[Tensor, "2"]:
        """Return where one of the pictures fits the clearest of the others best, whose azimuth and elevation stay."""
        others = [other for other in clarity.argsort(descending=True, stable=True).tolist() if other != row]
        others = others[:COMPANIONS]
        candidates = _spread(places[row][None], BESIDE)
        errors = self.errors(pictures[row], candidates, draws=BESIDE.draws, beside=(pictures[others], places[others]))
        return candidates[(errors / errors.mean(dim=0)).mean(dim=1).argmin()]

    def errors(
        self,
        picture: Float[Tensor, "c h w"],
        candidates: Float[Tensor, "n 2"] | None,
        *,
        draws: int,
        beside: tuple[Float[Tensor, "m c h w"], Float[Tensor, "m 2"]] | None = None,
    ) -> Float[Tensor, "n levels"]:
        """Return the mean squared error of the picture's noise for each candidate (azimuth, elevation) and level.

        Without candidates there is one row, for neither prompt nor camera (the network's 2D mode).  `beside` are other
        pictures of the thing and their places, which are noised as far and seen together with it.
        """
        device, alphas = self.noises.device, self.model.alphas_cumprod.to(self.noises.device)
        cameras, condition, n = None, self.nothing, 1
        if candidates is not None:
            condition, n = self.condition, len(candidates)
            places = candidates[:, None]
            if beside is not None:
                places = torch.cat([places, beside[1].expand(n, -1, -1)], dim=1)
            azimuth, elevation = places.flatten(0, 1).unbind(dim=1)
            cameras = Cameras.at(azimuth_deg=azimuth, elevation_deg=elevation).to(device)
        pictures = picture[None] if beside is None else torch.cat([picture[None], beside[0]])
        errors, v = torch.zeros(n, len(LEVELS), dtype=torch.float64), len(pictures)
        for column, level in enumerate(LEVELS):
            t = torch.tensor([round(level * (len(alphas) - 1))], device=device)
            for own, others in zip(self.noises[:draws], self.beside, strict=False):
                noise = torch.cat([own[None], others[: v - 1]])
                noisy = compose(pictures.to(noise), noise, alphas[t])
                for rows in torch.arange(n).split(max(1, AT_ONCE // v)):
                    same = noisy.expand(len(rows), -1, -1, -1, -1)
                    some = None if cameras is None else cameras[(v * rows[:, None] + torch.arange(v)).flatten()]
                    said = self.model.predict_noise(same, t.expand(len(rows)), condition[[0] * len(rows)], some)
                    off = (said[:, 0] - own).square().mean(dim=(1, 2, 3))
                    errors[rows, column] += off.double().cpu() / draws
        return errors
