"""One mesh as a binary .stl, for printers: triangles alone, no colour, no unit.

STL has no unit: its numbers are what a program takes them for, and slicers take millimetres.  Our unit, like glTF's, is
the metre, so a thing of height 0.1 is written with the numbers of 100 mm.  Slicers want z up, which is our frame.

    80 bytes     header: any text that does not begin with "solid", which marks the kind of STL that is text
    4 bytes      number of triangles
    50 bytes     of each: normal, three corners (12 floats), 2 bytes that are 0
"""

from __future__ import annotations

import numpy as np

from viewfold.label import UNLABELLED, Label, software
from viewfold.scene.mesh import Mesh

MILLIMETRES = 1000.0
"""In a metre."""

MADE_BY_A_MODEL = "trainedAlgorithmicMedia"
"""IPTC's word, said in the header if the label says it: 80 bytes have no room for a record of provenance."""

_HEADER_BYTES = 80
_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attributes", "<u2")])


def write_stl(mesh: Mesh, *, label: Label = UNLABELLED) -> bytes:
    """Return the file of a mesh on the CPU: its faces in millimetres, z up."""
    header = f"{software()}, millimetres, z up"
    header += f", {MADE_BY_A_MODEL}" if MADE_BY_A_MODEL in label.comment() else ""
    triangles = np.zeros(len(mesh.faces), _TRIANGLE)
    triangles["corners"] = (mesh.vertices.double() * MILLIMETRES)[mesh.faces].numpy()
    triangles["normal"] = mesh.face_normals().numpy()
    return (
        header.encode()[:_HEADER_BYTES].ljust(_HEADER_BYTES)
        + np.uint32(len(triangles)).astype("<u4").tobytes()
        + triangles.tobytes()
    )
