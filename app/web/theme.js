// Light or dark: the system's choice unless the reader made another. A classic script in the head, so that a remembered
// theme is there before the first paint.
(() => {
  const page = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const systemTheme = () => (system.matches ? "dark" : "light");
  const shownTheme = () => page.dataset.theme ?? systemTheme();
  const remembered = stored(() => localStorage.getItem("ferry-theme"));
  if (remembered === "light" || remembered === "dark") page.dataset.theme = remembered;

  /** Storage may be forbidden; a choice then lasts as long as the page. */
  function stored(access) {
    try { return access(); } catch { return null; }
  }

  /** A choice that equals the system's theme is forgotten, so that the page follows the system again. */
  function toggle() {
    const theme = shownTheme() === "dark" ? "light" : "dark";
    if (theme === systemTheme()) {
      delete page.dataset.theme;
      stored(() => localStorage.removeItem("ferry-theme"));
    } else {
      page.dataset.theme = theme;
      stored(() => localStorage.setItem("ferry-theme", theme));
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const label = () => button.setAttribute("aria-label", `Switch to the ${shownTheme() === "dark" ? "light" : "dark"} theme`);
    button.addEventListener("click", () => { toggle(); label(); });
    system.addEventListener("change", label);
    label();
  });
})();
