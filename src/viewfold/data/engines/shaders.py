"""Programs of the OpenGL engine: surfaces under the light of `scene.light`, and the mean of a pixel's samples."""

from __future__ import annotations

from typing import Any

from viewfold.scene import light

_VERTEX = """
#version 330
uniform mat4 clip_from_world;
in vec3 at; in vec3 normal; in vec4 color; in vec2 uv; in vec2 emission_uv; in vec3 surface; in vec3 emission;
out vec3 v_at; out vec3 v_normal; out vec4 v_color; out vec2 v_uv; out vec2 v_glow_uv;
flat out vec3 v_surface; flat out vec3 v_emission;
void main() {
    v_at = at; v_normal = normal; v_color = color; v_uv = uv; v_glow_uv = emission_uv;
    v_surface = surface; v_emission = emission;
    gl_Position = clip_from_world * vec4(at, 1.0);
}
"""

_SURFACE = """
#version 330
uniform vec3 eye;
uniform bool is_lit;
uniform vec3 light;      // sky, ground, key
uniform vec3 lamp;       // unit, towards it
uniform float cutoff;    // of alpha; below 0: alpha is ignored
uniform bool has_image; uniform sampler2D image; uniform bvec2 image_mirrors;
uniform bool has_glow; uniform sampler2D glow; uniform bvec2 glow_mirrors;
in vec3 v_at; in vec3 v_normal; in vec4 v_color; in vec2 v_uv; in vec2 v_glow_uv;
flat in vec3 v_surface; flat in vec3 v_emission;
layout(location = 0) out vec4 o_color;
#if MORE
layout(location = 1) out vec4 o_more;
#endif

vec4 look_up(sampler2D source, vec2 uv, bvec2 mirrors) {
    // The level of the pyramid where a sample covers about one texel; the built-in engine's rule.
    vec2 a = dFdx(uv), b = dFdy(uv), size = vec2(textureSize(source, 0));
    float texels = abs(a.x * b.y - a.y * b.x) * size.x * size.y;
    float level = roundEven(log2(max(texels, 1.0)) / 2.0);
    vec2 place = vec2(uv.x, 1.0 - uv.y);
    vec2 folded = 1.0 - abs(mod(place, 2.0) - 1.0);
    place = vec2(mirrors.x ? folded.x : place.x, mirrors.y ? folded.y : place.y);
    return textureLod(source, place, level);
}

void main() {
    vec4 color = v_color;
    vec3 own = v_emission;
    if (has_image) color *= look_up(image, v_uv, image_mirrors);
    if (has_glow) own *= look_up(glow, v_glow_uv, glow_mirrors).rgb;
    if (cutoff >= 0.0 && color.a < cutoff) discard;
    vec3 n = normalize(v_normal) * (gl_FrontFacing ? 1.0 : -1.0);
    vec3 albedo = min(color.rgb + own, 1.0), lit = albedo;
    if (is_lit && v_surface.z > 0.5) {
        float sky = light.x, ground = light.y, key = light.z, rough = v_surface.x, metallic = v_surface.y;
        float shade = (sky + ground) / 2.0 + (sky - ground) / 2.0 * n.z + key * max(0.0, dot(n, lamp));
        lit = albedo * shade;
        if (rough < MATT) {
            vec3 v = normalize(eye - v_at);
            float gloss = clamp((MATT - rough) / (MATT - SMOOTH), 0.0, 1.0);
            float facing = clamp(dot(n, v), 0.0, 1.0);
            vec3 mirrored = 2.0 * facing * n - v;
            float upward = 1.0 / (1.0 + exp(-HORIZON * (mirrored.z + 0.2)));
            float world = mix(BELOW * ground, ABOVE * sky, upward);
            vec3 head_on = DIELECTRIC + (albedo - DIELECTRIC) * metallic;
            vec3 fresnel = head_on + (1.0 - head_on) * pow(1.0 - facing, 5.0);
            float across = dot(mirrored, lamp);
            float spread = max(rough, 0.1);
            float lobe = LAMP * key * exp(2.0 / (spread * spread) * (across - 1.0));
            vec3 tint = 1.0 + (0.5 * albedo - 0.5) * metallic;
            vec3 shine = MIRROR * fresnel * world + lobe * tint;
            lit = lit * (1.0 - MIRROR * gloss * metallic) + gloss * shine;
        }
    }
    o_color = vec4(clamp(lit, 0.0, 1.0), 1.0);
#if MORE
    o_more = vec4(n, 1.0 / gl_FragCoord.w);  // w of the clip coordinates is the depth
#endif
}
"""

_SCREEN = """
#version 330
void main() { gl_Position = vec4(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0, 0.0, 1.0); }
"""

_POOLING = """
#version 330
uniform sampler2D colors;
#if MORE
uniform sampler2D more;
layout(location = 1) out vec4 o_more;
#endif
layout(location = 0) out vec4 o_color;
void main() {
    ivec2 first = ivec2(gl_FragCoord.xy) * N;
    vec4 color = vec4(0.0), sum = vec4(0.0);
    for (int i = 0; i < N; i++) for (int j = 0; j < N; j++) {
        color += texelFetch(colors, first + ivec2(i, j), 0);
#if MORE
        sum += texelFetch(more, first + ivec2(i, j), 0);
#endif
    }
    float covered = max(color.a, 1.0);
    o_color = vec4(color.rgb / covered, color.a / float(N * N));
#if MORE
    o_more = sum / covered;
#endif
}
"""


def surface_program(context: Any, wants_more: bool) -> Any:
    """Return the program that draws surfaces; `wants_more`: and their normals and depth."""
    names = ("MATT", "SMOOTH", "_DIELECTRIC", "_HORIZON", "_BELOW", "_ABOVE", "_LAMP", "_MIRROR")
    constants = {name.strip("_"): f"{float(getattr(light, name))!r}" for name in names}
    fragment = _define(_SURFACE, MORE=int(wants_more), **constants)
    return context.program(vertex_shader=_VERTEX, fragment_shader=fragment)


def pooling_program(context: Any, supersample: int, wants_more: bool) -> Any:
    """Return the program that averages squares of samples, the premultiplied colours, and makes them straight."""
    program = context.program(
        vertex_shader=_SCREEN, fragment_shader=_define(_POOLING, MORE=int(wants_more), N=supersample)
    )
    program["colors"] = 0
    if wants_more:
        program["more"] = 1
    return program


def _define(source: str, **words: object) -> str:
    lines = "".join(f"#define {name} {value}\n" for name, value in words.items())
    return source.strip().replace("#version 330\n", f"#version 330\n{lines}", 1)
