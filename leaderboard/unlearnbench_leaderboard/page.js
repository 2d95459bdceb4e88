
"use strict";
// Sorting, filters, details, the link between plot and table, and the theme. The page is whole
// without any of it: everything that is shown is in the document already.
(() => {
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("data").textContent);
  const rows = new Map(); // by id: the row's data and its table's
  for (const table of data.tables) {
    for (const row of table.rows) rows.set(row.id, { ...row, table });
  }
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const say = (text) => { document.getElementById("status").textContent = text; };
  root.classList.add("script");

  // --- theme: the system's, until the reader chooses -------------------------------------------
  const toggle = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const remembered = (value) => {
    try { // storage may be forbidden on file://
      if (value) localStorage.setItem("unlearnbench-theme", value);
      return localStorage.getItem("unlearnbench-theme");
    } catch { return null; }
  };
  const isDark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const showTheme = () => toggle.setAttribute("aria-pressed", String(isDark()));
  const chosen = remembered();
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remembered(root.dataset.theme);
    showTheme();
  });
  system.addEventListener("change", showTheme);
  showTheme();

  // --- details ------------------------------------------------------------------------------------
  const open = (id, wanted) => {
    const detail = document.getElementById(`d-${id}`);
    const button = document.querySelector(`[aria-controls="d-${id}"]`);
    const shown = wanted ?? !detail.classList.contains("open");
    detail.classList.toggle("open", shown);
    button.setAttribute("aria-expanded", String(shown));
  };
  for (const button of all(".disclose")) {
    button.addEventListener("click", () => open(button.closest("tr").dataset.row));
  }
  const goTo = (id) => {
    if (!rows.has(id)) return;
    open(id, true);
    document.getElementById(`r-${id}`).scrollIntoView({ block: "center" });
    document.querySelector(`[aria-controls="d-${id}"]`).focus({ preventScroll: true });
  };
  if (location.hash.startsWith("#r-")) goTo(location.hash.slice(3));

  // --- plot and table light up together -------------------------------------------------------------
  const light = (id, on) => {
    for (const element of all(`[data-row="${id}"]`)) element.classList.toggle("lit", on);
  };
  for (const row of all("tr.row")) {
    row.addEventListener("mouseenter", () => light(row.dataset.row, true));
    row.addEventListener("mouseleave", () => light(row.dataset.row, false));
  }
  for (const point of all(".point")) {
    const { row: id } = point.dataset;
    const figure = point.closest("figure");
    const tip = figure.querySelector(".tip");
    point.querySelector("title").remove(); // the tooltip says it; aria-label remains
    const show = () => {
      light(id, true);
      tip.textContent = rows.get(id).tip;
      tip.hidden = false;
      const frame = figure.getBoundingClientRect();
      const mark = point.querySelector("path").getBoundingClientRect();
      const left = mark.left - frame.left + mark.width / 2 - tip.offsetWidth / 2;
      const above = mark.top - frame.top - tip.offsetHeight - 8;
      tip.style.left = `${Math.max(0, Math.min(left, frame.width - tip.offsetWidth))}px`;
      tip.style.top = `${above > 0 ? above : mark.bottom - frame.top + 8}px`;
    };
    const hide = () => { light(id, false); tip.hidden = true; };
    point.addEventListener("mouseenter", show);
    point.addEventListener("mouseleave", hide);
    point.addEventListener("focus", show);
    point.addEventListener("blur", hide);
    point.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
    point.addEventListener("click", (event) => { event.preventDefault(); goTo(id); });
  }

  // --- sorting: rows move within their section, what has no value comes last ------------------------
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en") : a - b);
  const sort = (table, key, direction) => {
    for (const body of all(":scope > tbody", table)) {
      const satellites = new Map();
      for (const element of all(":scope > [data-of]", body)) {
        const { of } = element.dataset;
        satellites.set(of, [...(satellites.get(of) || []), element]);
      }
      const sorted = all(":scope > tr.row", body)
        .map((element, place) => ({ element, place, value: rows.get(element.dataset.row).sort[key] }))
        .sort((a, b) => {
          const [missingA, missingB] = [a.value == null, b.value == null];
          if (missingA || missingB) return missingA - missingB || a.place - b.place;
          return direction * compare(a.value, b.value) || a.place - b.place;
        });
      for (const { element } of sorted) {
        body.append(element, ...(satellites.get(element.dataset.row) || []));
      }
    }
  };
  for (const header of all("thead th[data-key]")) {
    header.querySelector("button").addEventListener("click", () => {
      const table = header.closest("table");
      const now = header.getAttribute("aria-sort");
      const first = header.dataset.better === "↑" ? "descending" : "ascending"; // the best on top
      const other = first === "ascending" ? "descending" : "ascending";
      const order = now === first ? other : first;
      for (const th of all("thead th[data-key]", table)) th.setAttribute("aria-sort", "none");
      header.setAttribute("aria-sort", order);
      sort(table, header.dataset.key, order === "ascending" ? 1 : -1);
      say(`Sorted by ${header.querySelector("span").textContent}, ${order}.`);
    });
  }

  // --- filters: references stay, as long as their table does ------------------------------------------
  const form = document.querySelector(".controls");
  const value = (name) => document.getElementById(`filter-${name}`).value;
  const filter = () => {
    const wanted = { task: value("task"), model: value("model"), tag: value("tag"), tier: value("tier") };
    const words = value("text").toLowerCase().split(/\s+/).filter(Boolean);
    const narrow = Boolean(wanted.tag || wanted.tier || words.length);
    let shownRows = 0;
    let shownTables = 0;
    for (const table of data.tables) {
      const here = (!wanted.task || table.task === wanted.task) && (!wanted.model || table.model === wanted.model);
      const fits = (row) => (!wanted.tag || row.tag === wanted.tag)
        && (!wanted.tier || row.tier === wanted.tier)
        && words.every((word) => row.text.includes(word));
      const matching = new Set(table.rows.filter((row) => !row.reference && fits(row)).map((row) => row.id));
      const asked = words.length && table.rows.some((row) => row.reference && words.every((word) => row.text.includes(word)));
      const shown = here && (!narrow || matching.size > 0 || asked);
      const section = document.getElementById(`t-${table.id}`);
      section.hidden = !shown;
      if (!shown) continue;
      shownTables += 1;
      for (const row of table.rows) {
        const visible = row.reference || matching.has(row.id);
        shownRows += visible && !row.reference;
        for (const element of all(`[data-row="${row.id}"], [data-of="${row.id}"]`, section)) {
          // SVG elements have no hidden property.
          if (visible) element.removeAttribute("hidden");
          else element.setAttribute("hidden", "");
        }
      }
      for (const body of all("tbody", section.querySelector("table"))) {
        if (body.querySelector("tr.row")) body.hidden = !body.querySelector("tr.row:not([hidden])");
      }
    }
    document.getElementById("nothing").hidden = shownTables > 0;
    say(`${shownRows} rows in ${shownTables} tables.`);
  };
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
})();
