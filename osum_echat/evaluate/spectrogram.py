"""Pictures of speech for the report: log-mel spectrograms as PNG bytes, 100 columns a second, one row a band.

Shapes: S samples, F frames, M mel bands.
"""

import io

import numpy as np
import torch

from osum_echat.audio.mel import MelSpectrogram, min_samples
from osum_echat.config_token2wav import MelConfig

RATE = 24000
RANGE_DB = 80.0
FLOOR_DB = -100.0  # of the mel

_MEL = MelSpectrogram(MelConfig(sample_rate=RATE, num_mels=80, n_fft=1024, hop=240, low_hz=0.0, high_hz=None))


def spectrogram_png(samples_S: np.ndarray) -> bytes:
    """A picture of 24 kHz samples from 0 to 12 kHz, colours over the upper 80 dB; no bytes when they are too short for a frame."""
    from matplotlib.image import imsave

    if len(samples_S) < min_samples(_MEL.cfg):
        return b""
    db_FM = 20 / np.log(10) * _MEL.extract(torch.from_numpy(samples_S)).numpy()
    top = max(float(db_FM.max()), FLOOR_DB + RANGE_DB)  # silence stays dark
    picture = io.BytesIO()
    imsave(picture, db_FM.T, cmap="magma", vmin=top - RANGE_DB, vmax=top, origin="lower", format="png")
    return picture.getvalue()
