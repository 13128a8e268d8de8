"""Cut the subject out of a photograph: GrabCut (Rother et al. 2004) of OpenCV, begun from the picture's border.

Of the packages that remove backgrounds by a network, none was found whose wheel holds the weights: those of rembg and
withoutbg are too small to, and mediapipe's has none any more (1.2.3).  GrabCut needs no weights: it tells two mixtures
of colours apart, of the border's and of the rest's, and cuts where the picture has edges.  How well it does so,
`benchmarks/cutout.py` measures; docs/personalize.md has the figures.

Knows single pictures; what is made of them is photos.py's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.nn.functional import interpolate

from viewfold.errors import MissingExtraError

WORKING_EDGE = 320
"""Pixels of the longer edge while cutting; GrabCut takes some 0.3 s there, and its time grows with the pixels."""

INSET = 0.04
"""The border that is surely no subject, as a share of each edge."""

ROUNDS = 6
"""Of fitting colours and cutting; masks of toys no longer change after four or five."""

MIN_SHARE, MAX_SHARE = 0.02, 0.9
"""Of the picture; what is smaller or larger than this is no subject that was found."""

MAX_TOUCH = 0.35
"""Of the line along the inset; a mask that meets it for longer is no thing that stands before a ground."""

MIN_HOLE = 0.01
"""Of the subject's area: smaller holes are filled, and larger ones, such as a handle's, are looked for."""

MIN_DISTANCE = 0.1
"""Colours nearer than this to one of the four that stand for the border (Euclidean, sRGB) are the ground's."""


def find_subject(rgb: Float[Tensor, "3 h w"]) -> Float[Tensor, "1 h w"] | str:
    """Return the subject's coverage in [0, 1], or the reason why no plausible subject was found.

    The subject must lie inside the picture, off its border.  The same picture gives the same mask.

    Raises:
        MissingExtraError: OpenCV is not installed.
    """
    height, width = rgb.shape[-2:]
    shrink = min(1.0, WORKING_EDGE / max(height, width))
    size = max(8, round(height * shrink)), max(8, round(width * shrink))
    small = interpolate(rgb[None], size, mode="area")[0]
    mask = _grabcut((small * 255).round().byte().permute(1, 2, 0).contiguous().numpy())
    share = float(mask.mean())
    if not MIN_SHARE <= share <= MAX_SHARE:
        return f"what was cut out covers {share:.1%} of it"
    if (touch := _touching(mask)) > MAX_TOUCH:
        return f"what was cut out meets {touch:.0%} of its border"
    coverage = torch.from_numpy(mask)[None, None].float()
    return interpolate(coverage, (height, width), mode="bilinear", antialias=True)[0].clamp(0, 1)


def load_opencv() -> Any:
    """Return OpenCV's module.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import cv2  # type: ignore[import-not-found]
    except ImportError as error:
        raise MissingExtraError(
            "`background` remove needs opencv-python-headless: pip install 'viewfold[photos]', or give pictures with "
            "transparency (PNG), or keep their backgrounds."
        ) from error
    return cv2


def _inset(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return how many rows and columns of a mask belong to the border."""
    rows, columns = (max(1, round(INSET * edge)) for edge in shape[:2])
    return rows, columns


def _grabcut(picture: np.ndarray) -> Bool[np.ndarray, "h w"]:
    """Return a mask of what differs from the border, its largest piece alone, with holes where the ground shows."""
    cv2 = load_opencv()
    cv2.setRNGSeed(0)  # its k-means begins at random
    (rows, columns), (height, width) = _inset(picture.shape), picture.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    colors = np.zeros((1, 65)), np.zeros((1, 65))  # its two mixtures of five Gaussians
    rectangle = (columns, rows, width - 2 * columns, height - 2 * rows)
    cv2.grabCut(picture, mask, rectangle, *colors, ROUNDS, cv2.GC_INIT_WITH_RECT)
    subject = _fill(_largest((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)))
    return subject & ~_shown_through(picture.astype(np.float32) / 255, subject)


def _pieces(mask: Bool[np.ndarray, "h w"]) -> tuple[Integer[np.ndarray, "h w"], Integer[np.ndarray, " n"]]:
    """Number a mask's pieces from 1 on, 0 being what it leaves out; and return the area of each number."""
    from scipy import ndimage

    pieces = np.asarray(ndimage.label(mask)[0])  # pyright: ignore[reportIndexIssue]
    return pieces, np.bincount(pieces.ravel())


def _largest(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Keep the largest piece of a mask."""
    pieces, areas = _pieces(mask)
    return mask & (pieces == 1 + areas[1:].argmax()) if mask.any() else mask


def _fill(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Fill holes that are too small to be a handle's."""
    from scipy import ndimage

    holes, areas = _pieces(ndimage.binary_fill_holes(mask) & ~mask)
    return mask | ((holes > 0) & (areas < MIN_HOLE * mask.sum())[holes])


def _shown_through(picture: Float[np.ndarray, "h w 3"], subject: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Return the holes: larger patches inside the outline that have one of the border's colours.

    GrabCut takes them for colours of the subject, since it begins with all that is inside the rectangle.
    """
    from scipy import ndimage

    cv2 = load_opencv()
    rows, columns = _inset(picture.shape)
    border = np.ones(subject.shape, bool)
    border[rows:-rows, columns:-columns] = False
    stop = (cv2.TERM_CRITERIA_MAX_ITER, 10, 0.0)
    _, _, centers = cv2.kmeans(picture[border], min(4, int(border.sum())), None, stop, 1, cv2.KMEANS_PP_CENTERS)
    distance = np.linalg.norm(picture[:, :, None] - centers, axis=-1).min(axis=-1)
    if np.quantile(distance[border], 0.95) > MIN_DISTANCE:  # a lively ground has colours of the subject too
        return np.zeros_like(subject)
    like = subject & (distance < MIN_DISTANCE)
    pieces, areas = _pieces(ndimage.binary_opening(like))  # not through seams of a pixel
    hole = areas >= MIN_HOLE * subject.sum()
    around = ndimage.binary_dilation(~subject, iterations=2)
    hole[np.unique(pieces * around)] = False  # with 0, which is no piece
    return hole[pieces]


def _touching(mask: Bool[np.ndarray, "h w"]) -> float:
    """Return the share of the outermost line inside the inset that a mask covers."""
    rows, columns = _inset(mask.shape)
    inner = mask[rows:-rows, columns:-columns]
    line = np.concatenate([inner[0], inner[-1], inner[1:-1, 0], inner[1:-1, -1]])
    return float(line.mean())
