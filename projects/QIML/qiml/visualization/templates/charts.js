// Charts by Plotly, drawn when they come into view.
const charts = (() => {
  const dashes = ["solid", "dash", "dot", "dashdot", "longdash"];
  const drawn = new Map(); // node → function that gives its traces and axes
  const waiting = new Map();
  let observer = null;

  function layout({ title, x, y, ...more }) {
    const axis = { gridcolor: variable("--line"), zerolinecolor: variable("--ring"), linecolor: variable("--line"), automargin: true };
    return {
      title: { text: title, x: 0.04, y: 0.95, font: { size: 14 } },
      font: { color: variable("--ink"), family: "system-ui, sans-serif", size: 12 },
      paper_bgcolor: "transparent", plot_bgcolor: "transparent",
      margin: { l: 50, r: 14, t: 40, b: 40 }, hovermode: "closest",
      hoverlabel: { font: { family: "system-ui, sans-serif" }, namelength: -1 },
      legend: { orientation: "h", traceorder: "normal", y: -0.22, font: { size: 11 } },
      ...more,
      xaxis: { ...axis, ...x }, yaxis: { ...axis, ...y },
    };
  }

  // Its script is long: a browser takes a second or more for it, which opening the page need not wait for.
  function loadPlotly() {
    if (!globalThis.Plotly) document.body.append(make("script", {}, element("plotly").textContent));
  }

  function draw(node) {
    loadPlotly();
    const { traces, ...rest } = drawn.get(node)();
    Plotly.react(node, traces, layout(rest), { displaylogo: false, responsive: true, displayModeBar: false });
  }

  // Put charts into a container: functions that give traces, title and axes.
  function show(container, builders) {
    for (const node of container.children) {
      if (drawn.delete(node)) Plotly.purge(node);
    }
    container.replaceChildren(...builders.map((build) => {
      const node = make("div", { class: "chart", role: "img", "aria-label": build().title });
      waiting.set(node, build);
      observer.observe(node);
      return node;
    }));
  }

  // Names in data may hold what Plotly takes for markup.
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const several = content.runs.length > 1;

  function metricGroups() {
    const names = [...new Set(content.runs.flatMap((run) => Object.keys(run.metrics)))].sort();
    const groups = { losses: [] };
    for (const name of names) {
      if (name === "total_loss") groups.losses.unshift(name);
      else if (name.startsWith("loss")) groups.losses.push(name);
      else if (name.includes("/")) (groups[name.split("/").slice(0, 2).join(" ")] ||= []).push(name);
      else (groups["learning rate and speed"] ||= []).push(name);
    }
    return Object.entries(groups).filter(([, members]) => members.length);
  }

  function metricChart(name) {
    return () => ({
      title: plain(name),
      x: { title: { text: "iteration", standoff: 6 } },
      y: element("log-scale").checked ? { type: "log" } : {},
      showlegend: false,
      traces: content.runs.flatMap((run, index) => {
        const [x, y] = run.metrics[name] || [[], []];
        if (!x.length) return [];
        const mode = x.length < 3 ? "lines+markers" : "lines";
        return [{ x, y, mode, name: plain(run.name), line: { color: runColour(index), width: 2 },
          hovertemplate: `iteration %{x}<br>%{y:.5g}<extra>${plain(run.name)}</extra>` }];
      }),
    });
  }

  function startTraining() {
    const groups = metricGroups();
    fill(element("metric-group"), groups.map(([name], index) => [index, name]));
    const update = () => show(element("training-charts"), groups[element("metric-group").value][1].map(metricChart));
    for (const id of ["metric-group", "log-scale"]) element(id).addEventListener("change", update);
    update();
  }

  function precisionChart(evaluation, table, name, metric, title, chosen) {
    const limit = evaluation.limits[table][name]?.[metric];
    return () => ({
      title: `${title}, IoU > ${limit}`,
      x: { title: { text: "recall", standoff: 6 }, range: [0, 1] },
      y: { title: { text: metric === "aos" ? "similarity" : "precision" }, range: [0, 1.02] },
      traces: evaluation.precision.flatMap((own, run) => Object.entries(own?.[table]?.[name]?.[metric] || {})
        .filter(([level]) => chosen === "all" || level === chosen)
        .map(([level, y], index) => {
          const label = several ? `${content.runs[run].name}, ${level}` : level;
          const line = several ? { color: runColour(run), dash: dashes[index % 5] } : { color: runColour(evaluation.order.indexOf(level)) };
          return { x: evaluation.recall, y, mode: "lines", name: plain(label), line: { ...line, width: 2 },
            hovertemplate: `recall %{x:.2f}<br>%{y:.3f}<extra>${plain(label)}</extra>` };
        })),
    });
  }

  function startPrecision() {
    const titles = [["3d", "3D box"], ["bev", "Bird's-eye view"], ["2d", "2D box"], ["aos", "Orientation"]];
    const update = () => {
      const evaluation = content.evaluations[element("pr-dataset").value];
      fill(element("pr-table"), Object.keys(evaluation.limits).map((name) => [name, name]));
      const table = element("pr-table").value;
      fill(element("pr-level"), [["all", "all"], ...evaluation.order.map((level) => [level, level])]);
      const names = [...new Set(evaluation.precision.flatMap((own) => Object.keys(own?.[table] || {})))];
      fill(element("pr-class"), names.map((name) => [name, name]));
      const name = element("pr-class").value;
      const known = titles.filter(([metric]) => evaluation.precision.some((own) => own?.[table]?.[name]?.[metric]));
      show(element("precision-charts"), known.map(([metric, title]) => precisionChart(evaluation, table, name, metric, title, element("pr-level").value)));
    };
    if (content.evaluations[element("pr-dataset").value].precision.some((own) => own?.strict?.Car)) {
      fill(element("pr-class"), [["Car", "Car"]]);
    }
    if (several) fill(element("pr-level"), [["moderate", "moderate"]]); // or the lines are too many
    for (const id of ["pr-dataset", "pr-table", "pr-class", "pr-level"]) element(id).addEventListener("change", update);
    update();
  }

  function rangesChart(evaluation, name, measure, title, unit) {
    return () => ({
      title,
      y: { title: { text: unit } },
      barmode: "group", bargap: 0.35, showlegend: several,
      traces: evaluation.depth.flatMap((own, run) => {
        const ranges = own?.[name];
        if (!ranges) return [];
        const parts = Object.keys(ranges);
        return [{ type: "bar", x: parts, y: parts.map((part) => ranges[part][measure]), name: plain(content.runs[run].name),
          customdata: parts.map((part) => `${ranges[part].matched} of ${ranges[part].objects} objects matched`),
          marker: { color: runColour(run) },
          hovertemplate: `%{x}: %{y:.2f} ${unit}<br>%{customdata}<extra>${plain(content.runs[run].name)}</extra>` }];
      }),
    });
  }

  // [frame id, true depth, error] of a run's matched detections, from the gallery.
  function matched(data, run, name) {
    const category = data.classes.indexOf(name);
    const own = data.runs.find((each) => each.run === run);
    return own ? own.detections.flatMap((detections, frame) => detections.flatMap((d) => {
      if (d[0] !== category || d[2] < 0) return [];
      const depth = data.frames.objects[frame][d[2]][4];
      return [[data.frames.id[frame], depth, d[6] - depth]];
    })) : [];
  }

  function scatterChart(data, name) {
    const most = 3000; // points of a run
    return () => ({
      title: "Each matched object",
      x: { title: { text: "true depth, m", standoff: 6 }, rangemode: "tozero" },
      y: { title: { text: "found − true, m" } },
      showlegend: several,
      traces: content.runs.flatMap((run, index) => {
        const all = matched(data, index, name);
        const step = Math.max(1, Math.ceil(all.length / most));
        const points = all.filter((_, i) => i % step === 0);
        return points.length ? [{ mode: "markers", x: points.map((p) => p[1]), y: points.map((p) => p[2]),
          text: points.map((p) => plain(p[0])), name: plain(run.name),
          marker: { color: runColour(index), size: 5, opacity: 0.55 },
          hovertemplate: `frame %{text}<br>at %{x:.1f} m: %{y:+.2f} m<extra>${plain(run.name)}</extra>` }] : [];
      }),
    });
  }

  const quantile = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];

  function distanceChart(data, name) {
    const width = 5, least = 5; // metres; objects for a point
    return () => ({
      title: "Absolute error by distance: median and quartiles",
      x: { title: { text: "true depth, m", standoff: 6 }, rangemode: "tozero" },
      y: { title: { text: "m" }, rangemode: "tozero" },
      showlegend: several,
      traces: content.runs.flatMap((run, index) => {
        const bins = [];
        for (const [, depth, error] of matched(data, index, name)) (bins[Math.floor(depth / width)] ||= []).push(Math.abs(error));
        const kept = Object.entries(bins).filter(([, bin]) => bin.length >= least);
        const x = kept.map(([bin]) => (Number(bin) + 0.5) * width);
        const at = (share) => kept.map(([, bin]) => quantile(bin.sort((a, b) => a - b), share));
        const band = { x, mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false };
        return [
          { ...band, y: at(0.25) },
          { ...band, y: at(0.75), fill: "tonexty", fillcolor: runColour(index) + "33" },
          { x, y: at(0.5), mode: "lines+markers", name: plain(run.name), line: { color: runColour(index), width: 2 },
            customdata: kept.map(([, bin]) => bin.length),
            hovertemplate: `%{x} m: median %{y:.2f} m<br>%{customdata} objects<extra>${plain(run.name)}</extra>` },
        ];
      }),
    });
  }

  function startDepth() {
    const update = () => {
      const evaluation = content.evaluations[element("depth-dataset").value];
      const names = [...new Set(evaluation.depth.flatMap((own) => Object.keys(own || {})))];
      fill(element("depth-class"), names.map((name) => [name, name]));
      const name = element("depth-class").value;
      const builders = [
        rangesChart(evaluation, name, "mean", "Mean absolute error", "m"),
        rangesChart(evaluation, name, "bias", "Bias: found − true", "m"),
      ];
      const data = content.galleries.find((each) => each.dataset === element("depth-dataset").value);
      if (data) builders.push(distanceChart(data, name), scatterChart(data, name));
      show(element("depth-charts"), builders);
    };
    fill(element("depth-class"), [["Car", "Car"]]);
    for (const id of ["depth-dataset", "depth-class"]) element(id).addEventListener("change", update);
    update();
  }

  return {
    start() {
      observer = new IntersectionObserver((entries) => {
        for (const { target, isIntersecting } of entries) {
          if (!isIntersecting) continue;
          observer.unobserve(target);
          drawn.set(target, waiting.get(target));
          draw(target);
        }
      }, { rootMargin: "200px" });
      if (element("training")) startTraining();
      if (element("precision")) startPrecision();
      if (element("depth")) startDepth();
    },
    recolour() {
      for (const node of drawn.keys()) draw(node);
    },
  };
})();
