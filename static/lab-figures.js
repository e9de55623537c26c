/** The four charts of a run, beside the base's where that helps, each with its table in words. */

import { el, milliseconds, number } from './dom.js'
import { ceiling, draw } from './lab-charts.js'
import { histogram, thinned } from './lab-stats.js'

const BINS = 24
const ROWS = 20
const seconds = (ms) => ms / 1000
const ttfts = (run) => run?.samples.map(([, ttft]) => ttft) ?? []
const most = (values, least) => ceiling(values.reduce((a, b) => Math.max(a, b ?? 0), least))
const duration = (...runs) => {
  const ends = runs.flatMap((run) => [...(run?.points.map(({ t }) => t) ?? []), ...(run?.samples.map(([t]) => t) ?? [])])
  const planned = runs.map((run) => (run?.settings.until === 'seconds' ? run.settings.seconds : 1))
  return Math.max(...planned, ...ends.map(seconds))
}

function ttftOverTime(run, base) {
  const top = most([...ttfts(run), ...ttfts(base)], 1)
  const right = duration(run, base)
  const dots = ({ samples }, className) => ({ kind: 'dots', className, points: samples.map(([t, ttft]) => [seconds(t), ttft]) })
  const level = (value, label) =>
    value === null ? [] : [{ kind: 'level', className: 'this', points: [[right, value]], label: `${label} ${milliseconds(value)}` }]
  const { ttft_p50: p50, ttft_p99: p99 } = run.results
  const marks = [...(base ? [dots(base, 'base')] : []), dots(run, 'this'), ...level(p99, 'p99'), ...level(p50, 'p50')]
  const rows = thinned(run.samples, ROWS).map(([t, ttft]) => [number(seconds(t), 1), milliseconds(ttft)])
  return { right, top, x: 's', marks, head: ['at (s)', 'TTFT'], rows, said: `p50 ${milliseconds(p50)}, p99 ${milliseconds(p99)}` }
}

function ttftHistogram(run, base) {
  const right = most([...ttfts(run), ...ttfts(base)], 1)
  const share = (one) => histogram(ttfts(one), right, BINS).map((count) => (count * 100) / Math.max(1, one.samples.length))
  const bars = (shares, className) => ({ kind: 'bars', className, width: right / BINS, points: shares.map((y, i) => [(i * right) / BINS, y]) })
  const outline = (shares) => ({
    kind: 'steps',
    className: 'base',
    points: [[0, 0], ...shares.map((y, i) => [(i * right) / BINS, y]), [right, 0]],
  })
  const shares = share(run)
  const others = base ? share(base) : []
  const top = most([...shares, ...others], 1)
  const marks = [bars(shares, 'this'), ...(base ? [outline(others)] : [])]
  const rows = shares.flatMap((y, i) =>
    y || others[i] ? [[`${Math.round((i * right) / BINS)}–${Math.round(((i + 1) * right) / BINS)} ms`, `${number(y, 1)} %`, ...(base ? [`${number(others[i], 1)} %`] : [])]] : [],
  )
  return { right, top, x: 'ms', marks, head: ['TTFT', 'this run', ...(base ? ['base'] : [])], rows, said: `${run.samples.length} responses` }
}

function queue(run) {
  const series = (name, kind) => ({ kind, className: name, points: run.points.filter((one) => one[name] !== null).map((one) => [seconds(one.t), one[name]]) })
  const marks = [series('window', 'steps'), series('running', 'line'), series('queued', 'line')]
  const top = most(run.points.flatMap(({ queued, running, window }) => [queued, running, window]), 4)
  const rows = thinned(run.points, ROWS).map(({ t, queued, running, window }) => [number(seconds(t), 1), queued ?? '–', running ?? '–', window ?? '–'])
  const { queued_max: queued, running_max: running } = run.results
  return { right: duration(run), top, x: 's', marks, head: ['at (s)', 'queued', 'running', 'window'], rows, said: `at most ${queued} queued, ${running} running` }
}

function throughput(run, base) {
  const line = ({ points }, className) => ({ kind: 'line', className, points: points.map(({ t, rate }) => [seconds(t), rate]) })
  const top = most([...run.points, ...(base?.points ?? [])].map(({ rate }) => rate), 10)
  const marks = [...(base ? [line(base, 'base')] : []), line(run, 'this')]
  const rows = thinned(run.points, ROWS).map(({ t, rate }) => [number(seconds(t), 1), number(rate)])
  return { right: duration(run, base), top, x: 's', marks, head: ['at (s)', 'tokens/s'], rows, said: `${number(run.results.tokens_per_second)} tokens per second` }
}

const CHARTS = [
  { title: 'TTFT over time', unit: 'ms', keys: ['this', 'base'], plan: ttftOverTime },
  { title: 'TTFT histogram', unit: '% of responses', keys: ['this', 'base'], plan: ttftHistogram },
  { title: 'hub’s queue', unit: 'requests', keys: ['queued', 'running', 'window'], plan: queue },
  { title: 'Throughput', unit: 'tokens/s', keys: ['this', 'base'], plan: throughput },
]
const NAMES = { this: 'this run', base: 'base' }

/** Puts the figures into `root`; `show(run, base)` draws them. */
export class Figures {
  #figures
  #shown = null

  constructor(root) {
    this.#figures = CHARTS.map(figure)
    root.append(...this.#figures.map(({ element }) => element))
    new ResizeObserver(() => this.#shown && this.show(...this.#shown)).observe(root)
  }

  /** @param {?object} base null where there is none, or it is the run itself */
  show(run, base) {
    this.#shown = [run, base]
    for (const { canvas, table, legend, title, plan } of this.#figures) {
      const chart = plan(run, base)
      draw(canvas, chart)
      canvas.setAttribute('aria-label', `${title}: ${chart.said}`)
      for (const key of legend) key.hidden = key.dataset.key === 'base' && !base
      table.fill(chart)
    }
  }
}

function figure({ title, unit, keys, plan }) {
  const canvas = document.createElementNS('http://www.w3.org/2000/svg', 'svg')
  canvas.setAttribute('role', 'img')
  canvas.setAttribute('aria-label', `${title}: nothing yet`)
  const legend = keys.map((key) => el('span', { className: `key ${key}`, data: { key } }, NAMES[key] ?? key))
  const table = lazyTable(title)
  const caption = el('figcaption', {}, el('b', {}, title), el('small', {}, unit), el('span', { className: 'keys-of' }, ...legend))
  return { element: el('figure', {}, caption, canvas, table.element), canvas, legend, table, title, plan }
}

/** A chart's numbers; they are written when somebody looks. */
function lazyTable(title) {
  let chart = null
  const table = el('table', {})
  const element = el('details', { ontoggle: () => write() }, el('summary', {}, 'As a table', el('span', { className: 'unseen' }, `: ${title}`)), el('div', { className: 'scroll' }, table))
  const write = () => {
    if (!element.open || !chart) return
    const head = el('tr', {}, ...chart.head.map((text) => el('th', { scope: 'col' }, text)))
    const rows = chart.rows.map((row) => el('tr', {}, ...row.map((text) => el('td', {}, String(text)))))
    table.replaceChildren(el('thead', {}, head), el('tbody', {}, ...rows))
  }
  const fill = (next) => {
    chart = next
    write()
  }
  return { element, fill }
}
