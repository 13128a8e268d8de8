// The pictures of one thing: dropped, pasted or chosen; sent at once; each may be taken out again.

import { ApiError, call } from "./api.js";
import { at, button, el, picture, write } from "./element.js";
import { bytes } from "./words.js";

export class Pictures {
  all = [];
  #limits;
  #change;
  #sending = 0;

  constructor(limits, change) {
    this.#limits = limits;
    this.#change = change;
    const drop = at("drop");
    at("files").addEventListener("change", async () => {
      const files = [...at("files").files];
      await this.add(files);
      at("files").value = "";
    });
    for (const name of ["dragenter", "dragover"]) {
      drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
    }
    for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => { event.preventDefault(); this.add([...event.dataTransfer.files]); });
    at("teach").addEventListener("paste", (event) => {
      if (event.clipboardData.files.length) { event.preventDefault(); this.add([...event.clipboardData.files]); }
    });
    for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());
  }

  get isBusy() {
    return this.#sending > 0;
  }

  /** Take pictures that the server has already; one that it has no more goes. */
  restore(pictures) {
    this.all = pictures.filter((one) => typeof one?.id === "string" && typeof one?.url === "string" && one.url.startsWith("/v1/pictures/"));
    this.#draw();
  }

  async add(files) {
    const refused = [];
    const good = files.filter((file) => {
      const isFine = file.size <= this.#limits.picture_bytes;
      if (!isFine) refused.push(`${file.name} has ${bytes(file.size)}; at most ${bytes(this.#limits.picture_bytes)} are taken.`);
      return isFine;
    });
    const room = this.#limits.pictures - this.all.length;
    if (good.length > room) refused.push(`At most ${this.#limits.pictures} pictures are taken; the last ${good.length - room} were left out.`);
    const sent = good.slice(0, Math.max(0, room));
    if (sent.length) await this.#send(sent, refused);
    write(at("drop-error"), refused.join(" "));
  }

  async #send(files, refused) {
    const body = new FormData();
    for (const file of files) body.append("files", file);
    this.#sending += 1;
    write(at("drop-says"), files.length === 1 ? "Sending a picture" : `Sending ${files.length} pictures`);
    try {
      const answer = await call("POST", "/v1/pictures", { body });
      this.all.push(...answer.pictures);
      refused.push(...answer.refused.map(({ name, message }) => `${name}: ${message}`));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      refused.push(error.message);
    } finally {
      this.#sending -= 1;
      this.#draw();
      this.#change();
    }
  }

  #draw() {
    const number = this.all.length;
    write(at("drop-says"), number === 0 ? "Three to eight pictures from different sides. Drop them here, or choose."
      : `${number === 1 ? "One picture" : `${number} pictures`}${number < 3 ? "; three to eight are good" : ""}. Drop more here, or choose.`);
    at("thumbs").replaceChildren(...this.all.map((one) => {
      const image = picture(one.url, one.name, { width: 72, height: 72 });
      image.addEventListener("error", () => this.#take(one));
      return el("li", {}, image, button("×", () => this.#take(one, true), { "aria-label": `Remove ${one.name}`, title: "Remove" }));
    }));
  }

  /** Take one out; the focus goes to its neighbour. */
  #take(one, focus = false) {
    const place = this.all.indexOf(one);
    if (place < 0) return;
    this.all.splice(place, 1);
    this.#draw();
    this.#change();
    if (focus) (at("thumbs").querySelectorAll("button")[Math.min(place, this.all.length - 1)] ?? at("files")).focus();
  }
}
