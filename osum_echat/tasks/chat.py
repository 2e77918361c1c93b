"""Layout of conversation. So far text to text only, which keeps a language model able to talk: SYS(t2t) question A [text eos].

Leaves out for now: history, audio input, spoken answers, think blocks.
"""

from osum_echat.errors import DataError
from osum_echat.tasks.sequence import SequenceBuilder
from osum_echat.tasks.understand import checked, where
from osum_echat.utterance import Utterance


def prompt(utt: Utterance, builder: SequenceBuilder, *, family: str) -> None:
    """System prompt, the user's text from the field `question`, assistant header."""
    if utt.history:
        raise DataError(f"{where(utt)}: 'history' is not supported yet; give single turns", "history_not_supported")
    question = checked(utt, (utt.question or "").strip())
    if not question:
        raise DataError(f"{where(utt)}: no 'question' for a text conversation", "missing_question")
    template = builder.prompts.template
    builder.text(template.begin)
    builder.text(builder.prompts.system_prompt(family))
    builder.text(template.user)
    builder.text(question)
    builder.text(template.assistant)


def answer(utt: Utterance, builder: SequenceBuilder) -> None:
    """The reply from the field `txt`, kept as it is but for outer spaces."""
    reply = checked(utt, (utt.txt or "").strip())
    if not reply:
        raise DataError(f"{where(utt)}: no reply ('txt') for a text conversation", "missing_text")
    builder.text(reply, learn=True)
    builder.eos(learn=True)
