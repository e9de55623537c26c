/**
 * The API key of this page, where hub asks for one.
 *
 * It is sent as a header of requests and never in a URL; for a WebSocket, which takes no headers,
 * hub gives a ticket for it. It is kept in this tab's storage, or in this browser's if its owner
 * wants that, from when hub has taken it until hub refuses it. While it is asked for, whatever needs
 * it waits.
 */

import { button, el } from './dom.js'
import { HubError, askTicket } from './hub.js'

const NAME = 'hub.key'
const TICKETS = 'v1/tickets'
const WANTED = 'Whoever runs this hub can give you one.'
const REFUSED = 'hub does not accept this key: it is mistyped, has expired, or was revoked.'
const NO_LONGER = 'hub no longer accepts the key of this page: it has expired or was revoked.'
const UNREACHABLE = 'hub cannot be reached just now. Try again.'
const NO_TEXT = 'That is not a key: it has letters, digits, - and _, without spaces.'

let key = recall()
let asking = null // a promise, while the form is shown
let declined = false

/** The places where a key can be; a browser may refuse either. */
function storages() {
  return ['sessionStorage', 'localStorage'].flatMap((name) => {
    try {
      return [globalThis[name]]
    } catch {
      return []
    }
  })
}

function kept() {
  return storages().map((one) => one.getItem(NAME))
}

function recall() {
  return kept().find(Boolean) ?? null
}

function keep(text, remember) {
  forget()
  key = text
  const [session, local] = storages()
  try {
    ;(remember ? local : session)?.setItem(NAME, text)
  } catch {
    // No room: it lasts as long as the page.
  }
}

/** Forgets the key, in this tab and in this browser. */
export function forget() {
  key = null
  for (const one of storages()) one.removeItem(NAME)
}

/** Whether this page shows hub a key. */
export function held() {
  return key !== null
}

/** Whether hub has asked for a key, and nobody gave one. */
export function wanted() {
  return declined
}

/** The options of a `fetch` with the key, if there is one. */
export function signed(options = {}) {
  return key ? { ...options, headers: { ...options.headers, Authorization: `Bearer ${key}` } } : options
}

/** `fetch` with the key, once hub has got one that it accepts. Rejects as `fetch` does, and with a
 * `HubError` `invalid_api_key` if nobody gives a key. */
export async function authorized(path, options) {
  for (;;) {
    const shown = key
    const answer = await fetch(path, signed(options))
    if (answer.status !== 401) return answer
    await another(shown)
  }
}

/** For the option of that name of `Hub`. Rejects as `authorized` does. */
export async function authorize() {
  for (;;) {
    const shown = key
    try {
      return await askTicket(TICKETS, shown)
    } catch (error) {
      if (error.code !== 'invalid_api_key') throw error
      await another(shown)
    }
  }
}

/** Waits for another key than the one that was refused. */
async function another(refused) {
  if (key !== refused) return // somebody else has waited for it
  const other = kept().find((one) => one && one !== refused)
  if (other) {
    key = other // given to another tab
    return
  }
  if (refused) forget()
  asking ??= ask(refused ? NO_LONGER : '').finally(() => (asking = null))
  await asking
}

/** Shows the form until hub accepts what is in it. */
function ask(complaint) {
  const input = el('input', { id: 'key', type: 'password', autocomplete: 'off', spellcheck: false, required: true, 'aria-describedby': 'key-complaint' })
  input.setAttribute('autocapitalize', 'none')
  const remember = el('input', { type: 'checkbox' })
  const error = el('p', { className: 'note error', id: 'key-complaint', role: 'alert' })
  const send = el('button', { className: 'primary' }, 'Connect')
  const form = el(
    'form',
    { className: 'key-form' },
    el('header', {}, el('h2', { id: 'key-title' }, 'This hub asks for an API key'), button('Not now', 'close', () => dialog.close(), { quiet: true, className: 'ghost' })),
    el('p', { id: 'key-why' }, WANTED),
    error,
    el('label', { htmlFor: 'key' }, 'API key'),
    input,
    el('label', { className: 'remember' }, remember, el('span', {}, 'Remember on this device', el('small', {}, 'Otherwise until this tab is closed.'))),
    send,
  )
  const dialog = el('dialog', { 'aria-labelledby': 'key-title', 'aria-describedby': 'key-why' }, form)
  const before = document.activeElement

  const complain = (text) => {
    error.textContent = text
    error.hidden = !text
    input.setAttribute('aria-invalid', String(Boolean(text)))
  }
  return new Promise((resolve, reject) => {
    let given = false
    const submit = async () => {
      const text = input.value.trim()
      if (!/^[\x21-\x7e]+$/.test(text)) return complain(NO_TEXT)
      complain('')
      send.disabled = true
      send.textContent = 'Connecting…'
      try {
        await askTicket(TICKETS, text)
        given = true
        keep(text, remember.checked)
        dialog.close()
      } catch ({ code }) {
        complain(code === 'invalid_api_key' ? REFUSED : UNREACHABLE)
        input.select()
      } finally {
        send.disabled = false
        send.textContent = 'Connect'
      }
    }
    form.onsubmit = (event) => {
      event.preventDefault()
      if (!send.disabled) submit()
    }
    dialog.onclose = () => {
      input.value = '' // a browser may keep what a removed field holds
      dialog.remove()
      before?.focus?.()
      declined = !given
      if (given) resolve()
      else reject(new HubError('invalid_api_key', 'This hub asks for an API key.', { status: 401 }))
    }
    complain(complaint)
    document.body.append(dialog)
    dialog.showModal()
    input.focus()
  })
}
