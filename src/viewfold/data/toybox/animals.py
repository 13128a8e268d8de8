"""Animals: cat, dog, rabbit, bear, owl, turtle.  A kind is one function; its face looks to -y."""

from __future__ import annotations

import numpy as np

from viewfold.data.toybox.primitives import cone, cylinder, ellipsoid, lathe, torus, tube
from viewfold.data.toybox.toy import Kind, Toy


def _eyes(toy: Toy, x: float, y: float, z: float, *, size: float = 0.05) -> None:
    """Put two dark eyes at (-x, y, z) and (x, y, z)."""
    for side in (-1, 1):
        toy.detail("ink", ellipsoid(size, size * 0.7, size * 1.1, n=10).at(x=side * x, y=y, z=z))


def _cat(toy: Toy) -> None:
    girth, tall, head = toy.draw(0.3, 0.36), toy.draw(0.42, 0.5), toy.draw(0.27, 0.31)
    toy.main(ellipsoid(girth, girth * 1.1, tall, n=20).at(y=0.06, z=tall * 0.9))
    z, y = tall * 1.72 + head * 0.45, -0.06
    toy.main(ellipsoid(head * 1.08, head, head * 0.92, n=20).at(y=y, z=z))
    for side in (-1, 1):
        ear = cone(0.15, toy.draw(0.26, 0.32), n=4).turned(z=45).scaled(y=0.6).turned(y=side * 16)
        toy.main(ear.at(x=side * head * 0.6, y=y, z=z + head * 0.55))
        toy.main(ellipsoid(0.1, 0.1, 0.28, n=12).at(x=side * girth * 0.45, y=-girth * 0.75, z=0.26))
        toy.main(ellipsoid(0.12, 0.17, 0.09, n=12).at(x=side * girth * 0.45, y=-girth * 0.95, z=0.08))
        toy.main(ellipsoid(0.15, 0.26, 0.16, n=12).at(x=side * girth * 0.85, y=-0.02, z=0.14))
        toy.detail("glow", ellipsoid(0.075, 0.04, 0.085, n=12).at(x=side * head * 0.42, y=y - head * 0.86, z=z + 0.05))
        toy.detail("ink", ellipsoid(0.035, 0.03, 0.08, n=10).at(x=side * head * 0.42, y=y - head * 0.96, z=z + 0.05))
    toy.detail("blush", ellipsoid(0.055, 0.045, 0.04, n=8).at(y=y - head * 0.98, z=z - 0.07))
    side = 1 if toy.chance(0.5) else -1
    curl = [[0, 0.3, 0.1], [side * 0.18, 0.5, 0.1], [side * 0.4, 0.5, 0.24], [side * 0.44, 0.42, toy.draw(0.5, 0.7)]]
    toy.main(tube(curl, [0.09, 0.085, 0.08, 0.05], n=8))
    toy.shelf = (0.0, y, z + head * 0.68, head * 2.3)
    neck = tall * 1.66
    toy.accent(torus(girth * 0.66, 0.1, n=20).scaled(z=0.85).at(y=y * 0.4, z=neck))
    toy.detail("gold", ellipsoid(0.075, n=10).at(y=-girth * 0.66 - 0.1, z=neck - 0.06))


def _dog(toy: Toy) -> None:
    long, wide, leg = toy.draw(0.5, 0.62), toy.draw(0.25, 0.3), toy.draw(0.34, 0.46)
    body, head = leg + wide * 0.75, toy.draw(0.25, 0.29)
    toy.main(ellipsoid(wide, long, wide * 0.95, n=20).at(z=body))
    y, z = -long * 0.98, body + toy.draw(0.3, 0.38)
    toy.main(tube([[0, -long * 0.6, body], [0, y, z]], [wide * 0.75, head * 0.75], n=12))
    toy.main(ellipsoid(head, head, head * 0.9, n=18).at(y=y, z=z))
    toy.main(ellipsoid(head * 0.55, 0.24, head * 0.45, n=14).at(y=y - head * 0.9, z=z - 0.09))
    toy.detail("ink", ellipsoid(0.075, 0.06, 0.06, n=10).at(y=y - head * 0.9 - 0.22, z=z - 0.02))
    _eyes(toy, head * 0.42, y - head * 0.82, z + 0.09, size=0.052)
    for side in (-1, 1):
        ear = ellipsoid(0.065, 0.15, 0.26, n=12).turned(y=-side * toy.draw(10, 24))
        toy.accent(ear.at(x=side * head * 1.02, y=y + 0.03, z=z - 0.04))
        for end in (-0.62, 0.62):
            toy.main(cylinder(0.095, leg + 0.12, top=0.11, n=10).at(x=side * wide * 0.55, y=end * long))
            toy.main(ellipsoid(0.11, 0.15, 0.07, n=10).at(x=side * wide * 0.55, y=end * long - 0.05, z=0.05))
        patch = ellipsoid(0.12, 0.2, 0.17, n=12).at(x=side * wide * 0.82, y=side * toy.draw(0.02, 0.2), z=body + 0.06)
        toy.accent(patch)
    toy.accent(ellipsoid(wide * 0.7, 0.17, 0.13, n=12).at(y=long * 0.72, z=body + wide * 0.5))
    toy.shelf = (0.0, y, z + head * 0.72, head * 2.2)
    wag = toy.draw(-0.2, 0.2)
    toy.main(tube([[0, long * 0.85, body + 0.06], [wag / 2, long + 0.16, body + 0.2], [wag, long + 0.2, body + 0.46]],
                  [0.09, 0.075, 0.04], n=8))  # fmt: skip


