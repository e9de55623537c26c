/** What the browser sees of one response. Instants are milliseconds of `performance.now()`. */

/** Arrivals closer than this are one: the browser had them together. */
const TOGETHER = 1

export class Sample {
  sent = null
  first = null // the first text or reasoning that is not empty
  last = null
  end = null
  tokens = null // the server's count of the output
  heard = 0 // tokens of the deltas so far
  error = null // a code
  whole = null // whether the streamed text is that of the final response
  server = null // the ledger: name -> ms since the server received the request
  pauses = null // the model server's silences: `{count, total, longest: [at, ms][]}`, like the ledger
  batch = null // how it left the server's queue: `{size, reason, upstream}`
  #text = ''
  #gap

  /**
   * @param {number} number its place in the run
   * @param {number} due when it was to be sent: now, or when the arrival was planned
   * @param {(ms: number) => void} gap hears of the time between two arrivals of text
   */
  constructor(number, due, gap) {
    Object.assign(this, { number, due })
    this.#gap = gap
  }

  sending() {
    this.sent ??= performance.now()
  }

  /** Text has arrived that stands for so many tokens; `visible` is false for reasoning. */
  text(delta, tokens = 1, visible = true) {
    const now = performance.now()
    if (this.last !== null && now - this.last >= TOGETHER) this.#gap(now - this.last)
    this.first ??= now
    this.last = now
    this.heard += tokens
    if (visible) this.#text += delta
  }

  /** The response is there as it ended. `streamed`: its text came in pieces before. */
  ended(response, streamed) {
    this.end = performance.now()
    const reason = response.incomplete_details?.reason
    if (response.status === 'failed') this.error = response.error?.code ?? 'failed'
    else if (response.status === 'cancelled') this.error = 'cancelled'
    else if (response.status === 'incomplete' && reason !== 'max_output_tokens') this.error = reason ?? 'incomplete'
    this.tokens = response.usage?.output_tokens ?? null
    this.server = ledgerOf(response)
    this.batch = this.server && batchOf(response)
    this.pauses = this.server && pausesOf(response)
    const text = textOf(response)
    if (!streamed && text) this.first = this.last = this.end
    if (streamed && !this.error) this.whole = text === this.#text
    this.#text = ''
  }

  failed(code) {
    this.end = performance.now()
    this.error = code
    this.#text = ''
  }

  get ttft() {
    return this.first === null || this.error ? null : this.first - this.due
  }

  get total() {
    return this.end === null || this.error ? null : this.end - this.due
  }

  /** Time per output token after the first; undefined of one token, and of what came all at once. */
  get perToken() {
    const tokens = this.tokens ?? this.heard
    return this.error || tokens < 2 || !(this.last > this.first) ? null : (this.last - this.first) / (tokens - 1)
  }
}

/** The visible text of a response object. */
export function textOf(response) {
  const parts = (response.output ?? []).filter(({ type }) => type === 'message').flatMap(({ content }) => content ?? [])
  return parts.map(({ text, refusal }) => text ?? refusal ?? '').join('')
}

function batchOf({ hub: { batch_size: size, reason, upstream } }) {
  return Number.isInteger(size) ? { size, reason: String(reason), upstream: String(upstream) } : null
}

function pausesOf({ hub: { pauses_ms: pauses } }) {
  if (!Number.isInteger(pauses?.count) || !Number.isFinite(pauses.total) || !Array.isArray(pauses.longest)) return null
  const longest = pauses.longest.filter((one) => Array.isArray(one) && one.length === 2 && one.every(Number.isFinite))
  return { count: pauses.count, total: pauses.total, longest }
}

function ledgerOf({ hub }) {
  const ledger = hub?.ledger_ms
  if (!ledger || typeof ledger !== 'object') return null
  const marks = Object.entries(ledger).filter(([, ms]) => Number.isFinite(ms))
  return marks.length ? Object.fromEntries(marks) : null
}
