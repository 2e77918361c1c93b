"""How far generated speech is from a recording of the same words: mel-cepstral distortion, pitch, duration.

Both are brought to 16 kHz and cut into frames every 10 ms. The cepstrum of a frame is the cosine transform of its log-mel spectrum (80
bands to 8 kHz, window 32 ms, natural logarithm of the magnitude, at most 60 dB below the loudest band of the recording),

    c_m = 2 / M * sum_j L_j cos(pi m (j + 1/2) / M),

so that L_j = c_0 / 2 + sum_m c_m cos(...), the convention of SPTK's mel-cepstra; these are not SPTK's, which come from an all-pole fit, so
values compare with others made here, not with published ones. Frames are paired by dynamic time warping (dtw.py) on c_1 ... c_13, and

    MCD = mean over the path of 10 / ln 10 * sqrt(2 * sum_{m=1}^{13} (c_m - c'_m)^2)   dB

(R. Kubichek, "Mel-cepstral distance measure for objective speech quality assessment", 1993). Along the same path, over pairs of frames
voiced in both: Pearson's correlation of log F0, and the root mean square of the difference in Hz. Pitch: audio/pitch.py.

Shapes: S samples, F frames, M mel bands, C cepstral coefficients, P path steps.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from osum_echat.audio.mel import MelSpectrogram, min_samples
from osum_echat.audio.pitch import track_pitch
from osum_echat.config_token2wav import MelConfig
from osum_echat.errors import DataError
from osum_echat.evaluate.dtw import warp

RATE = 16000
NUM_CEPSTRA = 13
RANGE_DB = 60.0
MIN_VOICED = 10  # pairs of frames (100 ms) below which a correlation means nothing
MIN_SPREAD = 0.005  # standard deviation of log F0 (9 cents) below which a voice is monotone and its movements are those of the tracker

_MEL = MelSpectrogram(MelConfig(sample_rate=RATE, num_mels=80, n_fft=512, hop=160, low_hz=0.0, high_hz=8000.0))
_DB = 10.0 / math.log(10.0)


@dataclass(frozen=True)
class Comparison:
    """One generated utterance against its recording. `f0_corr` is nan where it means nothing (MIN_VOICED, MIN_SPREAD)."""

    mcd_db: float
    f0_corr: float
    f0_square_error: float  # summed over the voiced pairs, Hz^2
    num_voiced: int
    seconds: float
    ref_seconds: float


def compare(reference_S: np.ndarray, generated_S: np.ndarray) -> Comparison:
    """Two 16 kHz recordings of the same words. Raises DataError too_short below a few milliseconds, and nan_audio."""
    ref_FC, got_FC = mel_cepstrum(reference_S), mel_cepstrum(generated_S)
    distance_FF = _distance(ref_FC, got_FC)
    path_P2 = warp(distance_FF)
    ref_P, got_P = path_P2[:, 0], path_P2[:, 1]
    ref_hz, got_hz = (track_pitch(samples_S, RATE, _MEL.cfg.hop) for samples_S in (reference_S, generated_S))
    voiced_P = (ref_hz[ref_P] > 0) & (got_hz[got_P] > 0)
    ref_hz, got_hz = ref_hz[ref_P[voiced_P]].astype(np.float64), got_hz[got_P[voiced_P]].astype(np.float64)
    return Comparison(
        mcd_db=float(_DB * math.sqrt(2.0) * distance_FF[ref_P, got_P].mean()),
        f0_corr=_correlation(np.log(ref_hz), np.log(got_hz)),
        f0_square_error=float(np.square(ref_hz - got_hz).sum()),
        num_voiced=int(voiced_P.sum()),
        seconds=len(generated_S) / RATE,
        ref_seconds=len(reference_S) / RATE,
    )


def mel_cepstrum(samples_S: np.ndarray) -> np.ndarray:
    """c_1 ... c_13 of every frame, (F, C)."""
    need = min_samples(_MEL.cfg)
    if len(samples_S) < need:
        raise DataError(f"{len(samples_S)} samples are too short to be compared, at least {need} are needed", "too_short")
    log_FM = _MEL.extract(torch.from_numpy(np.ascontiguousarray(samples_S, dtype=np.float32))).numpy().astype(np.float64)
    log_FM = np.maximum(log_FM, log_FM.max() - RANGE_DB / (2 * _DB))
    num_mels = log_FM.shape[1]
    angle_MC = np.pi / num_mels * np.outer(np.arange(num_mels) + 0.5, np.arange(1, NUM_CEPSTRA + 1))
    return 2.0 / num_mels * log_FM @ np.cos(angle_MC)


def _distance(left_FC: np.ndarray, right_FC: np.ndarray) -> np.ndarray:
    """Euclidean distance of every frame to every frame."""
    square = (left_FC**2).sum(1)[:, None] + (right_FC**2).sum(1)[None] - 2.0 * left_FC @ right_FC.T
    return np.sqrt(np.maximum(square, 0.0)).astype(np.float32)


def _correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Pearson's; nan where it says nothing."""
    if len(left) < MIN_VOICED or left.std() < MIN_SPREAD or right.std() < MIN_SPREAD:
        return math.nan
    return float(np.corrcoef(left, right)[0, 1])
