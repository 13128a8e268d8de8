# pyright: reportMissingImports=false, reportInvalidTypeForm=false
"""What is seen in Blender: a panel in the 3D view's sidebar, two buttons, the preferences; and the import.

The server's address and its token are preferences of this Blender, not of a file: a file from elsewhere could send the
token to its maker.
"""

import time
from pathlib import Path

import bpy

from .client import DEFAULT_ADDRESS, Client, ServerError
from .making import Making

TICK_S = 0.2

QUALITIES = [
    ("draft", "Draft", "Quick: few views"),
    ("standard", "Standard", "Many views"),
    ("high", "High", "Slow: many views, then distilled"),
]


class Current:
    """What runs, and what is said of what ran last: there is one panel, and one job at a time."""

    making: Making | None = None
    said: str = ""
    failed: bool = False


class ViewfoldPreferences(bpy.types.AddonPreferences):
    """Which server is asked, and as whom."""

    bl_idname = __package__ or "viewfold_blender"

    address: bpy.props.StringProperty(
        name="Server", default=DEFAULT_ADDRESS, description="Where `viewfold serve` listens"
    )
    token: bpy.props.StringProperty(
        name="Token",
        subtype="PASSWORD",
        description="What `viewfold serve --add-user NAME` printed; none on this machine",
    )

    def draw(self, _context: bpy.types.Context) -> None:
        """Show both."""
        self.layout.prop(self, "address")
        self.layout.prop(self, "token")


class ViewfoldSettings(bpy.types.PropertyGroup):
    """What to make; kept in the file."""

    prompt: bpy.props.StringProperty(name="Prompt", default="a red mug", maxlen=1000, description="What to make")
    quality: bpy.props.EnumProperty(name="Quality", items=QUALITIES, default="standard")
    seed: bpy.props.IntProperty(
        name="Seed", default=0, min=0, max=2**31 - 1, description="The same seed makes the same object"
    )


def find_preferences(context: bpy.types.Context) -> ViewfoldPreferences:
    """Return the preferences of the add-on."""
    return context.preferences.addons[ViewfoldPreferences.bl_idname].preferences


def begin(context: bpy.types.Context) -> Making:
    """Ask for what the panel says.

    Raises:
        ServerError: nothing is said, the address is none, or Blender may not go online.
    """
    told, chosen = find_preferences(context), context.scene.viewfold
    prompt = " ".join(chosen.prompt.split())
    if not prompt:
        raise ServerError("Say what to make.")
    client = Client(told.address, told.token)
    if not client.is_here and not bpy.app.online_access:
        raise ServerError("Blender may not go online. Preferences > System > Allow Online Access, or use this machine.")
    making = Making(client, prompt, quality=chosen.quality, seed=chosen.seed)
    making.start()
    Current.making, Current.said, Current.failed = making, "", False
    return making


def finish(context: bpy.types.Context) -> set[str]:
    """Import what came, or say why nothing did; return what an operator returns."""
    making, Current.making = Current.making, None
    assert making is not None
    try:
        if making.path is not None:
            objects = stand_at_cursor(context, making.path)
            for each in objects:
                each["viewfold_prompt"], each["viewfold_seed"] = making.prompt, making.seed
            Current.said = f"{making.prompt}: done"
            return {"FINISHED"}
        Current.said, Current.failed = making.error or "cancelled", making.error is not None
    except RuntimeError as error:  # Blender's importer
        Current.said, Current.failed = f"Blender cannot read the file: {error}", True
    finally:
        making.close()
    return {"CANCELLED"}


def stand_at_cursor(context: bpy.types.Context, path: Path) -> list[bpy.types.Object]:
    """Import a GLB, with its origin at the 3D cursor; return the objects that are nobody's children."""
    if context.object is not None and context.object.mode != "OBJECT":
        bpy.ops.object.mode_set(mode="OBJECT")
    before = set(bpy.data.objects)
    bpy.ops.import_scene.gltf(filepath=str(path))
    roots = [each for each in bpy.data.objects if each not in before and each.parent is None]
    for each in roots:
        each.location = each.location + context.scene.cursor.location
    context.view_layer.update()
    return roots


