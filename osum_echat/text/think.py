"""The think block of a reply: what the model notes between `<think>` and `<think end>` before it answers (arXiv:2508.09600, dual think).

In the tag form it notes the user's words and then what the voice tells, `<think>i am home<ADULT><FEMALE><NO_EVENT><SAD><think end>`; in the
language form a free paragraph. The end is looked for in decoded text, never in ids: a tokenizer may merge it with what stands beside it. A
paragraph may hold the end mark itself: `escape` puts a backslash into it, `unescape` takes it out again. Leaves out: which positions are
learned (tasks/think.py), when a block is closed by force (generate/schedule.py).
"""

import re
from dataclasses import dataclass

from osum_echat.text.tags import parse_labels
from osum_echat.text.tokenizer import IncrementalDetokenizer, Tokenizer

MARKS = BEGIN, END = "<think>", "<think end>"
LABELS = ("age", "gender", "event", "emotion")
"""What the tag form notes, in this order."""

_MARK = re.compile(r"<(\\*)think end>")
_ESCAPED = re.compile(r"<\\(\\*)think end>")


def escape(paragraph: str) -> str:
    """`paragraph` without an end mark: every `<think end>` in it, escaped or not, gets one backslash more."""
    return _MARK.sub(lambda mark: f"<\\{mark.group(1)}think end>", paragraph)


def unescape(written: str) -> str:
    """The paragraph that `escape` made this of."""
    return _ESCAPED.sub(lambda mark: f"<{mark.group(1)}think end>", written)


@dataclass(frozen=True)
class Thought:
    """An answer in its two parts. `think` is what stands in the block, None without one."""

    think: str | None
    reply: str


def split_think(text: str) -> Thought:
    """Block and reply of an answer as written. A block that never ends leaves no reply."""
    lead = text.lstrip()
    if not lead.startswith(BEGIN):
        return Thought(None, text)
    block, _, reply = lead[len(BEGIN) :].partition(END)
    return Thought(unescape(block), reply)


def words_said(answer: str) -> str:
    """The words of an answer as written: neither its block nor a tag, such as the emotion of the reply, is something that is said.

    A second block in the place of a reply is none: it would tell what was heard.
    """
    reply = split_think(answer).reply.strip()
    return "" if reply.startswith(BEGIN) else parse_labels(reply)[0]


class EndWatch:
    """Tells when a block ends, id by id."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._detokenizer = IncrementalDetokenizer(tokenizer)
        self._tail = ""

    def push(self, token: int) -> bool:
        """True when the end mark is complete with this id."""
        text = self._tail + self._detokenizer.push(token)
        self._tail = text[-(len(END) - 1) :]
        return END in text
