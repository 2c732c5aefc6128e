// The list of frames, sorted and filtered, and the view of the chosen one.
const gallery = (() => {
  const pageSize = 40;
  const pictures = [...document.querySelectorAll("script.pictures")].map((node) => JSON.parse(node.textContent));
  const sorts = [
    ["error", "worst depth error"], ["missed", "most missed"], ["false", "most false positives"],
    ...(content.runs.length > 1 ? [["gain", `worse than ${content.runs[0].name}`]] : []), ["id", "frame"],
  ];
  const state = { frames: [], stats: [], chosen: -1, page: 0, range: null, items: [] };
  let data, own; // data set and run in view

  const number = (id) => Number(element(id).value);
  const threshold = () => number("g-score");

  // Objects and detections of a frame, as `run` has them; of the chosen class, from the chosen score on.
  function itemsOf(frame, run) {
    const category = number("g-class");
    const labels = data.frames.objects[frame].map((row, index) => ({
      key: `l${index}`, kind: "label", category: row[0], counted: row[1] === 1, box: row.slice(2, 9), partner: null,
    }));
    const detections = run.detections[frame].filter((row) => row[1] >= threshold()).map((row, index) => {
      const item = { key: `d${index}`, kind: "detection", category: row[0], score: row[1], iou: row[3], box: row.slice(4, 11), partner: null };
      if (row[2] >= 0) {
        item.partner = labels[row[2]];
        item.partner.found = item;
      }
      item.outcome = row[2] >= 0 ? "found" : row[2] === -1 ? "false" : "excused";
      return item;
    });
    for (const item of labels) item.outcome = !item.counted ? "ignored" : item.found ? "found" : "missed";
    return [...labels, ...detections].filter((item) => category < 0 || item.category === category);
  }

  const errorOf = (item) => item.box[2] - item.partner.box[2];

  function statisticsOf(frame, run) {
    const result = { error: 0, missed: 0, false: 0, counted: 0 };
    for (const item of itemsOf(frame, run)) {
      if (item.partner) result.error = Math.max(result.error, Math.abs(errorOf(item)));
      if (item.outcome === "missed") result.missed += 1;
      if (item.outcome === "false") result.false += 1;
      if (item.counted) result.counted += 1;
    }
    return result;
  }

  const pictureOf = (frame) => pictures[number("g-dataset")][frame];

  function select() {
    const count = data.frames.id.length;
    const sort = element("g-sort").value;
    state.stats = Array.from({ length: count }, (_, frame) => statisticsOf(frame, own));
    if (sort === "gain") {
      const first = data.runs[0];
      state.stats.forEach((each, frame) => { each.gain = each.error - statisticsOf(frame, first).error; });
    }
    const shows = {
      all: () => true,
      missed: (frame) => state.stats[frame].missed > 0,
      false: (frame) => state.stats[frame].false > 0,
      error: (frame) => state.stats[frame].error > 2,
      picture: (frame) => pictureOf(frame) !== undefined,
    }[element("g-show").value];
    const wanted = element("g-search").value.trim().toLowerCase();
    state.frames = Array.from({ length: count }, (_, frame) => frame)
      .filter((frame) => shows(frame) && data.frames.id[frame].toLowerCase().includes(wanted));
    if (sort !== "id") state.frames.sort((a, b) => state.stats[b][sort] - state.stats[a][sort] || a - b);
  }

  function update() {
    const frame = state.frames[state.chosen];
    element("g-score-value").textContent = fixed(threshold());
    select();
    // A run or a score is changed to see what it does to the frame in view; another order starts anew.
    choose(Math.max(0, state.keep ? state.frames.indexOf(frame) : 0));
    const total = state.frames.reduce((sum, each) => {
      for (const key of ["missed", "false", "counted"]) sum[key] += state.stats[each][key];
      return sum;
    }, { missed: 0, false: 0, counted: 0 });
    element("g-status").textContent = state.frames.length
      ? `${state.frames.length} of ${data.frames.id.length} frames: ${total.counted - total.missed} of ${total.counted} objects matched in 2D, ${total.false} false positives`
      : "No frame fits: change the filters, or reset them";
  }

  function row(position) {
    const frame = state.frames[position];
    const stats = state.stats[frame];
    const node = make("li", { role: "option", id: `g-option-${position}`, "data-position": position, "aria-selected": position === state.chosen });
    const picture = pictureOf(frame);
    node.append(picture ? make("img", { src: picture, alt: "", loading: "lazy", decoding: "async" }) : make("span", { class: "blank" }));
    const words = make("span");
    words.append(make("b", {}, data.frames.id[frame]));
    const facts = [`${fixed(stats.error, 1)} m`, `${stats.missed} missed`, `${stats.false} FP`];
    if (stats.gain !== undefined) facts[0] = `${signed(stats.gain)} m`;
    words.append(make("span", { class: "facts" }, facts.join(" · ")));
    node.append(words);
    return node;
  }

  function drawList() {
    const first = state.page * pageSize;
    const positions = state.frames.slice(first, first + pageSize).map((_, i) => first + i);
    element("g-list").replaceChildren(...positions.map(row));
    const pages = Math.max(1, Math.ceil(state.frames.length / pageSize));
    element("g-page").textContent = `page ${state.page + 1} of ${pages}`;
    element("g-page-back").disabled = state.page === 0;
    element("g-page-on").disabled = state.page >= pages - 1;
  }

  // Show the frame at a position of the list.
  function choose(position) {
    const last = state.frames.length - 1;
    state.chosen = Math.min(Math.max(position, 0), last);
    state.page = Math.max(0, Math.floor(state.chosen / pageSize));
    drawList();
    const list = element("g-list");
    const option = element(`g-option-${state.chosen}`);
    if (option) {
      list.setAttribute("aria-activedescendant", option.id);
      const overflow = option.offsetTop - list.offsetTop;
      if (overflow < list.scrollTop) list.scrollTop = overflow - 4;
      else if (overflow + option.offsetHeight > list.scrollTop + list.clientHeight) {
        list.scrollTop = overflow + option.offsetHeight - list.clientHeight + 4;
      }
    } else list.removeAttribute("aria-activedescendant");
    element("g-back").disabled = state.chosen <= 0;
    element("g-on").disabled = state.chosen >= last;
    state.range = null;
    drawFrame();
  }

  function drawFrame() {
    const frame = state.frames[state.chosen];
    if (frame === undefined) {
      state.items = [];
      element("g-frame").textContent = "";
      for (const id of ["g-image", "g-bev"]) element(id).querySelector("svg").replaceChildren();
      return drawObjects();
    }
    const [labels, detections] = [element("g-labels").checked, element("g-detections").checked];
    state.items = itemsOf(frame, own);
    const visible = state.items.filter((item) => (item.kind === "label" ? labels : detections));
    const view = { size: data.frames.size[frame], camera: data.cameras[data.frames.camera[frame]], picture: pictureOf(frame) };
    element("g-frame").textContent = `${data.frames.id[frame]} · ${state.chosen + 1} of ${state.frames.length}`;
    scene.drawImage(element("g-image").querySelector("svg"), view, visible);
    scene.drawBev(element("g-bev").querySelector("svg"), view, visible, state.range ?? scene.fittingRange(state.items));
    drawObjects();
  }

  const words = { found: "matched", missed: "missed", false: "false positive", ignored: "not evaluated", excused: "not judged" };

  function drawObjects() {
    const rows = state.items.filter((item) => item.kind === "detection" || !item.found)
      .sort((a, b) => (b.partner ? Math.abs(errorOf(b)) : -1) - (a.partner ? Math.abs(errorOf(a)) : -1));
    element("g-objects").tBodies[0].replaceChildren(...rows.map((item) => {
      const line = make("tr", { tabindex: 0, "data-item": item.key });
      const found = item.kind === "detection";
      const truth = found ? item.partner : item;
      for (const [text, style] of [
        [words[item.outcome], item.outcome],
        [data.classes[item.category]],
        [found ? fixed(item.score) : "–"],
        [truth ? `${fixed(truth.box[2], 1)} m` : "–"],
        [found ? `${fixed(item.box[2], 1)} m` : "–"],
        [item.partner ? `${signed(errorOf(item))} m` : "–"],
        [item.partner ? fixed(item.iou) : "–"],
      ]) line.append(make("td", style ? { class: style } : {}, text));
      return line;
    }));
  }

  function describe(item) {
    const [x, , z, h, w, l, yaw] = item.box;
    const lines = [`${data.classes[item.category]}, ${item.kind === "label" ? `label, ${words[item.outcome]}` : words[item.outcome]}`];
    if (item.kind === "detection") lines.push(`score ${fixed(item.score)}`);
    lines.push(`depth ${fixed(z)} m, lateral ${signed(x)} m`, `h × w × l ${fixed(h)} × ${fixed(w)} × ${fixed(l)} m`, `yaw ${fixed((yaw * 180) / Math.PI, 0)}°`);
    if (item.partner) lines.push(`depth error ${signed(errorOf(item))} m, 3D IoU ${fixed(item.iou)}`);
    return lines.join("\n");
  }

  // An object and what found it belong together: both light up, in both views and in the table.
  function light(key) {
    const item = state.items.find((each) => each.key === key);
    const keys = item ? [item.key, (item.partner ?? item.found)?.key] : [];
    for (const node of element("gallery").querySelectorAll("[data-item]")) node.classList.toggle("lit", keys.includes(node.dataset.item));
    return item;
  }

  function startHover() {
    const tip = element("tooltip");
    const viewer = document.querySelector(".viewer");
    const leave = () => { tip.hidden = true; light(null); };
    viewer.addEventListener("pointermove", (event) => {
      const node = event.target.closest("[data-item]");
      const item = node && light(node.dataset.item);
      if (!item) return leave();
      tip.textContent = describe(item);
      tip.hidden = false;
      const { width, height } = tip.getBoundingClientRect();
      tip.style.left = `${Math.min(event.clientX + 14, innerWidth - width - 8)}px`;
      tip.style.top = `${Math.min(event.clientY + 14, innerHeight - height - 8)}px`;
    });
    viewer.addEventListener("pointerleave", leave);
    viewer.addEventListener("focusin", (event) => light(event.target.closest("tr[data-item]")?.dataset.item));
    const bev = element("g-bev").querySelector("svg");
    bev.addEventListener("pointermove", (event) => {
      const [x, z] = scene.position(bev, event);
      element("g-position").textContent = `x ${signed(x)} m, z ${fixed(z)} m`;
    });
    bev.addEventListener("pointerleave", () => { element("g-position").textContent = ""; });
  }

  function startKeys() {
    const steps = { ArrowDown: 1, ArrowUp: -1, ArrowRight: 1, ArrowLeft: -1, PageDown: pageSize, PageUp: -pageSize, Home: -Infinity, End: Infinity };
    const move = (event) => {
      const typing = event.target.matches("input, select") || event.altKey || event.ctrlKey || event.metaKey;
      const inList = event.target === element("g-list");
      const step = steps[event.key];
      if (typing || step === undefined || (!inList && !event.key.match(/Left|Right/))) return;
      event.preventDefault();
      choose(state.chosen + step);
    };
    element("gallery").addEventListener("keydown", move);
    element("g-list").addEventListener("click", (event) => {
      const option = event.target.closest("li");
      if (option) choose(Number(option.dataset.position));
    });
    const buttons = { "g-back": () => state.chosen - 1, "g-on": () => state.chosen + 1,
      "g-page-back": () => (state.page - 1) * pageSize, "g-page-on": () => (state.page + 1) * pageSize };
    for (const [id, target] of Object.entries(buttons)) element(id).addEventListener("click", () => choose(target()));
  }

  function startRange() {
    const change = (factor) => {
      const range = state.range ?? scene.fittingRange(state.items);
      state.range = factor ? Math.min(Math.max(range * factor, 10), 160) : null;
      drawFrame();
    };
    element("g-nearer").addEventListener("click", () => change(1 / 1.4));
    element("g-farther").addEventListener("click", () => change(1.4));
    element("g-fit").addEventListener("click", () => change(0));
  }

  function chooseData() {
    data = content.galleries[number("g-dataset")];
    fill(element("g-run"), data.runs.map(({ run }, index) => [index, content.runs[run].name]));
    fill(element("g-class"), [[-1, "all"], ...data.classes.map((name, index) => [index, name])]);
    const seen = new Set(data.runs.flatMap((run) => run.detections.flat().map((row) => row[0])));
    const legend = data.classes.flatMap((name, index) => {
      if (seen.size && !seen.has(index)) return [];
      const node = make("li", {}, name);
      node.style.setProperty("--swatch", colourOf(index));
      return [node];
    });
    const notes = [["outline", "--label", "label"], ["outline", "--bad", "missed"], ["dashed", "--soft", "false positive"]];
    for (const [style, colour, text] of notes) {
      const node = make("li", { class: style }, text);
      node.style.setProperty("--swatch", `var(${colour})`);
      legend.push(node);
    }
    element("g-legend").replaceChildren(...legend);
    chooseRun();
  }

  function chooseRun() {
    own = data.runs[number("g-run")];
    element("g-score").value = own.score;
  }

  return {
    start() {
      if (!content.galleries.length) return;
      fill(element("g-dataset"), content.galleries.map((each, index) => [index, each.dataset]));
      fill(element("g-sort"), sorts);
      chooseData();
      const listen = (id, kind, keep, action = () => {}) => element(id).addEventListener(kind, () => {
        action();
        state.keep = keep;
        update();
      });
      listen("g-dataset", "change", false, chooseData);
      listen("g-run", "change", true, chooseRun);
      for (const id of ["g-sort", "g-show", "g-class"]) listen(id, "change", false);
      listen("g-search", "input", false);
      listen("g-score", "input", true);
      listen("g-reset", "click", false, () => {
        for (const id of ["g-sort", "g-show", "g-class"]) element(id).selectedIndex = 0;
        element("g-search").value = "";
        element("g-score").value = own.score;
      });
      for (const id of ["g-labels", "g-detections"]) element(id).addEventListener("change", drawFrame);
      startHover();
      startKeys();
      startRange();
      update();
    },
  };
})();
