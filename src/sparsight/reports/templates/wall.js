"use strict";
(() => {
  const root = document.documentElement;
  const by = (id) => document.getElementById(id);
  const [form, wall, grid, tip] = ["tools", "wall", "grid", "tip"].map(by);
  root.classList.add("js");

  const { classes, rows } = JSON.parse(by("data").textContent);
  const number = (value) => (value === "inf" ? Infinity : value);
  const items = rows.map((row, place) => {
    const [name, file, picture, heat, label, predicted, traced, answer, changed,
      confidence, kl, sparsity, suspicion, link, problem] = row;
    return { place, name, file, picture, heat, label, predicted, traced, answer, changed,
      confidence, kl: number(kl), sparsity, suspicion, link, problem, low: name.toLowerCase() };
  });

  // -- words ------------------------------------------------------------------------------
  const percent = (value) => {
    if (value === 0 || value === 1) return 100 * value + "\u00a0%";
    if (value < 0.0005) return "<0.1\u00a0%";
    return (value > 0.9995 ? ">99.9" : (100 * value).toFixed(1)) + "\u00a0%";
  };
  const plain = (value) => (value === Infinity ? "\u221e" : String(+value.toPrecision(3)));
  const measures = {
    confidence: ["Confidence", percent],
    kl: ["KL", (value) => plain(value) + "\u00a0nats"],
    sparsity: ["Removed", percent],
    suspicion: ["Suspicion", (value) => value.toFixed(3)],
  };
  const called = (index) => (index < 0 ? "" : classes[index]);
  const facts = (item) => {
    const found = [["File", item.name]];
    if (item.answer === "unread") return [...found, ["Not read", item.problem || "no answer"]];
    found.push(["Answer", called(item.predicted)]);
    found.push(["Truth", called(item.label) || "not known"]);
    if (item.traced >= 0) found.push(["Trace", called(item.traced)]);
    for (const [key, [title, write]] of Object.entries(measures)) {
      if (item[key] !== null) found.push([title, write(item[key])]);
    }
    return found;
  };

  // What all names begin with says nothing; a number is not cut.
  const common = items.reduce((text, { name }) => {
    let same = 0;
    while (same < text.length && text[same] === name[same]) same += 1;
    return text.slice(0, same);
  }, items.length > 1 ? items[0].name : "").replace(/[0-9]+$|[\ud800-\udbff]$/, "").length;

  // -- one image --------------------------------------------------------------------------
  const made = new Array(items.length);
  const owner = new WeakMap();
  const badge = (marks, tone, text) => {
    const one = document.createElement("span");
    one.className = "badge " + tone;
    one.textContent = text;
    marks.append(one);
  };
  const make = (item) => {
    const card = by("card").content.firstElementChild.cloneNode(true);
    const tile = card.firstElementChild;
    const part = (selector) => tile.querySelector(selector);
    const path = "thumbnails/" + item.file;
    const [photo, map] = [part(".photo"), part(".map")];
    part(".shot").classList.add(item.heat ? "mapped" : "mapless");
    photo.classList.toggle("sharp", item.picture === "png");
    map.classList.toggle("sharp", item.picture === "png");
    photo.alt = item.name;
    map.alt = item.name + ", traced map";
    if (item.picture) photo.src = path + "." + item.picture;
    else photo.remove();
    if (item.heat) map.src = path + ".map." + item.picture;
    else map.remove();
    part(".shot").classList.toggle("bare", !item.picture);
    part(".gone").textContent = item.picture ? "no map" : "no picture";
    const unread = item.answer === "unread";
    part(".says bdi").textContent = unread ? "not read" : called(item.predicted);
    part(".sure").textContent = item.confidence === null ? "" : percent(item.confidence);
    const cut = Math.max(0, item.name.lastIndexOf("/"));
    part(".path").textContent = item.name.slice(0, cut);
    part(".file").textContent = common > cut + 9
      ? "\u2026" + item.name.slice(common) : item.name.slice(cut);
    const marks = part(".marks");
    if (unread) badge(marks, "none", item.problem || "no answer");
    if (item.answer === "right") badge(marks, "good", "right");
    if (item.answer === "wrong") badge(marks, "bad", "is " + called(item.label));
    if (item.changed) badge(marks, "fair", "trace: " + called(item.traced));
    tile.setAttribute("aria-label", facts(item).slice(0, 4).map((fact) => fact.join(" ")).join(", "));
    if (item.link) tile.href = item.link;
    else {
      tile.tabIndex = 0;
      tile.setAttribute("role", "group");
    }
    owner.set(tile, item);
    return card;
  };
  const cardOf = (item) => (made[item.place] ||= make(item));

  // -- the grid: boxes of the right height, filled when they come near ----------------------
  const ROWS = 6;
  const GAP = 18;
  let list = [];
  let columns = 0;
  let sorted = "name";
  const fill = (chunk) => {
    if (chunk.childElementCount) return;
    const start = +chunk.dataset.start;
    const measure = measures[sorted];
    chunk.append(...list.slice(start, start + ROWS * columns).map((item, offset) => {
      const card = cardOf(item);
      const value = measure ? item[sorted] : null;
      card.querySelector(".pill").textContent = value === null ? "" : measure[1](value);
      card.setAttribute("aria-setsize", list.length);
      card.setAttribute("aria-posinset", start + offset + 1);
      return card;
    }));
  };
  const watcher = new IntersectionObserver(
    (entries) => entries.forEach((entry) => entry.isIntersecting && fill(entry.target)),
    { rootMargin: "1200px 0px" },
  );
  const arrange = () => {
    watcher.disconnect();
    hush();
    const width = grid.clientWidth;
    const least = width < 480 ? 104 : 138;
    columns = Math.max(2, Math.floor((width + 14) / (least + 14)));
    grid.style.setProperty("--columns", columns);
    const chunks = [];
    for (let start = 0; start < list.length; start += ROWS * columns) {
      const chunk = document.createElement("div");
      chunk.className = "chunk";
      chunk.setAttribute("role", "presentation");
      chunk.dataset.start = start;
      chunks.push(chunk);
    }
    grid.replaceChildren(...chunks);
    if (!chunks.length) return;
    fill(chunks[0]);
    const tall = chunks[0].firstElementChild.offsetHeight + GAP;
    chunks.forEach((chunk) => {
      const here = Math.min(ROWS * columns, list.length - chunk.dataset.start);
      chunk.style.height = tall * Math.ceil(here / columns) + "px";
      watcher.observe(chunk);
    });
  };
  addEventListener("beforeprint", () => grid.childNodes.forEach(fill));
  let seen = 0;
  new ResizeObserver(() => {
    if (seen && seen !== grid.clientWidth) arrange();
    seen = grid.clientWidth;
  }).observe(grid);

  // -- filters and order ------------------------------------------------------------------
  const read = () => Object.fromEntries(new FormData(form));
  const first = read();
  const filters = Array.from(form.querySelectorAll("input, select"));
  const keys = { name: (item) => item.place, class: (item) => item.label,
    predicted: (item) => item.predicted };
  const bound = (key, side) => {
    const input = form.elements[key + side];
    return input && input.value !== "" ? +input.value / input.dataset.scale : null;
  };
  const choose = () => {
    const state = read();
    const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    const label = state.class ? classes.indexOf(state.class) : null;
    const predicted = state.predicted ? classes.indexOf(state.predicted) : null;
    const ranges = Object.keys(measures)
      .map((key) => [key, bound(key, "-from"), bound(key, "-to")])
      .filter(([, low, high]) => low !== null || high !== null);
    list = items.filter((item) =>
      (!state.answer || item.answer === state.answer)
      && (label === null || item.label === label)
      && (predicted === null || item.predicted === predicted)
      && (!state.trace || (item.traced >= 0 && (state.trace === "changed") === !!item.changed))
      && ranges.every(([key, low, high]) => item[key] !== null
        && (low === null || item[key] >= low) && (high === null || item[key] <= high))
      && words.every((word) => item.low.includes(word)));
    sorted = state.sort;
    const key = keys[sorted] || ((item) => item[sorted]);
    const sign = state.order === "down" ? -1 : 1;
    const missing = (value) => value === null || value === -1;
    list.sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      return missing(x) - missing(y) || (missing(x) ? 0 : sign * (x - y)) || a.place - b.place;
    });
    const all = items.length.toLocaleString("en");
    const some = list.length === items.length ? "" : list.length.toLocaleString("en") + " of ";
    by("count").textContent = some + all + (items.length === 1 ? " image" : " images");
    by("none").hidden = list.length > 0;
    const set = filters.filter((control) => control.value !== "");
    filters.forEach((control) => control.classList.toggle("set", control.value !== ""));
    by("clear").disabled = !set.length;
    arrange();
  };
  const show = () => wall.classList.toggle("maps", read().show === "map");

  // -- the address keeps the state ----------------------------------------------------------
  let waiting = 0;
  const commit = () => {
    clearTimeout(waiting);
    const changed = Object.entries(read()).filter(([name, value]) => value !== first[name]);
    const hash = new URLSearchParams(changed).toString();
    if (hash !== location.hash.slice(1)) history.pushState(null, "", "#" + hash);
  };
  const restore = () => {
    clearTimeout(waiting);
    const hash = location.hash.slice(1);
    if (hash && !hash.includes("=")) return; // a place on the page, not a state
    const given = new URLSearchParams(hash);
    form.reset();
    for (const name of Object.keys(first)) {
      if (!given.has(name)) continue;
      const control = form.elements[name];
      control.value = given.get(name);
      if (control.selectedIndex === -1) control.selectedIndex = 0;
    }
    show();
    choose();
  };
  const renew = () => {
    choose();
    const images = by("images");
    if (images.getBoundingClientRect().top < 0) images.scrollIntoView({ behavior: "instant" });
    clearTimeout(waiting);
    waiting = setTimeout(commit, 400);
  };
  document.addEventListener("input", (event) => {
    if (event.target.form !== form) return;
    if (event.target.name !== "show") { renew(); return; }
    show();
    commit();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  by("clear").addEventListener("click", () => {
    filters.forEach((control) => { control.value = ""; });
    renew();
    form.elements.q.focus();
  });
  grid.addEventListener("click", () => { if (waiting) commit(); }, true);
  addEventListener("popstate", restore);

  // -- facts under the pointer or the focus; arrow keys -------------------------------------
  let told = null;
  function hush() {
    if (told) told.removeAttribute("aria-describedby");
    told = null;
    tip.hidden = true;
  }
  const put = () => {
    if (!told) return;
    const box = told.getBoundingClientRect();
    if (box.bottom < 0 || box.top > innerHeight) { hush(); return; }
    const { offsetWidth: wide, offsetHeight: tall } = tip;
    const edge = root.clientWidth - wide - 12;
    const beside = box.right + 10 <= edge ? box.right + 10 : box.left - wide - 10;
    const fits = beside >= 12;
    const below = box.bottom + 8 + tall <= innerHeight ? box.bottom + 8 : box.top - tall - 8;
    const left = fits ? beside : Math.max(12, Math.min(edge, box.left));
    const top = fits ? Math.max(12, Math.min(innerHeight - tall - 12, box.top)) : below;
    tip.style.left = left + "px";
    tip.style.top = top + "px";
  };
  const tell = (tile) => {
    hush();
    tip.replaceChildren(...facts(owner.get(tile)).map((fact) => {
      const line = document.createElement("div");
      ["dt", "dd"].forEach((tag, side) => {
        const cell = document.createElement(tag);
        cell.dir = "auto";
        cell.textContent = fact[side];
        line.append(cell);
      });
      return line;
    }));
    told = tile;
    tile.setAttribute("aria-describedby", "tip");
    tip.hidden = false;
    put();
  };
  grid.addEventListener("pointerover", (event) => {
    const tile = event.target.closest(".tile");
    if (event.pointerType === "mouse" && tile && tile !== told) tell(tile);
  });
  grid.addEventListener("pointerleave", hush);
  grid.addEventListener("focusin", (event) => {
    if (event.target.matches(".tile:focus-visible")) tell(event.target);
  });
  grid.addEventListener("focusout", hush);
  addEventListener("scroll", put, { passive: true });
  grid.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hush();
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    const at = list.indexOf(owner.get(event.target));
    if (!step || at < 0 || !list[at + step] || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    fill(grid.children[Math.floor((at + step) / (ROWS * columns))]);
    cardOf(list[at + step]).firstElementChild.focus();
  });

  by("filters").open = matchMedia("(min-width: 821px)").matches;
  choose();
  restore();
})();
