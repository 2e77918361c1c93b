"""A spoken question from a file, checked before a model is asked: what holds nothing to be heard gets no answer. Shapes: S samples."""

import math

import numpy as np

from osum_echat.audio.features import SAMPLE_RATE
from osum_echat.audio.io import read_audio
from osum_echat.errors import DataError

QUIETEST_DB = -60.0  # loudest sample of a question, relative to full scale


def read_question(path: str, min_seconds: float) -> np.ndarray:
    """16 kHz samples of a question. Raises DataError for a file that cannot be read, is too short or silent."""
    samples_S = read_audio(path)
    seconds = len(samples_S) / SAMPLE_RATE
    if seconds < min_seconds:
        expected = f"a question needs at least {min_seconds:g} s (data.filter.min_seconds of the training)"
        raise DataError(f"{path}: {seconds:.3f} s of audio, {expected}; record it again", "too_short")
    loudest = float(np.abs(samples_S).max())
    if loudest < 10 ** (QUIETEST_DB / 20):
        level = f"its loudest sample is at {20 * math.log10(loudest):.0f} dB of full scale" if loudest else "all samples are zero"
        raise DataError(f"{path} is silent: {level}; check the microphone or give another recording", "silent_audio")
    return samples_S
