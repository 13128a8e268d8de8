// A strip of square pictures side by side, as tiles. A tile keeps what it shows until the next picture is there whole.

import { el } from "./element.js";

export class Strip {
  root = el("div", { class: "strip", role: "img" });
  #tiles = [];
  #url = "";
  #coming = "";

  /** Show the strip at an address, unless it is the one that is shown; what cannot be read changes nothing. */
  async show(url, label) {
    this.root.setAttribute("aria-label", label);
    if (!url || url === this.#url || this.#coming) {
      this.#next = url && url !== this.#url ? [url, label] : null;
      return;
    }
    this.#coming = url;
    const image = new Image();
    image.src = url;
    try {
      await image.decode();
      this.#draw(image);
      this.#url = url;
    } catch { /* it was replaced meanwhile; the next one comes */ }
    this.#coming = "";
    const next = this.#next;
    this.#next = null;
    if (next) this.show(...next);
  }

  #next = null;

  #draw(image) {
    const edge = image.naturalHeight;
    const number = Math.max(1, Math.round(image.naturalWidth / edge));
    if (this.#tiles.length !== number) {
      this.#tiles = Array.from({ length: number }, () => el("canvas"));
      this.root.style.setProperty("--columns", Math.ceil(Math.sqrt(number)));
      this.root.replaceChildren(...this.#tiles);
    }
    this.#tiles.forEach((tile, place) => {
      if (tile.width !== edge) tile.width = tile.height = edge;
      tile.getContext("2d").drawImage(image, place * edge, 0, edge, edge, 0, 0, edge, edge);
    });
  }
}

/** Pictures that are whole, laid out as a strip's tiles are. */
export function tiles(files, label) {
  const root = el("div", { class: "strip", role: "group", "aria-label": label });
  root.style.setProperty("--columns", Math.ceil(Math.sqrt(files.length || 1)));
  root.append(...files.map((file, place) => el("img", { src: file.url, alt: `${label} ${place + 1}`, decoding: "async" })));
  return root;
}
