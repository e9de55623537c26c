/** The page: puts the hub, the chats, the panes and the sidebar together. */

import { Chats, isLive } from './chats.js'
import { announce, button, countDown, el } from './dom.js'
import { Hub } from './hub.js'
import { authorize, authorized, forget, held, wanted } from './keys.js'
import { Pane } from './pane.js'
import { Talks } from './talks.js'

const DUO = [
  'Explain to a curious reader how tokens are streamed from a model to a browser.',
  'Write a short story about a lighthouse keeper who answers letters from ships.',
]
const MODEL_KEY = 'hub.model'
const OPEN_KEY = 'hub.open'
const UNDO_TIME = 8000

const $ = (id) => document.getElementById(id)
const hub = new Hub('v1/responses', { authorize })
const chats = new Chats()
const talks = new Talks(hub, chats, changed)
const unread = new Set()
const panes = []
let active = null
let models = ['']

const app = {
  ask: (chat, prompt) => talks.ask(chat, prompt),
  retry: (chat) => talks.retry(chat),
  stop: (chat) => talks.stop(chat),
  run: (chat) => talks.run(chat),
  timings: (chat) => talks.timings(chat),
  watch: (answer, view) => talks.watch(answer, view),
  duo,
  split,
  close: closePane,
  activate,
  chooseModel(chat, model) {
    chat.model = model
    chats.save(chat)
    remember(localStorage, MODEL_KEY, model)
  },
}

// ── Panes ───────────────────────────────────────────────────────────────────────────────────────

function addPane(chat) {
  const pane = new Pane(app)
  panes.push(pane)
  $('panes').append(pane.element)
  pane.show(chat)
  pane.offer(models)
  arrange()
  return pane
}

function closePane(pane) {
  if (panes.length < 2) return
  panes.splice(panes.indexOf(pane), 1)
  pane.element.remove()
  active = null
  activate(panes[0])
  arrange()
  panes[0].focus()
}

function arrange() {
  $('panes').dataset.count = panes.length
  remember(sessionStorage, OPEN_KEY, JSON.stringify(panes.map((pane) => pane.chat.id)))
}

/** The pane that the sidebar and the shortcuts speak of. */
function activate(pane) {
  if (pane === active) return
  active = pane
  for (const one of panes) one.element.toggleAttribute('data-active', one === pane)
  seen()
}

function paneOf(chat) {
  return panes.find((pane) => pane.chat === chat)
}

function open(chat) {
  const there = paneOf(chat)
  if (there) activate(there)
  else active.show(chat)
  active.offer(models)
  closeSidebar()
  arrange()
  seen()
  active.focus()
}

function newChat() {
  const empty = active.chat.turns.length === 0
  open(empty ? active.chat : chats.blank(recall(localStorage, MODEL_KEY) ?? ''))
}

/** Two chats side by side, or only the active one again. */
function split() {
  if (panes.length > 1) {
    closePane(panes.find((pane) => pane !== active))
    return
  }
  const other = chats.list.find((chat) => chat !== active.chat)
  activate(addPane(other ?? chats.blank(active.chat.model)))
  active.focus()
}

/** The two example chats, started in the same moment on one connection. */
function duo() {
  if (panes.length < 2) addPane(chats.blank(active.chat.model))
  for (const pane of panes) if (pane.chat.turns.length) pane.show(chats.blank(pane.chat.model))
  panes.forEach((pane, i) => talks.ask(pane.chat, DUO[i]))
  arrange()
  panes[0].focus()
}

function step(by) {
  const others = chats.list.filter((chat) => chat === active.chat || !paneOf(chat))
  const at = others.indexOf(active.chat)
  const next = others[at < 0 ? 0 : at + by]
  if (next) open(next)
}

// ── What becomes of answers ─────────────────────────────────────────────────────────────────────

function changed(chat, turn, what) {
  const pane = paneOf(chat)
  if (what === 'started') pane?.started(turn)
  else if (what === 'replaced') pane?.show(chat)
  else pane?.refresh()
  if (what === 'ended' && chats.list.includes(chat)) {
    if (pane !== active || document.hidden) unread.add(chat)
    announce(`${ENDS[turn.answer.status] ?? 'Answer ended'}: ${chat.title}`)
  }
  seen()
}

