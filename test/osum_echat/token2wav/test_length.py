"""Token rate to mel rate."""

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F

from osum_echat.config_token2wav import FlowConfig
from osum_echat.errors import DataError
from osum_echat.token2wav.flow import FLOW_PRESETS
from osum_echat.token2wav.length import answer_segments, fit_mel, num_mel_frames, source_positions, stretch

PUBLISHED = FLOW_PRESETS["cosyvoice_300m_25hz"]


def test_rates():
    assert FlowConfig().frames_per_token == 2 and FlowConfig(token_rate_hz=12.5).frames_per_token == 4
    assert PUBLISHED.frames_per_token == Fraction(441, 128)
    assert [num_mel_frames(n, PUBLISHED) for n in (1, 18, 20, 128)] == [3, 62, 68, 441]
    wide = FlowConfig(causal=False, sample_rate=22050, hop=256, token_rate_hz=50.0)
    assert num_mel_frames(20, wide) == 34


@pytest.mark.parametrize(("tokens", "frames"), [(1, 3), (5, 17), (20, 68), (33, 40), (40, 40)])
def test_one_segment_is_torchs_linear_interpolation(tokens, frames):
    x = torch.randn(1, tokens, 6)
    want = F.interpolate(x.transpose(1, 2), size=frames, mode="linear").transpose(1, 2)
    torch.testing.assert_close(stretch(x, [[(tokens, frames)]]), want, rtol=1e-5, atol=1e-5)


def test_segments_and_rows_are_stretched_apart():
    x = torch.randn(2, 9, 4)
    got = stretch(x, [[(4, 11), (5, 8)], [(3, 10)]])
    pieces = [(0, slice(0, 4), 11), (0, slice(4, 9), 8), (1, slice(0, 3), 10)]
    want = [F.interpolate(x[row : row + 1, part].transpose(1, 2), size=n, mode="linear").transpose(1, 2)[0] for row, part, n in pieces]
    torch.testing.assert_close(got[0], torch.cat(want[:2]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got[1, :10], want[2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_tokens", [1, 2, 39, 40, 41, 42, 128, 500])
def test_answer_segments_add_up(num_tokens):
    segments = answer_segments(num_tokens, PUBLISHED)
    assert sum(t for t, _ in segments) == num_tokens and sum(f for _, f in segments) == num_mel_frames(num_tokens, PUBLISHED)
    if num_tokens > 40:
        assert segments[0] == segments[-1] == (20, 68) and segments[1][0] == num_tokens - 40
    else:
        assert len(segments) == 1
    assert source_positions(segments)[1].max() == num_tokens - 1


def test_fit_mel():
    cfg = FlowConfig()
    mel = torch.randn(20, 80)
    assert torch.equal(fit_mel(mel, 10, cfg), mel)
    assert torch.equal(fit_mel(mel, 9, cfg), mel[:18])
    longer = fit_mel(mel, 11, cfg)
    assert longer.shape == (22, 80) and torch.equal(longer[20], mel[19]) and torch.equal(longer[21], mel[19])
    for wrong in (7, 13):
        with pytest.raises(DataError, match=f"{wrong} speech tokens are {2 * wrong} mel frames, got 20"):
            fit_mel(mel, wrong, cfg)
    with pytest.raises(DataError, match="got 0"):
        fit_mel(mel[:0], 1, cfg)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sample_rate": 22050, "hop": 256}, "whole number of mel frames"),
        ({"token_rate_hz": 30.0}, "whole number"),
        ({"lookahead_tokens": 18}, "must exceed lookahead_tokens"),
        ({"token_rate_hz": 100.0, "causal": False}, "fewer mel frames than tokens"),
        ({"estimator": {"channels": [100]}}, "multiples of 8"),
        ({"encoder": {"width": 30, "num_heads": 4}}, "does not divide"),
    ],
)
def test_settings_that_cannot_work_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        FlowConfig(**values)
