"""Sizes of vocoders that the tests share."""

from osum_echat.config import MelConfig, VocoderConfig

PUBLISHED_MEL = MelConfig(sample_rate=22050, n_fft=1024, hop=256)
PUBLISHED = VocoderConfig(upsample_rates=[8, 8], upsample_kernels=[16, 16], source_kernels=[7, 11])
# Of the mini recipe: 24 kHz, about a million parameters.
MINI_MEL = MelConfig()
MINI = VocoderConfig(
    causal=True,
    channels=128,
    upsample_rates=[8, 5],
    upsample_kernels=[16, 9],
    resblock_kernels=[3, 7],
    resblock_dilations=[1, 3],
    source_kernels=[7, 7],
    istft_n_fft=48,
    istft_hop=12,
    f0_channels=128,
)
# As small as a test wants: both kinds of padding, odd and even rates.
TINY_MEL = MelConfig(num_mels=20, n_fft=240, hop=60, sample_rate=6000, high_hz=None)
TINY = VocoderConfig(
    channels=16,
    upsample_rates=[5, 3],
    upsample_kernels=[11, 7],
    resblock_kernels=[3, 5],
    resblock_dilations=[1, 3],
    source_kernels=[3, 5],
    istft_n_fft=16,
    istft_hop=4,
    num_harmonics=3,
    f0_channels=8,
)
TINY_CAUSAL = TINY.model_copy(update={"causal": True})
