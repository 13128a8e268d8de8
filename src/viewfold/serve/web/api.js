// The one door to the server: JSON in and out, errors in words, the token asked for again, a lost connection waited for.

import { connection } from "./notice.js";
import { plain } from "./words.js";

/** An answer that is no success. `status` 0: the server was not reached. */
export class ApiError extends Error {
  constructor(status, { code = "unknown", message, field = null }) {
    super(message);
    Object.assign(this, { status, code, field });
  }
}

const UNREACHED = { code: "unreached", message: "The server cannot be reached. What you typed is kept; try again when it is back." };

export const link = new EventTarget(); // "back": the connection is there again, or somebody has logged in

let askToken = () => Promise.resolve(false);
let asking = null;

/** Say how a token is asked for: a function that ends true once the server has taken one. */
export function onLogin(ask) {
  askToken = ask;
}

export function login() {
  asking ??= askToken().finally(() => { asking = null; });
  return asking.then((isIn) => {
    if (isIn) link.dispatchEvent(new Event("back"));
    return isIn;
  });
}

/** Call the server; resolve to what it answers, as JSON, or to null where it answers nothing. */
export async function call(method, path, { json, body, headers = {}, signal, keepalive = false, asks = true } = {}) {
  const content = json === undefined ? body : JSON.stringify(json);
  const said = json === undefined ? headers : { "Content-Type": "application/json", ...headers };
  let answer;
  try {
    answer = await fetch(path, { method, body: content, headers: said, signal, keepalive, credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    lose();
    throw new ApiError(0, UNREACHED);
  }
  if (answer.status === 401 && asks && (await login())) {
    return call(method, path, { json, body, headers, signal, keepalive, asks: false });
  }
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  throw new ApiError(answer.status, await words(answer));
}

async function words(answer) {
  try {
    const { error } = await answer.json();
    if (error?.message) return { ...error, message: plain(error.message) };
  } catch { /* not the server's own words: a proxy's page, or nothing */ }
  return { message: `The server answered ${answer.status} ${answer.statusText}`.trim() + "; try again, or look at its log." };
}

let isLost = false;

function lose() {
  if (isLost) return;
  isLost = true;
  knock(1);
}

async function knock(seconds) {
  connection("No connection to the server. Jobs go on without it, what you typed is kept, and the page tries again by itself.");
  await new Promise((resolve) => {
    setTimeout(resolve, seconds * 1000);
    addEventListener("online", resolve, { once: true });
  });
  try {
    const answer = await fetch("/healthz", { cache: "no-store" });
    if (!answer.ok) throw new Error("not yet");
  } catch {
    return knock(Math.min(8, seconds * 2));
  }
  isLost = false;
  connection(null);
  link.dispatchEvent(new Event("back"));
}

/** Hear of a job whenever it changes, until it is over; returns what stops that. */
export function listen(id, hear, { gone }) {
  const FINAL = ["done", "failed", "cancelled"];
  let source = null;
  let isStopped = false;
  let timer = 0;
  const open = () => {
    if (isStopped || document.hidden || source) return;
    source = new EventSource(`/v1/jobs/${id}/events`);
    source.addEventListener("job", (event) => {
      const job = JSON.parse(event.data);
      if (FINAL.includes(job.state)) stop();
      hear(job);
    });
    source.onerror = again;
  };
  const again = async () => {
    shut();
    if (isStopped) return;
    try {
      const job = await call("GET", `/v1/jobs/${id}`);
      if (isStopped) return;
      if (FINAL.includes(job.state)) stop();
      hear(job);
      if (!isStopped) timer = setTimeout(open, 1000);
    } catch (error) {
      if (error.status === 404) { stop(); gone(error); }
      else if (error.status >= 500 || error.status === 429) timer = setTimeout(again, 4000);
    }
  };
  const shut = () => { source?.close(); source = null; clearTimeout(timer); };
  const turn = () => (document.hidden ? shut() : again());
  const stop = () => {
    isStopped = true;
    shut();
    document.removeEventListener("visibilitychange", turn);
    link.removeEventListener("back", again);
  };
  document.addEventListener("visibilitychange", turn);
  link.addEventListener("back", again);
  open();
  return stop;
}

/** A key that names one wish, so that asking twice makes one job. */
export function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
