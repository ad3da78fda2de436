"use strict";
// All texts come from a dataset that anyone may have written: they enter the page as text nodes only.
const data = JSON.parse(document.getElementById("data").textContent);
const PER_PAGE = 10;
const at = (id) => document.getElementById(id);
const state = { page: 0, kind: "", scale: "response" };

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

const known = (values) => (values || []).filter((value) => value !== null);
const all = data.rows.flatMap((row) => [...known(row.chosen.similarity), ...known(row.rejected.similarity)]);
const whole = all.length ? all.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [1, -1]) : [0, 0];

function scaled(value, values) {
  const own = known(values);
  const [low, high] = state.scale === "page" ? whole : [Math.min(...own), Math.max(...own)];
  return high - low <= 1e-6 ? null : (value - low) / (high - low);
}

function tint(share) {
  if (share === null) return "transparent";
  const colour = share < 0.5 ? "--low" : "--high";
  return `rgba(var(${colour}), ${(Math.abs(share - 0.5) * 1.2).toFixed(3)})`;
}

// Offsets count characters as Python does (code points), while JavaScript counts UTF-16 units.
function response(name, part) {
  const box = element("section", name);
  const count = part.spans.length;
  box.append(element("h2", "", `${name}, ${count} sentence${count === 1 ? "" : "s"}`));
  const text = element("div", "text");
  const characters = Array.from(part.text);
  let end = 0;
  part.spans.forEach(([start, stop], index) => {
    text.append(characters.slice(end, start).join(""));
    const sentence = element("span", "sentence", characters.slice(start, stop).join(""));
    const value = part.similarity ? part.similarity[index] : null;
    const share = value === null || value === undefined ? undefined : scaled(value, part.similarity);
    const lines = [`sentence ${index + 1} of ${count}, characters ${start} to ${stop}`];
    if (share === undefined) {
      sentence.classList.add("none");
      lines.push("no similarity");
    } else {
      sentence.style.background = tint(share);
      lines.push(`similarity ${value.toFixed(4)}` + (share === null ? "" : `, scaled ${share.toFixed(3)}`));
    }
    sentence.dataset.tip = lines.join("\n");
    sentence.tabIndex = 0;
    text.append(sentence);
    end = stop;
  });
  text.append(characters.slice(end).join(""));
  box.append(text);
  return box;
}

function article(row) {
  const box = element("article");
  const top = element("div", "top");
  top.append(element("span", "id", row.id), element("span", "role", `row ${row.number}`));
  row.problems.forEach((kind) => top.append(element("span", "badge", kind)));
  const images = element("div", "images");
  row.images.forEach((source) => {
    if (source === null) return images.append(element("div", "broken", "This image cannot be decoded."));
    const image = element("img");
    image.src = source;
    image.alt = "image of the prompt";
    images.append(image);
  });
  if (!row.images.length) images.append(element("div", "role", "no image"));
  const prompt = element("div", "prompt");
  row.prompt.forEach(([role, content]) => {
    const turn = element("div");
    turn.append(element("span", "role", role), content);
    prompt.append(turn);
  });
  box.append(top, images, prompt, response("chosen", row.chosen), response("rejected", row.rejected));
  return box;
}

function show() {
  const rows = data.rows.filter((row) => !state.kind || row.problems.includes(state.kind));
  const pages = Math.max(1, Math.ceil(rows.length / PER_PAGE));
  state.page = Math.min(Math.max(state.page, 0), pages - 1);
  const start = state.page * PER_PAGE;
  const shown = rows.slice(start, start + PER_PAGE).map(article);
  at("rows").replaceChildren(...(shown.length ? shown : [element("p", "empty", "No rows.")]));
  at("page").textContent = `page ${state.page + 1} of ${pages}`;
  at("previous").disabled = state.page === 0;
  at("next").disabled = state.page === pages - 1;
  window.scrollTo(0, 0);
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
const turn = (step) => { state.page += step; show(); };
at("filter").addEventListener("change", (event) => { state.kind = event.target.value; state.page = 0; show(); });
at("scale").addEventListener("change", (event) => { state.scale = event.target.value; show(); });
at("previous").addEventListener("click", () => turn(-1));
at("next").addEventListener("click", () => turn(1));
document.addEventListener("keydown", (event) => {
  if (event.target.tagName === "SELECT") return;
  if (event.key === "ArrowLeft") turn(-1);
  if (event.key === "ArrowRight") turn(1);
});
show();
