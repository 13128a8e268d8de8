// The form for teaching: pictures of one thing, its kind, its name.

import { ApiError, call, newKey } from "./api.js";
import { keep, kept } from "./draft.js";
import { at, el, write } from "./element.js";
import { jobs } from "./jobs.js";
import { Pictures } from "./pictures.js";

const FIELDS = { class: "class", subject: "subject", model: "teach-model", seed: "teach-seed", steps: "teach-steps" };
const MADE_UP = ["zorb", "quib", "vask", "plim", "snurf", "tweg", "drox", "floon"];

export class TeachForm {
  #form = at("teach");
  #done;
  #pictures;
  #word = MADE_UP[Math.floor(Math.random() * MADE_UP.length)];
  #isNamed = false;
  #isBusy = false;
  #learns = true;
  #wish = { body: "", key: "" };

  constructor(about, done) {
    this.#done = done;
    this.#pictures = new Pictures(about.limits, () => this.#keep());
    at("teach-model").replaceChildren(...about.models.map(({ name }) => el("option", { value: name, text: name })));
    const kinds = new Set(about.models.flatMap((model) => model.kinds));
    at("kinds").replaceChildren(...[...kinds].map((kind) => el("option", { value: kind })));
    const draft = kept("teach");
    this.#fillIn(draft);
    this.#pictures.restore(draft.pictures ?? []);
    this.#form.addEventListener("submit", (event) => { event.preventDefault(); this.#submit(); });
    this.#form.addEventListener("input", ({ target }) => this.#change(target));
    this.#learns = about.learns;
    this.#form.querySelector(".main").disabled = !about.learns;
    if (!about.learns) this.#complain("This server cannot learn yet: whoever runs it has to type pip install 'viewfold[lora]' and start it again.");
  }

  #fillIn(values) {
    for (const [name, id] of Object.entries(FIELDS)) if (values[name] !== undefined) at(id).value = values[name] ?? "";
    if (at("teach-model").selectedIndex < 0) at("teach-model").selectedIndex = 0;
    this.#isNamed = Boolean(at("subject").value);
  }

  /** Fill in an earlier request; its pictures are asked for by their ids. */
  fill(request) {
    this.#fillIn(request);
    this.#pictures.restore((request.pictures ?? []).map((id) => ({ id, name: "picture", url: `/v1/pictures/${encodeURIComponent(id)}` })));
    this.#keep();
  }

  #change(target) {
    if (target.id === "subject") this.#isNamed = Boolean(target.value);
    const kind = at("class").value.trim();
    if (target.id === "class" && !this.#isNamed) at("subject").value = kind && `a ${this.#word} ${kind}`;
    if (this.#learns) this.#complain("");
    this.#keep();
  }

  #keep() {
    const values = Object.fromEntries(Object.entries(FIELDS).map(([name, id]) => [name, at(id).value]));
    keep("teach", { ...values, pictures: this.#pictures.all });
  }

  /** Say what is wrong beside what caused it. */
  #complain(text, field = null) {
    const places = { pictures: "drop-error", subject: "subject-error", class: "class-error" };
    for (const id of [...Object.values(places), "teach-error"]) write(at(id), "");
    for (const id of ["subject", "class"]) at(id).removeAttribute("aria-invalid");
    write(at(places[field] ?? "teach-error"), text);
    const input = { pictures: at("files"), subject: at("subject"), class: at("class") }[field];
    if (!text || !input) return;
    input.setAttribute("aria-invalid", "true");
    input.focus();
  }

  async #submit() {
    const number = (id) => (at(id).value === "" ? null : Number(at(id).value));
    const request = {
      kind: "personalize", model: at("teach-model").value, pictures: this.#pictures.all.map(({ id }) => id),
      subject: at("subject").value.trim(), class: at("class").value.trim(), seed: number("teach-seed") ?? 0, steps: number("teach-steps"),
    };
    if (this.#pictures.isBusy) return this.#complain("The pictures are still on their way; one moment.", "pictures");
    if (!request.pictures.length) return this.#complain("Choose pictures of the thing first: three to eight are good.", "pictures");
    if (!request.class) return this.#complain("Say what kind of thing it is, such as “mug”.", "class");
    if (!request.subject) return this.#complain("Give it a name: the kind with a made-up word before it.", "subject");
    const named = request.subject.toLowerCase();
    const own = named.slice(0, -request.class.length).replace(/^(an?|the)\b/, "").trim();
    if (!named.endsWith(request.class.toLowerCase()) || !own) {
      return this.#complain(`It must end with the kind, with a word of its own before it. Say “a ${this.#word} ${request.class}”.`, "subject");
    }
    if (this.#isBusy) return null;
    this.#isBusy = true;
    try {
      const body = JSON.stringify(request);
      if (this.#wish.body !== body) this.#wish = { body, key: newKey() };
      const job = await jobs.make(request, this.#wish.key);
      this.#wish = { body: "", key: "" };
      this.#done(job);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.#complain(error.message, error.field);
    } finally {
      this.#isBusy = false;
    }
    return null;
  }
}

/** All that the models were taught: finished jobs of this kind, newest first. */
export async function findSubjects() {
  const found = [];
  let cursor = null;
  let pages = 0;
  do {
    const before = cursor ? `&before=${encodeURIComponent(cursor)}` : "";
    const page = await call("GET", `/v1/jobs?kind=personalize&state=done&limit=100${before}`);
    found.push(...page.jobs.filter((job) => job.kind === "personalize"));
    cursor = page.next;
    pages += 1;
  } while (cursor && found.length < 50 && pages < 5);
  return found;
}
