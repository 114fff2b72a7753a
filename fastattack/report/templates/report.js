"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  function theme() {
    const button = document.getElementById("theme");
    const system = matchMedia("(prefers-color-scheme: dark)");
    button.hidden = false;
    button.addEventListener("click", () => {
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
      root.dataset.theme = dark ? "light" : "dark";
    });
  }

  function epsPicker() {
    const group = document.getElementById("eps");
    if (!group) return;
    const buttons = all("button", group);
    const show = (chosen) => {
      buttons.forEach((button) => button.setAttribute("aria-pressed", String(button === chosen)));
      all("[data-eps]").forEach((part) => { part.hidden = part.dataset.eps !== chosen.dataset.pick; });
      all("[data-value]").forEach((part) => { part.hidden = part.dataset.value !== chosen.textContent; });
    };
    buttons.forEach((button) => button.addEventListener("click", () => show(button)));
    show(buttons.find((button) => button.getAttribute("aria-pressed") === "true") || buttons[0]);
    group.hidden = false;
  }

  // Two pictures above each other; the upper one is cut at the line. Zoomed, both show the same part.
  function comparison(example) {
    const box = example.querySelector(".compare");
    const stage = box.querySelector(".stage");
    const range = stage.querySelector("input");
    const thumbs = all(".thumb", example);
    const view = { zoom: 1, x: 0, y: 0 };

    const split = (percent) => {
      range.value = clamp(percent, 0, 100);
      stage.style.setProperty("--split", range.value + "%");
    };
    const place = () => {
      const room = 1 - 1 / view.zoom;
      view.x = clamp(view.x, 0, room);
      view.y = clamp(view.y, 0, room);
      const move = `translate(${-100 * view.x * view.zoom}%, ${-100 * view.y * view.zoom}%) scale(${view.zoom})`;
      all(".side img", stage).forEach((image) => { image.style.transform = move; });
      stage.classList.toggle("zoomed", view.zoom > 1);
      box.querySelector("output").textContent = view.zoom + "×";
    };
    const zoom = (factor) => {
      const next = clamp(view.zoom * factor, 1, 16);
      view.x += (1 / view.zoom - 1 / next) / 2;
      view.y += (1 / view.zoom - 1 / next) / 2;
      view.zoom = next;
      place();
    };
    const choose = (select) => {
      const thumb = thumbs[Number(select.value)];
      const left = select.dataset.side === "left";
      const image = stage.querySelector(left ? ".side:not(.over) img" : ".side.over img");
      image.src = thumb.querySelector("img").src;
      image.alt = thumb.dataset.label;
      stage.querySelector(left ? ".tag.left" : ".tag.right").textContent = thumb.dataset.label;
    };

    let last = null; // where the finger was, while it moves the pictures and not the line
    let dragging = false;
    stage.addEventListener("pointerdown", (event) => {
      const area = stage.getBoundingClientRect();
      const line = area.left + area.width * range.value / 100;
      dragging = true;
      last = view.zoom > 1 && Math.abs(event.clientX - line) > 24 ? event : null;
      stage.setPointerCapture(event.pointerId);
      if (!last) split(100 * (event.clientX - area.left) / area.width);
      range.focus({ preventScroll: true });
      event.preventDefault();
    });
    stage.addEventListener("pointermove", (event) => {
      if (!dragging) return;
      const area = stage.getBoundingClientRect();
      if (last) {
        view.x -= (event.clientX - last.clientX) / area.width / view.zoom;
        view.y -= (event.clientY - last.clientY) / area.height / view.zoom;
        last = event;
        place();
      } else {
        split(100 * (event.clientX - area.left) / area.width);
      }
    });
    ["pointerup", "pointercancel"].forEach((name) => stage.addEventListener(name, () => { dragging = false; }));
    range.addEventListener("input", () => split(Number(range.value)));
    all("[data-zoom]", box).forEach((button) =>
      button.addEventListener("click", () => zoom(button.dataset.zoom === "in" ? 2 : 0.5)));
    all("select", box).forEach((select) => {
      select.addEventListener("change", () => choose(select));
      choose(select);
    });
    split(50);
    place();
    box.hidden = false;
  }

  // One picture by itself, its pixels as squares. A click enlarges about the point.
  function zoomer() {
    const dialog = document.getElementById("zoom");
    const pane = dialog.querySelector(".pane");
    const image = pane.querySelector("img");
    let scale = 1;
    let fit = 1;

    const show = (next, u = 0.5, v = 0.5) => {
      scale = clamp(next, Math.min(fit, 1), 64);
      image.style.width = image.naturalWidth * scale + "px";
      dialog.querySelector("output").textContent = Number(scale.toFixed(2)) + "×";
      pane.scrollLeft = u * image.offsetWidth - pane.clientWidth / 2;
      pane.scrollTop = v * image.offsetHeight - pane.clientHeight / 2;
    };
    const open = (thumb) => {
      image.src = thumb.querySelector("img").src;
      image.alt = thumb.querySelector("img").alt;
      dialog.querySelector("strong").textContent = image.alt;
      dialog.showModal();
      pane.focus();
      image.decode().then(() => {
        fit = Math.min(pane.clientWidth / image.naturalWidth, pane.clientHeight / image.naturalHeight);
        show(fit >= 1 ? Math.floor(fit) : fit);
      });
    };
    image.addEventListener("click", (event) => {
      const area = image.getBoundingClientRect();
      const larger = !event.shiftKey && !event.altKey;
      show(scale * (larger ? 2 : 0.5), (event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height);
    });
    all("[data-zoom]", dialog).forEach((button) =>
      button.addEventListener("click", () => show(scale * (button.dataset.zoom === "in" ? 2 : 0.5))));
    dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
    all(".thumb").forEach((thumb) => thumb.addEventListener("click", () => open(thumb)));
  }

  theme();
  epsPicker();
  all(".example").forEach(comparison);
  zoomer();
  root.dataset.ready = "true";
})();
