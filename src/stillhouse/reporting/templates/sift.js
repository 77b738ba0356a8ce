// Search, filter and order for the examples, and arrow keys from token to token. All of it is there to read without this.
(() => {
  const form = document.getElementById("sift"), list = document.getElementById("departures-list");
  if (!form || !list) return;
  const all = [...list.children], get = (id) => document.getElementById(id);
  const sift = () => {
    const text = get("sift-text").value.toLowerCase(), share = Number(get("sift-share").value), order = get("sift-order").value;
    const key = { given: (one) => one.dataset.place, agreement: (one) => one.dataset.agreement, number: (one) => one.dataset.number }[order];
    let shown = 0;
    for (const one of [...all].sort((a, b) => key(a) - key(b))) {
      one.hidden = !(one.textContent.toLowerCase().includes(text) && (share === 1 || Number(one.dataset.agreement) < share));
      shown += !one.hidden;
      list.append(one);
    }
    get("sift-count").textContent = `${shown} of ${all.length}`;
  };
  form.addEventListener("input", sift);
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const line of list.querySelectorAll(".heat")) {
    const tokens = [...line.querySelectorAll("i")];
    tokens.forEach((token, place) => { token.tabIndex = place ? -1 : 0; });
    line.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], next = tokens[tokens.indexOf(event.target) + step];
      if (!next) return;
      event.preventDefault();
      event.target.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  }
  form.hidden = false;
  sift();
})();
