"""Layout of the understanding tasks: SYS(understand) instruction ⟨audio⟩ A [text eos].

The text is a transcript, labels as tags, both, words with times, or a transcript and a reply; which of them is fixed per row of TASKS.
A row of a list may carry its labels as fields or as tags inside its text (OSUM's lists): a field wins, a missing one is read from the text.
"""

from osum_echat.errors import DataError
from osum_echat.tasks.sequence import SequenceBuilder
from osum_echat.text import tags
from osum_echat.text.tokenizer import SPECIAL
from osum_echat.utterance import Utterance


def prompt(utt: Utterance, builder: SequenceBuilder, *, family: str, instruction: str) -> None:
    """System prompt, instruction, audio, assistant header."""
    prompts = builder.prompts
    builder.text(prompts.template.begin)
    builder.text(prompts.system_prompt(family))
    builder.text(prompts.template.user)
    builder.text(prompts.instruction(instruction, builder.rng))
    if utt.waveform_S is None:
        raise DataError(f"{where(utt)}: the task {instruction!r} needs audio, but the utterance has none", "missing_audio")
    builder.audio(utt.waveform_S)
    builder.text(prompts.template.assistant)


def answer(utt: Utterance, builder: SequenceBuilder, *, transcript: bool, labels: tuple[str, ...]) -> None:
    """Transcript (if asked for), then the tags of `labels`."""
    text, parsed = split_text(utt, labels)
    note_transcript(text, builder)
    found = {kind: label_of(utt, kind, parsed) for kind in labels}
    if transcript and text is None:
        raise DataError(f"{where(utt)}: no transcript ('txt') for a task that writes one", "missing_text")
    if transcript and not text and not labels:
        raise DataError(f"{where(utt)}: the transcript is empty", "empty_text")
    builder.text((text or "" if transcript else "") + tags.render_labels(found), learn=True)
    builder.eos(learn=True)


def answer_align(utt: Utterance, builder: SequenceBuilder) -> None:
    """Every word between its begin and end time; from the field `words`, or from a text that is already written so."""
    words = utt.words or tuple(tags.parse_words(checked(utt, utt.txt or "")))
    if not words:
        raise DataError(f"{where(utt)}: the task 'align' needs 'words': [[word, start_s, end_s], ...]", "missing_words")
    text = checked(utt, tags.render_words(words))
    note_transcript(tags.join_words(word for word, _, _ in words), builder)
    builder.text(text, learn=True)
    builder.eos(learn=True)


def answer_sttc(utt: Utterance, builder: SequenceBuilder) -> None:
    """Transcript, ANSWER_MARK, reply; the reply stands in `txt` behind the mark, or else in `extra["answer"]`."""
    text, _ = split_text(utt, ())
    reply = tags.split_reply(utt.txt or "")[1] or utt.extra.get("answer")
    if not text:
        raise DataError(f"{where(utt)}: no transcript ('txt') for the task 'sttc'", "missing_text")
    if not isinstance(reply, str) or not reply.strip():
        expected = f"'txt' as transcript{tags.ANSWER_MARK}reply, or extra.answer"
        raise DataError(f"{where(utt)}: no reply for the task 'sttc'; expected {expected}", "missing_answer")
    note_transcript(text, builder)
    builder.text(text + tags.ANSWER_MARK + checked(utt, reply.strip()), learn=True)
    builder.eos(learn=True)


def split_text(utt: Utterance, kinds: tuple[str, ...]) -> tuple[str | None, dict[str, str]]:
    """The bare transcript (None when the utterance has no text) and the labels written inside the text."""
    if utt.txt is None:
        return None, {}
    text, _ = tags.split_reply(checked(utt, utt.txt))
    transcript, labels = tags.parse_labels(text, kinds or tags.KINDS)
    words = tags.parse_words(transcript)
    if words:
        transcript = tags.join_words(word for word, _, _ in words)
    stray = tags.stray_tag(transcript)
    if stray:
        todo = "add an alias in text/tags.py or clean the text"
        raise DataError(f"{where(utt)}: the text holds {stray}, which is no known label; {todo}", "unknown_label")
    return transcript, labels


def label_of(utt: Utterance, kind: str, parsed: dict[str, str]) -> str:
    """The canonical label from the field, the age in years, or the text, in this order."""
    raw: str | None = getattr(utt, kind)
    try:
        if not tags.is_missing(kind, raw):
            return tags.canonical(kind, str(raw))
        if kind == "age" and utt.age_years is not None:
            return tags.age_from_years(utt.age_years)
    except DataError as error:
        raise DataError(f"{where(utt)}: {error}", error.reason) from error
    if kind in parsed:
        return parsed[kind]
    todo = f"fill the field {kind!r} or give the row another task"
    raise DataError(f"{where(utt)}: no {kind} label, which the task writes; {todo}", "missing_label")


def note_transcript(text: str | None, builder: SequenceBuilder) -> None:
    """Whatever the task writes, known words help the CTC branch."""
    if text:
        builder.transcript(text)


def checked(utt: Utterance, text: str) -> str:
    """`text`, unless it holds the chat template's control strings (they would become control ids) or broken Unicode."""
    control = [special for special in SPECIAL if special in text]
    if control:
        raise DataError(f"{where(utt)}: the text holds the control string {control[0]!r}", "control_text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{where(utt)}: the text is not valid Unicode ({error})", "bad_text") from error
    return text


def where(utt: Utterance) -> str:
    """How an error names an utterance."""
    return f"{utt.origin}: {utt.key}" if utt.origin else utt.key
