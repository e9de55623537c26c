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
 * - A run reads one response, which it has made or resumes. It holds a lane (a `stream_id`) from its
 *   request to the terminal event. The server lets a connection name 32 lanes in its life and run 16
 *   responses at once, so lanes are a pool: a run waits here for a lane, never behind another run
 *   inside one.
 * - A lost connection is made again by itself, and each run goes on from its cursor, the number of
 *   the last event that it had: no text is lost and none comes twice. Only these end with
 *   `connection_lost`: a response with `store: false`, since the server stops it, and a request that
 *   the server had not acknowledged, since nothing is sent twice unless the server said that it did
 *   not run it.
 * - hub may be many nodes behind one address: any of them has every response. One that cannot say now,
 *   or does not know yet, what a run has read is asked again, within bounds.
 * - A hub may ask for an API key. A browser cannot send one with a WebSocket, and in a URL it would be
 *   in every log; so each connection shows a ticket, which hub gives for the key (`askTicket`). Give
 *   the option `key`, or `authorize`, which is asked for a ticket before each connection, and may take
 *   its time: what is asked for waits.
 * - History: give `previous_response_id` and `history`. The history is sent only if the server does
 *   not know the id any more.
 *
 * All durations and instants are milliseconds of `performance.now()`.
 */

const TERMINAL = new Set(['response.completed', 'response.failed', 'response.incomplete'])
const NOT_RUNNING = new Set([...TERMINAL, 'response.created', 'response.queued'])
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
/** What a server that is about to stop says; another one may serve at the same address. */
const DRAINING = 'shutting_down'
const UNKNOWN = 'response_not_found'
/** When a server that closes wants its clients back, in the reason that it gives. */
const HINT = /retry in (\d{1,9}) ms/
/** The close code for a key that is not valid any more, among others: `authorize` finds out. */
const POLICY = 1008
const UNAUTHORIZED = 'invalid_api_key'
const DEFAULTS = {
  lanes: 16,
  maxWaiting: 256, // runs that wait for a lane or the connection
  maxMessageBytes: 1 << 20,
  connectTimeout: 10_000,
  firstDelay: 500, // before the second try; doubles, with jitter, up to maxDelay
  maxDelay: 15_000,
  patience: 60_000, // how long a node may have no answer to who reads on
  behind: 2_000, // how long what was read from may be unknown to another node
  key: null, // an API key
  authorize: null, // async () => {ticket}; rejects with `invalid_api_key` if there is none to be had
  WebSocket: globalThis.WebSocket,
}

/**
 * Why a run failed. `code` is the server's (`response_not_found`: it cannot be resumed any more), or
 * one of this module's own: `connection_lost`, `connection_closed` (for good), `message_too_large`,
 * `too_many_waiting`. `invalid_api_key` is also what `authorize` has rejected with.
 */
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

/**
 * Asks hub for a ticket: it opens one WebSocket, within `expires_in` seconds.
 * @param {string|URL} url of `/v1/tickets`
 * @param {?string} key an API key; a hub that asks for none gives a ticket to everybody
 * @returns {Promise<{ticket: string, expires_in: number}>} rejects with a `HubError`, of the code
 *   `invalid_api_key` where hub wants another key, or as `fetch` does
 */
export async function askTicket(url, key) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {}
  const answer = await fetch(url, { method: 'POST', headers, signal: AbortSignal.timeout(DEFAULTS.connectTimeout) })
  const body = await answer.json().catch(() => ({}))
  if (!answer.ok) throw HubError.from({ ...body, status: answer.status })
  return body
}

/** The reading of one response. Made by `Hub.create` and `Hub.resume`. */
export class Run {
  /**
   * `waiting` (here), `queued` (in hub), `running` (at the model server), `resuming` (its response may
   * go on, but cannot be read until there is a connection) or `done`.
   */
  state = 'waiting'
  id = null
  model = null
  /** The cursor: the sequence number of the last event that was had. */
  sequenceNumber = -1
  /** True once `cancel` was called. */
  cancelled = false
  /**
   * Resolves with the response object when it is completed, incomplete or cancelled: see its
   * `status`. Rejects with a `HubError` when it failed, was refused, or cannot be read to its end.
   * @type {Promise<object>}
   */
  done
  #settle
  #cancel
  #usage
  #tokens = 0
  #reasoned = false
  #running = false
  #resumed = false
  #refused = null
  /** @internal It is not asked for now. */
  _resting = false
  /** @internal Its reading was interrupted. */
  _interrupted = false
  #started = performance.now()
  #first = null
  #last = null
  #ended = null

