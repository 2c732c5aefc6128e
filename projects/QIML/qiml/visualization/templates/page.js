// The page's data, small helpers, and the switch between dark and light.
const element = (id) => document.getElementById(id);
const content = JSON.parse(element("content").textContent);

// A new node; text is set as text, never as markup.
function make(tag, attributes = {}, text = null) {
  const svg = ["svg", "g", "path", "polygon", "rect", "line", "text", "circle", "image"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
  return node;
}

// Options of a select: [value, text] each; the chosen one stays if it is still there.
function fill(select, options) {
  const chosen = select.value;
  select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
  if (options.some(([value]) => String(value) === chosen)) select.value = chosen;
}

const fixed = (value, digits = 2) => value.toFixed(digits).replace("-", "−");
const signed = (value) => (value >= 0 ? "+" : "") + fixed(value);
const colourOf = (category) => content.colours[category % content.colours.length];
const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const runColour = (run) => variable(`--run-${run % 6}`);

const page = {
  start() {
    const button = element("theme");
    const show = (dark) => {
      document.documentElement.dataset.theme = dark ? "dark" : "light";
      button.setAttribute("aria-pressed", dark);
    };
    show(matchMedia("(prefers-color-scheme: dark)").matches);
    button.addEventListener("click", () => {
      show(button.getAttribute("aria-pressed") !== "true");
      charts.recolour();
    });
  },
};
