// What htmx does not do by itself under a policy without eval.
"use strict";

// A hidden tab asks for nothing.
document.addEventListener("htmx:beforeRequest", (event) => {
  if (document.hidden && event.target.matches("[data-poll]")) event.preventDefault();
});

// What went wrong is told until something has gone well again.
document.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.successful) document.getElementById("alert").replaceChildren();
});

// Without the receiver a page goes on showing what it had, and says so.
document.addEventListener("htmx:sendError", () => {
  const told = document.createElement("p");
  told.className = "message bad";
  told.textContent = "The receiver cannot be reached. What is shown may be old; it is asked again every second.";
  document.getElementById("alert").replaceChildren(told);
});
