"""Things of the house: mug, teapot, lamp, chair, table, sofa, hat.  A kind is one function; its front faces -y."""

from __future__ import annotations

import numpy as np

from viewfold.data.toybox.primitives import arc, box, cylinder, ellipsoid, lathe, tube
from viewfold.data.toybox.toy import Kind, Toy


def _mug(toy: Toy) -> None:
    radius, height, wall = toy.draw(0.36, 0.46), toy.draw(0.8, 1.0), 0.06
    foot = radius * toy.draw(0.82, 1.0)
    outside = [(foot * 0.94, 0.0), (foot, 0.04), (radius, height - 0.03), (radius - 0.02, height)]
    inside = [(radius - wall, height), (foot - wall, wall), (0.0, wall)]
    toy.main(lathe([(0.0, 0.0), *outside, *inside], n=28))
    if toy.chance(0.5):
        toy.detail("wood", cylinder(radius - wall - 0.005, 0.02, n=28).at(z=height * 0.8))
    path = arc(height * toy.draw(0.26, 0.31), -90, 90, n=14, squash=toy.draw(1.1, 1.4)) + [0, 0, height / 2]
    path[:, 0] += foot + (radius - foot) * path[:, 2] / height - 0.025  # both ends stop inside the wall
    toy.accent(tube(path, toy.draw(0.08, 0.1), n=10))


def _teapot(toy: Toy) -> None:
    wide, tall = toy.draw(0.5, 0.56), toy.draw(0.42, 0.48)
    toy.main(ellipsoid(wide, wide, tall, n=24), cylinder(wide * 0.6, 0.08).at(z=-tall - 0.02))
    spout = np.array([[0.7, 0, -0.15], [1.08, 0, -0.02], [1.28, 0, 0.3], [1.48, 0, 0.66]]) * [wide, 1, tall / 0.75]
    toy.main(tube(spout, [0.15, 0.11, 0.085, 0.07], n=10))
    grip = arc(tall * 0.72, 75, 285, n=14, squash=toy.draw(0.95, 1.15))
    toy.main(tube(grip, 0.06, n=8).at(x=-wide * 0.9, z=0.02))
    rim = wide * toy.draw(0.72, 0.8)
    base = tall * np.sqrt(1 - (rim / wide) ** 2)
    toy.accent(ellipsoid(rim * 1.03, rim * 1.03, tall * toy.draw(0.62, 0.72), n=20).at(z=base * 0.92))
    toy.accent(ellipsoid(toy.draw(0.1, 0.13)).at(z=base + tall * 0.68))


def _lamp(toy: Toy) -> None:
    height, foot = toy.draw(0.95, 1.2), toy.draw(0.28, 0.36)
    bulge = toy.draw(0.16, 0.25)
    body = [(foot, 0.0), (foot, 0.07), (0.09, 0.13), (bulge, 0.32), (bulge * 0.8, 0.46), (0.07, 0.62), (0.05, height)]
    toy.main(lathe([(0.0, 0.0), *body], n=20))
    low, top, tall = toy.draw(0.46, 0.56), toy.draw(0.24, 0.32), toy.draw(0.48, 0.6)
    shade = [
        (low - 0.03, 0.0),
        (low, 0.0),
        (top, tall),
        (top - 0.03, tall),
        (top - 0.06, tall - 0.03),
        (low - 0.06, 0.03),
    ]
    toy.accent(lathe([(0.0, 0.06), (low - 0.09, 0.06), *shade[:4], (0.0, tall)], n=24).at(z=height - 0.28))
    toy.detail("glow", ellipsoid(0.11, n=10).at(z=height - 0.27))
    toy.detail("gold", ellipsoid(0.05, n=8).at(z=height + tall - 0.25))


def _chair(toy: Toy) -> None:
    wide, deep, leg = toy.draw(0.55, 0.68), toy.draw(0.52, 0.62), toy.draw(0.5, 0.62)
    thick, back = toy.draw(0.09, 0.14), toy.draw(0.6, 0.78)
    toy.main(box(wide, deep, thick, bevel=0.03).at(z=leg))
    if toy.chance(0.5):
        toy.main(box(wide, 0.09, back, bevel=0.03).at(y=deep / 2 - 0.05, z=leg + back / 2))
    else:
        for x in (-0.42, 0.0, 0.42):
            toy.main(box(0.13, 0.08, back, bevel=0.02).at(x=x * wide, y=deep / 2 - 0.05, z=leg + back / 2))
        toy.main(box(wide, 0.09, 0.2, bevel=0.03).at(y=deep / 2 - 0.05, z=leg + back - 0.05))
    toy.shelf = (0.0, -0.06, leg + thick / 2, min(wide, deep) * 0.85)
    girth, round_legs = toy.draw(0.05, 0.065), toy.chance(0.5)
    for x in (-1, 1):
        for y in (-1, 1):
            shape = cylinder(girth, leg, n=10) if round_legs else box(girth * 2, girth * 2, leg).at(z=leg / 2)
            toy.accent(shape.at(x=x * (wide / 2 - girth), y=y * (deep / 2 - girth)))


