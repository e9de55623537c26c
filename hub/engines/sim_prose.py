"""What the simulated model has to say about anything: sentences with gaps, and how to fill them.

The texts take up the words of the prompt, so that a reader sees which answer belongs to which
question, and say that nobody thought about it. They have in them what text in the world has and
naive code breaks: accents, other scripts, emoji of many code points, lists and code.
"""

import random
import re
from collections.abc import Sequence

# A word begins with a letter; its length is bounded because not every script puts spaces.
_WORD = re.compile(r"[^\W\d_]\w{2,15}")

_COMMON_WORDS = """
    about after again also and any are because been before being between both but can could did
    does doing down during each explain few for from further give had has have having hello help
    her here him his how into its just know let like make many may me might more most much must
    need not now off only other our out over own per please same say she should show since some
    such tell than thank thanks that the their them then there these they this those through too
    under until upon use using very want was way were what when where which while who whom whose
    why will with would write yes you your
"""
_COMMON = frozenset(_COMMON_WORDS.split())

_DEFAULT_TOPICS = ("the question", "the answer", "a small example", "the next step")

_GAPS: dict[str, tuple[str, ...]] = {
    "rightly": ("rightly", "usually", "in practice", "more often than not", "without much debate"),
    "good": ("sound", "careful", "surprisingly simple", "well-tested", "modest", "clear"),
    "people": ("Zoë Müller", "Søren Ångström", "José Peña", "Łukasz Dvořák", "Nguyễn Thị Hà"),
    "place": ("São Paulo", "Zürich", "東京", "Κρήτη", "Reykjavík", "서울", "Малага", "مراكش"),
    "emoji": ("🙂", "👩‍💻", "👍🏽", "🇩🇪", "❤️‍🔥", "🏳️‍🌈", "1️⃣", "🧑🏿‍🔬", "☕️", "👨‍👩‍👧‍👦", "🚀"),
    "few": ("two", "three", "four", "half a dozen"),
    "see": ("notice", "find", "remember", "overlook", "agree on"),
    "change": ("changes", "grows", "fails", "is measured", "is written down", "slows down"),
}

_HONEST = (
    "I am hub's simulated engine, so take this about {topic} as a shape of an answer, not as one.",
    "A word of honesty: no model has thought about {topic} here; hub simulates one.",
    "(This text is simulated: hub made it up from your words, {topic} among them.)",
    "No GPU was warmed for this; it is the simulated engine of hub that talks about {topic}.",
    "Please do not quote me on {topic}: I am a simulation that runs inside hub {emoji}",
    "As a simulated model I know nothing of {topic}, yet I stream like one that does.",
)

_OPENINGS = (
    "Let us look at {topic} first.",
    "{Topic} is a good place to begin {emoji}",
    "The short answer: {topic} comes before {other}.",
    "There are {few} ways to think about {topic}, and {other} is part of each.",
    "Good question! {Topic} and {other} are {rightly} named together.",
    "Here is how I would go about {topic}.",
)

_SENTENCES = (
    "{Topic} is {rightly} treated as one question, although it is at least {few}.",
    "What most people {see} about {topic} is how it {change} with {other}.",
    "{People} once told an audience in {place} that {topic} was “only {other}, seen up close”.",
    "If {topic} {change}, {other} follows a moment later; the reverse is rare.",
    "A {good} approach starts with {other} and leaves {topic} for the end.",
    "In {place} they would say: first {topic}, then coffee {emoji}",
    "It helps to keep {topic} and {other} apart, because each {change} at its own pace.",
    "{Few} things matter here: {topic}, {other}, and the patience to look at both twice.",
    "Of course, {topic} is never the whole story — {other} has a part in it.",
    "The naïve view of {topic} is {good} enough until {other} {change}.",
    "日本語でも少し。これは「{topic}」についての文です。",
    "Das gilt auch für {topic}, größtenteils jedenfalls; à propos {other}, c'est déjà ça.",
    "Measured over a week, {topic} cost {few} times what {other} did.",
    "None of this makes {topic} hard; it makes {other} interesting {emoji}",
    "You will {see} that {other} {change} as soon as {topic} does.",
    "A {good} rule of thumb: whenever {topic} {change}, write it down.",
    "Whoever has seen {topic} in {place} will {rightly} ask about {other} next.",
    "That leaves {other}, which {people} called “the {good} half” of {topic}.",
    "Between us: {topic} is {rightly} the part that everybody wants to skip.",
    "Without {other} there would be no {topic}, and without {topic} no reason to ask.",
    "Some prefer {other}; they are {rightly} the ones who {see} it too late.",
    "Then there is the matter of {topic} in small steps, say {few} at a time.",
)

