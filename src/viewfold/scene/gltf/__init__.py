"""glTF 2.0 as its specification has it, from .glb and .gltf, into meshes."""
