"use strict";
// All texts come from a dataset that anyone may have written: they enter the page as text nodes only.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
// What tints a sentence: its similarity, or another number within bounds that the page gives.
const measure = data.measure || "similarity";
const state = { page: 0, size: 10, kind: "", scale: data.bounds ? "page" : "response", sort: data.bounds ? "change" : "sound", search: "", below: null, found: null };

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

const known = (values) => (values || []).filter((value) => value !== null);
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const spread = (values) => (values.length ? Math.max(...values) - Math.min(...values) : 0);
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);
data.rows.forEach((row) => {
  const [chosen, rejected] = [known(row.chosen.similarity), known(row.rejected.similarity)];
  row.lowest = chosen.length ? Math.min(...chosen) : Infinity;
  row.gap = chosen.length && rejected.length ? mean(chosen) - mean(rejected) : Infinity;
  // Texts side by side: the two responses, tinted by similarity, or what the page gives.
  row.parts = row.parts || [["chosen", chosen], ["rejected", rejected]].map(([name, values]) => {
    let about = values.length ? `similarity ${mean(values).toFixed(3)}` : "not scored";
    if (name === "rejected" && row.gap !== Infinity) about += `, chosen ${signed(row.gap)}`;
    return { name, about, text: row[name].text, spans: row[name].spans, values: row[name].similarity };
  });
  const [first, last] = [row.parts[0].values || [], row.parts[row.parts.length - 1].values || []];
  row.spread = spread(known(first));
  row.change = data.bounds ? Math.max(0, ...first.map((value, index) => Math.abs(last[index] - value))) : 0;
  row.words = [row.id, ...row.prompt.map((turn) => turn[1]), row.chosen.text, row.rejected.text].join("\n").toLowerCase();
});
const all = data.rows.flatMap((row) => row.parts.flatMap((part) => known(part.values)));
const whole = data.bounds ? data.bounds : all.length ? all.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [1, -1]) : [0, 0];
// A response whose similarities spread as widely as those of nine responses in ten is tinted in full.
const spreads = data.rows.map((row) => row.spread).filter((value) => value > 0).sort((a, b) => a - b);
const full = spreads.length ? spreads[Math.floor((spreads.length - 1) * 0.9)] : 1;

function scaled(value, values) {
  const own = known(values);
  const [low, high] = state.scale === "page" ? whole : [Math.min(...own), Math.max(...own)];
  return high - low <= 1e-6 ? null : (value - low) / (high - low);
}

function tint(share, values) {
  if (share === null || state.scale === "off") return "transparent";
  const strength = state.scale === "page" ? 1 : Math.min(1, spread(known(values)) / full);
  return `rgba(var(${share < 0.5 ? "--low" : "--high"}), ${(Math.abs(share - 0.5) * 1.2 * strength).toFixed(3)})`;
}

// Offsets count characters as Python does (code points), while JavaScript counts UTF-16 units.
function response(part, untrained) {
  const box = element("section", part.name.split(" ")[0]);
  const count = part.spans.length;
  const title = element("h2", "", `${part.name}, ${count} sentence${count === 1 ? "" : "s"} `);
  const values = known(part.values);
  title.append(element("span", "pale", part.about));
  box.append(title);
  const text = element("div", "text");
  text.dir = "auto";
  const characters = Array.from(part.text);
  let end = 0;
  if (untrained) {
    const context = element("span", "context", characters.slice(0, untrained).join(""));
    context.title = "given to the model, not trained";
    text.append(context);
    end = untrained;
  }
  part.spans.forEach(([start, stop], index) => {
    text.append(characters.slice(end, start).join(""));
    const sentence = element("span", "sentence", characters.slice(start, stop).join(""));
    const value = part.values ? part.values[index] : null;
    const share = value === null || value === undefined ? undefined : scaled(value, part.values);
    const lines = [`sentence ${index + 1} of ${count}, characters ${start} to ${stop}`];
    if (share === undefined) {
      // A response that is not scored at all is so by design; one sentence of a scored one is a fault.
      if (values.length) sentence.classList.add("none");
      lines.push(`no ${measure}`);
    } else {
      sentence.style.background = tint(share, part.values);
      const relative = share === null || data.bounds ? "" : `, scaled ${share.toFixed(3)}`;
      lines.push(`${measure} ${value.toFixed(4)}${relative}`);
    }
    if (part.notes) lines.push(...part.notes[index]);
    sentence.dataset.tip = lines.join("\n");
    sentence.tabIndex = 0;
    text.append(sentence);
    end = stop;
  });
  text.append(characters.slice(end).join(""));
  box.append(text);
  return box;
}

