/** One run: sends the load, measures, and comes to a record that can be kept, compared and exported. */

import { Http } from './lab-http.js'
import { Lanes } from './lab-lanes.js'
import { drive } from './lab-load.js'
import { prompt } from './lab-random.js'
import { Sample } from './lab-sample.js'
import { Distribution, mean, percentile, sorted, thinned } from './lab-stats.js'
import { Watch } from './lab-watch.js'

const TICK = 250
const RATE_OVER = 4 // ticks
const MOST_SAMPLES = 1000
const MOST_POINTS = 480
const MARKS = ['sent', 'first', 'last', 'end']

export class Experiment {
  samples = []
  points = [] // {t, queued, running, window, rate}
  state = 'starting' // then running, ended
  #settings
  #watch = new Watch()
  #gaps = new Distribution()
  #ways
  #stop = new AbortController()
  #open = 0
  #started = null
  #hidden = false
  #heard = []

  constructor(settings) {
    this.#settings = settings
    const { mode } = settings
    this.#ways = mode === 'ws' ? new Lanes() : new Http(mode, settings.class)
  }

  /** Runs to its end. Rejects if hub cannot be reached. @param {() => void} changed four times a second */
  async run(changed) {
    const hidden = () => (this.#hidden ||= document.hidden)
    document.addEventListener('visibilitychange', hidden)
    let timer = null
    try {
      await this.#ways.open(this.#settings.loop === 'closed' ? this.#settings.concurrency : 16)
      await this.#watch.start()
      this.state = 'running'
      this.#started = performance.now()
      this.#point()
      timer = setInterval(() => (this.#point(), changed()), TICK)
      if (!this.#stop.signal.aborted) await drive(this.#settings, this.#ask, this.#stop.signal)
      this.#point()
      await this.#watch.stop()
    } finally {
      clearInterval(timer)
      document.removeEventListener('visibilitychange', hidden)
      this.#ways.close()
      this.state = 'ended'
    }
  }

  /** Sends nothing more and stops what runs. */
  stop() {
    this.#stop.abort()
  }

  get stopped() {
    return this.#stop.signal.aborted
  }

  #ask = async (number, due) => {
    const { seed, prompt: tokens, output, model, mode, class: rank } = this.#settings
    const sample = new Sample(number, due, (gap) => this.#gaps.add(gap))
    this.samples.push(sample)
    const request = { input: prompt(tokens, seed, number), max_output_tokens: output, store: false }
    if (model) request.model = model
    if (mode === 'ws' && rank === 'background') request.service_tier = 'flex'
    this.#open += 1
    await this.#ways.ask(request, sample, this.#stop.signal)
    this.#open -= 1
  }

  #point() {
    const t = performance.now() - this.#started
    this.#heard.push([t, this.samples.reduce((sum, { heard, tokens }) => sum + Math.max(heard, tokens ?? 0), 0)])
    const [then, before] = this.#heard.at(-1 - RATE_OVER) ?? this.#heard[0]
    const [, heard] = this.#heard.at(-1)
    const rate = t > then ? ((heard - before) * 1000) / (t - then) : 0
    this.points.push({ t, rate, ...(this.#watch.now ?? { queued: null, running: null, window: null }) })
  }

  /** The figures as they are now. Durations in ms. */
  results() {
    const good = this.samples.filter(({ end, error }) => end !== null && !error)
    const ttft = sorted(this.samples.map((one) => one.ttft))
    const perToken = sorted(good.map((one) => one.perToken))
    const total = sorted(good.map((one) => one.total))
    const tokens = good.reduce((sum, one) => sum + (one.tokens ?? one.heard), 0)
    const ends = good.map(({ end }) => end)
    const span = good.length ? Math.max(...ends) - this.#started : null
    const streamed = good.filter(({ whole }) => whole !== null)
    const { sizes } = this.#watch.batches
    const batches = Object.values(sizes).reduce((sum, count) => sum + count, 0)
    const members = Object.entries(sizes).reduce((sum, [size, count]) => sum + size * count, 0)
    return {
      sent: this.samples.length,
      completed: good.length,
      failed: this.samples.filter(({ error }) => error && error !== 'cancelled').length,
      ttft_p50: percentile(ttft, 0.5),
      ttft_p99: percentile(ttft, 0.99),
      ttft_mean: mean(ttft),
      itl_p50: percentile(perToken, 0.5),
      itl_p99: percentile(perToken, 0.99),
      gap_p50: this.#gaps.percentile(0.5),
      gap_p99: this.#gaps.percentile(0.99),
      gap_max: this.#gaps.most,
      e2e_p50: percentile(total, 0.5),
      e2e_p99: percentile(total, 0.99),
      tokens_per_second: span ? (tokens * 1000) / span : null,
      requests_per_second: span ? (good.length * 1000) / span : null,
      tokens_per_answer: good.length ? tokens / good.length : null,
      queued_max: Math.max(0, ...this.points.map(({ queued }) => queued ?? 0)),
      running_max: Math.max(0, ...this.points.map(({ running }) => running ?? 0)),
      batch_mean: batches ? members / batches : null,
      altered: streamed.length ? streamed.filter(({ whole }) => !whole).length : null,
    }
  }

  /** What is happening this moment: in the browser (`open`), in hub (the others). */
  now() {
    return { open: this.#open, ...this.#watch.now }
  }

  /** What is kept of it: plain data. Instants are ms since the start. */
  record() {
    const instant = (value) => (value === null ? null : round(value - this.#started))
    const dots = this.samples.filter(({ ttft }) => ttft !== null)
    return {
      settings: this.#settings,
      stopped: this.stopped,
      hidden: this.#hidden,
      results: mapped(this.results(), round),
      batches: this.#watch.batches,
      errors: counted(this.samples.map(({ error }) => error).filter(Boolean)),
      samples: thinned(dots, MOST_SAMPLES).map((one) => [instant(one.due), round(one.ttft), round(one.total)]),
      points: thinned(this.points, MOST_POINTS).map((point) => mapped(point, round)),
      timelines: timelines(this.samples),
    }
  }
}

/** The response with the median TTFT, the slowest and the fastest, each as a timeline. */
function timelines(samples) {
  const ordered = samples.filter(({ end, ttft }) => end !== null && ttft !== null).sort((a, b) => a.ttft - b.ttft)
  if (!ordered.length) return {}
  const picked = { median: ordered[(ordered.length - 1) >> 1], slowest: ordered.at(-1), fastest: ordered[0] }
  return Object.fromEntries(Object.entries(picked).map(([name, one]) => [name, timeline(one)]))
}

function timeline(sample) {
  const browser = Object.fromEntries(MARKS.map((mark) => [mark, round(Math.max(0, (sample[mark] ?? sample.due) - sample.due))]))
  const { number, tokens, batch, pauses } = sample
  return { number, tokens, batch, pauses, browser, server: sample.server && mapped(sample.server, round) }
}

function counted(names) {
  const counts = {}
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1
  return counts
}

function round(value) {
  return Number.isFinite(value) ? Math.round(value * 100) / 100 : value
}

function mapped(object, change) {
  return Object.fromEntries(Object.entries(object).map(([key, value]) => [key, change(value)]))
}
