// The object in 3D: <model-viewer>, loaded when there is the first thing to show, under a policy that allows no inline style.

import { button, el, isStill } from "./element.js";

const FRONT = "25deg 75deg auto";

let loading = null;

/** Load model-viewer, once.  A part of it would compile WebAssembly for files that are never made here, and the policy
 * refuses that: it sees none while it starts, and does without. */
export function load() {
  loading ??= (async () => {
    const { WebAssembly: there } = globalThis;
    globalThis.WebAssembly = undefined;
    try {
      await import("./model-viewer.min.js");
    } catch (error) {
      loading = null;
      throw new Error("The viewer could not be loaded. The object can still be downloaded.", { cause: error });
    } finally {
      globalThis.WebAssembly = there;
    }
  })();
  return loading;
}

/** Make the element and put it in its place; its style becomes a sheet, where the policy would refuse an inline one. */
async function make(place, url, label) {
  await load();
  const viewer = document.createElement("model-viewer");
  const sheets = [...viewer.shadowRoot.querySelectorAll("style")].map((style) => {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(style.textContent);
    style.remove();
    return sheet;
  });
  const set = {
    src: url, alt: label, "camera-controls": "", "interaction-prompt": "none", "touch-action": "pan-y", loading: "eager",
    "shadow-intensity": "0.7", "shadow-softness": "0.9", "tone-mapping": "neutral", "camera-orbit": FRONT,
  };
  for (const [name, value] of Object.entries(set)) viewer.setAttribute(name, value);
  place.append(viewer);
  viewer.shadowRoot.adoptedStyleSheets = sheets; // after it has entered the page, which empties them
  return viewer;
}

/** The scene of three.js behind the element: no public name leads there, its symbol does. */
function sceneOf(viewer) {
  const key = Object.getOwnPropertySymbols(viewer).find((symbol) => symbol.description === "scene");
  return key && viewer[key];
}

function setWires(viewer, isOn) {
  const scene = sceneOf(viewer);
  scene.model.traverse((part) => {
    for (const material of [part.material ?? []].flat()) material.wireframe = isOn;
  });
  scene.queueRender();
}

const hasWires = (viewer) => typeof sceneOf(viewer)?.model?.traverse === "function";

/** A viewer with its tools: `root` for the picture's place, `tools` for below; `onReady` once the object is seen. */
export class Viewer {
  root = el("div", { class: "viewer" });
  tools = el("div", { class: "tools", role: "group", "aria-label": "How it is shown" });
  element = null;
  #isGone = false;

  constructor(url, label, { onReady = () => {}, onFail = () => {} } = {}) {
    this.#start(url, label, onReady).catch((error) => { if (!this.#isGone) onFail(error); });
  }

  async #start(url, label, onReady) {
    if (!hasWebGl()) throw new Error("This browser shows no 3D here (no WebGL).");
    const viewer = await make(this.root, url, label);
    this.element = viewer;
    const loaded = new Promise((resolve, reject) => {
      viewer.addEventListener("load", resolve, { once: true });
      viewer.addEventListener("error", (event) => {
        reject(new Error(`The object could not be shown in 3D (${event.detail?.type ?? "unknown"}). It can still be downloaded.`));
      }, { once: true });
    });
    await loaded;
    if (this.#isGone) return;
    this.#fillTools();
    this.root.classList.add("ready");
    onReady();
  }

  #fillTools() {
    const viewer = this.element;
    const toggle = (text, act, isOn) => button(text, (event) => {
      const on = event.currentTarget.getAttribute("aria-pressed") !== "true";
      event.currentTarget.setAttribute("aria-pressed", on);
      act(on);
    }, { class: "tool", "aria-pressed": isOn });
    const light = el("input", { type: "range", min: "0.3", max: "2", step: "0.05", value: "1" });
    light.addEventListener("input", () => viewer.setAttribute("exposure", light.value));
    this.tools.append(
      toggle("Turn", (on) => this.#turn(on), false),
      toggle("Shadow", (on) => viewer.setAttribute("shadow-intensity", on ? "0.7" : "0"), true),
      ...(hasWires(viewer) ? [toggle("Wireframe", (on) => setWires(viewer, on), false)] : []),
      button("Reset", () => this.look(FRONT), { class: "tool" }),
      el("label", { class: "light" }, "Light", light),
    );
  }

  #turn(isOn) {
    this.element.toggleAttribute("auto-rotate", isOn);
    this.element.setAttribute("auto-rotate-delay", "0");
    this.element.setAttribute("rotation-per-second", isStill() ? "10deg" : "30deg");
  }

  /** Look from an orbit, at once. */
  look(orbit) {
    this.element.resetTurntableRotation?.();
    this.element.cameraOrbit = orbit;
    this.element.fieldOfView = "auto";
    this.element.jumpCameraToGoal();
  }

  remove() {
    this.#isGone = true;
    this.root.remove();
    this.tools.remove();
  }
}

/** Turn two viewers together: the one that is touched leads. */
export function pair(first, second) {
  for (const [leader, follower] of [[first, second], [second, first]]) {
    leader.element.addEventListener("camera-change", (event) => {
      if (event.detail.source !== "user-interaction") return;
      const { theta, phi } = leader.element.getCameraOrbit();
      follower.element.cameraOrbit = `${theta}rad ${phi}rad auto`;
      follower.element.jumpCameraToGoal();
    });
  }
}

function hasWebGl() {
  const context = document.createElement("canvas").getContext("webgl2");
  context?.getExtension("WEBGL_lose_context")?.loseContext();
  return context !== null;
}
