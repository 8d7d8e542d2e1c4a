
"use strict";
const at = (id) => document.getElementById(id);
const source = new EventSource("/events?ms=1000");
let last = "", opened = 0;
source.onopen = () => { opened += 1; };
source.onerror = () => { at("state").textContent = "The event stream was cut. It begins again."; };
source.onmessage = (event) => {
  const [generation, pid] = event.data.split(" ").map((pair) => pair.split("=")[1]);
  const line = document.createElement("li");
  line.textContent = `${event.lastEventId}  generation ${generation}  pid ${pid}`;
  line.className = last && last !== generation ? "new" : "";
  last = generation;
  at("generation").textContent = generation;
  at("pid").textContent = pid;
  at("state").textContent = opened > 1 ? `The event stream was cut ${opened - 1} times.` : "One event stream, never cut.";
  at("events").prepend(line);
  if (at("events").children.length > 12) at("events").lastChild.remove();
};
