/** The sidebar on a narrow screen: a modal drawer, opened by a button. */
import { button, composing, element } from "../dom.js";
import { text } from "../texts.js";

const DOCKED = "(min-width: 72rem)";    // as in style/chats.css

let drawer = null, toggle = null;

const background = () => [...document.body.children].filter(one => one !== drawer && !one.matches("dialog, .shade, .notice"));

/** Make a drawer of an element, and the button that opens it. */
export function makeDrawer(made, first) {
  drawer = made;
  toggle = button("☰", () => openDrawer(first), { className: "toggle", label: text.chats });
  toggle.setAttribute("aria-expanded", "false");
  toggle.setAttribute("aria-controls", drawer.id);
  document.querySelector("header").prepend(toggle);
  drawer.append(button(text.close, closeDrawer, { className: "close_drawer" }));
  const shade = element("div", "shade");
  shade.addEventListener("click", closeDrawer);
  drawer.after(shade);
  drawer.addEventListener("keydown", event => {
    if (event.key !== "Escape" || composing(event) || !isOpen()) return;
    event.stopPropagation();    // the page's Escape stops answers
    closeDrawer();
  });
  matchMedia(DOCKED).addEventListener("change", closeDrawer);
}

const isOpen = () => drawer.classList.contains("shown");

function openDrawer(first) {
  show(true);
  first.focus();
}

/** Close the drawer if it is open; a sidebar that is docked stays. */
export function closeDrawer() {
  if (!isOpen()) return;
  show(false);
  toggle.focus();
}

function show(open) {
  drawer.classList.toggle("shown", open);
  toggle.setAttribute("aria-expanded", String(open));
  for (const one of background()) one.inert = open;
}
