"""Between sRGB, which our colours are, and linear light, which some files and formulas want (IEC 61966-2-1)."""

from __future__ import annotations

import numpy as np


def linear_from_srgb(color: np.ndarray) -> np.ndarray:
    """Decode sRGB in [0, 1] to linear light (IEC 61966-2-1)."""
    return np.where(color <= 0.04045, color / 12.92, ((np.maximum(color, 0) + 0.055) / 1.055) ** 2.4)


def srgb_from_linear(color: np.ndarray) -> np.ndarray:
    """Encode linear light in [0, 1] as sRGB (IEC 61966-2-1)."""
    return np.where(
        color <= 0.0031308,
        color * 12.92,
        1.055 * np.maximum(color, 0) ** (1 / 2.4) - 0.055,
    )
