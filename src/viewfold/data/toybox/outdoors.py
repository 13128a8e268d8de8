"""Creatures, plants and buildings: snowman, robot, duck, fish, tree, mushroom, house.  Faces look to -y."""

from __future__ import annotations

import numpy as np

from viewfold.data.toybox.primitives import box, cone, cylinder, ellipsoid, extrude, lathe, tube
from viewfold.data.toybox.toy import Kind, Toy


def _snowman(toy: Toy) -> None:
    low, mid, head = toy.draw(0.42, 0.5), toy.draw(0.31, 0.36), toy.draw(0.24, 0.28)
    z_mid = low * 0.8 + mid * 0.75
    z_head = z_mid + mid * 0.75 + head * 0.7
    toy.main(ellipsoid(low, n=22).at(), ellipsoid(mid, n=20).at(z=z_mid), ellipsoid(head, n=18).at(z=z_head))
    brim = z_head + head * 0.62
    toy.accent(cylinder(head * 1.25, 0.06, n=20).at(z=brim))
    toy.accent(cylinder(head * 0.82, toy.draw(0.32, 0.44), top=head * toy.draw(0.7, 0.85), n=20).at(z=brim + 0.03))
    toy.detail("carrot", cone(0.06, 0.3, n=10).turned(x=90).at(y=-head * 0.9, z=z_head - 0.02))
    for side in (-1, 1):
        toy.detail("ink", ellipsoid(0.045, n=8).at(x=side * 0.1, y=-head * 0.9, z=z_head + 0.08))
        stick = [
            [side * mid * 0.8, 0, z_mid],
            [side * (mid + 0.2), -0.04, z_mid + 0.1],
            [side * (mid + 0.36), 0, z_mid + 0.28],
        ]
        toy.detail("wood", tube(stick, 0.035, n=6))
    for z in (-0.08, 0.12):
        toy.detail("ink", ellipsoid(0.045, n=8).at(y=-mid, z=z_mid + z))


def _robot(toy: Toy) -> None:
    wide, tall, deep = toy.draw(0.55, 0.68), toy.draw(0.55, 0.68), toy.draw(0.36, 0.44)
    head, leg = toy.draw(0.38, 0.46), toy.draw(0.3, 0.4)
    toy.main(box(wide, deep, tall, bevel=0.05).at(z=tall / 2))
    z = tall + 0.06 + head * 0.4
    toy.detail("metal", cylinder(0.1, 0.12, n=10).at(z=tall - 0.02))
    toy.main(box(head * 1.15, head, head * 0.8, bevel=0.05).at(z=z))
    toy.detail("ink", box(head * 0.95, 0.04, head * 0.42).at(y=-head / 2, z=z))
    toy.detail("metal", cylinder(0.025, 0.18, n=6).at(z=z + head * 0.4))
    toy.detail("tail light", ellipsoid(0.06, n=10).at(z=z + head * 0.4 + 0.2))
    toy.detail("metal", box(wide * 0.6, 0.03, tall * 0.42, bevel=0.01).at(y=-deep / 2, z=tall * 0.52))
    girth, reach, raised = toy.draw(0.085, 0.11), toy.draw(0.5, 0.62), toy.draw(10, 35)
    for side in (-1, 1):
        toy.detail("glow", ellipsoid(0.06, 0.04, 0.06, n=10).at(x=side * head * 0.24, y=-head / 2 - 0.02, z=z))
        limb = cylinder(girth, reach, n=12).at(z=-reach).turned(y=-side * raised)
        hand = ellipsoid(girth * 1.55, n=12).at(z=-reach).turned(y=-side * raised)
        shoulder = ellipsoid(girth * 1.35, n=12)
        toy.accent(*(s.at(x=side * (wide / 2 + girth * 0.8), z=tall * 0.85) for s in (limb, hand, shoulder)))
        toy.main(box(0.17, 0.19, leg).at(x=side * wide * 0.26, z=-leg / 2))
        toy.detail("rubber", box(0.22, 0.32, 0.1, bevel=0.03).at(x=side * wide * 0.26, y=-0.04, z=-leg))


