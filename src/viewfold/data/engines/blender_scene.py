"""What runs inside Blender: reads jobs, imports assets, renders views with Cycles.  No part of viewfold is imported.

    python blender_scene.py                              with a Python that has bpy
    blender --background --python blender_scene.py       with Blender itself

Each line of the standard input names a job, a JSON file; each is answered by one line of the standard output that
starts with ANSWER, among whatever else Blender prints there.  A job is as `viewfold.data.engines.blender` writes it.
The pictures are multilayer OpenEXR without compression: linear colour, premultiplied, and four outputs of the materials
that are filtered over the pixel as the colour is: albedo, normal, depth along the axis, and how much of the pixel has
them.

Blender is GPL; this file and viewfold talk through files and pipes alone.  For Blender 4.2 to 5.0.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
import traceback
from typing import Any

ANSWER = "viewfold-render: "

SUN_ANGLE_DEG = 15.0
"""Of the lamp, seen from the object: its shadows are soft."""

GPUS = ("OPTIX", "CUDA", "HIP", "ONEAPI", "METAL")


class Elsewhere(Exception):
    """Blender's reader puts the asset elsewhere than viewfold's."""


def main() -> None:
    """Answer jobs until the input ends."""
    bpy = importlib.import_module("bpy")
    answer(version=bpy.app.version_string)
    for line in sys.stdin:
        try:
            with open(line.strip(), encoding="utf-8") as file:
                photograph(bpy, json.load(file))
            answer()
        except Elsewhere:
            answer(elsewhere="yes")
        except Exception as error:
            traceback.print_exc()
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            answer(error=(lines[-1] if lines else type(error).__name__)[:300])


def answer(**fields: str) -> None:
    """Say that a job is done, or what was wrong."""
    print("\n" + ANSWER + json.dumps(fields), flush=True)


def photograph(bpy: Any, job: dict[str, Any]) -> None:
    """Render the views of one asset."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    configure(bpy, scene, job)
    bring_in(bpy, job)
    for material in materials(bpy):
        tell_surface(bpy, material)
    if job["light"] is not None:
        illuminate(bpy, scene, job)
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(camera)
    scene.camera = camera
    camera.data.sensor_fit, camera.data.clip_start, camera.data.clip_end = "HORIZONTAL", job["near"], 1e4
    for view in job["views"]:
        pose = view["world_from_camera"]
        camera.matrix_world = matrix(bpy)([pose[i : i + 4] for i in (0, 4, 8, 12)])
        camera.data.angle = math.radians(view["fov_deg"])
        scene.render.filepath = view["file"]
        bpy.ops.render.render(write_still=True)


def matrix(bpy: Any) -> Any:
    """Return Blender's class of matrices."""
    return importlib.import_module("mathutils").Matrix


def configure(bpy: Any, scene: Any, job: dict[str, Any]) -> None:
    """Set Cycles and the file's format."""
    render, cycles = scene.render, scene.cycles
    render.engine = "CYCLES"
    render.resolution_x = render.resolution_y = job["size"]
    render.resolution_percentage, render.pixel_aspect_x, render.pixel_aspect_y = 100, 1, 1
    render.film_transparent = render.use_persistent_data = True
    render.use_file_extension = False
    if job["threads"]:
        render.threads_mode, render.threads = "FIXED", job["threads"]
    cycles.samples, cycles.seed, cycles.use_adaptive_sampling = job["samples"], job["seed"], False
    cycles.pixel_filter_type = "BOX"  # a pixel is the mean of its square, as in the built-in engine
    cycles.use_denoising = job["denoise"]
    if job["denoise"]:
        cycles.denoiser, cycles.denoising_prefilter = "OPENIMAGEDENOISE", "FAST"  # "ACCURATE" takes three times as long
    cycles.max_bounces = cycles.diffuse_bounces = cycles.glossy_bounces = cycles.transmission_bounces = job["bounces"]
    cycles.caustics_reflective = cycles.caustics_refractive = False
    if job["device"] == "gpu":
        use_gpu(bpy, cycles)
    file = render.image_settings
    if hasattr(file, "media_type"):  # since 5.0
        file.media_type = "MULTI_LAYER_IMAGE"
    file.file_format, file.color_depth, file.exr_codec = "OPEN_EXR_MULTILAYER", "32", "NONE"
    if hasattr(file, "use_exr_interleave"):
        file.use_exr_interleave = True
    for name, kind in (("albedo", "COLOR"), ("normal", "COLOR"), ("depth", "VALUE"), ("there", "VALUE")):
        output = scene.view_layers[0].aovs.add()
        output.name, output.type = name, kind


