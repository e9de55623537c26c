/** The laboratory: puts the form, the run, its figures, and the comparison of runs together. */

import { announce, copy, milliseconds, nextFrame, number } from './dom.js'
import { authorized } from './keys.js'
import { compare, precise } from './lab-compare.js'
import { Figures } from './lab-figures.js'
import { Form } from './lab-form.js'
import { Experiment } from './lab-run.js'
import { Runs } from './lab-runs.js'
import { toFragment } from './lab-settings.js'
import { showTimeline } from './lab-timeline.js'

const $ = (id) => document.getElementById(id)
const form = new Form($('form'))
const runs = new Runs()
const figures = new Figures($('charts'))
let experiment = null
let shown = null // the run whose charts are drawn

// ── The server's settings ───────────────────────────────────────────────────────────────────────

async function asked(path, options) {
  const answer = await authorized(path, options)
  const body = await answer.json()
  if (!answer.ok) throw Object.assign(new Error(body.error?.message ?? `hub answered ${answer.status}.`), { code: body.error?.code })
  return body
}

/** Has the form show them. Who may not see them may put a load on hub all the same. */
async function settings(options) {
  try {
    form.serve(await asked('lab/settings', options))
  } catch (error) {
    if (error.code !== 'admin_required') throw error
    form.deny()
  }
}

/** Asks for the form's, where that is allowed; the form has what holds then. */
async function settle() {
  const change = form.wanted
  const headers = { 'Content-Type': 'application/json' }
  await settings(change ? { method: 'POST', headers, body: JSON.stringify(change) } : {})
}

// ── A run ───────────────────────────────────────────────────────────────────────────────────────

async function run() {
  if (document.body.dataset.state === 'running') return
  complain('')
  become('running')
  try {
    await settle()
    experiment = new Experiment(form.settings)
    announce('The run has started.')
    await experiment.run(() => nextFrame(live))
    keep()
  } catch (error) {
    complain(error.message || 'The run failed.')
  }
  experiment = null
  become('idle')
}

function become(state) {
  const running = state === 'running'
  const held = document.activeElement === $('stop')
  document.body.dataset.state = state
  $('run').hidden = running
  $('stop').hidden = !running
  $('settings').disabled = running
  if (running) $('stop').focus()
  else if (held) $('run').focus()
  // Where the results are under the form, they come to whoever has asked for them.
  if (running && $('results').offsetTop > $('form').offsetTop) $('results').scrollIntoView()
}

function complain(text) {
  $('complaint').textContent = text
  $('complaint').hidden = !text
}

function keep() {
  const record = experiment.record()
  if (record.stopped && !record.results.completed && !record.results.failed) return dropped()
  const kept = runs.add(record)
  show(kept)
  const { ttft_p50: p50, ttft_p99: p99, completed, sent } = record.results
  announce(`Run ${kept.number} has ended: ${completed} of ${sent} responses, TTFT p50 ${milliseconds(p50)}, p99 ${milliseconds(p99)}.`)
}

/** A run that was stopped before anything had ended says nothing. */
function dropped() {
  announce('The run was stopped before a response had ended.')
  if (shown) show(shown)
  else title('No run yet')
}

// ── What is shown ───────────────────────────────────────────────────────────────────────────────

/** The run that goes on, a few times a second. */
function live() {
  if (!experiment) return
  const record = experiment.record()
  tiles(record, experiment.now())
  title('Running')
  figures.show(record, runs.baseRun)
}

function show(one) {
  shown = one
  const base = runs.baseRun
  tiles(one, null)
  title(`Run ${one.number}${base && base !== one ? `, beside run ${base.number}` : ''}`)
  figures.show(one, base === one ? null : base)
  showTimeline($('timeline'), one)
  list()
}

function title(text) {
  $('shown').textContent = text
}

function tiles({ results, batches, points }, now) {
  const last = now ?? points.at(-1) ?? {}
  const say = (id, text) => ($(id).textContent = text)
  say('tile-ttft', milliseconds(results.ttft_p50))
  say('tile-ttft-p99', milliseconds(results.ttft_p99))
  say('tile-itl', precise(results.itl_p50))
  say('tile-itl-p99', precise(results.itl_p99))
  say('tile-gap', precise(results.gap_p99))
  say('tile-gap-max', precise(results.gap_max))
  say('tile-rate', number(results.tokens_per_second ?? last.rate ?? null))
  say('tile-requests', number(results.requests_per_second, 1))
  say('tile-queue', String((now ? last.queued : results.queued_max) ?? '–'))
  say('tile-queue-name', now ? 'Queued in hub' : 'Most queued')
  say('tile-running', String((now ? last.running : results.running_max) ?? '–'))
  say('tile-window', String(last.window ?? points.at(-1)?.window ?? '–'))
  say('tile-batch', number(results.batch_mean, 1))
  say('tile-batches', Object.entries(batches.reasons).map(([why, count]) => `${count} ${why}`).join(', ') || '–')
  const open = now ? `, ${now.open} open` : ''
  say('done', `${results.completed} of ${results.sent} completed${open}${results.failed ? `, ${results.failed} failed` : ''}`)
}

function list() {
  const any = runs.all.length > 0
  $('compare').hidden = !any
  $('none').hidden = any
  if (any) compare($('runs'), runs, { shown: shown?.id, use, show })
}

function use(settings) {
  form.link(settings)
  $('form').scrollIntoView({ block: 'nearest' })
  announce('The settings are in the form.')
}

// ── Everything else ─────────────────────────────────────────────────────────────────────────────

function download() {
  const url = URL.createObjectURL(new Blob([runs.exported()], { type: 'application/json' }))
  const link = Object.assign(document.createElement('a'), { href: url, download: 'hub-lab.json' })
  link.click()
  setTimeout(() => URL.revokeObjectURL(url), 1000)
}

form.addEventListener('run', run)
runs.addEventListener('change', () => {
  const still = runs.all.find(({ id }) => id === shown?.id)
  if (!experiment && (still ?? runs.all.at(-1))) show(still ?? runs.all.at(-1))
  else list()
})
$('stop').onclick = () => experiment?.stop()
$('share').onclick = () => copy(new URL(toFragment(form.settings), location.href).href, $('share'))
$('export').onclick = download
$('clear').onclick = () => confirm('Delete all runs of this browser?') && runs.clear()
addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && experiment) experiment.stop()
})

become('idle')
if (runs.all.length) show(runs.all.at(-1))
else list()
settings({}).catch((error) => complain(error.message))
asked('v1/models').then(({ data }) => form.offer(data.map(({ id }) => id)), () => {})
