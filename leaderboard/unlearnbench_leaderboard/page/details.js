
"use strict";
// What is written into the document on demand: the details of a row, the page of a method. Text
// from results becomes text nodes and never markup.

/** An element: attributes by name, children as elements or text. */
const make = (name, attributes = {}, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value != null) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child != null && child !== ""));
  return element;
};
/** Text of a result, which cannot turn its neighbours around. */
const bdi = (text) => make("bdi", {}, text);
const draw = (name, attributes, ...children) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};
const heading = (level, text, quiet) =>
  make(`h${level}`, {}, text, quiet ? " " : "", quiet ? make("span", { class: "promise" }, quiet) : "");
const section = (...children) => make("section", {}, ...children);
const wide = (...children) => make("section", { class: "full" }, ...children);

const definitions = (pairs) => {
  const list = make("dl", { class: "facts" });
  for (const [name, value] of pairs) {
    list.append(make("div", {}, make("dt", {}, bdi(name)), make("dd", {}, bdi(value))));
  }
  return list;
};

/** A table of its own, that scrolls sideways where it has to. */
const inner = (label, heads, rows) => {
  const head = make("tr", {}, ...heads.map(([text, kind]) => make("th", { scope: "col", class: kind }, text)));
  return make(
    "div", { class: "scroll", role: "region", tabindex: "0", "aria-label": label },
    make("table", { class: "inner" }, make("thead", {}, head), make("tbody", {}, ...rows)),
  );
};

/** `0.812 [0.790-0.834]`, the interval quieter. */
const score = (text) => {
  const [value, ...interval] = text.split(" ");
  return interval.length ? [`${value} `, make("span", { class: "ci" }, interval.join(" "))] : [value];
};

const arrow = (mark) => (mark
  ? [" ", make("span", { class: "arrow", "aria-hidden": "true" }, mark),
    make("span", { class: "hidden-text" }, `, ${mark === "↑" ? "higher" : "lower"} is better`)]
  : []);

const seedRows = (row) => row.runs.map(([seed, status, tier, href, name, command, error]) =>
  make("tr", {},
    make("th", { scope: "row" }, String(seed)),
    make("td", { class: "text" }, status),
    make("td", { class: "text" }, bdi(tier)),
    make("td", { class: "text" }, href ? make("a", { href }, bdi(name)) : bdi(name)),
    make("td", { class: "text" }, error ? bdi(error) : make("code", {}, bdi(command)))));

const metricRows = (row, table) => table.metrics.flatMap(([name, split, mark, before, oracle], index) => {
  const values = row.metrics[index];
  if (!values) return [];
  const [mean, ...seeds] = values;
  const references = row.borrowed ? [] : [before, ...(table.oracle ? [oracle] : [])];
  return [make("tr", {},
    make("th", { scope: "row", class: "text" }, bdi(name), ...arrow(mark)),
    make("td", { class: "text" }, bdi(split)),
    make("td", { class: "strong" }, mean),
    ...seeds.map((text) => make("td", {}, ...score(text))),
    ...references.map((text) => make("td", {}, text ?? "–")))];
});

const attackRows = (row) => row.attacks.map(([name, options, reason, ...values]) => {
  const head = make("th", { scope: "row", class: "text" }, bdi(name), make("br"), make("span", { class: "ci" }, bdi(options)));
  if (reason) return make("tr", {}, head, make("td", { class: "text", colspan: "6" }, bdi(reason)));
  const others = values.pop();
  return make("tr", {}, head,
    ...values.map((text, index) => make("td", { class: index === 4 ? "strong" : null }, ...(text == null ? ["–"] : score(text)))),
    make("td", { class: "text" }, bdi(others)));
});

