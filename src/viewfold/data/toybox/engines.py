"""Machines with wheels and blades: bicycle, train, tractor, helicopter.  A kind is one function; its front is at -y."""

from __future__ import annotations

from viewfold.data.toybox.primitives import Number, Solid, box, cylinder, ellipsoid, extrude, lathe, torus, tube
from viewfold.data.toybox.toy import Kind, Toy


def _disc(radius: Number, thickness: Number, *, n: int = 18) -> Solid:
    """Return a disc about the x axis, centred."""
    return cylinder(radius, thickness, n=n).at(z=-thickness / 2).turned(y=90)


def _bicycle(toy: Toy) -> None:
    radius, reach = toy.draw(0.34, 0.4), toy.draw(0.5, 0.56)
    saddle, bar = toy.draw(0.84, 0.96), toy.draw(0.96, 1.1)
    for y in (-reach, reach):
        toy.accent(torus(radius - 0.06, 0.075, n=22).turned(y=90).at(y=y, z=radius))
        for angle in (0, 60, 120):
            toy.accent(box(0.04, 0.045, 2 * radius - 0.14).turned(x=angle).at(y=y, z=radius))
        toy.accent(_disc(0.1, 0.12, n=10).at(y=y, z=radius))

    def rod(*ends: tuple[Number, Number], girth: Number = 0.055) -> Solid:
        return tube([[0, y, z] for y, z in ends], girth, n=8)

    pedal, seat, head = (0.06, radius), (0.22, saddle - 0.12), (-reach * 0.68, bar - 0.14)
    toy.main(rod(pedal, seat), rod(pedal, head, girth=0.065), rod(seat, head), rod(pedal, (reach, radius)))
    toy.main(rod((reach, radius), seat), rod((-reach, radius), (-reach * 0.62, bar)))
    toy.main(tube([[-0.3, -reach * 0.4, bar + 0.04], [-0.2, -reach * 0.62, bar], [0.2, -reach * 0.62, bar],
                   [0.3, -reach * 0.4, bar + 0.04]], 0.05, n=8))  # fmt: skip
    toy.detail("rubber", rod(seat, (0.24, saddle)), box(0.2, 0.34, 0.09, bevel=0.03).at(y=0.24, z=saddle))
    toy.detail("metal", _disc(0.12, 0.1, n=12).at(y=0.06, z=radius))
    for side in (-1, 1):
        toy.detail("rubber", _disc(0.06, 0.14, n=8).at(x=side * 0.32, y=-reach * 0.38, z=bar + 0.04))
        toy.detail("rubber", box(0.14, 0.12, 0.05).at(x=side * 0.13, y=0.06 + side * 0.14, z=radius - side * 0.1))


def _train(toy: Toy) -> None:
    long, girth, wheel = toy.draw(0.85, 1.05), toy.draw(0.25, 0.29), toy.draw(0.15, 0.18)
    floor = wheel * 1.5
    middle = floor + girth + 0.04
    toy.main(lathe([(0.0, 0.0), (girth, 0.0), (girth, long), (0.0, long)], n=22).turned(x=90).at(y=long / 2, z=middle))
    toy.detail("ink", _disc(girth * 0.82, 0.05).turned(z=90).at(y=-long / 2 - 0.02, z=middle))
    toy.detail("glow", ellipsoid(0.085, 0.07, 0.085, n=12).at(y=-long / 2 - 0.04, z=middle + girth * 0.6))
    toy.main(box(girth * 1.9, long + 0.4, 0.14).at(y=0.2, z=floor))
    chimney = middle + girth - 0.04
    toy.main(cylinder(0.085, toy.draw(0.24, 0.34), top=0.14, n=14).at(y=-long * 0.36, z=chimney))
    toy.main(ellipsoid(0.12, 0.12, 0.14, n=12).at(y=0.02, z=chimney + 0.02))
    high, deep = toy.draw(0.78, 0.9), 0.46
    y = long / 2 + deep / 2 - 0.08
    toy.accent(box(girth * 2.15, deep, high).at(y=y, z=floor + high / 2))
    toy.accent(box(girth * 2.6, deep + 0.16, 0.09, bevel=0.03).at(y=y, z=floor + high + 0.03))
    for side in (-1, 1):
        toy.detail("glass", box(0.05, deep * 0.52, 0.24).at(x=side * girth * 1.07, y=y, z=floor + high * 0.72))
        for i, place in enumerate((-0.36, 0.04, 0.44, 0.78)):
            size = wheel * (1.15 if i > 1 else 0.95)
            toy.detail("rubber", _disc(size, 0.11, n=14).at(x=side * girth * 0.9, y=place * long, z=size))
            toy.detail("metal", _disc(size * 0.45, 0.13, n=8).at(x=side * girth * 0.9, y=place * long, z=size))
        toy.detail("metal", box(0.04, long * 0.9, 0.05).at(x=side * (girth * 0.9 + 0.07), y=0.15 * long, z=wheel))
    plough = extrude([(-girth, 0.0), (girth, 0.0), (girth * 0.7, 0.2), (-girth * 0.7, 0.2)], 0.18)
    toy.detail("tail light", plough.at(y=-long / 2 - 0.06, z=0.06))


