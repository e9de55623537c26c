/**
 * The chats of this browser: plain data, kept in localStorage, one key per chat so that two tabs
 * do not overwrite each other's. Bounded: the oldest go when there are too many or no room is left.
 *
 * A chat is `{id, hue, title, updated, model, turns}`; a turn is `{prompt, answer}`; an answer is
 * `{text, reasoning, status, reason, error, timings, model, responseId}` with status `live`, `completed`,
 * `incomplete`, `cancelled`, `failed` or `interrupted`.
 */

const PREFIX = 'hub.chat.'
const LIMIT = 60
const TITLE_LENGTH = 80
/** The colours by which chats are told apart; style.css has them. */
const HUES = 6

export class Chats {
  /** Newest first. */
  list = []
  #storage
  #made = 0

  /** @param {Storage} storage */
  constructor(storage = localStorage) {
    this.#storage = storage
    for (const key of this.#keys()) {
      const chat = read(storage, key)
      if (chat) this.list.push(chat)
    }
    this.#sort()
    this.#made = this.list.length
  }

  get(id) {
    return this.list.find((chat) => chat.id === id)
  }

  /** A new chat, in the list and in the storage from its first prompt on. */
  blank(model = '') {
    const bytes = crypto.getRandomValues(new Uint8Array(8))
    const id = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
    return { id, hue: this.#made++ % HUES, title: '', updated: 0, model, turns: [] }
  }

  /** Adds a turn; the chat comes first. */
  ask(chat, prompt) {
    const turn = { prompt, answer: null }
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
        return true
      } catch {
        const oldest = this.list.findLast((one) => one !== chat && !isLive(one))
        if (!oldest) return false
        this.remove(oldest)
      }
    }
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
  return last?.status === 'completed' ? last.responseId : null
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
    const answers = chat.turns.map(({ answer }) => answer)
    for (const answer of answers) if (answer.status === 'live') answer.status = 'interrupted'
    return chat.id && typeof chat.title === 'string' ? chat : null
  } catch {
    return null // not ours, or of another version
  }
}
