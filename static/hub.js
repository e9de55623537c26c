/**
 * hub.js: many streamed responses over one WebSocket. No dependencies and no build step.
 *
 *   import { Hub } from './hub.js'
 *   const hub = new Hub('/v1/responses')
 *   const run = hub.create({ input: 'Hello' }, { onDelta: (text) => output.append(text) })
 *   const response = await run.done
 *   console.log(run.timings.ttft, run.timings.tokensPerSecond)
 *
 * The rules of its world:
 * - A run is one response. It holds a lane (a `stream_id`) from the sending of its request to its
 *   terminal event. The server lets a connection name 32 lanes in its life and run 16 responses at
 *   once, so lanes are a pool: a run waits here for a lane, never behind another run inside one.
 * - History: give `previous_response_id` and `history`. The id is sent where this connection's
 *   lanes still hold that response; otherwise the history is.
 * - A lost connection rejects the runs that were sent, keeps those that were not, and is made again
 *   by itself. Nothing is sent twice unless the server said that it did not run it.
 *
 * All durations and instants are milliseconds of `performance.now()`.
 */

const TERMINAL = new Set(['response.completed', 'response.failed', 'response.incomplete'])
const DELTAS = {
  'response.output_text.delta': 'text',
  'response.refusal.delta': 'text',
  'response.reasoning_text.delta': 'reasoning',
  'response.reasoning.delta': 'reasoning',
  'response.reasoning_summary_text.delta': 'reasoning',
}
/** Close codes by which a server says: do not come back by yourself. */
const STOP = new Set([1000, 1002, 1003, 1007, 1008, 1009])
/** How long a connection must have lived for its loss to count as a first one. */
const STABLE = 5_000
const RETIRED = 'websocket_connection_limit_reached'
const DEFAULTS = {
  lanes: 16,
  maxWaiting: 256, // runs that wait for a lane or the connection
  maxMessageBytes: 1 << 20,
  connectTimeout: 10_000,
  firstDelay: 500, // before the second try; doubles, with jitter, up to maxDelay
  maxDelay: 15_000,
  WebSocket: globalThis.WebSocket,
}

/** Why a run failed. `code` is the server's, or one of this module's own: `connection_lost`,
 * `connection_closed`, `message_too_large`, `too_many_waiting`. */
export class HubError extends Error {
  /** `retryAfter`: how long the server asks to wait (ms); `response`: of a `response.failed`. */
  constructor(code, message, { status = null, retryAfter = null, response = null } = {}) {
    super(message)
    Object.assign(this, { name: 'HubError', code, status, retryAfter, response })
  }

  /** @param {object} event the protocol's `error` */
  static from({ error, status, headers, retry_after }) {
    const seconds = Number(error?.retry_after ?? retry_after ?? headers?.['retry-after'])
    const retryAfter = seconds > 0 ? seconds * 1000 : null
    return new HubError(error?.code ?? error?.type ?? 'error', error?.message ?? '', { status, retryAfter })
  }
}

/** One response. Made by `Hub.create`. */
export class Run {
  /** `waiting` (here), `queued` (in hub), `running` (at the model server) or `done`. */
  state = 'waiting'
  id = null
  model = null
  /** The sequence number of the last event had: with `id` the cursor that a resume needs. */
  sequenceNumber = -1
  /** True once `cancel` was called. */
  cancelled = false
  /**
   * Resolves with the response object when it is completed, incomplete or cancelled: see its
   * `status`. Rejects with a `HubError` when it failed, was refused, or the connection was lost.
   * @type {Promise<object>}
   */
  done
  #settle
  #cancel
  #usage
  #deltas = 0
  #reasoned = false
  #started = performance.now()
  #first = null
  #last = null
  #ended = null