def use_gpu(bpy: Any, cycles: Any) -> None:
    """Choose the first kind of graphics card that there is."""
    preferences = bpy.context.preferences.addons["cycles"].preferences
    for kind in GPUS:
        try:
            preferences.compute_device_type = kind
        except TypeError:  # this Blender was built without it
            continue
        preferences.refresh_devices()
        found = [device for device in preferences.devices if device.type == kind]
        for device in found:
            device.use = True
        if found:
            cycles.device = "GPU"
            return
    raise RuntimeError("Blender finds no graphics card that Cycles can use. Leave out --gpu.")


def bring_in(bpy: Any, job: dict[str, Any]) -> None:
    """Import the asset with Blender's own reader and bring it to its place."""
    kind, path = job["kind"], job["asset"]
    if kind in ("glb", "gltf"):
        bpy.ops.import_scene.gltf(filepath=path)
    elif kind == "obj":
        bpy.ops.wm.obj_import(filepath=path, forward_axis="NEGATIVE_Z", up_axis="Y")
        for material in materials(bpy):
            decode_color(material)
    else:
        bpy.ops.wm.ply_import(filepath=path, forward_axis="Y", up_axis="Z")
    for thing in list(bpy.data.objects):
        thing.animation_data_clear()
        if thing.type in ("LIGHT", "CAMERA"):
            bpy.data.objects.remove(thing)
    shown = [thing for thing in bpy.data.objects if thing.type == "MESH" and thing.visible_get()]
    if not shown:
        raise RuntimeError("Blender finds no mesh in it.")
    root = bpy.data.objects.new("root", None)
    bpy.context.scene.collection.objects.link(root)
    Matrix, (x, y, z) = matrix(bpy), job["center"]
    root.matrix_world = Matrix.Scale(job["scale"], 4) @ Matrix.Translation((-x, -y, -z))
    for thing in bpy.data.objects:
        if thing.parent is None and thing is not root:
            thing.parent = root
    check_place(bpy, shown, job["box"])
    for thing in shown:
        if not [slot for slot in thing.material_slots if slot.material]:
            thing.data.materials.clear()
            thing.data.materials.append(plain(bpy))
        if colors := thing.data.color_attributes:
            for slot in thing.material_slots:
                color_by_vertex(slot.material, colors[0].name)
        if not thing.data.has_custom_normals:  # the file has none: rounded as the built-in engine does it
            for polygon in thing.data.polygons:
                polygon.use_smooth = True
            thing.data.set_sharp_from_angle(angle=math.radians(job["crease_deg"]))


def check_place(bpy: Any, shown: list[Any], expected: list[list[float]]) -> None:
    """Compare the bounding box of the faces with the one that viewfold's reader found.

    Raises:
        Elsewhere: they differ by a fiftieth of the object's size.
    """
    numpy = importlib.import_module("numpy")
    bpy.context.view_layer.update()
    scene, found = bpy.context.evaluated_depsgraph_get(), []
    for thing in shown:
        mesh = thing.evaluated_get(scene).data
        points = numpy.empty(3 * len(mesh.vertices), dtype=numpy.float32)
        corners = numpy.empty(len(mesh.loops), dtype=numpy.int32)
        mesh.vertices.foreach_get("co", points)
        mesh.loops.foreach_get("vertex_index", corners)
        if len(corners):
            place = numpy.array(thing.matrix_world)
            used = points.reshape(-1, 3)[numpy.unique(corners)] @ place[:3, :3].T + place[:3, 3]
            found += [used.min(0), used.max(0)]
    box = numpy.array([numpy.min(found, axis=0), numpy.max(found, axis=0)]) if found else numpy.full((2, 3), numpy.nan)
    if not numpy.abs(box - numpy.array(expected)).max() < 0.02:
        raise Elsewhere


def plain(bpy: Any) -> Any:
    """Return the material of things that have none: white and matt."""
    material = bpy.data.materials.new("plain")
    inputs = surface(material).inputs
    inputs["Base Color"].default_value, inputs["Roughness"].default_value = (1, 1, 1, 1), 0.8
    return material


def materials(bpy: Any) -> list[Any]:
    """Return the materials in use."""
    return [material for material in bpy.data.materials if material.users]


def surface(material: Any) -> Any:
    """Return the node that a material's colour belongs to; it gets one if it has none."""
    if not material.use_nodes:
        material.use_nodes = True
    nodes = material.node_tree.nodes
    return next((node for node in nodes if node.type == "BSDF_PRINCIPLED"), None)


def decode_color(material: Any) -> None:
    """Take an MTL file's Kd for sRGB, as viewfold and those who write such files do; Blender takes it for linear."""
    if (node := surface(material)) is not None and not node.inputs["Base Color"].is_linked:
        *color, alpha = node.inputs["Base Color"].default_value
        color = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
        node.inputs["Base Color"].default_value = (*color, alpha)