function numbers(row) {
  const [box, table, head, body] = [element("details", "numbers"), element("table"), element("thead"), element("tbody")];
  box.open = window.innerWidth > 900;
  box.append(element("summary", "", "numbers"));
  const line = (cells, tag) => {
    const made = element("tr");
    made.append(...cells.map((cell) => element(tag, "", cell)));
    return made;
  };
  head.append(line(row.table.head, "th"));
  body.append(...row.table.rows.map((cells) => line(cells, "td")));
  table.append(head, body);
  const scroll = element("div", "scroll");
  scroll.append(table);
  box.append(scroll);
  return box;
}

function pictures(row) {
  const images = element("div", row.images.length > 1 ? "images several" : "images");
  row.images.forEach((source, index) => {
    const name = `image ${index + 1} of ${row.images.length}`;
    if (source === null) return images.append(element("div", "broken", `${name} cannot be decoded.`));
    const [button, image] = [element("button"), element("img")];
    button.type = "button";
    button.title = `${name}: enlarge`;
    image.src = source;
    image.alt = name;
    button.append(image);
    if (row.images.length > 1) button.append(element("span", "number", String(index + 1)));
    button.addEventListener("click", () => {
      at("large").src = source;
      at("large").alt = name;
      at("caption").textContent = `${row.id}, ${name}`;
      at("zoom").showModal();
    });
    images.append(button);
  });
  if (!row.images.length) images.append(element("div", "pale", "no image"));
  return images;
}

function prompt(row) {
  const turns = row.prompt.map(([role, content]) => {
    const [turn, words] = [element("div", "turn"), element("bdi", "", content)];
    words.dir = "auto";
    turn.append(element("span", "role", role), words);
    return turn;
  });
  const words = row.prompt.map(([, content]) => content).join(" ");
  if (turns.length < 2 && words.length < 300) {
    const box = element("div", "prompt");
    box.append(...turns);
    return box;
  }
  const [box, summary] = [element("details", "prompt"), element("summary", "", words.slice(0, 300))];
  summary.dir = "auto";
  box.append(summary, ...turns);
  return box;
}

// Where the rows are no dataset's, their ids say where they are from.
const placed = (row) => (data.numbered === false ? "" : `row ${row.number.toLocaleString("en")}`);

function article(row) {
  const box = element("article", row === state.found ? "found" : "");
  const top = element("div", "top");
  top.append(element("span", "id", row.id), element("span", "pale", placed(row)));
  row.problems.forEach((kind) => top.append(element("span", "badge", kind)));
  const texts = element("div", "texts");
  texts.append(...row.parts.map((part) => response(part, row.untrained)));
  if (row.table) texts.append(numbers(row));
  box.append(top, pictures(row), prompt(row), texts);
  return box;
}

const orders = {
  sound: (a, b) => (a.problems.length > 0) - (b.problems.length > 0),
  number: () => 0,
  lowest: (a, b) => a.lowest - b.lowest || 0,
  spread: (a, b) => b.spread - a.spread,
  change: (a, b) => b.change - a.change,
  gap: (a, b) => a.gap - b.gap || 0,
};

function selected() {
  const wanted = state.search.toLowerCase();
  return data.rows.filter((row) =>
    (!state.kind || row.problems.includes(state.kind)) &&
    (!wanted || row.words.includes(wanted)) &&
    (state.below === null || row.lowest <= state.below)
  ).sort(orders[state.sort]);
}

