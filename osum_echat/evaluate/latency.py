"""Latency of spoken answers: median and 95th percentile of the time to the first sound and of its spans, and the real-time factor.

The percentiles of the spans are each span's own, so they do not add up exactly to those of the whole. The real-time factor is all seconds
of work over all seconds of sound.
"""

from collections.abc import Sequence

import numpy as np

from osum_echat.evaluate.results import Score
from osum_echat.generate.reply import SPANS, Spans

PERCENTILES = (50, 95)
PREFIX = "latency"


def latency_scores(answers: Sequence[Spans]) -> dict[str, Score]:
    """Entries of results.json: latency.first_audio_ms.p50 …, latency.encode_ms.p50 …, rtf."""
    scores: dict[str, Score] = {}
    for name in ("first_audio", *SPANS):
        milliseconds = [1000 * getattr(spans, name) for spans in answers]
        for percent in PERCENTILES:
            scores[f"{PREFIX}.{name}_ms.p{percent}"] = Score(float(np.percentile(milliseconds, percent)), len(answers))
    scores["rtf"] = Score(sum(spans.total for spans in answers) / sum(spans.spoken for spans in answers), len(answers))
    return scores