def color_by_vertex(material: Any, attribute: str) -> None:
    """Multiply a material's colour by that of the vertices, if its importer has not done so."""
    if material is None or (node := surface(material)) is None:
        return
    tree = material.node_tree
    if any(other.type in ("VERTEX_COLOR", "ATTRIBUTE") for other in tree.nodes):
        return
    base = node.inputs["Base Color"]
    vertex, product = tree.nodes.new("ShaderNodeVertexColor"), tree.nodes.new("ShaderNodeVectorMath")
    vertex.layer_name, product.operation = attribute, "MULTIPLY"
    feed(tree, base, product.inputs[0])
    tree.links.new(vertex.outputs["Color"], product.inputs[1])
    tree.links.new(product.outputs[0], base)


def feed(tree: Any, source: Any, target: Any) -> None:
    """Give an input what another has, be it a link or a number."""
    if source.is_linked:
        tree.links.new(source.links[0].from_socket, target)
    else:
        value = source.default_value
        target.default_value = tuple(value)[: len(target.default_value)] if hasattr(value, "__len__") else value


def tell_surface(bpy: Any, material: Any) -> None:
    """Let a material give out its colour, normal and depth, and that it is there."""
    node = surface(material)
    tree = material.node_tree
    outputs = {}
    for name in ("albedo", "normal", "depth", "there"):
        outputs[name] = tree.nodes.new("ShaderNodeOutputAOV")
        outputs[name].aov_name = name
    plain = next((other for other in tree.nodes if other.type == "EMISSION"), None)  # glTF's unlit materials
    source = node.inputs["Base Color"] if node is not None else plain.inputs["Color"] if plain is not None else None
    if source is not None:
        feed(tree, source, outputs["albedo"].inputs["Color"])
    geometry, camera = tree.nodes.new("ShaderNodeNewGeometry"), tree.nodes.new("ShaderNodeCameraData")
    tree.links.new(geometry.outputs["Normal"], outputs["normal"].inputs["Color"])
    tree.links.new(camera.outputs["View Z Depth"], outputs["depth"].inputs["Value"])
    outputs["there"].inputs["Value"].default_value = 1.0


def illuminate(bpy: Any, scene: Any, job: dict[str, Any]) -> None:
    """Make surroundings: a picture, or two half spheres of grey and a soft lamp."""
    light = job["light"]
    world = scene.world = bpy.data.worlds.new("world")
    world.use_nodes = True
    tree = world.node_tree
    background = next(node for node in tree.nodes if node.type == "BACKGROUND")
    where = tree.nodes.new("ShaderNodeTexCoord").outputs["Generated"]  # in a world, the direction
    if light["hdri"]:
        mapping, picture = tree.nodes.new("ShaderNodeMapping"), tree.nodes.new("ShaderNodeTexEnvironment")
        picture.image = bpy.data.images.load(light["hdri"])
        if not picture.image.size[0]:
            raise RuntimeError(f"Blender cannot read {light['hdri']}.")
        mapping.inputs["Rotation"].default_value = (0, 0, math.radians(light["turn_deg"]))
        tree.links.new(where, mapping.inputs["Vector"])
        tree.links.new(mapping.outputs["Vector"], picture.inputs["Vector"])
        tree.links.new(picture.outputs["Color"], background.inputs["Color"])
        return
    world.cycles.sampling_method, world.cycles.sample_map_resolution = "MANUAL", 64  # by default a second an asset
    parts, above, mix = (tree.nodes.new(f"ShaderNode{kind}") for kind in ("SeparateXYZ", "Math", "Math"))
    above.operation, mix.operation = "GREATER_THAN", "MULTIPLY_ADD"
    above.inputs[1].default_value = 0.0
    mix.inputs[1].default_value, mix.inputs[2].default_value = light["sky"] - light["ground"], light["ground"]
    tree.links.new(where, parts.inputs["Vector"])
    tree.links.new(parts.outputs["Z"], above.inputs[0])
    tree.links.new(above.outputs["Value"], mix.inputs[0])
    tree.links.new(mix.outputs["Value"], background.inputs["Color"])
    lamp = bpy.data.lights.new("lamp", "SUN")
    lamp.energy, lamp.angle = light["key"] * math.pi, math.radians(SUN_ANGLE_DEG)  # a matt white surface shows `key`
    holder = bpy.data.objects.new("lamp", lamp)
    scene.collection.objects.link(holder)
    direction = importlib.import_module("mathutils").Vector(light["direction"])
    holder.rotation_euler = direction.to_track_quat("Z", "Y").to_euler()


if __name__ == "__main__":
    main()
