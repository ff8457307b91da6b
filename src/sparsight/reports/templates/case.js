"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const maps = document.getElementById("maps");
  const all = (selector, from) => Array.from((from || document).querySelectorAll(selector));

  // -- tools: opacity, backing, outline, smoothing ------------------------------------------
  const opacity = document.getElementById("opacity");
  if (opacity) {
    const shown = document.getElementById("opacity-shown");
    const apply = () => {
      maps.style.setProperty("--opacity", opacity.value / 100);
      shown.textContent = opacity.value + "\u202f%";
    };
    opacity.addEventListener("input", apply);
    apply();
    const back = () => {
      const chosen = document.querySelector("input[name=back]:checked").value;
      for (const name of ["photo", "grey", "none"]) {
        maps.classList.toggle("back-" + name, name === chosen);
      }
    };
    all("input[name=back]").forEach((input) => input.addEventListener("change", back));
    back();
    for (const name of ["show-outline", "smooth"]) {
      const box = document.getElementById(name);
      if (!box) continue;
      const toggle = () => maps.classList.toggle(name, box.checked);
      box.addEventListener("change", toggle);
      toggle();
    }
  }

  // -- probe: the value under the pointer, read back from the pictures' colours ------------
  const tables = {};
  all("[data-table]").forEach((holder) => {
    tables[holder.dataset.table] = Uint8Array.from(atob(holder.value), (c) => c.charCodeAt(0));
  });
  const pixels = new WeakMap();
  const read = (picture) => {
    if (!pixels.has(picture)) {
      const canvas = document.createElement("canvas");
      canvas.width = picture.naturalWidth;
      canvas.height = picture.naturalHeight;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(picture, 0, 0);
      pixels.set(picture, context.getImageData(0, 0, canvas.width, canvas.height));
    }
    return pixels.get(picture);
  };
  const valueAt = (picture, x, y, bound) => {
    const data = read(picture);
    const column = Math.min(data.width - 1, Math.floor(x * data.width));
    const row = Math.min(data.height - 1, Math.floor(y * data.height));
    const at = 4 * (row * data.width + column);
    const scale = picture.dataset.scale;
    const table = tables[scale];
    const rgba = data.data;
    let best = 0;
    let least = Infinity;
    for (let k = 0; k < 256; k++) {
      const a = table[4 * k + 3] / 255;
      const b = rgba[at + 3] / 255;
      let d = 65025 * (a - b) * (a - b);
      for (let c = 0; c < 3; c++) {
        const e = a * table[4 * k + c] - b * rgba[at + c];
        d += e * e;
      }
      if (d < least) { least = d; best = k; }
    }
    const value = scale === "heat" ? best / 255 : (best - 128) / 127;
    const sign = value > 0 && scale !== "heat" ? "+" : "";
    const beyond = value > 0.999 ? "\u2265\u00a0" : value < -0.999 ? "\u2264\u00a0" : "";
    const number = Math.abs(value * bound) < 0.005 ? "0" : (value * bound).toPrecision(2);
    return beyond + sign + number.replace("-", "\u2212") + "\u00d7";
  };
  let held = null;
  const wipe = () => {
    if (held) all(".value, .probe", held).forEach((place) => { place.textContent = ""; });
    held = null;
  };
  const probe = (strip, x, y, aloud) => {
    if (held !== strip) wipe();
    held = strip;
    maps.classList.add("probing");
    maps.style.setProperty("--x", 100 * x + "%");
    maps.style.setProperty("--y", 100 * y + "%");
    const said = all("img[data-scale]", strip).map((picture) => {
      const value = valueAt(picture, x, y, +strip.dataset.bound);
      picture.closest("figure").querySelector(".value").textContent = value;
      return picture.dataset.name + " " + value;
    });
    if (aloud) strip.querySelector(".probe").textContent = said.join(", ");
  };
  const release = () => {
    maps.classList.remove("probing");
    wipe();
  };
  all(".strip").forEach((strip) => {
    const at = { x: 0.5, y: 0.5 };
    const follow = (event) => {
      const box = event.currentTarget.getBoundingClientRect();
      at.x = Math.min(0.9999, Math.max(0, (event.clientX - box.left) / box.width));
      at.y = Math.min(0.9999, Math.max(0, (event.clientY - box.top) / box.height));
      probe(strip, at.x, at.y);
    };
    all(".map", strip).forEach((map) => {
      map.addEventListener("pointermove", follow);
      map.addEventListener("pointerdown", follow);
      map.addEventListener("pointerleave", (event) => {
        if (event.pointerType === "mouse") release();
      });
    });
    strip.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      const move = moves[event.key];
      if (event.key === "Escape") { release(); return; }
      if (!move) return;
      event.preventDefault();
      const size = event.shiftKey ? 0.1 : 0.02;
      at.x = Math.min(0.9999, Math.max(0, at.x + size * move[0]));
      at.y = Math.min(0.9999, Math.max(0, at.y + size * move[1]));
      probe(strip, at.x, at.y, true);
    });
    strip.addEventListener("blur", release);
  });

  // -- layers: read one out, by pointer or by arrow keys -------------------------------------
  const plot = document.getElementById("plot");
  if (plot) {
    const layers = all(".layer", plot);
    const readout = document.getElementById("readout");
    let current = -1;
    const show = (index) => {
      if (current >= 0) layers[current].classList.remove("on");
      current = index;
      layers[current].classList.add("on");
      readout.textContent = layers[current].dataset.tip;
    };
    layers.forEach((layer, index) => {
      layer.addEventListener("pointerenter", () => show(index));
      layer.addEventListener("click", () => show(index));
    });
    plot.addEventListener("keydown", (event) => {
      const last = layers.length - 1;
      const next = { ArrowLeft: current - 1, ArrowRight: current + 1, Home: 0, End: last }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      show(Math.min(last, Math.max(0, next)));
      const box = layers[current].getBoundingClientRect();
      const frame = plot.getBoundingClientRect();
      if (box.right > frame.right) plot.scrollLeft += box.right - frame.right + 40;
      if (box.left < frame.left) plot.scrollLeft -= frame.left - box.left + 40;
    });
  }
})();
