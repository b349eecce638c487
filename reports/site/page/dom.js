/** Elements from names, attributes and texts. Texts are never read as markup.
 *
 * @module
 */

/** An element. Attributes that begin with `on` are listeners; `null` and `false` leave an attribute out. */
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(key, value === true ? "" : value);
    }
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** A choice with a label. `options`: value and text, with the name of a group where there are several. */
export function choice(label, options, value, change) {
  const groups = Map.groupBy(options, ([, , group = ""]) => group);
  const list = [...groups].flatMap(([group, own]) => {
    const entries = own.map(([id, text]) => el("option", { value: id, selected: id === value }, text));
    return group === "" ? entries : [el("optgroup", { label: group }, entries)];
  });
  const name = label.replaceAll(" ", "-");
  return el("label", {}, label, el("select", { name, onchange: ({ target }) => change(target.value) }, list));
}

/** A switch with a label. */
export const check = (label, name, isOn, change) =>
  el("label", { class: "check" }, el("input", { type: "checkbox", name, checked: isOn, onchange: change }), label);

/** A round mark in the colour of a row's method; the dense model has the style sheet's. */
export function swatch({ methodId, colour }) {
  const mark = el("span", { class: "swatch" });
  if (methodId !== null) mark.style.background = colour;
  return mark;
}

/** Replaces what is in the element `id`. Focus stays on the control of the same name. */
export function fill(id, ...children) {
  const place = document.getElementById(id);
  const focused = place.contains(document.activeElement) ? document.activeElement : null;
  const open = new Set([...place.querySelectorAll("details[open]")].map((one) => one.dataset.name));
  place.replaceChildren(...children.flat().filter((child) => child !== null));
  for (const one of place.querySelectorAll("details")) if (open.has(one.dataset.name)) one.open = true;
  if (!focused?.name) return;
  const again = [...place.querySelectorAll(`[name="${CSS.escape(focused.name)}"]`)];
  (again.find(({ value }) => value === focused.value) ?? again[0])?.focus({ preventScroll: true });
}
