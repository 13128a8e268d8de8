"""Where a mesh stands: the tree of nodes, skins in their pose, morph targets, copies (glTF 2.0, 3.5 and 3.7)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from viewfold import limits
from viewfold.errors import AssetError
from viewfold.scene.gltf.accessor import Accessors
from viewfold.scene.gltf.document import Document

Matrix = Float[np.ndarray, "4 4"]


def placed_nodes(document: Document) -> dict[int, Matrix]:
    """Return the nodes of the default scene with their places in the world.

    Without a scene these are all nodes; a tree that comes back to a node is refused.
    """
    tree = document.tree
    nodes = tree.get("nodes", [])
    if tree.get("scenes"):
        roots = document.entry("scenes", tree.get("scene", 0)).get("nodes", [])
    else:
        below = {child for node in nodes if isinstance(node, dict) for child in node.get("children", [])}
        roots = [index for index in range(len(nodes)) if index not in below]
    placed: dict[int, Matrix] = {}
    queue: list[tuple[int, Matrix]] = [(index, np.eye(4)) for index in roots]
    while queue:
        index, above = queue.pop()
        node = document.entry("nodes", index)
        if index in placed:
            raise AssetError(f"its node {index} stands in two places of the tree. Export it again.")
        placed[index] = above @ local_matrix(node)
        queue += [(child, placed[index]) for child in node.get("children", [])]
        if len(queue) > limits.MESH_NODES:
            raise AssetError(f"it must have at most {limits.MESH_NODES} nodes. Simplify it first.")
    return dict(sorted(placed.items()))


def local_matrix(node: dict[str, Any]) -> Matrix:
    """Return a node's own place: its matrix (column by column), or translation x rotation x scale."""
    if "matrix" in node:
        return _numbers(node["matrix"], 16).reshape(4, 4).T
    return transforms(
        _numbers(node.get("translation", [0, 0, 0]), 3)[None],
        _numbers(node.get("rotation", [0, 0, 0, 1]), 4)[None],
        _numbers(node.get("scale", [1, 1, 1]), 3)[None],
    )[0]


def transforms(
    translation: Float[np.ndarray, "n 3"], rotation: Float[np.ndarray, "n 4"], scale: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 4 4"]:
    """Return translation x rotation x scale, rotations as quaternions (x, y, z, w) of any length."""
    length = np.linalg.norm(rotation, axis=1, keepdims=True)
    x, y, z, w = np.where(length > 0, rotation / np.where(length > 0, length, 1), [0.0, 0.0, 0.0, 1.0]).T
    turn = np.stack(
        [
            1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
            2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
            2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
        ], axis=1,
    ).reshape(-1, 3, 3)  # fmt: skip
    out = np.tile(np.eye(4), (len(turn), 1, 1))
    out[:, :3, :3] = turn * scale[:, None, :]
    out[:, :3, 3] = translation
    return out


def copies(document: Document, accessors: Accessors, node: dict[str, Any]) -> Iterator[Matrix]:
    """Yield where the copies of a node's mesh stand, relative to it: one, or those of EXT_mesh_gpu_instancing."""
    instancing = node.get("extensions", {}).get("EXT_mesh_gpu_instancing")
    if instancing is None:
        yield np.eye(4)
        return
    attributes = instancing.get("attributes", {})
    counts = {accessors.count(attributes[name]) for name in ("TRANSLATION", "ROTATION", "SCALE") if name in attributes}
    if len(counts) != 1 or max(counts) > limits.MESH_NODES:
        raise AssetError(f"its copies must have as many places as turns and scales; got {sorted(counts)}.")
    count = counts.pop()
    default = {"TRANSLATION": [0.0, 0, 0], "ROTATION": [0.0, 0, 0, 1], "SCALE": [1.0, 1, 1]}
    parts = {
        name: accessors.floats(attributes[name]) if name in attributes else np.tile(value, (count, 1))
        for name, value in default.items()
    }
    yield from transforms(parts["TRANSLATION"], parts["ROTATION"], parts["SCALE"])


def morphed(
    accessors: Accessors, primitive: dict[str, Any], weights: list[float], positions: Float[np.ndarray, "k 3"]
) -> Float[np.ndarray, "k 3"]:
    """Return the positions with the mesh's or node's weights of morph targets."""
    for weight, target in zip(weights, primitive.get("targets", []), strict=False):
        if weight and "POSITION" in target:
            moved = accessors.floats(target["POSITION"])
            if moved.shape != positions.shape:
                raise AssetError(f"a morph target has {len(moved)} vertices; its mesh has {len(positions)}.")
            positions = positions + weight * moved
    return positions


def skinned(
    document: Document,
    accessors: Accessors,
    skin: Any,
    placed: dict[int, Matrix],
    attributes: dict[str, Any],
    positions: Float[np.ndarray, "k 3"],
) -> Float[np.ndarray, "k 3"]:
    """Return positions in the world in the pose of the joints; the node's own place does not count (3.7.3.3)."""
    skin = document.entry("skins", skin)
    joints = skin.get("joints", [])
    if not joints:
        raise AssetError("a skin has no joints. Export it again.")
    missing = [joint for joint in joints if joint not in placed]
    if missing:
        raise AssetError(f"its skin's joint {missing[0]} is not in the scene. Export it again.")
    pose = np.stack([placed[joint] for joint in joints])
    if "inverseBindMatrices" in skin:
        bind = accessors.floats(skin["inverseBindMatrices"])
        if bind.shape[1] != 16 or len(bind) < len(joints):
            raise AssetError(f"its skin has {len(joints)} joints and {len(bind)} matrices. Export it again.")
        pose = pose @ bind[: len(joints)].reshape(-1, 4, 4).transpose(0, 2, 1)
    blended, total = np.zeros((len(positions), 3, 4)), np.zeros(len(positions))
    number = 0
    while f"JOINTS_{number}" in attributes and f"WEIGHTS_{number}" in attributes:
        index = accessors.numbers(attributes[f"JOINTS_{number}"]).astype(np.int64)
        weight = accessors.floats(attributes[f"WEIGHTS_{number}"])
        if index.shape != weight.shape or len(index) != len(positions):
            raise AssetError("its skin's weights do not fit its vertices. Export it again.")
        if index.size and not 0 <= index.min() <= index.max() < len(joints):
            raise AssetError(f"a vertex follows joint {int(index.max())} of {len(joints)}. Export it again.")
        for column in range(index.shape[1]):
            blended += weight[:, column, None, None] * pose[index[:, column], :3]
            total += weight[:, column]
        number += 1
    if not number:
        raise AssetError("it has a skin, but its vertices follow no joints. Export it again.")
    blended /= np.where(np.abs(total) > 1e-9, total, 1)[:, None, None]
    return np.einsum("kij,kj->ki", blended[:, :, :3], positions) + blended[:, :, 3]


def _numbers(values: Any, count: int) -> Float[np.ndarray, "n"]:
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise AssetError(f"a node's place holds {values!r}"[:120] + ". Export it again.") from error
    if found.shape != (count,) or not np.isfinite(found).all():
        raise AssetError(f"a node's place must be {count} finite numbers. Export it again.")
    return found
