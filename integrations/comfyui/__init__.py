"""ComfyUI nodes: a text becomes consistent views, and the views become a 3D file.

ComfyUI reads the two mappings; everything else is in nodes.py (what the boxes do) and host.py (what they ask ComfyUI).
"""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
