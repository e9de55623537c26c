/** The runs side by side: what they were told, what came of it, and how far that is from the base. */

import { button, copy, el, milliseconds, number } from './dom.js'
import { described, toFragment } from './lab-settings.js'
import { difference } from './lab-stats.js'

/** `better`: whether it is good if the figure is smaller (-1), larger (1), or neither (0). */
const FIGURES = [
  ['TTFT p50', 'ttft_p50', milliseconds, -1],
  ['TTFT p99', 'ttft_p99', milliseconds, -1],
  ['Inter-token p50', 'itl_p50', precise, -1],
  ['Inter-token p99', 'itl_p99', precise, -1],
  ['Frame gap p99', 'gap_p99', precise, -1],
  ['Total p50', 'e2e_p50', milliseconds, -1],
  ['Total p99', 'e2e_p99', milliseconds, -1],
  ['Tokens/s', 'tokens_per_second', number, 1],
  ['Most queued', 'queued_max', count, 0],
  ['Mean batch', 'batch_mean', (value) => number(value, 1), 0],
]
/** A smaller difference may be chance; so may any of the slowest among few. */
const NOTABLE = 0.05
const ENOUGH = 100
const OF_RESPONSES = /^(ttft|itl|e2e)_p99$/

export function precise(ms) {
  return ms === null || ms === undefined || ms >= 100 ? milliseconds(ms) : `${ms.toFixed(1)} ms`
}

function count(value) {
  return value === null ? '–' : String(value)
}

/** Fills `table` from `runs`; `use(settings)` puts a run's settings into the form, `show(run)` draws it. */
export function compare(table, runs, { shown, use, show }) {
  const base = runs.baseRun
  const all = runs.all
  const settings = all.map((run) => described(run.settings))
  const names = [...new Set(settings.flatMap(Object.keys))]
  const corner = el('td', {})
  const head = el('tr', {}, corner, ...all.map((run) => heading(run, run === base, run.id === shown, { runs, use, show })))
  const told = names.map((name) => {
    const differs = new Set(settings.map((one) => one[name])).size > 1
    const cells = settings.map((one) => el('td', {}, one[name] ?? 'default'))
    return el('tr', { className: differs ? 'differs' : '' }, el('th', { scope: 'row' }, name), ...cells)
  })
  const came = FIGURES.map((figure) => el('tr', {}, el('th', { scope: 'row' }, figure[0]), ...all.map((run) => cell(figure, run, base))))
  const ended = el('tr', {}, el('th', { scope: 'row' }, 'Completed'), ...all.map(completed))
  const group = (text) => el('tr', { className: 'group' }, el('th', { scope: 'colgroup', colSpan: all.length + 1 }, text))
  table.replaceChildren(
    el('thead', {}, head),
    el('tbody', {}, group('Results, and their difference to the base'), ...came, ended),
    el('tbody', {}, group('Settings; what differs is marked'), ...told),
  )
}

function heading(run, isBase, isShown, { runs, use, show }) {
  const name = `Run ${run.number}`
  const time = new Date(run.at).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' })
  const radio = el('input', { type: 'radio', name: 'base', checked: isBase, 'aria-label': `Compare with ${name}`, onchange: () => runs.compareWith(run.id) })
  const link = button(`Copy ${name}’s link`, 'copy', () => copy(new URL(toFragment(run.settings), location.href).href, link), { quiet: true, className: 'ghost' })
  const tools = el(
    'span',
    { className: 'run-tools' },
    link,
    button(`${name}’s settings into the form`, 'retry', () => use(run.settings), { quiet: true, className: 'ghost' }),
    button(`Delete ${name}`, 'trash', () => runs.remove(run.id), { quiet: true, className: 'ghost' }),
  )
  const shown = el('button', { type: 'button', className: 'run-name', 'aria-pressed': String(isShown), title: 'Show its charts', onclick: () => show(run) }, name)
  const first = el('span', { className: 'run-line' }, shown, el('label', { className: 'base-of' }, radio, 'base'))
  return el('th', { scope: 'col', data: { run: run.id } }, first, el('span', { className: 'run-line' }, el('small', {}, time), tools))
}

function cell([name, key, format, better], run, base) {
  const value = run.results[key]
  const change = run === base ? null : difference(value, base.results[key])
  return el('td', { data: { figure: key } }, el('span', {}, format(value)), change === null ? null : delta(change, better, notable(key, change, run, base)))
}

function notable(key, change, ...runs) {
  const few = OF_RESPONSES.test(key) && runs.some(({ results }) => results.completed < ENOUGH)
  return Math.abs(change) >= NOTABLE && !few
}

function delta(change, better, notable) {
  const percent = Math.round(change * 100)
  const judged = better && notable ? (Math.sign(change) === better ? 'better' : 'worse') : 'same'
  const sign = percent > 0 ? '+' : percent < 0 ? '−' : '±'
  const text = Math.abs(change) >= 10 ? `× ${number(change + 1, 0)}` : `${sign}${Math.abs(percent)} %`
  return el('span', { className: `delta ${judged}` }, text, judged === 'same' ? null : el('span', { className: 'unseen' }, ` ${judged}`))
}

function completed(run) {
  const { completed: good, sent, altered } = run.results
  const notes = [
    ...Object.entries(run.errors ?? {}).map(([code, times]) => `${times} × ${code}`),
    altered ? `${altered} with lost or repeated text` : '',
    run.stopped ? 'stopped' : '',
    run.hidden ? 'tab was hidden' : '',
  ].filter(Boolean)
  return el('td', {}, el('span', {}, `${good} of ${sent}`), notes.length ? el('small', { className: 'notes' }, notes.join(', ')) : null)
}