class VIEWFOLD_OT_make(bpy.types.Operator):
    """Make the object; it is imported at the 3D cursor when it is ready"""

    bl_idname, bl_label = "viewfold.make", "Make"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        """One at a time."""
        return Current.making is None

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        """Begin, and look now and then how it stands: what a button does."""
        try:
            begin(context)
        except ServerError as error:
            Current.said, Current.failed = str(error), True
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        self._timer = context.window_manager.event_timer_add(TICK_S, window=context.window)
        context.window_manager.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Make it and wait: what a script does."""
        try:
            making = begin(context)
        except ServerError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        while not making.is_over:
            time.sleep(TICK_S)
        return self._finish(context)

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Look how it stands; everything else goes on as if nothing ran."""
        if event.type != "TIMER":
            return {"PASS_THROUGH"}
        if Current.making is None:
            self._forget_timer(context)
            return {"CANCELLED"}
        _redraw(context)
        if not Current.making.is_over:
            return {"PASS_THROUGH"}
        self._forget_timer(context)
        return self._finish(context)

    def cancel(self, context: bpy.types.Context) -> None:
        """End with Blender, or with the file that is open."""
        self._forget_timer(context)
        end()

    def _finish(self, context: bpy.types.Context) -> set[str]:
        result = finish(context)
        self.report({"ERROR" if Current.failed else "INFO"}, Current.said)
        _redraw(context)
        return result

    def _forget_timer(self, context: bpy.types.Context) -> None:
        if getattr(self, "_timer", None) is not None:
            context.window_manager.event_timer_remove(self._timer)
            self._timer = None


class VIEWFOLD_OT_cancel(bpy.types.Operator):
    """Make it no further"""

    bl_idname, bl_label = "viewfold.cancel", "Cancel"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        """Only what runs can end."""
        return Current.making is not None

    def execute(self, _context: bpy.types.Context) -> set[str]:
        """Ask for the end."""
        if Current.making is not None:
            Current.making.stop()
        return {"FINISHED"}


class VIEWFOLD_PT_panel(bpy.types.Panel):
    """The panel."""

    bl_label = bl_category = "viewfold"
    bl_space_type, bl_region_type = "VIEW_3D", "UI"

    def draw(self, context: bpy.types.Context) -> None:
        """Show what to make, the button, and how it stands."""
        layout, chosen = self.layout, context.scene.viewfold
        layout.use_property_split = True
        making = Current.making
        fields = layout.column()
        fields.enabled = making is None
        for name in ("prompt", "quality", "seed"):
            fields.prop(chosen, name)
        fields.prop(find_preferences(context), "address")
        if making is None:
            layout.operator(VIEWFOLD_OT_make.bl_idname, icon="MESH_MONKEY")
            if Current.said:
                _write(layout, Current.said, icon="ERROR" if Current.failed else "INFO")
        else:
            layout.progress(factor=making.share, text=making.said)
            layout.operator(VIEWFOLD_OT_cancel.bl_idname, icon="X")


def _write(layout: bpy.types.UILayout, text: str, *, icon: str) -> None:
    """Show a sentence in lines that fit a sidebar."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > 38 and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    column = layout.column(align=True)
    for number, line in enumerate(lines):
        column.label(text=line, icon="BLANK1" if number else icon)


def _redraw(context: bpy.types.Context) -> None:
    for window in context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                area.tag_redraw()


def end() -> None:
    """End what runs, without a word."""
    making, Current.making = Current.making, None
    if making is not None:
        making.stop()
        making.close()


CLASSES = (ViewfoldPreferences, ViewfoldSettings, VIEWFOLD_OT_make, VIEWFOLD_OT_cancel, VIEWFOLD_PT_panel)


def register() -> None:
    """Put the panel into Blender."""
    for each in CLASSES:
        bpy.utils.register_class(each)
    bpy.types.Scene.viewfold = bpy.props.PointerProperty(type=ViewfoldSettings)


def unregister() -> None:
    """Take the panel out of Blender, and end what runs."""
    end()
    del bpy.types.Scene.viewfold
    for each in reversed(CLASSES):
        bpy.utils.unregister_class(each)
