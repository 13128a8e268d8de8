// Two results side by side: turned together, and what differs between them.

import { ApiError, call } from "./api.js";
import { button, el } from "./element.js";
import { jobs } from "./jobs.js";
import { downloads, figuresOf } from "./result.js";
import { tiles } from "./strip.js";
import { Viewer, pair } from "./viewer.js";
import { settings } from "./words.js";

export class Compare {
  #place;
  #viewers = [];
  #asked = 0;

  constructor(place) {
    this.#place = place;
  }

  async open(...ids) {
    const asked = ++this.#asked;
    this.close();
    this.#place.hidden = false;
    const title = el("h1", { id: "compare-title", tabindex: "-1", text: "Side by side" });
    this.#place.replaceChildren(title);
    title.focus({ preventScroll: true });
    try {
      const both = await Promise.all(ids.map(async (id) => jobs.put(await call("GET", `/v1/jobs/${id}`))));
      if (asked === this.#asked) this.#draw(both);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.#place.append(el("p", { class: "bad", text: error.message }));
    }
  }

  #draw(both) {
    let ready = 0;
    const sides = both.map((job) => {
      const asset = job.files.find((file) => file.role === "asset" && file.format === "glb");
      const box = el("div", { class: "box" });
      const side = el("article", {}, el("h2", {}, el("a", { href: `#job/${job.id}`, text: job.title })), box);
      if (!asset) {
        box.append(tiles(job.files.filter((file) => file.role === "view"), "View"));
      } else {
        const viewer = new Viewer(asset.url, `${job.title}, in 3D`, {
          onReady: () => { ready += 1; if (ready === 2) pair(...this.#viewers); },
          onFail: (error) => side.append(el("p", { class: "bad", text: error.message })),
        });
        this.#viewers.push(viewer);
        box.append(viewer.root);
        side.append(viewer.tools);
      }
      return side;
    });
    this.#place.append(
      el("p", { class: "note", text: this.#viewers.length === 2 ? "Turn one, and the other turns with it." : "" }),
      el("div", { class: "two" }, ...sides), differences(both),
      el("div", { class: "two" }, ...both.map((job) => el("div", {}, downloads(job)))),
      el("div", { class: "actions" }, button("Put another beside the first", () => { location.hash = `#compare/${both[0].id}`; })));
  }

  close() {
    for (const viewer of this.#viewers) viewer.remove();
    this.#viewers = [];
    this.#place.replaceChildren();
  }
}

/** A table of the settings that differ and of all that was measured. */
function differences(both) {
  const [first, second] = both.map((job) => new Map([["Prompt", job.request.prompt ?? job.title], ...settings(job.request)]));
  const rows = [...new Set([...first.keys(), ...second.keys()])].filter((name) => first.get(name) !== second.get(name))
    .map((name) => [name, first.get(name) ?? "as the model has it", second.get(name) ?? "as the model has it"]);
  const [one, two] = both.map((job) => new Map(figuresOf(job)));
  for (const name of new Set([...one.keys(), ...two.keys()])) rows.push([name, one.get(name) ?? "–", two.get(name) ?? "–"]);
  return el("table", {}, el("caption", { text: "What differs, and what was measured" }),
    el("thead", {}, el("tr", {}, el("td"), el("th", { scope: "col", text: "left" }), el("th", { scope: "col", text: "right" }))),
    el("tbody", {}, ...rows.map(([name, a, b]) => el("tr", {}, el("th", { scope: "row", text: name }), el("td", { text: a }), el("td", { text: b })))));
}
