/**
 * Streamed text to DOM nodes: paragraphs, and fenced code as <pre><code>. Nothing else is markup,
 * and nothing is ever parsed as HTML.
 *
 * Every delta costs what it is long: it goes to the end of one text node. A paragraph is a block
 * of its own, so the browser lays out only the last one again.
 */

/** A line that may still turn out to be a fence: it is held back until it is whole or is not one. */
const MAYBE_FENCE = /^ *(`{0,2}|~{0,2}|`{3,}[^`]*|~{3,}.*)$/
const FENCE = /^ *(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/
/** No fence is longer; it bounds what is held back and looked at again with the next delta. */
const FENCE_LENGTH = 120

export class TextView {
  #root
  #decorate
  #held = '' // the start of a line that may be a fence
  #atLineStart = true
  #node = null // the text node that grows, null between two paragraphs
  #begun = false // the block has its first line: a newline goes before the next
  #fence = null // the open fence, null in prose

  /**
   * @param {Element} root gets the blocks
   * @param {(code: HTMLElement, language: string) => Element} decorate wraps a <pre>
   */
  constructor(root, decorate) {
    this.#root = root
    this.#decorate = decorate
  }

  write(text) {
    let rest = this.#held + text
    this.#held = ''
    while (rest) {
      const end = rest.indexOf('\n')
      const line = end < 0 ? rest : rest.slice(0, end)
      if (end < 0 && this.#atLineStart && line.length < FENCE_LENGTH && MAYBE_FENCE.test(line)) {
        this.#held = line
        return
      }
      this.#piece(line, end >= 0)
      rest = end < 0 ? '' : rest.slice(end + 1)
    }
  }

  /** Nothing more comes: whatever was held back is text, or the last fence. */
  end() {
    if (this.#held) this.#piece(this.#held, true)
    this.#held = ''
  }

  /** The rest of a line, or (whole = false) a part of it. */
  #piece(line, whole) {
    const start = this.#atLineStart
    this.#atLineStart = whole
    if (start && whole && this.#isFence(line)) return
    if (start && whole && !this.#fence && !line.trim()) {
      this.#node = null // an empty line ends a paragraph
      return
    }
    this.#append(line, start)
  }

  #isFence(line) {
    const [, marks, language] = FENCE.exec(line) ?? []
    if (!marks) return false
    if (this.#fence) {
      if (language || marks[0] !== this.#fence[0] || marks.length < this.#fence.length) return false
      this.#fence = null
      this.#node = null
    } else {
      this.#fence = marks
      const code = document.createElement('code')
      this.#grow(code)
      this.#root.append(this.#decorate(code, language))
    }
    return true
  }

  #append(text, start) {
    if (!this.#node) this.#root.append(this.#grow(document.createElement('p')))
    this.#node.appendData(start && this.#begun ? `\n${text}` : text)
    this.#begun = true
  }

  /** Text goes into this element from here on. */
  #grow(element) {
    this.#node = element.appendChild(document.createTextNode(''))
    this.#begun = false
    return element
  }
}
