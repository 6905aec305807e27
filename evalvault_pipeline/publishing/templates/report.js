(() => {
  "use strict";
  const cases = [...document.querySelectorAll("details.case")];
  const search = document.getElementById("search");
  const metric = document.getElementById("metric");
  const buttons = [...document.querySelectorAll("button[data-show]")];
  const shown = document.getElementById("shown");
  if (!search) return;
  const plain = (text) => text.normalize("NFC").toLowerCase().replace(/\s+/g, " ");
  const texts = cases.map((one) => plain(one.textContent));
  let show = "all";
  const apply = () => {
    const words = plain(search.value).split(" ").filter(Boolean);
    let count = 0;
    cases.forEach((one, place) => {
      const data = one.dataset;
      const kind = show === "all" || data.state === show || data.change === show;
      const by = !metric.value || data.metrics.split(" ").includes(metric.value);
      one.hidden = !(kind && by && words.every((word) => texts[place].includes(word)));
      if (!one.hidden) count += 1;
    });
    buttons.forEach((one) => one.setAttribute("aria-pressed", String(one.dataset.show === show)));
    shown.textContent = shown.dataset.text.replace("{shown}", count).replace("{count}", cases.length);
  };
  const choose = (name) => { show = name; apply(); };
  buttons.forEach((one) => one.addEventListener("click", () => choose(one.dataset.show)));
  search.addEventListener("input", apply);
  metric.addEventListener("change", apply);
  const follow = () => {
    const one = document.getElementById(location.hash.slice(1));
    if (!one || !one.matches("details.case")) return;
    if (one.hidden) { search.value = ""; metric.value = ""; choose("all"); }
    one.open = true;
    one.scrollIntoView();
  };
  window.addEventListener("hashchange", follow);
  document.getElementById("tools").hidden = false;
  apply();
  follow();
})();
