// Where the page begins: what the server has, then the part that the address names (#job/ID, #history, …).

import { ApiError, call, link, login } from "./api.js";
import { Compare } from "./compare.js";
import { at, button, el, isStill } from "./element.js";
import { MakeForm } from "./form.js";
import { History } from "./history.js";
import { JobView } from "./job.js";
import { isOver, jobs } from "./jobs.js";
import { startLogin } from "./login.js";
import { notice } from "./notice.js";
import { TeachForm, findSubjects } from "./personalize.js";
import { Queue } from "./queue.js";
import { examples } from "./suggestion.js";

const page = { about: null, subjects: [], make: null, teach: null, history: null, compare: null, queue: null, view: null };

const EMPTY = {
  make: ["From words to an object", "Views of it are drawn first, from all sides; then the object is shaped after them."],
  personalise: ["Teach it one thing of yours", "From a few pictures of it; afterwards its name works in prompts, seen from any side."],
};
const HINT = { make: "For example", personalise: "What it has learned appears here." };

const acts = {
  async cancel(job) {
    try { await jobs.cancel(job.id); } catch (error) { tell(error); }
  },
  again(job) {
    go(`#job/${job.id}`);
    (job.kind === "make" ? page.make : page.teach).fill(job.request);
    at(job.kind === "make" ? "prompt" : "subject").focus();
  },
  beside(job) { go(`#compare/${job.id}`); },
  remove(job) {
    const isStaged = page.view?.id === job.id && location.hash === `#job/${job.id}`;
    jobs.remove(job, () => { if (isStaged) go(`#job/${job.id}`); });
    if (isStaged) go(job.kind === "make" ? "#make" : "#personalise");
  },
  async use(job) {
    await teachable();
    go("#make");
    page.make.fill({ prompt: job.request.subject, model: job.request.model, subjects: [job.id] });
    at("prompt").focus();
  },
};

function tell(error) {
  if (!(error instanceof ApiError)) throw error;
  notice(error.message);
}

function go(hash) {
  if (location.hash === hash) route();
  else location.hash = hash;
}

function made(job) {
  go(`#job/${job.id}`);
  if (at("stage").getBoundingClientRect().top > innerHeight * 0.4) {
    at("stage").scrollIntoView({ behavior: isStill() ? "auto" : "smooth", block: "start" });
  }
}

async function route(event) {
  const [name, ...parts] = location.hash.slice(1).split("/").map(decode);
  const isBench = !["history", "compare"].includes(name);
  at("bench").hidden = !isBench;
  at("history").hidden = true;
  at("compare").hidden = true;
  page.compare.close();
  if (!isBench) { jobs.unwatch(); clearStage(); }
  let current = name;
  if (name === "history") page.history.open(parts[0] ?? "");
  else if (name === "compare" && parts.length > 1) { page.compare.open(...parts.slice(0, 2)); current = "history"; }
  else if (name === "compare") { current = "history"; await chooseBeside(parts[0]); }
  else if (name === "job") current = await stage(parts[0]);
  else empty(current = name === "personalise" ? name : "make");
  if (!isBench) document.title = name === "history" ? "History – viewfold" : "Side by side – viewfold";
  for (const one of document.querySelectorAll(".top nav a")) {
    if (one.hash === `#${current}`) one.setAttribute("aria-current", "page");
    else one.removeAttribute("aria-current");
  }
  if (event) place(name);
}

const decode = (part) => { try { return decodeURIComponent(part); } catch { return part; } };

/** After going somewhere the focus is there, unless somebody is filling in a form that is still shown. */
function place(name) {
  if (document.activeElement?.closest?.("form:not([hidden])") && !at("bench").hidden) return;
  if (name === "history") page.history.focus();
  else if (name === "job") page.view?.focus();
  else if (name === "make" && matchMedia("(pointer: fine)").matches) at("prompt").focus({ preventScroll: true });
  scrollTo(0, 0);
}

function showForm(name) {
  at("make").hidden = name !== "make";
  at("teach").hidden = name !== "personalise";
}

function clearStage() {
  page.view?.remove();
  page.view = null;
  page.queue.stage(null);
  at("stage").replaceChildren();
}

