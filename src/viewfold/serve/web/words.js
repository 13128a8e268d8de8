// What the server says in names and numbers, in plain words.

const PHASES = {
  load: "Loading the model",
  generate: "Drawing the views",
  fit: "Shaping the object",
  distil: "Working out the sides that no view shows",
  mesh: "Making its surface",
  texture: "Painting it",
  polish: "Refining its surface",
  check: "Looking it over",
  save: "Saving",
  poses: "Finding from where each picture was taken",
  prior: "Drawing what it must not forget",
  train: "Learning",
};

const FIGURES = {
  agreement: ["Views agree", percent],
  silhouette_iou: ["Outline matches", percent],
  rerender_psnr_db: ["Likeness to the views", (value) => `${value.toFixed(1)} dB`],
  faces: ["Faces", count],
  vertices: ["Vertices", count],
  watertight: ["Closed surface", null],
  components: ["Parts", count],
  loss: ["Error", small],
  fit_loss: ["Error left", small],
  seconds: ["Took", span],
  peak_memory_mib: ["Memory at most", (value) => bytes(value * 2 ** 20)],
};

const SETTINGS = {
  model: "Model", quality: "How far", views: "Views", seed: "Seed", tries: "Tries", negative: "Not like this",
  guidance: "Guidance", steps: "Steps", subject: "Called", class: "Kind", subjects: "Taught", pictures: "Pictures",
};

const QUALITIES = { views: "Pictures", draft: "Draft 3D", standard: "Standard", high: "High" };

export const phase = (name) => (name ? PHASES[name] ?? sentence(name) : "Starting");
export const quality = (name) => QUALITIES[name] ?? sentence(name);
export const sentence = (name) => (name.charAt(0).toUpperCase() + name.slice(1)).replaceAll("_", " ");

/** The server's sentence as one for the page: names without the marks of code, and a capital. */
export const plain = (message) => message.replace(/`([^`]*)`/g, "$1").replace(/^./, (letter) => letter.toUpperCase());

export function count(value) {
  return Math.round(value).toLocaleString("en").replaceAll(",", "\u202f");
}

export function percent(value) {
  return value >= 0 && value <= 1 ? `${Math.round(value * 100)} %` : String(value);
}

function small(value) {
  return Number(value).toPrecision(3);
}

export function bytes(value) {
  if (value < 1000) return `${value} B`;
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6]]) if (value >= size) return `${(value / size).toFixed(1)} ${unit}`;
  return `${Math.round(value / 1000)} kB`;
}

export function span(seconds) {
  if (seconds < 10) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 120) return `${Math.round(seconds / 5) * 5} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 5 && minutes % 60 ? `${hours} h ${minutes % 60} min` : `${Math.round(minutes / 60)} h`;
}

export function ago(seconds) {
  const past = Date.now() / 1000 - seconds;
  if (past < 50) return "just now";
  if (past < 86400) return `${span(past)} ago`;
  return new Date(seconds * 1000).toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" });
}

export function waiting(position) {
  if (position === null || position === undefined) return "Waiting";
  if (position === 0) return "Next in the queue";
  return position === 1 ? "Waiting: one before it" : `Waiting: ${position} before it`;
}

/** The state of a job in a few words. */
export function state(job) {
  if (job.cancelling) return "Ending";
  if (job.state === "queued") return waiting(job.position);
  if (job.state === "running") return job.progress ? phase(job.progress.phase) : "Starting";
  return { done: "Done", failed: "Failed", cancelled: "Cancelled" }[job.state] ?? job.state;
}

/** What a running job says beside its phase: the step, the figures, the time that is left. */
export function details(progress) {
  if (!progress) return "";
  const said = [];
  if (progress.steps > 1 && progress.step !== undefined) said.push(`step ${progress.step} of ${progress.steps}`);
  for (const [name, value] of Object.entries(progress.figures ?? {})) {
    const [label, text] = figure(name, value);
    if (text) said.push(`${label.toLowerCase()} ${text}`);
  }
  if (progress.eta_s !== null && progress.eta_s !== undefined) {
    said.push(progress.eta_s < 1.5 ? "almost done" : `about ${span(progress.eta_s)} left of this part`);
  }
  return said.join(" · ");
}

/** The name and the value of a figure; no value where it is nothing that a person reads. */
export function figure(name, value) {
  const [label, form] = FIGURES[name] ?? [sentence(name), null];
  if (typeof value === "boolean") return [label, value ? "yes" : "no"];
  if (typeof value === "string") return [label, value];
  if (typeof value !== "number" || !Number.isFinite(value)) return [label, ""];
  return [label, form ? form(value) : Number.isInteger(value) ? count(value) : Number(value.toPrecision(3)).toString()];
}

/** The settings of a request as [name, value] in words; what the model's own default decides is left out. */
export function settings(request) {
  const said = [];
  for (const [name, label] of Object.entries(SETTINGS)) {
    let value = request[name];
    if (Array.isArray(value)) value = value.length || null;
    if (value === null || value === undefined || value === "") continue;
    said.push([label, name === "quality" ? quality(value) : String(value)]);
  }
  return said;
}
