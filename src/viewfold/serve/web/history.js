// All that was made, newest first: looked for, opened, run again, put side by side, deleted.

import { ApiError, call } from "./api.js";
import { button, el, write } from "./element.js";
import { jobs } from "./jobs.js";
import { thumbnail } from "./queue.js";
import { ago, state } from "./words.js";

const PAGE = 24;
const PAUSE_MS = 250;
const STATES = [["", "All"], ["done", "Done"], ["queued,running", "Going on"], ["failed,cancelled", "Not finished"]];

export class History {
  #place;
  #acts;
  #first = null;
  #next = null;
  #timer = 0;
  #asked = 0;
  #title = el("h1", { id: "history-title", tabindex: "-1", text: "History" });
  #says = el("p", { class: "note slot", role: "status" });
  #find = el("input", { type: "search", id: "find", placeholder: "words of a prompt", autocomplete: "off" });
  #states = el("select", { id: "states" }, ...STATES.map(([value, text]) => el("option", { value, text })));
  #cards = el("ul", { class: "cards" });
  #more = button("Show more", () => this.#load(this.#next), { hidden: true });

  constructor(place, acts) {
    this.#place = place;
    this.#acts = acts;
    place.append(el("header", { class: "bar" }, this.#title,
      el("label", { for: "find", class: "quiet", text: "Find" }), this.#find,
      el("label", { for: "states", class: "quiet", text: "Show" }), this.#states),
    this.#says, this.#cards, this.#more);
    this.#find.addEventListener("input", () => { clearTimeout(this.#timer); this.#timer = setTimeout(() => this.#search(), PAUSE_MS); });
    this.#states.addEventListener("change", () => this.#search());
    jobs.addEventListener("list", () => this.#hide());
    jobs.addEventListener("change", ({ detail }) => this.#update(detail));
  }

  /** Show it; `first` is a job to choose another for. */
  open(words, first = null) {
    this.#first = first;
    this.#place.hidden = false;
    write(this.#title, first ? `Beside “${first.title}”` : "History");
    if (document.activeElement !== this.#find) this.#find.value = words;
    this.#states.value = first ? "done" : this.#states.value;
    this.#load(null);
  }

  focus() {
    this.#title.focus({ preventScroll: true });
  }

  #search() {
    if (!this.#first) history.replaceState(null, "", `#history${this.#find.value ? `/${encodeURIComponent(this.#find.value)}` : ""}`);
    this.#load(null);
  }

  async #load(cursor) {
    const asked = ++this.#asked;
    const query = new URLSearchParams({ limit: PAGE });
    if (cursor) query.set("before", cursor);
    if (this.#states.value) query.set("state", this.#states.value);
    if (this.#find.value.trim()) query.set("q", this.#find.value.trim());
    try {
      const page = await call("GET", `/v1/jobs?${query}`);
      if (asked !== this.#asked) return;
      const cards = page.jobs.filter((job) => job.id !== this.#first?.id).map((job) => this.#card(jobs.put(job)));
      if (cursor) this.#cards.append(...cards);
      else this.#cards.replaceChildren(...cards);
      if (cursor) cards[0]?.querySelector("a").focus();
      this.#next = page.next;
      this.#more.hidden = !page.next;
      write(this.#says, this.#count(page.total));
      this.#hide();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      write(this.#says, error.message);
    }
  }

  #count(total) {
    if (this.#first) return "Choose what to put beside it.";
    const shown = this.#cards.children.length;
    const isAll = !this.#find.value && !this.#states.value;
    if (!shown) return isAll ? "Nothing was made yet." : "Nothing like that is here.";
    if (this.#next && !isAll) return `The newest ${shown} of these`;
    const number = isAll ? total : shown;
    return number === 1 ? "One result" : `${number} results`;
  }

  #card(job) {
    const where = this.#first ? `#compare/${this.#first.id}/${job.id}` : `#job/${job.id}`;
    const acts = this.#acts;
    const said = el("small", { text: this.#saysOf(job) });
    const card = el("li", { class: "card", data: { id: job.id } },
      el("a", { href: where }, thumbnail(job), el("span", { class: "title", text: job.title })), said);
    if (!this.#first) {
      card.append(el("div", { class: "actions" },
        button("Again", () => acts.again(job), { class: "plain", "aria-label": `Run ${job.title} again with changes` }),
        job.kind === "make" && job.state === "done" && button("Beside", () => acts.beside(job), { class: "plain", "aria-label": `Put ${job.title} beside another` }),
        button("Delete", () => this.#remove(job, card), { class: "plain", "aria-label": `Delete ${job.title}` })));
    }
    return card;
  }

  #saysOf(job) {
    return [job.kind === "personalize" ? "taught" : "", job.state === "done" ? "" : state(job), ago(job.created)].filter(Boolean).join(" · ");
  }

  #remove(job, card) {
    const neighbour = card.nextElementSibling ?? card.previousElementSibling;
    this.#acts.remove(job);
    (neighbour?.querySelector("a") ?? this.#title).focus();
  }

  #hide() {
    for (const card of this.#cards.children) card.hidden = jobs.doomed.has(card.dataset.id);
  }

  #update(job) {
    if (this.#place.hidden) return;
    const card = this.#cards.querySelector(`[data-id="${CSS.escape(job.id)}"]`);
    if (!card) return;
    write(card.querySelector("small"), this.#saysOf(job));
    const old = card.querySelector(".thumb");
    if (old.tagName === "SPAN") old.replaceWith(thumbnail(job));
  }
}
