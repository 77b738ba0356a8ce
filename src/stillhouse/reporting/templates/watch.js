(() => {
  const shown = {};
  const pulse = document.getElementById("pulse");
  const say = (words) => { pulse.textContent = words; pulse.hidden = !words; };
  const draw = (parts) => {
    for (const [name, html] of Object.entries(parts)) {
      const place = document.getElementById(name);
      // Only what has changed: whoever reads or selects something else is left alone.
      if (place && shown[name] !== html) { place.innerHTML = html; shown[name] = html; }
    }
    document.title = parts.title + " · stillhouse";
  };
  let timer = 0;
  const look = async () => {
    clearTimeout(timer);
    let wait = 1000;
    if (!document.hidden) {
      try {
        const reply = await fetch("/now", { cache: "no-store", signal: AbortSignal.timeout(10000) });
        if (!reply.ok) throw new Error(reply.status);
        draw(await reply.json());
        say("");
      } catch {
        say("stillhouse watch does not answer: what you see may be old");
        wait = 3000;
      }
    }
    timer = setTimeout(look, wait);
  };
  document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
  look();
})();
