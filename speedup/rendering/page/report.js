"use strict";
(() => {
  const DATA = JSON.parse(document.getElementById("graph-data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const svg = document.getElementById("graph");
  const SIZE = {
    unit: [208, 46], junction: [56, 20], padding: 14, header: 26, lane: 9, lanes: 12, long: 9,
    gap: [18, 26], between: 48,
  };
  const LETTERS = 28;

  // The tree: each unit knows what it is in, each branch which of its children read which.
  const leaves = [];
  const prepare = (unit, parent, index) => {
    const depth = parent ? parent.depth + 1 : 0;
    Object.assign(unit, { parent, index, depth, pairs: new Map(), sending: new Set(), receiving: new Set() });
    if (unit.children) unit.children.forEach((child, i) => prepare(child, unit, i));
    else leaves[unit.id] = unit;
  };
  // The ancestors of two units, or they themselves, that are in the same branch.
  const siblings = (a, b) => {
    while (a.depth > b.depth) a = a.parent;
    while (b.depth > a.depth) b = b.parent;
    while (a.parent !== b.parent) [a, b] = [a.parent, b.parent];
    return [a, b];
  };
  prepare(DATA.root, null, 0);
  DATA.root.open = true;
  for (const [from, to] of DATA.links) {
    let a = leaves[from], b = leaves[to];
    [a, b] = siblings(a, b);
    for (let at = leaves[from]; at !== a; at = at.parent) at.parent.sending.add(at.index);
    for (let at = leaves[to]; at !== b; at = at.parent) at.parent.receiving.add(at.index);
    if (a !== b) a.parent.pairs.set(`${a.index} ${b.index}`, [a.index, b.index]);
  }

  // Layout: within a branch, a child stands below all that it reads; what skips rows runs in lanes at the right.
  const ranks = (branch) => {
    const read = branch.children.map(() => []);
    for (const [from, to] of branch.pairs.values()) read[to].push(from);
    const found = [];
    const rank = (i) => {
      if (found[i] === undefined) {
        found[i] = -1; // Being looked at: a layer that is used again is not below itself.
        found[i] = 1 + Math.max(-1, ...read[i].map(rank));
      }
      return found[i];
    };
    branch.children.forEach((_, i) => rank(i));
    return { found, read };
  };

  const lay = (unit) => {
    if (!unit.children || !unit.open) {
      [unit.w, unit.h] = unit.children || unit.counts ? SIZE.unit : SIZE.junction;
      return;
    }
    unit.children.forEach(lay);
    const { found, read } = ranks(unit);
    const rows = [];
    unit.children.forEach((child, i) => {
      child.rank = found[i];
      (rows[found[i]] ??= []).push(child);
    });
    unit.lanes = lanes([...unit.pairs.values()].filter(([a, b]) => found[b] !== found[a] + 1), found);
    unit.last = rows.length - 1;
    // What comes from outside, or goes there, past other rows has a lane of its own.
    const passing = unit.children.some((child) => passes(child, unit.receiving, unit.sending));
    unit.passing = Math.min(SIZE.lanes, Math.max(0, ...[...unit.lanes.values()].map((lane) => lane + 1)));
    const beside = (unit.passing + passing) * SIZE.lane;

    let [x, y, bottom] = [SIZE.padding, 0, 0];
    const top = SIZE.padding + (unit.parent ? SIZE.header : 0);
    columns(unit, rows, passing).forEach((column, number) => {
      const inner = Math.max(...column.map(breadth), unit.parent ? SIZE.unit[0] : 0);
      if (number) x += SIZE.between;
      y = top;
      for (const row of column) {
        row.sort(byCentre(unit, row, read));
        let at = x + (inner - breadth(row)) / 2;
        for (const child of row) {
          [child.x, child.y, child.column] = [at, y, number];
          at += child.w + SIZE.gap[0];
        }
        y += tallness(row) + SIZE.gap[1];
      }
      x += inner;
      bottom = Math.max(bottom, y - SIZE.gap[1]);
    });
    unit.edge = x;
    unit.w = x + beside + SIZE.padding;
    unit.h = bottom + SIZE.padding;
  };
  const passes = (child, receiving, sending) =>
    (receiving.has(child.index) && child.rank > 0) || (sending.has(child.index) && child.rank < child.parent.last);
  const breadth = (row) => row.reduce((sum, child) => sum + child.w + SIZE.gap[0], -SIZE.gap[0]);
  const tallness = (row) => Math.max(...row.map((child) => child.h));

  const byCentre = (unit, row, read) => {
    const centre = (child) => {
      const above = read[child.index].map((i) => unit.children[i]).filter((one) => one.rank < child.rank);
      return above.length ? above.reduce((sum, one) => sum + one.x + one.w / 2, 0) / above.length : child.index;
    };
    const order = new Map(row.map((child) => [child, centre(child)]));
    return (a, b) => order.get(a) - order.get(b) || a.index - b.index;
  };

  // The whole model, and what is long in it, stands in columns of the view's proportions unless links skip rows.
  const columns = (unit, rows, passing) => {
    if (unit.lanes.size || passing || (unit.parent && rows.length < SIZE.long)) return [rows];
    const total = rows.reduce((sum, row) => sum + tallness(row) + SIZE.gap[1], 0);
    const { width, height } = svg.getBoundingClientRect();
    const widest = Math.max(...rows.map(breadth)) + SIZE.between;
    const count = Math.max(1, Math.floor(Math.sqrt((total * width) / height / widest)));
    const found = [[]];
    let filled = 0;
    for (const row of rows) {
      if (filled + tallness(row) / 2 > (total / count) * found.length && found.at(-1).length) found.push([]);
      found.at(-1).push(row);
      filled += tallness(row) + SIZE.gap[1];
    }
    return found;
  };

  // The lane of each of `pairs`, so that short ones are inside and none overlap.
  const lanes = (pairs, rank) => {
    const span = ([a, b]) => [Math.min(rank[a], rank[b]), Math.max(rank[a], rank[b])];
    const length = (pair) => span(pair)[1] - span(pair)[0];
    const taken = [], found = new Map();
    for (const pair of [...pairs].sort((a, b) => length(a) - length(b))) {
      const [low, high] = span(pair);
      let lane = taken.findIndex((spans) => spans.every(([l, h]) => high <= l || h <= low));
      if (lane < 0) lane = taken.push([]) - 1;
      taken[lane].push([low, high]);
      found.set(`${pair[0]} ${pair[1]}`, lane);
    }
    return found;
  };

  const place = (unit, x, y) => {
    [unit.left, unit.top] = [x, y];
    if (unit.children && unit.open) unit.children.forEach((child) => place(child, x + child.x, y + child.y));
  };

  // Drawing.
  const make = (tag, attributes, parent, text) => {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    parent?.append(made);
    return made;
  };
  const cut = (text, letters) => (text.length > letters ? `${text.slice(0, letters - 1)}…` : text);
  const share = ([before, after]) => (before ? after / before : 1);
  const percent = (counts) => {
    const rounded = Math.round(100 * share(counts));
    return rounded === 100 && counts[1] < counts[0] ? "<100%" : `${rounded}%`;
  };

  const defs = make("defs", {}, svg);
  const marker = make("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 6, markerHeight: 6, orient: "auto" }, defs);
  make("path", { d: "M0 0L8 4L0 8z" }, marker);
  const scene = make("g", {}, svg);
  let matches = new Set();

  const drawUnit = (unit) => {
    const { left: x, top: y, w, h } = unit;
    const opened = unit.children && unit.open;
    const classes = ["unit"];
    if (unit.counts && share(unit.counts) === 1) classes.push("same");
    if (matches.has(unit)) classes.push("match");
    const group = make("g", { class: classes.join(" "), tabindex: 0, role: "button" }, scene);
    group.unit = unit;
    make("title", {}, group, [unit.path ?? unit.label, unit.text].filter(Boolean).join("\n"));
    if (!unit.counts) {
      make("rect", { class: "box", x, y, width: w, height: h, rx: h / 2 }, group);
      make("text", { class: "faint", x: x + w / 2, y: y + 14, "text-anchor": "middle" }, group, cut(unit.label, 9));
      return;
    }
    if (opened) make("rect", { class: "frame", x, y, width: w, height: h, rx: 6 }, group);
    else if (unit.children) make("rect", { class: "stack", x: x + 4, y: y + 4, width: w, height: h, rx: 6 }, group);
    make("rect", { class: "box", x, y, width: w, height: opened ? SIZE.header : h, rx: 6 }, group);
    const sign = unit.children ? (unit.open ? "▾ " : "▸ ") : "";
    make("text", { x: x + 8, y: y + 16 }, group, cut(sign + unit.label, LETTERS - 6));
    make("text", { class: "faint", x: x + w - 8, y: y + 16, "text-anchor": "end" }, group, percent(unit.counts));
    if (opened) return;
    make("text", { class: "faint", x: x + 8, y: y + 30 }, group, cut(unit.text, LETTERS + 2));
    const bar = { x: x + 8, y: y + h - 8, height: 4, rx: 1 };
    make("rect", { class: "share-before", width: w - 16, ...bar }, group);
    make("rect", { class: "share-after", width: (w - 16) * Math.min(1, share(unit.counts)), ...bar }, group);
  };

  const drawUnits = (unit) => {
    if (unit.parent) drawUnit(unit);
    if (unit.children && unit.open) unit.children.forEach(drawUnits);
  };

  // What is seen of a leaf: itself, or the outermost closed branch that it is in.
  const seen = (leaf) => {
    let found = leaf;
    for (let unit = leaf.parent; unit; unit = unit.parent) if (!unit.open) found = unit;
    return found;
  };

  const drawLinks = () => {
    const drawn = new Set();
    leaves.forEach((leaf) => (leaf.shown = seen(leaf)));
    for (const [from, to] of DATA.links) {
      const a = leaves[from].shown, b = leaves[to].shown;
      const key = `${a.left} ${a.top} ${b.left} ${b.top}`;
      if (a === b || drawn.has(key)) continue;
      drawn.add(key);
      make("path", { class: "link", d: route(a, b), "marker-end": "url(#arrow)" }, scene);
    }
  };

  // The x where a link runs down past what is in its way; undefined where nothing is.
  const detour = (a, b, up, down) => {
    const lane = up.parent.lanes.get(`${up.index} ${down.index}`);
    if (lane !== undefined) return up.parent.left + up.parent.edge + ((lane % SIZE.lanes) + 1) * SIZE.lane;
    const blocking = [];
    for (let at = a; at !== up; at = at.parent) if (at.rank < at.parent.last) blocking.push(at.parent);
    for (let at = b; at !== down; at = at.parent) if (at.rank > 0) blocking.push(at.parent);
    if (blocking.length) return Math.max(...blocking.map((it) => it.left + it.edge + (it.passing + 1) * SIZE.lane));
  };

  const route = (a, b) => {
    const [up, down] = siblings(a, b);
    const x = detour(a, b, up, down);
    const [ax, ay, bx, by] = [a.left + a.w / 2, a.top + a.h, b.left + b.w / 2, b.top];
    const [right, middle] = [b.left + b.w, b.top + b.h / 2];
    if (up.column !== down.column) {
      const start = `M${ax} ${ay}V${up.top + up.h + 10}H${down.left - SIZE.between / 2}V${down.top - 8}`;
      return start + (x === undefined ? `H${bx}V${by}` : `H${x}V${middle}H${right}`);
    }
    if (x === undefined) {
      const bend = Math.max(10, Math.min(40, (by - ay) / 2));
      return `M${ax} ${ay}C${ax} ${ay + bend} ${bx} ${by - bend} ${bx} ${by}`;
    }
    const [from, level] = [a.left + a.w, a.top + a.h / 2];
    const turn = Math.min(8, Math.abs(middle - level) / 2) * Math.sign(middle - level);
    const corner = Math.min(8, Math.abs(x - from), Math.abs(x - right));
    return (
      `M${from} ${level}H${x - corner}Q${x} ${level} ${x} ${level + turn}` +
      `V${middle - turn}Q${x} ${middle} ${x - corner} ${middle}H${right}`
    );
  };

  const draw = () => {
    lay(DATA.root);
    place(DATA.root, 0, 0);
    scene.replaceChildren();
    drawLinks();
    drawUnits(DATA.root);
  };

  // The view: a point of the scene is shown at (x, y) + k * point.
  const view = { x: 0, y: 0, k: 1 };
  const show = () => scene.setAttribute("transform", `translate(${view.x} ${view.y}) scale(${view.k})`);
  const fit = (smallest) => {
    const { width, height } = svg.getBoundingClientRect();
    view.k = Math.max(smallest, Math.min(1.4, width / DATA.root.w, height / DATA.root.h));
    view.x = (width - view.k * DATA.root.w) / 2;
    view.y = Math.max(0, (height - view.k * DATA.root.h) / 2);
    show();
  };
  const zoom = (factor, x, y) => {
    const k = Math.min(4, Math.max(0.02, view.k * factor));
    view.x = x - (k / view.k) * (x - view.x);
    view.y = y - (k / view.k) * (y - view.y);
    view.k = k;
    show();
  };
  const zoomBy = (factor) => {
    const { width, height } = svg.getBoundingClientRect();
    zoom(factor, width / 2, height / 2);
  };
  const centre = (unit) => {
    const { width, height } = svg.getBoundingClientRect();
    view.k = Math.max(view.k, 0.8);
    view.x = width / 2 - view.k * (unit.left + unit.w / 2);
    view.y = height / 2 - view.k * (unit.top + unit.h / 2);
    show();
  };

  const each = (unit, change) => {
    change(unit);
    unit.children?.forEach((child) => each(child, change));
  };
  const setAll = (open) => {
    each(DATA.root, (unit) => (unit.open = open || !unit.parent));
    draw();
    fit(0.02);
  };

  const reveal = (number) => {
    const entry = document.getElementById(`layer-${number}`);
    if (!entry) return;
    for (let at = entry; at; at = at.parentElement.closest("details")) at.open = true;
    entry.scrollIntoView({ block: "center" });
  };
  const activate = (unit) => {
    if (!unit.children) return reveal(unit.id);
    // The header stays where it was clicked.
    const before = [view.x + view.k * unit.left, view.y + view.k * unit.top];
    unit.open = !unit.open;
    draw();
    view.x = before[0] - view.k * unit.left;
    view.y = before[1] - view.k * unit.top;
    show();
    [...scene.children].find((group) => group.unit === unit)?.focus({ preventScroll: true });
  };

  // One pointer drags; up and down with one finger the browser scrolls the page. Two fingers drag and zoom.
  const SLACK = { mouse: 4, touch: 10 };
  const pointers = new Map();
  let grip = null, moved = false;
  const gripOf = () => {
    const points = [...pointers.values()];
    if (!points.length) return null;
    const [x, y] = [0, 1].map((axis) => points.reduce((sum, at) => sum + at[axis], 0) / points.length);
    return { x, y, spread: Math.hypot(points[0][0] - x, points[0][1] - y) };
  };
  svg.addEventListener("pointerdown", (event) => {
    if (!pointers.size) moved = false;
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    grip = gripOf();
  });
  addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return;
    const before = pointers.get(event.pointerId);
    const [dx, dy] = [event.clientX - before[0], event.clientY - before[1]];
    if (!moved && Math.hypot(dx, dy) < (SLACK[event.pointerType] ?? SLACK.mouse)) return;
    moved = true;
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    svg.classList.add("dragged");
    const now = gripOf();
    view.x += now.x - grip.x;
    view.y += now.y - grip.y;
    if (grip.spread && now.spread) {
      const { left, top } = svg.getBoundingClientRect();
      zoom(now.spread / grip.spread, now.x - left, now.y - top);
    }
    grip = now;
    show();
  });
  for (const ending of ["pointerup", "pointercancel"]) {
    addEventListener(ending, (event) => {
      pointers.delete(event.pointerId);
      grip = gripOf();
      if (!grip) svg.classList.remove("dragged");
    });
  }
  svg.addEventListener("click", (event) => {
    const unit = event.target.closest(".unit")?.unit;
    if (unit && !moved) activate(unit);
  });
  svg.addEventListener("keydown", (event) => {
    const unit = event.target.unit;
    if (!unit || (event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    activate(unit);
  });
  svg.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const { left, top } = svg.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY / 300), event.clientX - left, event.clientY - top);
  }, { passive: false });
  const buttons = { in: () => zoomBy(1.3), out: () => zoomBy(1 / 1.3), fit: () => fit(0.02), open: () => setAll(true), close: () => setAll(false) };
  for (const [name, act] of Object.entries(buttons)) document.getElementById(`graph-${name}`).addEventListener("click", act);

  // Search: in the list, what does not match is hidden; in the graph, the first match is brought into view.
  const entries = [...document.querySelectorAll("#layers .layer")];
  const modules = [...document.querySelectorAll("#layers .module")].reverse();
  const wasOpen = new Map(modules.map((module) => [module, module.open]));
  const search = () => {
    const term = document.getElementById("search").value.trim().toLowerCase();
    const matching = (path) => term !== "" && path.toLowerCase().includes(term);
    for (const entry of entries) {
      entry.classList.toggle("match", matching(entry.dataset.path));
      entry.hidden = term !== "" && !matching(entry.dataset.path);
    }
    for (const module of modules) {
      module.hidden = !module.querySelector(".layer:not([hidden])");
      module.open = term === "" ? wasOpen.get(module) : !module.hidden;
    }
    const found = leaves.filter((leaf) => leaf.counts && matching(leaf.path));
    matches = new Set(found);
    for (const leaf of found) for (let at = leaf.parent; at; at = at.parent) matches.add(at);
    for (let at = found[0]?.parent; at; at = at.parent) at.open = true;
    draw();
    if (found.length) centre(found[0]);
    document.getElementById("found").textContent = term === "" ? "" : `${found.length} found`;
  };
  document.getElementById("search").addEventListener("input", search);

  addEventListener("beforeprint", () => {
    document.querySelectorAll("#layers details.module").forEach((one) => (one.open = true));
    fit(0.02);
  });

  svg.setAttribute("aria-label", `Graph of ${leaves.filter((leaf) => leaf.counts).length} layers`);
  draw();
  fit(0.8);
})();
