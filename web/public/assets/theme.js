// Before the first paint, so that a chosen theme does not flash: "light" or "dark"; absent follows the system.
try {
  const theme = localStorage.getItem("sluice.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // storage may be forbidden: the system's theme then
}
