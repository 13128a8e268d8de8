// The jobs that this page knows of, and what it asks of them. Who shows jobs listens to "change" and "list".
//
// The job on the stage is heard by events; the queue is looked at every few seconds while there is one.

import { call, link, listen } from "./api.js";
import { notice } from "./notice.js";

const EVERY_S = 2.5;
const UNDO_S = 7;
const RECENT = 12;

export const isOver = (job) => !["queued", "running"].includes(job.state);

class Jobs extends EventTarget {
  known = new Map();
  active = [];
  recent = [];
  doomed = new Map();
  #stop = null;
  #timer = 0;
  #watched = null;

  get(id) {
    return this.known.get(id);
  }

  /** Take in what the server said, in a list without files and places; what is over does not run again because an older answer came late. */
  put(job) {
    const before = this.known.get(job.id);
    if (before && isOver(before) && !isOver(job)) return before;
    const all = before ? { ...job, files: job.files.length ? job.files : before.files } : job;
    if (all.state === "queued") all.position ??= before?.position ?? null;
    this.known.set(job.id, all);
    this.dispatchEvent(new CustomEvent("change", { detail: all }));
    if (before && !isOver(before) && isOver(job)) this.refreshSoon();
    return all;
  }

  /** Hear of one job as it goes; the one before is let go. */
  watch(id, gone) {
    if (this.#watched === id) return;
    this.unwatch();
    this.#watched = id;
    this.#stop = listen(id, (job) => this.put(job), { gone });
  }

  unwatch() {
    this.#stop?.();
    this.#stop = null;
    this.#watched = null;
  }

  refreshSoon(seconds = 0.2) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.refresh(), seconds * 1000);
  }

  /** Look at the queue and at what came last; look again soon while something is going on. */
  async refresh() {
    clearTimeout(this.#timer);
    try {
      const [active, recent] = await Promise.all([
        call("GET", "/v1/jobs?state=queued,running&limit=50"),
        call("GET", `/v1/jobs?limit=${RECENT}`),
      ]);
      this.active = active.jobs.map((job) => this.put(job)).filter((job) => !isOver(job)).reverse();
      this.recent = recent.jobs.map((job) => this.put(job)).filter((job) => ["done", "failed"].includes(job.state));
    } catch (error) {
      if (error.status === 0 || error.status === 401) return; // "back" comes when it may be tried again
      this.refreshSoon(4 * EVERY_S);
      return;
    }
    this.dispatchEvent(new Event("list"));
    if (this.active.length) this.refreshSoon(document.hidden ? 4 * EVERY_S : EVERY_S);
  }

  /** All that is to be listed: what somebody is deleting is not shown while it may still be taken back. */
  isShown = (job) => !this.doomed.has(job.id);

  async make(request, key) {
    const job = this.put(await call("POST", "/v1/jobs", { json: request, headers: { "Idempotency-Key": key } }));
    this.refreshSoon();
    return job;
  }

  async cancel(id) {
    return this.put(await call("POST", `/v1/jobs/${id}/cancel`));
  }

  /** Delete a job in a few seconds, or not if somebody takes it back; `undo` is told then. */
  remove(job, undo = () => {}) {
    const timer = setTimeout(() => this.#delete(job.id), UNDO_S * 1000);
    this.doomed.set(job.id, timer);
    this.dispatchEvent(new Event("list"));
    notice(`“${job.title}” is deleted.`, { label: "Undo", seconds: UNDO_S, act: () => {
      clearTimeout(timer);
      this.doomed.delete(job.id);
      this.dispatchEvent(new Event("list"));
      undo();
    } });
  }

  async #delete(id, { keepalive = false } = {}) {
    clearTimeout(this.doomed.get(id));
    try {
      await call("DELETE", `/v1/jobs/${id}`, { keepalive });
    } catch (error) {
      if (error.status !== 404) {
        this.doomed.delete(id);
        this.dispatchEvent(new Event("list"));
        notice(`It could not be deleted. ${error.message}`);
        return;
      }
    }
    this.known.delete(id);
    this.refreshSoon();
  }

  /** Who leaves the page has not taken anything back. */
  flush() {
    for (const id of this.doomed.keys()) this.#delete(id, { keepalive: true });
  }
}

export const jobs = new Jobs();
addEventListener("pagehide", () => jobs.flush());
document.addEventListener("visibilitychange", () => { if (!document.hidden) jobs.refreshSoon(); });
link.addEventListener("back", () => jobs.refreshSoon());
