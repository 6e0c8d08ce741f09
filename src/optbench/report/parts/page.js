"use strict";
(function () {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const settings = { responsive: true, displaylogo: false, displayModeBar: false };

  function colors() {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    return { text: read("--text"), muted: read("--muted"), line: read("--line"), page: read("--page") };
  }

  // The page's colours go into a copy of the layout, so that they can change with the theme.
  function themed(layout) {
    const c = colors();
    const out = JSON.parse(JSON.stringify(layout));
    out.font.color = c.text;
    for (const key of Object.keys(out).filter((k) => /^[xy]axis/.test(k))) {
      Object.assign(out[key], { gridcolor: c.line, linecolor: c.line, tickcolor: c.line });
    }
    out.hoverlabel = { bgcolor: c.page, bordercolor: c.line, font: { color: c.text } };
    return out;
  }

  function draw(element) {
    const figure = figures[element.dataset.figure];
    if (element.closest("details:not([open])")) return;
    Plotly.react(element, figure.data, themed(figure.layout), settings);
  }

  const plots = Array.from(document.querySelectorAll(".plot[data-figure]"));
  const drawAll = () => plots.forEach(draw);
  drawAll();
  for (const details of document.querySelectorAll("details")) {
    details.addEventListener("toggle", () => details.querySelectorAll(".plot[data-figure]").forEach(draw));
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  matchMedia("print").addEventListener("change", drawAll);
})();