def _tractor(toy: Toy) -> None:
    big, small, long = toy.draw(0.37, 0.43), toy.draw(0.2, 0.24), toy.draw(0.66, 0.8)
    floor = big * 0.85
    toy.main(box(0.42, long, 0.36, bevel=0.07).at(y=-long * 0.42, z=floor + 0.2))
    toy.main(box(0.5, 0.6, 0.22, bevel=0.04).at(y=0.28, z=floor + 0.1))
    toy.detail("ink", box(0.3, 0.05, 0.24).at(y=-long * 0.92, z=floor + 0.2))
    roof = floor + toy.draw(0.78, 0.9)
    toy.detail("glass", box(0.5, 0.46, roof - floor - 0.2, taper=(0.9, 0.85)).at(y=0.26, z=(roof + floor) / 2 + 0.1))
    toy.main(box(0.62, 0.62, 0.1, bevel=0.03).at(y=0.26, z=roof + 0.04))
    for x in (-0.24, 0.24):
        for y in (0.05, 0.47):
            toy.main(box(0.07, 0.07, roof - floor).at(x=x, y=y, z=(roof + floor) / 2))
    toy.detail("rubber", cylinder(0.045, toy.draw(0.32, 0.44), n=8).at(x=0.12, y=-long * 0.6, z=floor + 0.36))
    for side in (-1, 1):
        toy.detail("glow", ellipsoid(0.06, 0.04, 0.06, n=8).at(x=side * 0.15, y=-long * 0.93, z=floor + 0.3))
        for radius, width, x, y in ((big, 0.22, 0.42, 0.34), (small, 0.16, 0.33, -long * 0.66)):
            toy.detail("rubber", _disc(radius, width, n=20).at(x=side * x, y=y, z=radius))
            toy.accent(_disc(radius * 0.74, width + 0.06, n=16).at(x=side * x, y=y, z=radius))
        toy.accent(box(0.26, 0.62, 0.09, bevel=0.03).at(x=side * 0.4, y=0.34, z=2 * big + 0.03))


def _helicopter(toy: Toy) -> None:
    long, wide, tall = toy.draw(0.46, 0.54), toy.draw(0.33, 0.38), toy.draw(0.34, 0.4)
    toy.main(ellipsoid(wide, long, tall, n=22))
    toy.detail("glass", ellipsoid(wide * 0.9, long * 0.55, tall * 0.8, n=18).at(y=-long * 0.52, z=tall * 0.14))
    end = long + toy.draw(0.36, 0.46)
    toy.main(tube([[0, long * 0.5, 0.1], [0, end, 0.2]], [0.17, 0.08], n=12))
    fin = [(-0.14, 0.0), (0.1, 0.0), (0.2, 0.36), (0.04, 0.36)]
    toy.main(extrude(fin, 0.08).turned(z=90).at(y=end - 0.06, z=0.16))
    toy.main(cylinder(0.16, 0.14, top=0.1, n=12).at(z=tall * 0.88))
    high, span, turn = tall + 0.2, toy.draw(0.6, 0.7), toy.draw(0, 90)
    toy.detail("metal", cylinder(0.06, 0.2, n=8).at(z=tall))
    for angle in (0, 90):
        toy.accent(box(2 * span, 0.2, 0.07).turned(z=turn + angle).at(z=high))
    for angle in (0, 60, 120):
        toy.accent(box(0.05, 0.09, 0.42).turned(x=turn + angle).at(x=0.1, y=end + 0.02, z=0.3))
    toy.accent(ellipsoid(0.1, 0.1, 0.07, n=10).at(z=high))
    for side in (-1, 1):
        x, z = side * wide * 0.85, -tall - 0.16
        toy.detail("metal", tube([[x, -long * 0.95, z + 0.1], [x, -long * 0.7, z], [x, long * 0.75, z]], 0.045, n=8))
        for y in (-0.25, 0.25):
            toy.detail("metal", tube([[side * wide * 0.5, y, -tall * 0.7], [x, y, z]], 0.035, n=6))


ENGINES = (
    Kind(
        name="bicycle",
        build=_bicycle,
        nouns=("bicycle", "bike", "road bike", "push bike"),
        body="frame",
        part="wheels",
        part_nouns=("wheels", "tyres", "tires"),
        plural=True,
    ),
    Kind(
        name="train",
        build=_train,
        nouns=("train", "steam train", "toy train", "steam engine"),
        body="boiler",
        part="cabin",
        part_nouns=("cabin", "cab", "driver's cab"),
    ),
    Kind(
        name="tractor",
        build=_tractor,
        nouns=("tractor", "farm tractor", "toy tractor"),
        body="body",
        part="wheels",
        part_nouns=("wheels", "big wheels"),
        plural=True,
    ),
    Kind(
        name="helicopter",
        build=_helicopter,
        nouns=("helicopter", "toy helicopter", "rescue helicopter"),
        body="body",
        part="rotor",
        part_nouns=("rotor", "propeller", "rotor and tail rotor"),
    ),
)
