// Elements, made without a word of HTML: what strangers wrote goes in as text and stays text.

export const at = (id) => document.getElementById(id);

/** Make an element. Of `props`: `class`, `text`, `on` (listeners), `data`; booleans and values become properties. */
export function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (name === "class") made.className = value;
    else if (name === "text") made.textContent = value;
    else if (name === "on") for (const [event, act] of Object.entries(value)) made.addEventListener(event, act);
    else if (name === "data") Object.assign(made.dataset, value);
    else if (typeof value === "boolean" && name in made) made[name] = value;
    else if (name === "value") made.value = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export const button = (text, act, props = {}) => el("button", { type: "button", text, on: { click: act }, ...props });

/** Change a text only where it differs, so that a screen reader is told once. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export const isStill = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** A picture that turns up without a flash, and says in words when it does not. */
export function picture(url, alt, props = {}) {
  const image = el("img", { alt, decoding: "async", loading: "lazy", ...props });
  image.addEventListener("error", () => image.classList.add("missing"), { once: true });
  image.src = url;
  return image;
}
