/**
 * The chats of this browser: plain data, kept in localStorage, one key per chat so that two tabs
 * do not overwrite each other's. Bounded: the oldest go when there are too many or no room is left.
 *
 * A chat is `{id, hue, title, updated, model, turns}`; a turn is `{prompt, answer}`; an answer is
 * `{id, text, reasoning, status, reason, error, timings, model, responseId}` with status `live`,
 * `completed`, `incomplete`, `cancelled`, `failed` or `interrupted`. Only the last turn's can be live.
 *
 * The text of a live answer is kept to be looked at, never to be gone on from: whoever reads the
 * response takes its text from the server's log, from the first event on. So it does not matter
 * when it was written, or by which tab.
 */

const PREFIX = 'hub.chat.'
const LIMIT = 60
const TITLE_LENGTH = 80
/** The colours by which chats are told apart; style.css has them. */
const HUES = 6
/** Which of two tabs' versions of an answer is the truer one: the server's end beats any other. */
const RANK = { live: 0, interrupted: 1, failed: 1, incomplete: 2, cancelled: 2, completed: 2 }

export class Chats {
  /** Newest first. */
  list = []
  #storage
  #made = 0
  #unsaved = new WeakSet() // chats of which the storage has an older version: there was no room

  /** @param {Storage} storage */
  constructor(storage = localStorage) {
    this.#storage = storage
    for (const key of this.#keys()) {
      const chat = read(storage, key)
      if (!chat) continue
      this.list.push(chat)
      // Without an id there is nothing to resume.
      for (const { answer } of chat.turns) if (isLost(answer)) answer.status = 'interrupted'
    }
    this.#sort()
    this.#made = this.list.length
  }

  get(id) {
    return this.list.find((chat) => chat.id === id)
  }

  /** A new chat, in the list and in the storage from its first prompt on. */
  blank(model = '') {
    return { id: randomId(), hue: this.#made++ % HUES, title: '', updated: 0, model, turns: [] }
  }

  /** Adds a turn; the chat comes first. */
  ask(chat, prompt) {
    const turn = { prompt, answer: blankAnswer() }
    chat.turns.push(turn)
    chat.title ||= title(prompt)
    chat.updated = Date.now()
    if (!this.list.includes(chat)) this.list.push(chat)
    this.#sort()
    return turn
  }

  /**
   * Writes a chat, and drops the oldest others as far as it must.
   * @returns {boolean} false if it cannot be kept
   */
  save(chat) {
    if (!this.list.includes(chat)) return true // deleted in the meantime
    for (const old of this.list.slice(LIMIT)) if (!isLive(old)) this.remove(old)
    const text = JSON.stringify(chat)
    for (;;) {
      try {
        this.#storage.setItem(PREFIX + chat.id, text)
        this.#unsaved.delete(chat)
        return true
      } catch {
        const oldest = this.list.findLast((one) => one !== chat && !isLive(one))
        if (!oldest) {
          this.#unsaved.add(chat)
          return false
        }
        this.remove(oldest)
      }
    }
  }

  /**
   * Takes over what other tabs have made of a chat; before a change, so that none of theirs is lost.
   * @param {?object} own an answer of which only this tab can tell
   * @returns {object[]} the answers that are others now
   */
  sync(chat, own = null) {
    const kept = this.list.includes(chat) && !this.#unsaved.has(chat)
    const theirs = kept && read(this.#storage, PREFIX + chat.id)
    if (!theirs) return []
    const changed = []
    const known = new Map(chat.turns.map((turn) => [turn.answer.id, turn]))
    theirs.turns = theirs.turns.map((turn) => {
      const mine = known.get(turn.answer.id)
      if (mine && mine.answer !== own && isTruer(turn.answer, mine.answer)) {
        Object.assign(mine.answer, turn.answer)
        changed.push(mine.answer)
      }
      return mine ?? turn
    })
    Object.assign(chat, theirs)
    this.#sort()
    return changed
  }

  /**
   * Another tab has written to the storage.
   * @param {string} key of the storage
   * @returns {{chat: ?object, deleted: boolean}} the chat that it is about
   */
  written(key) {
    const id = key?.startsWith(PREFIX) ? key.slice(PREFIX.length) : null
    const known = this.get(id)
    const theirs = id && read(this.#storage, key)
    if (known && !theirs) this.remove(known)
    if (theirs && !known) {
      this.list.push(theirs)
      this.#sort()
    }
    return { chat: known ?? theirs, deleted: Boolean(known && !theirs) }
  }

  remove(chat) {
    this.list = this.list.filter((one) => one !== chat)
    try {
      this.#storage.removeItem(PREFIX + chat.id)
    } catch {
      // Storage is forbidden here: the chats last as long as the page.
    }
  }

  /** Takes a removed chat back. */
  restore(chat) {
    this.list.push(chat)
    this.#sort()
    return this.save(chat)
  }

  #sort() {
    this.list.sort((a, b) => b.updated - a.updated)
  }

  #keys() {
    try {
      return Object.keys(this.#storage).filter((key) => key.startsWith(PREFIX))
    } catch {
      return []
    }
  }
}

export function isLive(chat) {
  return chat.turns.at(-1)?.answer?.status === 'live'
}

export function blankAnswer() {
  const answer = { id: randomId(), text: '', reasoning: '', status: 'live', reason: null, error: null }
  return { ...answer, timings: null, model: null, responseId: null }
}

/** The conversation before a turn, as input items. A turn that got no answer is left out. */
export function history(chat, turn) {
  return chat.turns
    .slice(0, chat.turns.indexOf(turn))
    .filter(({ answer }) => answer?.text)
    .flatMap(({ prompt, answer }) => [
      { role: 'user', content: prompt },
      { role: 'assistant', content: answer.text },
    ])
}

/** The response to go on from, if all that was said is in its chain. */
export function parent(chat, turn) {
  const before = chat.turns.slice(0, chat.turns.indexOf(turn)).filter(({ answer }) => answer?.text)
  const last = before.at(-1)?.answer
  return RANK[last?.status] === 2 ? last.responseId : null
}

function isLost(answer) {
  return answer.status === 'live' && !answer.responseId
}

function isTruer(theirs, mine) {
  if (JSON.stringify(theirs) === JSON.stringify(mine)) return false
  return theirs.responseId !== mine.responseId ? !mine.responseId : RANK[theirs.status] >= RANK[mine.status]
}

/** Not crypto.randomUUID: a hub in the local network has no https. */
function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(8))
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
}

function title(prompt) {
  const line = prompt.trim().split('\n', 1)[0]
  if (line.length <= TITLE_LENGTH) return line
  const cut = line.slice(0, TITLE_LENGTH)
  return `${cut.slice(0, cut.lastIndexOf(' ') + 1 || TITLE_LENGTH).trimEnd()}…`
}

function read(storage, key) {
  try {
    const chat = JSON.parse(storage.getItem(key))
    chat.turns.forEach(({ answer }, i) => (answer.id ??= String(i)))
    return chat.id && typeof chat.title === 'string' ? chat : null
  } catch {
    return null // not ours, or of another version
  }
}
