"""Layout of the think block in front of a reply: `<think>` what the user said, age, gender, event, emotion `<think end>`, or a paragraph.

Structured sparse learning (arXiv:2508.09600, appendix B.1): a row of the tag form always holds all of it. What nobody knows is written as
the placeholder `<UNK>`, and nothing is learned there. Every part is tokenized on its own, so exactly the characters of a placeholder are
left out with any tokenizer, and the ids of the other parts do not depend on what is known. Leaves out: reading one (text/think.py).
"""

from osum_echat.errors import DataError
from osum_echat.tasks.sequence import SequenceBuilder
from osum_echat.tasks.understand import checked, label_of, where
from osum_echat.text import tags, think
from osum_echat.utterance import Utterance


def write_think(utt: Utterance, builder: SequenceBuilder, learn: bool = True) -> None:
    """Append the block of the builder's form, from `question` and the labels or from `think`.

    Raises DataError for a label nobody knows of, for two that contradict one another, and for a missing paragraph.
    """
    builder.text(think.BEGIN, learn)
    if builder.think.form == "tags":
        _write_tags(utt, builder, learn)
    else:
        _write_paragraph(utt, builder, learn)
    builder.text(think.END, learn)


def _write_tags(utt: Utterance, builder: SequenceBuilder, learn: bool) -> None:
    words, in_words = tags.parse_labels(checked(utt, utt.question or ""), think.LABELS)
    stray = tags.stray_tag(words)
    if stray:
        raise DataError(f"{where(utt)}: the question holds {stray}, which is no known label", "unknown_label")
    known = {kind: _label(utt, kind, in_words) for kind in think.LABELS}
    missing = [kind for kind in think.LABELS if known[kind] is None]
    if missing and learn and not builder.think.sparse:
        raise DataError(f"{where(utt)}: {', '.join(missing)} unknown, and think.sparse is off", "not_fully_labelled")
    _part(builder, think.escape(words) or None, learn, "words")
    for kind in think.LABELS:
        value = known[kind]
        _part(builder, None if value is None else tags.tag_text(kind, value), learn, kind)


def _part(builder: SequenceBuilder, text: str | None, learn: bool, name: str) -> None:
    """One field of the block; None is written as the placeholder and never learned."""
    builder.text(tags.UNKNOWN_TAG if text is None else text, learn and text is not None)
    if learn:
        builder.note(name, text is not None)


def _label(utt: Utterance, kind: str, in_words: dict[str, str]) -> str | None:
    """The canonical label from field or text; None when nobody knows."""
    is_told = not tags.is_missing(kind, getattr(utt, kind)) or (kind == "age" and utt.age_years is not None)
    if not is_told and kind not in in_words:
        return None
    label = label_of(utt, kind, in_words)
    if in_words.get(kind, label) != label:
        raise DataError(f"{where(utt)}: the field {kind!r} says {label!r}, the text {in_words[kind]!r}", "contradictory_labels")
    return label


def _write_paragraph(utt: Utterance, builder: SequenceBuilder, learn: bool) -> None:
    if utt.think is None:
        raise DataError(f"{where(utt)}: no 'think', the paragraph that think.form: language writes", "missing_think")
    builder.text(think.escape(checked(utt, utt.think)), learn)
