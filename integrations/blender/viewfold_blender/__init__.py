"""A Blender add-on: a prompt, made into an object by a viewfold server, stands at the 3D cursor.

client    what is said to the server (the standard library alone: Blender's Python has no pip)
making    one job in a thread, from the request to the file
panel     what is seen in Blender, and the import: the only file that knows bpy
"""

bl_info = {
    "name": "viewfold: text to 3D",
    "author": "The viewfold authors",
    "version": (0, 1, 0),
    "blender": (4, 2, 0),
    "location": "3D View > Sidebar > viewfold",
    "description": "Type what to make, and it stands at the 3D cursor",
    "category": "Import-Export",
}
"""For those who install it as an add-on of the older kind; an extension has blender_manifest.toml."""


def register() -> None:
    """Put the panel into Blender."""
    from . import panel

    panel.register()


def unregister() -> None:
    """Take the panel out of Blender, and end what runs."""
    from . import panel

    panel.unregister()
