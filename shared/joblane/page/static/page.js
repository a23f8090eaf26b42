// Keys, selection counts, and parts that refresh themselves. Without scripts all links and forms still work.
"use strict";

(() => {
  const ROWS = "[data-row]";
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
      const to = [...document.querySelectorAll("#keys [data-go]")].find((link) => link.dataset.go === key);
      if (to) location.assign(to.href);
      return Boolean(to);
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
      if (event.target.matches("[data-search]")) event.target.blur();
      for (const menu of document.querySelectorAll("details.menu[open]")) {
        menu.open = false;
        if (menu.contains(document.activeElement)) menu.querySelector("summary").focus();
      }
      return;
    }
    if (keysOn() && !typing(event.target) && press(event.key)) event.preventDefault();
  });

  // --- Selecting rows -----------------------------------------------------------------------------------------------

  const boxes = () => [...document.querySelectorAll("td.select input")];

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

  // --- Forms of actions: an impatient second click sends nothing ----------------------------------------------------

  const ONCE_MS = 5000;  // a later click is meant, for example after the loading was stopped
  let sentAt = -ONCE_MS;

  document.addEventListener("submit", (event) => {
    if (event.target.method !== "post") return;
    if (event.timeStamp - sentAt < ONCE_MS) event.preventDefault();
    else sentAt = event.timeStamp;
  });

  // --- Copying ------------------------------------------------------------------------------------------------------

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const text = document.getElementById(button.dataset.copy)?.textContent ?? "";
    try {
      await navigator.clipboard.writeText(text);
      say(`Copied the ${button.getAttribute("aria-label").replace("Copy the ", "")}.`);
      button.textContent = "Copied";
    } catch {
      button.textContent = "The browser refused";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });

  function say(text) {
    document.getElementById("announce").textContent = text;
  }

  // --- Tooltips: with the pointer by the browser, with a finger or Enter as a box of the page ---------------------------

  const tip = document.getElementById("tip");

  // The texts of tooltips stay in the title, so that they also work without this script.
  function tipsOf(root) {
    for (const time of root.querySelectorAll("time[datetime]:not([data-tip])")) {
      const at = new Date(time.dateTime);
      const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
      const utc = time.title || `${time.dateTime.slice(0, 19).replace("T", " ")}Z`;
      const local = at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
      time.title = `${utc}\n${local} ${zone}`;
    }
    for (const element of root.querySelectorAll("main [title]:not([data-tip]), .tag[title]:not([data-tip])")) {
      if (element.closest("a, button, summary, label, svg")) continue;
      element.dataset.tip = "";
      if (element.closest(".listing") || element.matches("td, th, dt")) continue;  // the page of the row has them too
      element.tabIndex = 0;
      element.setAttribute("role", "button");
    }
  }

  function showTip(element) {
    tip.textContent = element.title;
    tip.showPopover();
    const { left, bottom, top } = element.getBoundingClientRect();
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
    tip.style.top = `${bottom + height + 4 < innerHeight ? bottom + 4 : Math.max(4, top - height - 4)}px`;
    say(element.title);
  }

  document.addEventListener("click", (event) => {
    const element = event.target.closest("[data-tip]");
    if (element && !event.target.closest("a, button, summary, input")) showTip(element);
  });
  document.addEventListener("keydown", (event) => {
    if (!["Enter", " "].includes(event.key) || !event.target.matches("[data-tip]")) return;
    event.preventDefault();
    showTip(event.target);
  });

  // --- Parts that refresh themselves --------------------------------------------------------------------------------

  const filesOf = (html) => html.match(/page\.(?:css|js)\?v=\w+/g)?.join();
  const FILES = filesOf(document.head.innerHTML);
  const life = document.getElementById("life");
  const choice = document.getElementById("refresh");
  const part = () => document.querySelector("#live[hx-get]");
  let opened = [];
  let closed = [];
  let announced = "";
  // Times come from the server, and distances from a clock that cannot be set: the browser's clock may be wrong.
  let serverNow = document.body.dataset.now;
  let updatedAt = performance.now();
  let askedAt = updatedAt;

  // A part is not refreshed while the page is hidden, or while the reader fills in a form of the part.
  const busy = (part) =>
    document.hidden ||
    part.querySelector("details.menu[open], td.select input:checked") ||
    (part.contains(document.activeElement) && typing(document.activeElement));

  // Seconds between refreshes, as the reader has chosen, or as the page has them. 0: none.
  function every() {
    const own = part()?.getAttribute("hx-trigger").match(/every (\d+)s/)?.[1];
    return Number(choice?.value || own || 0);
  }

  document.addEventListener("htmx:beforeRequest", (event) => {
    if (event.target.id !== "live") return;
    const isTimer = !event.detail.requestConfig.triggeringEvent;
    if (busy(event.target) || (isTimer && choice?.value)) event.preventDefault();
    else askedAt = performance.now();
  });
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr } = event.detail;
    if (busy(event.target)) event.detail.shouldSwap = false;
    if (xhr.status >= 400 || !event.detail.shouldSwap) return;
    const text = xhr.responseText;
    if (!/ id="live"/.test(text)) {  // for example the form of a sign-in: the page keeps what it has
      event.detail.shouldSwap = false;
      showStale("this page is not there any more, or you are not signed in", "Load the page again");
      return;
    }
    if (filesOf(text) !== FILES) {  // a deploy: the old script and style do not fit the new page
      event.detail.shouldSwap = false;
      location.reload();
      return;
    }
    serverNow = text.match(/ data-now="([^"]+)"/)?.[1] ?? serverNow;
    const all = [...document.querySelectorAll("#live details[id]")];
    opened = all.filter((details) => details.open).map((details) => details.id);
    closed = all.filter((details) => !details.open).map((details) => details.id);
  });
  document.addEventListener("htmx:afterSwap", () => {
    for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
    for (const id of closed) document.getElementById(id)?.removeAttribute("open");
    show();
    const announcement = document.getElementById("live")?.dataset.announce;
    if (announcement && announcement !== announced) say(announcement);
    announced = announcement;
    updatedAt = performance.now();
    document.getElementById("stale").hidden = true;
    showTab(document.getElementById("live"));
    showLife();
  });

  // --- The tab: the start page's title and icon have the number and the grade of what needs an operator ---------------

  let tabTitle = "";

  function showTab(live) {
    if (!live?.dataset.title) return;
    tabTitle = document.title = live.dataset.title;
    const icon = document.querySelector("link[rel=icon]");
    const href = `${BASE}/${live.dataset.icon}`;
    if (icon.getAttribute("href") !== href) icon.href = href;
  }

  showTab(document.getElementById("live"));

  function showStale(problem, link) {
    const stale = document.getElementById("stale");
    const seconds = every();
    const text = `Not up to date since ${serverNow.slice(11, 19)}Z: ${problem}.${seconds ? ` Retrying every ${seconds} s.` : ""} `;
    stale.hidden = false;
    if (tabTitle) document.title = `Not up to date · ${tabTitle}`;
    if (stale.dataset.text === text) return;  // it is read out only once
    stale.dataset.text = text;
    const again = Object.assign(document.createElement("a"), { href: location.href, textContent: link });
    stale.replaceChildren(text, again);
  }
  for (const failure of ["htmx:sendError", "htmx:responseError", "htmx:timeout"]) {
    document.addEventListener(failure, (event) => {
      const status = event.detail.xhr?.status;
      if (status === 401) showStale("you are not signed in any more", "Sign in");
      else if (status === 503) showStale("no answer from the database", "Load the page again");
      else if (status) showStale(`the page answered with status ${status}`, "Load the page again");
      else showStale("no answer from the page; check that `joblane page` still runs", "Load the page again");
    });
  }
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && part()) htmx.trigger(part(), "refresh");
  });

  function lasting(seconds) {
    return seconds < 60 ? `${seconds} s` : seconds < 3600 ? `${Math.floor(seconds / 60)} min` : `${Math.floor(seconds / 3600)} h`;
  }

  function showLife() {
    if (!life) return;
    const live = part();
    const isOn = every() > 0;
    life.hidden = !live;
    if (!live) return;
    life.classList.toggle("off", !isOn);
    life.classList.toggle("stale", !document.getElementById("stale").hidden);
    const age = Math.floor((performance.now() - updatedAt) / 1000);
    const waits = isOn && !document.hidden && busy(live) ? ", waits for your form" : "";
    document.getElementById("life-text").textContent = `${lasting(age)} ago${waits}`;
    life.title = `Up to date at ${serverNow.slice(11, 19)}Z. ${isOn ? `Refreshed every ${every()} s.` : "Not refreshed."}`;
  }

  setInterval(() => {
    showLife();
    const seconds = Number(choice?.value);
    if (seconds && part() && !busy(part()) && performance.now() - askedAt >= seconds * 1000 - 500) {
      htmx.trigger(part(), "refresh");
    }
  }, 1000);

  choice?.addEventListener("change", () => {
    localStorage.setItem("joblane-refresh", choice.value);
    if (Number(choice.value) && part()) htmx.trigger(part(), "refresh");
    showLife();
  });
  if (choice) {
    choice.value = localStorage.getItem("joblane-refresh") ?? "";
    if (choice.selectedIndex < 0) choice.value = "";
  }

  function show() {
    for (const element of document.querySelectorAll(".needs-script")) element.hidden = false;
    tipsOf(document);
    count();
  }

  document.querySelector("[data-keys]")?.addEventListener("click", () => press("?"));
  say("");
  const box = document.getElementById("keys-on");
  if (box) box.checked = keysOn();
  show();
  showLife();
})();
