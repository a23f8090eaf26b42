// Keys, selection counts, and parts that refresh themselves. Without scripts all links and forms still work.
"use strict";

(() => {
  const ROWS = "[data-row]";
  const GO = { q: "/", t: "/tasks", d: "/dead", s: "/schedules", l: "/limits", b: "/bulk", e: "/types", a: "/audit" };
  const BASE = new URL(document.currentScript.src).pathname.replace(/\/static\/.*/, "");
  let awaitsArea = false;

  localStorage.setItem("joblane-base", BASE);  // for link.js

  const typing = (target) => target.closest("input:not([type=checkbox]), textarea, select, [contenteditable], dialog");
  const visible = (element) => element.getClientRects().length > 0;

  // --- Keys ---------------------------------------------------------------------------------------------------------

  const keysOn = () => localStorage.getItem("joblane-keys") !== "off";

  function move(by) {
    const rows = [...document.querySelectorAll(ROWS)].filter(visible);
    const row = document.activeElement.closest("tr");
    const at = rows.findIndex((link) => link === document.activeElement || (row && row.contains(link)));
    const next = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(Math.max(at + by, 0), rows.length - 1)];
    if (next) {
      next.focus();
      next.scrollIntoView({ block: "nearest" });
    }
  }

  function press(key) {
    if (awaitsArea) {
      awaitsArea = false;
      if (GO[key]) location.assign(BASE + GO[key]);
      return Boolean(GO[key]);
    }
    switch (key) {
      case "j": move(1); return true;
      case "k": move(-1); return true;
      case "x": document.activeElement.closest("tr")?.querySelector("input[type=checkbox]")?.click(); return true;
      case "g": awaitsArea = true; return true;
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
    if (keysOn() && !typing(event.target) && press(event.key)) event.preventDefault();
  });

  // --- Selecting rows -----------------------------------------------------------------------------------------------

  const boxes = () => [...document.querySelectorAll("input[name=chosen]")];

  function count() {
    const selected = boxes().filter((box) => box.checked).length;
    const shown = document.getElementById("selected-count");
    if (shown) shown.textContent = `(${selected})`;
    const all = document.querySelector("[data-all]");
    if (all) {
      all.checked = selected > 0 && selected === boxes().length;
      all.indeterminate = selected > 0 && !all.checked;
    }
  }

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-all]")) for (const box of boxes()) box.checked = event.target.checked;
    if (event.target.id === "keys-on") localStorage.setItem("joblane-keys", event.target.checked ? "on" : "off");
    count();
  });

  // --- Parts that refresh themselves --------------------------------------------------------------------------------

  let opened = [];
  let updatedAt = new Date();

  // A part is not refreshed while the page is hidden, or while the reader fills in a form of the part.
  const busy = (part) =>
    document.hidden ||
    part.querySelector("details.menu[open], input[name=chosen]:checked") ||
    (part.contains(document.activeElement) && typing(document.activeElement));

  document.addEventListener("htmx:beforeRequest", (event) => {
    if (event.target.id === "live" && busy(event.target)) event.preventDefault();
  });
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (busy(event.target)) event.detail.shouldSwap = false;
    opened = [...document.querySelectorAll("#live details[open][id]")].map((details) => details.id);
  });
  document.addEventListener("htmx:afterSwap", () => {
    for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
    show();
    const announcement = document.getElementById("live")?.dataset.announce;
    const announced = document.getElementById("announce");
    if (announcement && announced.textContent !== announcement) announced.textContent = announcement;
    updatedAt = new Date();
    document.getElementById("stale").hidden = true;
  });

  function showStale(event) {
    const status = event.detail.xhr?.status;
    const problem = status === 503 ? "no answer from the database"
      : status === 401 ? "you are not signed in any more; load the page again"
      : status ? `the page answered with status ${status}`
      : "no answer from the page; check that `joblane page` still runs";
    const seconds = document.querySelector("#live[hx-trigger]")?.getAttribute("hx-trigger").match(/every (\d+)s/)?.[1];
    const text = `Not up to date since ${updatedAt.toISOString().slice(11, 19)}Z: ${problem}.`
      + (seconds ? ` Retrying every ${seconds} s.` : "");
    const stale = document.getElementById("stale");
    if (stale.textContent !== text) stale.textContent = text;
    stale.hidden = false;
  }
  for (const failure of ["htmx:sendError", "htmx:responseError", "htmx:timeout"]) {
    document.addEventListener(failure, showStale);
  }
  document.addEventListener("visibilitychange", () => {
    const live = document.querySelector("#live[hx-get]");
    if (!document.hidden && live) htmx.trigger(live, "refresh");
  });

  function show() {
    for (const element of document.querySelectorAll(".needs-script")) element.hidden = false;
    count();
  }

  document.querySelector("[data-keys]")?.addEventListener("click", () => press("?"));
  const announced = document.getElementById("announce");
  announced.textContent = "";
  const box = document.getElementById("keys-on");
  if (box) box.checked = keysOn();
  show();
})();