def _duck(toy: Toy) -> None:
    long, wide, tall = toy.draw(0.56, 0.66), toy.draw(0.36, 0.42), toy.draw(0.33, 0.38)
    head = toy.draw(0.25, 0.3)
    z, y = tall + head * 0.65, -long * 0.5
    toy.main(ellipsoid(wide, long, tall, n=22), ellipsoid(head, n=18).at(y=y, z=z))
    toy.main(cylinder(wide * 0.55, 0.3, top=head * 0.8, n=14).at(y=y * 0.95, z=tall * 0.6))
    tail = tube([[0, long * 0.6, 0.02], [0, long * 0.95, 0.16], [0, long * 1.2, 0.4]], [0.25, 0.17, 0.03], n=10)
    toy.main(tail.scaled(x=1.2))
    toy.detail("carrot", ellipsoid(0.13, 0.2, 0.05, n=12).at(y=y - head * 0.95, z=z - 0.05))
    toy.shelf = (0.0, y, z + head * 0.7, head * 2.3)
    swell, raised = toy.draw(0.34, 0.42), toy.draw(0, 18)
    for side in (-1, 1):
        toy.detail("ink", ellipsoid(0.05, n=8).at(x=side * head * 0.6, y=y - head * 0.68, z=z + 0.09))
        wing = ellipsoid(0.11, swell, tall * 0.66, n=16).turned(x=14).turned(y=-side * raised)
        toy.accent(wing.at(x=side * (wide + 0.0), y=0.12, z=0.1))


def _fish(toy: Toy) -> None:
    long, wide, tall = toy.draw(0.6, 0.7), toy.draw(0.26, 0.32), toy.draw(0.38, 0.46)
    toy.main(ellipsoid(wide, long, tall, n=22))
    spread = toy.draw(0.34, 0.42)
    tail = [(0.0, 0.06), (0.0, -0.06), (0.42, -spread), (0.3, 0.0), (0.42, spread)]
    toy.accent(extrude(tail, 0.1).turned(z=90).at(y=long * 0.86))
    crest = [(-0.3, 0.0), (0.38, -0.08), (0.42, 0.2), (-0.08, toy.draw(0.26, 0.34))]
    toy.accent(extrude(crest, 0.08).turned(z=90).at(y=0.02, z=tall * 0.86))
    toy.accent(extrude([(-0.15, 0.0), (0.2, 0.05), (0.26, -0.22)], 0.08).turned(z=90).at(y=0.05, z=-tall * 0.88))
    for side in (-1, 1):
        flap = ellipsoid(0.05, 0.24, 0.15, n=12).at(y=0.2).turned(x=-20, z=side * -38)
        toy.accent(flap.at(x=side * wide * 0.85, y=-0.12, z=-0.06))
        toy.detail("paper", ellipsoid(0.05, 0.1, 0.1, n=12).at(x=side * wide * 0.68, y=-long * 0.62, z=tall * 0.24))
        toy.detail("ink", ellipsoid(0.05, 0.06, 0.06, n=10).at(x=side * wide * 0.78, y=-long * 0.66, z=tall * 0.24))
    toy.detail("ink", ellipsoid(0.09, 0.05, 0.035, n=10).at(y=-long * 0.95, z=-tall * 0.18))


def _tree(toy: Toy) -> None:
    trunk, girth = toy.draw(0.45, 0.6), toy.draw(0.12, 0.16)
    toy.accent(cylinder(girth * 1.25, trunk + 0.2, top=girth, n=14))
    if toy.chance(0.5):
        wide, z = toy.draw(0.5, 0.58), trunk
        for scale in (1.0, 0.8, 0.6):
            toy.main(cone(wide * scale, 0.62 * scale + 0.08, n=18).at(z=z))
            z += 0.34 * scale + 0.02
    else:
        size = toy.draw(0.34, 0.4)
        toy.main(ellipsoid(size, n=16).at(z=trunk + size * 1.35))
        start = toy.draw(0, 120)
        for i in range(3):
            angle = np.radians(start + 120 * i)
            spot = {"x": 0.62 * size * float(np.cos(angle)), "y": 0.62 * size * float(np.sin(angle))}
            toy.main(ellipsoid(size * toy.draw(0.75, 0.9), n=14).at(**spot, z=trunk + size * 0.72))