def _rabbit(toy: Toy) -> None:
    girth, tall, head = toy.draw(0.32, 0.38), toy.draw(0.38, 0.46), toy.draw(0.25, 0.29)
    toy.main(ellipsoid(girth, girth * 1.1, tall, n=20).at(y=0.05, z=tall))
    y, z = -0.08, tall * 1.8 + head * 0.4
    toy.main(ellipsoid(head, head, head * 0.92, n=18).at(y=y, z=z))
    length, splay = toy.draw(0.36, 0.46), toy.draw(6, 18)
    for side in (-1, 1):
        ear = ellipsoid(0.125, 0.075, length, n=14).at(z=length * 0.85).turned(y=side * splay)
        toy.accent(ear.at(x=side * head * 0.42, y=y + 0.02, z=z + head * 0.5))
        toy.main(ellipsoid(0.13, 0.3, 0.1, n=12).at(x=side * girth * 0.72, y=-0.22, z=0.09))
        toy.main(ellipsoid(0.09, 0.1, 0.19, n=10).at(x=side * girth * 0.5, y=-girth * 0.95, z=tall * 0.95))
        toy.main(ellipsoid(0.1, 0.08, 0.08, n=10).at(x=side * 0.07, y=y - head * 0.88, z=z - 0.09))
    toy.detail("paper", ellipsoid(0.17, n=12).at(y=girth * 1.15, z=0.2))
    toy.detail("blush", ellipsoid(0.06, 0.05, 0.045, n=8).at(y=y - head * 1.04, z=z - 0.02))
    _eyes(toy, head * 0.46, y - head * 0.84, z + 0.09, size=0.055)


def _bear(toy: Toy) -> None:
    girth, tall, head = toy.draw(0.34, 0.4), toy.draw(0.36, 0.42), toy.draw(0.32, 0.36)
    toy.accent(ellipsoid(girth, girth * 0.9, tall, n=20).at(z=tall * 0.9))
    z = tall * 1.75 + head * 0.6
    toy.main(ellipsoid(head * 1.08, head * 0.95, head * 0.95, n=20).at(z=z))
    toy.detail("cream", ellipsoid(0.15, 0.13, 0.115, n=14).at(y=-head * 0.9, z=z - 0.1))
    toy.detail("ink", ellipsoid(0.06, 0.05, 0.045, n=10).at(y=-head * 0.9 - 0.11, z=z - 0.05))
    _eyes(toy, head * 0.42, -head * 0.85, z + 0.07)
    toy.shelf = (0.0, 0.0, z + head * 0.72, head * 2.2)
    raised = toy.draw(20, 60)
    for side in (-1, 1):
        toy.main(ellipsoid(0.14, 0.09, 0.14, n=12).at(x=side * head * 0.82, z=z + head * 0.72))
        sleeve = ellipsoid(0.13, 0.13, 0.24, n=12).at(z=-0.2).turned(x=-25, y=-side * raised)
        paw = ellipsoid(0.12, n=12).at(z=-0.42).turned(x=-25, y=-side * raised)
        shoulder = {"x": side * girth * 0.72, "z": tall * 1.4}
        toy.accent(sleeve.at(**shoulder))
        toy.main(paw.at(**shoulder))
        toy.main(ellipsoid(0.15, 0.32, 0.15, n=14).turned(z=side * 20).at(x=side * 0.27, y=-0.3, z=0.15))
        toy.detail("cream", ellipsoid(0.1, 0.04, 0.1, n=12).turned(z=side * 20).at(x=side * 0.37, y=-0.6, z=0.16))


