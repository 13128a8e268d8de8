// What is going on and what came last, beside the stage.

import { button, el, picture, write } from "./element.js";
import { jobs } from "./jobs.js";
import * as words from "./words.js";

const RECENT = 8;

export class Queue {
  #place;
  #rows = new Map();
  #list = el("ul", { class: "queue" });
  #going = el("section", { hidden: true }, el("h3", { text: "Queue" }), this.#list);
  #strip = el("ul", { class: "recent" });
  #recent = el("section", { hidden: true }, el("h3", { text: "Recent" }), this.#strip);
  #cancel;
  #drawn = "";
  #staged = null;

  constructor(place, cancel) {
    this.#place = place;
    this.#cancel = cancel;
    place.append(this.#going, this.#recent);
    jobs.addEventListener("list", () => this.#draw());
    jobs.addEventListener("change", ({ detail }) => this.#update(detail));
  }

  #draw() {
    const active = jobs.active.filter(jobs.isShown);
    for (const [id, row] of this.#rows) {
      if (active.some((job) => job.id === id)) continue;
      row.root.remove();
      this.#rows.delete(id);
    }
    active.forEach((job, place) => {
      if (!this.#rows.has(job.id)) this.#rows.set(job.id, this.#row(job));
      const { root } = this.#rows.get(job.id);
      if (this.#list.children[place] !== root) this.#list.insertBefore(root, this.#list.children[place] ?? null);
      this.#update(job);
    });
    this.#mark();
    this.#drawRecent(jobs.recent.filter(jobs.isShown).slice(0, RECENT));
  }

  /** Which job is on the stage: alone it is not listed a second time. */
  stage(id) {
    this.#staged = id;
    this.#mark();
  }

  #mark() {
    for (const [id, { link }] of this.#rows) {
      if (id === this.#staged) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    this.#going.hidden = [...this.#rows.keys()].every((id) => id === this.#staged);
  }

  #row(job) {
    const said = el("small");
    const bar = el("progress", { max: "1", "aria-hidden": "true" });
    const link = el("a", { href: `#job/${job.id}` }, el("span", { class: "title", text: job.title }), said);
    const root = el("li", {}, link, bar,
      button("Cancel", () => this.#cancel(job), { class: "plain", "aria-label": `Cancel ${job.title}` }));
    return { root, link, said, bar };
  }

  #update(job) {
    const row = this.#rows.get(job.id);
    if (!row) return;
    write(row.said, words.state(job));
    row.bar.value = job.progress?.share ?? 0;
  }

  #drawRecent(some) {
    const drawn = some.map((job) => job.id + job.state).join();
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    this.#recent.hidden = !some.length;
    this.#strip.replaceChildren(...some.map((job) => el("li", {}, el("a", { href: `#job/${job.id}`, title: job.title }, thumbnail(job)))));
  }
}

/** A job's small picture, or a word where there is none; its name is for those who do not see it. */
export function thumbnail(job) {
  if (job.thumbnail) return picture(job.thumbnail, job.title, { class: "thumb", width: 128, height: 128 });
  return el("span", { class: "thumb none" }, el("span", { class: "quiet", text: `${job.title}: ` }), job.state === "done" ? job.kind : words.state(job));
}