def _mushroom(toy: Toy) -> None:
    wide, tall, stem = toy.draw(0.58, 0.7), toy.draw(0.42, 0.55), toy.draw(0.5, 0.66)
    girth = toy.draw(0.17, 0.23)
    toy.accent(
        lathe([(0.0, 0.0), (girth * 1.3, 0.0), (girth * 1.4, 0.1), (girth, stem * 0.5), (girth, stem + 0.1)], n=18)
    )
    dome = [(np.sin(a), np.cos(a)) for a in np.radians([90, 76, 62, 48, 34, 20, 9])]
    under = [(0.0, 0.04), (wide * 0.6, 0.02), (wide * 0.93, -0.05)]
    toy.main(lathe([*under, *((wide * r, tall * z) for r, z in dome), (0.0, tall)], n=26).at(z=stem))
    start = toy.draw(0, 60)
    for i, (polar, size) in enumerate([(4, 0.11), *[(48, 0.1), (68, 0.075)] * 3]):
        angle, down = np.radians(start + 60 * i), np.radians(polar)
        spot = {"x": wide * np.sin(down) * np.cos(angle), "y": wide * np.sin(down) * np.sin(angle)}
        toy.detail("paper", ellipsoid(size, size, size * 0.8, n=10).at(**spot, z=stem + tall * np.cos(down) - 0.03))


def _house(toy: Toy) -> None:
    wide, deep, tall = toy.draw(0.85, 1.1), toy.draw(0.75, 0.95), toy.draw(0.5, 0.65)
    toy.main(box(wide, deep, tall).at(z=tall / 2))
    rise, eave = toy.draw(0.42, 0.58), 0.1
    across = toy.chance(0.5)
    span, along = (deep, wide) if across else (wide, deep)
    gable = extrude([(-span / 2 - eave, 0.0), (span / 2 + eave, 0.0), (0.0, rise)], along + 2 * eave)
    toy.accent(gable.turned(z=90 if across else 0).at(z=tall))
    toy.detail("brick", box(0.13, 0.13, rise * 0.8).at(x=wide * 0.27, y=deep * 0.2, z=tall + rise * 0.75))
    front, x = -deep / 2, wide * toy.draw(-0.1, 0.1)
    toy.detail("wood", box(0.2, 0.06, tall * 0.62).at(x=x, y=front, z=tall * 0.31))
    for side in (-1, 1):
        toy.detail("paper", box(0.23, 0.05, 0.23).at(x=side * wide * 0.33, y=front, z=tall * 0.58))
        toy.detail("glass", box(0.17, 0.08, 0.17).at(x=side * wide * 0.33, y=front, z=tall * 0.58))
        toy.detail("paper", box(0.05, 0.3, 0.25).at(x=side * wide / 2, z=tall * 0.55))
        toy.detail("glass", box(0.08, 0.23, 0.18).at(x=side * wide / 2, z=tall * 0.55))


OUTDOORS = (
    Kind(
        name="snowman",
        build=_snowman,
        nouns=("snowman", "snow man", "smiling snowman", "toy snowman"),
        body="body",
        part="hat",
        part_nouns=("hat", "top hat"),
        worn=True,
    ),
    Kind(
        name="robot",
        build=_robot,
        nouns=("robot", "toy robot", "bot", "humanoid robot"),
        body="body",
        part="arms",
        part_nouns=("arms", "robot arms"),
        plural=True,
    ),
    Kind(
        name="duck",
        build=_duck,
        nouns=("duck", "rubber duck", "toy duck", "ducky"),
        body="body",
        part="wings",
        part_nouns=("wings", "side wings"),
        plural=True,
    ),
    Kind(
        name="fish",
        build=_fish,
        nouns=("fish", "tropical fish", "toy fish", "sea fish"),
        body="body",
        part="fins",
        part_nouns=("fins", "fins and tail"),
        plural=True,
    ),
    Kind(
        name="tree",
        build=_tree,
        nouns=("tree", "garden tree", "forest tree", "toy tree"),
        body="leaves",
        part="trunk",
        part_nouns=("trunk", "tree trunk", "stem"),
    ),
    Kind(
        name="mushroom",
        build=_mushroom,
        nouns=("mushroom", "spotted mushroom", "forest mushroom", "fungus"),
        body="cap",
        part="stem",
        part_nouns=("stem", "stalk", "foot"),
    ),
    Kind(
        name="house",
        build=_house,
        nouns=("house", "small house", "family house", "home"),
        body="walls",
        part="roof",
        part_nouns=("roof", "rooftop", "gable roof"),
    ),
)