/** The stage before there is anything on it. */
function empty(name) {
  jobs.unwatch();
  clearStage();
  showForm(name);
  document.title = name === "make" ? "viewfold" : "Personalise – viewfold";
  const model = page.make.model;
  const [title, ...says] = EMPTY[name];
  const some = name === "make" && model?.kinds?.length ? examples(model, 4) : [];
  const taught = name === "personalise" ? page.subjects : [];
  const list = some.length > 0 && el("ul", { class: "examples", "aria-label": "Examples" },
    ...some.map((text) => el("li", {}, button(text, () => page.make.setPrompt(text), { class: "word" }))));
  const learned = taught.length > 0 && el("ul", { class: "examples", "aria-label": "Taught already" },
    ...taught.map((job) => el("li", {}, el("a", { href: `#job/${job.id}`, text: job.request.subject }))));
  at("stage").append(el("article", { class: "job" },
    el("header", {}, el("h2", { text: title }), ...says.map((text) => el("p", { class: "state", text }))),
    el("div", { class: "picture" }, el("div", { class: "box" }, el("div", { class: "hint" }, el("p", { text: learned ? "Taught already" : HINT[name] }), list || learned)))));
}

/** Put a job on the stage; return the name of its form. */
async function stage(id) {
  try {
    const job = jobs.put(await call("GET", `/v1/jobs/${encodeURIComponent(id)}`));
    if (location.hash !== `#job/${id}`) return "make";
    if (page.view?.id !== id) {
      clearStage();
      page.view = new JobView(job, acts);
      at("stage").append(page.view.root);
      page.queue.stage(id);
    } else page.view.update(job);
    const name = job.kind === "make" ? "make" : "personalise";
    showForm(name);
    nameWindow(job);
    if (isOver(job)) jobs.unwatch();
    else jobs.watch(id, (error) => missing(name, error));
    return name;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    missing("make", error);
    return "make";
  }
}

/** A job that is not there, or not reached. */
function missing(name, error) {
  empty(name);
  at("stage").querySelector(".hint").prepend(el("p", { class: "bad", role: "alert", text: error.message }));
}

async function chooseBeside(id) {
  try {
    page.history.open("", jobs.get(id) ?? jobs.put(await call("GET", `/v1/jobs/${encodeURIComponent(id)}`)));
  } catch (error) {
    tell(error);
    go("#history");
  }
}

function nameWindow(job) {
  const before = job.state === "running" ? `${Math.round(100 * (job.progress?.share ?? 0))} % ` : job.state === "done" ? "✓ " : "";
  document.title = `${before}${job.title} – viewfold`;
}

async function teachable() {
  page.subjects = await findSubjects().catch(() => page.subjects);
  page.make.setSubjects(page.subjects);
  if (location.hash === "#personalise") route();
}

async function start() {
  let about = await call("GET", "/v1/about");
  startLogin(about);
  if (about.login) {
    if (!(await login())) return say("Nothing is shown without the token.", button("Give the token", begin));
    about = await call("GET", "/v1/about");
    startLogin(about);
  }
  page.about = about;
  page.make = new MakeForm(about, made);
  page.teach = new TeachForm(about, made);
  page.history = new History(at("history"), acts);
  page.compare = new Compare(at("compare"));
  page.queue = new Queue(at("aside"), acts.cancel);
  jobs.addEventListener("change", ({ detail }) => {
    if (page.view?.id !== detail.id) return;
    page.view.update(detail);
    nameWindow(detail);
    if (detail.kind === "personalize" && detail.state === "done") teachable();
  });
  addEventListener("hashchange", route);
  at("skip").addEventListener("click", (event) => { event.preventDefault(); at("stage").focus(); });
  await route();
  jobs.refresh();
  teachable();
  learnMore();
  return null;
}

/** What a model knows is told once a worker has loaded it; until then it is asked for now and then. */
async function learnMore() {
  if (page.about.models.every((model) => model.image_size > 0)) return;
  await new Promise((resolve) => { setTimeout(resolve, 3000); });
  const about = await call("GET", "/v1/about").catch(() => null);
  const isNew = about?.models.some((model, place) => model.image_size !== page.about.models[place]?.image_size);
  if (about) page.about = about;
  if (isNew) {
    page.make.learn(about);
    if (!page.view && !at("bench").hidden) route();
  }
  learnMore();
}

/** Say why there is nothing else on the stage. */
function say(text, act = "") {
  at("stage").replaceChildren(el("div", { class: "box" }, el("div", { class: "hint" }, el("p", { class: "bad", role: "alert", text }), act)));
}

async function begin() {
  try {
    await start();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    say(error.message);
    link.addEventListener("back", begin, { once: true });
  }
}

begin();
