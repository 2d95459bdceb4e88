
// The page's life: sorting, filters, unfolding, the link between plot and table, the theme. Which
// of it is shown is one value, the view; it stands in the address, so that a view can be sent to
// somebody, and back and forward work. The page is whole without any of it.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const say = (text) => { document.getElementById("status").textContent = text; };
  const main = document.getElementById("tables");
  const form = document.querySelector(".controls");
  const FILTERS = ["task", "model", "tag", "tier", "text"];
  const field = Object.fromEntries(FILTERS.map((name) => [name, document.getElementById(`filter-${name}`)]));
  root.classList.add("script");

  const tables = new Map(); // by id
  const rows = new Map(); // by id: a row, its table, its place in it
  const methods = new Map(); // by name: where its rows are
  for (const table of data.tables) {
    tables.set(table.id, table);
    table.element = document.querySelector(`#t-${table.id} table`);
    table.rows.forEach((row, place) => {
      rows.set(row.id, { row, table, place, element: document.getElementById(`r-${row.id}`) });
      if (!methods.has(row.method)) methods.set(row.method, []);
      methods.get(row.method).push({ row, table });
    });
  }
  for (const element of all("[data-row], [data-of]")) {
    const known = rows.get(element.dataset.row ?? element.dataset.of);
    (known.parts ??= []).push(element); // the row, its remark, its marks in the plots
  }

  // --- the view, and its writing in the address ---------------------------------------------------
  const DEFAULT_SORT = "rank.asc";
  const empty = () => ({ task: "", model: "", tag: "", tier: "", text: "", sorts: new Map(), open: new Set(), method: "" });

  /** The view that a fragment tells of. What is unknown in it is left out: anybody writes links. */
  const read = (fragment) => {
    const view = empty();
    if (!fragment.includes("=")) {
      const id = fragment.startsWith("#r-") ? fragment.slice(3) : "";
      if (rows.has(id)) view.open.add(id);
      return view;
    }
    for (const [name, value] of new URLSearchParams(fragment.slice(1, 20_000))) {
      if (name === "q") view.text = value.slice(0, 200);
      else if (name === "row" && rows.has(value)) view.open.add(value);
      else if (name === "method" && methods.has(value)) view.method = value;
      else if (name === "sort") {
        const [, id, key, order] = /^(\w+)\.(.+)\.(asc|desc)$/s.exec(value) ?? [];
        if (tables.get(id)?.columns.includes(key)) view.sorts.set(id, `${key}.${order}`);
      } else if (["task", "model", "tag", "tier"].includes(name)) {
        if ([...field[name].options].some((option) => option.value === value)) view[name] = value;
      }
    }
    return view;
  };

  const write = (view) => {
    const parts = new URLSearchParams();
    for (const name of FILTERS) {
      if (view[name]) parts.append(name === "text" ? "q" : name, view[name]);
    }
    for (const [id, sort] of view.sorts) {
      if (sort !== DEFAULT_SORT) parts.append("sort", `${id}.${sort}`);
    }
    for (const id of view.open) parts.append("row", id);
    if (view.method) parts.append("method", view.method);
    const text = String(parts);
    return text ? `#${text}` : "";
  };

  let view = empty();
  let typing = false;
  /** Shows another view and writes it into the address; typing is one step of the history. */
  const go = (change, { replace = false } = {}) => {
    const next = { ...view, ...change };
    const address = write(next) || location.pathname + location.search;
    if (replace) history.replaceState(null, "", address);
    else {
      history.replaceState({ y: scrollY }, "");
      history.pushState(null, "", address);
    }
    typing = replace;
    show(next);
  };
  const show = (next) => {
    const before = view;
    view = next;
    for (const name of FILTERS) if (field[name].value !== view[name]) field[name].value = view[name];
    for (const table of data.tables) sort(table, view.sorts.get(table.id) ?? DEFAULT_SORT);
    for (const id of new Set([...before.open, ...view.open])) unfold(id, view.open.has(id));
    if (FILTERS.some((name) => before[name] !== view[name])) filter();
    showMethod(before.method);
  };

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

  // --- details of a row ---------------------------------------------------------------------------
  for (const { row, element } of rows.values()) {
    const name = element.querySelector(".name");
    const button = make("button", { type: "button", class: "disclose", "aria-expanded": "false" }, ...name.childNodes);
    name.replaceWith(button);
    button.addEventListener("click", () => {
      const open = new Set(view.open);
      if (!open.delete(row.id)) open.add(row.id);
      go({ open });
    });
  }
  const unfold = (id, wanted) => {
    const known = rows.get(id);
    const { row, table, element } = known;
    element.querySelector(".disclose").setAttribute("aria-expanded", String(wanted));
    if (!wanted) {
      known.detail?.remove();
      return;
    }
    known.detail ??= make("tr", { class: "detail", "data-of": id },
      make("td", { colspan: String(table.columns.length) },
        make("p", { class: "to-method" }, methodLink(row.method, `Everything about ${row.method}`), " · ",
          make("a", { href: `#r-${id}` }, "Link to this row")),
        details(row, table, 3)));
    const after = element.nextElementSibling;
    (after?.matches(`.remark[data-of="${id}"]`) ? after : element).after(known.detail);
    if (element.hasAttribute("hidden")) known.detail.setAttribute("hidden", "");
  };
  const goTo = (id) => {
    const { element } = rows.get(id);
    const hidden = element.hidden || element.closest("[hidden]:not(.method-page)");
    go({ ...(hidden && !view.method ? empty() : {}), method: "", open: new Set(view.open).add(id) });
    if (element.closest("[hidden]")) go({ task: "", model: "", tag: "", tier: "", text: "" }, { replace: true });
    arrive(id);
  };
  const arrive = (id) => {
    const { element } = rows.get(id);
    element.scrollIntoView({ block: "center" });
    element.querySelector(".disclose").focus({ preventScroll: true });
  };

  // --- a method's page ------------------------------------------------------------------------------
  const place = document.getElementById("method");
  const title = document.title;
  const methodLink = (name, text) =>
    make("a", { href: write({ ...empty(), method: name }), "data-view": "" }, bdi(text));
  const showMethod = (before) => {
    if (view.method === before) return;
    root.classList.toggle("one-method", Boolean(view.method));
    place.hidden = !view.method;
    document.title = view.method ? `${view.method} · ${title}` : title;
    if (!view.method) {
      place.replaceChildren();
      return;
    }
    const places = methods.get(view.method);
    place.replaceChildren(...methodPage(view.method, places, {
      links: { back: write({ ...view, method: "" }) || "#tables" },
      unfold: (row) => places.length <= 3 || row === places[0].row,
    }));
    place.querySelector("h2").focus({ preventScroll: true });
  };
  for (const line of all(".matrix tr[data-method]")) {
    const name = line.querySelector("th bdi");
    name.replaceWith(methodLink(line.dataset.method, line.dataset.method));
  }

  // --- links within the page: to a view, to a row, to a place -----------------------------------------
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#']");
    if (!link || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    const fragment = link.getAttribute("href");
    if ("view" in link.dataset) {
      const { method } = read(fragment);
      go({ method });
      scrollTo(0, 0);
    } else if (rows.has(fragment.slice(3))) {
      goTo(fragment.slice(3));
    } else {
      // The address keeps the view: a place in the page is none.
      if (view.method && fragment !== "#reading") go({ method: "" });
      const target = document.getElementById(fragment.slice(1));
      if (target.hidden) go({ task: "", model: "", tag: "", tier: "", text: "" });
      target.scrollIntoView();
      if (!target.hasAttribute("tabindex")) target.setAttribute("tabindex", "-1");
      target.focus({ preventScroll: true });
    }
  });

  // --- plot and table light up together -------------------------------------------------------------
  const light = (id, on) => {
    for (const element of rows.get(id).parts) element.classList.toggle("lit", on);
  };
  for (const { row, element } of rows.values()) {
    element.addEventListener("mouseenter", () => light(row.id, true));
    element.addEventListener("mouseleave", () => light(row.id, false));
  }
  for (const point of all(".point")) {
    const { row: id } = point.dataset;
    const figure = point.closest("figure");
    const tip = figure.querySelector(".tip");
    // The tooltip says what the title says, at once; the name for those who listen remains.
    const title = point.querySelector("title");
    const words = title.textContent;
    point.setAttribute("aria-label", words.replaceAll("\n", ", "));
    title.remove();
    const reveal = () => {
      light(id, true);
      tip.textContent = words;
      tip.hidden = false;
      const frame = figure.getBoundingClientRect();
      const mark = point.querySelector("path").getBoundingClientRect();
      const left = mark.left - frame.left + mark.width / 2 - tip.offsetWidth / 2;
      const above = mark.top - frame.top - tip.offsetHeight - 8;
      tip.style.left = `${Math.max(0, Math.min(left, frame.width - tip.offsetWidth))}px`;
      tip.style.top = `${above > 0 ? above : mark.bottom - frame.top + 8}px`;
    };
    const hide = () => { light(id, false); tip.hidden = true; };
    point.addEventListener("mouseenter", reveal);
    point.addEventListener("mouseleave", hide);
    point.addEventListener("focus", reveal);
    point.addEventListener("blur", hide);
    point.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  }

  // --- sorting: rows move within their section, what has no value comes last ------------------------
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en") : a - b);
  const sort = (table, wanted) => {
    if ((table.sorted ?? DEFAULT_SORT) === wanted) return;
    table.sorted = wanted;
    const key = wanted.replace(/\.\w+$/, "");
    const descending = wanted.endsWith(".desc");
    const column = table.columns.indexOf(key);
    for (const header of all("th[data-key]", table.element)) {
      const order = descending ? "descending" : "ascending";
      header.setAttribute("aria-sort", header.dataset.key === key ? order : "none");
    }
    for (const body of table.element.tBodies) {
      const satellites = new Map();
      for (const element of all(":scope > [data-of]", body)) {
        const { of } = element.dataset;
        satellites.set(of, [...(satellites.get(of) ?? []), element]);
      }
      const sorted = all(":scope > tr.row", body).map((element) => rows.get(element.dataset.row)).sort((a, b) => {
        const [x, y] = [a.row.sort[column], b.row.sort[column]];
        if (x == null || y == null) return (x == null) - (y == null) || a.place - b.place;
        return (descending ? -1 : 1) * compare(x, y) || a.place - b.place;
      });
      body.append(...sorted.flatMap(({ row, element }) => [element, ...(satellites.get(row.id) ?? [])]));
    }
  };
  for (const table of data.tables) {
    for (const header of all("th[data-key]", table.element)) {
      const head = header.querySelector(".head");
      const button = make("button", { type: "button" }, ...head.childNodes);
      head.replaceWith(button);
      button.addEventListener("click", () => {
        const first = header.dataset.better === "↑" ? "descending" : "ascending"; // the best on top
        const other = first === "ascending" ? "descending" : "ascending";
        const order = header.getAttribute("aria-sort") === first ? other : first;
        go({ sorts: new Map(view.sorts).set(table.id, `${header.dataset.key}.${order === "ascending" ? "asc" : "desc"}`) });
        say(`Sorted by ${button.querySelector("span").textContent}, ${order}.`);
      });
    }
  }

  // --- filters: references stay, as long as their table does ------------------------------------------
  /** All that a row is found by, in small letters. */
  const text = (known) => {
    const { row, element } = known;
    const remark = element.nextElementSibling?.matches(".remark") ? element.nextElementSibling.textContent : "";
    return known.text ??= [row.label, row.method, row.tag, ...row.config.flat(), ...row.facts.flat(), remark]
      .join(" ").toLowerCase();
  };
  const setHidden = (element, hidden) => element.toggleAttribute("hidden", hidden); // SVG has no property
  const filter = () => {
    const words = view.text.toLowerCase().split(/\s+/).filter(Boolean);
    const narrow = Boolean(view.tag || view.tier || words.length);
    const found = (known) => words.every((word) => text(known).includes(word));
    const seen = new Set(); // methods with a row that is shown
    let shownRows = 0;
    let shownTables = 0;
    for (const table of data.tables) {
      const here = (!view.task || table.task === view.task) && (!view.model || table.model === view.model);
      const known = table.rows.map((row) => rows.get(row.id));
      const fits = ({ row }) => (!view.tag || row.tag === view.tag) && (!view.tier || row.tier === view.tier);
      const matching = new Set(known.filter((k) => !k.row.reference && fits(k) && found(k)));
      const asked = words.length && known.some((k) => k.row.reference && found(k));
      const shown = here && (!narrow || matching.size > 0 || asked);
      document.getElementById(`t-${table.id}`).hidden = !shown;
      for (const element of all(`.matrix [data-table="${table.id}"]`)) element.hidden = !shown;
      if (!shown) continue;
      shownTables += 1;
      for (const k of known) {
        const visible = k.row.reference || matching.has(k);
        if (visible && !k.row.reference) {
          shownRows += 1;
          seen.add(k.row.method);
        }
        for (const part of k.parts) setHidden(part, !visible);
        if (k.detail) setHidden(k.detail, !visible);
      }
      for (const body of table.element.tBodies) body.hidden = !body.querySelector("tr.row:not([hidden])");
    }
    for (const line of all(".matrix tr[data-method]")) line.hidden = !seen.has(line.dataset.method);
    for (const body of all(".matrix tbody")) body.hidden = !body.querySelector("tr.row:not([hidden])");
    for (const glance of all(".glance")) glance.hidden = !seen.size || shownTables < 2;
    document.getElementById("nothing").hidden = shownTables > 0;
    say(`${shownRows} row${shownRows === 1 ? "" : "s"} in ${shownTables} table${shownTables === 1 ? "" : "s"}.`);
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    const searching = event.target === field.text;
    go(Object.fromEntries(FILTERS.map((name) => [name, field[name].value])), { replace: searching && typing });
    typing = searching;
  });
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    go({ task: "", model: "", tag: "", tier: "", text: "" });
  });

  // --- the start, and the way back ------------------------------------------------------------------
  if (matchMedia("(max-width: 900px)").matches) for (const setting of all("details.setting")) setting.open = false;
  const land = () => {
    show(read(location.hash));
    const [last] = [...view.open].slice(-1);
    if (last && !view.method) arrive(last);
  };
  land();
  addEventListener("popstate", (event) => {
    typing = false;
    if (!location.hash.includes("=") && location.hash.length > 1 && !location.hash.startsWith("#r-")) return;
    if (event.state?.y == null) land();
    else {
      show(read(location.hash));
      scrollTo(0, event.state.y);
    }
  });
})();
