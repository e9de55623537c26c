/**
 * Where chats and the hub meet: asking, retrying and stopping, and what comes of each; also of what
 * another tab does, or did before a reload.
 *
 * A live answer is read by every tab that has its chat: by the one that asked as it comes, by the
 * others with a resume from the first event. Whatever a tab changes it writes on top of what the
 * others have written; a `storage` event tells them.
 */

import { blankAnswer, history, isLive, parent } from './chats.js'
import { signed } from './keys.js'

export class Talks {
  #hub
  #chats
  #changed
  #readings = new Map() // chat -> {run, turn, before}: of its last turn, while it is read here
  #views = new WeakMap() // answer -> its AnswerView, where it is on the page

  /**
   * @param {import('./hub.js').Hub} hub
   * @param {import('./chats.js').Chats} chats
   * @param {(chat: object, turn: object, what: 'started'|'ended'|'followed'|'replaced') => void} changed
   *   `followed`: another tab has changed it; `replaced`: its turns are others than before
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
    return this.#readings.get(chat)?.run
  }

  /** What this page has measured of the answer that it reads. Before a reload it has seen more. */
  timings(chat) {
    const { run, before } = this.#readings.get(chat)
    const { timings } = run
    return { ...timings, ttft: timings.ttft ?? before?.ttft ?? null }
  }

  /** Goes on with what was live when the page went, or is live in another tab. */
  begin() {
    for (const chat of this.#chats.list) this.#join(chat)
  }

  /** @returns {boolean} false if the chat is still answering */
  ask(chat, prompt) {
    this.#sync(chat)
    if (isLive(chat)) return false
    this.#start(chat, this.#chats.ask(chat, prompt))
    return true
  }

  /** Asks the last prompt again, in place of its answer. */
  retry(chat) {
    this.#sync(chat)
    const old = chat.turns.at(-1)
    if (!old || isLive(chat)) return
    forget([old])
    const turn = { ...old, answer: blankAnswer() }
    chat.turns.splice(-1, 1, turn)
    this.#start(chat, turn)
  }

  stop(chat) {
    this.#sync(chat)
    if (!isLive(chat)) return
    const turn = chat.turns.at(-1)
    const run = this.run(chat)
    if (run) {
      run.cancel()
      this.#views.get(turn.answer)?.update()
    } else {
      // Another tab has not sent it yet: it finds this, and does not.
      turn.answer.status = 'cancelled'
      this.#end(chat, turn)
    }
  }

  /** Another tab has written this chat. */
  follow(chat) {
    this.#sync(chat)
    this.#changed(chat, chat.turns.at(-1), 'followed')
  }

  /** Stops it and has the server forget it, too. */
  remove(chat) {
    this.run(chat)?.cancel()
    this.#chats.remove(chat)
    forget(chat.turns)
  }

  /** Keeps what has come so far, to look at until it is read again. `leaving`: the page goes. */
  saveLive({ leaving = false } = {}) {
    for (const [chat, { run, turn }] of [...this.#readings]) {
      this.#sync(chat)
      if (this.run(chat) !== run) continue
      turn.answer.timings = this.timings(chat)
      if (leaving && !run.id) turn.answer.status = 'interrupted' // nobody will know its id
      this.#chats.save(chat)
    }
  }

  /** Takes over what other tabs have made of the chat. */
  #sync(chat) {
    const { turns } = chat
    const reading = this.#readings.get(chat)
    // Only who reads a response knows of its end; but before it has an id another tab may stop it.
    const own = reading?.run.id ? reading.turn.answer : null
    for (const answer of this.#chats.sync(chat, own)) this.#views.get(answer)?.reset()
    if (reading && !(chat.turns.includes(reading.turn) && isLive(chat))) {
      this.#readings.delete(chat)
      reading.run.cancel()
    }
    this.#join(chat)
    const same = turns.length === chat.turns.length && turns.every((turn, i) => turn === chat.turns[i])
    if (!same) this.#changed(chat, chat.turns.at(-1), 'replaced')
  }

  #start(chat, turn) {
    const request = {
      model: chat.model || undefined,
      input: turn.prompt,
      history: history(chat, turn),
      previous_response_id: parent(chat, turn) ?? undefined,
      store: true, // it goes on while the page is loaded again, and for other tabs
    }
    this.#read(chat, turn, (handlers) => this.#hub.create(request, handlers))
    this.#chats.save(chat)
    this.#changed(chat, turn, 'started')
  }

  /** Reads an answer that another tab has asked for, or this one before it was loaded again. */
  #join(chat) {
    const turn = chat.turns.at(-1)
    if (!isLive(chat) || !turn.answer.responseId || this.#readings.has(chat)) return
    this.#read(chat, turn, (handlers) => this.#hub.resume(turn.answer.responseId, {}, handlers))
  }

  #read(chat, turn, begin) {
    const { answer } = turn
    const joined = Boolean(answer.responseId)
    let stale = joined // what is there was read by somebody else: it goes as soon as there is news
    const add = (text, kind) => {
      if (stale) clear()
      answer[kind] += text
      this.#views.get(answer)?.push(text, kind)
    }
    const clear = () => {
      stale = false
      answer.text = answer.reasoning = ''
      this.#views.get(answer)?.reset()
    }
    const run = begin({
      onDelta: add,
      onState: () => this.#views.get(answer)?.update(),
      onEvent: () => {
        if (answer.responseId) return
        answer.responseId = run.id
        this.#sync(chat)
        if (this.run(chat) === run) this.#chats.save(chat) // now other tabs can join
      },
    })
    const settle = (outcome) => {
      this.#sync(chat)
      if (this.run(chat) !== run) return // another tab has put another answer in its place
      Object.assign(answer, { timings: this.timings(chat), model: run.model, responseId: run.id })
      outcome()
      this.#readings.delete(chat)
      if (joined) this.#sync(chat) // the tab that asked has measured more
      this.#end(chat, turn)
    }
    run.done.then(
      (response) =>
        settle(() => {
          if (stale) clear()
          succeed(answer, response, add)
        }),
      (error) => settle(() => fail(answer, error)),
    )
    this.#readings.set(chat, { run, turn, before: answer.timings })
  }

  #end(chat, turn) {
    this.#chats.save(chat)
    this.#views.get(turn.answer)?.update()
    this.#changed(chat, turn, 'ended')
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
  const keyless = code === 'invalid_api_key' && answer.responseId
  if (code === 'connection_lost' || code === 'response_not_found' || keyless) {
    answer.status = 'interrupted'
    return
  }
  answer.status = 'failed'
  answer.error = { code: code ?? 'error', message, status, retryAt: retryAfter && Date.now() + retryAfter }
}

/** The server keeps no answer that no chat has any more. */
function forget(turns) {
  const ids = turns.map(({ answer }) => answer.responseId).filter(Boolean)
  for (const id of ids) fetch(`v1/responses/${id}`, signed({ method: 'DELETE', keepalive: true })).catch(() => {})
}
