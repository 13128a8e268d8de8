"""Things that travel: car, boat, aeroplane, rocket.  A kind is one function; its nose faces -y."""

from __future__ import annotations

import numpy as np

from viewfold.data.toybox.primitives import Solid, box, cylinder, ellipsoid, extrude, lathe, loft
from viewfold.data.toybox.toy import Kind, Toy


def _car(toy: Toy) -> None:
    long, wide, low = toy.draw(1.4, 1.7), toy.draw(0.74, 0.86), toy.draw(0.3, 0.38)
    wheel, cabin, high = toy.draw(0.17, 0.21), toy.draw(0.5, 0.6) * long, toy.draw(0.22, 0.28)
    floor = wheel * 0.8
    toy.main(box(wide, long, low, bevel=0.08).at(z=floor + low / 2))
    y, top = long * 0.07, floor + low
    toy.detail("glass", box(wide * 0.88, cabin, high, taper=(0.88, 0.74)).at(y=y, z=top + high / 2 - 0.01))
    toy.accent(box(wide * 0.86, cabin * 0.88, 0.21, bevel=0.06).at(y=y, z=top + high + 0.06))
    toy.accent(box(wide * 0.88, 0.12, high).at(y=y + 0.04, z=top + high / 2))
    for side in (-1, 1):
        for end in (-0.3, 0.3):
            hub = _wheel(wheel)
            toy.detail("rubber", hub.at(x=side * (wide / 2 - 0.05), y=end * long, z=wheel))
            toy.detail("metal", _wheel(wheel * 0.45).at(x=side * (wide / 2 - 0.03), y=end * long, z=wheel))
        toy.detail("glow", ellipsoid(0.09, 0.06, 0.07, n=10).at(x=side * wide * 0.32, y=-long / 2, z=top - 0.12))
        toy.detail("tail light", box(0.16, 0.06, 0.08).at(x=side * wide * 0.32, y=long / 2, z=top - 0.12))
    toy.detail("ink", box(wide * 0.4, 0.04, 0.1).at(y=-long / 2, z=floor + 0.1))


def _wheel(radius: float) -> Solid:
    """Return a wheel about the x axis."""
    return cylinder(radius, 0.16, n=16).at(z=-0.08).turned(y=90)


def _boat(toy: Toy) -> None:
    long, wide, deep = toy.draw(1.2, 1.4), toy.draw(0.58, 0.7), toy.draw(0.34, 0.44)
    length = np.linspace(0, 1, 9)
    beam = wide / 2 * np.minimum(1, 1.25 * (1 - length**3)) * (0.8 + 0.2 * np.minimum(1, length * 4))
    beam[-1] = 0.012
    sheer = deep + 0.14 * length**2
    across = np.array([[-1, 1], [-0.85, 0.35], [-0.45, 0.0], [0.45, 0.0], [0.85, 0.35], [1, 1]])
    keel = 0.16 * np.maximum(0, length - 0.6) ** 1.0
    rings = [
        np.stack([-b * across[:, 0], np.full(6, -(t - 0.5) * long), k + (s - k) * across[:, 1]], -1)
        for t, b, s, k in zip(length, beam, sheer, keel, strict=True)
    ]
    toy.main(loft(np.array(rings)[:, ::-1]))
    toy.detail("wood", box(wide * 0.7, long * 0.5, 0.04).at(y=0.1 * long, z=deep + 0.02))
    mast, bow = toy.draw(0.98, 1.18), -0.06 * long
    toy.detail("wood", cylinder(0.035, mast, n=8).at(y=bow, z=deep - 0.05))
    turn, reach = toy.draw(32, 52) * (1 if toy.chance(0.5) else -1), toy.draw(0.5, 0.62) * long
    tall = mast - 0.22
    sail = extrude([(0.03, 0.0), (reach, 0.05), (reach * 0.55, tall * 0.52), (0.03, tall)], 0.1)
    jib = extrude([(-0.03, 0.0), (-0.03, tall * 0.85), (-reach * 0.75, 0.02)], 0.1)
    for cloth, angle in ((sail, 90 - turn), (jib, 90 + 0.85 * turn)):  # across each other: one shows its breadth
        toy.accent(cloth.turned(z=angle).at(y=bow, z=deep + 0.12))


