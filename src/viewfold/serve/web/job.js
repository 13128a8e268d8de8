// One job on the stage: what is going on, the views and the object as they take shape, and what came of it.
//
// The box has one size from the first noisy view to the finished object, so that nothing moves.

import { button, el, write } from "./element.js";
import { isOver } from "./jobs.js";
import { announce } from "./notice.js";
import { downloads, notes, record } from "./result.js";
import { Strip, tiles } from "./strip.js";
import { Viewer } from "./viewer.js";
import * as words from "./words.js";

const ROLES = [["view", "Views"], ["sample", "Samples"], ["posed", "Pictures"]];

export class JobView {
  #job = null;
  #strip = new Strip();
  #viewer = null;
  #shown = "";
  #said = "";
  #acts;
  #title = el("h2", { tabindex: "-1" });
  #state = el("p", { class: "state" });
  #details = el("p", { class: "note details" });
  #bar = el("progress", { max: "1", value: "0", "aria-label": "Done so far" });
  #box = el("div", { class: "box" });
  #tabs = el("div", { class: "segments tabs", role: "group", "aria-label": "What is shown" });
  #under = el("div", { class: "under" });
  #side = el("div", { class: "side" });
  root = el("article", { class: "job" }, el("header", {}, this.#title, this.#state, this.#details, this.#bar),
    el("div", { class: "picture" }, this.#box, this.#under), this.#side);

  /** `acts`: what may be done with a job: again, beside, cancel, remove, use. */
  constructor(job, acts) {
    this.#acts = acts;
    this.update(job);
  }

  get id() {
    return this.#job.id;
  }

  focus() {
    this.#title.focus({ preventScroll: true });
  }

  update(job) {
    const before = this.#job;
    this.#job = job;
    write(this.#title, job.title);
    this.root.dataset.state = job.state;
    this.#tell(job);
    if (isOver(job)) {
      if (!before || !isOver(before)) this.#finish(job);
    } else {
      if (!before) this.#begin(job);
      this.#strip.show(job.progress?.preview, `${words.state(job)}: ${job.title}`);
      if (job.progress?.preview) this.#show("strip", this.#strip.root);
      else if (!this.#shown) this.#show("wait", el("p", { class: "hint", text: job.kind === "make" ? "The views appear here." : "The pictures appear here." }));
    }
  }

  #tell(job) {
    const state = words.state(job);
    const took = job.state === "done" && job.figures?.seconds ? ` in ${words.span(job.figures.seconds)}` : "";
    write(this.#state, state + took);
    write(this.#details, isOver(job) ? `Asked for ${words.ago(job.created)}` : words.details(job.progress) || "\u00a0");
    this.#bar.value = job.state === "done" ? 1 : job.progress?.share ?? 0;
    if (!isOver(job) || this.#said) {
      if (this.#said !== state) announce(`${job.title}: ${state}`);
      this.#said = state;
    }
  }

  #begin(job) {
    const known = notes(job);
    this.#under.replaceChildren(el("div", { class: "actions" }, button("Cancel", () => this.#acts.cancel(this.#job))));
    this.#side.replaceChildren(known ?? "");
  }

  #finish(job) {
    const asset = job.files.find((file) => file.role === "asset" && file.format === "glb");
    const modes = ROLES.map(([role, name]) => [name, job.files.filter((file) => file.role === role)])
      .filter(([, files]) => files.length);
    const isHere = this.#under.contains(document.activeElement);
    this.#under.replaceChildren();
    if (job.state === "done") this.#choose(job, asset, modes);
    else this.#show("message", this.#message(job));
    this.#side.replaceChildren(...[this.#actions(job), notes(job), downloads(job), record(job)].filter(Boolean));
    if (isHere) this.focus();
  }

  #message(job) {
    const text = job.state === "cancelled" ? "It was cancelled." : words.plain(job.error?.message ?? "It failed, and did not say why.");
    return el("div", { class: "hint" }, el("p", { class: job.state === "failed" ? "bad" : "", role: job.state === "failed" ? "alert" : undefined, text }));
  }

  #actions(job) {
    const acts = this.#acts;
    return el("div", { class: "actions" },
      job.kind === "personalize" && job.state === "done" && button("Use it in a prompt", () => acts.use(job), { class: "main" }),
      button("Run again with changes", () => acts.again(job)),
      job.kind === "make" && job.state === "done" && button("Put beside another", () => acts.beside(job)),
      button("Delete", () => acts.remove(job), { class: "plain" }));
  }

  /** The tabs over what there is to see, and the first of them. */
  #choose(job, asset, modes) {
    const all = [...(asset ? [["Object", () => this.#see3d(asset, job)]] : []),
      ...modes.map(([name, files]) => [name, () => this.#seeTiles(name, files)])];
    if (!all.length) {
      this.#show("message", el("p", { class: "hint", text: "There is nothing to be seen; see the downloads." }));
      return;
    }
    const buttons = all.map(([name, see]) => button(name, (event) => {
      buttons.forEach((one) => one.setAttribute("aria-pressed", one === event.currentTarget));
      see();
    }, { "aria-pressed": name === all[0][0] }));
    this.#tabs.replaceChildren(...buttons);
    if (all.length > 1) this.#under.append(this.#tabs);
    all[0][1]();
  }

  #seeTiles(name, files) {
    if (this.#viewer) this.#viewer.root.hidden = this.#viewer.tools.hidden = true;
    this.#show(name, tiles(files, name));
  }

  #see3d(asset, job) {
    if (this.#viewer) {
      this.#show("object", null);
      this.#viewer.root.hidden = this.#viewer.tools.hidden = false;
      return;
    }
    if (this.#shown !== "strip") this.#show("wait", el("p", { class: "hint", text: "Opening the object" }));
    this.#viewer = new Viewer(asset.url, `${job.title}, in 3D`, {
      onReady: () => { if (!this.#viewer.root.hidden) this.#show("object", null); },
      onFail: (error) => this.#fall(error, job),
    });
    this.#box.append(this.#viewer.root);
    this.#under.append(this.#viewer.tools);
  }

  /** Where there is no 3D: the turntable, and why. */
  #fall(error, job) {
    const turning = job.files.find((file) => file.role === "turntable" && file.type.startsWith("image/"));
    this.#viewer?.remove();
    this.#viewer = null;
    this.#show("fallen", turning ? el("img", { class: "whole", src: turning.url, alt: `${job.title}, turning` }) : el("p", { class: "hint", text: "Not shown." }));
    this.#under.append(el("p", { class: "bad", text: error.message }));
  }

  /** Put one thing into the box, under the viewer where there is one. */
  #show(what, content) {
    if (this.#shown === what) return;
    this.#shown = what;
    for (const old of [...this.#box.children]) if (old !== this.#viewer?.root) old.remove();
    if (content) this.#box.prepend(content);
  }

  remove() {
    this.#viewer?.remove();
    this.root.remove();
  }
}
