// What a job has come to, besides its picture: downloads, figures, settings, what a person should know.

import { el } from "./element.js";
import { bytes, figure, plain, settings } from "./words.js";

const NAMES = { turntable: "Turntable", contact: "Contact sheet", lora: "What it learned (LoRA)", record: "Record", asset: "Object" };
const SAYS = { glb: "browsers, Blender, Unity, phones", obj: "older programs", ply: "coloured points and faces", stl: "3D printing", usdz: "Apple" };

const download = (url, ...inside) => el("a", { href: `${url}${url.includes("?") ? "&" : "?"}download=1`, download: "", class: "file" }, ...inside);

/** The downloads of a job: the object in each format first, then the views, then the rest. */
export function downloads(job) {
  const of = (...roles) => job.files.filter((file) => roles.includes(file.role));
  const rows = of("asset").map((file) => {
    const format = file.format ?? file.name.split(".").pop();
    return download(file.url, el("b", { text: format.toUpperCase() }), el("small", { text: [SAYS[format], bytes(file.bytes)].filter(Boolean).join(" · ") }));
  });
  if (of("view").length) {
    rows.push(el("a", { href: `/v1/jobs/${job.id}/views.zip`, download: "", class: "file" }, el("b", { text: "ZIP" }), el("small", { text: "the views, their cameras, the record" })));
  }
  for (const file of of("lora", "turntable", "contact", "record")) {
    rows.push(download(file.url, el("b", { text: NAMES[file.role] }), el("small", { text: `${file.name} · ${bytes(file.bytes)}` })));
  }
  if (!rows.length) return null;
  const split = of("asset").length + (of("view").length ? 1 : 0) || rows.length;
  const list = (some) => el("ul", { class: "files" }, ...some.map((row) => el("li", {}, row)));
  return el("section", { class: "part" }, el("h3", { text: "Download" }), list(rows.slice(0, split)),
    rows.length > split && el("details", {}, el("summary", { text: "More files" }), list(rows.slice(split))));
}

export function facts(pairs) {
  return el("dl", { class: "facts" }, ...pairs.flatMap(([name, value]) => [el("dt", { text: name }), el("dd", { text: value })]));
}

export function figuresOf(job) {
  return Object.entries(job.figures ?? {}).map(([name, value]) => figure(name, value)).filter(([, text]) => text);
}

/** Measured figures, and how it was made. */
export function record(job) {
  const measured = figuresOf(job);
  return el("section", { class: "part" },
    measured.length > 0 && el("h3", { text: "Measured" }), measured.length > 0 && facts(measured),
    el("details", {}, el("summary", { text: "How it was made" }), facts(settings(job.request))));
}

/** What a person should know, in the server's words. */
export function notes(job) {
  const said = job.notes.map(plain);
  if (job.resumed) said.push(`Went on ${job.resumed === 1 ? "once" : `${job.resumed} times`} after its worker had stopped.`);
  return said.length ? el("ul", { class: "notes" }, ...said.map((note) => el("li", { text: note }))) : null;
}
