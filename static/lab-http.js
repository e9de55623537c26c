/** The modes that are HTTP: one answer, server-sent events, a background response that is polled. */

import { authorized, signed } from './keys.js'
import { textOf } from './lab-sample.js'

const URL = 'v1/responses'
const POLL_EVERY = 100
const ENDED = new Set(['completed', 'failed', 'incomplete', 'cancelled'])
const DELTA = /^response\.(output_text|refusal|reasoning_text|reasoning|reasoning_summary_text)\.delta$/
const TERMINAL = /^response\.(completed|failed|incomplete)$/

class Refused extends Error {
  constructor(code) {
    super(code)
    this.code = code
  }
}

/** Posts; the load goes behind the page's own questions in the browser's queue. */
async function post(request, rank, signal, headers = {}) {
  headers['Content-Type'] = 'application/json'
  if (rank) headers['X-Hub-Class'] = rank
  const answer = await authorized(URL, { method: 'POST', body: JSON.stringify(request), headers, signal, priority: 'low' })
  if (!answer.ok) throw await refusal(answer)
  return answer
}

async function refusal(answer) {
  const body = await answer.json().catch(() => null)
  return new Refused(body?.error?.code ?? `http_${answer.status}`)
}

async function sync(request, rank, sample, signal) {
  const answer = await post(request, rank, signal)
  sample.ended(await answer.json(), false)
}

async function sse(request, rank, sample, signal) {
  const answer = await post({ ...request, stream: true }, rank, signal)
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader()
  let text = ''
  let at = -1
  let response = null
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    const blocks = (text + read.value).split('\n\n')
    text = blocks.pop()
    for (const block of blocks) {
      const data = block.split('\n').find((line) => line.startsWith('data: '))
      if (!data || data === 'data: [DONE]') continue
      const event = JSON.parse(data.slice(6))
      const tokens = event.sequence_number - at
      at = event.sequence_number
      if (event.delta && DELTA.test(event.type)) sample.text(event.delta, tokens, !event.type.includes('reasoning'))
      if (TERMINAL.test(event.type)) response = event.response
    }
  }
  if (!response) throw new Refused('incomplete_stream')
  sample.ended(response, true)
}

async function poll(request, rank, sample, signal, made) {
  const answer = await post({ ...request, background: true, store: true }, null, signal)
  let response = await answer.json()
  const { id } = response
  made(id)
  let length = 0
  const look = (text) => {
    const more = text.slice(length)
    if (more) sample.text(more, Math.max(1, Math.round(more.length / 4)))
    length = Math.max(length, text.length)
  }
  while (!ENDED.has(response.status)) {
    await pause(POLL_EVERY, signal)
    const again = await authorized(`${URL}/${id}`, { signal, priority: 'low' })
    if (!again.ok) throw await refusal(again)
    response = await again.json()
    look(textOf(response))
  }
  sample.ended(response, true)
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer)
      reject(signal.reason)
    }
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', stop)
      resolve()
    }, ms)
    signal.addEventListener('abort', stop, { once: true })
  })
}

const ASK = { sync, sse, poll }

/** Asks for responses in one mode. What was made in the background is deleted by `close`. */
export class Http {
  #mode
  #rank
  #made = []

  constructor(mode, rank) {
    this.#mode = mode
    this.#rank = rank
  }

  async open() {}

  close() {
    for (const id of this.#made.splice(0)) fetch(`${URL}/${id}`, signed({ method: 'DELETE', priority: 'low' })).catch(() => {})
  }

  /** Resolves when the response has ended, however it did; the sample knows how. */
  async ask(request, sample, signal) {
    sample.sending()
    try {
      await ASK[this.#mode](request, this.#rank, sample, signal, (id) => this.#made.push(id))
    } catch (error) {
      if (signal.aborted) sample.failed('cancelled')
      else sample.failed(error.code && typeof error.code === 'string' ? error.code : 'connection_lost')
    }
  }
}
