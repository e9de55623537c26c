/** The form: the settings of the next run, the URL that carries them, and the server's two. */

import { FIELDS, INITIAL, classes, fromFragment, parse, toFragment } from './lab-settings.js'

const OWN = ['batch', 'flush'] // the server's

/** What shows a field only where it means something. */
const RELEVANT = {
  concurrency: ({ loop }) => loop === 'closed',
  rate: ({ loop }) => loop === 'open',
  arrivals: ({ loop }) => loop === 'open',
  requests: ({ until }) => until === 'requests',
  seconds: ({ until }) => until === 'seconds',
}
const NOTES = {
  ws: 'Every response has a lane; 16 lanes to a WebSocket, and as many WebSockets as it takes.',
  sse: 'A browser opens about 6 HTTP/1.1 connections to a host, and one is for the live figures: beyond 5 at a time, requests wait in the browser. That wait is in TTFT.',
  sync: 'The answer comes whole, so its TTFT is its total. A browser opens about 6 HTTP/1.1 connections to a host: beyond 5 at a time, requests wait in the browser.',
  poll: 'Queued with background: true, then polled every 100 ms; TTFT is the first poll with text. The polls share about 6 connections.',
}

/** Events: `run` when it is to run. */
export class Form extends EventTarget {
  #form
  #asked = {} // what the URL asked of the server's settings
  #server = null // {batch, flush, changeable}

  constructor(form) {
    super()
    this.#form = form
    for (const [name, { least, most, whole }] of Object.entries(FIELDS)) {
      const { type } = this.#form.elements[name]
      if (type === 'number') Object.assign(this.#form.elements[name], { min: least, max: most, step: whole ? 1 : 'any', required: true })
    }
    this.fill({ ...INITIAL, ...fromFragment(location.hash) }, { share: false })
    this.#asked = fromFragment(location.hash)
    form.addEventListener('input', () => this.#changed())
    form.addEventListener('submit', (event) => {
      event.preventDefault()
      if (form.reportValidity()) this.dispatchEvent(new Event('run'))
    })
    addEventListener('hashchange', () => this.link(fromFragment(location.hash)))
  }

  /** The settings of a link, over what is there. */
  link(asked) {
    this.#asked = { ...this.#asked, ...asked }
    this.fill({ ...this.settings, ...asked })
    this.#own()
  }

  /** @returns {object} as they are in the form; what is not valid there is what it was at first */
  get settings() {
    const read = (name) => parse(name, this.#form.elements[name].value) ?? INITIAL[name]
    return Object.fromEntries(Object.keys(FIELDS).map((name) => [name, read(name)]))
  }

  fill(settings, { share = true } = {}) {
    for (const [name, value] of Object.entries(settings)) {
      const input = this.#form.elements[name]
      if (name === 'model' && value && ![...input.options].some((one) => one.value === value)) input.add(new Option(value))
      if (!OWN.includes(name) || this.#server?.changeable !== false) input.value = value
    }
    this.#arrange()
    if (share) this.#share()
  }

  /** What the server goes by, as `/lab/settings` says. A link's wish stays where it can be granted. */
  serve({ batch_size: batch, flush_interval_ms: flush, changeable }) {
    const first = this.#server === null
    this.#server = { batch, flush, changeable }
    for (const name of OWN) {
      const wished = first && changeable ? this.#asked[name] : undefined
      Object.assign(this.#form.elements[name], { readOnly: !changeable, value: wished ?? this.#server[name] })
    }
    this.#own()
  }

  /** The server does not tell, since this key is none of an administrator. */
  deny() {
    for (const name of OWN) Object.assign(this.#form.elements[name], { readOnly: true, value: '' })
    this.#form.querySelector('#server-note').textContent = 'Only a key that was created with --admin sees and changes them.'
  }

  /** What the next run wants of the server, null where that cannot be had. It is asked for always:
   * somebody else may have changed it since. */
  get wanted() {
    const { batch, flush } = this.settings
    return this.#server?.changeable ? { batch_size: batch, flush_interval_ms: flush } : null
  }

  offer(models) {
    const { model } = this.#form.elements
    for (const name of models) if (![...model.options].some((one) => one.value === name)) model.add(new Option(name))
  }

  #changed() {
    this.#arrange()
    this.#share()
  }

  #share() {
    history.replaceState(null, '', toFragment(this.settings))
  }

  #arrange() {
    const settings = this.settings
    for (const [name, holds] of Object.entries(RELEVANT)) {
      const input = this.#form.elements[name]
      input.closest('.field').hidden = input.disabled = !holds(settings)
    }
    const allowed = classes(settings.mode)
    const { class: rank } = this.#form.elements
    for (const option of rank.options) option.disabled = !allowed.includes(option.value)
    if (!allowed.includes(rank.value)) rank.value = allowed[0]
    this.#form.querySelector('#mode-note').textContent = NOTES[settings.mode]
  }

  #own() {
    const { changeable } = this.#server ?? {}
    const differs = OWN.some((name) => this.#asked[name] !== undefined && this.#asked[name] !== this.#server?.[name])
    const note = this.#form.querySelector('#server-note')
    if (changeable) note.textContent = 'Run applies them to the whole server, for chat and background; completions never wait.'
    else note.textContent = `As this server has them. Start hub with --lab to change them here.${differs ? ' The link asks for other values.' : ''}`
  }
}

