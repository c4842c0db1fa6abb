"use strict";
// Browser of slices. Each element with the attribute data-browser contains its data as JSON. Images are drawn, never read back,
// since browsers do not let a page of file:// read the pixels of its images.
(() => {
  const KEY_STEP = 20, LINE = 1.5, RIM = 0.7, DIM = 0.55;
  const DIRECTIONS = [[-1, -1], [-1, 0], [-1, 1], [0, -1], [0, 1], [1, -1], [1, 0], [1, 1]];

  class Browser {
    constructor(element) {
      this.element = element;
      this.data = JSON.parse(element.querySelector("script[type='application/json']").textContent);
      this.case = 0;
      this.view = 0;
      this.positions = this.data.cases.map((content) => content.views.map((view) => view.first));
      this.images = new Map();
      this.scratch = document.createElement("canvas");
      this.kinds = Object.fromEntries(this.data.toggles.map((toggle) => [toggle.kind, toggle]));
      this.listen();
      this.showCase(0);
      new ResizeObserver(() => this.draw()).observe(element.querySelector(".panels"));
    }

    control(name) { return this.element.querySelector(`[data-control="${name}"]`); }
    get currentView() { return this.data.cases[this.case].views[this.view]; }
    get position() { return this.positions[this.case][this.view]; }

    listen() {
      const on = (name, event, action) => this.control(name)?.addEventListener(event, action);
      on("case", "change", (event) => this.showCase(Number(event.target.value)));
      on("previous", "click", () => this.stepCase(-1));
      on("next", "click", () => this.stepCase(1));
      on("slice", "input", (event) => this.showSlice(Number(event.target.value)));
      on("size", "input", () => this.resize());
      for (const radio of this.element.querySelectorAll("[data-control='view']")) {
        radio.addEventListener("change", () => this.showView(Number(radio.value)));
      }
      for (const box of this.element.querySelectorAll("[data-toggle]")) box.addEventListener("change", () => this.draw());
      for (const box of this.element.querySelectorAll("[data-panel-shown]")) {
        box.addEventListener("change", () => this.showPanels());
      }
      for (const button of this.element.querySelectorAll("[data-all-panels]")) {
        button.addEventListener("click", () => {
          this.element.querySelectorAll("[data-panel-shown]").forEach((box, number) => {
            box.checked = button.dataset.allPanels === "true" || number === 0;
          });
          this.showPanels();
        });
      }
      this.element.addEventListener("keydown", (event) => this.press(event));
    }

    press(event) {
      if (event.ctrlKey || event.altKey || event.metaKey || event.target.matches("select")) return;
      const key = event.key.toUpperCase();
      const toggle = this.data.toggles.find((entry) => entry.key === key);
      const isRange = event.target.matches("input[type='range'], input[type='radio']");
      if (toggle) {
        const box = this.element.querySelector(`[data-toggle="${toggle.kind}"]`);
        box.checked = !box.checked;
        this.draw();
      } else if (key === "N") this.stepCase(1);
      else if (key === "P") this.stepCase(-1);
      else if (key === "V") this.showView((this.view + 1) % this.data.cases[this.case].views.length);
      else if (key === "+" || key === "=") this.resize(KEY_STEP);
      else if (key === "-") this.resize(-KEY_STEP);
      else if (!isRange && (key === "ARROWRIGHT" || key === "ARROWUP")) this.showSlice(this.position + 1);
      else if (!isRange && (key === "ARROWLEFT" || key === "ARROWDOWN")) this.showSlice(this.position - 1);
      else return;
      event.preventDefault();
    }

    resize(change = 0) {
      const slider = this.control("size");
      slider.value = Number(slider.value) + change;
      this.element.style.setProperty("--panel-width", `${slider.value}px`);
      this.draw();
    }

    showPanels() {
      for (const box of this.element.querySelectorAll("[data-panel-shown]")) {
        this.element.querySelector(`[data-panel="${box.dataset.panelShown}"]`).hidden = !box.checked;
      }
      this.draw();
    }

    stepCase(step) {
      const count = this.data.cases.length;
      this.showCase((this.case + step + count) % count);
    }

    showCase(index) {
      this.case = index;
      if (this.control("case")) this.control("case").value = String(index);
      const notes = this.data.cases[index].notes;
      this.data.panels.forEach((panel, number) => {
        this.element.querySelector(`[data-panel="${number}"] .note`).textContent = notes[panel.name] ?? "";
      });
      this.showView(this.view);
    }

    showView(index) {
      this.view = index;
      for (const radio of this.element.querySelectorAll("[data-control='view']")) radio.checked = Number(radio.value) === index;
      this.control("slice").max = this.currentView.file_slices.length - 1;
      this.showSlice(this.position);
    }

    showSlice(index) {
      const view = this.currentView, count = view.file_slices.length;
      const position = Math.min(Math.max(index, 0), count - 1);
      this.positions[this.case][this.view] = position;
      const slider = this.control("slice"), axis = "ijk"[view.file_axis];
      const text = `${view.name} ${position + 1} of ${count} (${axis} = ${view.file_slices[position]} in the file)`;
      slider.value = position;
      slider.setAttribute("aria-valuetext", text);
      this.element.querySelector("[data-output='slice']").textContent = text;
      this.draw();
    }

    // Show the slices of all orientations that contain a voxel of the file, or the nearest that exist.
    showVoxel(voxel) {
      this.data.cases[this.case].views.forEach((view, number) => {
        const distances = view.file_slices.map((index) => Math.abs(index - voxel[view.file_axis]));
        this.positions[this.case][number] = distances.indexOf(Math.min(...distances));
      });
      this.showView(this.view);
      this.element.scrollIntoView();
      this.element.focus({ preventScroll: true });
    }

    // Return an image that has loaded, or null; the slice is drawn again when it has.
    image(address) {
      if (!this.images.has(address)) {
        const image = new Image();
        for (const event of ["load", "error"]) image.addEventListener(event, () => this.draw());
        image.src = address;
        this.images.set(address, image);
      }
      const image = this.images.get(address);
      this.isWaiting ||= !image.complete;
      return image.complete && image.naturalWidth ? image : null;
    }

    draw() {
      this.element.setAttribute("aria-busy", "true");
      if (!this.pending) this.pending = requestAnimationFrame(() => { this.pending = 0; this.drawAll(); });
    }

    drawAll() {
      this.isWaiting = false;
      const name = this.data.cases[this.case].name, view = this.currentView;
      const isOn = (kind) => this.element.querySelector(`[data-toggle="${kind}"]`).checked;
      this.data.panels.forEach((panel, number) => {
        const figure = this.element.querySelector(`[data-panel="${number}"]`), canvas = figure.querySelector("canvas");
        if (figure.hidden) return;
        const [columns, rows] = view.size, [width, height] = view.pixel_mm;
        canvas.style.aspectRatio = `${columns * width} / ${rows * height}`;
        canvas.width = Math.max(Math.round(canvas.clientWidth * devicePixelRatio), 1);
        canvas.height = Math.max(Math.round((canvas.width * rows * height) / (columns * width)), 1);
        const shown = Object.entries(panel.layers).filter(([key, kind]) => isOn(kind) && view.sheets[key]);
        this.drawPanel(canvas, view, panel, shown);
        const labels = shown.map(([, kind]) => this.kinds[kind].label);
        const layers = labels.length ? ` with ${labels.join(", ")}` : "";
        const place = `${view.name} slice ${this.position + 1} of ${view.file_slices.length}`;
        canvas.setAttribute("aria-label", `${panel.heading} of ${name}${layers}, ${place}`);
      });
      this.element.setAttribute("aria-busy", String(this.isWaiting));
    }

    drawPanel(canvas, view, panel, layers) {
      const context = canvas.getContext("2d");
      const scan = this.image(view.sheets[panel.scan]);
      const maps = layers.filter(([, kind]) => this.kinds[kind].colour === null);
      context.imageSmoothingEnabled = true;
      if (scan) this.place(context, scan, view);
      if (maps.length) {
        context.fillStyle = `rgba(0, 0, 0, ${DIM})`;
        context.fillRect(0, 0, canvas.width, canvas.height);
      }
      context.imageSmoothingEnabled = false;
      for (const [key, kind] of layers) {
        const sheet = this.image(view.sheets[key]);
        if (!sheet) continue;
        if (this.kinds[kind].colour === null) this.place(context, sheet, view);
        else this.outline(context, sheet, view, this.kinds[kind]);
      }
      this.writeMarks(context, view.marks);
    }

    // Draw the current slice of a sheet over the whole canvas, moved by some pixels.
    place(context, sheet, view, moveX = 0, moveY = 0) {
      const [columns, rows] = view.size, { width, height } = context.canvas;
      const x = (this.position % view.per_row) * columns, y = Math.floor(this.position / view.per_row) * rows;
      context.drawImage(sheet, x, y, columns, rows, moveX, moveY, width, height);
    }

    // Draw a line around a mask, outside of it, with a dark rim: a lesion stays visible, and so does the line on a white one.
    outline(context, sheet, view, kind) {
      const { width, height } = context.canvas, line = LINE * Math.max(devicePixelRatio, 1), edge = kind.width * line;
      for (const [reach, ink] of [[edge + RIM * line, "#000000"], [edge, kind.colour]]) {
        this.scratch.width = width;
        this.scratch.height = height;
        const pen = this.scratch.getContext("2d");
        pen.imageSmoothingEnabled = false;
        for (const [x, y] of DIRECTIONS) this.place(pen, sheet, view, x * reach, y * reach);
        pen.globalCompositeOperation = "destination-out";
        this.place(pen, sheet, view);
        pen.globalCompositeOperation = "source-in";
        pen.fillStyle = ink;
        pen.fillRect(0, 0, width, height);
        context.drawImage(this.scratch, 0, 0);
      }
    }

    writeMarks(context, [left, right, top, bottom]) {
      const { width, height } = context.canvas, size = 13 * devicePixelRatio, edge = 0.35 * size;
      context.font = `600 ${size}px sans-serif`;
      context.lineWidth = 0.25 * size;
      context.strokeStyle = "#000000";
      context.fillStyle = "#ffffff";
      const places = [
        [left, edge, height / 2, "left", "middle"], [right, width - edge, height / 2, "right", "middle"],
        [top, width / 2, edge, "center", "top"], [bottom, width / 2, height - edge, "center", "bottom"],
      ];
      for (const [text, x, y, align, baseline] of places) {
        context.textAlign = align;
        context.textBaseline = baseline;
        context.strokeText(text, x, y);
        context.fillText(text, x, y);
      }
    }
  }

  for (const element of document.querySelectorAll("[data-browser]")) {
    const browser = new Browser(element);
    for (const link of document.querySelectorAll(`[data-voxel][href="#${element.id}"]`)) {
      link.addEventListener("click", (event) => {
        event.preventDefault();
        browser.showVoxel(link.dataset.voxel.split(",").map(Number));
      });
    }
    for (const button of document.querySelectorAll(`[data-case][data-for="${element.id}"]`)) {
      button.addEventListener("click", () => {
        browser.showCase(Number(button.dataset.case));
        element.scrollIntoView();
        element.focus({ preventScroll: true });
      });
    }
  }
})();
