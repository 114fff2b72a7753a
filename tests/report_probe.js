// Runs after the report's own script, uses everything in the page, and tells what it saw.
const seen = {ready: document.documentElement.dataset.ready};
const root = document.documentElement;
for (const part of document.querySelectorAll("details")) part.open = true;
seen.viewport = root.clientWidth;
seen.page = root.scrollWidth;
seen.svg = getComputedStyle(document.querySelector(".figure svg")).width;
seen.background = getComputedStyle(document.body).backgroundColor;
seen.hidden = document.querySelectorAll(".compare[hidden], #eps[hidden], #theme[hidden]").length;

const example = document.querySelector(".example");
const stage = example.querySelector(".stage");
const range = stage.querySelector("input");
const split = () => stage.style.getPropertyValue("--split");
const area = stage.getBoundingClientRect();
stage.setPointerCapture = () => {};
const pointer = (kind, x, y = 0.5) => stage.dispatchEvent(new PointerEvent(kind, {
  bubbles: true, pointerId: 1, pointerType: "touch",
  clientX: area.left + x * area.width, clientY: area.top + y * area.height}));
seen.splits = [split()];
pointer("pointerdown", 0.2); seen.splits.push(split());
seen.focus = document.activeElement === range;
pointer("pointermove", 0.75); seen.splits.push(split());
pointer("pointermove", 1.5); seen.splits.push(split());
pointer("pointerup", 1.5);
pointer("pointermove", 0.1); seen.splits.push(split());
range.value = 40; range.dispatchEvent(new Event("input")); seen.splits.push(split());
const over = stage.querySelector(".side.over");
seen.clip = getComputedStyle(over).clipPath;

const thumbs = [...example.querySelectorAll(".thumb img")];
const place = (image) => thumbs.findIndex((thumb) => thumb.src === image.src);
const shown = () => [...stage.querySelectorAll(".side img")].map(place);
seen.shown = [shown()];
const left = example.querySelector("select[data-side=left]");
left.value = "0"; left.dispatchEvent(new Event("change"));
seen.shown.push(shown());
seen.tags = [...stage.querySelectorAll(".tag")].map((tag) => tag.textContent);

const larger = example.querySelector("[data-zoom=in]");
larger.click(); larger.click();
seen.zoom = example.querySelector("output").textContent;
const before = stage.querySelector("img").style.transform;
pointer("pointerdown", 0.9); pointer("pointermove", 0.7); pointer("pointerup", 0.7);
seen.panned = stage.querySelector("img").style.transform !== before && split() === "40%";
seen.together = new Set([...stage.querySelectorAll("img")].map((image) => image.style.transform)).size;

const parts = [...document.querySelectorAll("[data-eps]")];
const count = () => parts.filter((part) => !part.hidden).map((part) => part.dataset.eps);
seen.eps = [...new Set(count())];
document.querySelector("[data-pick='0']").click();
seen.eps.push(...new Set(count()));

document.getElementById("theme").click();
seen.toggled = getComputedStyle(document.body).backgroundColor;
document.getElementById("theme").click();
seen.back = getComputedStyle(document.body).backgroundColor;

const contrast = [];
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const luminance = (colour) => {
  canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  const [r, g, b] = canvas.getImageData(0, 0, 1, 1).data;
  return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
};
const cell = document.querySelector(".heat td:not(.none)");
const rule = () => {
  const style = getComputedStyle(cell), a = luminance(style.color), b = luminance(style.backgroundColor);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
};
for (const kind of ["", "minus"]) for (let v = 0; v <= 100; v += 4) {
  cell.className = kind + (v > 60 ? " strong" : "");
  cell.style.setProperty("--v", v + "%");
  contrast.push(rule());
}
seen.contrast = Math.min(...contrast);

example.querySelector(".thumb").click();
seen.dialog = document.getElementById("zoom").open;
const big = document.querySelector("dialog img");
big.decode().then(() => new Promise((done) => setTimeout(done, 100))).then(() => {
  const first = big.offsetWidth;
  big.click();
  seen.widths = [first / 56, big.offsetWidth / first];
  seen.pixels = getComputedStyle(big).imageRendering;
  document.querySelector("[data-close]").click();
  seen.closed = !document.getElementById("zoom").open;
  parent.postMessage(JSON.stringify(seen), "*");
});
