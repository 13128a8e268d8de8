"""The colours of toys: sixteen that a kind's main and accent parts draw from, and the fixed ones of small details.

And the finishes that these two parts may have: how the colours shine.
"""

from __future__ import annotations

from dataclasses import dataclass

Color = tuple[float, float, float]

COLORS: dict[str, Color] = {
    "red": (0.86, 0.08, 0.09),
    "orange": (0.98, 0.48, 0.03),
    "yellow": (0.99, 0.87, 0.08),
    "green": (0.10, 0.58, 0.16),
    "blue": (0.10, 0.24, 0.86),
    "purple": (0.47, 0.13, 0.68),
    "pink": (0.99, 0.56, 0.74),
    "brown": (0.43, 0.24, 0.11),
    "white": (0.97, 0.97, 0.96),
    "black": (0.06, 0.06, 0.07),
    "grey": (0.31, 0.31, 0.32),
    "cyan": (0.10, 0.80, 0.84),
    "lime": (0.62, 0.92, 0.12),
    "magenta": (0.88, 0.04, 0.58),
    "maroon": (0.46, 0.00, 0.20),
    "beige": (0.85, 0.73, 0.52),
}
"""Name to sRGB.  Far from each other when shaded, and far from the mid grey (0.5) of the training background."""

DETAILS: dict[str, Color] = {
    "ink": (0.05, 0.05, 0.06),
    "paper": (0.96, 0.96, 0.94),
    "rubber": (0.12, 0.12, 0.13),
    "glass": (0.60, 0.80, 0.93),
    "wood": (0.55, 0.36, 0.18),
    "metal": (0.70, 0.71, 0.73),
    "carrot": (0.97, 0.50, 0.08),
    "brick": (0.60, 0.25, 0.18),
    "glow": (1.00, 0.95, 0.65),
    "tail light": (0.75, 0.05, 0.05),
    "gold": (0.90, 0.72, 0.20),
    "cream": (0.93, 0.84, 0.68),
    "blush": (0.95, 0.55, 0.62),
    "soil": (0.28, 0.18, 0.12),
}
"""Name to sRGB of eyes, wheels, windows and the like, the same in every toy."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "red": ("red", "scarlet", "bright red", "cherry red"),
    "orange": ("orange", "bright orange", "deep orange", "pumpkin orange"),
    "yellow": ("yellow", "golden yellow", "sunny yellow", "bright yellow"),
    "green": ("green", "grass green", "leaf green", "dark green"),
    "blue": ("blue", "navy", "royal blue", "dark blue"),
    "purple": ("purple", "violet", "plum", "deep purple"),
    "pink": ("pink", "light pink", "pale pink", "baby pink"),
    "brown": ("brown", "dark brown", "chestnut", "nut brown"),
    "white": ("white", "snow white", "pure white", "bright white"),
    "black": ("black", "jet black", "pitch black", "deep black"),
    "grey": ("grey", "gray", "dark grey", "dark gray"),
    "cyan": ("cyan", "turquoise", "aqua", "bright cyan"),
    "lime": ("lime", "lime green", "light green", "bright green"),
    "magenta": ("magenta", "hot pink", "bright pink", "purplish pink"),
    "maroon": ("maroon", "dark red", "wine red", "deep red"),
    "beige": ("beige", "tan", "sandy", "light brown"),
}
"""What captions call each colour; the first is canonical."""


@dataclass(frozen=True, kw_only=True)
class Finish:
    """How a surface takes the light."""

    roughness: float
    metallic: float

    words: tuple[tuple[str, str], ...]
    """What captions say before the colour and before the noun ("a SHINY red mug", "a red METAL mug")."""


FINISHES: dict[str, Finish] = {
    "matt": Finish(roughness=0.7, metallic=0.0, words=(("", ""),)),
    "glossy": Finish(
        roughness=0.35,
        metallic=0.0,
        words=(("shiny", ""), ("glossy", ""), ("polished", ""), ("", "plastic"), ("", "shiny plastic")),
    ),
    "metal": Finish(
        roughness=0.35,
        metallic=1.0,
        words=(("", "metal"), ("metallic", ""), ("", "steel"), ("", "shiny metal"), ("polished", "metal")),
    ),
}
"""Name to finish.  A caption says nothing of a matt surface."""