const exampleRows = (row, table) => table.items.map(([split, id, before, oracle], index) =>
  make("tr", {},
    make("th", { scope: "row", class: "text" }, bdi(split), make("br"), make("span", { class: "ci" }, bdi(id))),
    make("td", { class: "text" }, bdi(before)),
    make("td", { class: "text strong" }, row.answers[index] == null ? "–" : bdi(row.answers[index])),
    ...(table.items.some((item) => item[3] != null) ? [make("td", { class: "text" }, oracle == null ? "–" : bdi(oracle))] : [])));

/** Each seed's score with its interval, on the pooled one: how far chance alone moves a row. */
const spread = (row) => {
  const three = (value) => value.toFixed(3);
  return row.spread.map(([name, value, low, high, seeds]) => {
    const ends = [value, low, high, ...seeds.flatMap((seed) => seed.slice(1))].filter((v) => v != null);
    const middle = (Math.min(...ends) + Math.max(...ends)) / 2;
    // Never closer than 0.1: what is the same should look the same.
    const half = Math.max((Math.max(...ends) - Math.min(...ends)) * 0.55, 0.05);
    const [left, right] = [middle - half, middle + half];
    const x = (v) => (40 + 270 * (v - left) / (right - left)).toFixed(1);
    const height = 18 * seeds.length;
    const words = seeds.map(([seed, v]) => `seed ${seed} ${three(v)}`).join(", ");
    const picture = draw("svg", {
      class: "spread", viewBox: `0 0 320 ${height + 22}`, role: "img", "aria-label": `${name} ${three(value)}: ${words}`,
    });
    if (low != null && high != null) {
      picture.append(draw("rect", { class: "pooled", x: x(low), y: 0, width: (x(high) - x(low)).toFixed(1), height }));
    }
    picture.append(draw("line", { class: "mean", x1: x(value), x2: x(value), y1: 0, y2: height }));
    seeds.forEach(([seed, v, from, to], index) => {
      const y = 18 * index + 9;
      picture.append(draw("text", { x: 30, y: y + 4, "text-anchor": "end" }, String(seed)));
      if (from != null && to != null) picture.append(draw("line", { class: "reach", x1: x(from), x2: x(to), y1: y, y2: y }));
      picture.append(draw("circle", { cx: x(v), cy: y, r: 4 }));
    });
    picture.append(
      draw("line", { class: "axis", x1: 40, x2: 310, y1: height + 1, y2: height + 1 }),
      draw("text", { x: 40, y: height + 16 }, three(left)),
      draw("text", { x: 310, y: height + 16, "text-anchor": "end" }, three(right)),
    );
    return make("div", {}, make("p", { class: "spread-name" }, `${name} `, make("strong", {}, three(value))), picture);
  });
};

/** All that is known of a row, under headings of a level. */
const details = (row, table, level) => {
  const of = `of ${row.label} on ${table.title}`;
  const found = [];
  if (row.config.length) found.push(section(heading(level, "Configuration"), definitions(row.config)));
  found.push(section(
    heading(level, "Row"), definitions(row.facts),
    row.borrowed ? make("p", {}, "Nobody ran this reference here: its numbers are those that every result carries along.") : null));
  if (row.cost.length) found.push(section(heading(level, "Cost", "mean over seeds"), definitions(row.cost)));
  if (row.spread.length) {
    found.push(wide(
      heading(level, "Spread over seeds", "band: the row's 95 % interval; whiskers: each seed's"),
      make("div", { class: "spreads" }, ...spread(row))));
  }
  if (row.answers) {
    const oracle = table.items.some((item) => item[3] != null) ? [["retrained oracle", "text"]] : [];
    found.push(wide(
      heading(level, "What it says", `seed ${row.seeds[0]}; items drawn by a hash of their ids, the same for every row`),
      inner(`What it says, ${of}`, [["item", "text"], ["before", "text"], ["after", "text"], ...oracle], exampleRows(row, table))));
  }
  const metrics = metricRows(row, table);
  if (metrics.length) {
    const references = row.borrowed ? [] : [["before"], ...(table.oracle ? [["oracle"]] : [])];
    found.push(wide(
      heading(level, "All metrics"),
      inner(`All metrics ${of}`,
        [["metric", "text"], ["split", "text"], [row.seeds.length > 1 ? "mean" : "value"], ...row.seeds.map((seed) => [`seed ${seed}`]), ...references],
        metrics)));
  }
  if (row.attacks) {
    found.push(wide(
      heading(level, "Attacks", "recovered: of everything (1); recovery: of what was forgotten; excess: from the oracle (0) to the model before (1)"),
      inner(`Attacks ${of}`,
        [["attack", "text"], ["recovered"], ["before"], ["oracle"], ["recovery"], ["excess"], ["others", "text"]],
        attackRows(row))));
  }
  if (row.runs.length) {
    found.push(wide(
      heading(level, "Seeds"),
      inner(`Seeds ${of}`, [["seed"], ["status", "text"], ["tier", "text"], ["result file", "text"], ["command", "text"]], seedRows(row))));
  }
  return make("div", { class: `details ${row.reference ? "reference" : row.tag}` }, ...found);
};