const ENDS = {
  completed: 'Answer complete',
  cancelled: 'Answer stopped',
  failed: 'Answer failed',
  interrupted: 'Answer interrupted',
}

/** Draws the sidebar and the titles; what is on the page has been seen. */
function seen() {
  if (!document.hidden) for (const pane of panes) unread.delete(pane.chat)
  const title = active?.chat.title || 'New chat'
  const live = chats.list.filter(isLive).length
  $('topbar-title').textContent = title
  $('menu').toggleAttribute('data-live', chats.list.some((chat) => chat !== active?.chat && isLive(chat)))
  document.title = `${live ? `(${live}) ` : ''}${active?.chat.title ? `${title} – ` : ''}hub`
  const items = chats.list.map(row)
  const list = $('list')
  // A list that is put together anew takes the focus from whoever is in it: only if it must.
  const same = items.length === list.children.length && items.every((item, i) => item === list.children[i])
  if (!same) list.replaceChildren(...items)
}

const rows = new WeakMap() // chat -> its <li>

function row(chat) {
  if (!rows.has(chat)) rows.set(chat, makeRow(chat))
  const item = rows.get(chat)
  const state = isLive(chat) ? 'streaming' : unread.has(chat) ? 'new answer' : ''
  const shown = paneOf(chat) ? (chat === active?.chat ? 'page' : 'true') : 'false'
  item.dataset.state = state
  item.querySelector('.chat').setAttribute('aria-current', shown)
  item.querySelector('.unseen').textContent = state && `, ${state}`
  return item
}

function makeRow(chat) {
  return el(
    'li',
    { data: { hue: chat.hue } },
    el(
      'button',
      { type: 'button', className: 'chat', title: chat.title, onclick: () => open(chat) },
      el('span', { className: 'dot', 'aria-hidden': 'true' }),
      el('span', { className: 'name' }, chat.title),
      el('span', { className: 'unseen' }),
    ),
    button(`Delete “${chat.title}”`, 'trash', () => remove(chat), { quiet: true, className: 'ghost' }),
  )
}

let undoTimer
function remove(chat) {
  const at = chats.list.indexOf(chat)
  talks.remove(chat)
  gone(chat)
  const neighbours = $('list').querySelectorAll('.chat')
  ;(neighbours[Math.min(at, neighbours.length - 1)] ?? $('new')).focus()
  toast(`Deleted “${chat.title}”`, () => {
    chats.restore(chat)
    open(chat)
  })
}

/** A chat was deleted, here or in another tab. */
function gone(chat) {
  unread.delete(chat)
  paneOf(chat)?.show(chats.blank(chat.model))
  arrange()
  seen()
}

function toast(text, undo) {
  $('toast-text').textContent = text
  announce(text)
  $('toast-undo').hidden = !undo
  $('toast-undo').onclick = () => {
    $('toast').hidden = true
    undo()
  }
  $('toast').hidden = false
  clearTimeout(undoTimer)
  undoTimer = setTimeout(() => ($('toast').hidden = true), UNDO_TIME)
}

// ── The connection ──────────────────────────────────────────────────────────────────────────────

const STATES = {
  connecting: ['Connecting', 'Connecting to hub'],
  open: ['Connected', ''],
  waiting: ['Reconnecting', 'No connection to hub'],
  closed: ['Disconnected', 'hub closed the connection'],
}

const KEYLESS = ['No key', 'This hub asks for an API key']

function connectionChanged() {
  const { state, attempt, reason } = hub.status
  const keyless = state === 'closed' && wanted()
  const [short, long] = keyless ? KEYLESS : STATES[state]
  const trouble = state === 'closed' || state === 'waiting' || attempt > 1
  const before = $('connection').dataset.state
  $('connection').dataset.state = state
  $('connection-text').textContent = short
  $('banner').hidden = state === 'open' || !trouble
  $('banner-text').textContent = reason && !keyless ? `${long}: ${reason}.` : `${long}.`
  $('reconnect').textContent = keyless ? 'Enter the key' : state === 'closed' ? 'Reconnect' : 'Try now'
  $('reconnect').hidden = state === 'connecting'
  if (state === 'open') {
    loadModels()
    if (attempt > 0) announce('Connected again')
  } else if (trouble && before === 'open') {
    announce(`${long}. ${short}.`)
  }
  tick()
}

