// The form for a prompt: what the model knows, a warning before it draws something else, and one wish made once.

import { ApiError, call, link, newKey } from "./api.js";
import { keep, kept } from "./draft.js";
import { at, button, el, write } from "./element.js";
import { jobs } from "./jobs.js";
import { fillKnown } from "./suggestion.js";
import { plain, quality } from "./words.js";

const FIELDS = ["prompt", "negative", "model", "views", "seed", "tries", "guidance", "steps"];
const NUMBERS = ["views", "seed", "tries", "guidance", "steps"];
const PAUSE_MS = 350;
const SEEDS = 1_000_000;

export class MakeForm {
  #form = at("make");
  #about;
  #done;
  #subjects = [];
  #chosen = new Set();
  #checked = { prompt: null, model: null, outside: false, notes: [] };
  #timer = 0;
  #isBusy = false;
  #wish = { body: "", key: "" };

  /** `done` is given the job that was made. */
  constructor(about, done) {
    this.#about = about;
    this.#done = done;
    const { limits } = about;
    at("views").max = limits.views;
    at("tries").max = limits.tries;
    at("model").replaceChildren(...about.models.map(({ name }) => el("option", { value: name, text: name })));
    this.#fillQualities();
    const typed = at("prompt").value; // by who was faster than the page
    this.fill({ quality: "draft", ...kept("make"), ...(typed && { prompt: typed }) });
    this.#form.addEventListener("submit", (event) => { event.preventDefault(); this.#submit(); });
    this.#form.addEventListener("input", (event) => this.#change(event));
    at("prompt").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#submit();
    });
    at("dice").addEventListener("click", () => { at("seed").value = Math.floor(Math.random() * SEEDS); this.#keep(); });
    at("known").open = kept("open").known ?? matchMedia("(min-width: 60rem)").matches;
    at("known").addEventListener("toggle", () => keep("open", { known: at("known").open }));
    link.addEventListener("back", () => this.#checkSoon());
    this.#form.querySelector(".main").disabled = false;
    this.#checkSoon();
  }

  /** Take what a model knows that has been loaded meanwhile. */
  learn(about) {
    this.#about = about;
    this.#fillModel();
    this.#checked = { prompt: null, model: null, outside: false, notes: [] };
    this.#checkSoon();
  }

  get model() {
    return this.#about.models.find(({ name }) => name === at("model").value) ?? this.#about.models[0];
  }

  #fillQualities() {
    const choices = this.#about.qualities.map(({ name }) => el("label", {},
      el("input", { type: "radio", name: "quality", value: name }), el("span", { text: quality(name) })));
    at("quality").append(...choices);
  }

  #fillModel() {
    const model = this.model;
    at("known").hidden = !model?.kinds?.length;
    if (!model) return;
    const choose = (prompt) => this.setPrompt(prompt);
    if (model.kinds.length) fillKnown(at("known-body"), model, () => at("prompt").value, choose);
    for (const name of ["guidance", "steps"]) at(name).placeholder = model[name] || "as the model needs";
    at("negative").placeholder = model.negative || "nothing";
    this.#fillSubjects();
  }

  /** Those that the chosen model was taught. */
  setSubjects(done) {
    this.#subjects = done;
    this.#fillSubjects();
  }

  #fillSubjects() {
    const some = this.#subjects.filter((job) => job.request.model === this.model?.name);
    const choices = some.map((job) => {
      const box = el("input", { type: "checkbox", name: "subject", value: job.id, checked: this.#chosen.has(job.id) });
      box.addEventListener("change", () => { if (box.checked) this.#say(job.request.subject); });
      return el("label", {}, box, el("span", { text: job.request.subject }));
    });
    at("subjects").replaceChildren(at("subjects").querySelector("legend"), ...choices);
    at("subjects").hidden = !choices.length;
  }

  /** Have the prompt say a subject's name. */
  #say(subject) {
    const prompt = at("prompt").value;
    if (!prompt.toLowerCase().includes(subject.toLowerCase())) this.setPrompt(subject, { focus: false });
  }

  setPrompt(text, { focus = true } = {}) {
    const field = at("prompt");
    if (focus) field.focus();
    field.value = text;
    field.setSelectionRange(text.length, text.length);
    this.#change({ target: field });
  }

  /** Fill in a request, an earlier job's or a draft. */
  fill(request) {
    for (const name of FIELDS) if (request[name] !== undefined) at(name).value = request[name] ?? "";
    if (at("model").selectedIndex < 0) at("model").selectedIndex = 0;
    const wanted = this.#form.querySelector(`[name=quality][value="${CSS.escape(request.quality ?? "")}"]`);
    (wanted ?? this.#form.querySelector("[name=quality]")).checked = true;
    this.#chosen = new Set(request.subjects ?? []);
    this.#fillModel();
    this.#change({ target: at("prompt") });
  }

  #read() {
    const data = new FormData(this.#form);
    const number = (name) => (at(name).value === "" ? null : Number(at(name).value));
    const { model } = this;
    return {
      kind: "make", prompt: at("prompt").value.trim(), negative: at("negative").value.trim() || null, model: model.name,
      views: number("views"), seed: number("seed"), tries: number("tries") ?? 1,
      quality: data.get("quality"), guidance: number("guidance"), steps: number("steps"), subjects: data.getAll("subject"),
    };
  }

  #keep() {
    const data = new FormData(this.#form);
    keep("make", { ...Object.fromEntries(FIELDS.map((name) => [name, at(name).value])), quality: data.get("quality"), subjects: data.getAll("subject") });
  }

  #change({ target }) {
    if (target.name === "model") this.#fillModel();
    this.#chosen = new Set(new FormData(this.#form).getAll("subject"));
    const chosen = this.#about.qualities.find(({ name }) => name === new FormData(this.#form).get("quality"));
    write(at("quality-says"), chosen?.says ?? "");
    at("views").placeholder = (chosen?.name === "views" && this.model?.views) || "as many as it needs";
    this.#complain("");
    this.#keep();
    if (["prompt", "model"].includes(target.name) || target.name === "subject") this.#checkSoon();
  }

  /** Say what is wrong beside the field that caused it, or below the button. */
  #complain(text, field = null) {
    const input = text && FIELDS.includes(field) ? at(field) : null;
    const error = at("make-error");
    for (const name of FIELDS) at(name).removeAttribute("aria-invalid");
    const before = input ? input.closest(".joined") ?? input : this.#form.querySelector(".main");
    if (text && before.nextElementSibling !== error) before.after(error);
    write(error, text);
    if (!input) return;
    if (input.closest("details")) at("more").open = true;
    input.setAttribute("aria-invalid", "true");
    input.focus();
  }

  #checkSoon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#check().catch(() => {}), PAUSE_MS);
  }

  /** The prompt with what the model was taught in its place: a subject's made-up word is no stranger to it. */
  #plain() {
    const chosen = this.#subjects.filter((job) => this.#chosen.has(job.id));
    return chosen.reduce((prompt, { request }) => prompt.replaceAll(request.subject, `a ${request.class}`), at("prompt").value.trim());
  }

  /** Ask the server what of the prompt the model does not know; say it below. */
  async #check() {
    clearTimeout(this.#timer);
    const prompt = this.#plain();
    const model = this.model?.name;
    if (!model || (this.#checked.prompt === prompt && this.#checked.model === model)) return this.#checked;
    const found = prompt ? await call("POST", "/v1/check", { json: { prompt, model } }) : { notes: [], outside: false };
    if (this.#plain() === prompt) {
      this.#checked = { prompt, model, ...found };
      at("prompt-note").replaceChildren(...found.notes.map((note) => el("p", { class: found.outside ? "warn" : "note", text: plain(note) })));
    }
    return { prompt, model, ...found };
  }

  /** Send the wish; outside of what the model knows only after a second word, given to its own button. */
  async #submit({ anyway = false } = {}) {
    const asked = this.#read();
    const bad = NUMBERS.find((name) => !at(name).validity.valid);
    if (!asked.prompt) return this.#complain("Say what it should be.", "prompt");
    if (asked.prompt.length > this.#about.limits.prompt_characters) {
      return this.#complain(`The prompt has ${asked.prompt.length} characters; at most ${this.#about.limits.prompt_characters} are taken.`, "prompt");
    }
    if (bad) return this.#complain(wrong(at(bad)), bad);
    if (this.#isBusy) return null;
    this.#isBusy = true;
    try {
      if (!anyway && (await this.#check()).outside) return this.#warn();
      await this.#send(asked);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.#complain(error.message, error.field);
    } finally {
      this.#isBusy = false;
    }
    return null;
  }

  #warn() {
    if (at("prompt-note").querySelector("button")) return null;
    const anyway = button("Draw it anyway", () => this.#submit({ anyway: true }));
    at("prompt-note").append(el("p", { class: "warn" }, "It will draw something that it knows instead. ", anyway));
    return null;
  }

  async #send(asked) {
    const body = JSON.stringify(asked);
    if (this.#wish.body !== body) this.#wish = { body, key: newKey(), seed: Math.floor(Math.random() * SEEDS) };
    const job = await jobs.make({ ...asked, seed: asked.seed ?? this.#wish.seed }, this.#wish.key);
    this.#wish = { body: "", key: "" };
    at("prompt-note").querySelectorAll("p:has(button)").forEach((said) => said.remove());
    this.#done(job);
  }
}

/** What is wrong with a number. */
function wrong(input) {
  const { validity, min, max } = input;
  if (validity.badInput || validity.stepMismatch) return "A whole number is wanted here.";
  if (validity.rangeOverflow) return `At most ${max}.`;
  return validity.rangeUnderflow ? `At least ${min}.` : input.validationMessage;
}
