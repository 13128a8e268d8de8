// What was typed, kept by the browser: a reload, an expired login or a closed tab loses none of it.

export function keep(name, value) {
  try {
    localStorage.setItem(`viewfold-${name}`, JSON.stringify(value));
  } catch { /* a browser that keeps nothing: the page works without */ }
}

export function kept(name) {
  try {
    const found = JSON.parse(localStorage.getItem(`viewfold-${name}`));
    if (found && typeof found === "object") return found;
  } catch { /* nothing kept, or somebody else's words */ }
  return {};
}