/** What is counted down on the page, once a second. */
function tick() {
  const { state, retryAt } = hub.status
  const wait = Math.max(0, Math.ceil((retryAt - performance.now()) / 1000))
  $('banner-when').textContent = state === 'waiting' ? `Next try in ${wait} s.` : ''
  document.querySelectorAll('[data-at]').forEach(countDown)
}

async function loadModels() {
  try {
    const { data } = await (await authorized('v1/models')).json()
    models = ['', ...data.map(({ id }) => id)]
  } catch {
    return // the default model needs no list
  }
  for (const pane of panes) pane.offer(models)
}

// ── Sidebar, shortcuts, storage ─────────────────────────────────────────────────────────────────

function openSidebar() {
  document.body.dataset.sidebar = 'open'
  $('menu').setAttribute('aria-expanded', 'true')
  $('main').inert = true
  $('new').focus()
}

function closeSidebar() {
  if (!document.body.dataset.sidebar) return
  delete document.body.dataset.sidebar
  $('menu').setAttribute('aria-expanded', 'false')
  $('main').inert = false
  $('menu').focus()
}

/** With Alt, by the key's place: on a Mac, Alt and a letter write another character. */
const SHORTCUTS = {
  KeyN: newChat,
  ArrowUp: () => step(-1),
  ArrowDown: () => step(1),
  KeyS: split,
  KeyJ: () => {
    activate(panes.find((pane) => pane !== active) ?? active)
    active.focus()
  },
  KeyR: () => talks.retry(active.chat),
  KeyC: () => active.copyLast(),
  Slash: () => {
    $('key-held').hidden = !held()
    $('help').showModal()
  },
}

addEventListener('keydown', (event) => {
  if (document.querySelector('dialog[open]') || event.isComposing) return
  const writing = event.target.closest?.('textarea, select, input')
  const plain = !event.ctrlKey && !event.metaKey && !event.altKey
  let act
  if (event.altKey && !event.ctrlKey && !event.metaKey && !event.shiftKey) act = SHORTCUTS[event.code]
  else if (event.key === 'Escape') act = document.body.dataset.sidebar ? closeSidebar : () => talks.stop(active.chat)
  else if (plain && !writing && event.key === '?') act = SHORTCUTS.Slash
  else if (plain && !writing && event.key === '/') act = () => active.focus()
  if (!act) return
  event.preventDefault()
  act()
})

/** Private windows and full disks refuse to store: the page works without. */
function remember(storage, key, value) {
  try {
    storage.setItem(key, value)
  } catch {
    // Then it is not remembered.
  }
}

function recall(storage, key) {
  try {
    return storage.getItem(key)
  } catch {
    return null
  }
}

function restorePanes() {
  let ids = []
  try {
    ids = JSON.parse(recall(sessionStorage, OPEN_KEY)) ?? []
  } catch {
    // Not ours.
  }
  const found = ids.map((id) => chats.get(id)).filter(Boolean)
  const first = found[0] ?? chats.blank(recall(localStorage, MODEL_KEY) ?? '')
  activate(addPane(first))
  if (found[1]) addPane(found[1])
}

$('new').onclick = newChat
$('topbar-new').onclick = newChat
$('menu').onclick = openSidebar
$('scrim').onclick = closeSidebar
$('help-open').onclick = SHORTCUTS.Slash
$('key-forget').onclick = () => {
  forget()
  location.reload()
}
$('reconnect').onclick = () => hub.connect()
hub.addEventListener('status', connectionChanged)
hub.addEventListener('error', ({ detail }) => toast(`${detail.code}: ${detail.message}`))
document.addEventListener('visibilitychange', () => {
  if (document.hidden) talks.saveLive()
  else seen()
})
addEventListener('pagehide', () => talks.saveLive({ leaving: true }))
// A page that comes back as it was has missed what other tabs did.
addEventListener('pageshow', ({ persisted }) => persisted && location.reload())
addEventListener('storage', ({ key }) => {
  const { chat, deleted } = chats.written(key)
  if (deleted) gone(chat)
  else if (chat) talks.follow(chat)
})
setInterval(tick, 1000)

restorePanes()
talks.begin()
connectionChanged()
active.focus()
