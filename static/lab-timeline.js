/** One response as a timeline: what the browser measured, and the server's ledger under it. */

import { el, milliseconds } from './dom.js'
import { svg, ticks, ceiling } from './lab-charts.js'

const NAMES = { median: 'with the median TTFT', slowest: 'with the slowest TTFT', fastest: 'with the fastest TTFT' }
/** What the time up to a mark was spent on. */
const BROWSER = { sent: 'before sending', first: 'to the first text', last: 'streaming', end: 'to the end' }
const SERVER = {
  received: 'received',
  queued: 'accepted',
  dispatched: 'in the queue',
  connected: 'connecting',
  first_byte: 'to the first byte',
  first_token: 'to the first token',
  first_written: 'handing it to the reader',
  last_token: 'streaming',
  ended: 'to the end',
}
const ROW = 46
const LEFT = 4
const RIGHT = 12

/** The stretches between marks, in order: `{name, from, to, mark}`. */
function stretches(marks, names, shift = 0) {
  const known = Object.keys(names).filter((mark) => Number.isFinite(marks[mark]))
  const others = Object.keys(marks).filter((mark) => !(mark in names))
  const ordered = [...known, ...others].sort((a, b) => marks[a] - marks[b])
  let from = shift
  return ordered.map((mark) => {
    const to = Math.max(from, marks[mark] + shift)
    const one = { mark, name: names[mark] ?? mark.replaceAll('_', ' '), from, to }
    from = to
    return one
  })
}

/** Fills `root` with the timeline of one of a run's responses. */
export function showTimeline(root, run) {
  const kinds = Object.keys(run.timelines ?? {})
  if (!kinds.length) {
    root.replaceChildren(el('p', { className: 'soft' }, 'No response has completed in this run.'))
    return
  }
  const choice = el('select', { id: 'timeline-of' }, ...kinds.map((kind) => el('option', { value: kind }, NAMES[kind] ?? kind)))
  const place = el('div', {})
  const fill = () => place.replaceChildren(...drawn(run.timelines[choice.value]))
  choice.onchange = fill
  const label = el('label', { htmlFor: 'timeline-of' }, `Run ${run.number}, the response`)
  root.replaceChildren(el('p', { className: 'pick' }, label, choice), place)
  fill()
}

function drawn({ browser, server, tokens, batch, pauses }) {
  const rows = [{ title: 'Browser', className: 'browser', parts: stretches(browser, BROWSER) }]
  if (server) {
    const silent = (pauses?.longest ?? []).map(([at, ms]) => ({ mark: 'pause', name: 'a pause', from: browser.sent + at, to: browser.sent + at + ms }))
    rows.push({ title: 'hub’s ledger', className: 'server', parts: stretches(server, SERVER, browser.sent), silent })
  }
  const most = ceiling(Math.max(1, ...rows.flatMap(({ parts }) => parts.map(({ to }) => to))))
  const table = el('table', {}, el('thead', {}, tr('th', ['', 'stretch', 'from', 'to', 'took'])), el('tbody', {}, ...rows.flatMap(lines)))
  const note = server
    ? 'hub’s clock begins when it has received the request; here that is drawn at the moment of sending, so the network’s way there is inside the difference of the two rows.'
    : 'This server sends no ledger with its responses, so there is only what the browser measured.'
  const left = batch ? `It left hub’s queue in a batch of ${batch.size} (${batch.reason}), for ${batch.upstream}. ` : ''
  const paused = pauses ? `The model server paused ${pauses.count === 1 ? 'once' : `${pauses.count} times`}, for ${milliseconds(pauses.total)} in all. ` : ''
  return [bars(rows, most, tokens), el('p', { className: 'soft' }, left + paused + note), el('div', { className: 'scroll' }, table)]
}

function bars(rows, most, tokens) {
  const height = rows.length * ROW + 24
  const canvas = svg('svg', { role: 'img', class: 'timeline', height, 'aria-label': `Timeline of a response${tokens ? ` of ${tokens} tokens` : ''}; the table below has its numbers` })
  const paint = () => {
    const width = Math.max(240, canvas.clientWidth || 600)
    const across = (ms) => LEFT + (ms / most) * (width - LEFT - RIGHT)
    canvas.setAttribute('viewBox', `0 0 ${width} ${height}`)
    const grid = ticks(most, width / 110).flatMap((ms, i) => [
      svg('line', { class: 'grid', x1: across(ms), x2: across(ms), y1: 0, y2: height - 20 }),
      svg('text', { class: 'tick', x: across(ms), y: height - 6, 'text-anchor': i ? (across(ms) > width - 40 ? 'end' : 'middle') : 'start' }, milliseconds(ms)),
    ])
    const drawn = rows.flatMap(({ title, className, parts, silent = [] }, row) => [
      svg('text', { class: 'row-title', x: LEFT, y: row * ROW + 12 }, title),
      ...parts.map(({ from, to, mark, name }) =>
        svg(
          'rect',
          { class: `stretch ${className} ${mark}`, x: across(from), y: row * ROW + 18, width: Math.max(from < to ? 1 : 0, across(to) - across(from)), height: 20 },
          svg('title', {}, `${name}: ${milliseconds(to - from)}`),
        ),
      ),
      // Under the stretch that they are in.
      ...silent.map(({ from, to, name }) =>
        svg('rect', { class: 'pause', x: across(from), y: row * ROW + 40, width: Math.max(2, across(to) - across(from)), height: 4 }, svg('title', {}, `${name}: ${milliseconds(to - from)}`)),
      ),
    ])
    canvas.replaceChildren(...grid, ...drawn)
  }
  new ResizeObserver(paint).observe(canvas)
  return canvas
}

function lines({ title, className, parts, silent = [] }) {
  return [...parts, ...silent].map(({ name, from, to, mark }, i) => {
    const row = tr('td', [i ? '' : title, name, precise(from), precise(to), precise(to - from)])
    row.cells[1].prepend(el('span', { className: `swatch ${className} ${mark}` }))
    return row
  })
}

function tr(tag, texts) {
  return el('tr', {}, ...texts.map((text) => el(tag, {}, text)))
}

function precise(ms) {
  return `${ms.toFixed(1)} ms`
}
