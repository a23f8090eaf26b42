// Filters of tasks that this browser keeps by a name: a filter is the query of an address.
"use strict";

(() => {
  const KEY = "joblane-filters";
  const MOST = 30;
  const root = document.getElementById("saved");
  if (!root) return;
  const query = root.dataset.query;
  const line = root.querySelector(".chips");
  const menu = root.querySelector("details");

  function read() {
    try {
      const kept = JSON.parse(localStorage.getItem(KEY) ?? "[]");
      return kept.filter((one) => typeof one.name === "string" && typeof one.query === "string").slice(0, MOST);
    } catch {  // written by another version, or by hand
      return [];
    }
  }

  function write(kept) {
    localStorage.setItem(KEY, JSON.stringify(kept.slice(0, MOST)));
    draw();
  }

  function draw() {
    const kept = read();
    line.replaceChildren();
    for (const one of kept) {
      const chip = Object.assign(document.createElement("span"), { className: "chip" });
      const link = Object.assign(document.createElement("a"), { textContent: one.name });
      link.href = `${location.pathname}?${new URLSearchParams(one.query)}`;
      if (one.query === query) link.setAttribute("aria-current", "page");
      const forget = Object.assign(document.createElement("button"), { type: "button", textContent: "×" });
      forget.setAttribute("aria-label", `Forget the filter ${one.name}`);
      forget.addEventListener("click", () => write(read().filter((other) => other.name !== one.name)));
      chip.append(link, forget);
      line.append(chip);
    }
    line.hidden = !kept.length;
    menu.hidden = !query || kept.some((one) => one.query === query);
    root.hidden = line.hidden && menu.hidden;
  }

  menu.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const field = document.getElementById("saved-name");
    const name = field.value.trim().slice(0, 60);
    if (!name) return;
    menu.open = false;
    field.value = "";
    write([{ name, query }, ...read().filter((one) => one.name !== name)]);
  });
  draw();
})();