def _owl(toy: Toy) -> None:
    girth, tall = toy.draw(0.4, 0.47), toy.draw(0.56, 0.66)
    toy.main(ellipsoid(girth, girth * 0.9, tall, n=24).at(z=tall))
    z, y = tall * 1.48, -girth * 0.62
    for side in (-1, 1):
        toy.detail("paper", ellipsoid(0.17, 0.08, 0.17, n=16).at(x=side * 0.165, y=y - 0.04, z=z))
        toy.detail("ink", ellipsoid(0.085, 0.05, 0.085, n=12).at(x=side * 0.15, y=y - 0.1, z=z))
        tuft = cone(0.13, toy.draw(0.26, 0.34), n=8).scaled(y=0.7).turned(y=side * 24)
        toy.main(tuft.at(x=side * girth * 0.5, z=tall * 1.72))
        wing = ellipsoid(0.13, girth * 0.82, tall * 0.66, n=16).turned(x=14).turned(y=-side * toy.draw(4, 16))
        toy.accent(wing.at(x=side * girth * 0.96, y=0.1, z=tall * 0.86))
        toy.detail("carrot", ellipsoid(0.12, 0.17, 0.06, n=10).at(x=side * 0.16, y=-girth * 0.5, z=0.04))
    toy.shelf = (0.0, 0.0, tall * 1.8, girth * 1.6)
    toy.detail("carrot", cone(0.07, 0.2, n=8).turned(x=115).at(y=y - 0.08, z=z - 0.1))


def _turtle(toy: Toy) -> None:
    long, wide, tall = toy.draw(0.5, 0.58), toy.draw(0.42, 0.48), toy.draw(0.34, 0.44)
    dome = [(np.sin(a), np.cos(a)) for a in np.radians([90, 74, 58, 42, 26, 12])]
    shell = cylinder(1, 0.1, n=24).at(z=-0.1), cylinder(1.06, 0.07, n=24).at(z=-0.04)
    toy.main(shell[0].scaled(wide * 0.95, long * 0.95).at(z=0.24))
    toy.accent(shell[1].scaled(wide, long).at(z=0.27))
    toy.accent(lathe([(0.0, 0.0), *dome, (0.0, 1.0)], n=24).scaled(wide, long, tall).at(z=0.26))
    reach = toy.draw(0.24, 0.34)
    z = 0.3 + reach * 0.75
    toy.main(tube([[0, -long * 0.75, 0.24], [0, -long - 0.12, z * 0.75], [0, -long - 0.22, z]], 0.13, n=12))
    toy.main(ellipsoid(0.19, 0.23, 0.17, n=16).at(y=-long - 0.3, z=z + 0.05))
    _eyes(toy, 0.13, -long - 0.42, z + 0.12, size=0.048)
    for side in (-1, 1):
        for end in (-0.62, 0.58):
            toy.main(cylinder(0.15, 0.3, top=0.13, n=12).at(x=side * wide * 0.72, y=end * long))
    toy.main(cone(0.1, 0.34, n=8).turned(x=-100).at(y=long * 0.86, z=0.2))


ANIMALS = (
    Kind(
        name="cat",
        build=_cat,
        nouns=("cat", "sitting cat", "toy cat", "house cat"),
        body="fur",
        part="collar",
        part_nouns=("collar", "neck band"),
        worn=True,
    ),
    Kind(
        name="dog",
        build=_dog,
        nouns=("dog", "pet dog", "toy dog", "standing dog"),
        body="fur",
        part="spots",
        part_nouns=("spots", "dots", "ears and spots"),
        plural=True,
    ),
    Kind(
        name="rabbit",
        build=_rabbit,
        nouns=("rabbit", "toy rabbit", "pet rabbit", "garden rabbit"),
        body="fur",
        part="ears",
        part_nouns=("ears", "long ears"),
        plural=True,
    ),
    Kind(
        name="bear",
        build=_bear,
        nouns=("bear", "teddy bear", "teddy", "toy bear"),
        body="fur",
        part="sweater",
        part_nouns=("sweater", "jumper", "shirt"),
        worn=True,
    ),
    Kind(
        name="owl",
        build=_owl,
        nouns=("owl", "toy owl", "barn owl", "night owl"),
        body="feathers",
        part="wings",
        part_nouns=("wings", "side wings"),
        plural=True,
    ),
    Kind(
        name="turtle",
        build=_turtle,
        nouns=("turtle", "toy turtle", "land turtle", "pond turtle"),
        body="skin",
        part="shell",
        part_nouns=("shell", "round shell"),
    ),
)
