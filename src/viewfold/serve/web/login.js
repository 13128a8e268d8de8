// The token's dialog; it comes when a login is missing or has expired, over whatever is being done.

import { call, onLogin } from "./api.js";
import { at, write } from "./element.js";

/** Ask for the token; end true once the server has taken it, false if somebody would rather not. */
function ask() {
  const dialog = at("login");
  const error = at("login-error");
  const before = document.activeElement;
  write(error, "");
  dialog.showModal();
  at("token").focus();
  return new Promise((resolve) => {
    const stop = new AbortController();
    const end = (isIn) => {
      stop.abort();
      at("token").value = "";
      dialog.close();
      if (before?.isConnected) before.focus({ preventScroll: true });
      resolve(isIn);
    };
    at("login-form").addEventListener("submit", async (event) => {
      event.preventDefault();
      try {
        await call("POST", "/v1/session", { json: { token: at("token").value.trim() }, asks: false });
        end(true);
      } catch (problem) {
        write(error, problem.message);
        at("token").select();
      }
    }, { signal: stop.signal });
    at("login-later").addEventListener("click", () => end(false), { signal: stop.signal });
    dialog.addEventListener("cancel", (event) => { event.preventDefault(); end(false); }, { signal: stop.signal });
  });
}

export function startLogin(about) {
  onLogin(ask);
  at("leave").hidden = about.login || about.user === "local";
  at("leave").onclick = async () => {
    await call("DELETE", "/v1/session").catch(() => null);
    location.reload();
  };
}
