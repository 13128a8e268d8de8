"""Things of garden and land: cactus, flower, castle, windmill.  A kind is one function; its front faces -y."""

from __future__ import annotations

import numpy as np

from viewfold.data.toybox.primitives import box, cone, cylinder, ellipsoid, extrude, lathe, tube
from viewfold.data.toybox.toy import Kind, Toy


def _cactus(toy: Toy) -> None:
    girth, tall, pot = toy.draw(0.19, 0.23), toy.draw(0.95, 1.15), toy.draw(0.32, 0.38)
    high = toy.draw(0.4, 0.5)
    toy.accent(cylinder(pot * 0.72, high, top=pot, n=22), cylinder(pot * 1.14, 0.12, n=22).at(z=high - 0.06))
    toy.detail("soil", cylinder(pot * 0.95, 0.03, n=20).at(z=high + 0.05))
    post = [(girth * 0.9, 0.0), (girth, tall * 0.3), (girth, tall * 0.82), (girth * 0.72, tall * 0.94)]
    toy.main(lathe([(0.0, 0.0), *post, (0.0, tall)], n=16).at(z=high))
    for side in (-1, 1):
        reach, start, up = toy.draw(0.36, 0.44), high + tall * toy.draw(0.28, 0.46), toy.draw(0.3, 0.46)
        arm = [[0, 0, start], [side * reach * 0.8, 0, start], [side * reach, 0, start + 0.1],
               [side * reach, 0, start + up * 0.85], [side * reach, 0, start + up]]  # fmt: skip
        toy.main(tube(arm, [0.12, 0.125, 0.125, 0.125, 0.07], n=12))
    for i in range(5):
        angle = np.radians(72 * i)
        spot = {"x": 0.1 * float(np.cos(angle)), "y": 0.1 * float(np.sin(angle))}
        toy.detail("blush", ellipsoid(0.085, 0.085, 0.055, n=8).at(**spot, z=high + tall))
    for z in (0.25, 0.5, 0.75):
        toy.detail("paper", ellipsoid(0.03, n=6).at(y=-girth, z=high + tall * z))


def _flower(toy: Toy) -> None:
    tall, size = toy.draw(0.85, 1.05), toy.draw(0.42, 0.5)
    bend = toy.draw(-0.1, 0.1)
    toy.accent(tube([[0, 0.06, 0], [bend, 0.06, tall * 0.5], [0, 0.04, tall]], 0.075, n=10))
    for side in (-1, 1):
        leaf = ellipsoid(0.3, 0.15, 0.055, n=14).at(x=0.28).turned(y=-toy.draw(26, 44)).turned(z=90 * (1 - side) - 20)
        toy.accent(leaf.at(x=bend * 0.6, y=0.06, z=tall * toy.draw(0.18, 0.34)))
    count = int(5 + 4 * toy.draw(0, 0.999))
    petals = [ellipsoid(size * 2.1 / count + 0.05, 0.1, size * 0.52, n=12).at(z=size * 0.68) for _ in range(count)]
    tilt = toy.draw(-38, -22)
    for i, petal in enumerate(petals):
        toy.main(petal.turned(x=8).turned(y=360 * i / count).turned(x=tilt).at(z=tall))
    toy.detail("gold", ellipsoid(size * 0.44, 0.16, size * 0.44, n=16).at(y=-0.03).turned(x=tilt).at(z=tall))
    toy.detail("soil", ellipsoid(0.26, 0.26, 0.09, n=14).at(y=0.06))


