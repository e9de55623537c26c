/** One answer on the page: its reasoning, text, metrics, error and buttons. */

import { button, copy, countDown, el, milliseconds, nextFrame, number } from './dom.js'
import { TextView } from './text.js'

const PROGRESS = {
  waiting: 'Waiting to be sent',
  queued: 'Waiting in the queue',
  running: 'Waiting for the first token',
  resuming: 'Interrupted. Goes on when hub can be reached.',
}
const ENDINGS = {
  cancelled: 'Stopped.',
  incomplete: 'Cut off.',
  interrupted: 'Interrupted before the end.',
}
const REASONS = {
  max_output_tokens: 'Cut off: the limit of output tokens was reached.',
  content_filter: 'Cut off by a content filter.',
}

export class AnswerView {
  /**
   * @param {object} answer shown as it is now; from here on `push`, `update` and `reset` tell what is new
   * @param {{retry: () => void, run: () => (import('./hub.js').Run|undefined), timings: () => object}} on
   */
  constructor(answer, on) {
    this.answer = answer
    this.on = on
    this.draw = () => this.#draw()
    this.body = el('div', { className: 'text' })
    this.thought = el('div', { className: 'text' })
    this.summary = el('summary', {}, 'Reasoning')
    this.reasoning = el('details', { className: 'reasoning', hidden: true }, this.summary, this.thought)
    this.summary.onclick = () => (this.opened = true) // from now on the reader decides
    this.progress = el('p', { className: 'progress', hidden: true }, el('span', {}, ''))
    this.note = el('div', { className: 'note', hidden: true })
    this.metrics = el('dl', { className: 'metrics' })
    this.values = {}
    for (const [name, label, title] of [
      ['ttft', 'TTFT', 'Time to first token: from sending to the first text, as this page saw it'],
      ['rate', 'Speed', 'Output tokens per second, from the first to the last'],
      ['total', 'Total', 'From sending to the end of the answer'],
      ['tokens', 'Tokens', 'Output tokens'],
      ['resumed', 'Interruption', 'Part of it was read after an interruption, all at once: so it has no speed'],
    ]) {
      this.values[name] = el('dd', {}, '–')
      const plain = name === 'rate' || name === 'resumed' // the value says it
      const term = el('dt', { className: plain ? 'unseen' : '' }, label)
      this.metrics.append(el('div', { title, className: name }, term, this.values[name]))
    }
    this.copy = button('Copy answer', 'copy', () => copy(answer.text, this.copy), { quiet: true, className: 'ghost' })
    this.retry = button('Try again', 'retry', on.retry, { quiet: true, className: 'ghost' })
    this.model = el('span', { className: 'model' })
    const actions = el('span', { className: 'actions' }, this.copy, this.retry)
    this.footer = el('footer', {}, this.metrics, this.model, actions)
    this.element = el('div', { className: 'answer' }, this.reasoning, this.body, this.progress, this.note, this.footer)
    this.reset()
  }

  /** The answer is another one. */
  reset() {
    const { text, reasoning } = this.answer
    for (const part of [this.body, this.thought]) part.replaceChildren()
    this.views = { text: new TextView(this.body, codeBlock), reasoning: new TextView(this.thought, codeBlock) }
    this.pending = { text, reasoning }
    this.note.hidden = true
    this.#draw()
  }

  /** New text; it is drawn with the next frame. */
  push(text, kind) {
    this.pending[kind] += text
    nextFrame(this.draw)
  }

  /** Something else of the answer has changed. */
  update() {
    nextFrame(this.draw)
  }

  #draw() {
    const { answer } = this
    const live = answer.status === 'live'
    for (const [kind, view] of Object.entries(this.views)) {
      if (this.pending[kind]) view.write(this.pending[kind])
      this.pending[kind] = ''
      if (!live) view.end()
    }
    const run = this.on.run()
    this.#reasoning(live)
    const resuming = run?.state === 'resuming'
    this.progress.hidden = !live || (Boolean(answer.text || answer.reasoning) && !resuming)
    this.progress.firstChild.textContent = this.#progress(run)
    this.element.dataset.status = answer.status
    this.body.classList.toggle('streaming', live && Boolean(answer.text) && !resuming)
    this.#metrics(live && run ? this.on.timings() : answer.timings)
    this.model.textContent = answer.model ?? ''
    this.copy.hidden = live || !answer.text
    this.#note(live)
    this.retry.hidden = live || Boolean(this.note.querySelector('button'))
    this.footer.hidden = this.metrics.hidden && this.retry.hidden
  }

  #progress(run) {
    if (!run) return 'Waiting in another tab'
    return run.cancelled ? 'Stopping' : (PROGRESS[run.state] ?? '')
  }

  #reasoning(live) {
    const { answer } = this
    this.reasoning.hidden = !answer.reasoning
    const thinking = live && !answer.text
    this.summary.textContent = thinking ? 'Reasoning…' : 'Reasoning'
    if (!this.opened) this.reasoning.open = thinking
  }

  #metrics(timings) {
    this.metrics.hidden = !timings || (timings.tokens === null && this.answer.status !== 'live')
    if (!timings) return
    this.values.ttft.textContent = milliseconds(timings.ttft)
    this.values.rate.textContent = timings.tokensPerSecond === null ? '–' : `${number(timings.tokensPerSecond)} tok/s`
    this.values.total.textContent = milliseconds(timings.total)
    this.values.tokens.textContent = number(timings.tokens, 0)
    this.values.resumed.textContent = 'resumed'
    this.values.resumed.parentElement.hidden = !timings.resumed
    this.values.rate.parentElement.hidden = Boolean(timings.resumed)
  }

  /** What went wrong, in the answer's place. */
  #note(live) {
    const { status, error, reason } = this.answer
    const text = error ? error.message : (REASONS[reason] ?? ENDINGS[status])
    if (live || !text) {
      this.note.hidden = true
      return
    }
    if (!this.note.hidden) return
    this.note.hidden = false
    this.note.className = error ? 'note error' : 'note'
    const wait = el('p', { className: 'wait', data: { at: error?.retryAt ?? '' } })
    countDown(wait)
    this.note.replaceChildren(
      error ? el('p', {}, el('code', {}, error.code), error.status ? ` ${error.status}` : '') : '',
      el('p', {}, text),
      error?.retryAt ? wait : '',
      error || status === 'interrupted' ? button('Retry', 'retry', this.on.retry, { className: 'small' }) : '',
    )
  }
}

function codeBlock(code, language) {
  const onto = button('Copy code', 'copy', () => copy(code.textContent, onto), { quiet: true, className: 'ghost' })
  const head = el('figcaption', {}, el('span', {}, language || 'code'), onto)
  return el('figure', { className: 'code' }, head, el('pre', { tabIndex: 0 }, code))
}
