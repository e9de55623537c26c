/** Where chats and the hub meet: asking, retrying and stopping, and what comes of each. */

import { history, isLive, parent } from './chats.js'

export class Talks {
  #hub
  #chats
  #changed
  #runs = new Map() // chat -> the run of its last turn, while it lives
  #views = new WeakMap() // answer -> its AnswerView, where it is on the page

  /**
   * @param {import('./hub.js').Hub} hub
   * @param {import('./chats.js').Chats} chats
   * @param {(chat: object, turn: object, what: 'started'|'ended') => void} changed
   */
  constructor(hub, chats, changed) {
    this.#hub = hub
    this.#chats = chats
    this.#changed = changed
  }

  /** From now on this view is told what its answer gets. */
  watch(answer, view) {
    this.#views.set(answer, view)
  }

  run(chat) {
    return this.#runs.get(chat)
  }

  ask(chat, prompt) {
    if (!isLive(chat)) this.#start(chat, this.#chats.ask(chat, prompt))
  }

  /** Asks the last prompt again, in place of its answer. */
  retry(chat) {
    if (!isLive(chat) && chat.turns.length) this.#start(chat, chat.turns.at(-1))
  }

  stop(chat) {
    this.#runs.get(chat)?.cancel()
    this.#views.get(chat.turns.at(-1)?.answer)?.update()
  }

  /** Keeps what has come so far: the page may be about to go. */
  saveLive() {
    for (const chat of this.#runs.keys()) this.#chats.save(chat)
  }

  #start(chat, turn) {
    const answer = { text: '', reasoning: '', status: 'live', reason: null, error: null }
    Object.assign(answer, { timings: null, model: null, responseId: null })
    turn.answer = answer
    const add = (text, kind) => {
      answer[kind] += text
      this.#views.get(answer)?.push(text, kind)
    }
    const request = {
      model: chat.model || undefined,
      input: turn.prompt,
      history: history(chat, turn),
      previous_response_id: parent(chat, turn) ?? undefined,
      store: false, // the chat lives in this browser, not in the server
    }
    const run = this.#hub.create(request, { onDelta: add, onState: () => this.#views.get(answer)?.update() })
    this.#runs.set(chat, run)
    run.done
      .then(
        (response) => succeed(answer, response, add),
        (error) => fail(answer, error),
      )
      .then(() => {
        Object.assign(answer, { timings: run.timings, model: run.model, responseId: run.id })
        this.#runs.delete(chat)
        this.#chats.save(chat)
        this.#views.get(answer)?.update()
        this.#changed(chat, turn, 'ended')
      })
    this.#chats.save(chat)
    this.#changed(chat, turn, 'started')
  }
}

function succeed(answer, response, add) {
  answer.status = response.status
  answer.reason = response.incomplete_details?.reason ?? null
  if (answer.text) return
  // A server may send the whole text at the end only.
  const parts = response.output.flatMap((item) => (item.type === 'message' ? item.content : []))
  add(parts.map((part) => part.text ?? part.refusal ?? '').join(''), 'text')
}

function fail(answer, { code, message, status, retryAfter }) {
  if (code === 'connection_lost') {
    answer.status = 'interrupted'
    return
  }
  answer.status = 'failed'
  answer.error = { code: code ?? 'error', message, status, retryAt: retryAfter && Date.now() + retryAfter }
}
