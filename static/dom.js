/** The few DOM helpers that every part of the page needs. */

/**
 * An element. Properties are set as properties (`className`, `textContent`, `onclick`, …);
 * `data`, and `aria-…` names, as attributes. Children may be nodes, text, or nothing.
 */
export function el(tag, { data = {}, ...properties } = {}, ...children) {
  const element = document.createElement(tag)
  Object.assign(element.dataset, data)
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith('aria-')) element.setAttribute(name, value)
    else element[name] = value
  }
  element.append(...children.filter((child) => child || child === 0))
  return element
}

export function icon(name) {
  return el('span', { className: `icon icon-${name}`, 'aria-hidden': 'true' })
}

/** A button with an icon; `label` is seen, or only heard and hovered if `quiet`. */
export function button(label, name, onclick, { quiet = false, className = '' } = {}) {
  const known = quiet ? { title: label, 'aria-label': label } : {}
  const text = quiet ? null : el('span', {}, label)
  return el('button', { type: 'button', className, onclick, ...known }, icon(name), text)
}

const tasks = new Set()

/** Runs `task` in the next animation frame, once however often it is asked for until then. */
export function nextFrame(task) {
  if (!tasks.size) {
    requestAnimationFrame(() => {
      const due = [...tasks]
      tasks.clear()
      for (const one of due) one()
    })
  }
  tasks.add(task)
}

/** Copies, and says so on the button for a moment. */
export async function copy(text, onto) {
  await (navigator.clipboard?.writeText(text) ?? copyInsecurely(text))
  onto.dataset.done = ''
  announce('Copied')
  setTimeout(() => delete onto.dataset.done, 1500)
}

/** The clipboard API exists on https and localhost only; a hub in the local network has neither. */
function copyInsecurely(text) {
  const area = el('textarea', { value: text, className: 'unseen' })
  const { activeElement } = document
  document.body.append(area)
  area.select()
  document.execCommand('copy')
  area.remove()
  activeElement?.focus()
}

/** Says something politely to those who listen to the page; it is not seen. */
export function announce(text) {
  document.getElementById('announcer').textContent = text
}

/** How long to wait until the instant in `data-at`. */
export function countDown(element) {
  const left = Math.ceil((element.dataset.at - Date.now()) / 1000)
  element.textContent = left > 0 ? `hub asks to wait: try again in ${left} s.` : 'You may try again now.'
}

export function milliseconds(ms) {
  if (ms === null || ms === undefined) return '–'
  if (ms < 1000) return `${Math.round(ms)} ms`
  return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`
}

export function number(value, digits) {
  return value === null || value === undefined ? '–' : value.toFixed(digits ?? (value < 100 ? 1 : 0))
}
