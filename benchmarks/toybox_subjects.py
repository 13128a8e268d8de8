"""Who the quality benchmarks ask for: toys of combinations never trained on, words, emoji; and their true renders."""

from __future__ import annotations

from dataclasses import dataclass

from viewfold.camera import Cameras
from viewfold.data.toybox import UNSEEN_WORDING_PROMPTS, Asset, World, is_held_out, sample_asset
from viewfold.data.toybox.captions import article
from viewfold.evaluation.fidelity import Expected
from viewfold.evaluation.judge import Judge
from viewfold.scene.rasterize import rasterize
from viewfold.views import Views

FIRST_SEED = 80_000_000
"""Held-out toys of run `seed` come from here + seed * SEEDS_PER_RUN on; nothing is trained on seeds this high."""

SEEDS_PER_RUN = 1_000_000
BACKGROUND = 0.5
SIZE = 64
GENERATED = Cameras.orbit(4, elevation_deg=15)
UNSEEN = Cameras.at(elevation_deg=[5.0, 25.0] * 4, azimuth_deg=[22.5 + 45 * i for i in range(8)])
"""Eight sides that no view was generated from."""

EMOJI_SUBJECTS = (
    "hamburger", "cat face", "slice of pizza", "pineapple", "guitar", "banana", "penguin", "bicycle", "soccer ball",
    "sunflower", "bread", "trumpet", "broccoli", "anchor",
)  # fmt: skip
"""Things known from 2D pictures alone; `groups` leaves out those of which the world has a toy."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured; a folder of results belongs to one of these."""

    prompts: int = 60
    words: int = len(UNSEEN_WORDING_PROMPTS)
    emoji: int = 10
    open: int = 0
    """Prompts that leave the colour of the part open ("a red mug"): the views have to agree on one."""

    lift: int = 0
    reference: int = 200
    """True renders of held-out toys that the judge and the consistency score are measured on."""

    seed: int = 0


def held_out_toys(count: int, *, seed: int, world: World) -> list[Asset]:
    """Return toys of combinations never trained on, kinds in turn; a combination comes back late, if it must."""
    kinds, number = world.kinds, FIRST_SEED + seed * SEEDS_PER_RUN
    queues: dict[str, list[Asset]] = {kind: [] for kind in kinds}
    pairs = [(a, b) for a in world.colors for b in world.colors if a != b]
    pause = {kind: sum(is_held_out(kind, a, b) for a, b in pairs) // 2 for kind in kinds}
    while min(len(queue) for queue in queues.values()) < -(-count // len(kinds)):
        asset, number = sample_asset(number, held_out=True, world=world), number + 1
        queue = queues[asset.kind]
        if asset.colors not in [other.colors for other in queue[max(0, len(queue) - pause[asset.kind]) :]]:
            queue.append(asset)
    return [queues[kinds[i % len(kinds)]][i // len(kinds)] for i in range(count)]


def expect(asset: Asset) -> Expected:
    """Return the prompt of a toy in its canonical wording and what its views must show."""
    return Expected(prompt=asset.captions[0], kind=asset.kind, main=asset.main, accent=asset.accent)


def true_views(asset: Asset, cameras: Cameras = GENERATED) -> Views:
    """Return what a perfect generator would make: the toy's own renders."""
    rgb = rasterize(asset.mesh(), cameras, size=SIZE).over(BACKGROUND)
    return Views(rgb=rgb, cameras=cameras, prompt=asset.captions[0])


def expect_open(asset: Asset) -> Expected:
    """Return a prompt that names the kind and the main colour alone."""
    return Expected(prompt=f"{article(asset.main)} {asset.kind}", kind=asset.kind, main=asset.main)


def world_of(judge: Judge) -> World:
    """Return what the judge knows: the benchmark asks for nothing else, and for matt toys alone."""
    return World(kinds=judge.config.kinds, colors=judge.config.colors, finishes=("matt",))


def groups(settings: Settings, world: World) -> dict[str, list[Expected]]:
    """Return the subjects of each part of the benchmark."""
    toys = held_out_toys(settings.prompts, seed=settings.seed, world=world)
    unnamed = held_out_toys(settings.open, seed=settings.seed + 300, world=world)
    words = [Expected(prompt=p, kind=k, main=m) for p, k, m in UNSEEN_WORDING_PROMPTS if k in world.kinds]
    emoji = [Expected(prompt=f"a {name}") for name in EMOJI_SUBJECTS if not any(k in name for k in world.kinds)]
    return {
        "held_out": [expect(toy) for toy in toys],
        "open": [expect_open(toy) for toy in unnamed],
        "words": words[: settings.words],
        "emoji": emoji[: settings.emoji],
    }
