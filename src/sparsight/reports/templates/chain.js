"use strict";
(() => {
  const svg = document.getElementById("chain");
  const told = document.getElementById("told"), rest = told.innerHTML;
  const box = svg.viewBox.baseVal, whole = { width: box.width, height: box.height };
  const nodes = [...svg.querySelectorAll(".node")], edges = [...svg.querySelectorAll(".edge")];
  let view = { x: 0, y: 0, width: whole.width, height: whole.height }, picked = null;

  const show = () => svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
  const shape = () => svg.clientWidth / svg.clientHeight;
  const all = () => { view = { x: 0, y: 0, width: whole.width, height: whole.height }; show(); };
  const end = () => {
    const width = Math.min(whole.width, whole.height * shape());
    view = { x: whole.width - width, y: 0, width, height: whole.height }; show();
  };
  const zoom = (factor, x = view.x + view.width / 2, y = view.y + view.height / 2) => {
    const width = Math.min(Math.max(view.width * factor, 160), whole.width * 2), real = width / view.width;
    view = { x: x - (x - view.x) * real, y: y - (y - view.y) * real, width, height: view.height * real };
    show();
  };
  const point = (event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());

  svg.addEventListener("wheel", (event) => {
    event.preventDefault();
    const at = point(event);
    zoom(event.deltaY > 0 ? 1.15 : 1 / 1.15, at.x, at.y);
  }, { passive: false });
  let from = null, far = false;
  svg.addEventListener("pointerdown", (event) => { from = point(event); far = false; });
  svg.addEventListener("pointermove", (event) => {
    if (!from) return;
    const at = point(event);
    if (!far && Math.hypot(at.x - from.x, at.y - from.y) < 4) return;
    if (!far) { far = true; svg.classList.add("drag"); svg.setPointerCapture(event.pointerId); }
    view.x -= at.x - from.x; view.y -= at.y - from.y; show();
  });
  const drop = () => { from = null; svg.classList.remove("drag"); };
  svg.addEventListener("pointerup", drop);
  svg.addEventListener("pointercancel", drop);
  svg.addEventListener("keydown", (event) => {
    const step = view.width / 12, moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (event.key in moves) { view.x += moves[event.key][0]; view.y += moves[event.key][1]; show(); event.preventDefault(); }
    else if (event.key === "+") zoom(1 / 1.25);
    else if (event.key === "-") zoom(1.25);
    else if (event.key === "Escape") pick(null);
  });
  for (const button of document.querySelectorAll("[data-zoom]"))
    button.addEventListener("click", () => ({ in: () => zoom(1 / 1.25), out: () => zoom(1.25), all, end })[button.dataset.zoom]());

  const tell = (node) => {
    told.replaceChildren();
    const own = node.querySelector("image"), more = document.getElementById(`crops-${node.dataset.node}`);
    if (own) { const image = document.createElement("img"); image.src = own.getAttribute("href"); image.alt = ""; told.append(image); }
    if (more) for (const image of more.children) told.append(image.cloneNode());
    const text = document.createElement("div"), name = document.createElement("b"), weights = document.createElement("div");
    name.textContent = node.dataset.told;
    weights.className = "soft"; weights.textContent = node.dataset.weights;
    text.append(name, weights); told.append(text);
  };
  const group = () => edges.filter((edge) => !edge.parentNode.hasAttribute("hidden"));
  const reach = (start, near, next) => {
    const seen = new Set([start]), lines = new Set(), waiting = [start];
    while (waiting.length) {
      const at = waiting.pop();
      for (const edge of group()) if (edge.dataset[near] === at) {
        lines.add(edge);
        if (!seen.has(edge.dataset[next])) { seen.add(edge.dataset[next]); waiting.push(edge.dataset[next]); }
      }
    }
    return [seen, lines];
  };
  const pick = (node) => {
    picked = node && node !== picked ? node : null;
    svg.classList.toggle("chosen", picked !== null);
    nodes.forEach((one) => { one.classList.remove("on", "picked"); });
    edges.forEach((one) => one.classList.remove("on"));
    if (!picked) { told.innerHTML = rest; return; }
    picked.classList.add("picked"); tell(picked);
    for (const [near, next] of [["from", "to"], ["to", "from"]]) {
      const [seen, lines] = reach(picked.dataset.node, near, next);
      lines.forEach((edge) => edge.classList.add("on"));
      nodes.forEach((one) => { if (seen.has(one.dataset.node)) one.classList.add("on"); });
    }
  };
  for (const node of nodes) {
    node.addEventListener("pointerenter", () => { if (!picked) tell(node); });
    node.addEventListener("focus", () => { if (!picked) tell(node); });
    node.addEventListener("click", (event) => { event.stopPropagation(); if (!far) pick(node); });
    node.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pick(node); } });
  }
  svg.addEventListener("click", () => { if (!far) pick(null); });
  for (const button of document.querySelectorAll(".pick")) button.addEventListener("click", () => {
    document.querySelectorAll(".pick").forEach((one) => one.setAttribute("aria-pressed", String(one === button)));
    svg.querySelectorAll(".edges").forEach((own) => {
      const hide = own.dataset.group !== button.dataset.group;
      own.toggleAttribute("hidden", hide);
      own.setAttribute("display", hide ? "none" : "inline");
    });
    const again = picked; picked = null; if (again) pick(again);
  });
  end();
})();
