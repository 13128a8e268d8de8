"""Things for a day out: ice cream, cake, umbrella, ball.  A kind is one function; its front, if any, faces -y."""

from __future__ import annotations

import numpy as np

from viewfold.data.toybox.primitives import cylinder, ellipsoid, lathe, tube
from viewfold.data.toybox.toy import Kind, Toy


def _ice_cream(toy: Toy) -> None:
    rim, tall = toy.draw(0.3, 0.35), toy.draw(0.8, 0.95)
    toy.accent(cylinder(0.04, tall, top=rim, n=20), cylinder(rim * 1.1, 0.1, n=20).at(z=tall - 0.06))
    for z in (0.3, 0.52, 0.74):  # the ribs of a wafer
        toy.accent(cylinder(0.04 + (rim - 0.04) * z + 0.025, 0.04, n=20).at(z=tall * z))
    size, z = rim * toy.draw(1.08, 1.2), tall + rim * 0.45
    for i in range(2 if toy.chance(0.6) else 1):
        toy.main(ellipsoid(size, size, size * 0.92, n=20).at(z=z))
        for k in range(7):
            angle, low = np.radians(360 * (k + 0.5 * i) / 7), toy.draw(0.3, 0.42)
            drip = {"x": size * 0.86 * float(np.cos(angle)), "y": size * 0.86 * float(np.sin(angle))}
            toy.main(ellipsoid(0.12, 0.12, 0.13, n=8).at(**drip, z=z - size * low))
        z, size = z + size * 1.12, size * 0.84
    top = z - size * 0.3
    toy.detail("tail light", ellipsoid(0.11, n=12).at(z=top))
    if toy.chance(0.5):
        stick = cylinder(0.055, 0.6, n=8).turned(y=toy.draw(18, 30)).at(x=size * 0.45, y=0.1, z=top - 0.3)
        toy.detail("wood", stick)


def _cake(toy: Toy) -> None:
    wide, tall = toy.draw(0.52, 0.62), toy.draw(0.34, 0.44)
    tiers = [(wide, tall, 0.0), (wide * toy.draw(0.58, 0.66), tall * 0.8, tall)]
    for radius, high, z in tiers if toy.chance(0.6) else tiers[:1]:
        toy.main(cylinder(radius, high, n=28).at(z=z))
        toy.accent(cylinder(radius * 1.04, 0.1, n=28).at(z=z + high - 0.07))
        count = int(radius * 22)
        for k in range(count):
            angle, low = np.radians(360 * k / count), toy.draw(0.06, 0.2)
            drip = {"x": radius * float(np.cos(angle)), "y": radius * float(np.sin(angle))}
            toy.accent(ellipsoid(0.065, 0.065, low, n=6).at(**drip, z=z + high - 0.04))
        top, room = z + high + 0.02, radius
    toy.detail("paper", cylinder(wide * 1.22, 0.05, n=28).at(z=-0.05))
    count = int(3 + 3 * toy.draw(0, 0.999))
    for k in range(count):
        angle = np.radians(360 * k / count + 20)
        spot = {"x": room * 0.55 * float(np.cos(angle)), "y": room * 0.55 * float(np.sin(angle))}
        toy.detail("blush", cylinder(0.045, 0.24, n=8).at(**spot, z=top))
        toy.detail("glow", ellipsoid(0.045, 0.045, 0.08, n=8).at(**spot, z=top + 0.3))


def _umbrella(toy: Toy) -> None:
    wide, rise, tall = toy.draw(0.72, 0.82), toy.draw(0.42, 0.54), toy.draw(1.0, 1.15)
    edge, n = toy.draw(0.72, 0.78), 16

    def dome(reach: float, *, out: float) -> list[tuple[float, float]]:
        angles = np.linspace(0, reach, 7) * np.pi / 2
        return [((wide + out) * float(np.sin(a)), (rise + out) * float(np.cos(a))) for a in angles]

    def shell(reach: float, *, out: float) -> list[tuple[float, float]]:
        return [*dome(reach, out=out - 0.05), *reversed(dome(reach, out=out))]

    toy.accent(lathe(shell(0.98, out=0.0), n=n).at(z=tall - rise))
    toy.main(lathe(shell(edge, out=0.025), n=n).at(z=tall - rise))
    toy.detail("metal", cylinder(0.035, 0.14, top=0.02, n=8).at(z=tall))
    hook = [[0, 0, tall - 0.05], [0, 0, tall * 0.5], [0, 0, 0.0]]
    toy.detail("wood", tube(hook, 0.04, n=8))
    side = 0.12
    bend = [[0, -side * (1 - np.cos(a)), -side * np.sin(a) * 1.2] for a in np.linspace(0, np.pi, 8)]
    toy.detail("wood", tube(bend, 0.065, n=8))


def _ball(toy: Toy) -> None:
    toy.main(ellipsoid(1.0, n=28))
    half, tilt, turn = toy.draw(0.2, 0.28), toy.draw(0, 60), toy.draw(0, 180)
    slices = [(1.015 * float(np.sqrt(1 - z * z)), z) for z in np.linspace(-half, half, 5)]
    band = lathe([(0.0, -half), *slices, (0.0, half)], n=32)
    toy.accent(band.turned(x=tilt).turned(z=turn))
    if toy.chance(0.5):
        toy.accent(band.turned(x=90 + tilt).turned(z=turn))
    for z in (-1, 1):
        toy.detail("paper", ellipsoid(0.2, 0.2, 0.05, n=12).at(z=z * 0.98).turned(x=tilt + 45).turned(z=turn + 90))


PICNIC = (
    Kind(
        name="ice cream",
        build=_ice_cream,
        nouns=("ice cream", "ice cream cone", "ice-cream", "soft ice cream"),
        body="scoop",
        part="cone",
        part_nouns=("cone", "wafer", "sugar cone"),
    ),
    Kind(
        name="cake",
        build=_cake,
        nouns=("cake", "birthday cake", "party cake", "cake with candles"),
        body="sponge",
        part="top",
        part_nouns=("top", "icing", "frosting", "cream top"),
    ),
    Kind(
        name="umbrella",
        build=_umbrella,
        nouns=("umbrella", "rain umbrella", "open umbrella", "brolly"),
        body="canopy",
        part="trim",
        part_nouns=("trim", "edge", "border"),
    ),
    Kind(
        name="ball",
        build=_ball,
        nouns=("ball", "beach ball", "toy ball", "rubber ball"),
        body="ball",
        part="stripe",
        part_nouns=("stripe", "band", "ring"),
    ),
)
