// What is said at the edge of the page: a sentence with one thing to do, the lost connection, and the screen reader's line.

import { at, button, write } from "./element.js";

let timer = 0;

/** Say something for a while; `act` is the one thing that may be done about it. */
export function notice(text, { label = "", act = null, seconds = 7 } = {}) {
  const place = at("notice");
  clearTimeout(timer);
  place.replaceChildren(text);
  if (act) place.append(" ", button(label, () => { hide(); act(); }, { class: "plain" }));
  place.hidden = false;
  timer = setTimeout(hide, seconds * 1000);
}

function hide() {
  clearTimeout(timer);
  if (at("notice").contains(document.activeElement)) at("stage").focus({ preventScroll: true });
  at("notice").hidden = true;
}

/** Say that the server cannot be reached; null when it is back. */
export function connection(text) {
  at("connection").hidden = text === null;
  write(at("connection"), text ?? "");
}

let said = "";

/** Tell a screen reader, once and without haste. */
export function announce(text) {
  if (text === said) return;
  said = text;
  write(at("live"), text);
}