def _table(toy: Toy) -> None:
    wide, deep, leg, thick = toy.draw(1.2, 1.5), toy.draw(0.7, 0.95), toy.draw(0.5, 0.65), toy.draw(0.09, 0.13)
    if toy.chance(0.35):
        deep = wide = wide * 0.9
        toy.main(cylinder(wide / 2, thick, n=32).at(z=leg))
        spread = 0.62
    else:
        toy.main(box(wide, deep, thick, bevel=0.03).at(z=leg + thick / 2))
        spread = 0.88
    toy.shelf = (0.0, 0.0, leg + thick, deep * 0.8)
    girth = toy.draw(0.065, 0.09)
    for x in (-1, 1):
        for y in (-1, 1):
            shape = cylinder(girth * 0.8, leg, top=girth, n=12)
            toy.accent(shape.at(x=x * spread * wide / 2, y=y * spread * deep / 2))


def _sofa(toy: Toy) -> None:
    wide, deep, seat = toy.draw(1.35, 1.65), toy.draw(0.62, 0.72), toy.draw(0.2, 0.26)
    arm, back = toy.draw(0.17, 0.23), toy.draw(0.56, 0.66)
    toy.main(box(wide, deep, seat, bevel=0.04).at(z=seat / 2))
    toy.main(box(wide, 0.2, back, bevel=0.05).at(y=deep / 2 - 0.1, z=back / 2))
    for side in (-1, 1):
        toy.main(box(arm, deep, seat + 0.22, bevel=0.05).at(x=side * (wide - arm) / 2, z=(seat + 0.22) / 2))
        for y in (-1, 1):
            toy.detail("wood", box(0.08, 0.08, 0.1).at(x=side * (wide / 2 - 0.1), y=y * (deep / 2 - 0.1), z=-0.05))
    toy.shelf = (0.0, -0.14, seat + 0.12, deep * 0.95)
    count = 3 if wide > 1.55 else 2
    room = wide - 2 * arm
    for i in range(count):
        x = room * ((i + 0.5) / count - 0.5)
        toy.accent(box(room / count - 0.02, deep - 0.2, 0.14, bevel=0.05).at(x=x, y=-0.12, z=seat + 0.06))
        pillow = box(room / count - 0.02, 0.18, 0.5, bevel=0.06).turned(x=-10)
        toy.accent(pillow.at(x=x, y=deep / 2 - 0.25, z=seat + 0.33 + (back - 0.56)))


def _hat(toy: Toy) -> None:
    radius, height, brim = toy.draw(0.34, 0.42), toy.draw(0.5, 0.7), toy.draw(0.62, 0.75)
    flare, lift = toy.draw(0.9, 1.1), toy.draw(0.02, 0.1)
    top = radius * flare
    toy.main(lathe([(0.0, 0.0), (radius, 0.0), (top, height - 0.04), (top - 0.04, height), (0.0, height)], n=28))
    edge = [(brim, lift), (brim + 0.02, lift + 0.03), (brim, lift + 0.06)]
    toy.main(lathe([(0.0, -0.02), (radius, -0.02), *edge, (radius, 0.05), (0.0, 0.05)], n=32))
    low, high = 0.05, 0.05 + height * toy.draw(0.36, 0.44)
    at = [radius + (top - radius) * z / (height - 0.04) + 0.025 for z in (low, high)]
    toy.accent(lathe([(0.0, low), (at[0], low), (at[1], high), (0.0, high)], n=28))
    toy.detail("gold", box(0.22, 0.05, (high - low) * 0.8).at(y=-at[0] - 0.005, z=(low + high) / 2))


HOUSEHOLD = (
    Kind(
        name="mug",
        build=_mug,
        nouns=("mug", "cup", "coffee mug", "coffee cup", "tea mug"),
        body="body",
        part="handle",
        part_nouns=("handle", "grip"),
    ),
    Kind(
        name="teapot",
        build=_teapot,
        nouns=("teapot", "tea pot", "china teapot", "pot for tea"),
        body="body",
        part="lid",
        part_nouns=("lid", "top", "cover"),
    ),
    Kind(
        name="lamp",
        build=_lamp,
        nouns=("lamp", "table lamp", "bedside lamp", "desk lamp"),
        body="base",
        part="shade",
        part_nouns=("shade", "lampshade", "lamp shade"),
    ),
    Kind(
        name="chair",
        build=_chair,
        nouns=("chair", "dining chair", "kitchen chair", "side chair"),
        body="seat",
        part="legs",
        part_nouns=("legs", "chair legs"),
        plural=True,
    ),
    Kind(
        name="table",
        build=_table,
        nouns=("table", "dining table", "kitchen table", "coffee table"),
        body="top",
        part="legs",
        part_nouns=("legs", "table legs"),
        plural=True,
    ),
    Kind(
        name="sofa",
        build=_sofa,
        nouns=("sofa", "couch", "living room sofa", "comfortable couch"),
        body="frame",
        part="cushions",
        part_nouns=("cushions", "pillows", "seat cushions"),
        plural=True,
    ),
    Kind(
        name="hat",
        build=_hat,
        nouns=("hat", "top hat", "tall hat", "felt hat"),
        body="crown",
        part="band",
        part_nouns=("band", "ribbon", "hat band"),
    ),
)