_CLOSINGS = (
    "So much for {topic} {emoji}",
    "Ask me about {other} next, if you like.",
    "In one line: {topic} first, {other} second.",
    "That is all that a simulated answer can say about {topic}.",
    "I hope this helps with {topic}!",
)

_BLOCKS = (
    "1. {Topic}: look at it as it is.\n2. {Other}: change one thing.\n3. Compare, and note it.",
    "- **{topic}** {change} first\n- **{other}** comes second\n- the rest is détail {emoji}",
    '```python\nfor step in ("{topic}", "{other}"):\n    print(step, "→ done")\n```',
    '```json\n{{"topic": "{topic}", "simulated": true, "mood": "{emoji}"}}\n```',
    "> {Topic} is what remains when {other} {change}.",
)

_THOUGHTS = (
    "The user writes about {topic}.",
    "{Other} seems to matter too.",
    "I should not promise anything about {topic}, being simulated.",
    "Perhaps {few} sentences are enough, perhaps an example with {other}.",
    "What would {people} ask? Probably how {topic} {change}.",
    "Let me check: {topic}, then {other}. Yes.",
    "If {other} {change}, the answer still holds.",
    "A {good} order: {topic} first.",
    "Nothing here needs a tool.",
    "I could mention {place}, but only if it helps.",
)


def topics(text: str) -> tuple[str, ...]:
    """The words of a text that are worth taking up, in its order."""
    # A few thousand characters say what it is about; a prompt may have millions.
    words = dict.fromkeys(_WORD.findall(text[:4000]))
    telling = tuple(word for word in words if word.lower() not in _COMMON)[:24]
    return telling or _DEFAULT_TOPICS


class _Gaps(dict[str, str]):
    """What a template is filled with: another choice at every look."""

    def __init__(self, rng: random.Random, about: Sequence[str]) -> None:
        super().__init__()
        self._rng = rng
        self._topic = about[0]
        self._about = about

    def __missing__(self, key: str) -> str:
        name = key.lower()
        if name == "topic":
            self._topic = word = self._rng.choice(self._about)
        elif name == "other":
            others = [word for word in self._about if word != self._topic]
            word = self._rng.choice(others or _DEFAULT_TOPICS)
        else:
            word = self._rng.choice(_GAPS[name])
        return word if key.islower() else word[:1].upper() + word[1:]


def answer(rng: random.Random, about: Sequence[str], opening: str, length: int) -> str:
    """Paragraphs of about ``length`` characters, after an opening if one is given."""
    gaps = _Gaps(rng, about)
    first = opening or rng.choice(_OPENINGS).format_map(gaps)
    last = rng.choice(_CLOSINGS).format_map(gaps) if rng.random() < 0.7 else ""
    block = rng.choice(_BLOCKS).format_map(gaps) if length > 240 and rng.random() < 0.4 else ""
    confession = rng.choice(_HONEST).format_map(gaps)
    left = length - sum(map(len, (first, last, block, confession)))
    sentences = _sentences(rng, gaps, left)
    # Where the confession stands varies; the opening stays first.
    sentences.insert(rng.randint(0, min(2, len(sentences))), confession)
    sentences.insert(0, first)
    paragraphs: list[str] = []
    while sentences:
        size = rng.randint(2, 4)
        paragraphs.append(" ".join(sentences[:size]))
        del sentences[:size]
    if block:
        paragraphs.insert(rng.randint(1, len(paragraphs)), block)
    if last:
        paragraphs.append(last)
    return "\n\n".join(paragraphs)


def sequel(rng: random.Random, about: Sequence[str], length: int) -> str:
    """Sentences of about ``length`` characters that may follow any text, but for the space."""
    gaps = _Gaps(rng, about)
    return " ".join([rng.choice(_HONEST).format_map(gaps), *_sentences(rng, gaps, length)])


def _sentences(rng: random.Random, gaps: _Gaps, length: int) -> list[str]:
    """Different sentences of so many characters together, or a few more."""
    sentences: list[str] = []
    for template in rng.sample(_SENTENCES, len(_SENTENCES)):
        if length > 0:
            sentences.append(template.format_map(gaps))
            length -= len(sentences[-1]) + 1
    return sentences


def thoughts(rng: random.Random, about: Sequence[str], count: int) -> str:
    """``count`` sentences of reasoning, at most as many as there are different ones."""
    gaps = _Gaps(rng, about)
    chosen = rng.sample(_THOUGHTS, min(count, len(_THOUGHTS)))
    return " ".join(template.format_map(gaps) for template in chosen)


def sentence(rng: random.Random, about: Sequence[str]) -> str:
    """One sentence, for where a string is wanted."""
    return rng.choice(_SENTENCES).format_map(_Gaps(rng, about))