def _castle(toy: Toy) -> None:
    wide, tall, girth = toy.draw(0.46, 0.54), toy.draw(0.46, 0.56), toy.draw(0.17, 0.2)
    toy.main(box(2 * wide, 2 * wide, tall).at(z=tall / 2))
    rise, roof = toy.draw(0.3, 0.42), toy.draw(0.36, 0.48)
    for x in (-wide, wide):
        for y in (-wide, wide):
            toy.main(cylinder(girth, tall + rise, n=16).at(x=x, y=y))
            toy.accent(cone(girth * 1.4, roof, n=16).at(x=x, y=y, z=tall + rise))
    keep = toy.draw(0.36, 0.5)
    toy.main(box(wide * 0.9, wide * 0.9, keep).at(z=tall + keep / 2))
    toy.accent(box(wide * 1.12, wide * 1.12, roof, taper=(0.05, 0.05)).at(z=tall + keep + roof / 2))
    for side in (-1, 1):
        for i in (-0.36, 0.0, 0.36):
            toy.main(box(0.13, 0.1, 0.12).at(x=i * 1.5 * wide, y=side * (wide - 0.05), z=tall + 0.05))
            toy.main(box(0.1, 0.13, 0.12).at(x=side * (wide - 0.05), y=i * 1.5 * wide, z=tall + 0.05))
        toy.detail("ink", box(0.1, 0.05, 0.17).at(x=side * wide, y=-wide - girth * 0.95, z=tall * 0.85))
        toy.detail("ink", box(0.05, 0.12, 0.17).at(x=side * wide, z=tall * 0.6))
    gate = [(-0.17, 0.0), (0.17, 0.0), (0.17, 0.24), (0.09, 0.36), (-0.09, 0.36), (-0.17, 0.24)]
    toy.detail("wood", extrude(gate, 0.06).at(y=-wide))


def _windmill(toy: Toy) -> None:
    girth, tall = toy.draw(0.32, 0.38), toy.draw(0.95, 1.1)
    neck = girth * toy.draw(0.6, 0.7)
    toy.main(cylinder(girth, tall, top=neck, n=10))
    cap = [(neck * 1.15, 0.0), (neck * 1.1, 0.1), (neck * 0.7, 0.24)]
    toy.accent(lathe([(0.0, 0.0), *cap, (0.0, 0.3)], n=16).at(z=tall))
    hub, y = tall + 0.06, -neck - 0.2
    toy.detail("wood", cylinder(0.06, 0.3, n=8).turned(x=90).at(y=y + 0.24, z=hub))
    toy.detail("ink", ellipsoid(0.1, 0.07, 0.1, n=10).at(y=y - 0.04, z=hub))
    length, turn, wide = toy.draw(0.74, 0.86), toy.draw(0, 90), toy.draw(0.2, 0.25)
    for i in range(4):
        blade = box(wide, 0.07, length * 0.8).turned(z=24).at(x=wide * 0.42, z=length * 0.6)
        arm = box(0.06, 0.07, length).at(z=length / 2)
        toy.accent(*(part.turned(y=turn + 90 * i).at(y=y, z=hub) for part in (blade, arm)))
    toy.detail("wood", box(0.22, 0.08, 0.34).at(y=-girth * 0.92, z=0.17))
    for angle in (90, 210, 330):
        window = box(0.16, 0.09, 0.17).at(y=-girth * 0.8 - 0.01).turned(z=angle)
        toy.detail("glass", window.at(z=tall * 0.5))


LANDSCAPE = (
    Kind(
        name="cactus",
        build=_cactus,
        nouns=("cactus", "desert cactus", "house cactus", "cactus plant"),
        body="stem",
        part="pot",
        part_nouns=("pot", "plant pot", "flower pot"),
    ),
    Kind(
        name="flower",
        build=_flower,
        nouns=("flower", "garden flower", "summer flower", "daisy"),
        body="petals",
        part="leaves",
        part_nouns=("leaves", "stem and leaves"),
        plural=True,
    ),
    Kind(
        name="castle",
        build=_castle,
        nouns=("castle", "toy castle", "stone castle", "old castle"),
        body="walls",
        part="roofs",
        part_nouns=("roofs", "tower roofs"),
        plural=True,
    ),
    Kind(
        name="windmill",
        build=_windmill,
        nouns=("windmill", "old windmill", "toy windmill", "farm windmill"),
        body="tower",
        part="blades",
        part_nouns=("blades", "sails", "cap and blades"),
        plural=True,
    ),
)
