// What a browser with scripts has beyond plain links and forms: keys, and parts that refresh themselves.
"use strict";

(() => {
  const ROWS = "[data-row]";
  const GO = { q: "/", t: "/tasks", d: "/dead", s: "/schedules", b: "/bulk", a: "/audit" };
  let goes = false;

  const typing = (target) => target.closest("input:not([type=checkbox]), textarea, select, [contenteditable], dialog");
  const visible = (element) => element.getClientRects().length > 0;

  // --- Keys ---------------------------------------------------------------------------------------------------------

  const on = () => localStorage.getItem("joblane-keys") !== "off";

  function move(by) {
    const rows = [...document.querySelectorAll(ROWS)].filter(visible);
    const row = document.activeElement.closest("tr");
    const now = rows.findIndex((one) => one === document.activeElement || (row && row.contains(one)));
    const next = rows[now < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(Math.max(now + by, 0), rows.length - 1)];
    if (next) {
      next.focus();
      next.scrollIntoView({ block: "nearest" });
    }
  }

  function press(key) {
    if (goes) {
      goes = false;
      if (GO[key]) location.assign(GO[key]);
      return Boolean(GO[key]);
    }
    switch (key) {
      case "j": move(1); return true;
      case "k": move(-1); return true;
      case "x": document.activeElement.closest("tr")?.querySelector("input[type=checkbox]")?.click(); return true;
      case "g": goes = true; return true;
      case "?": document.getElementById("keys")?.showModal(); return true;
      case "/": {
        const search = document.querySelector("[data-search]");
        search?.focus();
        search?.select();
        return Boolean(search);
      }
    }
    return false;
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") {
      for (const menu of document.querySelectorAll("details.menu[open]")) {
        menu.open = false;
        if (menu.contains(document.activeElement)) menu.querySelector("summary").focus();
      }
      return;
    }
    if (on() && !typing(event.target) && press(event.key)) event.preventDefault();
  });

  // --- Ticking rows -------------------------------------------------------------------------------------------------

  const ticks = () => [...document.querySelectorAll("input[name=chosen]")];

  function count() {
    const ticked = ticks().filter((box) => box.checked).length;
    const shown = document.getElementById("ticked");
    if (shown) shown.textContent = `(${ticked})`;
    const all = document.querySelector("[data-all]");
    if (all) {
      all.checked = ticked > 0 && ticked === ticks().length;
      all.indeterminate = ticked > 0 && !all.checked;
    }
  }

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-all]")) for (const box of ticks()) box.checked = event.target.checked;
    if (event.target.id === "keys-on") localStorage.setItem("joblane-keys", event.target.checked ? "on" : "off");
    count();
  });

  // --- Parts that refresh themselves --------------------------------------------------------------------------------

  let opened = [];

  // Not while nobody sees it, and not under the hands of somebody who fills it in.
  const busy = (part) =>
    document.hidden ||
    part.querySelector("details.menu[open], input[name=chosen]:checked") ||
    (part.contains(document.activeElement) && typing(document.activeElement));

  document.addEventListener("htmx:beforeRequest", (event) => {
    if (event.target.id === "live" && busy(event.target)) event.preventDefault();
  });
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (busy(event.target)) event.detail.shouldSwap = false;
    opened = [...document.querySelectorAll("#live details[open][id]")].map((one) => one.id);
  });
  document.addEventListener("htmx:afterSwap", () => {
    for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
    show();
    const told = document.getElementById("live")?.dataset.announce;
    const announced = document.getElementById("announce");
    if (told && announced.textContent !== told) announced.textContent = told;
    document.getElementById("stale").hidden = true;
  });
  for (const failed of ["htmx:sendError", "htmx:responseError", "htmx:timeout"]) {
    document.addEventListener(failed, () => { document.getElementById("stale").hidden = false; });
  }
  document.addEventListener("visibilitychange", () => {
    const live = document.querySelector("#live[hx-get]");
    if (!document.hidden && live) htmx.trigger(live, "refresh");
  });

  function show() {
    for (const one of document.querySelectorAll(".needs-script")) one.hidden = false;
    count();
  }

  document.querySelector("[data-keys]")?.addEventListener("click", () => press("?"));
  const announced = document.getElementById("announce");
  announced.textContent = "";
  const box = document.getElementById("keys-on");
  if (box) box.checked = on();
  show();
})();