/** The cell of a row in its table, as it stands there. */
const copied = (row, table, column) => {
  const cell = document.getElementById(`r-${row.id}`).children[table.columns.indexOf(column)];
  return cell ? cell.cloneNode(true) : make("td", {}, "–");
};

/** Everything about one method: `places` are its rows with their tables, in the tables' order. */
const methodPage = (name, places, { links, unfold }) => {
  const from = [...new Set(places.flatMap(({ row }) => row.facts.filter(([key]) => key === "from").map(([, value]) => value)))];
  const tags = [...new Set(places.map(({ row }) => (row.reference ? "reference" : row.tag)).filter(Boolean))];
  const tables = new Set(places.map(({ table }) => table));
  const headlines = ["forget", "utility", "privacy", "robustness"]
    .filter((column) => [...tables].some((table) => table.columns.includes(column)));
  const lines = places.map(({ row, table }) => make("tr", { class: `row ${row.reference ? "reference" : row.tag}` },
    make("th", { scope: "row", class: "method" }, make("a", { href: `#r-${row.id}` }, bdi(table.title)),
      row.label === name ? "" : make("span", { class: "label" }, bdi(row.label))),
    ...["rank", ...headlines, "seeds", "tier"].map((column) => copied(row, table, column))));
  const blocks = [];
  for (const table of tables) {
    blocks.push(make("h3", {}, make("a", { href: `#t-${table.id}` }, bdi(table.title))));
    for (const { row } of places.filter((place) => place.table === table)) {
      const block = make("details", { class: "of-row", "data-row": row.id },
        make("summary", {}, bdi(row.label)));
      block.addEventListener("toggle", () => {
        if (block.open && block.children.length === 1) block.append(details(row, table, 4));
      });
      block.open = unfold(row);
      blocks.push(block);
    }
  }
  return [
    make("p", { class: "back" }, make("a", { href: links.back, "data-view": "" }, "← All tables")),
    make("h2", { id: "h-method", tabindex: "-1" }, bdi(name)),
    make("p", { class: "lead" }, tags.join(", "), tags.length ? " · " : "",
      `${places.length} row${places.length === 1 ? "" : "s"} in ${tables.size} table${tables.size === 1 ? "" : "s"}`),
    from.length ? make("p", { class: "counts" }, ...from.flatMap((text, i) => [i ? "; " : "", bdi(text)])) : null,
    make("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": `Rows of ${name}` },
      make("table", {},
        make("caption", {}, "Every row of this method. Ranks are given within a table and a guarantee tag."),
        make("thead", {}, make("tr", {},
          ...[["table", "method"], ["rank", "rank"], ...headlines.map((column) => [column, ""]), ["seeds", "seeds minor"], ["tier", "tier minor"]].map(
            ([text, kind]) => make("th", { scope: "col", class: kind }, make("span", { class: "head" }, text))))),
        make("tbody", {}, ...lines))),
    ...blocks,
  ].filter(Boolean);
};
