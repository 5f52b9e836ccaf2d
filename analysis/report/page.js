// What the report's page does where scripts run: sliders, figures enlarged, tables sorted, pixels that say what they are.
// Without it everything is there to read, figures in rows. Names come from runs: they are only ever set as text.
"use strict";
(() => {
  const make = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const parsed = node => JSON.parse(node.textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // A slider over named stops; `show` gets the place of the one that is chosen
  const slider = (title, stops, start, show) => {
    const input = make("input", {type: "range", min: 0, max: stops.length - 1, step: 1, value: start});
    const said = make("output", {}, stops[start]);
    const choose = () => {
      said.textContent = stops[input.value];
      input.setAttribute("aria-valuetext", stops[input.value]);
      show(Number(input.value));
    };
    input.addEventListener("input", choose);
    choose();
    return make("label", {className: "slider"}, make("span", {}, title), input, said);
  };

  // Figures that have a stop stand one at a time
  for (const row of document.querySelectorAll(".sliding")) {
    const figures = [...row.children];
    row.classList.add("one");
    const show = at => figures.forEach((figure, i) => figure.classList.toggle("off", i !== at));
    row.prepend(slider("Figure", figures.map(figure => figure.dataset.stop), 0, show));
  }

  // Pixels: a canvas in place of the figures
  const scales = parsed(document.getElementById("scales"));
  const channels = colour => [1, 3, 5].map(at => parseInt(colour.slice(at, at + 2), 16));
  const table = colours => Array.from({length: 256}, (_, i) => {
    const place = i / 255 * (colours.length - 1), low = Math.min(Math.floor(place), colours.length - 2);
    const [a, b] = [channels(colours[low]), channels(colours[low + 1])];
    return a.map((part, j) => Math.round(part + (b[j] - part) * (place - low)));
  });
  const tables = {value: table(scales.value), change: table(scales.change)};

  // The upper triangle of a symmetric matrix, in steps of two bytes; the last step stands for "unknown"
  const unpacked = (text, n, low, high) => {
    const bytes = Uint8Array.from(atob(text), sign => sign.charCodeAt(0)), matrix = new Float32Array(n * n);
    for (let i = 0, at = 0; i < n; i++) {
      for (let j = i; j < n; j++, at += 2) {
        const step = bytes[at] + 256 * bytes[at + 1];
        matrix[i * n + j] = matrix[j * n + i] = step === 65535 ? NaN : low + step / 65534 * (high - low);
      }
    }
    return matrix;
  };

  for (const node of document.querySelectorAll("script.pixels")) {
    const data = parsed(node), n = data.rows.length;
    const matrices = data.matrices.map(text => unpacked(text, n, data.low, data.high));
    const changes = matrices.map(matrix => matrix.map((value, i) => value - matrices[0][i]));
    const furthest = changes.flatMap(one => [...one]).reduce((most, v) => v === v ? Math.max(most, Math.abs(v)) : most, 0);
    const canvas = make("canvas", {tabIndex: 0});
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${data.title}, a pixel for each pair; arrow keys go from pixel to pixel`);
    const said = make("p", {className: "pixel"}, "Point at a pixel, or use the arrow keys, to see what it compares.");
    said.setAttribute("aria-live", "polite");
    const difference = make("input", {type: "checkbox"});
    let at = 0, chosen = null, box = {};
    const starts = data.groups.map((_, i) => i).filter(i => i === 0 || data.groups[i] !== data.groups[i - 1]);

    const draw = () => {
      const style = getComputedStyle(canvas), ink = style.color, ratio = devicePixelRatio || 1;
      const side = canvas.clientWidth;
      if (!side) return;
      const font = 12, left = 34, below = 74;
      const cells = side - left - 4;
      Object.assign(canvas, {width: side * ratio, height: (cells + below) * ratio});
      canvas.style.height = `${cells + below}px`;
      const pen = canvas.getContext("2d");
      pen.scale(ratio, ratio);
      pen.font = `${font}px ${style.fontFamily}`;
      const shown = difference.checked ? changes[at] : matrices[at];
      const [low, high] = difference.checked ? [-(furthest || 1), furthest || 1] : [data.low, data.high];
      const colours = difference.checked ? tables.change : tables.value;
      const colour = value => value === value
        ? colours[Math.round(255 * Math.min(Math.max((value - low) / (high - low), 0), 1))] : [128, 128, 128];
      // One pixel a pair, then enlarged without smoothing: every pixel is a pair of its own
      const small = make("canvas", {width: n, height: n}), image = new ImageData(n, n);
      shown.forEach((value, i) => image.data.set([...colour(value), 255], 4 * i));
      small.getContext("2d").putImageData(image, 0, 0);
      pen.imageSmoothingEnabled = false;
      pen.drawImage(small, left, 0, cells, cells);
      box = {left, cells};
      const cell = cells / n;
      pen.textAlign = "center";
      pen.textBaseline = "middle";
      if (cell >= 34) {
        shown.forEach((value, i) => {
          const [r, g, b] = colour(value);
          pen.fillStyle = 0.3 * r + 0.6 * g + 0.1 * b > 130 ? "#111" : "#fff";
          pen.fillText(value === value ? value.toFixed(2) : "–", left + (i % n + 0.5) * cell, (Math.floor(i / n) + 0.5) * cell);
        });
      }
      pen.fillStyle = ink;
      pen.strokeStyle = difference.checked ? "#888" : "#fff";
      let last = -font;
      starts.forEach((start, g) => {
        const edge = start * cell, middle = ((starts[g + 1] ?? n) + start) / 2 * cell;
        if (start && starts.length < n) {
          pen.beginPath();
          pen.moveTo(left + edge, 0), pen.lineTo(left + edge, cells);
          pen.moveTo(left, edge), pen.lineTo(left + cells, edge);
          pen.stroke();
        }
        if (middle - last >= 1.6 * font) {
          pen.fillText(data.groups[start], left + middle, cells + font);
          pen.fillText(data.groups[start], left - font, middle);
          last = middle;
        }
      });
      pen.fillText(data.axis, left + cells / 2, cells + 2.3 * font);
      pen.save(), pen.translate(font / 2, cells / 2), pen.rotate(-Math.PI / 2), pen.fillText(data.axis, 0, 0), pen.restore();
      const bar = Math.min(cells, 260), top = cells + 3.4 * font;
      for (let i = 0; i < bar; i++) {
        pen.fillStyle = `rgb(${colours[Math.round(255 * i / (bar - 1))]})`;
        pen.fillRect(left + i, top, 1.5, 10);
      }
      pen.fillStyle = ink;
      for (const [part, align] of [[0, "left"], [0.5, "center"], [1, "right"]]) {
        pen.textAlign = align;
        pen.fillText((low + part * (high - low)).toFixed(2).replace("-", "−"), left + part * bar, top + 10 + font);
      }
      if (chosen) {
        pen.strokeStyle = "#d00", pen.lineWidth = 2;
        pen.strokeRect(left + chosen[1] * cell - 1, chosen[0] * cell - 1, cell + 2, cell + 2);
      }
    };
    const say = () => {
      if (!chosen) return;
      const place = chosen[0] * n + chosen[1], value = matrices[at][place], change = changes[at][place];
      const number = value === value ? value.toFixed(3).replace("-", "−") : "unknown";
      const moved = at && change === change ? ` (${change < 0 ? "−" : "+"}${Math.abs(change).toFixed(3)} since ${data.stops[0]})` : "";
      said.textContent = `${data.rows[chosen[0]]} × ${data.rows[chosen[1]]}: ${data.value} ${number}${moved}`;
    };
    const choose = (row, column) => {
      const inside = value => Math.min(Math.max(value, 0), n - 1);
      chosen = [inside(row), inside(column)];
      say();
      draw();
    };
    canvas.addEventListener("pointermove", event => {
      const edge = canvas.getBoundingClientRect(), cell = box.cells / n;
      const column = Math.floor((event.clientX - edge.left - box.left) / cell), row = Math.floor((event.clientY - edge.top) / cell);
      if (Math.min(row, column) >= 0 && Math.max(row, column) < n) choose(row, column);
    });
    canvas.addEventListener("keydown", event => {
      const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
      if (!step) return;
      event.preventDefault();
      choose(...(chosen ? [chosen[0] + step[0], chosen[1] + step[1]] : [0, 0]));
    });
    difference.addEventListener("change", draw);
    dark.addEventListener("change", draw);
    new ResizeObserver(draw).observe(canvas);
    const show = place => { at = place; say(); draw(); };
    const controls = make("div", {className: "controls"});
    if (data.stops.length > 1) {
      controls.append(
        slider("Checkpoint", data.stops, data.stops.length - 1, show),
        make("label", {}, difference, ` change since ${data.stops[0]}`),
      );
    }
    const viewer = make("figure", {className: "picture viewer"}, controls, canvas, said);
    if (data.note) viewer.append(make("p", {className: "note"}, data.note));
    node.before(viewer);
    node.parentElement.querySelector(".replaced-by-pixels").classList.add("replaced");
  }

  // Enlarge: figures are copied into a dialog, pixels move into it and back
  const dialog = make("dialog"), inside = make("div", {className: "inside"});
  const close = make("button", {type: "button", className: "close"}, "Close");
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
  dialog.append(close, inside);
  document.body.append(dialog);
  for (const figure of document.querySelectorAll(".picture")) {
    const picture = figure.querySelector("img"), canvas = figure.querySelector("canvas");
    const title = picture ? picture.alt : canvas.getAttribute("aria-label");
    const button = make("button", {type: "button", className: "enlarge", title: "Enlarge"}, "⤢");
    button.setAttribute("aria-label", `Enlarge: ${title}`);
    const open = () => {
      dialog.setAttribute("aria-label", title);
      if (picture) {
        inside.replaceChildren(make("img", {src: picture.src, alt: picture.alt, width: 2 * picture.width, height: 2 * picture.height}));
      } else {
        const place = make("div");
        place.style.height = `${figure.offsetHeight}px`; // so that nothing behind the dialog moves
        figure.before(place);
        inside.replaceChildren(figure);
        // What has moved has lost the focus that a dialog gives back
        dialog.addEventListener("close", () => { place.replaceWith(figure); button.focus({preventScroll: true}); }, {once: true});
      }
      dialog.showModal();
    };
    button.addEventListener("click", open);
    if (picture) picture.addEventListener("click", open);
    figure.append(button);
  }

  // Tables: a button in each heading sorts the rows, numbers as numbers, whatever follows ±; what is missing stays last
  const text = (row, column) => row.cells[column].textContent.trim();
  const plain = cell => cell.replace(/\s*±.*$/, "").replace("−", "-").replace(/\s*%$/, "");
  for (const made of document.querySelectorAll(".table table")) {
    const body = made.tBodies[0], headings = [...made.tHead.rows[0].cells];
    if (body.rows.length < 2) continue;
    headings.forEach((heading, column) => {
      const button = make("button", {type: "button", className: "sort"}, ...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const down = heading.getAttribute("aria-sort") === "ascending";
        headings.forEach(one => one.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...body.rows], missing = row => text(row, column) === "–";
        const there = rows.filter(row => !missing(row));
        const numbers = there.every(row => plain(text(row, column)) !== "" && !isNaN(plain(text(row, column))));
        const order = numbers
          ? (a, b) => plain(text(a, column)) - plain(text(b, column))
          : (a, b) => text(a, column).localeCompare(text(b, column), undefined, {numeric: true});
        there.sort((a, b) => down ? order(b, a) : order(a, b));
        body.append(...there, ...rows.filter(missing));
      });
    });
  }
})();
