"""Pitch of a recording, one value per hop: the target of the vocoder's pitch predictor, and what F0 scores compare.

The autocorrelation method of P. Boersma, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a
sampled sound" (1993), which is Praat's default: the autocorrelation of a Hann-windowed frame divided by that of the window, its peaks as
candidates beside an unvoiced one, and the best path through the frames. Written here because no library serves: pyworld comes as sources
only and needs a compiler on the user's machine, torchaudio's detector has no voicing decision, the neural ones bring weights.

Shape legend: S samples, F frames, W samples of a window, L lags, C candidates (the first is unvoiced).

Left out: harmonics-to-noise ratio, streaming.
"""

import numpy as np

from osum_echat.errors import DataError

LOW_HZ = 60.0
HIGH_HZ = 600.0

_PERIODS = 3.0  # of the lowest pitch in a window
_SILENCE = 0.03  # share of the loudest sample of the recording below which a frame leans to unvoiced
_VOICING = 0.45  # autocorrelation at which voiced and unvoiced are equally likely
_OCTAVE_COST = 0.01  # favours the higher of two candidates an octave apart that are equally strong
_JUMP_COST = 0.35  # of one octave between neighbouring frames of 10 ms
_CHANGE_COST = 0.14  # of turning voiced or unvoiced between such frames
_NUM_VOICED = 8
_FRAMES_AT_ONCE = 512  # a bound on memory: an hour of audio has 180,000 frames


def track_pitch(
    samples_S: np.ndarray, sample_rate: int, hop: int, low_hz: float = LOW_HZ, high_hz: float = HIGH_HZ, peak: float | None = None
) -> np.ndarray:
    """Pitch in Hz, float32 of S // hop frames, 0 where unvoiced; frame f is centred on the samples [f * hop, (f + 1) * hop) as the mel is.

    ``peak`` is the loudest sample of the recording that the samples were cut from: what is far below it is silence.

    Raises DataError too_short below one hop and nan_audio.
    """
    if samples_S.ndim != 1 or len(samples_S) < hop:
        raise DataError(f"pitch needs a mono waveform of at least {hop} samples, got shape {samples_S.shape}", "too_short")
    bad = int((~np.isfinite(samples_S)).sum())
    if bad:
        raise DataError(f"pitch: {bad} of {len(samples_S)} samples are NaN or infinite", "nan_audio")
    samples_S = samples_S.astype(np.float64)
    samples_S -= samples_S.mean()
    peak = float(np.abs(samples_S).max()) if peak is None else peak
    num_frames = len(samples_S) // hop
    if peak == 0.0:
        return np.zeros(num_frames, dtype=np.float32)
    starts = range(0, num_frames, _FRAMES_AT_ONCE)
    pieces = [_candidates(samples_S / peak, f, min(f + _FRAMES_AT_ONCE, num_frames), sample_rate, hop, (low_hz, high_hz)) for f in starts]
    hz_FC, strength_FC = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    return _best_path(hz_FC, strength_FC, cost_scale=0.01 * sample_rate / hop).astype(np.float32)


def _candidates(
    samples_S: np.ndarray, first: int, end: int, sample_rate: int, hop: int, band_hz: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Pitch (0 for the unvoiced one) and strength of the candidates of some frames, each (F, C)."""
    frames_FW = _frames(samples_S, first, end, hop, width=round(_PERIODS * sample_rate / band_hz[0]))
    peak_F = np.abs(frames_FW).max(axis=1)
    lags = np.arange(int(sample_rate / band_hz[1]), int(np.ceil(sample_rate / band_hz[0])) + 1)
    r_FL = _autocorrelation(frames_FW, lags)
    before, here, after = r_FL[:, :-2], r_FL[:, 1:-1], r_FL[:, 2:]
    is_peak = (here > before) & (here >= after) & (here > 0.5 * _VOICING)
    bend = np.where(is_peak, before - 2.0 * here + after, -1.0)
    shift = 0.5 * (before - after) / bend  # top of the parabola through three lags
    height = here - 0.25 * (before - after) * shift
    height = np.where(height > 1.0, 1.0 / np.maximum(height, 1.0), height)  # above 1 it is noise divided by a small window
    seconds = (lags[1:-1] + shift) / sample_rate
    strength = np.where(is_peak, height - _OCTAVE_COST * np.log2(band_hz[0] * np.where(is_peak, seconds, 1.0)), -np.inf)
    best = np.argsort(-strength, axis=1)[:, :_NUM_VOICED]
    strength_FC, seconds_FC = np.take_along_axis(strength, best, 1), np.take_along_axis(seconds, best, 1)
    unvoiced_F = _VOICING + np.maximum(0.0, 2.0 - peak_F / (_SILENCE / (1.0 + _VOICING)))
    hz_FC = np.where(np.isfinite(strength_FC), 1.0 / np.maximum(seconds_FC, 1e-9), 0.0)
    return np.insert(hz_FC, 0, 0.0, axis=1), np.insert(strength_FC, 0, unvoiced_F, axis=1)


def _frames(samples_S: np.ndarray, first: int, end: int, hop: int, width: int) -> np.ndarray:
    """Windows centred on their hops, silence beyond the ends."""
    centres = (np.arange(first, end) * 2 + 1) * hop // 2
    padded = np.pad(samples_S, width)
    index_FW = centres[:, None] - width // 2 + width + np.arange(width)
    return padded[index_FW]


def _autocorrelation(frames_FW: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Of the windowed frames, divided by that of the window: an undamped estimate for the signal itself, (F, L)."""
    width = frames_FW.shape[1]
    window_W = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(width) + 0.5) / width)
    size = 1 << int(np.ceil(np.log2(width + lags[-1] + 1)))
    both = np.concatenate([(frames_FW - frames_FW.mean(axis=1, keepdims=True)) * window_W, window_W[None]])
    spectrum = np.fft.rfft(both, size)
    r = np.fft.irfft(spectrum.real**2 + spectrum.imag**2, size)
    r = r[:, lags] / np.maximum(r[:, :1], 1e-30)
    return r[:-1] / r[-1]


def _best_path(hz_FC: np.ndarray, strength_FC: np.ndarray, cost_scale: float) -> np.ndarray:
    """Viterbi: the candidates of largest total strength minus the cost of jumps and of changes between voiced and unvoiced."""
    voiced_FC = hz_FC > 0
    log2_FC = np.log2(np.where(voiced_FC, hz_FC, 1.0))
    score_C = strength_FC[0]
    back_FC = np.zeros(hz_FC.shape, dtype=np.int64)
    for frame in range(1, len(hz_FC)):
        jump = _JUMP_COST * np.abs(log2_FC[frame - 1][:, None] - log2_FC[frame][None])
        changed = voiced_FC[frame - 1][:, None] != voiced_FC[frame][None]
        total = score_C[:, None] - cost_scale * np.where(changed, _CHANGE_COST, jump)
        back_FC[frame] = total.argmax(axis=0)
        score_C = total.max(axis=0) + strength_FC[frame]
    path = np.empty(len(hz_FC), dtype=np.int64)
    path[-1] = score_C.argmax()
    for frame in range(len(hz_FC) - 1, 0, -1):
        path[frame - 1] = back_FC[frame, path[frame]]
    return hz_FC[np.arange(len(hz_FC)), path]
