"""How a reply is written in text and speech, and the tasks that read a text aloud.

    text         [text eos]
    speech       [sb speech sb]
    text_speech  [text eos][sb speech sb]
    interleaved  [n text : m speech … rest of speech], the last text id being eos (tasks/interleave.py)

tts is SYS(tts) text A [speech], tts_interleaved SYS(tts_stream) text A [interleaved]; the text is the field `txt`, the speech the codes in
`speech_token`, which may be fewer or more than the text suggests. An `emotion` other than neutral is asked for by its tag before the text.
Leaves out: dialogue (chat.py), who speaks, other manners of speaking.
"""

from collections.abc import Callable
from collections.abc import Sequence as Many

from osum_echat.errors import DataError
from osum_echat.tasks.sequence import SequenceBuilder
from osum_echat.tasks.understand import checked, where
from osum_echat.text import tags
from osum_echat.utterance import Utterance

_PLAIN = "neutral"  # the emotion that needs no word

Reply = Callable[[SequenceBuilder, str, Many[int], bool], None]


def _text(builder: SequenceBuilder, text: str, codes: Many[int], learn: bool) -> None:
    builder.text(text, learn)
    builder.eos(learn)


def _speech(builder: SequenceBuilder, text: str, codes: Many[int], learn: bool) -> None:
    builder.speech(codes, learn)


def _text_speech(builder: SequenceBuilder, text: str, codes: Many[int], learn: bool) -> None:
    _text(builder, text, codes, learn)
    builder.speech(codes, learn)


def _interleaved(builder: SequenceBuilder, text: str, codes: Many[int], learn: bool) -> None:
    builder.interleaved(text, codes, learn)


REPLIES: dict[str, Reply] = {"text": _text, "speech": _speech, "text_speech": _text_speech, "interleaved": _interleaved}
"""By the schedule of a task (task.py)."""


def write_reply(
    utt: Utterance, builder: SequenceBuilder, schedule: str, text: str | None, codes: Many[int] | None, *, learn: bool, of: str
) -> None:
    """Append a reply of the given form; `of` says in errors whose it is. Raises DataError for missing or empty text and bad codes."""
    text = _present(utt, text, of)
    if schedule != "text" and not codes:
        todo = "run `osum-echat prepare speech-tokens` on the list or give the row a task that only writes"
        raise DataError(f"{where(utt)}: {of} has no 'speech_token', which the task says; {todo}", "missing_speech_token")
    try:
        REPLIES[schedule](builder, text, codes or (), learn)
    except DataError as error:
        raise DataError(f"{where(utt)}: {of}: {error}", error.reason) from error


def _present(utt: Utterance, text: str | None, of: str) -> str:
    """`text` without outer spaces, unless there is nothing to say."""
    if text is None:
        raise DataError(f"{where(utt)}: {of} has no text ('txt')", "missing_text")
    text = checked(utt, text.strip())
    if not text:
        raise DataError(f"{where(utt)}: the text ('txt') of {of} is empty", "empty_text")
    return text


def prompt(utt: Utterance, builder: SequenceBuilder, *, family: str) -> None:
    """System prompt, the emotion to say it in, the text to say, assistant header. Raises DataError for an emotion that nobody knows."""
    template, text = builder.prompts.template, _present(utt, utt.txt, "the utterance")
    builder.text(template.begin)
    builder.text(builder.prompts.system_prompt(family))
    builder.text(template.user)
    builder.text(_manner(utt))
    builder.text(text)
    builder.text(template.assistant)


def _manner(utt: Utterance) -> str:
    """The tag of the field `emotion`; nothing where there is none, or where it is neutral."""
    if utt.emotion is None or tags.is_missing("emotion", utt.emotion):
        return ""
    try:
        emotion = tags.canonical("emotion", utt.emotion)
    except DataError as error:
        raise DataError(f"{where(utt)}: {error}", error.reason) from error
    return "" if emotion == _PLAIN else tags.render_labels({"emotion": emotion})


def answer(utt: Utterance, builder: SequenceBuilder, *, schedule: str) -> None:
    """The reply from the fields `txt` and `speech_token`, in the form of the task."""
    write_reply(utt, builder, schedule, utt.txt, utt.speech_token, learn=True, of="the answer")