function show(keep) {
  const rows = selected();
  const pages = Math.max(1, Math.ceil(rows.length / state.size));
  if (state.found) {
    const place = rows.indexOf(state.found);
    if (place >= 0) state.page = Math.floor(place / state.size);
  }
  state.page = Math.min(Math.max(state.page, 0), pages - 1);
  const start = state.page * state.size;
  const shown = rows.slice(start, start + state.size).map(article);
  at("rows").replaceChildren(...(shown.length ? shown : [element("p", "empty", "No rows.")]));
  at("page").textContent = `page ${state.page + 1} of ${pages}`;
  at("previous").disabled = state.page === 0;
  at("next").disabled = state.page === pages - 1;
  at("tip").hidden = true;
  const found = document.querySelector("article.found");
  if (found) {
    found.style.scrollMarginTop = `${document.querySelector("header").offsetHeight + 8}px`;
    found.scrollIntoView();
  }
  else if (!keep) window.scrollTo(0, 0);
  state.found = null;
}

function option(value, text) {
  const made = element("option", "", text);
  made.value = value;
  return made;
}

at("title").textContent = data.title;
at("about").textContent = data.about;
at("filter").append(option("", `all rows (${data.rows.length})`));
data.kinds.forEach((kind) => {
  const count = data.rows.filter((row) => row.problems.includes(kind)).length;
  at("filter").append(option(kind, `${kind} (${count})`));
});
at("ids").append(...data.rows.map((row) => option(row.id, placed(row))));
at("hatched").hidden = !data.rows.some((row) => row.parts.some((part) => known(part.values).length && part.values.includes(null)));
at("measure").textContent = measure;
at("scale").value = state.scale;
if (data.bounds) at("scale").querySelector("[value=page]").textContent = `from ${whole[0]} to ${whole[1]}`;
if (!data.rows.some((row) => row.change > 0)) {
  at("sort").querySelector("[value=change]").remove();
  if (state.sort === "change") state.sort = "sound";
}
at("sort").value = state.sort;
if (!data.rows.some((row) => row.gap !== Infinity)) at("sort").querySelector("[value=gap]").remove();
at("tools").open = window.innerWidth > 900;

const set = (key, read, keep) => (event) => { state[key] = read(event.target.value); if (!keep) state.page = 0; show(keep); };
at("filter").addEventListener("change", set("kind", String));
at("sort").addEventListener("change", set("sort", String));
at("size").addEventListener("change", set("size", Number));
at("scale").addEventListener("change", set("scale", String, true));
at("search").addEventListener("input", set("search", String));
at("below").addEventListener("input", set("below", (value) => (value === "" ? null : Number(value))));
at("jump").addEventListener("change", (event) => {
  const wanted = event.target.value.trim();
  const row = data.rows.find((one) => one.id === wanted) || data.rows.find((one) => String(one.number) === wanted);
  event.target.setCustomValidity(wanted && !row ? "This page has no such row." : "");
  event.target.reportValidity();
  if (!row) return;
  Object.assign(state, { found: row, kind: "", search: "", below: null });
  ["filter", "search", "below"].forEach((id) => { at(id).value = ""; });
  show();
});
const turn = (step) => { state.page += step; show(); };
at("previous").addEventListener("click", () => turn(-1));
at("next").addEventListener("click", () => turn(1));
document.addEventListener("keydown", (event) => {
  if (["SELECT", "INPUT"].includes(event.target.tagName) || at("zoom").open) return;
  if (event.key === "ArrowLeft") turn(-1);
  if (event.key === "ArrowRight") turn(1);
  if (event.key === "/") { at("tools").open = true; at("search").focus(); event.preventDefault(); }
});
at("zoom").addEventListener("click", () => at("zoom").close());

function tip(event) {
  const sentence = event.target.closest && event.target.closest(".sentence");
  at("tip").hidden = !sentence;
  if (!sentence) return;
  at("tip").textContent = sentence.dataset.tip;
  const [box, size] = [sentence.getClientRects()[0], at("tip").getBoundingClientRect()];
  at("tip").style.left = `${Math.max(4, Math.min(box.left, window.innerWidth - size.width - 4))}px`;
  at("tip").style.top = `${box.top > size.height + 60 ? box.top - size.height - 4 : box.bottom + 4}px`;
}
["mouseover", "focusin"].forEach((kind) => at("rows").addEventListener(kind, tip));
window.addEventListener("scroll", () => { at("tip").hidden = true; }, { passive: true });
show();
