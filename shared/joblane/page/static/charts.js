// One time cursor over all charts of a page, by pointer and by arrow keys: without it each column has a tooltip and a link.
// And the place to which the picture of a workflow is scrolled.
"use strict";

(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const tip = document.getElementById("tip");
  const charts = () => [...document.querySelectorAll(".chart[data-from]")];
  let shown = null;  // the column of the cursor
  let keyed = null;  // the chart whose keys have moved it

  // Only one of the charts over the same time has the columns, with their words and links.
  function columnsOf(chart) {
    const { from, to } = chart.dataset;
    const found = charts().filter((one) => one.dataset.from === from && one.dataset.to === to);
    return found.map((one) => [...one.querySelectorAll(".hover")]).find((columns) => columns.length) ?? [];
  }

  // The box of the page has the words at once; the browser's own tooltip would cover it.
  function wordsOf(element) {
    const title = element.querySelector("title");
    if (title) {
      element.dataset.words = title.textContent;
      title.remove();
    }
    return element.dataset.words ?? "";
  }

  function draw(at) {
    for (const chart of charts()) {
      const { from, to } = chart.dataset;
      const share = (at - from) / (to - from);
      let line = chart.querySelector(".cursor");
      if (share < 0 || share > 1) {
        line?.remove();
        continue;
      }
      if (!line) {
        line = document.createElementNS(SVG, "line");
        line.setAttribute("class", "cursor");
        line.setAttribute("y2", "100%");
        chart.querySelector(".plot").append(line);
      }
      for (const end of ["x1", "x2"]) line.setAttribute(end, `${share * 100}%`);
    }
  }

  function show(chart, column, words) {
    const columns = columnsOf(chart);
    const { from, to } = chart.dataset;
    shown = column;
    draw(+from + ((columns.indexOf(column) + 0.5) / columns.length) * (to - from));
    tip.textContent = words;
    tip.showPopover();
    const plot = chart.querySelector(".plot").getBoundingClientRect();
    const place = { left: column.getBoundingClientRect().left, right: column.getBoundingClientRect().right, top: plot.top };
    const { width, height } = tip.getBoundingClientRect();
    const right = place.right + 8;
    tip.style.left = `${right + width < innerWidth ? right : Math.max(4, place.left - width - 8)}px`;
    tip.style.top = `${Math.max(4, Math.min(place.top, innerHeight - height - 4))}px`;
  }

  function hide() {
    if (!shown) return;
    shown = keyed = null;
    for (const line of document.querySelectorAll(".chart .cursor")) line.remove();
    tip.hidePopover();
  }

  document.addEventListener("pointermove", (event) => {
    const chart = event.target.closest?.(".chart[data-from]");
    const plot = chart?.querySelector(".plot").getBoundingClientRect();
    if (!plot || event.clientX < plot.left || event.clientX >= plot.right) return hide();
    const columns = columnsOf(chart);
    const column = columns[Math.floor(((event.clientX - plot.left) / plot.width) * columns.length)];
    const mark = event.target.closest(".mark");
    keyed = null;
    if (column) show(chart, column, (mark ? `${wordsOf(mark)}\n` : "") + wordsOf(column));
  });
  const follow = () => location.assign(shown.closest("a").getAttribute("href"));
  document.addEventListener("click", (event) => {
    if (shown && event.target.closest?.(".chart[data-from] .plot") && !event.target.closest("a")) follow();
  });
  document.addEventListener("pointerleave", hide);
  // The focus scrolls a chart into view, and its first keys can come before the event.
  document.addEventListener("scroll", () => (keyed ? show(keyed, shown, tip.textContent) : hide()), { passive: true });
  document.addEventListener("htmx:beforeSwap", hide);

  // The keys of a slider: a chart with the focus moves the cursor, and Enter follows its column.
  const MOVES = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };

  document.addEventListener("keydown", (event) => {
    const chart = event.target.closest?.(".chart[data-from]");
    if (!chart || event.ctrlKey || event.metaKey || event.altKey) return;
    const columns = columnsOf(chart);
    const now = columns.indexOf(shown);
    if (event.key === "Escape") return hide();
    if (event.key === "Enter" && now >= 0) return follow();
    const by = MOVES[event.key];
    if (by === undefined || !columns.length) return;
    event.preventDefault();
    const next = now < 0 ? columns.length - 1 : Math.min(Math.max(now + by, 0), columns.length - 1);
    const words = wordsOf(columns[next]);
    show(chart, columns[next], words);
    keyed = chart;
    document.getElementById("announce").textContent = words;
  });
  document.addEventListener("focusout", hide);

  // The picture of a workflow shows its task first, and then what the reader has scrolled to.
  let scrolled = null;

  function showWorkflow() {
    const box = document.querySelector(".workflow");
    if (!box) return;
    const seen = [...box.querySelectorAll(".here")].find((one) => one.getClientRects().length);  // the style sheet hides one
    const here = seen?.getBoundingClientRect();
    const { left, top, width, height } = box.getBoundingClientRect();
    if (scrolled) box.scrollTo(...scrolled);
    else if (here) box.scrollTo((here.left + here.right - width) / 2 - left, (here.top + here.bottom - height) / 2 - top);
  }
  document.addEventListener("htmx:beforeSwap", () => {
    const box = document.querySelector(".workflow");
    scrolled = box && [box.scrollLeft, box.scrollTop];
  });

  function begin() {
    for (const chart of charts()) chart.tabIndex = 0;
    showWorkflow();
  }
  document.addEventListener("htmx:afterSwap", begin);
  begin();
})();
