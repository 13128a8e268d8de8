"""The kinds of files, by their endings: said once, for readers, writers and the command line.

Names alone: imports nothing, so that help can name them before anything is loaded.
"""

MESHES = (".glb", ".obj", ".ply", ".stl", ".usdz")
"""What meshes are written to."""

READ_MESHES = (".glb", ".gltf", ".obj", ".ply")
"""What meshes are read from."""

ANIMATIONS = (".webp", ".gif", ".mp4")
"""What turntables are written to."""

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".gif": "GIF"}
"""What a picture's record is read from, and Pillow's word for it."""

VIEW_RECORDS = ("transforms.json", "transforms_train.json")
"""Cameras in a folder of views, ours and nerfstudio's name first, then that of Blender's NeRF scenes."""

RENDER_RECORD = "meta.json"
"""Cameras and captions of an asset's pictures, of `viewfold render`; others' files have the name too."""

WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
"""What a file of weights may be."""