def _aeroplane(toy: Toy) -> None:
    long, girth = toy.draw(1.4, 1.6), toy.draw(0.2, 0.24)
    hull = [(0.0, 0.0), (0.06, 0.02), (0.1, 0.12), (girth, 0.55), (girth, 0.82), (girth * 0.72, 0.95), (0.0, 1.0)]
    body = lathe([(r, z * long) for r, z in hull], n=18).turned(x=90)  # the tail at y = 0, the nose at y = -long
    toy.main(body)
    span, chord, sweep = toy.draw(1.5, 1.75) / 2, toy.draw(0.38, 0.46), toy.draw(0.0, 0.28)
    half = [(span, sweep), (span, sweep + chord * 0.6)]  # (x, y); the wings are swept back, towards +y
    outline = [(0.0, 0.0), *half, (0.0, chord), *((-x, y) for x, y in reversed(half))]
    flat = extrude([(x, -y) for x, y in outline], 0.09).turned(x=90)
    toy.accent(flat.at(y=-long * 0.68, z=toy.draw(-0.08, 0.02)))
    toy.accent(flat.scaled(0.42, 0.6, 0.8).at(y=-0.26, z=0.05))
    fin = extrude([(0.0, 0.0), (0.32, 0.0), (0.02, 0.4), (-0.14, 0.4)], 0.09).turned(z=90)
    toy.accent(fin.at(y=-0.3, z=0.05))
    toy.detail("glass", ellipsoid(girth * 0.72, 0.17, 0.13, n=12).at(y=-long * 0.83, z=girth * 0.75))
    for side in (-1, 1):
        for i in range(3):
            toy.detail("glass", ellipsoid(0.03, 0.05, 0.05, n=8).at(x=side * girth, y=-long * (0.5 + 0.09 * i), z=0.06))
    if toy.chance(0.5):
        toy.detail("ink", box(0.62, 0.04, 0.09).turned(y=toy.draw(0, 180)).at(y=-long - 0.02))
        toy.detail("metal", ellipsoid(0.07, 0.1, 0.07, n=10).at(y=-long))


def _rocket(toy: Toy) -> None:
    girth, tall = toy.draw(0.27, 0.33), toy.draw(1.3, 1.5)
    hull = [(0.0, 0.0), (0.68, 0.0), (0.9, 0.15), (1.0, 0.38), (0.95, 0.58), (0.7, 0.8), (0.32, 0.94), (0.0, 1.0)]
    toy.main(lathe([(r * girth, z * tall) for r, z in hull], n=22))
    toy.detail("rubber", cylinder(girth * 0.6, 0.12, top=girth * 0.4, n=14).at(z=-0.11))
    reach, high = toy.draw(0.34, 0.42), toy.draw(0.5, 0.62)
    fin = [
        (0.1, 0.1),
        (girth + 0.02, high),
        (girth + reach * 0.75, high * 0.3),
        (girth + reach, -0.2),
        (girth * 0.7, 0.05),
    ]
    count = 4 if toy.chance(0.6) else 3
    for i in range(count):
        toy.accent(extrude(fin, 0.09).turned(z=(45 if count == 4 else 30) + 360 * i / count))
    for z, size in ((0.64, 0.1), (0.44, 0.08)):
        toy.detail("metal", ellipsoid(size * 1.25, 0.04, size * 1.25, n=14).at(y=-girth * 0.92, z=z * tall))
        toy.detail("glass", ellipsoid(size, 0.06, size, n=14).at(y=-girth * 0.92, z=z * tall))


VEHICLES = (
    Kind(
        name="car",
        build=_car,
        nouns=("car", "motor car", "toy car", "passenger car"),
        body="body",
        part="roof",
        part_nouns=("roof", "top", "car roof"),
    ),
    Kind(
        name="boat",
        build=_boat,
        nouns=("boat", "sailing boat", "sailboat", "sailing ship"),
        body="hull",
        part="sail",
        part_nouns=("sail", "canvas sail", "big sail"),
    ),
    Kind(
        name="aeroplane",
        build=_aeroplane,
        nouns=("aeroplane", "airplane", "plane", "toy plane"),
        body="fuselage",
        part="wings",
        part_nouns=("wings", "wings and tail"),
        plural=True,
    ),
    Kind(
        name="rocket",
        build=_rocket,
        nouns=("rocket", "space rocket", "rocket ship", "toy rocket"),
        body="hull",
        part="fins",
        part_nouns=("fins", "tail fins"),
        plural=True,
    ),
)
