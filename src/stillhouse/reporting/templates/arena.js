(() => {
  const by = (id) => document.getElementById(id);
  const make = (tag, classes = "", text = "") => {
    const one = document.createElement(tag);
    one.className = classes;
    one.textContent = text; // whatever a model says is text, never markup
    return one;
  };
  const turns = by("turns"), question = by("question"), send = by("send"), trouble = by("trouble");
  const blind = () => document.querySelector("[name=mode]:checked").value === "blind";
  const newName = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16)).join("");
  let conversation = newName(), asking = null;

  const say = (words) => { trouble.textContent = words; trouble.hidden = !words; };
  const post = async (path, body, signal) => {
    const reply = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ conversation, ...body }), signal });
    if (!reply.ok) throw new Error((await reply.json()).error);
    return reply;
  };
  const attempt = async (work) => {
    try { say(""); return await work(); } catch (error) {
      if (error.name !== "AbortError") say(error instanceof TypeError ? "stillhouse does not answer any more" : error.message);
    }
  };

  const anew = () => {
    asking?.abort();
    conversation = newName();
    turns.replaceChildren();
    by("how-open").hidden = blind();
    by("how-blind").hidden = !blind();
    by("opening").hidden = false;
    question.focus();
  };

  const speed = (side) => {
    const parts = [side.tokens.toLocaleString("en") + " tokens"];
    if (side.first_seconds !== null) parts.push("first after " + (side.first_seconds < 1 ? Math.round(1000 * side.first_seconds) + " ms" : side.first_seconds.toFixed(1) + " s"));
    if (side.tokens_per_second) parts.push(side.tokens_per_second.toPrecision(3) + " tokens/s");
    if (!side.finished) parts.push("cut off");
    return parts.join(" · ");
  };

  const bars = (title, role, choices, also) => {
    const box = make("div", "expected " + role);
    box.append(make("h4", "", title + " expected"));
    for (const [token, share] of choices) {
      const row = make("p", also.has(token) ? "shared" : "");
      const bar = make("span", "bar-space");
      const fill = make("i");
      fill.style.width = 100 * share + "%";
      bar.append(fill);
      row.append(make("code", "", token === "" ? "∅" : token.replaceAll(" ", "␣").replaceAll("\n", "⏎")), bar, make("b", "", (100 * share).toFixed(1) + " %"));
      box.append(row);
    }
    return box;
  };

  const showTokens = async (card, number, side) => {
    const { tokens } = await (await post("/tokens", { turn: number, side })).json();
    const text = card.querySelector(".text"), panel = make("div", "panel-of-token");
    panel.setAttribute("aria-live", "polite");
    const differing = tokens.filter((one) => one.differs).length;
    text.replaceChildren();
    text.classList.add("tokens");
    let chosen = null;
    for (const one of tokens) {
      const token = make("button", one.differs ? "token differs" : "token", one.text);
      token.type = "button";
      token.tabIndex = one.differs ? 0 : -1;
      token.addEventListener("click", () => {
        chosen?.removeAttribute("aria-pressed");
        chosen = token;
        token.setAttribute("aria-pressed", "true");
        const [theirs, ours] = [one.teacher, one.student].map((choices) => new Set(choices.map(([word]) => word)));
        panel.replaceChildren(bars("teacher", "teacher", one.teacher, ours), bars("student", "student", one.student, theirs));
      });
      text.append(token);
    }
    const share = tokens.length ? Math.round((100 * differing) / tokens.length) : 0;
    const told = make("p", "note", differing ? `They would go on differently at ${differing} of ${tokens.length} tokens (${share} %). Choose one.` : "Both would have said every token of it.");
    panel.append(told);
    card.querySelector(".part").replaceWith(panel);
    card.querySelector(".differs")?.click();
    panel.prepend(told);
  };

  const reveal = (cards, sides, number) => {
    sides.forEach((side, place) => {
      const card = cards[place];
      card.classList.remove("hidden-name");
      card.classList.add(side.role);
      const mark = by("mark-" + side.role).content.cloneNode(true);
      card.querySelector("h3").replaceChildren(mark, document.createTextNode(side.role), make("span", "unit-note", side.name));
      card.querySelector(".speed").textContent = speed(side);
      const part = make("button", "quiet part", "where they part");
      part.type = "button";
      part.addEventListener("click", () => attempt(() => showTokens(card, number, place ? "right" : "left")));
      card.append(part);
    });
  };

  const askForVote = (turn, cards, number, same) => {
    const line = make("div", "vote");
    const words = { left: "A is better", tie: "a tie", neither: "neither", right: "B is better" };
    for (const [vote, label] of Object.entries(words)) {
      if (same && vote !== "tie") continue;
      const button = make("button", vote === "tie" || vote === "neither" ? "quiet" : "", same ? "both said the same: show names" : label);
      button.type = "button";
      button.dataset.vote = vote;
      button.addEventListener("click", () => attempt(async () => {
        const { sides, kept } = await (await post("/vote", { turn: number, vote })).json();
        if (vote === "left" || vote === "right") cards[vote === "left" ? 0 : 1].classList.add("chosen");
        reveal(cards, sides, number);
        line.replaceChildren(make("p", "note", kept ? "Your vote is kept. The conversation goes on from the better answer." : "Nothing is kept of it: no answer was chosen over the other."));
        question.focus();
      }));
      line.append(button);
    }
    turn.append(line);
  };

  const ask = async (words) => {
    const isBlind = blind(), turn = make("article", "sample turn");
    const grid = make("div", "writers");
    const cards = ["A", "B"].map((name) => {
      const card = make("section", "writer hidden-name");
      card.append(make("h3", "", isBlind ? name : ""), make("p", "text"), make("p", "speed"));
      card.querySelector(".text").dir = "auto";
      grid.append(card);
      return card;
    });
    if (!isBlind) cards.forEach((card, place) => { const role = place ? "student" : "teacher"; card.classList.add(role); card.querySelector("h3").replaceChildren(by("mark-" + role).content.cloneNode(true), document.createTextNode(role)); });
    const asked = make("p", "asked prompt", words);
    asked.dir = "auto";
    turn.append(asked, grid);
    for (const old of turns.querySelectorAll(".vote:has(button)")) old.replaceChildren(make("p", "note", "No vote was cast: the conversation went on from A."));
    turns.append(turn);
    by("opening").hidden = true;
    turn.scrollIntoView({ block: "end" });
    grid.classList.add("writing");
    let number = null, rest = "", end = null;
    const hear = (line) => {
      const told = JSON.parse(line);
      if (told.error) { turn.remove(); throw new Error(told.error); }
      if ("turn" in told) number = told.turn;
      told.texts?.forEach((text, place) => { cards[place].querySelector(".text").textContent = text; });
      if (told.done) end = told;
    };
    try {
      const reply = await post("/ask", { question: words, blind: isBlind }, asking.signal);
      const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let piece; !(piece = await reader.read()).done; ) {
        const lines = (rest + piece.value).split("\n");
        rest = lines.pop();
        lines.filter(Boolean).forEach(hear);
        if (turn.getBoundingClientRect().bottom < innerHeight + 240) turn.scrollIntoView({ block: "end" });
      }
    } finally {
      grid.classList.remove("writing");
      if (number !== null) {
        if (isBlind) askForVote(turn, cards, number, end?.same ?? false);
        else if (end) reveal(cards, end.sides, number);
        else cards.forEach((card) => { card.querySelector(".speed").textContent = "stopped"; });
      }
    }
    turn.scrollIntoView({ block: "end" });
  };

  by("composer").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (asking) { asking.abort(); return; }
    const words = question.value.trim();
    if (!words) return;
    question.value = "";
    asking = new AbortController();
    send.textContent = "Stop";
    await attempt(() => ask(words));
    asking = null;
    send.textContent = "Ask";
    question.focus();
  });
  question.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); if (!asking) by("composer").requestSubmit(); }
  });
  by("anew").addEventListener("click", anew);
  document.querySelectorAll("[name=mode]").forEach((one) => one.addEventListener("change", anew));
  question.focus();
})();