  constructor(request, handlers, cancel) {
    Object.assign(this, { request, handlers })
    this.#cancel = cancel
    this.done = new Promise((resolve, reject) => (this.#settle = { resolve, reject }))
    this.done.catch(() => {}) // whoever does not look at `done` does not want to hear of it
  }

  /**
   * What the reader of this page saw. Whatever is not defined (yet) is null, never 0.
   * - `ttft`: from `create` until the first text or reasoning; a wait for a lane is part of it
   * - `total`: from `create` until the terminal event, or until now
   * - `tokens`: the server's count of the output; the number of deltas where there is none
   * - `tokensPerSecond`: the tokens after the first, over the time from the first to the last delta
   * @returns {{ttft: ?number, total: number, tokens: ?number, tokensPerSecond: ?number}}
   */
  get timings() {
    // Reasoning that is not streamed takes no time between the deltas.
    const hidden = this.#reasoned ? 0 : (this.#usage?.output_tokens_details?.reasoning_tokens ?? 0)
    const tokens = (this.#usage?.output_tokens ?? 0) - hidden || this.#deltas || null
    const streamed = this.#last - this.#first
    return {
      ttft: this.#first && this.#first - this.#started,
      total: (this.#ended ?? performance.now()) - this.#started,
      tokens,
      tokensPerSecond: tokens > 1 && streamed > 0 ? ((tokens - 1) * 1000) / streamed : null,
    }
  }

  /** Stops it. `done` resolves with status `cancelled` and what there is. Idempotent. */
  cancel() {
    if (this.cancelled || this.state === 'done') return
    this.cancelled = true
    this.#cancel(this)
  }

  /** @internal */
  _become(state) {
    this.state = state
    this.handlers.onState?.(state, this)
  }

  /** @internal Takes one event; the caller ends the run at a terminal one. */
  _take(event) {
    this.sequenceNumber = event.sequence_number
    if (event.type === 'response.created') Object.assign(this, { id: event.response.id, model: event.response.model })
    if (event.type === 'response.in_progress') this._become('running')
    this.handlers.onEvent?.(event, this)
    const kind = DELTAS[event.type]
    if (!kind || !event.delta) return
    this.#last = performance.now()
    this.#first ??= this.#last
    this.#deltas += 1
    this.#reasoned ||= kind === 'reasoning'
    this.handlers.onDelta?.(event.delta, kind, this)
  }

  /** @internal @param {object|HubError} outcome */
  _end(outcome) {
    this.#ended = performance.now()
    this.#usage = (outcome.response ?? outcome).usage
    if (outcome instanceof HubError) this.#settle.reject(outcome)
    else this.#settle.resolve(outcome)
    this._become('done')
  }
}

/**
 * A connection that stays, and the lanes on it.
 *
 * Events: `status` when `hub.status` changes; `error` (a CustomEvent, its detail a `HubError`) when
 * the server complains of the connection and not of one run.
 */
export class Hub extends EventTarget {
  /**
   * `state`: `connecting`, `open`, `waiting` (tries again by itself at `retryAt`) or `closed` (for
   * good, until `connect` or `create`). `attempt` counts the failures in a row; `reason` is what
   * the server said as it closed.
   * @type {{state: string, attempt: number, retryAt: ?number, reason: string}}
   */
  status = { state: 'closed', attempt: 0, retryAt: null, reason: '' }
  #url
  #options
  #socket = null
  #openedAt = null
  #timer = null
  #retiring = false // the server ends this connection: let its runs finish, then make a new one
  #lanes = new Map() // stream_id -> {name, run, parent}; of the free ones the longest free is first
  #waiting = [] // runs not sent yet, oldest first
  #listening = new AbortController()

  /**
   * Connects at once.
   * @param {string} url of the WebSocket; may be relative, and may be http(s)
   * @param {Partial<typeof DEFAULTS>} [options] durations in ms
   */
  constructor(url, options = {}) {
    super()
    this.#url = new URL(url, globalThis.location?.href)
    this.#url.protocol = this.#url.protocol.replace('http', 'ws')
    this.#options = { ...DEFAULTS, ...options }
    const wake = () => this.status.state === 'waiting' && !globalThis.document?.hidden && this.connect()
    const { signal } = this.#listening
    globalThis.addEventListener?.('online', wake, { signal })
    globalThis.document?.addEventListener('visibilitychange', wake, { signal })
    this.connect()
  }

  /** Connects now, unless it is connected or about to be. */
  connect() {
    if (this.#socket) return
    clearTimeout(this.#timer)
    const socket = new this.#options.WebSocket(this.#url.href)
    const current = (handle) => (event) => socket === this.#socket && handle(event)
    socket.onopen = current(() => this.#opened())
    socket.onmessage = current(({ data }) => this.#receive(data))
    socket.onclose = current((event) => this.#closed(event))
    this.#socket = socket
    this.#timer = setTimeout(() => this.#drop(1006, 'no answer'), this.#options.connectTimeout)
    this.#become('connecting')
  }

  /** Disconnects for good; what runs is lost. */
  close() {
    this.#listening.abort()
    this.#retiring = false
    this.#drop(1000, '')
  }

  /**
   * Asks for a response; connects first if need be.
   * @param {object} request the body of `response.create` (`input`, `model`, `instructions`, …), and
   *   `history`: the input items before `input`, sent only where `previous_response_id` cannot serve
   * @param {object} [handlers] `onDelta(text, kind, run)`, kind `text` or `reasoning`;
   *   `onState(state, run)`; `onEvent(event, run)` for every event of the protocol as it came
   * @returns {Run}
   */
  create(request, handlers = {}) {
    const run = new Run(request, handlers, (one) => this.#cancel(one))
    if (this.#waiting.length >= this.#options.maxWaiting) {
      run._end(new HubError('too_many_waiting', 'Too many requests are waiting already.'))
    } else {
      this.#waiting.push(run)
      this.connect()
      this.#pump()
    }
    return run
  }

  #become(state, { attempt = this.status.attempt, retryAt = null, reason = '' } = {}) {
    this.status = { state, attempt, retryAt, reason }
    this.dispatchEvent(new Event('status'))
  }

  #busy() {
    return [...this.#lanes.values()].filter((lane) => lane.run)
  }

  #opened() {
    clearTimeout(this.#timer)
    this.#openedAt = performance.now()
    for (let i = 1; i <= this.#options.lanes; i++) this.#release({ name: `lane-${i}` })
    this.#become('open')
    this.#pump()
  }

  /** Gives the socket up without waiting for its close event. */
  #drop(code, reason) {
    const socket = this.#socket
    this.#closed({ code, reason })
    socket?.close()
  }

  #closed({ code, reason }) {
    clearTimeout(this.#timer)
    const lost = this.#busy()
    const stable = this.#openedAt && performance.now() - this.#openedAt > STABLE
    const attempt = stable || this.#retiring ? 1 : this.status.attempt + 1
    const { firstDelay, maxDelay } = this.#options
    const ceiling = Math.min(maxDelay, firstDelay * 2 ** (attempt - 1))
    const delay = this.#retiring ? 0 : (ceiling * (1 + Math.random())) / 2
    const stop = STOP.has(code) && !this.#retiring
    this.#socket = this.#openedAt = null
    this.#retiring = false
    this.#lanes.clear()
    const refused = stop ? this.#waiting.splice(0) : []
    if (!stop) this.#timer = setTimeout(() => this.connect(), delay)
    if (stop) this.#become('closed', { attempt: 0, reason })
    else this.#become('waiting', { attempt, reason, retryAt: performance.now() + delay })
    for (const run of refused) run._end(new HubError('connection_closed', reason || 'The connection is closed.'))
    // Each lost run has an id and a cursor: a server that can resume is to be asked here.
    for (const { run } of lost) run._end(new HubError('connection_lost', 'The connection was lost in mid-answer.'))
  }

  #receive(data) {
    const event = JSON.parse(data)
    const lane = this.#lanes.get(event.stream_id)
    if (event.type === 'error') return this.#refused(lane, HubError.from(event))
    if (!lane?.run || !(event.sequence_number > lane.run.sequenceNumber)) return
    try {
      lane.run._take(event)
    } finally {
      if (TERMINAL.has(event.type)) this.#finish(lane, event.response)
    }
  }

  /** An error ends its request; two of them say that it never ran, and it is sent again. */
  #refused(lane, error) {
    if (error.code === 'response_not_found') return // a cancel that came too late
    const run = lane?.run
    const again = run && run.sequenceNumber < 0 && !run.cancelled
    if (error.code === RETIRED) this.#retiring = true
    if (!run) {
      this.dispatchEvent(new CustomEvent('error', { detail: error }))
    } else if (again && error.code === RETIRED) {
      this.#release(lane)
      this.#waiting.unshift(run)
    } else if (again && error.code === 'previous_response_not_found' && lane.chained && run.request.history) {
      this.#send(lane, run, false)
    } else {
      this.#release(lane)
      run._end(run.cancelled ? { status: 'cancelled', output: [] } : error)
    }
    this.#pump()
  }

  #finish(lane, response) {
    const { code = 'server_error', message = 'The answer failed.' } = response.error ?? {}
    const { run } = lane
    this.#release(lane, response.status === 'completed' ? response.id : null)
    run._end(response.status === 'failed' ? new HubError(code, message, { response }) : response)
    this.#pump()
  }

  #release({ name }, parent = null) {
    this.#lanes.delete(name) // to the end of the order
    this.#lanes.set(name, { name, parent, run: null, chained: false })
  }

  /** Sends what waits, as far as there are free lanes; moves on from a connection that is to end. */
  #pump() {
    if (this.#retiring && !this.#busy().length) this.#drop(1001, 'time limit')
    while (this.status.state === 'open' && !this.#retiring && this.#waiting.length) {
      const free = [...this.#lanes.values()].filter((lane) => !lane.run)
      if (!free.length) return
      const run = this.#waiting.shift()
      const { history, previous_response_id: parent } = run.request
      const own = free.find((lane) => parent && lane.parent === parent)
      this.#send(own ?? free[0], run, Boolean(own) || !history)
    }
  }

  #send(lane, run, chained) {
    const { history = [], ...frame } = run.request
    if (!chained) {
      delete frame.previous_response_id
      const input = typeof frame.input === 'string' ? [{ role: 'user', content: frame.input }] : frame.input
      frame.input = [...history, ...input]
    }
    const text = JSON.stringify({ ...frame, type: 'response.create', stream_id: lane.name })
    if (new TextEncoder().encode(text).length > this.#options.maxMessageBytes) {
      this.#release(lane)
      run._end(new HubError('message_too_large', 'This conversation is longer than one message may be.'))
      return
    }
    Object.assign(lane, { run, chained })
    this.#socket.send(text)
    run._become('queued')
  }

  #cancel(run) {
    const at = this.#waiting.indexOf(run)
    const lane = this.#busy().find((one) => one.run === run)
    if (at >= 0) {
      this.#waiting.splice(at, 1)
      run._end({ status: 'cancelled', output: [] })
    } else if (lane) {
      const whom = run.id ? { response_id: run.id } : {}
      this.#socket.send(JSON.stringify({ type: 'response.cancel', stream_id: lane.name, ...whom }))
    }
  }
}
