/** A pane: one chat on the page, with its conversation and its composer. */

import { AnswerView } from './answer.js'
import { isLive } from './chats.js'
import { announce, el } from './dom.js'

/** How near the end a reader must be for the text to go on pulling them along (px). */
const NEAR = 48
const MAX_ROWS = 10

export class Pane {
  chat = null
  #part = {}
  #stick = true
  #top = 0
  #last = null // the AnswerView of the last turn

  /**
   * @param {object} app what a pane may ask for: `ask`, `retry`, `stop`, `run`, `timings`, `watch`,
   *   `duo`, `split`, `close`, `activate`, `chooseModel`
   */
  constructor(app) {
    this.app = app
    const template = document.getElementById('pane-template')
    this.element = template.content.cloneNode(true).firstElementChild
    const part = (selector) => this.element.querySelector(selector)
    for (const name of ['h2', 'log', 'turns', 'hello', 'latest', 'stop', 'send', 'split', 'close', 'duo']) {
      this.#part[name] = part(name === 'h2' ? name : `.${name}`)
    }
    this.#part.text = part('textarea')
    this.#part.model = part('select')
    this.#listen()
  }

  #listen() {
    const { log, latest, stop, split, close, duo, text, model } = this.#part
    this.element.addEventListener('focusin', () => this.app.activate(this))
    this.element.addEventListener('pointerdown', () => this.app.activate(this))
    this.element.querySelector('form').addEventListener('submit', (event) => {
      event.preventDefault()
      this.#send()
    })
    text.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return
      event.preventDefault()
      this.#send()
    })
    text.addEventListener('input', () => this.#fit())
    log.addEventListener('scroll', () => this.#scrolled(), { passive: true })
    latest.onclick = () => this.toEnd()
    stop.onclick = () => this.app.stop(this.chat)
    split.onclick = () => this.app.split()
    close.onclick = () => this.app.close(this)
    duo.onclick = () => this.app.duo()
    model.onchange = () => this.app.chooseModel(this.chat, model.value)
    for (const example of this.element.querySelectorAll('.example')) {
      example.onclick = () => this.app.ask(this.chat, example.textContent)
    }
    // After layout and before painting: the end is followed without a layout of its own.
    const observer = new ResizeObserver(() => this.#grown())
    observer.observe(log)
    observer.observe(this.#part.turns)
  }

  /** Shows another chat. */
  show(chat) {
    this.chat = chat
    this.#last = null
    this.#stick = true
    this.#part.turns.replaceChildren(...chat.turns.map((turn) => this.#turn(turn)))
    this.#part.model.value = chat.model
    this.refresh()
    this.#grown()
  }

  /** A turn of this chat got a new answer. */
  started(turn) {
    const { turns } = this.#part
    const old = turns.children[this.chat.turns.indexOf(turn)]
    const element = this.#turn(turn)
    if (old) old.replaceWith(element)
    else turns.append(element)
    this.refresh()
    this.toEnd()
  }

  /** Title, buttons and the greeting, as the chat is now. */
  refresh() {
    const { chat } = this
    const { h2, hello, stop, send } = this.#part
    const live = isLive(chat)
    const title = chat.title || 'New chat'
    h2.textContent = title
    this.element.setAttribute('aria-label', title)
    this.element.dataset.hue = chat.hue
    this.element.toggleAttribute('data-live', live)
    hello.hidden = chat.turns.length > 0
    stop.hidden = !live
    send.hidden = live
  }

  /** @param {string[]} models ids; the empty one is the server's default */
  offer(models) {
    const { model } = this.#part
    const known = this.chat && !models.includes(this.chat.model) ? [...models, this.chat.model] : models
    model.replaceChildren(...known.map((id) => el('option', { value: id }, id || 'Default model')))
    model.value = this.chat?.model ?? ''
  }

  focus() {
    // A focus on a touch screen opens the keyboard: only the reader's finger may do that.
    if (matchMedia('(hover: hover)').matches) this.#part.text.focus({ preventScroll: true })
  }

  copyLast() {
    this.#last?.copy.click()
  }

  toEnd() {
    this.#stick = true
    this.#grown()
  }

  #send() {
    const { text } = this.#part
    const prompt = text.value.trim()
    if (!prompt) return
    if (!this.app.ask(this.chat, prompt)) {
      announce('This chat is still answering. Escape stops it.')
      return
    }
    text.value = ''
    this.#fit()
  }

  #turn(turn) {
    const { chat } = this
    const view = new AnswerView(turn.answer, {
      retry: () => this.app.retry(chat),
      run: () => this.app.run(chat),
      timings: () => this.app.timings(chat),
    })
    this.app.watch(turn.answer, view)
    this.#last = view
    return el(
      'article',
      { className: 'turn' },
      el('h3', { className: 'unseen' }, 'You'),
      el('p', { className: 'prompt' }, turn.prompt),
      el('h3', { className: 'unseen' }, 'Answer'),
      view.element,
    )
  }

  /** The log has grown or changed its size: a reader at the end stays at the end. */
  #grown() {
    const { log } = this.#part
    if (this.#stick) log.scrollTop = log.scrollHeight
    this.#part.latest.hidden = this.#stick
  }

  /** Only a move upwards lets go of the end: text that grows below a reader is no such wish. */
  #scrolled() {
    const { log, latest } = this.#part
    const near = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR
    if (near) this.#stick = true
    else if (log.scrollTop < this.#top) this.#stick = false
    this.#top = log.scrollTop
    latest.hidden = this.#stick
  }

  /** The composer is as high as its text. */
  #fit() {
    const { text } = this.#part
    if (CSS.supports('field-sizing', 'content')) return
    text.rows = Math.min(text.value.split('\n').length, MAX_ROWS)
  }
}