  /** @param {?object} request null for a response that somebody else has asked for */
  constructor(request, handlers, cancel) {
    Object.assign(this, { request, handlers })
    if (!request) this.#started = null
    this.#cancel = cancel
    this.done = new Promise((resolve, reject) => (this.#settle = { resolve, reject }))
    this.done.catch(() => {}) // whoever does not look at `done` does not want to hear of it
  }

  /**
   * What the reader of this page saw. Whatever is not defined (yet) is null, never 0.
   * - `ttft`: from `create` until the first text or reasoning; a wait for a lane is part of it
   * - `total`: from `create` until the terminal event, or until now
   * - `tokens`: the server's count of the output; the number of its deltas where there is none
   * - `tokensPerSecond`: the tokens after the first, over the time from the first to the last delta
   * - `resumed`: there was an interruption. It is part of `ttft` and `total`; there is no
   *   `tokensPerSecond` then, since what had been missed came all at once
   *
   * A run of `Hub.resume` did not see the beginning: it has no `ttft` and no `total`.
   * @returns {{ttft: ?number, total: ?number, tokens: ?number, tokensPerSecond: ?number, resumed: boolean}}
   */
  get timings() {
    // Reasoning that is not streamed takes no time between the deltas.
    const hidden = this.#reasoned ? 0 : (this.#usage?.output_tokens_details?.reasoning_tokens ?? 0)
    const tokens = (this.#usage?.output_tokens ?? 0) - hidden || this.#tokens || null
    const streamed = this.#resumed ? 0 : this.#last - this.#first
    const since = (instant) => (instant === null || this.#started === null ? null : instant - this.#started)
    return {
      ttft: since(this.#first),
      total: since(this.#ended ?? performance.now()),
      tokens,
      tokensPerSecond: tokens > 1 && streamed > 0 ? ((tokens - 1) * 1000) / streamed : null,
      resumed: this.#resumed,
    }
  }

  /** Stops the response for all its readers, with the connection's return if there is none. `done`
   * resolves with status `cancelled` and what there is. Idempotent. */
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

  /** @internal It was refused before it was heard of: how long it is since the first time. */
  _refused() {
    const now = performance.now()
    this.#refused ??= now
    return now - this.#refused
  }

  /** @internal It has no lane and waits for one. */
  _wait() {
    this._become(this.id ? 'resuming' : 'waiting')
  }

  /** @internal Its request was sent on a lane. */
  _sent() {
    this.#resumed ||= this.state === 'resuming'
    this._become(this.#running ? 'running' : 'queued')
  }

  /** @internal Takes one event; the caller ends the run at a terminal one. */
  _take(event) {
    const behind = event.sequence_number - this.sequenceNumber
    this.sequenceNumber = event.sequence_number
    this.#refused = null
    if (event.response) Object.assign(this, { id: event.response.id, model: event.response.model })
    if (!this.#running && !NOT_RUNNING.has(event.type)) {
      this.#running = true
      this._become('running')
    }
    this.handlers.onEvent?.(event, this)
    const kind = DELTAS[event.type]
    if (!kind || !event.delta) return
    this.#last = performance.now()
    this.#first ??= this.#last
    this.#tokens += behind // hub merges the deltas for a reader that is behind
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
 * A connection that comes back, and the lanes on it.
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
  #asking = null // of the connection that waits for its ticket
  #openedAt = null
  #timer = null
  #retiring = false // the server ends this connection: let its runs finish, then make a new one
  #lanes = new Map() // stream_id -> its lane; of the free ones the longest free is first
  #waiting = [] // runs without a lane: interrupted ones, then those not sent yet, oldest first
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
    const { key } = this.#options
    if (key) this.#options.authorize ??= () => askTicket(new URL('tickets', this.#url.href.replace(/^ws/, 'http')), key)
    const wake = () => this.status.state === 'waiting' && !globalThis.document?.hidden && this.connect()
    const { signal } = this.#listening
    globalThis.addEventListener?.('online', wake, { signal })
    globalThis.document?.addEventListener('visibilitychange', wake, { signal })
    this.connect()
  }

  /** Connects now, unless it is connected or about to be. */
  connect() {
    if (this.#socket || this.#asking) return
    clearTimeout(this.#timer)
    const { authorize } = this.#options
    if (!authorize) return this.#open([])
    const asking = (this.#asking = Symbol('asking'))
    const current = (handle) => (value) => asking === this.#asking && handle(value)
    authorize().then(
      current(({ ticket }) => this.#open(['hub', `hub.ticket.${ticket}`])),
      current(({ code, message }) => (code === UNAUTHORIZED ? this.#drop(1000, message, code) : this.#drop(1006, ''))),
    )
    this.#become('connecting')
  }

  #open(protocols) {
    this.#asking = null
    const socket = new this.#options.WebSocket(this.#url.href, protocols)
    const current = (handle) => (event) => socket === this.#socket && handle(event)
    socket.onopen = current(() => this.#opened())
    socket.onmessage = current(({ data }) => this.#receive(data))
    socket.onclose = current((event) => this.#closed(event))
    this.#socket = socket
    this.#timer = setTimeout(() => this.#drop(1006, 'no answer'), this.#options.connectTimeout)
    this.#become('connecting')
  }

  /** Disconnects for good; whatever runs rejects. Stored responses can be resumed by their ids. */
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
    return this.#add(new Run(request, handlers, (one) => this.#cancel(one)))
  }

  /**
   * Reads a stored response that runs or has ended, whoever asked for it: after a reload, or in a
   * second tab. Rejects with `response_not_found` if the server has it no more: it was deleted, it
   * has expired, or it was not stored.
   * @param {string} responseId
   * @param {{startingAfter?: number}} [cursor] the last event that was had; without it the run starts
   *   with the first event, so that the text is whole whatever was had before
   * @param {object} [handlers] as in `create`
   * @returns {Run}
   */
  resume(responseId, { startingAfter = -1 } = {}, handlers = {}) {
    const run = new Run(null, handlers, (one) => this.#cancel(one))
    Object.assign(run, { id: responseId, sequenceNumber: startingAfter })
    run._wait()
    return this.#add(run)
  }

  #add(run) {
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
  #drop(code, reason, error) {
    const socket = this.#socket
    this.#closed({ code, reason }, error)
    socket?.close()
  }

  /** `error` is the code of runs that wait for a connection that is not made again. */
  #closed({ code, reason }, error = 'connection_closed') {
    clearTimeout(this.#timer)
    const lost = this.#busy().map(({ run }) => run)
    const resumable = lost.filter((run) => run.id && run.request?.store !== false)
    const stable = this.#openedAt && performance.now() - this.#openedAt > STABLE
    const attempt = stable || this.#retiring ? 1 : this.status.attempt + 1
    const { firstDelay, maxDelay } = this.#options
    const ceiling = Math.min(maxDelay, firstDelay * 2 ** (attempt - 1))
    const byChance = (ceiling * (1 + Math.random())) / 2
    const hint = HINT.exec(reason)
    const asked = hint && Math.min(maxDelay, Number(hint[1])) * (1 + Math.random() / 2)
    const delay = this.#retiring && !asked ? 0 : Math.max(asked ?? byChance, attempt > 1 ? byChance : 0)
    const revoked = code === POLICY && this.#options.authorize
    const stop = STOP.has(code) && !this.#retiring && !revoked
    this.#socket = this.#asking = this.#openedAt = null
    this.#retiring = false
    this.#lanes.clear()
    this.#waiting.unshift(...resumable)
    const refused = stop ? this.#waiting.splice(0) : []
    if (!stop) this.#timer = setTimeout(() => this.connect(), delay)
    if (stop) this.#become('closed', { attempt: 0, reason })
    else this.#become('waiting', { attempt, reason, retryAt: performance.now() + delay })
    for (const run of refused) run._end(new HubError(error, reason || 'The connection is closed.'))
    for (const run of lost) {
      if (!resumable.includes(run)) run._end(new HubError('connection_lost', 'The connection was lost in mid-answer.'))
      else if (!stop) {
        run._interrupted = true
        run._wait()
      }
    }
  }

  #receive(data) {
    const event = JSON.parse(data)
    const lane = this.#lanes.get(event.stream_id)
    if (event.type === 'error') return this.#refused(lane, HubError.from(event))
    if (!lane?.run || !(event.sequence_number > lane.run.sequenceNumber)) return
    if (!lane.heard && lane.run.cancelled) this.#stop(lane) // what had not begun could not be stopped
    lane.heard = true
    try {
      lane.run._take(event)
    } finally {
      if (TERMINAL.has(event.type)) this.#finish(lane, event.response)
    }
  }

  /** An error ends its request, unless it says that it never ran or was not read: that is sent again. */
  #refused(lane, error) {
    const run = lane?.run
    const unheard = run && !lane.heard
    if (error.code === RETIRED || error.code === DRAINING) this.#retiring = true
    if (!run) {
      this.dispatchEvent(new CustomEvent('error', { detail: error }))
    } else if (unheard && (run.id || !run.cancelled) && this.#mayAskAgain(run, error)) {
      this.#release(lane)
      this.#waiting.unshift(run)
      run._wait()
    } else if (error.code === 'previous_response_not_found' && lane.chained && unheard && !run.cancelled) {
      this.#send(lane, run, false)
    } else {
      this.#release(lane)
      run._end(run.cancelled ? { status: 'cancelled', output: [] } : error)
    }
    this.#pump()
  }

  /** Whether this, or another, node may soon say something else; then the run has to wait. */
  #mayAskAgain(run, { code, status, retryAfter }) {
    if (code === RETIRED) return true
    const { firstDelay, maxDelay, patience, behind } = this.#options
    const missing = code === UNKNOWN && run._interrupted
    const busy = run.id && (status === 503 || status === 429)
    if (run._refused() >= (missing ? behind : patience)) return false
    if (code === DRAINING) return true
    if (!missing && !busy) return false
    run._resting = true
    const rested = () => {
      run._resting = false
      this.#pump()
    }
    setTimeout(rested, Math.min(maxDelay, retryAfter ?? (firstDelay * (1 + Math.random())) / 2))
    return true
  }

  #finish(lane, response) {
    const { code = 'server_error', message = 'The answer failed.' } = response.error ?? {}
    const { run } = lane
    this.#release(lane)
    run._end(response.status === 'failed' ? new HubError(code, message, { response }) : response)
    this.#pump()
  }

  #release({ name }) {
    this.#lanes.delete(name) // to the end of the order
    this.#lanes.set(name, { name, run: null })
  }

  /** Sends what waits, as far as there are free lanes; moves on from a connection that is to end. */
  #pump() {
    if (this.#retiring && !this.#busy().length) this.#drop(1001, 'time limit')
    while (this.status.state === 'open' && !this.#retiring && this.#waiting.length) {
      const free = [...this.#lanes.values()].find((lane) => !lane.run)
      const due = this.#waiting.findIndex((run) => !run._resting)
      if (!free || due < 0) return
      const [run] = this.#waiting.splice(due, 1)
      this.#send(free, run, Boolean(run.request?.previous_response_id && run.request.history))
    }
  }

  /** `chained`: a `previous_response_id` stands for the history. */
  #send(lane, run, chained) {
    const resume = { type: 'response.resume', response_id: run.id, starting_after: run.sequenceNumber }
    const frame = run.id ? resume : createFrame(run.request, chained)
    const text = JSON.stringify({ ...frame, stream_id: lane.name })
    if (new TextEncoder().encode(text).length > this.#options.maxMessageBytes) {
      this.#release(lane)
      run._end(new HubError('message_too_large', 'This conversation is longer than one message may be.'))
      return
    }
    Object.assign(lane, { run, chained, heard: false })
    this.#socket.send(text)
    if (run.cancelled) this.#stop(lane)
    run._sent()
  }

  #cancel(run) {
    const lane = this.#busy().find((one) => one.run === run)
    if (lane) {
      this.#stop(lane)
    } else if (!run.id) {
      this.#waiting.splice(this.#waiting.indexOf(run), 1)
      run._end({ status: 'cancelled', output: [] })
    } // One that was interrupted is stopped when it is resumed.
  }

  /** By the lane, not by the id: so the server never answers that it is too late. */
  #stop(lane) {
    this.#socket.send(JSON.stringify({ type: 'response.cancel', stream_id: lane.name }))
  }
}

function createFrame({ history, ...request }, chained) {
  const frame = { ...request, type: 'response.create' }
  if (chained || !history) return frame
  delete frame.previous_response_id
  const input = typeof frame.input === 'string' ? [{ role: 'user', content: frame.input }] : frame.input
  frame.input = [...history, ...input]
  return frame
}
