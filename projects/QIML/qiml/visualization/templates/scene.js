// One frame: boxes over its image and from above. Boxes are [x, y, z, h, w, l, yaw] in metres, camera frame.
const scene = (() => {
  const edges = [[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7]];
  const front = [0, 1, 5, 4];
  const near = 0.1;

  // Eight corners, clockwise from front left as seen from above, bottom face first.
  function corners([x, y, z, h, w, l, yaw]) {
    const [sine, cosine] = [Math.sin(yaw), Math.cos(yaw)];
    return [1, -1].flatMap((down) => [[1, 1], [1, -1], [-1, -1], [-1, 1]].map(([forwards, left]) => {
      const [along, across] = [(l * forwards) / 2, (w * left) / 2];
      return [x + cosine * along + sine * across, y + (h * down) / 2, z + cosine * across - sine * along];
    }));
  }

  function project(camera, [x, y, z]) {
    const row = (i) => camera[i] * x + camera[i + 1] * y + camera[i + 2] * z + camera[i + 3];
    return [row(0) / row(8), row(4) / row(8)];
  }

  // The part of a segment in front of the camera, or null.
  function clip(a, b) {
    if (a[2] < near && b[2] < near) return null;
    const cut = (from, to) => {
      const t = (near - from[2]) / (to[2] - from[2]);
      return from.map((value, i) => value + t * (to[i] - value));
    };
    return [a[2] < near ? cut(a, b) : a, b[2] < near ? cut(b, a) : b];
  }

  const text = (point) => point.map((value) => value.toFixed(1)).join(",");

  function group(item) {
    const node = make("g", { class: `box ${item.kind} ${item.outcome}`, "data-item": item.key });
    if (item.kind === "detection") node.style.setProperty("--tint", colourOf(item.category));
    return node;
  }

  function imageBox(item, camera) {
    const points = corners(item.box);
    const seen = edges.map(([a, b]) => clip(points[a], points[b])).filter(Boolean)
      .map((segment) => segment.map((point) => project(camera, point)));
    if (!seen.length) return null;
    const node = group(item);
    const [xs, ys] = [0, 1].map((axis) => seen.flat().map((point) => point[axis]));
    const [left, top] = [Math.min(...xs), Math.min(...ys)];
    node.append(make("rect", { class: "hit", x: left, y: top, width: Math.max(...xs) - left, height: Math.max(...ys) - top }));
    if (front.every((i) => points[i][2] >= near)) {
      node.append(make("polygon", { class: "face", points: front.map((i) => text(project(camera, points[i]))).join(" ") }));
    }
    node.append(make("path", { d: seen.map(([a, b]) => `M${text(a)}L${text(b)}`).join("") }));
    return node;
  }

  function drawImage(svg, frame, items) {
    const [width, height] = frame.size;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const nodes = [];
    if (frame.picture) {
      nodes.push(make("image", { href: frame.picture, width, height, preserveAspectRatio: "none" }));
    } else {
      nodes.push(make("text", { x: 10, y: height - 10, fill: "#9aa5b4", "font-size": height / 20 }, "no picture in this report"));
    }
    // Labels below, so that the pointer finds detections; near boxes above far ones.
    const level = (item) => (item.kind === "label" ? 0 : 1);
    const farFirst = [...items].sort((a, b) => level(a) - level(b) || b.box[2] - a.box[2]);
    svg.replaceChildren(...nodes, ...farFirst.map((item) => imageBox(item, frame.camera)).filter(Boolean));
  }

  function bevBox(item) {
    const node = group(item);
    const ground = corners(item.box).slice(0, 4).map(([x, , z]) => [x, -z]);
    const exact = (points) => points.map((point) => point.map((value) => value.toFixed(2)).join(",")).join(" ");
    const [x, , z] = item.box;
    node.append(make("circle", { class: "hit", cx: x, cy: -z, r: Math.max(item.box[5], item.box[4]) / 2 }));
    node.append(make("polygon", { class: "face", points: exact(ground) }));
    const nose = [(ground[0][0] + ground[1][0]) / 2, (ground[0][1] + ground[1][1]) / 2];
    node.append(make("path", { d: `M${exact([[x, -z]])}L${exact([nose])}` }));
    return node;
  }

  // Whole tens of metres that show everything.
  function fittingRange(items) {
    const farthest = Math.max(26, ...items.map((item) => item.box[2]));
    return Math.min(Math.ceil((farthest + 4) / 10) * 10, 120);
  }

  function drawBev(svg, frame, items, range) {
    const width = range / 1.08;
    svg.setAttribute("viewBox", `${-width / 2} ${-range * 0.96} ${width} ${range}`);
    const [fx, cx] = [frame.camera[0], frame.camera[2]];
    const reach = 2 * range;
    const border = (pixel) => [((pixel - cx) / fx) * reach, -reach].join(",");
    const nodes = [make("polygon", { class: "wedge", points: `0,0 ${border(0)} ${border(frame.size[0])}` })];
    const step = range <= 50 ? 10 : 20;
    for (let radius = step; radius < 1.2 * range; radius += step) {
      nodes.push(make("circle", { class: "ring", r: radius }));
      nodes.push(make("text", { class: "ring-label", x: range * 0.006, y: -radius - range * 0.008, "font-size": range * 0.026 }, `${radius} m`));
    }
    const size = range * 0.012;
    nodes.push(make("polygon", { class: "ring-label", points: `0,${-1.4 * size} ${size},${size} ${-size},${size}` }));
    for (const item of items) {
      if (item.partner && items.includes(item.partner)) {
        const [a, b] = [item.box, item.partner.box];
        nodes.push(make("line", { class: "link", x1: a[0], y1: -a[2], x2: b[0], y2: -b[2] }));
      }
    }
    svg.replaceChildren(...nodes, ...items.map(bevBox));
  }

  // Metres on the ground under the pointer.
  function position(svg, event) {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    return [point.x, -point.y];
  }

  return { drawImage, drawBev, fittingRange, position };
})();
